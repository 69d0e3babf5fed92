"""Rows from question records, laid out exactly as the engine lays out prompts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from random import Random

from refrag_rag.errors import InputError
from refrag_rag.policies import Policy
from refrag_rag.training.batches import Piece, Row, arrange
from refrag_rag.training.chunk_sizes import ChunkSizes
from refrag_rag.training.data.questions import keep_passages
from refrag_rag.training.data.records import QuestionRecord
from refrag_rag.training.layout import QuestionLayout, chosen_masks, draw_masks

ATTEMPTS = 50  # at a question that fits
TRIES = 3  # at another record's passage that is not there yet, for each that is missing


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the passages of an example are read: numbers, sizes and shares, one drawn an example.

    Attributes
    ----------
    sizes
        Of chunks.
    text_shares
        Shares of the chunks that stay text.
    choosing
        Who chooses these chunks: policies, or None for every chunk by chance.
    passages
        Numbers of passages; as many as the layout allows if there are none.
    distractors
        Whether passages of other records fill up that number.
    longest
        Most positions; passages without the answer are left out until the example fits.
    questions
        Numbers of questions; the further ones are about passages that are there too.
    """

    sizes: ChunkSizes
    text_shares: tuple[float, ...]
    choosing: tuple[Policy | None, ...] = (None,)
    passages: tuple[int, ...] = ()
    distractors: bool = False
    longest: int | None = None
    questions: tuple[int, ...] = (1,)


class Questions:
    """Questions on passages, some of which are vectors.

    Parameters
    ----------
    sets
        Records of each set.
    weights
        How often each set is drawn; by their numbers of records if there are none.

    Raises
    ------
    InputError
        If a set has no record, or there is not one weight a set.
    """

    def __init__(
        self,
        sets: Sequence[Sequence[QuestionRecord]],
        layout: QuestionLayout,
        reading: Reading,
        *,
        weights: Sequence[float] = (),
    ) -> None:
        if not sets or not all(sets):
            raise InputError("No question records; expected at least one. Look at the data.")
        if weights and (len(weights) != len(sets) or min(weights) < 0 or not sum(weights)):
            raise InputError(f"weights = {weights}; expected one for each of {len(sets)} sets.")
        self.sets, self.layout, self.reading = sets, layout, reading
        self.ends = list(accumulate(weights or map(len, sets)))
        self.about = _by_gold_passage(sets) if max(reading.questions) > 1 else {}

    def row(self, rng: Random, share: float) -> Row:
        """One example, of a record drawn with replacement.

        Raises
        ------
        InputError
            If many records in a row are longer than what is allowed.
        """
        for _ in range(ATTEMPTS):
            row = self._fitted(self._record(rng), rng, share)
            if row is not None:
                return row
        raise InputError(
            f"{ATTEMPTS} questions in a row take more than longest = {self.reading.longest} "
            "positions with the gold passages alone; expected shorter ones. Raise it."
        )

    def _record(self, rng: Random) -> QuestionRecord:
        chosen = rng.choices(self.sets, cum_weights=self.ends)[0] if self.sets[1:] else self.sets[0]
        return rng.choice(chosen)

    def _fitted(self, record: QuestionRecord, rng: Random, share: float) -> Row | None:
        reading = self.reading
        k = reading.sizes.draw(rng, share)
        text_share, policy = rng.choice(reading.text_shares), rng.choice(reading.choosing)
        record = self._with_passages(record, rng)
        while True:
            further = self._further(record, rng)
            pieces, question = self.layout.example(record, rng, k=k, further=further)
            row = arrange(pieces, _masks(pieces, question, rng, text_share, policy))
            row = replace(row, origin=record.id or "")
            count = len(record.passages)
            if reading.longest is None or row.tokens <= reading.longest:
                return row
            fewer = max(1, count * reading.longest // (row.tokens + 1))
            record = replace(record, passages=keep_passages(record.passages, fewer))
            if len(record.passages) == count:
                return None

    def _with_passages(self, record: QuestionRecord, rng: Random) -> QuestionRecord:
        """The record with as many passages as are drawn, those of other records among them."""
        reading = self.reading
        if not reading.passages:
            return record
        count = rng.choice(reading.passages)
        shuffled = tuple(rng.sample(record.passages, len(record.passages)))
        passages = list(keep_passages(shuffled, count))
        known = {passage.text for passage in passages}
        for _ in range(TRIES * (count - len(passages)) if reading.distractors else 0):
            other = rng.choice(self._record(rng).passages)
            if len(passages) < count and other.text not in known:
                known.add(other.text)
                passages.append(replace(other, gold=False))
        return replace(record, passages=tuple(passages))

    def _further(self, record: QuestionRecord, rng: Random) -> list[QuestionRecord]:
        """Other questions about the record's passages, as many as are drawn if there are."""
        count = rng.choice(self.reading.questions) - 1
        there = keep_passages(record.passages, self.layout.max_passages)
        known = {other.question: other for p in there for other in self.about.get(p.text, ())}
        known.pop(record.question, None)
        return rng.sample(list(known.values()), min(count, len(known)))


def _by_gold_passage(
    sets: Sequence[Sequence[QuestionRecord]],
) -> dict[str, list[QuestionRecord]]:
    """Records without earlier turns, by the texts of the passages that answer them."""
    found: dict[str, list[QuestionRecord]] = {}
    for record in chain.from_iterable(sets):
        for passage in record.passages if not record.history else ():
            if passage.gold:
                found.setdefault(passage.text, []).append(record)
    return found


def _masks(
    pieces: list[Piece], question: str, rng: Random, share: float, policy: Policy | None
) -> list[list[bool]]:
    if policy is None or share in (0.0, 1.0):
        return draw_masks(pieces, rng, share)
    return chosen_masks(pieces, question, policy, share)
