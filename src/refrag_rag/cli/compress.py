"""``refrag compress``: a smaller decoder for a model, measured before and after."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refrag_rag.errors import EXTRAS, InputError, missing, need

if TYPE_CHECKING:
    from refrag_rag.engine import Refrag

INT8 = "int8"
LADDER = (0.1, 0.2, 0.3, 0.5)  # rates of svd that a choice tries


def add_compress(commands: Any) -> None:
    """Add ``compress`` to the subparsers of the command line."""
    part = commands.add_parser("compress", help="prune, factorise or quantise a model's decoder")
    part.add_argument("model", help="embedded name, folder or hub id")
    part.add_argument("--data", type=Path, required=True, metavar="FILE", help="as for eval")
    part.add_argument("--questions", type=int, default=50, help="of the file (default: 50)")
    part.add_argument("--method", choices=(INT8, "wanda", "svd"), help="or targets instead")
    part.add_argument("--rate", type=float, help="share of the weights (wanda: 0.5, svd: 0.2)")
    part.add_argument("--latency", type=float, metavar="MS", help="most to the first token, here")
    part.add_argument("--memory", type=float, metavar="MB", help="most that the weights may take")
    part.add_argument("--out", type=Path, metavar="FOLDER", help="where to write the checkpoint")
    part.add_argument("--heal", type=Path, metavar="FILE", help="questions to learn old answers on")
    part.add_argument("--heal-steps", type=int, default=200, help="of that (default: 200)")
    part.add_argument("--report", type=Path, metavar="FILE", help="figures as JSON")
    part.set_defaults(run=_compress)


def _compress(options: argparse.Namespace) -> None:
    from refrag_rag.engine import Refrag
    from refrag_rag.evaluation.questions import read_questions
    from refrag_rag.evaluation.report import machine, where, write_json
    from refrag_rag.evaluation.shrunk import HEAD, measure, row

    targets = (options.latency, options.memory) != (None, None)
    if targets == (options.method is not None) or (options.rate is not None and targets):
        raise InputError("Expected --method (and perhaps --rate), or --latency and --memory.")
    if options.rate is not None and not 0 < options.rate < 1:
        raise InputError(
            f"rate = {options.rate}; expected a share of the weights, between 0 and 1."
        )
    if options.heal and (options.method == INT8 or not options.out):
        raise InputError(
            "--heal learns for a checkpoint; expected --out, and another method than int8."
        )
    if options.heal:
        need("train", "--heal")
    questions = read_questions(options.data, limit=options.questions)
    before = Refrag.load(options.model)
    found = {"as it is": measure(before, questions, what="as it is")}
    name, smaller = _chosen(options, before, questions)
    found[name] = measure(smaller, questions, what=name)
    if options.out and INT8 not in name:
        smaller.model.save_pretrained(options.out)
    if options.heal:
        from refrag_rag.training.healing import heal

        heal(options.out, before, options.heal, steps=options.heal_steps)
        found[f"{name}, healed"] = measure(Refrag.load(options.out), questions, what="healed")
    report = {"model": options.model, "questions": len(questions), "rows": found, **machine()}
    print(HEAD, *(row(one, figures) for one, figures in found.items()), where(report), sep="\n")
    if INT8 in name:
        print(f'Nothing is written: Refrag.load({options.model!r}, quantization="int8").')
    if options.report:
        write_json(report, options.report)


def _chosen(options: argparse.Namespace, before: "Refrag", questions: Any) -> tuple[str, "Refrag"]:
    """The method that was named, or the mildest that meets the targets on this machine."""
    from refrag_rag.evaluation.shrunk import choose, row

    # of other passages than those that perplexity is measured on, if there are
    texts = [text for one in questions for text in one.passages[1:3] or one.passages]
    smaller = partial(_smaller, options.model, texts)
    if options.method:
        from refrag_rag.checkpoints.shrinking import RATES

        rate = options.rate if options.rate is not None else RATES.get(options.method)
        name = options.method if rate is None else f"{options.method} {rate:g}"
        return name, smaller(options.method, rate)
    candidates: Mapping[str, Callable[[], Refrag]] = dict(
        _candidates(smaller, before, written=options.heal is not None)
    )
    limits = {"latency_ms": options.latency, "megabytes": options.memory}
    if options.heal:
        limits["ruined"] = None
    for name, figures, fits in choose(candidates, questions, **limits):
        print(row(name, figures), flush=True)
        if fits:
            return name, candidates[name]()
    raise AssertionError("choose ends with an error")


def _candidates(
    smaller: Callable[..., "Refrag"], before: "Refrag", *, written: bool
) -> Iterator[tuple[str, Callable[[], "Refrag"]]]:
    yield "as it is", lambda: before
    if not written and not missing("quantization", EXTRAS["quantization"][:1]):
        yield INT8, partial(smaller, INT8, None)
    for rate in LADDER:
        yield f"svd {rate:g}", partial(smaller, "svd", rate)


def _smaller(model: str, texts: list[str], method: str, rate: float | None) -> "Refrag":
    from refrag_rag.checkpoints.shrinking import shrink
    from refrag_rag.engine import Refrag

    if method == INT8:
        if rate is not None:
            raise InputError(f"rate = {rate} with int8; expected none. Leave it out.")
        return Refrag.load(model, quantization=INT8)
    engine = Refrag.load(model)
    shrink(engine.model, method, rate or 0.0, texts)
    return engine
