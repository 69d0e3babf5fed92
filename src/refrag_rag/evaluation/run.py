"""``refrag eval``: anybody's questions, read in several ways by one model."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from refrag_rag.engine import Refrag
from refrag_rag.engine.scoring import decoder_fingerprint
from refrag_rag.errors import InputError
from refrag_rag.evaluation.answers import AnswerFile, Place, Row
from refrag_rag.evaluation.arms import (
    ANSWER_TOKENS,
    Arm,
    answer,
    build_arms,
    choose_arms,
    read,
)
from refrag_rag.evaluation.metrics import exact_match, f1
from refrag_rag.evaluation.picture import plot_positions
from refrag_rag.evaluation.prompts import CONTEXT, fits
from refrag_rag.evaluation.questions import (
    Question,
    Ranking,
    rank_by_retriever,
    read_questions,
)
from refrag_rag.evaluation.report import machine, write_json
from refrag_rag.evaluation.table import markdown, score_rows
from refrag_rag.generation.request import check_batch_size
from refrag_rag.policies import limit_of

FAR = 7  # places from a question to the one whose passages give foreign embeddings
BLOCK = 10  # questions of one file before the next file's turn: a run that stops is balanced
ANSWERS, RESULTS, PICTURE = "answers.jsonl", "results.json", "positions.png"


def evaluate(  # noqa: PLR0913 - the settings of a command, by name
    model: str,
    files: Sequence[Path],
    folder: Path,
    *,
    ks: Sequence[int] = (),
    policies: Sequence[str] = ("hybrid", "random"),
    shares: Sequence[float] = (0.1, 0.2),
    positions: Sequence[int] = (),
    arms: Sequence[str] = (),
    limit: int | None = None,
    ranking: Ranking = "file",
    batch: int = 1,
    **loading: Any,
) -> Iterator[str]:
    """Answer, write every answer to `folder` at once, and yield tables.

    Parameters
    ----------
    model
        Embedded name, folder or hub id.
    files
        See `read_questions`.
    folder
        Gets ``answers.jsonl``, ``results.json`` and, where matplotlib is installed,
        ``positions.png``. A run that was stopped goes on from there.
    ks
        Chunk sizes; the model's usual one by default.
    policies, shares, positions
        See `build_arms`.
    arms
        Names of arms, if not all.
    limit
        Questions of each file.
    ranking
        Which passages are the best: those that the file has first, or those that the demo's
        embedding model finds nearest to the question.
    batch
        Questions that are answered at once. Only of questions that are answered one by one the
        time to the first token is kept.
    **loading
        As for `refrag_rag.checkpoints.load`: dtype, device, base ...

    Raises
    ------
    InputError
        If a question, an arm or a policy cannot be used.
    """
    check_batch_size(batch)
    chosen = choose_arms(build_arms(policies, shares, positions), arms)
    asked = {_name(file): read_questions(file, limit=limit) for file in files}
    if len(asked) < len(files):
        raise InputError(
            f"data = {', '.join(map(str, files))}; expected files of different names, which the "
            "tables have."
        )
    if ranking == "retriever":
        asked = {name: rank_by_retriever(questions) for name, questions in asked.items()}
    engines = {k: Refrag.load(model, k=k, **loading) for k in ks or (None,)}
    first = next(iter(engines.values()))
    for arm in chosen:
        first.get_policy(arm.policy)
        limit_of(arm.p, 0)
    kept = AnswerFile(folder / ANSWERS, _about(first, ranking))
    fitting = {
        name: [n for n, question in enumerate(questions) if fits(first, question, ANSWER_TOKENS)]
        for name, questions in asked.items()
    }
    for engine in engines.values():
        _read(engine, chosen, asked, fitting, kept, batch)
        report = _report(kept, asked, fitting)
        write_json(report, folder / RESULTS)
    if find_spec("matplotlib"):
        plot_positions(report["files"], folder / PICTURE)
    yield from markdown(report["files"])


def _read(
    engine: Refrag,
    arms: Sequence[Arm],
    asked: Mapping[str, Sequence[Question]],
    fitting: Mapping[str, Sequence[int]],
    kept: AnswerFile,
    batch: int,
) -> None:
    """Answer what is not answered yet, a block of each file in turn."""
    k = engine.model.config.k
    most = max(map(len, fitting.values()), default=0)
    total = sum(map(len, fitting.values()))
    block = max(BLOCK, batch)
    with tqdm(total=total, desc=f"k = {k}", unit="question", smoothing=0.05) as bar:
        for start in range(0, most, block):
            for name, numbers in fitting.items():
                own = numbers[start : start + block]
                for at in range(0, len(own), batch):
                    together = own[at : at + batch]
                    _ask(engine, arms, name, asked[name], together, kept)
                    bar.update(len(together))


def _ask(
    engine: Refrag,
    arms: Sequence[Arm],
    file: str,
    questions: Sequence[Question],
    numbers: Sequence[int],
    kept: AnswerFile,
) -> None:
    """Answer some questions, all that one arm has left of them at once."""
    k = engine.model.config.k
    known: set[str] = set()  # passages that are in the store
    for arm in arms:
        places = [Place(file, n, arm.name, 0 if arm.without_k else k) for n in numbers]
        names = {place: _of(questions[place.question], engine, place) for place in places}
        todo = [place for place in places if kept.find(place, names[place]) is None]
        others = {place: _other(questions, place.question) for place in places}
        if arm.foreign:
            todo = [place for place in todo if others[place] is not questions[place.question]]
        if not todo:
            continue
        pairs = {place: (questions[place.question], others[place]) for place in todo}
        texts = {p for pair in pairs.values() for question in pair for p in question.passages}
        engine.precompute(list(texts - known))  # not on the clock
        known |= texts
        rooms = {
            place: kept.rows[place._replace(arm=arm.equal_to)].positions if arm.equal_to else 0
            for place in todo
        }
        readings = [
            read(engine, arm, question, other=other, positions=rooms[place])
            for place, (question, other) in pairs.items()
        ]
        for place, found in zip(todo, answer(readings), strict=True):
            answers = questions[place.question].answers
            kept.add(
                Row(
                    *place,
                    text=found.text,
                    exact=exact_match(found.text, answers),
                    f1=f1(found.text, answers),
                    positions=found.counts.positions,
                    ttft_s=found.timings.ttft_s if len(todo) == 1 else None,
                    of=names[place],
                )
            )


def _name(file: Path) -> str:
    return file.name.removesuffix(".xz").removesuffix(".jsonl")


def _of(question: Question, engine: Refrag, place: Place) -> str:
    return f"{question.digest}-{engine.model.fingerprint[:8] if place.k else ''}"


def _other(questions: Sequence[Question], number: int) -> Question:
    """A question some places behind, or the next one; the same where there is one alone."""
    far = (number + FAR) % len(questions)
    return questions[far if far != number else (number + 1) % len(questions)]


def _about(engine: Refrag, ranking: Ranking) -> dict[str, Any]:
    return {
        "model": engine.model_name,
        "decoder": decoder_fingerprint(engine.model),
        "dtype": str(engine.model.decoder.dtype).removeprefix("torch."),
        "prompt": CONTEXT,
        "answer_tokens": ANSWER_TOKENS,
        "ranking": ranking,
    }


def _report(
    kept: AnswerFile,
    asked: Mapping[str, Sequence[Question]],
    fitting: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    return {
        "files": {
            name: score_rows(
                [r for r in kept.rows.values() if r.file == name and r.question < len(questions)]
            )
            for name, questions in asked.items()
        },
        "too_long": {name: len(asked[name]) - len(fitting[name]) for name in asked},
        **machine(),
    }
