"""Settings of a stage: one dataclass, filled from a YAML file and from the command line."""

import argparse
import json
import types
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from refrag_rag.errors import InputError

EVERY_STAGE = "all"  # the section of a YAML file that all stages read
Settings = TypeVar("Settings", bound="LoopSettings")


def setting(
    default: Any, about: str, *, least: float | None = None, choices: Sequence[Any] = ()
) -> Any:
    """A field of a settings class: what ``--help`` shows, and the values that it may have."""
    return field(default=default, metadata={"about": about, "least": least, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What every stage has: where it writes, how long and how fast it learns."""

    out: Path = field(metadata={"about": "run folder; the stage writes into a folder of its name"})
    steps: int = setting(1000, "optimizer steps", least=1)
    minutes: float | None = setting(
        None, "stop after so many minutes, the schedule brought forward"
    )
    tokens: int | None = setting(None, "the same after so many positions, padding not counted")
    lr: float = setting(1e-4, "peak learning rate")
    warmup: float = setting(0.04, "share of the steps with rising learning rate, or steps if > 1")
    schedule: str = setting(
        "cosine",
        "learning rate after that: cosine, or linear at the end",
        choices=("cosine", "linear"),
    )
    decay: float = setting(0.2, "share of the run in which a linear schedule falls to zero")
    beta2: float = setting(0.98, "decay of AdamW's second moments")
    weight_decay: float = setting(0.05, "of AdamW")
    clip: float = setting(1.0, "largest norm of the gradient")
    micro_batch: int = setting(
        64, "rows that one process reads at once; more are accumulated", least=1
    )
    workers: int = setting(
        0, "processes that draw and collate steps ahead; 0: the run does it", least=0
    )
    precision: str = setting(
        "no", "mixed precision: no, bf16 or fp16", choices=("no", "bf16", "fp16")
    )
    gradient_checkpointing: bool = setting(False, "compute activations again instead of keeping")
    compile: bool = setting(False, "fuse small operations; on a CPU it needs a C++ compiler")
    save_every: int = setting(200, "steps between states for resuming", least=1)
    log_every: int = setting(20, "steps between lines of the log", least=1)
    tracker: str | None = setting(
        None, "also log to tensorboard or wandb", choices=(None, "tensorboard", "wandb")
    )
    seed: int = setting(0, "of data, sampling and new weights")

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        for one in fields(self):
            value = getattr(self, one.name)
            least, choices = one.metadata.get("least"), one.metadata.get("choices")
            if least is not None and value < least:
                raise InputError(f"{one.name} = {value}; expected at least {least}.")
            if choices and value not in choices:
                named = ", ".join(map(str, choices))
                raise InputError(f"{one.name} = {value!r}; expected one of {named}.")


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
    stage
        Its name: the section of the YAML file, and what stands behind `command`.
    about
        Text of ``--help``.
    arguments
        Of the command line; those of the process by default.

    Raises
    ------
    InputError
        If a field is unknown, has the wrong type, or is missing.
    """
    parser = argparse.ArgumentParser(
        prog=f"{command} {stage}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="small, paper, or a YAML file with sections")
    hints = get_type_hints(kind)
    for one in fields(kind):
        inner, many, _ = _taken_apart(hints[one.name])
        shown = one.default not in (None, False, (), MISSING)
        help_ = one.metadata["about"] + (f" (default: {one.default})" if shown else "")
        how: dict[str, Any] = {"type": inner, "nargs": "+" if many else None}
        if inner is bool:
            how = {"action": argparse.BooleanOptionalAction, "default": None}
        parser.add_argument("--" + one.name.replace("_", "-"), help=help_, **how)
    known, unknown = parser.parse_known_args(arguments)
    for name in unknown:
        if name.startswith("--"):
            raise _unknown("command line", name[2:].partition("=")[0].replace("-", "_"), kind)
    if unknown:
        raise InputError(f"{parser.prog}: {unknown[0]!r} belongs to no option. See --help.")
    options = {name: value for name, value in vars(known).items() if value is not None}
    return build(kind, stage, options.pop("config", None), options)


def build(kind: type[Settings], stage: str, config: str | None, given: dict[str, Any]) -> Settings:
    """Settings from a bundled configuration or a YAML file, and given values, which win.

    Raises
    ------
    InputError
        If a field is unknown, has the wrong type, or is missing.
    """
    hints = get_type_hints(kind)
    sections = read_config(config) if config else {}
    values = {**sections.get(EVERY_STAGE, {}), **sections.get(stage, {}), **given}
    for name, value in values.items():
        if name not in hints:
            raise _unknown(config or stage, name, kind)
        try:
            values[name] = _converted(value, hints[name])
        except (TypeError, ValueError) as error:
            inner, many, _ = _taken_apart(hints[name])
            raise InputError(
                f"{config}: {name} = {value!r}; expected {'a list of ' * many}{inner.__name__}. "
                "See --help."
            ) from error
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


def _taken_apart(hint: Any) -> tuple[type, bool, bool]:
    """The type of one value, whether there are many, and whether None is allowed."""
    choices = [one for one in get_args(hint) if one is not types.NoneType]
    optional = get_origin(hint) is types.UnionType
    many = get_origin(hint) is tuple
    return choices[0] if optional or many else hint, many, optional


def _converted(value: Any, hint: Any) -> Any:
    inner, many, optional = _taken_apart(hint)
    if many:
        if not isinstance(value, list | tuple):  # a list of one, as a user may well write it
            value = [value]
        return tuple(_converted(item, inner) for item in value)
    if type(value) is inner or (value is None and optional):
        return value
    if inner in (bool, int) or isinstance(value, bool | list | dict | None):
        raise TypeError
    return inner(value)  # YAML takes 1e-4 for text and 1 for a whole number


def _unknown(where: str, name: str, kind: type[LoopSettings]) -> InputError:
    near = get_close_matches(name, [one.name for one in fields(kind)], n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"{where}: unknown setting {name!r}; {meant}See --help for all.")
