"""Settings of a stage: one dataclass, filled from a YAML file and from the command line."""

import argparse
import json
import types
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from refrag_rag.errors import InputError

EVERY_STAGE = "all"  # the section of a YAML file that all stages read
Settings = TypeVar("Settings", bound="LoopSettings")


def setting(default: Any, about: str) -> Any:
    """A field of a settings class with the line that ``--help`` shows."""
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What every stage has: where it writes, how long and how fast it learns."""

    out: Path = field(metadata={"about": "run folder; the stage writes into a folder of its name"})
    steps: int = setting(1000, "optimizer steps")
    minutes: float | None = setting(
        None, "stop after so many minutes, the schedule brought forward"
    )
    tokens: int | None = setting(None, "the same after so many positions, padding not counted")
    lr: float = setting(1e-4, "peak learning rate")
    warmup: float = setting(0.04, "share of the steps with rising learning rate, or steps if > 1")
    schedule: str = setting("cosine", "learning rate after that: cosine, or linear at the end")
    decay: float = setting(0.2, "share of the run in which a linear schedule falls to zero")
    beta2: float = setting(0.98, "decay of AdamW's second moments")
    weight_decay: float = setting(0.05, "of AdamW")
    clip: float = setting(1.0, "largest norm of the gradient")
    micro_batch: int = setting(64, "rows that one process reads at once; more are accumulated")
    precision: str = setting("no", "mixed precision: no, bf16 or fp16")
    gradient_checkpointing: bool = setting(False, "compute activations again instead of keeping")
    compile: bool = setting(False, "fuse small operations; on a CPU it needs a C++ compiler")
    save_every: int = setting(200, "steps between states for resuming")
    log_every: int = setting(20, "steps between lines of the log")
    tracker: str | None = setting(None, "also log to tensorboard or wandb")
    seed: int = setting(0, "of data, sampling and new weights")

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        for name in ("steps", "micro_batch", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}; expected at least 1.")
        if self.schedule not in ("cosine", "linear"):
            raise InputError(f"schedule = {self.schedule!r}; expected 'cosine' or 'linear'.")
        if self.precision not in ("no", "bf16", "fp16"):
            raise InputError(f"precision = {self.precision!r}; expected 'no', 'bf16' or 'fp16'.")
        if self.tracker not in (None, "tensorboard", "wandb"):
            raise InputError(f"tracker = {self.tracker!r}; expected 'tensorboard' or 'wandb'.")


# What may differ when a run goes on: none of it changes what is learnt.
FREE = ("out", "save_every", "log_every", "tracker", "micro_batch", "compile")


def as_dict(settings: LoopSettings) -> dict[str, Any]:
    """Settings as JSON values."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(settings), default=str))
    return found


def check_same(settings: LoopSettings, before: dict[str, Any]) -> None:
    """Refuse to go on with settings that would change the run.

    Raises
    ------
    InputError
        Names the fields that differ.
    """
    now = as_dict(settings)
    differing = [
        f"{name}: {before.get(name)!r} before, {value!r} now"
        for name, value in now.items()
        if name not in FREE and before.get(name) != value
    ]
    if differing:
        raise InputError(
            f"The run in {settings.out} was started with other settings ({'; '.join(differing)}). "
            "Use the same ones to go on, or another run folder."
        )


def parse(
    kind: type[Settings],
    stage: str,
    about: str | None,
    arguments: Sequence[str] | None,
    *,
    command: str = "refrag train",
) -> Settings:
    """Settings from ``--config`` and the options that follow it, which win.

    Parameters
    ----------
    kind
        The stage's settings class.
    stage
        Its name: the section of the YAML file.
    about
        Text of ``--help``.
    arguments
        Of the command line; those of the process by default.
    command
        What stands before the stage's name on the command line.
    """
    options = vars(_parser(kind, f"{command} {stage}", about).parse_args(arguments))
    config = options.pop("config")
    given = {name: value for name, value in options.items() if value is not None}
    return build(kind, stage, config, given)


def build(kind: type[Settings], stage: str, config: str | None, given: dict[str, Any]) -> Settings:
    """Settings from a bundled configuration or a YAML file, and given values, which win.

    Raises
    ------
    InputError
        If a field is unknown, has the wrong type, or is missing.
    """
    types_ = get_type_hints(kind)
    values = {
        name: _convert(name, value, types_.get(name), config)
        for name, value in (_sections(config, stage) if config else {}).items()
    }
    values |= given
    for one in fields(kind):
        if one.name not in values and one.default is MISSING:
            about = one.metadata["about"]
            raise InputError(f"No {one.name} ({about}); expected --{one.name} {one.name.upper()}.")
    return kind(**values)


def read_config(config: str) -> dict[str, Any]:
    """The sections of a bundled configuration, by its name, or of a YAML file.

    Raises
    ------
    InputError
        If there is no such file, or it is not YAML with sections.
    """
    bundled = files("refrag_rag.training") / "configs" / f"{config}.yaml"
    path = bundled if "/" not in config and bundled.is_file() else Path(config)
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"--config {config} cannot be read ({error}); expected small, paper or a YAML file."
        ) from error
    if not isinstance(sections, dict) or not all(isinstance(s, dict) for s in sections.values()):
        raise InputError(f"--config {config} has no sections; expected 'all:' and one a stage.")
    return sections


def _sections(config: str, stage: str) -> dict[str, Any]:
    sections = read_config(config)
    return {**sections.get(EVERY_STAGE, {}), **sections.get(stage, {})}


def _parser(kind: type[LoopSettings], prog: str, about: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", help="small, paper, or a YAML file with sections")
    types_ = get_type_hints(kind)
    for one in fields(kind):
        inner, _ = _inner(types_[one.name])
        shown = one.default not in (None, False, (), MISSING)
        help_ = one.metadata["about"] + (f" (default: {one.default})" if shown else "")
        name = "--" + one.name.replace("_", "-")
        if inner is bool:
            parser.add_argument(
                name, action=argparse.BooleanOptionalAction, default=None, help=help_
            )
        elif get_origin(inner) is tuple:
            one_type = get_args(inner)[0]
            parser.add_argument(name, type=one_type, nargs="+", action=_Tuple, help=help_)
        else:
            parser.add_argument(name, type=inner, help=help_)
    return parser


class _Tuple(argparse.Action):
    """Several values become a tuple, as in the dataclass."""

    def __call__(self, _parser: Any, namespace: Any, values: Any, _option: Any = None) -> None:
        """Keep the values."""
        setattr(namespace, self.dest, tuple(values))


def _inner(hint: Any) -> tuple[Any, bool]:
    """A type without ``| None``, and whether None is allowed."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(a for a in get_args(hint) if a is not types.NoneType), True
    return hint, False


def _convert(name: str, value: Any, hint: Any, config: str | None) -> Any:
    if hint is None:
        raise InputError(
            f"{config}: unknown setting {name!r} = {value!r}. Remove it, or see --help."
        )
    inner, optional = _inner(hint)
    if value is None and optional:
        return None
    try:
        if get_origin(inner) is tuple and isinstance(value, list):
            return tuple(get_args(inner)[0](item) for item in value)
        if inner is bool:
            if isinstance(value, bool):
                return value
        elif inner is int:
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        elif not isinstance(value, bool | list | dict) and value is not None:
            return inner(value)
    except (TypeError, ValueError):
        pass
    shown = getattr(inner, "__name__", str(inner))
    raise InputError(f"{config}: {name} = {value!r}; expected {shown}. See --help.")
