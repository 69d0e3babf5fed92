"""Compiled training: the same losses, and models as they were afterwards."""

from random import Random

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from transformers import LlamaForCausalLM

from benchmarks.models import TOKENIZER
from recipes.tiny.base import PlainReader
from recipes.tiny.layout import cut
from recipes.tiny.shape import decoder_config
from refrag_rag import RefragModel
from refrag_rag.checkpoints.lora import multiply_merged
from refrag_rag.checkpoints.parts import read_tokenizer
from refrag_rag.errors import InputError
from refrag_rag.model.compiling import compiled, missing_tools
from refrag_rag.training.batches import CollatedRows, Piece, arrange, collate, gold
from refrag_rag.training.loop import train
from refrag_rag.training.loss import next_token_loss
from refrag_rag.training.reading import Reader
from refrag_rag.training.stage import add_adapter
from tests.conftest import build_model
from tests.training.test_loop import FixedRows, losses, settings

# torch's compiler warns of its own doings, and turns a warning that is an error into one of its own
pytestmark = pytest.mark.filterwarnings("ignore")
needs_tools = pytest.mark.skipif(bool(missing_tools()), reason=f"lacks {missing_tools()}")


@needs_tools
def test_only_layers_are_compiled_and_only_for_a_while(tokenizer):
    model = build_model(tokenizer)
    names = list(model.state_dict())
    with compiled(Reader(model), wanted=True):
        chosen = [part for part in model.modules() if part._compiled_call_impl is not None]
        assert chosen == [*model.encoder.model.encoder.layer, *model.decoder.model.layers]
        assert list(model.state_dict()) == names
    assert not any(part._compiled_call_impl for part in model.modules())


def test_nothing_is_compiled_unless_asked_for():
    model = LlamaForCausalLM(decoder_config(64, width=32, layers=1))
    with compiled(nn.ModuleList([model]), wanted=False):
        assert not any(part._compiled_call_impl for part in model.modules())


class Watched(FixedRows):
    """Rows, and whether a model was compiled whenever they were drawn."""

    def __init__(self, rows, model):
        super().__init__(rows)
        self.model, self.compiled = model, set()

    def draw(self, rng, share):
        """The same rows."""
        self.compiled.add(self.model.model.layers[0]._compiled_call_impl is not None)
        return super().draw(rng, share)


def one_decoder():
    torch.manual_seed(0)
    return LlamaForCausalLM(decoder_config(64, width=32, layers=1))


@needs_tools
def test_compiling_changes_no_loss(tmp_path):
    rows = [arrange([gold(range(10, 50))], None), arrange([gold(range(9, 36))], None)]
    for wanted in (False, True):
        decoder = one_decoder()
        source = Watched(rows, decoder)
        how = settings(tmp_path / str(wanted), compile=wanted)
        train(PlainReader(decoder), source=source, settings=how, folder=how.out)
        assert source.compiled == {wanted}
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), rel=2e-5)


def test_without_a_compiler_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    how = settings(tmp_path / "run", compile=True)
    with pytest.raises(InputError, match="no-such-compiler"):
        train(PlainReader(one_decoder()), source=FixedRows([]), settings=how, folder=how.out)
    assert not how.out.exists()


@pytest.mark.slow
@needs_tools
def test_after_a_warm_up_nothing_is_compiled_again(tokenizer):
    torch._dynamo.reset()
    model = build_model(tokenizer, positions=512).train()
    reader, rng = Reader(model), Random(0)

    def step():
        rows = [random_row(rng, length=rng.randint(20, 200)) for _ in range(rng.randint(2, 6))]
        batch = CollatedRows(rows, collate(rows, cutter=model.encoder.cutter, most=512))
        next_token_loss(reader, batch, rows).loss.backward()

    with compiled(reader, wanted=True):
        for _ in range(4):
            step()
        before = counters["stats"]["unique_graphs"]
        for _ in range(30):
            step()
    assert before > 0
    assert counters["stats"]["unique_graphs"] == before


@pytest.mark.slow
@needs_tools
def test_layers_of_a_kind_share_their_code(tmp_path):
    """Encoder and decoder with an adapter, three layers each: two pieces of code in bf16."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    tokenizer = read_tokenizer(TOKENIZER)
    LlamaForCausalLM(decoder_config(9000, width=32, layers=3)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = RefragModel.compose(3, tmp_path, k=8, window=64, pooling="linear").train()
    add_adapter(model, rank=4)
    model.encoder.model.get_input_embeddings().requires_grad_(False)
    multiply_merged(model.decoder)
    reader, rng = Reader(model), Random(0)
    before = counters["stats"]["unique_graphs"]
    with compiled(reader, wanted=True), torch.autocast("cpu", torch.bfloat16):
        for share in (0.3, 1.0, 0.0):  # some vectors, none, all of them
            rows = [random_row(rng, length=60 + n, share=share) for n in range(3)]
            batch = CollatedRows(rows, collate(rows, cutter=model.encoder.cutter, most=512))
            next_token_loss(reader, batch, rows).loss.backward()
    assert counters["stats"]["unique_graphs"] - before == 2


def random_row(rng, *, length, share=0.3):
    ids = [rng.randrange(10, 500) for _ in range(length)]
    masks = [[rng.random() < share for _ in range(-(-length // 8))]]
    return arrange([Piece(ids, 0.1, chunked=cut(ids, 8)), gold(ids[: length // 4])], masks)
