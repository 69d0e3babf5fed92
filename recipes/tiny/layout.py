"""Pieces of the invented world to rows: passages cut every k tokens, some chunks left as text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from refrag_rag.text.chunking import ChunkedPassage
from refrag_rag.training.batches import Piece, Row, arrange

Mark = tuple[str, str, int]  # an entity's name, a value of it, a character of that value


@dataclass(frozen=True)
class MarkedPiece(Piece):
    """A piece that knows where values stand in it.

    Attributes
    ----------
    passage
        Whether it is cut into chunks when it is laid out.
    holds
        Of a passage: which of its tokens holds a character of a value.
    says
        Of an answer: the character with which each of its first tokens begins.
    """

    passage: bool = False
    holds: Mapping[Mark, int] = field(default_factory=dict)
    says: Sequence[Mark] = ()


def lay_out(
    examples: Sequence[Sequence[MarkedPiece]], rng: Random, *, k: int, text_share: float = 1.0
) -> list[Row]:
    """Decide for every chunk; it stays text with probability `text_share`.

    One batch in four decides for whole passages instead of chunks, since policies often expand
    most of one passage.
    """
    whole = rng.random() < 0.25
    rows = []
    for example in examples:
        pieces = [replace(p, chunked=cut(p.ids, k)) if p.passage else p for p in example]
        masks = []
        for piece in pieces:
            if piece.chunked is not None and text_share < 1:
                passage_as_text = rng.random() < text_share
                count = len(piece.chunked)
                masks.append(
                    [passage_as_text if whole else rng.random() < text_share for _ in range(count)]
                )
        rows.append(arrange(pieces, masks if text_share < 1 else None))
    return rows


def cut(ids: Sequence[int], k: int) -> ChunkedPassage:
    """Token ids cut every k; the last chunk may be shorter."""
    lengths = (len(ids[start : start + k]) for start in range(0, len(ids), k))
    return ChunkedPassage("", tuple(ids), tuple(lengths), ())


def links(row: Row) -> list[tuple[int, int]]:
    """Pairs of positions: where a token of a value is to come next, and where it can be read.

    A row without any loss has none.
    """
    found: list[tuple[int, int]] = []
    held: dict[Mark, int] = {}
    start, chosen = 0, iter(row.chosen)
    for piece in row.pieces if row.weight else ():
        if not isinstance(piece, MarkedPiece):
            raise TypeError(f"{piece!r} does not know where values stand; expected a MarkedPiece.")
        found += [
            (start + place - 1, held[mark]) for place, mark in enumerate(piece.says) if mark in held
        ]
        places = list(_places(piece, start, chosen if row.passages else None))
        held.update({mark: places[token] for mark, token in piece.holds.items()})
        start = places[-1] + 1
    return found


def _places(piece: Piece, start: int, chosen: Iterator[bool] | None) -> Iterator[int]:
    """The position of each token of a piece; all of a chunk's are at its vector."""
    if piece.chunked is None or chosen is None:
        yield from range(start, start + len(piece.ids))
        return
    for chunk in piece.chunked.chunk_ids():
        if next(chosen):
            yield from [start] * len(chunk)
            start += 1
        else:
            yield from range(start, start + len(chunk))
            start += len(chunk)
