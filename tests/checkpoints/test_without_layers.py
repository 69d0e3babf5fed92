"""A decoder's embeddings without its layers, and where the whole decoder lies to be served."""

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from refrag_rag import CheckpointError, RefragModel
from refrag_rag.checkpoints import decoder_folder
from refrag_rag.checkpoints.lora import ADAPTER, attach
from refrag_rag.checkpoints.parts import Placement, read_decoder
from refrag_rag.cli import main
from tests.architectures import DECODERS, VOCABULARY
from tests.conftest import build_model


@pytest.mark.parametrize("architecture", DECODERS, ids=lambda one: one.name)
def test_tokens_are_embedded_as_by_the_whole_decoder(architecture, tmp_path, capfd):
    whole = architecture.model()
    whole.save_pretrained(tmp_path)
    capfd.readouterr()
    decoder = read_decoder(tmp_path, Placement(layers=False))
    ids = torch.arange(VOCABULARY)
    embedded = (one.get_input_embeddings()(ids) for one in (decoder, whole))
    assert torch.equal(*embedded)
    assert not [name for name, _ in decoder.named_parameters() if ".0." in name]
    assert "UNEXPECTED" not in capfd.readouterr().err
    assert decoder.generation_config.eos_token_id == whole.generation_config.eos_token_id


def test_an_adapter_is_not_needed_where_nothing_is_decoded(tokenizer, tmp_path):
    model = build_model(tokenizer)
    attach(model.decoder, r=2, target_modules=["q_proj"])
    model.save_pretrained(tmp_path / "model")
    loaded = RefragModel.from_pretrained(tmp_path / "model", layers=False)
    assert loaded.decoder.config.num_hidden_layers == 0
    with pytest.raises(CheckpointError, match="refrag train delta"):
        decoder_folder(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / ADAPTER)
    assert decoder_folder(tmp_path / "model") == tmp_path / "model" / "decoder"


def test_the_command_prints_the_folder_that_is_served(model, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    assert main(["path", str(tmp_path / "model")]) == 0
    folder = capsys.readouterr().out.strip()
    assert AutoModelForCausalLM.from_pretrained(folder).config.hidden_size == 48
    assert main(["path", str(tmp_path / "nothing")]) == 1
