"""``refrag eval``: the tables of the model card, from one command."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from refrag_rag.engine import Refrag
from refrag_rag.evaluation.quality import PLAIN_ARMS, fits, markdown, measure, report, write_json
from refrag_rag.evaluation.questions import held_out_questions, read_questions, recall

logger = logging.getLogger(__name__)
GOLD, EVERY = "gold passage retrieved", "all questions"


def evaluate(
    model: str, target: Path, *, count: int, files: Sequence[Path] = (), limit: int | None = None
) -> Iterator[str]:
    """Measure, write JSON to `target`, and yield Markdown.

    Parameters
    ----------
    model
        Embedded name, folder or hub id.
    count
        Held-out questions, eight retrieved passages each.
    files
        Further question files; read as full text and compressed only. Questions whose full text
        is longer than the decoder's window are left out of all arms, and counted.
    limit
        Questions of each file.
    """
    engine = Refrag.load(model)
    questions = held_out_questions(engine.model.tokenizer, count=count)
    answers = measure(engine, questions)
    kept = [place for place, question in enumerate(questions) if question.gold_retrieved]
    groups = {
        GOLD: (
            [questions[place] for place in kept],
            {arm: [found[place] for place in kept] for arm, found in answers.items()},
        ),
        EVERY: (questions, answers),
    }
    rest: dict[str, object] = {"recall_at_8": recall(questions), "too_long": {}}
    write_json(report(engine, groups) | rest, target)  # a long run leaves what it has
    for file in files:
        name = file.name.split(".")[0]
        asked = read_questions(file, limit=limit)
        fitting = [question for question in asked if fits(engine, question)]
        groups[name] = (fitting, measure(engine, fitting, PLAIN_ARMS, batch=2))
        rest["too_long"] |= {name: len(asked) - len(fitting)}  # type: ignore[operator]
        write_json(report(engine, groups) | rest, target)
    result = report(engine, groups) | rest
    yield f"Retriever's recall at 8: {recall(questions):.1%}\n"
    for name, rows in result["scores"].items():  # type: ignore[attr-defined]
        yield f"**{name}**\n\n{markdown(rows)}"
