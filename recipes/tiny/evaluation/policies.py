"""How well each policy spends a budget, on held-out questions.

The primary measure, fixed beforehand, is the log-perplexity of the gold answer at p = 0.1.
"""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from recipes.tiny.evaluation.perplexity import MEASURE, Point, log_perplexities, look
from recipes.tiny.evaluation.picture import plot_points
from recipes.tiny.evaluation.quality import Arm, measure, message, scores
from refrag_rag.engine import Refrag
from refrag_rag.engine.scoring import SCORERS
from refrag_rag.errors import InputError
from refrag_rag.evaluation.metrics import bootstrap
from refrag_rag.evaluation.questions import Question, recall
from refrag_rag.model import RefragModel
from refrag_rag.policies import POLICIES, get_policy, needs_of
from refrag_rag.training.layout import Frame, QuestionLayout
from refrag_rag.training.policy_cases import Case
from refrag_rag.training.reading import Reader

FIXED = {"none": 0.0, "all": 1.0}
SCORED = ("retrieval", "hybrid")  # policies that read retrieval scores


@dataclass(frozen=True)
class Difference:
    """Log-perplexity of one policy minus another's, on the same questions.

    Attributes
    ----------
    mean, low, high
        Negative where `policy` is better; 95% paired bootstrap interval.
    """

    policy: str
    than: str
    p: float
    mean: float
    low: float
    high: float


def measure_on(
    model: RefragModel,
    questions: Sequence[Question],
    target: Path,
    *,
    shares: Sequence[float],
    policies: Sequence[str] = (),
    answers: Sequence[float] = (),
) -> Iterator[str]:
    """Measure policies beside `none` and `all`, write JSON and a picture, yield Markdown.

    Parameters
    ----------
    model
        Its own policies can be measured too.
    questions
        With their passages.
    target
        JSON file; the picture gets its name with ``.png``.
    shares
        Budgets; 0.1 should be among them.
    policies
        Names; by default all that the model has.
    answers
        Budgets at which answers are written too; by default all.

    Raises
    ------
    InputError
        If there is no such policy, if one is named that reads retrieval scores (these questions
        carry none), or if `answers` are wanted at a budget that is not measured.
    """
    _check(shares, policies, answers)
    every = policies or (*POLICIES, *model.policies)
    names = [n for n in every if n not in (*FIXED, *SCORED)]
    chosen = {n: get_policy(n, model.policies) for n in (*FIXED, *names)}
    arms = [*FIXED.items(), *((n, p) for p in shares for n in names)]
    cases = list(_cases(model, questions))
    reader = Reader(model)
    seen = look(reader, cases, {need for one in chosen.values() for need in needs_of(one)})
    values = {
        (name, p): log_perplexities(reader, cases, seen, chosen[name], p, rows_at_once=16)
        for name, p in tqdm(arms, desc="policies", unit="arm")
    }
    report = _report(model, questions, values)
    target.parent.mkdir(parents=True, exist_ok=True)
    _write(report, target)  # a long run leaves what it has
    answered = [arm for arm in arms if arm[0] in FIXED or not answers or arm[1] in answers]
    report["answers"] = _answers(model, questions, answered)
    _write(report, target)
    yield markdown(report)


def _check(shares: Sequence[float], policies: Sequence[str], answers: Sequence[float]) -> None:
    if scored := [name for name in policies if name in SCORED]:
        raise InputError(
            f"Policy {scored[0]!r} needs scores of a retriever, which these questions do not "
            "carry; expected others, such as 'lexical'."
        )
    if not set(answers) <= set(shares):
        raise InputError(
            f"Answers at {sorted(answers)}; expected some of the budgets {sorted(shares)}. Name "
            "the others among the shares too."
        )


def _report(
    model: RefragModel,
    questions: Sequence[Question],
    values: Mapping[tuple[str, float], NDArray[np.float64]],
) -> dict[str, Any]:
    """Log-perplexities on all questions and on those whose gold passage was retrieved."""
    gold = np.array([question.gold_retrieved for question in questions])
    k = model.config.k
    return {
        "model": model.config.name,
        "fingerprint": model.fingerprint,
        "measure": MEASURE,
        "recall_at_8": recall(questions),
        "points": [asdict(_point(k, *arm, found)) for arm, found in values.items()],
        "points_gold_retrieved": [
            asdict(_point(k, *arm, found[gold])) for arm, found in values.items()
        ],
        "differences": [asdict(one) for one in differences(values)],
        "answers": [],
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": {package: version(package) for package in ("torch", "transformers", "numpy")},
    }


def _write(report: Mapping[str, Any], target: Path) -> None:
    """The figures as JSON, and their curves as a picture beside it."""
    target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    points = [Point(**point) for point in report["points"]]
    plot_points(points, target.with_suffix(".png"), measure=report["measure"])


def differences(
    values: Mapping[tuple[str, float], NDArray[np.float64]],
) -> Iterator[Difference]:
    """Every policy against every other at the same budget, better ones first."""
    for p in sorted({p for _, p in values}):
        arms = sorted((n for n, share in values if share == p), key=lambda n: values[n, p].mean())
        for place, better in enumerate(arms):
            for worse in arms[place + 1 :]:
                gap = values[better, p] - values[worse, p]
                low, high = bootstrap(gap)
                yield Difference(better, worse, p, float(gap.mean()), low, high)


def markdown(report: Mapping[str, Any]) -> str:
    """Two tables: log-perplexity by policy and budget, and exact match."""
    points = report["points"]
    shares = sorted({point["p"] for point in points if point["policy"] not in FIXED})
    lines = ["| policy | " + " | ".join(f"p = {share}" for share in shares) + " |"]
    lines.append("|---" * (len(shares) + 1) + "|")
    for policy in dict.fromkeys(point["policy"] for point in points):
        found = {point["p"]: point for point in points if point["policy"] == policy}
        cells = [_cell(found.get(share, found.get(FIXED.get(policy)))) for share in shares]
        lines.append(f"| `{policy}` | " + " | ".join(cells) + " |")
    if report["answers"]:
        lines += ["", "| policy | exact match | 95% interval |", "|---|---|---|"]
    for row in report["answers"]:
        share, low, high = (f"{row[key]:.1%}" for key in ("exact", "low", "high"))
        lines.append(f"| {row['arm']} | {share} | {low} - {high} |")
    return "\n".join(lines) + "\n"


def _cell(point: Mapping[str, Any] | None) -> str:
    return (
        "" if point is None else f"{point['value']:.4f} ({point['low']:.4f} - {point['high']:.4f})"
    )


def _cases(model: RefragModel, questions: Sequence[Question]) -> Iterator[Case]:
    layout = QuestionLayout(model, max_passages=max(len(q.passages) for q in questions))
    frame = Frame(model)
    for question in questions:
        pieces, asked = layout.lay_out(message(question), question.answers[0])
        yield Case(pieces, 0.0, question=asked, asked=frame.text_passage(asked))


def _point(k: int, policy: str, p: float, values: NDArray[np.float64]) -> Point:
    return Point(policy, k, p, len(values), float(values.mean()), *bootstrap(values))


def _answers(
    model: RefragModel, questions: Sequence[Question], arms: Sequence[tuple[str, float]]
) -> list[dict[str, object]]:
    """Exact match of generated answers."""
    named = [Arm(n if n in FIXED else f"{n}, p = {p}", n, p) for n, p in arms]
    needed = {need for name, _ in arms for need in needs_of(get_policy(name, model.policies))}
    engine = Refrag(model, scores=[name for name in SCORERS if name in needed])
    return [asdict(score) for score in scores(questions, measure(engine, questions, named))]
