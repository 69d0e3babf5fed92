"""What the policies of `tiny` are worth: log-perplexity of answers, and answers, at each budget."""
