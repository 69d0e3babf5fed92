"""The main job on one screen: documents, index, chunk embeddings, questions, answers."""
