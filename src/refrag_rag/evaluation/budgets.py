"""Prompts that fill a number of decoder positions: with passages, with chosen text, with both."""

from collections.abc import Callable, Mapping, Sequence

from refrag_rag.engine import Refrag
from refrag_rag.engine.extract import extract
from refrag_rag.evaluation.prompts import plain_positions, prompt
from refrag_rag.evaluation.questions import Question
from refrag_rag.text.chat_template import Message
from refrag_rag.text.tokenization import readable


def best_passages(engine: Refrag, question: Question, positions: int) -> list[Message]:
    """As many passages as the positions hold, best first, the last one cut to fit; unmarked.

    They are printed in the order in which the full text has them.
    """
    kept: dict[int, str] = {}
    for place in question.ranking:
        text = question.passages[place]
        over = _positions_of(engine, question, {**kept, place: text}) - positions
        if over <= 0:
            kept[place] = text
            continue
        ends = _token_ends(engine, text)
        left = len(ends) - over
        while left > 0:
            cut = {**kept, place: text[: ends[left - 1]]}
            over = _positions_of(engine, question, cut) - positions
            if over <= 0:
                kept = cut
                break
            left -= over
        break
    return prompt(_only(question, kept), marked=False)


def shortened(engine: Refrag, question: Question, policy: str, positions: int) -> list[Message]:
    """All passages, shortened to the chunks that a policy chooses, as text; unmarked.

    As many chunks as the positions hold. Passages without a chosen chunk are left out.
    """

    def chosen(share: float) -> Question:
        extracts = extract(
            engine,
            question.passages,
            question.text,
            p=share,
            policy=policy,
            scores=question.scores,
        )
        texts = {place: found.text for place, found in enumerate(extracts) if found.kept}
        return _only(question, texts)

    total = engine.compress(prompt(question), policy="none").chunks
    best = _largest(total, lambda n: plain_positions(engine, chosen(n / total)) <= positions)
    return prompt(chosen(best / total) if best else _only(question, {}), marked=False)


def share_that_fits(
    engine: Refrag, messages: Sequence[Message], policy: str, positions: int
) -> float:
    """The largest share of chunks as text with which the prompt has at most so many positions.

    0 if it has more even without any text.
    """
    total = engine.compress(messages, policy="none").chunks
    best = _largest(
        total,
        lambda n: engine.compress(messages, policy=policy, p=n / total).positions <= positions,
    )
    return best / total if total else 0.0


def _largest(total: int, fits: Callable[[int], bool]) -> int:
    """The largest of 1 ... total that fits, if all below it do; 0 if none fits."""
    low, high = 0, total
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _only(question: Question, kept: Mapping[int, str]) -> Question:
    return Question(question.text, (), tuple(kept[place] for place in sorted(kept)))


def _positions_of(engine: Refrag, question: Question, kept: Mapping[int, str]) -> int:
    return plain_positions(engine, _only(question, kept))


def _token_ends(engine: Refrag, text: str) -> list[int]:
    """Where each token of a text ends, in characters."""
    read = engine.model.tokenizer(
        readable(text), add_special_tokens=False, return_offsets_mapping=True
    )
    return [end for _, end in read["offset_mapping"]]
