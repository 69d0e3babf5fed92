"""The readable start: a chunk of one token is its own embedding, and places can be told apart."""

from random import Random

import pytest
import torch

from refrag_rag import RefragModel
from refrag_rag.errors import InputError
from refrag_rag.training.data.documents import Documents
from refrag_rag.training.readable_start import start_readable


@pytest.fixture
def fresh(parts, prepared):
    options = {"k": 8, "window": 32, "pooling": "linear", "chunk_sizes": (8, 4)}
    model = RefragModel.compose(2, parts / "decoder", **options)
    return model, Documents.open(prepared / "text", model.tokenizer)


def vectors(model, text, k):
    passage = model.chunker.chunk(text, k=k)
    with torch.inference_mode():
        (embedded,) = model.encode([passage])
        tokens = model.decoder.get_input_embeddings()(torch.tensor(passage.token_ids))
        return model.projector(embedded), tokens, passage


def test_a_chunk_of_one_token_is_close_to_its_embedding(fresh):
    model, documents = fresh
    share = start_readable(model, documents, Random(0))
    assert 0.3 < share <= 1
    text = model.tokenizer.decode(documents.run(Random(5), 40))
    found, tokens, _ = vectors(model, text, 1)
    nearest = (
        torch.nn.functional.normalize(found)
        @ torch.nn.functional.normalize(model.decoder.get_input_embeddings().weight).T
    )
    left = (found - tokens).square().sum() / (tokens - tokens.mean(0)).square().sum()
    assert left < 1 - share + 0.3
    right = nearest.argmax(-1) == torch.tensor(model.tokenizer(text).input_ids)
    assert right.float().mean() > 0.5


def test_places_are_turned_so_that_the_order_can_be_told(fresh):
    model, documents = fresh
    start_readable(model, documents, Random(0))
    pooling = model.encoder.pooling
    one = torch.randn(model.config.encoder_width)
    nothing = torch.zeros_like(one)
    with torch.inference_mode():
        first = pooling(torch.cat([one, nothing])[None])[0]
        second = pooling(torch.cat([nothing, one])[None])[0]
        torch.testing.assert_close(first.norm(), second.norm())
        assert torch.cosine_similarity(first, second, dim=0).abs() < 0.7
        around = torch.randn(5, model.config.decoder_width)
        torch.testing.assert_close(model.projector(around), around)
    assert model.config.projector_width == 2 * model.config.decoder_width


def test_the_encoder_is_the_decoders_first_layers(fresh):
    model, _ = fresh
    ids = torch.tensor([[5, 9, 30, 11]])
    with torch.inference_mode():
        hidden = model.decoder(ids, output_hidden_states=True).hidden_states[-1]
        own = model.encoder.model(ids).last_hidden_state
    torch.testing.assert_close(hidden, own)  # the decoder has two layers
    assert model.config.shared_vocabulary


def test_what_cannot_start_so_is_refused(parts, prepared):
    model = RefragModel.compose(parts / "encoder", parts / "decoder", k=8)
    documents = Documents.open(prepared / "text", model.tokenizer)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match="readable_start needs linear pooling"):
        start_readable(model, documents, Random(0))
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
