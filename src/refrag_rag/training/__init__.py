"""Training the embedded model: a base decoder, reconstruction, pre-training, questions."""
