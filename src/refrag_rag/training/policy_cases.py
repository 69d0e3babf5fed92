"""Cases for the policy: from questions with answers, or from text with its continuation."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np

from refrag_rag.errors import InputError
from refrag_rag.training.data.records import QuestionRecord
from refrag_rag.training.document_sources import DocumentContinuation, Frame
from refrag_rag.training.policy_rollouts import Case
from refrag_rag.training.question_sources import QuestionLayout
from refrag_rag.training.tasks import Piece

DrawCase = Callable[[Random], Case]


class Cases:
    """The same cases for several steps, then new ones.

    Parameters
    ----------
    draw_case
        Makes one.
    batch_size
        Cases of a step.
    epochs
        Steps on the same cases.
    """

    def __init__(self, draw_case: DrawCase, *, batch_size: int, epochs: int) -> None:
        self.draw_case, self.batch_size, self.epochs = draw_case, batch_size, epochs
        self.cases: Sequence[Case] = ()
        self.left = 0
        self.log_perplexity = self.kept = 0.0

    def draw(self, rng: Random, share: float) -> Sequence[Case]:  # noqa: ARG002
        """The cases of this step."""
        if not self.left:
            self.cases = [self.draw_case(rng) for _ in range(self.batch_size)]
            self.left = self.epochs
        self.left -= 1
        return self.cases

    def record(self, loss: float, accuracy: float) -> None:
        """Keep running figures: log-perplexity, and the share of groups that differ."""
        keep = 0.98 if self.log_perplexity else 0.0
        self.log_perplexity = keep * self.log_perplexity + (1 - keep) * loss
        self.kept = keep * self.kept + (1 - keep) * accuracy

    def summary(self) -> dict[str, Any]:
        """Figures for the log."""
        return {"log_perplexity": round(self.log_perplexity, 5), "groups_kept": round(self.kept, 3)}

    def state(self) -> dict[str, Any]:
        """What `restore` needs; states are saved between batches of rollouts."""
        return {"log_perplexity": self.log_perplexity, "kept": self.kept}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.log_perplexity, self.kept = state["log_perplexity"], state["kept"]


def question_case(
    layout: QuestionLayout, frame: Frame, record: QuestionRecord, rng: Random, p: float
) -> Case:
    """A question whose gold answer gives the reward."""
    pieces, question = layout.example(record, rng)
    asked = frame.text_passage(question)
    return make_case(pieces, p, question=question, asked=asked, origin=record.id or "")


def text_case(source: DocumentContinuation, chunks: int, rng: Random, p: float) -> Case:
    """A context whose gold continuation gives the reward."""
    return make_case(source.rows(rng, chunks, 1)[0].pieces, p)


def make_case(
    pieces: Sequence[Piece],
    p: float,
    *,
    question: str = "",
    asked: Piece | None = None,
    origin: str = "",
) -> Case:
    """A case from laid-out pieces.

    Raises
    ------
    InputError
        If there is no chunk to decide on.
    """
    passages = [piece.chunked for piece in pieces if piece.chunked is not None]
    sizes = [len(passage) for passage in passages]
    if not sum(sizes):
        raise InputError(f"Example {origin or '?'} has no chunk; expected passages with text.")
    return Case(
        pieces=tuple(pieces),
        texts=tuple(text for passage in passages for text in passage.chunk_texts()),
        passages=np.repeat(np.arange(len(sizes)), sizes),
        question=question,
        question_piece=asked,
        p=p,
        origin=origin,
    )
