"""Passages that the tests of both frameworks index and ask, and an embedding without a model."""

import re
import zlib

WIDTH = 64  # of the embedding
TEXTS = {
    "Titanic": "The captain of the Titanic was Edward Smith. The Titanic was lost in 1912. "
    "The builder of the Titanic was Harland and Wolff. The Titanic is known for its stairs.",
    "Nintendo": "The head office of Nintendo is in Kyoto. Nintendo was founded in 1889. "
    "Nintendo makes games. The founder of Nintendo was Fusajiro Yamauchi.",
    "Danube": "The Danube flows into the Black Sea. The Danube is 2,850 km long. "
    "The largest town on the Danube is Vienna. The Danube begins in Germany.",
}
QUESTION = "Who was the captain of the Titanic?"
OTHER = "Where is the head office of Nintendo?"


def hashed_words(text):
    """Bag of words, hashed: the same in every process."""
    vector = [0.01] * WIDTH
    for word in re.findall(r"\w+", text.lower()):
        vector[zlib.crc32(word.encode()) % WIDTH] += 1.0
    return vector
