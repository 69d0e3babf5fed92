"""``refrag compress``: a smaller decoder, measured before and after, and chosen by targets."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from refrag_rag.checkpoints.quantization import INT8
from refrag_rag.checkpoints.shrinking import MADE, PRUNED, RATES, SVD, Inputs, check, look, shrink
from refrag_rag.engine import Refrag
from refrag_rag.errors import EXTRAS, InputError, missing, need
from refrag_rag.evaluation.prompts import prompt
from refrag_rag.evaluation.questions import Question, read_questions
from refrag_rag.evaluation.report import machine, where, write_json
from refrag_rag.evaluation.shrunk import HEAD, TIMED, Measured, choose, measure, row

AS_IT_IS = "as it is"
LADDER = (0.05, 0.1, 0.2, 0.3, 0.5)  # rates of svd that a choice tries
LOOKED = 30  # questions that layers are looked at with: two passages as text, and the prompt
NO_GAIN = "A weight of 0 takes the bytes and the time of any other: wanda alone saves nothing."


def make_smaller(  # noqa: PLR0913 - the settings of a command, by name
    model: str,
    data: Path,
    *,
    questions: int = 50,
    methods: Sequence[str] = (),
    rate: float | None = None,
    latency: float | None = None,
    memory: float | None = None,
    out: Path | None = None,
    heal: Path | None = None,
    heal_steps: int = 200,
    heal_minutes: float | None = None,
    report: Path | None = None,
    **loading: Any,
) -> Iterator[str]:
    """Make a model's decoder smaller by named methods, or by the mildest that meets targets here.

    Parameters
    ----------
    data
        As for `evaluate`. What layers read is looked at with questions behind those that are
        measured, or with the same where there are no more.
    questions
        How many are measured.
    methods
        ``int8``, ``wanda``, ``wanda-2:4`` or ``svd``.
    rate
        Share of the weights that go; each method has its own by default.
    latency, memory
        Most milliseconds to the first token on this machine, most megabytes of the decoder.
    out
        Folder of the new checkpoint.
    heal
        Questions on which a LoRA adapter learns the answers of the decoder as it was.
    heal_steps, heal_minutes
        When that ends.
    report
        JSON file of all figures.
    **loading
        ``device`` and ``dtype``, as for `refrag_rag.checkpoints.load`.

    Yields
    ------
    str
        Lines of the table.

    Raises
    ------
    InputError
        If arguments do not go together, or nothing meets the targets.
    """
    targets = {"latency_ms": latency, "megabytes": memory}
    _check(methods, rate, out, heal, chosen=(latency, memory) != (None, None))
    asked = read_questions(data, limit=2 * questions)
    measured, others = asked[:questions], asked[questions:] or asked
    load = partial(Refrag.load, model, **loading)
    before = load()
    maker = Maker(load, before, others[:LOOKED])
    found = {AS_IT_IS: measure(before, measured, what=AS_IT_IS)}
    yield f"{HEAD}\n{row(AS_IT_IS, found[AS_IT_IS])}"
    tried: dict[str, Measured] = {}
    made: Iterable[tuple[str, Refrag]] = (maker.make(method, rate) for method in methods)
    if not methods:
        ladder = maker.ladder(int8=heal is None)
        for name, engine, figures in choose(ladder, asked, **targets, healed=heal is not None):
            tried[name], made = figures, [(name, engine)]
            yield row(f"{name}, {TIMED} questions", figures)
    for name, engine in made:
        if name not in found:
            found[name] = measure(engine, measured, what=name)
            yield row(name, found[name])
        if out:
            engine.model.save_pretrained(out)
    if heal and out:
        from refrag_rag.training.healing import heal as teach

        teach(out, before, heal, steps=heal_steps, minutes=heal_minutes)
        found["healed"] = measure(Refrag.load(out, **loading), measured, what="healed")
        yield row("healed", found["healed"])
    result = {
        "model": model,
        "questions": len(measured),
        "rows": found,
        "tried": tried,
        **machine(),
    }
    yield where(result) + (f"\n{NO_GAIN}" if PRUNED.keys() & set(methods) else "")
    if report:
        write_json(result, report)


def _check(
    methods: Sequence[str],
    rate: float | None,
    out: Path | None,
    heal: Path | None,
    *,
    chosen: bool,
) -> None:
    """Refuse what does not go together."""
    if chosen == bool(methods) or (rate is not None and (chosen or INT8 in methods)):
        raise InputError("Expected --method (--rate is not for int8), or --latency and --memory.")
    for method in set(methods) - {INT8}:
        check(method, RATES.get(method, 0.5) if rate is None else rate)
    if (out and len(methods) > 1) or (heal and (not out or INT8 in methods)):
        raise InputError("--out expected one method; --heal --out, and another method than int8.")
    if heal:
        need("train", "--heal")


class Maker:
    """Makes smaller decoders of one model.

    Parameters
    ----------
    load
        Loads it.
    engine
        With the model as it is.
    questions
        What layers are looked at with.
    """

    def __init__(
        self, load: Callable[..., Refrag], engine: Refrag, questions: Sequence[Question]
    ) -> None:
        self._load, self._engine, self._questions = load, engine, questions
        self._inputs: dict[bool, Inputs] = {}

    def make(self, method: str, rate: float | None = None) -> tuple[str, Refrag]:
        """A smaller one, and what to call it."""
        if method == INT8:
            engine = self._load(quantization=INT8)
            setattr(engine.model.decoder.config, MADE, {"method": INT8})
            return INT8, engine
        rate = RATES[method] if rate is None else rate
        engine = self._load()
        shrink(engine.model, method, rate, self._look(whole=method == SVD))
        return f"{method} {rate:g}", engine

    def ladder(self, *, int8: bool) -> dict[str, Callable[[], Refrag]]:
        """All that a choice tries, the mildest first."""
        found: dict[str, Callable[[], Refrag]] = {AS_IT_IS: lambda: self._engine}
        if int8 and not missing("quantization", EXTRAS["quantization"][:1]):
            found[INT8] = lambda: self.make(INT8)[1]
        return found | {f"svd {r:g}": partial(self._svd, r) for r in LADDER}

    def _svd(self, rate: float) -> Refrag:
        return self.make(SVD, rate)[1]

    def _look(self, *, whole: bool) -> Inputs:
        if whole not in self._inputs:
            lay_out, asked = self._engine.compress, self._questions
            prompts = [lay_out(text) for one in asked for text in one.passages[:2]]
            prompts += [lay_out(prompt(one)) for one in asked]
            self._inputs[whole] = look(self._engine.model, prompts, whole=whole)
        return self._inputs[whole]
