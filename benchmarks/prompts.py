"""Prompts of an exact size: passages of so many tokens, and so many positions around them."""

from random import Random

from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.spans import wrap

PASSAGE = 256  # tokens
AROUND = 64  # positions outside spans


class Passages:
    """Passages of random words that the model's chunking tokenizer has whole."""

    def __init__(self, model: RefragModel, seed: int = 0) -> None:
        self._chunker, self._rng = model.chunker, Random(seed)
        pieces = sorted(model.tokenizer.get_vocab())
        words = {
            piece[1:].lower() for piece in pieces if piece[1:].isalpha() and piece[1:].isascii()
        }
        self._words = [word for word in sorted(words) if self._count(f"of {word}") == 2]
        if len(self._words) < 2:
            raise InputError("The tokenizer has no words of one token; expected some.")

    def passage(self, tokens: int = PASSAGE) -> str:
        """A text of exactly so many tokens."""
        words = self._rng.choices(self._words, k=tokens)
        while (excess := self._count(" ".join(words)) - tokens) != 0:
            if excess > 0:
                words = words[: len(words) - excess]
            else:
                words += self._rng.choices(self._words, k=-excess)
        return " ".join(words)

    def passages(self, context: int, passage: int = PASSAGE) -> list[str]:
        """Passages of `context` tokens together, the last one perhaps shorter."""
        sizes = [passage] * (context // passage)
        if rest := context % passage:
            sizes.append(rest)
        return [self.passage(size) for size in sizes]

    def _count(self, text: str) -> int:
        return len(self._chunker.chunk(text).token_ids)


def prompt_around(engine: Refrag, passages: list[str], positions: int = AROUND) -> str:
    """Spans with a question that takes, with whatever the tokenizer adds, so many positions.

    Raises
    ------
    InputError
        If no number of words gives that many.
    """
    spans = "".join(wrap(passage) for passage in passages)
    bare = wrap(passages[0])
    chunks = len(engine.model.chunker.chunk(passages[0]))

    def outside(words: int) -> int:
        return engine.compress(bare + _question(words), policy="none").positions - chunks

    words = positions
    for _ in range(positions):
        excess = outside(words) - positions
        if not excess:
            return spans + _question(words)
        words = max(1, words - excess)
    raise InputError(f"No question takes {positions} positions with this tokenizer.")


def _question(words: int) -> str:
    return "\n" + " ".join(["the"] * words)
