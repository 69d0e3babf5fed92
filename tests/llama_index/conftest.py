"""Chains over the embedded model."""

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core import Settings

from tests.conftest import build_model
from tests.llama_index.chains import Chain
from tests.recorded import RecordedEngine
from tests.tool_templates import with_template


@pytest.fixture
def recorded(tiny_model):
    """An engine over the embedded model with a new store, that remembers its prompts."""
    return RecordedEngine(tiny_model, p=0.2)


@pytest.fixture
def chain(recorded, monkeypatch):
    """An indexed chain around it, whose LLM is the default one as well."""
    made = Chain(recorded)
    monkeypatch.setattr(Settings, "_llm", made.llm)
    return made


@pytest.fixture
def tooled(tokenizer):
    """A chain over a small random model with a template in the manner of Hermes."""
    engine = RecordedEngine(build_model(with_template(tokenizer, "hermes"), positions=4096))
    return Chain(engine, max_new_tokens=200)
