"""Training data from users' own files: texts as token files, questions as checked records."""
