"""Answers from servers: the same as the model's own, and what goes wrong is told."""

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import torch

from refrag_rag import InputError, PromptTooLongError, Refrag, ServingError
from refrag_rag.generation.threads import read_in_thread
from refrag_rag.serving import Server
from tests.conftest import TINY, build_model
from tests.sample_texts import QUESTION
from tests.serving.conftest import asked
from tests.serving.fake_vllm import FULL, NO_EMBEDS, served

NOWHERE = "http://127.0.0.1:9"


def same(found, expected):
    def parts(one):
        counts = one.counts
        return one.text, one.token_ids, one.finish_reason, counts.positions, counts.new_tokens

    assert [*map(parts, found)] == [*map(parts, expected)]


def until(happened, seconds=20):
    ends = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_answers_are_those_of_the_model_itself(remote, whole, prompts):
    for settings in ({"max_new_tokens": 12}, {"p": 0.5, "policy": "exact"}, {"stop": ["h", " o"]}):
        expected = whole.generate_batch(prompts, **settings)
        same(remote.generate_batch(prompts, **settings), expected)
        same([remote.generate(prompt, **settings) for prompt in prompts], expected)
    assert "Smith" in remote.generate(prompts[0]).text
    assert remote.generate_batch([]) == []


def test_a_stream_is_the_answer_piece_by_piece(remote, whole, prompts):
    *deltas, last = remote.stream(prompts[0], max_new_tokens=12)
    assert len(deltas) > 2
    assert "".join(d.text for d in [*deltas, last]) == last.answer.text
    same([last.answer], [whole.generate(prompts[0], max_new_tokens=12)])
    assert 0 < last.answer.timings.ttft_s <= last.answer.timings.total_s


async def test_many_callers_at_once(remote, whole, prompts):
    expected = whole.generate_batch(prompts) * 4
    with ThreadPoolExecutor(16) as pool:
        same(list(pool.map(remote.generate, prompts * 4)), expected)

    async def answer(prompt):
        deltas = [d async for d in read_in_thread(lambda: remote.stream(prompt))]
        return deltas[-1].answer

    same(await asyncio.gather(*map(answer, prompts * 4)), expected)


def test_only_what_lays_out_prompts_is_loaded(remote, whole):
    assert remote.model.decoder.config.num_hidden_layers == 0
    ours, theirs = (e.model.decoder_inputs([e.compress(asked("?"))]) for e in (remote, whole))
    assert torch.equal(ours.inputs_embeds, theirs.inputs_embeds)
    assert remote.namespace == whole.namespace
    with pytest.raises(InputError, match="without its decoder's layers"):
        Refrag(remote.model)


def test_settings_arrive_under_the_servers_names(server, remote):
    remote.generate(
        "a", temperature=0.5, top_p=0.9, top_k=7, seed=2**64 - 1, stop=["x"], max_tokens=3
    )
    (body,) = server.bodies
    expected = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": -1, "max_tokens": 3}
    assert expected.items() <= body.items()
    assert body["model"] == "decoder"
    assert body["stop_token_ids"] == [remote.model.tokenizer.eos_token_id]
    assert not {"prompt", "stop"} & body.keys()  # one would be mixed in, one is found here
    with pytest.raises(InputError, match="Unknown arguments"):
        remote.generate("a", logit_bias={})
    with pytest.raises(InputError, match=r"repetition_penalty = 1\.5; expected 1"):
        remote.generate("a", repetition_penalty=1.5)
    assert len(server.bodies) == 1


def test_what_needs_the_decoder_is_refused(remote, server):
    for policy in ("perplexity", "exact+perplexity"):
        with pytest.raises(InputError, match="needs perplexity"):
            remote.generate("a", policy=policy)
        with pytest.raises(InputError, match="needs perplexity"):
            Refrag.load(TINY, backend=server.url, policy=policy)
    for settings in ({"scores": ["perplexity"]}, {"prompt_cache": 1}):
        with pytest.raises(InputError, match="expected neither"):
            Refrag.load(TINY, backend=server.url, **settings)
    for settings in ({"compile": True}, {"adapter": False}, {"quantization": "int8"}):
        with pytest.raises(InputError, match="Leave them out"):
            Refrag.load(TINY, backend=server.url, **settings)


def test_replicas_share_the_work(tiny_model, whole, prompts):
    with served(tiny_model.decoder, "", "", "") as servers:
        remote = Refrag.load(TINY, backend=[one.url for one in servers])
        same(remote.generate_batch(prompts * 3), whole.generate_batch(prompts * 3))
        assert [len(one.bodies) for one in servers] == [4, 4, 4]
        for _ in range(3):
            remote.generate(prompts[0])
        assert [len(one.bodies) for one in servers] == [5, 5, 5]
        servers[0].behaviour = "hangs"
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(remote.generate, prompts[0])
            until(lambda: len(servers[0].bodies) == 6)
            for _ in range(4):  # the one that is busy gets none of them
                remote.generate(prompts[0])
            assert len(servers[0].bodies) == 6
            servers[0].released.set()
            same([slow.result(30)], [whole.generate(prompts[0])])


def test_another_replica_takes_what_one_cannot(tiny_model, whole, prompts):
    with served(tiny_model.decoder, "503", "429", "") as servers:
        remote = Refrag.load(TINY, backend=[NOWHERE, *(one.url for one in servers)])
        same(remote.generate_batch(prompts), whole.generate_batch(prompts))
        servers[-1].behaviour = "503"
        with pytest.raises(ServingError, match=f"the last one says: .*{FULL}"):
            remote.generate(prompts[0])


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("dies", "broke off .*RemoteProtocolError"),
        ("ends early", "broke off"),
        ("error", "EngineCore died"),
        ("no ids", "expected token ids"),
        ("no flag", f"refuses the prompt: 400, {NO_EMBEDS[:12]}.*--enable-prompt-embeds"),
        ("429", "Ask again later"),
        ("503", "Ask again later"),
        ("hangs", "sent no token in 0.3 s"),
    ],
)
def test_what_goes_wrong_is_one_clear_error(tiny_model, prompts, behaviour, said):
    with served(tiny_model.decoder, behaviour) as (server,):
        timeout = 0.3 if behaviour == "hangs" else 60
        remote = Refrag.load(TINY, backend=Server(server.url, timeout=timeout))
        for ask in (remote.generate, lambda p, **s: list(remote.stream(p, **s))):
            with pytest.raises(ServingError, match=said):
                ask(prompts[0], max_new_tokens=9)
        with pytest.raises(ServingError, match=said):
            remote.generate_batch(prompts, max_new_tokens=9)
        until(lambda: set(remote.backend._busy.values()) == {0})


def test_a_server_that_is_not_there():
    remote = Refrag.load(TINY, backend=NOWHERE)
    with pytest.raises(ServingError, match="expected a vLLM server"):
        remote.generate("a")


def test_a_model_that_is_not_served(server):
    remote = Refrag.load(TINY, backend=Server(server.url, model="other"))
    with pytest.raises(ServingError, match="other"):
        remote.generate("a")


@pytest.mark.parametrize("given", ["localhost:8000", [], ["http://a", 3], 7, None.__class__])
def test_what_is_no_backend(given):
    with pytest.raises(InputError, match="backend = "):
        Refrag.load(TINY, backend=given)


def test_another_decoder_is_refused(tokenizer, tiny_model):
    with served(tiny_model.decoder) as (server,):
        remote = Refrag(build_model(tokenizer), backend=server.url)
        with pytest.raises(ServingError, match=r"hidden_size 48 does not match"):
            remote.generate("a")


def test_vectors_that_are_not_finite_are_not_sent(server, tokenizer):
    model = build_model(tokenizer)
    with torch.no_grad():
        model.projector.requires_grad_(False)
        for parameter in model.projector.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(ServingError, match="not finite"):
        Refrag(model, backend=server.url).generate(asked(QUESTION), p=0)
    assert server.bodies == []


def test_the_servers_window_counts(tiny_model):
    with served(tiny_model.decoder, window=40) as (server,):
        remote = Refrag.load(TINY, backend=server.url)
        assert remote.context_window == 40
        with pytest.raises(PromptTooLongError, match="the decoder reads 40"):
            remote.generate("word " * 60)
        taken = remote.compress("word").positions
        remote.generate("word", max_new_tokens=64)
        assert server.bodies[-1]["max_tokens"] == 40 - taken


def test_a_reader_that_goes_away_stops_the_server(tiny_model, prompts):
    with served(tiny_model.decoder, "slow") as (server,):
        remote = Refrag.load(TINY, backend=server.url)
        stream = remote.stream("a", max_new_tokens=64)
        next(stream)
        stream.close()
        time.sleep(0.5)
        seen = server.steps
        time.sleep(0.3)
        assert server.steps == seen < 64
        until(lambda: set(remote.backend._busy.values()) == {0})


def test_a_stop_string_ends_one_row_of_a_batch(tiny_model, whole, prompts):
    with served(tiny_model.decoder, "slow") as (server,):
        remote = Refrag.load(TINY, backend=server.url)
        first = whole.generate(prompts[2], max_new_tokens=30).text[:3]
        found = remote.generate_batch(prompts[1:3], max_new_tokens=30, stop=[first])
        same(found, whole.generate_batch(prompts[1:3], max_new_tokens=30, stop=[first]))
        assert found[1].finish_reason == "stop"


def test_a_second_process_asks_too(remote, whole, prompts):
    remote.generate(prompts[0])  # its loop runs in a thread, which a fork has not
    expected = whole.generate(prompts[0]).text
    if not (child := os.fork()):
        with suppress(BaseException):
            torch.set_num_threads(1)  # a fork has none of OpenMP's threads and waits for them
            threading.Timer(30, os._exit, (2,)).start()
            os._exit(int(remote.generate(prompts[0]).text != expected))
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
