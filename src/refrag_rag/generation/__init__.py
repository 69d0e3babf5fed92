"""From a prompt that is laid out to an answer."""
