"""An engine that decodes in a fake vLLM, and the same model whole."""

import pytest

from refrag_rag import Refrag
from refrag_rag.spans import wrap
from tests.conftest import TINY
from tests.sample_texts import OTHER, QUESTION, TEXTS
from tests.serving.fake_vllm import served

CONTEXT = "\n".join(map(wrap, TEXTS.values()))


def asked(question):
    return [{"role": "user", "content": f"{CONTEXT}\n{question}"}]


@pytest.fixture
def prompts():
    """Several of unlike lengths; one is plain text."""
    return [asked(QUESTION), asked(OTHER), "The captain of", asked(QUESTION)[:1]]


@pytest.fixture
def whole(tiny_model):
    return Refrag(tiny_model)


@pytest.fixture
def server(tiny_model):
    with served(tiny_model.decoder) as (one,):
        yield one


@pytest.fixture
def remote(server):
    return Refrag.load(TINY, backend=server.url)
