"""What the recipe's stages have in common: settings, and the objective that goes with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from refrag_rag.training.settings import LoopSettings, parse, setting
from refrag_rag.training.stage import StageSettings

CONFIG = Path(__file__).with_name("tiny.yaml")
COMMAND = "python -m recipes.tiny"
Settings = TypeVar("Settings", bound=LoopSettings)


@dataclass(frozen=True, kw_only=True)
class WorldSettings(StageSettings):
    """What the stages on the invented world have."""

    factbook: str | None = setting(None, "file with names of real countries")


@dataclass(frozen=True, kw_only=True)
class AskingSettings(WorldSettings):
    """What the stages that ask questions have."""

    questions: int = setting(12, "most questions on one context", least=1)
    pointing: float = setting(
        0.0, "weight of the loss that shows attention where answers stand", least=0
    )


def read_settings(
    kind: type[Settings], stage: str, about: str | None, arguments: Sequence[str]
) -> Settings:
    """Settings from the recipe's own configuration, and from options, which win."""
    return parse(kind, stage, about, ["--config", str(CONFIG), *arguments], command=COMMAND)
