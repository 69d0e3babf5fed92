"""Rows of the invented world, by stage."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase

from recipes.tiny.growth import ChunkGrowth
from recipes.tiny.layout import MarkedPiece, lay_out
from recipes.tiny.levels import LevelCurriculum
from recipes.tiny.tasks import CHOICE_WEIGHT, Level, Mix, Tasks
from recipes.tiny.world import World
from recipes.tiny.world.factbook import load_factbook
from refrag_rag.text.tokenization import backend
from refrag_rag.training.batches import Row
from refrag_rag.training.lengths import LengthCurriculum

TEXT_POSITIONS, MIXED_POSITIONS, CHUNK_POSITIONS = 2000, 1600, 1200  # of a step


class WorldText:
    """Questions on full text, at the levels of a curriculum.

    Parameters
    ----------
    tasks
        Makes the examples.
    curriculum
        Draws the levels.
    restating
        Share of the steps in which passages of several facts are said again, sentence by sentence.
    """

    def __init__(
        self, tasks: Tasks, curriculum: LevelCurriculum, *, restating: float = 0.0
    ) -> None:
        self.tasks, self.curriculum, self.restating = tasks, curriculum, restating
        self.restated = False
        self.summary = curriculum.summary
        self.state, self.restore = curriculum.state, curriculum.restore

    def draw(self, rng: Random, share: float) -> list[Row]:  # noqa: ARG002
        """As many examples of one level as fill a step."""
        level = self.curriculum.draw(rng)
        questions = self.tasks.mix.questions
        count = examples_of(level, TEXT_POSITIONS, text_share=1.0, k=1, questions=questions)
        self.restated = level.passages * level.facts > 1 and rng.random() < self.restating
        example = self.tasks.restatement if self.restated else self.tasks.example
        return lay_out([example(rng, level) for _ in range(count)], rng, k=1)

    def record(self, loss: float, accuracy: float) -> None:
        """Take note of answers; sentences said again do not count."""
        if not self.restated:
            self.curriculum.record(loss, accuracy)


class WorldChunks:
    """Reconstruction: runs of chunks as vectors, followed by their tokens.

    Parameters
    ----------
    tasks
        Gives texts and tokens.
    lengths
        Draws numbers of chunks.
    growth
        Draws chunk sizes, and is told how well they were rebuilt.
    """

    def __init__(self, tasks: Tasks, lengths: LengthCurriculum, growth: ChunkGrowth) -> None:
        self.tasks, self.lengths, self.growth = tasks, lengths, growth

    def draw(self, rng: Random, share: float) -> list[Row]:
        """Runs of one length and one chunk size."""
        chunks = self.lengths.draw(rng, share)
        k = self.growth.draw(rng)
        return reconstruction_rows(rng, self.tasks, chunks=chunks, k=k, positions=CHUNK_POSITIONS)

    def record(self, loss: float, accuracy: float) -> None:
        """Take note of the step's result."""
        self.growth.record(accuracy)
        self.lengths.record(loss, accuracy)

    def summary(self) -> dict[str, Any]:
        """Figures for the log."""
        return {**self.growth.summary(), **self.lengths.summary()}

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {"growth": self.growth.state(), "lengths": self.lengths.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.growth.restore(state["growth"])
        self.lengths.restore(state["lengths"])


class WorldMixture:
    """Levels of contexts, mixed of vectors and text, with reconstruction steps between them.

    Parameters
    ----------
    tasks
        Makes the examples.
    curriculum
        Draws the levels.
    growth
        Chunk sizes, of all steps.
    reconstruction
        Share of reconstruction steps while chunks grow, and once they have their full size: what
        cannot be rebuilt cannot be read.
    text_shares
        Shares of chunks that stay text, one drawn for each step.
    """

    def __init__(
        self,
        tasks: Tasks,
        curriculum: LevelCurriculum,
        growth: ChunkGrowth,
        *,
        reconstruction: tuple[float, float],
        text_shares: Sequence[float],
    ) -> None:
        self.tasks, self.curriculum, self.growth = tasks, curriculum, growth
        self.chunks = WorldChunks(tasks, LengthCurriculum(), growth)
        self.reconstruction, self.text_shares = reconstruction, text_shares
        self.reconstructing = self.full_text = False

    def draw(self, rng: Random, share: float) -> list[Row]:
        """A reconstruction step, or contexts of which a random share is vectors."""
        self.reconstructing = rng.random() < self.reconstruction[self.growth.grown]
        if self.reconstructing:
            # Late rows of the table: single chunks could be told apart by their place alone.
            return self.chunks.draw(rng, 0.5 + share / 2)
        k = self.growth.draw(rng)
        text_share = rng.choice(self.text_shares)
        self.full_text = text_share == 1
        level = self.curriculum.draw(rng)
        questions = self.tasks.mix.questions
        count = examples_of(level, MIXED_POSITIONS, text_share=text_share, k=k, questions=questions)
        examples = [self.tasks.example(rng, level) for _ in range(count)]
        return lay_out(examples, rng, k=k, text_share=text_share)

    def record(self, loss: float, accuracy: float) -> None:
        """Take note in the table of the kind of step that was made; full text never counts."""
        if self.reconstructing:
            self.chunks.record(loss, accuracy)
        elif not self.full_text:
            self.curriculum.record(loss, accuracy)

    def summary(self) -> dict[str, Any]:
        """Figures for the log."""
        return {**self.curriculum.summary(), "reconstruction": self.chunks.summary()}

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {"levels": self.curriculum.state(), "chunks": self.chunks.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.curriculum.restore(state["levels"])
        self.chunks.restore(state["chunks"])


def open_tasks(tokenizer: PreTrainedTokenizerBase, mix: Mix, factbook: str | None = None) -> Tasks:
    """Tasks of the training world, in a model's tokens."""
    return Tasks(open_world(factbook), backend(tokenizer), mix)


def open_world(factbook: str | None) -> World:
    """The training world, with names of real countries if there is a file of them."""
    return World(pools=load_factbook(factbook) if factbook else {})


def examples_of(level: Level, positions: int, *, text_share: float, k: int, questions: int) -> int:
    """How many examples of a level fill the positions of one step (measured sizes)."""
    tokens = level.passages * (18 + 12 * level.facts)
    context = tokens * text_share + tokens * (1 - text_share) / k
    asked = 20 * min(questions, level.passages * level.facts)
    return max(2, min(24, int(positions / (context + asked + 20))))


def reconstruction_rows(
    rng: Random, tasks: Tasks, *, chunks: int, k: int, positions: int
) -> list[Row]:
    """Runs of `chunks` chunks as vectors, followed by their tokens."""
    size = max(2, min(160, positions // (chunks * (k + 1) + 1)))
    examples = [
        [
            MarkedPiece([tasks.roles["bos"]]),
            MarkedPiece(ids, passage=True),
            MarkedPiece([*ids, tasks.roles["end"]], CHOICE_WEIGHT, target=True),
        ]
        for ids in _runs(rng, tasks, chunks * k, size)
    ]
    return lay_out(examples, rng, k=k, text_share=0.0)


def _runs(rng: Random, tasks: Tasks, length: int, count: int) -> Iterator[list[int]]:
    """Runs of at most `length` tokens: pieces of passages."""
    text: list[int] = []
    for _ in range(count):
        if len(text) < length:
            text = []
            while len(text) < max(length, 48):
                text += tasks.encode(tasks.world.entity(rng, facts=7).passage(rng))
            text = text[rng.randrange(8) :]
        short = rng.randint(1, length) if rng.random() < 0.1 else length
        yield text[:short]
        text = text[length:]
