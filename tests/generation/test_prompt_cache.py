"""KV caches kept between the turns of a chat."""

import threading

import numpy as np
import pytest
import torch

from refrag_rag import InputError, Refrag
from refrag_rag.generation.prompt_cache import VECTOR, Inputs, reusable_config
from refrag_rag.model.projector import Projector
from refrag_rag.prompt import CompressedPrompt, TextSegment, VectorSegment
from refrag_rag.spans import wrap
from tests.architectures import DECODERS
from tests.conftest import build_model

PASSAGES = [
    "Velmora Works\nVelmora Works was founded by Anna Keld in 1912. It makes clocks.",
    "Mount Tarsk is 2,310 metres high. It stands in Belu and was climbed in 1871 by Leo P.",
    "Belu is a country in the north. Its capital is Orm, and its people make clocks and boats.",
]


def chat(*turns, passages=PASSAGES):
    context = "\n\n".join(wrap(passage) for passage in passages)
    roles = ("user", "assistant")
    said = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    return [{"role": "system", "content": f"Answer from these:\n{context}"}, *said]


@pytest.fixture
def cached(model):
    return Refrag(model, policy="none", prompt_cache=2)


def second_turn(engine, **arguments):
    first = engine.generate(chat("Who founded it?"), max_new_tokens=6, **arguments)
    turns = chat("Who founded it?", first.text, "And how high is the mountain?")
    return engine.generate(turns, max_new_tokens=8, **arguments)


@pytest.mark.parametrize("policy", ["none", "exact", "all"])
def test_second_turn_prefills_only_what_is_new_and_answers_the_same(model, policy):
    plain = second_turn(Refrag(model, policy=policy))
    engine = Refrag(model, policy=policy, prompt_cache=1)
    prefilled = []
    hook = model.decoder.register_forward_pre_hook(
        lambda _, __, given: (
            prefilled.append(given["inputs_embeds"].shape[1]) if "inputs_embeds" in given else None
        ),
        with_kwargs=True,
    )
    try:
        reused = second_turn(engine)
    finally:
        hook.remove()
    assert reused.token_ids == plain.token_ids
    assert plain.counts.reused_positions == 0
    counts = reused.counts
    assert prefilled[1] == counts.positions - counts.reused_positions
    assert counts.reused_positions > 0.6 * counts.positions
    assert reused.metadata()["reused_positions"] == counts.reused_positions


def test_logits_after_reuse_are_those_without(model, cached):
    logits = []
    hook = model.decoder.register_forward_hook(lambda _, __, out: logits.append(out.logits[0, -1]))
    try:
        second_turn(cached)
        with_reuse = list(logits)
        logits.clear()
        second_turn(Refrag(model, policy="none"))
    finally:
        hook.remove()
    assert len(with_reuse) == len(logits)
    for one, other in zip(with_reuse, logits, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_same_prompt_again_leaves_one_position_to_compute(cached):
    first = cached.generate(chat("Why?"), max_new_tokens=4)
    again = cached.generate(chat("Why?"), max_new_tokens=4)
    assert again.token_ids == first.token_ids
    assert again.counts.reused_positions == again.counts.positions - 1


def test_off_by_default_and_batches_read_without(model, cached):
    assert second_turn(Refrag(model)).counts.reused_positions == 0
    for answer in cached.generate_batch([chat("Why?")] * 2, max_new_tokens=2):
        assert answer.counts.reused_positions == 0
    assert len(cached.prompt_cache) == 0


def test_another_expansion_or_passage_is_no_hit_behind_it(model):
    engine = Refrag(model, policy="none", prompt_cache=3)
    engine.generate(chat("Why?"), max_new_tokens=2)
    head = engine.compress(chat("Why?")).segments[0]
    everything = engine.generate(chat("Why?"), max_new_tokens=2, policy="all")
    assert everything.counts.reused_positions <= len(head.token_ids)
    other = engine.generate(chat("Why?", passages=PASSAGES[::-1]), max_new_tokens=2)
    assert other.counts.reused_positions <= len(head.token_ids)
    assert (
        other.token_ids
        == Refrag(model, policy="none")
        .generate(chat("Why?", passages=PASSAGES[::-1]), max_new_tokens=2)
        .token_ids
    )


def test_an_abandoned_stream_is_kept(cached):
    pieces = cached.stream(chat("Why?"), max_new_tokens=20)
    next(pieces)
    pieces.close()
    again = cached.generate(chat("Why?"), max_new_tokens=3)
    assert again.counts.reused_positions == again.counts.positions - 1


def test_a_step_that_failed_is_not_kept(model, cached, monkeypatch):
    layer = model.decoder.model.layers[1]
    monkeypatch.setattr(layer, "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cached.generate(chat("Why?"), max_new_tokens=3)
    assert len(cached.prompt_cache) == 0


def test_kept_are_the_last_used_and_a_chat_takes_one_place(model):
    engine = Refrag(model, policy="none", prompt_cache=2)
    second_turn(engine)
    assert len(engine.prompt_cache) == 1
    size = engine.prompt_cache.nbytes
    config = model.decoder.config
    head = config.hidden_size // config.num_attention_heads
    per_position = 2 * config.num_hidden_layers * config.num_key_value_heads * head * 4
    assert size % per_position == 0
    for passages in (PASSAGES[:1], PASSAGES[1:2], PASSAGES[2:]):
        engine.generate(chat("Why?", passages=passages), max_new_tokens=2)
        assert len(engine.prompt_cache) <= 2
    kept = [
        engine.generate(chat("Why?", passages=p), max_new_tokens=2).counts.reused_positions
        for p in (PASSAGES[2:], PASSAGES[1:2])
    ]
    assert min(kept) > 16
    engine.prompt_cache.clear()
    assert (len(engine.prompt_cache), engine.prompt_cache.nbytes) == (0, 0)


def test_threads_share_it(model):
    engine = Refrag(model, policy="none", prompt_cache=2)
    expected = {i: second_turn(Refrag(model, policy="none"), seed=i).token_ids for i in range(4)}
    found = {}

    def work(i):
        found[i] = second_turn(engine, seed=i).token_ids

    threads = [threading.Thread(target=work, args=(i,)) for i in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


@pytest.mark.parametrize("limit", [-1, True, 1.5])
def test_a_limit_that_is_no_number_is_refused(model, limit):
    with pytest.raises(InputError, match="prompt_cache"):
        Refrag(model, prompt_cache=limit)


@pytest.mark.parametrize("architecture", DECODERS, ids=lambda one: one.name)
def test_every_architecture_reuses_rightly_or_not_at_all(tokenizer, architecture):
    """Sliding windows and recurrent layers never; the others to the token."""
    model = build_model(tokenizer)
    decoder = architecture.model()
    if decoder.get_input_embeddings().weight.shape != (len(tokenizer), 48):
        pytest.skip("of another width or vocabulary")
    model.decoder = decoder
    passages = [" ".join(PASSAGES)] * 2
    engine = Refrag(model, policy="none", prompt_cache=1)
    text = "\n".join(wrap(passage) for passage in passages) + " Who is it? "
    first = engine.generate(text, max_new_tokens=5)
    longer = text + first.text + " And then?"
    second = engine.generate(longer, max_new_tokens=5)
    plain = Refrag(model, policy="none").generate(longer, max_new_tokens=5)
    assert second.token_ids == plain.token_ids
    config = decoder.config
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        assert not reusable_config(model)
        assert second.counts.reused_positions == 0
    elif architecture.name == "Llama":
        assert second.counts.reused_positions > 0


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_scaled_by_the_length_are_never_reused(tokenizer, kind):
    model = build_model(tokenizer)
    assert reusable_config(model)
    model.decoder.config.rope_parameters = {"rope_type": kind, "rope_theta": 10000.0}
    assert not reusable_config(model)


def inputs(*parts):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(9, 4)).astype(np.float16)
    ids = [i for part in parts for i in ([part] if part >= 0 else [VECTOR])]
    return Inputs(np.array(ids), rows[[-part for part in parts if part < 0]])


@pytest.mark.parametrize(
    ("one", "other", "shared", "whole"),
    [
        ((5, 6, 7), (5, 6, 8), 2, 2),
        ((5, -1, -2, 7), (5, -1, -2, 7, 8), 4, 4),
        ((5, -1, -2, 7), (5, -1, -3, 7), 2, 1),
        ((5, -1, -2), (5, -1, -2, -3), 3, 1),
        ((5, -1, 6), (5, -1, -2), 2, 1),
        ((-1, -2), (-1, -3), 1, 0),
        ((5,), (6,), 0, 0),
    ],
)
def test_what_is_shared(one, other, shared, whole):
    assert inputs(*one).shared(inputs(*other), whole_runs=False) == shared
    assert inputs(*other).shared(inputs(*one), whole_runs=False) == shared
    assert inputs(*one).shared(inputs(*other), whole_runs=True) == whole
    assert inputs(*other).shared(inputs(*one), whole_runs=True) == whole


def test_equal_ids_with_another_vector_are_not_shared(model, cached):
    """What counts are the vectors, not the text that they were made of."""
    rows = np.random.default_rng(0).normal(size=(40, model.config.chunk_width)).astype("f4")
    texts = ("same",) * 40
    prompts = [
        CompressedPrompt((TextSegment((5,) * 20, "x"), VectorSegment(r, texts, 40)))
        for r in (rows, rows + np.eye(40, rows.shape[1], -30, "f4"))
    ]
    cache = cached.prompt_cache
    from refrag_rag.generation.decode import decode
    from refrag_rag.generation.request import Sampling

    for _ in decode(model, prompts[:1], Sampling(max_new_tokens=1), cache.start(prompts[:1])):
        pass
    assert cache.start(prompts[:1]).positions == 59
    assert cache.start(prompts[1:]).positions == 20 + 30
    assert isinstance(model.projector, Projector)
