"""Compiled training: the same losses, and models as they were afterwards."""

import shutil

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from refrag_rag.training.batches import arrange
from refrag_rag.training.compiling import compiled
from refrag_rag.training.embedded import decoder_config
from refrag_rag.training.loop import train
from refrag_rag.training.reading import PlainReader, Reader
from refrag_rag.training.tasks import Piece
from tests.conftest import build_model
from tests.training.test_loop import FixedRows, losses, settings

# torch's compiler warns of its own doings, and turns a warning that is an error into one of its own
pytestmark = pytest.mark.filterwarnings("ignore")


def test_only_whole_models_are_compiled_and_only_for_a_while(tokenizer):
    model = build_model(tokenizer)
    names = list(model.state_dict())
    with compiled(Reader(model), wanted=True):
        chosen = [part for part in model.modules() if part._compiled_call_impl is not None]
        assert chosen == [model.encoder.model, model.decoder]
        assert list(model.state_dict()) == names
    assert not any(part._compiled_call_impl for part in model.modules())


def test_nothing_is_compiled_unless_asked_for():
    model = LlamaForCausalLM(decoder_config(64, width=32, layers=1))
    with compiled(nn.ModuleList([model]), wanted=False):
        assert not any(part._compiled_call_impl for part in model.modules())


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiling_changes_no_loss(tmp_path):
    rows = [arrange([Piece(range(10, 50), 1.0)], None), arrange([Piece(range(9, 36), 1.0)], None)]
    for wanted in (False, True):
        torch.manual_seed(0)
        reader = PlainReader(LlamaForCausalLM(decoder_config(64, width=32, layers=1)))
        how = settings(tmp_path / str(wanted), compile=wanted)
        train(reader, source=FixedRows(rows), settings=how, folder=how.out)
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), rel=2e-5)
