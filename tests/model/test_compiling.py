"""What compiling needs is looked for before anything is done."""

import pytest
from transformers import LlamaForCausalLM

from recipes.tiny.shape import decoder_config
from refrag_rag import Refrag
from refrag_rag.errors import InputError
from refrag_rag.model.compiling import compile_model
from tests.conftest import TINY


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    model = LlamaForCausalLM(decoder_config(64, width=32, layers=1))
    with pytest.raises(InputError, match=r"compiler no-such-compiler .* without compile"):
        compile_model(model)
    assert model._compiled_call_impl is None


def test_an_engine_without_a_compiler_opens_no_store(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="no-such-compiler"):
        Refrag.load(TINY, store=tmp_path / "store", compile=True)
    assert not (tmp_path / "store").exists()
