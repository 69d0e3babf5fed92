"""Windows: what the encoder reads at once, and which of its states make up a chunk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from refrag_rag.config import RefragConfig
from refrag_rag.errors import InputError
from refrag_rag.text.chunking import ChunkedPassage
from refrag_rag.text.tokenization import PlainTokenizer

Share = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Window:
    """What the encoder reads at once.

    Attributes
    ----------
    ids
        W token ids in the encoder's vocabulary.
    shares
        For every chunk, the places in `ids` that belong to it, with their weights.
    """

    ids: tuple[int, ...]
    shares: tuple[Share, ...]


def id_windows(
    passage: ChunkedPassage, config: RefragConfig, *, limit: int, marker: int
) -> Iterator[Window]:
    """Windows of chunk ids that the encoder reads as they are.

    Parameters
    ----------
    limit
        Most tokens that the encoder reads.
    marker
        The token whose states are read with ``eos`` pooling: one for each chunk, at the end of the
        window.
    """
    done = 0
    for first, last in groups(passage.chunk_lengths, room(config, limit)):
        lengths = passage.chunk_lengths[first:last]
        stop = done + sum(lengths)
        start = max(0, done - config.overlap)
        right = stop if config.mask == "causal" else stop + config.overlap
        ids = passage.token_ids[start:right]
        if config.pooling == "eos":
            shares = [((len(ids) + i, 1.0),) for i in range(len(lengths))]
            yield Window((*ids, *[marker] * len(lengths)), tuple(shares))
        else:
            yield Window(tuple(ids), tuple(_shares(lengths, done - start)))
        done = stop


def room(config: RefragConfig, limit: int) -> int:
    """Tokens of chunks in a window of an encoder that reads `limit` tokens."""
    context = config.overlap * (1 if config.mask == "causal" else 2)
    markers = -(-config.window // config.k) if config.pooling == "eos" else 0
    return min(config.window, limit - context - markers)


def text_windows(
    passage: ChunkedPassage, config: RefragConfig, tokenizer: PlainTokenizer, *, limit: int
) -> Iterator[Window]:
    """Windows of text that the encoder reads with its own tokenizer, pooled by characters.

    Raises
    ------
    InputError
        If one chunk alone is longer than the encoder's limit.
    """
    texts = passage.chunk_texts()
    for first, last in groups(passage.chunk_lengths, config.window):
        yield from _fitting(texts[first:last], tokenizer, limit)


def groups(lengths: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Ranges of chunks that hold at most `size` tokens together."""
    first, total = 0, 0
    for place, length in enumerate(lengths):
        if total and total + length > size:
            yield first, place
            first, total = place, 0
        total += length
    if total:
        yield first, len(lengths)


def _shares(lengths: Sequence[int], start: int) -> Iterator[Share]:
    for length in lengths:
        yield tuple((start + i, 1 / length) for i in range(length))
        start += length


def _fitting(texts: Sequence[str], tokenizer: PlainTokenizer, limit: int) -> Iterator[Window]:
    ids, offsets = tokenizer.encode("".join(texts))
    if len(ids) <= limit:
        yield Window(tuple(ids), tuple(_overlaps(texts, offsets)))
    elif len(texts) > 1:
        middle = len(texts) // 2
        yield from _fitting(texts[:middle], tokenizer, limit)
        yield from _fitting(texts[middle:], tokenizer, limit)
    else:
        raise InputError(
            f"One chunk takes {len(ids)} encoder tokens; the encoder reads {limit}. "
            "Use a smaller k or another encoder."
        )


def _overlaps(texts: Sequence[str], offsets: Sequence[tuple[int, int]]) -> Iterator[Share]:
    """For every chunk, the encoder tokens whose characters it shares, weights adding up to 1."""
    start = 0
    for text in texts:
        end = start + len(text)
        shared = [(i, min(b, end) - max(a, start)) for i, (a, b) in enumerate(offsets)]
        total = sum(count for _, count in shared if count > 0)
        yield tuple((i, count / total) for i, count in shared if count > 0)
        start = end
