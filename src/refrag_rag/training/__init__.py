"""Training any model: reconstruction, pre-training, questions, the expansion policy."""
