"""The learned pooling against a slow reference, and k that is chosen when a model is loaded."""

import dataclasses

import pytest
import torch

from recipes.tiny.tokenizer import train_tokenizer
from recipes.tiny.world import World
from refrag_rag import CheckpointError, InputError, Refrag, RefragConfig, RefragModel
from refrag_rag.model.encoder import ChunkEncoder, LinearPooling, build_pooling
from refrag_rag.model.projector import Projector
from refrag_rag.store import MemoryStore
from refrag_rag.training.reading import embed
from tests.architectures import DECODERS, ENCODERS
from tests.checkpoints.test_lclm import END, MEMORY, START, write
from tests.conftest import build_model
from tests.engine.test_engine import PASSAGES, messages
from tests.model.test_encoder import foreign, states

TEXTS = [PASSAGES[0], PASSAGES[2], ""]


def linear_model(tokenizer, *, k=8, window=32, sizes=(8, 4), width=None, pooling="linear"):
    """The tiny random model of `build_model` with several chunk sizes."""
    plain = build_model(tokenizer, k=k, window=window)
    config = dataclasses.replace(
        plain.config, pooling=pooling, chunk_sizes=sizes, pooling_width=width
    )
    torch.manual_seed(1)
    return RefragModel(
        config=config,
        encoder=ChunkEncoder(plain.encoder.model, tokenizer, config, build_pooling(config)),
        projector=Projector(config.chunk_width, config.decoder_width),
        decoder=plain.decoder,
        tokenizer=tokenizer,
    ).eval()


@pytest.fixture(scope="module")
def linear(tokenizer):
    return linear_model(tokenizer)


@pytest.fixture(scope="module")
def saved(linear, tmp_path_factory):
    folder = tmp_path_factory.mktemp("linear") / "model"
    linear.save_pretrained(folder)
    return folder


def side_by_side(model, passage):
    """A passage's chunks one after the other: their states, with zeros behind a short chunk."""
    k, window = model.config.k, model.config.window
    rows = []
    for start in range(0, len(passage.token_ids), window):
        for chunk in states(model, passage.token_ids[start : start + window]).split(k):
            padded = torch.zeros(k, chunk.shape[1])
            padded[: len(chunk)] = chunk
            rows.append(padded.flatten())
    return torch.stack(rows)  # (L, k * encoder_width)


@pytest.mark.parametrize("window", [8, 32])
@pytest.mark.parametrize("k", [8, 4])
@pytest.mark.parametrize("width", [None, 20])
def test_states_side_by_side_go_through_the_map(tokenizer, window, k, width):
    model = linear_model(tokenizer, k=k, window=window, width=width)
    passages = [model.chunker.chunk(text) for text in TEXTS]
    assert any(passage.chunk_lengths[-1] < k for passage in passages if len(passage))
    weight, bias = model.encoder.pooling.map.weight, model.encoder.pooling.map.bias
    assert weight.shape == (width or 32, 8 * 32)  # as many places as the longest chunk
    for passage, found in zip(passages, model.encode(passages), strict=True):
        assert found.shape == (len(passage), width or 32)
        if len(passage):
            joined = side_by_side(model, passage)
            rows = [weight[:, : k * 32] @ row + bias for row in joined]
            torch.testing.assert_close(found, torch.stack(rows), atol=1e-5, rtol=1e-5)


def test_a_short_chunk_has_zeros_for_what_it_lacks(tokenizer):
    """So the same tokens give the same vector in a model of larger chunks."""
    small, large = (linear_model(tokenizer, k=k, window=k) for k in (4, 8))
    ids = small.chunker.chunk(PASSAGES[0]).token_ids[:4]
    text = small.tokenizer.decode(ids).strip()
    one, other = (model.chunker.chunk(text) for model in (small, large))
    assert len(one) == len(other) == 1
    torch.testing.assert_close(small.encode([one])[0], large.encode([other])[0])


def test_the_pooling_can_be_folded_into_the_projector_of_concat(tokenizer):
    model = linear_model(tokenizer, sizes=None, width=24)
    pool, hidden = model.encoder.pooling.map, model.projector.hidden
    config = dataclasses.replace(model.config, pooling="concat", pooling_width=None)
    folded = Projector(config.chunk_width, config.decoder_width)
    with torch.no_grad():
        folded.output.load_state_dict(model.projector.output.state_dict())
        folded.hidden.weight.copy_(hidden.weight @ pool.weight)
        folded.hidden.bias.copy_(hidden.weight @ pool.bias + hidden.bias)
    concat = RefragModel(
        config=config,
        encoder=ChunkEncoder(model.encoder.model, tokenizer, config),
        projector=folded,
        decoder=model.decoder,
        tokenizer=tokenizer,
    )
    passages = [model.chunker.chunk(text) for text in TEXTS]
    for ours, theirs in zip(model.encode(passages), concat.encode(passages), strict=True):
        with torch.inference_mode():
            vectors, expected = model.projector(ours), concat.projector(theirs)
        torch.testing.assert_close(vectors, expected, atol=1e-4, rtol=1e-4)


def test_a_new_map_is_one_rotation_a_place(tokenizer):
    pooling = LinearPooling(3, 6, 6).start()
    assert not pooling.map.bias.any()
    for place in pooling.map.weight.chunk(3, dim=1):
        torch.testing.assert_close(place @ place.T, torch.eye(6))


def logits(model):
    inputs = model.decoder_inputs([Refrag(model, policy="none").compress(messages())])
    with torch.inference_mode():
        return model.decoder(inputs_embeds=inputs.inputs_embeds).logits


def test_saved_then_loaded_gives_the_same_embeddings_and_logits(linear, saved):
    loaded = RefragModel.from_pretrained(saved)
    assert loaded.config == linear.config
    assert loaded.fingerprint == linear.fingerprint
    passages = [linear.chunker.chunk(text) for text in TEXTS]
    for ours, theirs in zip(linear.encode(passages), loaded.encode(passages), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(logits(loaded), logits(linear))
    assert (saved / "pooling.safetensors").is_file()


@pytest.mark.parametrize("fault", ["gone", "cut", "narrow"])
def test_a_checkpoint_without_its_pooling_is_refused(tokenizer, tmp_path, fault):
    linear_model(tokenizer).save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "pooling.safetensors"
    if fault == "gone":
        path.unlink()
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        linear_model(tokenizer, sizes=(8, 16)).save_pretrained(tmp_path / "wide")
        path.write_bytes((tmp_path / "wide" / "pooling.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"pooling\.safetensors"):
        RefragModel.from_pretrained(tmp_path / "model")


def test_the_fingerprint_follows_the_map_and_k(tokenizer):
    seen = {linear_model(tokenizer).fingerprint, linear_model(tokenizer, k=4).fingerprint}
    changed = linear_model(tokenizer)
    with torch.no_grad():
        changed.encoder.pooling.map.bias[0] += 0.25
    assert len(seen | {changed.fingerprint}) == 3
    assert linear_model(tokenizer).fingerprint in seen


@pytest.mark.parametrize("k", [8, 4])
def test_gradients_reach_the_map_for_the_places_that_were_read(tokenizer, k):
    model = linear_model(tokenizer, k=k)
    passages = [model.chunker.chunk(text) for text in PASSAGES]
    embedded = embed(model, passages)
    assert torch.equal(embedded.detach(), torch.cat(model.encode(passages)))
    model.projector(embedded).square().sum().backward()
    used = model.encoder.pooling.map.weight.grad.abs().sum(0).view(8, 32).sum(1) > 0
    assert used.tolist() == [place < k for place in range(8)]
    assert model.encoder.pooling.map.bias.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.encoder.model.encoder.parameters())


# --- composed ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(tmp_path_factory, tokenizer):
    place = tmp_path_factory.mktemp("parts")
    for name, architecture in (("encoder", ENCODERS[0]), ("decoder", DECODERS[0])):
        architecture.model().save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    return place / "encoder", place / "decoder"


@pytest.mark.parametrize("width", [None, 20])
def test_any_two_parts_can_be_put_together_with_it(parts, tmp_path, width):
    model = RefragModel.compose(
        *parts, k=8, pooling="linear", chunk_sizes=(8, 4), pooling_width=width
    )
    assert model.config.chunk_width == (width or 48)
    assert not model.encoder.pooling.map.bias.any()  # started, not as torch begins
    model.save_pretrained(tmp_path / "model")
    for k in (8, 4):
        loaded = RefragModel.from_pretrained(tmp_path / "model", k=k)
        answer = Refrag(loaded, policy="none").generate(messages(), max_new_tokens=2)
        chunks = sum(-(-len(loaded.chunker.chunk(p).token_ids) // k) for p in PASSAGES)
        assert answer.counts.positions < answer.counts.plain_positions
        assert sum(len(loaded.chunker.chunk(p)) for p in PASSAGES) == chunks


def test_the_parts_dtype_is_the_maps(parts):
    model = RefragModel.compose(*parts, k=8, pooling="linear", dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


# --- what is refused -----------------------------------------------------------------------

BASIC = {
    "name": "t", "k": 8, "window": 32, "encoder_width": 32, "decoder_width": 48,
    "shared_vocabulary": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "mean", "pooling_width": 16}, "only with 'linear'"),
        ({"pooling": "concat", "pooling_width": 16}, "only with 'linear'"),
        ({"pooling": "linear", "pooling_width": 0}, "at least 1"),
        ({"pooling": "concat", "chunk_sizes": (8, 4)}, "Use pooling = 'linear'"),
        ({"pooling": "linear", "shared_vocabulary": False}, "shares the vocabulary"),
        ({"pooling": "linear", "projector": "attn_norm_mlp"}, "not joined ones"),
        ({"chunk_sizes": (16, 4)}, "one of them"),
        ({"chunk_sizes": (8, 2)}, "at least 4"),
        ({"chunk_sizes": ()}, None),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings, message):
    if message is None:
        assert RefragConfig(**{**BASIC, **settings}).sizes == (8,)
    else:
        with pytest.raises(InputError, match=message):
            RefragConfig(**{**BASIC, **settings})


def test_an_encoder_has_its_map_or_none(tokenizer, linear):
    with pytest.raises(CheckpointError, match="'linear' with no learned pooling"):
        ChunkEncoder(linear.encoder.model, tokenizer, linear.config)
    mean = dataclasses.replace(linear.config, pooling="mean")
    with pytest.raises(CheckpointError, match="'mean' with a learned pooling"):
        ChunkEncoder(linear.encoder.model, tokenizer, mean, linear.encoder.pooling)


def test_an_encoder_with_a_vocabulary_of_its_own_is_refused(parts, tokenizer, tmp_path):
    encoder, _, _ = foreign(tokenizer)
    encoder.model.save_pretrained(tmp_path / "foreign")
    encoder.tokenizer.save_pretrained(tmp_path / "foreign")
    with pytest.raises(InputError, match="shares the vocabulary"):
        RefragModel.compose(tmp_path / "foreign", parts[1], k=8, pooling="linear")


# --- k when a model is loaded --------------------------------------------------------------


def test_a_model_cuts_chunks_of_the_k_it_is_loaded_with(linear, saved):
    loaded = RefragModel.from_pretrained(saved, k=4)
    assert (loaded.config.k, loaded.config.window) == (4, 32)
    assert loaded.config.sizes == linear.config.sizes
    ids = list(linear.chunker.chunk(PASSAGES[0]).token_ids)
    assert [list(one) for one in loaded.chunker.chunk(PASSAGES[0]).chunk_ids()] == [
        ids[start : start + 4] for start in range(0, len(ids), 4)
    ]
    assert loaded.fingerprint == linear_model(loaded.tokenizer, k=4).fingerprint


def test_two_sizes_share_a_store_and_do_not_meet(saved):
    store = MemoryStore()
    alone = {}
    for k in (8, 4):
        engine = Refrag(RefragModel.from_pretrained(saved, k=k), policy="none")
        alone[k] = engine.generate(messages(), max_new_tokens=4)
    engines = {
        k: Refrag(RefragModel.from_pretrained(saved, k=k), store=store, policy="none")
        for k in (8, 4)
    }
    assert engines[8].model.fingerprint != engines[4].model.fingerprint
    for _ in range(2):
        for k, engine in engines.items():
            report = engine.precompute(PASSAGES)
            assert report.passages == len(PASSAGES)
            answer = engine.generate(messages(), max_new_tokens=4)
            assert answer.token_ids == alone[k].token_ids
            assert answer.counts.positions == alone[k].counts.positions
            assert answer.counts.cache_misses == 0
    assert alone[4].counts.positions > alone[8].counts.positions


@pytest.mark.parametrize("k", [5, 16, 0, -4, "4", None, 4.5])
def test_a_k_that_was_not_trained_names_those_that_were(saved, k):
    if k is None:
        assert RefragModel.from_pretrained(saved, k=None).config.k == 8
    else:
        with pytest.raises(InputError, match="4 or 8 tokens") as caught:
            RefragModel.from_pretrained(saved, k=k)
        assert repr(k) in str(caught.value)


def test_a_model_of_one_size_names_that_one(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    assert RefragModel.from_pretrained(tmp_path / "model", k=8).fingerprint == model.fingerprint
    with pytest.raises(InputError, match="trained on chunks of 8 tokens"):
        RefragModel.from_pretrained(tmp_path / "model", k=4)


@pytest.mark.parametrize("pooling", ["linear", "mean"])
def test_windows_of_one_chunk_follow_k(tokenizer, tmp_path, pooling):
    model = linear_model(tokenizer, window=8, pooling=pooling)
    model.save_pretrained(tmp_path / "model")
    loaded = RefragModel.from_pretrained(tmp_path / "model", k=4)
    assert (loaded.config.k, loaded.config.window) == (4, 4)
    same = linear_model(tokenizer, k=4, window=4, pooling=pooling)
    passage = loaded.chunker.chunk(PASSAGES[0])
    assert torch.equal(loaded.encode([passage])[0], same.encode([passage])[0])
    (ids, *_) = passage.chunk_ids()
    alone = loaded.chunker.chunk(tokenizer.decode(ids).strip())
    assert alone.token_ids == tuple(ids)
    torch.testing.assert_close(loaded.encode([alone])[0][0], loaded.encode([passage])[0][0])


def test_mean_pooling_takes_several_sizes_too(tokenizer, tmp_path):
    linear_model(tokenizer, pooling="mean").save_pretrained(tmp_path / "model")
    loaded = RefragModel.from_pretrained(tmp_path / "model", k=4)
    passage = loaded.chunker.chunk(PASSAGES[0])
    expected = [
        chunk.mean(0)
        for start in range(0, len(passage.token_ids), 32)
        for chunk in states(loaded, passage.token_ids[start : start + 32]).split(4)
    ]
    torch.testing.assert_close(loaded.encode([passage])[0], torch.stack(expected))
    assert Refrag(loaded).generate(messages(), max_new_tokens=2).counts.new_tokens


def test_a_checkpoint_of_lclms_layout_has_its_own_k_alone(tmp_path, tokenizer):
    marked = train_tokenizer(World(), vocab_size=600, passages=200, seed=0)
    marked.add_special_tokens({"additional_special_tokens": [START, END, MEMORY]})
    write(tmp_path / "foreign", (tokenizer, marked))
    assert RefragModel.from_pretrained(tmp_path / "foreign", k=4).config.k == 4
    with pytest.raises(InputError, match="chunks of 4 tokens"):
        RefragModel.from_pretrained(tmp_path / "foreign", k=8)
