"""Every common architecture: expand-all is the plain model, batch is single, saved is loaded."""

import pytest
import torch
import transformers as hf

from recipes.tiny.tokenizer import train_tokenizer
from recipes.tiny.world import World
from refrag_rag import CheckpointError, Refrag, RefragConfig, RefragModel
from refrag_rag.model.encoder import ChunkEncoder
from refrag_rag.model.projector import Projector
from refrag_rag.prompt import VECTOR
from tests.architectures import DECODERS, ENCODERS, GROUPED, VOCABULARY
from tests.engine.test_engine import PASSAGES, greedy, messages
from tests.tokenizer_families import FAMILIES

NAMES = {"ids": lambda item: item.name}


def joined(tokenizer, encoder, decoder, *, window=32, shared=True, reader=None):
    torch.manual_seed(1)
    config = RefragConfig(
        name="joined",
        k=8,
        window=window,
        shared_vocabulary=shared,
        encoder_width=encoder.config.hidden_size,
        decoder_width=decoder.get_input_embeddings().weight.shape[1],
    )
    return RefragModel(
        config=config,
        encoder=ChunkEncoder(encoder, reader or tokenizer, config),
        projector=Projector(config.chunk_width, config.decoder_width),
        decoder=decoder,
        tokenizer=tokenizer,
    ).eval()


@pytest.fixture(scope="module")
def other_tokenizer():
    """Another vocabulary, for encoders that do not share the decoder's."""
    return train_tokenizer(World(), vocab_size=500, passages=100, seed=3)


@pytest.fixture(scope="module", params=DECODERS, **NAMES)
def with_decoder(request, tokenizer):
    assert len(tokenizer) <= VOCABULARY
    return joined(tokenizer, ENCODERS[0].model(), request.param.model())


@pytest.fixture(scope="module", params=ENCODERS, **NAMES)
def with_encoder(request, tokenizer):
    return joined(tokenizer, request.param.model(), DECODERS[0].model())


def answer_ids(model, prompts, **options):
    answers = Refrag(model).generate_batch(prompts, max_new_tokens=8, **options)
    return [answer.token_ids for answer in answers]


def check_expand_all(model):
    prompt = Refrag(model).compress(messages(), policy="all")
    inputs = model.decoder_inputs([prompt])
    with torch.inference_mode():
        ours = model.decoder(inputs_embeds=inputs.inputs_embeds).logits
        plain = model.decoder(input_ids=torch.tensor([prompt.ids.tolist()])).logits
    torch.testing.assert_close(ours, plain)
    made = answer_ids(model, [messages()], policy="all")[0]
    assert list(made) == greedy(model, prompt.ids.tolist(), 8)


def check_batch(model):
    prompts = [messages(), messages(PASSAGES[2:]), messages(PASSAGES * 2, "Where is it?")]
    singles = [answer_ids(model, [prompt], p=0.2)[0] for prompt in prompts]
    assert answer_ids(model, prompts, p=0.2) == singles


def check_saved(model, folder):
    model.save_pretrained(folder)
    loaded = RefragModel.from_pretrained(folder)
    assert type(loaded.decoder) is type(model.decoder)
    assert type(loaded.encoder.model) is type(model.encoder.model)
    prompt = Refrag(model).compress(messages(), policy="none")
    again = Refrag(loaded).compress(messages(), policy="none")
    ours, theirs = model.decoder_inputs([prompt]), loaded.decoder_inputs([again])
    torch.testing.assert_close(ours.inputs_embeds, theirs.inputs_embeds, rtol=0, atol=0)
    assert loaded.fingerprint == model.fingerprint


def test_decoder_with_all_chunks_expanded_is_the_plain_model(with_decoder):
    check_expand_all(with_decoder)


def test_decoder_batch_is_one_by_one(with_decoder):
    check_batch(with_decoder)


def test_decoder_saved_is_loaded(with_decoder, tmp_path):
    check_saved(with_decoder, tmp_path / "model")


def test_decoder_reads_vectors(with_decoder):
    prompt = Refrag(with_decoder).compress(messages(), policy="none")
    inputs = with_decoder.decoder_inputs([prompt])
    assert prompt.positions < prompt.plain_positions
    with torch.inference_mode():
        read = with_decoder.decoder(inputs_embeds=inputs.inputs_embeds).logits[0, -1]
        changed = inputs.inputs_embeds.clone()
        changed[0, prompt.ids == VECTOR] *= -1
        other = with_decoder.decoder(inputs_embeds=changed).logits[0, -1]
    assert not torch.allclose(read, other)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("architecture", DECODERS, **NAMES)
def test_decoders_with_tokenizers_of_other_families(architecture, family):
    words = FAMILIES[family]()
    assert len(words) <= VOCABULARY
    model = joined(words, ENCODERS[0].model(), architecture.model())
    check_expand_all(model)
    prompt = Refrag(model).compress(messages(), policy="none")
    for layout, passage in zip(prompt.layouts, PASSAGES, strict=True):
        assert "".join(layout.text[a:b] for a, b in layout.places()) == passage


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("architecture", ENCODERS, **NAMES)
def test_encoders_with_tokenizers_of_other_families(architecture, family, tokenizer):
    words = FAMILIES[family]()
    decoder = DECODERS[0].model()
    for model in (
        joined(words, architecture.model(), decoder),
        joined(tokenizer, architecture.model(), decoder, shared=False, reader=words),
    ):
        passages = [model.chunker.chunk(text) for text in PASSAGES]
        for passage, embedded in zip(passages, model.encode(passages), strict=True):
            assert "".join(passage.chunk_texts()) == passage.text
            assert embedded.shape == (len(passage), model.config.chunk_width)
            assert torch.isfinite(embedded).all()


def test_encoder_batch_is_one_by_one(with_encoder):
    passages = [with_encoder.chunker.chunk(text) for text in (*PASSAGES, PASSAGES[0] * 3)]
    together = with_encoder.encode(passages)
    for passage, embedded in zip(passages, together, strict=True):
        torch.testing.assert_close(embedded, with_encoder.encode([passage])[0])
    check_batch(with_encoder)


def test_encoder_saved_is_loaded(with_encoder, tmp_path):
    check_saved(with_encoder, tmp_path / "model")


def test_encoder_of_another_vocabulary(with_encoder, tokenizer, other_tokenizer):
    encoder, decoder = with_encoder.encoder.model, with_encoder.decoder
    model = joined(tokenizer, encoder, decoder, shared=False, reader=other_tokenizer)
    check_batch(model)


def test_isolated_chunks_do_not_see_each_other(with_encoder, tokenizer):
    encoder, decoder = with_encoder.encoder.model, with_encoder.decoder
    model = joined(tokenizer, encoder, decoder, window=8)
    long, short = (model.chunker.chunk(text) for text in (PASSAGES[0] * 2, PASSAGES[0]))
    first, alone = model.encode([long, short])
    torch.testing.assert_close(first[:2], alone[:2])


def test_a_decoder_with_embeddings_in_every_layer_is_refused(tokenizer):
    config = hf.Gemma3nTextConfig(
        **{**GROUPED, "intermediate_size": [96, 96], "activation_sparsity_pattern": [0.0, 0.0]},
        head_dim=12,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=VOCABULARY,
        num_kv_shared_layers=0,
        laurel_rank=4,
        altup_num_inputs=2,
        layer_types=["sliding_attention", "full_attention"],
    )
    with pytest.raises(CheckpointError, match="in every layer"):
        joined(tokenizer, ENCODERS[0].model(), hf.Gemma3nForCausalLM(config))
