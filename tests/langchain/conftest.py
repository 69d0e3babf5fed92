"""Chains over the embedded model."""

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("langchain_classic")

from refrag_rag import RefragModel
from tests.langchain.chains import Chain, documents
from tests.recorded import RecordedEngine, check_vectors
from tests.sample_texts import TEXTS
from tests.tool_templates import with_template


@pytest.fixture
def recorded(tiny_model):
    """An engine over the embedded model with a new store, that remembers its prompts."""
    return RecordedEngine(tiny_model, p=0.2)


@pytest.fixture(scope="session")
def tool_model(tiny_model):
    """The embedded model with a chat template that has a place for tools."""
    return RefragModel(
        config=tiny_model.config,
        encoder=tiny_model.encoder,
        projector=tiny_model.projector,
        decoder=tiny_model.decoder,
        tokenizer=with_template(tiny_model.tokenizer, "hermes"),
    ).eval()


@pytest.fixture
def chain(recorded):
    """A chain around it; in the end the documents are as they were, and answers were true."""
    made = Chain(recorded)
    yield made
    assert made.stored() == documents()


@pytest.fixture
def agent_chain(tool_model):
    """A chain whose model takes tools."""
    made = Chain(RecordedEngine(tool_model, p=0.2), max_tokens=100)
    yield made
    assert made.stored() == documents()


@pytest.fixture
def check():
    """The check of `tests.recorded` for the documents of the chain."""

    def run(chain, **settings):
        check_vectors(chain.engine, TEXTS.values(), **settings)

    return run
