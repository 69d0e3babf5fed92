"""Rows from question records, laid out exactly as the engine lays out prompts."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.prompt.assemble import parse
from refrag_rag.spans import neutralise, wrap
from refrag_rag.text.chat_template import Prompt
from refrag_rag.text.tokenization import PromptTokenizer
from refrag_rag.training.batches import Piece, Row, arrange, gold
from refrag_rag.training.data.questions import keep_passages
from refrag_rag.training.data.records import Passage, QuestionRecord
from refrag_rag.training.document_sources import Frame, draw_masks
from refrag_rag.training.prompts import SEPARATOR, STYLES, Style


class QuestionLayout:
    """Question records to pieces, through the chat template if the decoder has one.

    A prompt has at most `max_passages`; gold ones are kept.
    """

    def __init__(self, model: RefragModel, *, max_passages: int) -> None:
        self._tokenizer, self._frame = model.tokenizer, Frame(model)
        self._slots = PromptTokenizer(model.tokenizer)
        self._encode = model.chunker.chunk
        self.max_passages = max_passages

    def example(self, record: QuestionRecord, rng: Random) -> tuple[list[Piece], str]:
        """One example in one of the wordings of real chains, and its question.

        The question is what the engine takes for it: the last message's text outside spans.
        """
        kept = keep_passages(record.passages, self.max_passages)
        shuffled = rng.sample(kept, len(kept))
        return self.lay_out(self.prompt(shuffled, record, rng.choice(STYLES)), record.answers[0])

    def lay_out(self, prompt: Prompt, answer: str) -> tuple[list[Piece], str]:
        """Any prompt with spans, followed by its answer; and its question."""
        parsed = parse(prompt, self._tokenizer, self._slots)
        pieces = []
        for part in parsed.parts:
            if isinstance(part, int):
                span = parsed.spans[part]
                pieces.append(replace(self._frame.text_passage(span.text), retrieval=span.score))
            elif part:
                pieces.append(Piece(part))
        said = gold(self._encode(answer).token_ids)
        return [*pieces, said, self._frame.end], parsed.question

    def prompt(self, passages: Sequence[Passage], record: QuestionRecord, style: Style) -> Prompt:
        """Messages (one text without a chat template) that ask a record's question."""
        context = SEPARATOR.join(wrap(one.titled(), score=one.score) for one in passages)
        asked = style.between + neutralise(record.question) + style.after
        earlier = [{"role": t.role, "content": neutralise(t.text)} for t in record.history]
        if not self._tokenizer.chat_template:
            said = "".join(f"{turn['content']}{SEPARATOR}" for turn in earlier)
            return f"{style.system}{said}{style.before}{context}{asked}"
        inside = style.context_in_system
        system = style.system + context if inside else style.system
        user = asked if inside else style.before + context + asked
        first = [{"role": "system", "content": system}] if system else []
        return [*first, *earlier, {"role": "user", "content": user}]


class Questions:
    """Questions on passages; of each example a random share of the chunks is text.

    That share is drawn for each example, from `text_shares`.
    """

    def __init__(
        self,
        records: Sequence[QuestionRecord],
        layout: QuestionLayout,
        *,
        batch_size: int,
        text_shares: tuple[float, ...],
    ) -> None:
        if not records:
            raise InputError("No question records; expected at least one. Look at the data.")
        self.records, self.layout = records, layout
        self.batch_size, self.text_shares = batch_size, text_shares
        self.loss = self.accuracy = 0.0

    def draw(self, rng: Random, share: float) -> list[Row]:  # noqa: ARG002
        """Records drawn with replacement."""
        return [self._row(rng) for _ in range(self.batch_size)]

    def follow(self, rng: Random, share: float) -> None:
        """A draw leaves nothing behind."""

    def _row(self, rng: Random) -> Row:
        record = rng.choice(self.records)
        pieces, _ = self.layout.example(record, rng)
        masks = draw_masks(pieces, rng, rng.choice(self.text_shares))
        return arrange(pieces, masks, origin=record.id or "")

    def record(self, loss: float, accuracy: float) -> None:
        """Keep running figures."""
        self.loss = 0.95 * self.loss + 0.05 * loss if self.loss else loss
        self.accuracy = 0.95 * self.accuracy + 0.05 * accuracy if self.accuracy else accuracy

    def summary(self) -> dict[str, Any]:
        """Figures for the log."""
        return {"answer_loss": round(self.loss, 4), "answer_accuracy": round(self.accuracy, 4)}

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {"loss": self.loss, "accuracy": self.accuracy}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.loss, self.accuracy = state["loss"], state["accuracy"]
