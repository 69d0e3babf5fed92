"""The real vLLM over `smol`'s decoder; `make test-vllm` has an environment with it."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random

import httpx
import pytest
import torch

from refrag_rag import Refrag, ServingError
from refrag_rag.checkpoints import decoder_folder
from refrag_rag.demo.questions import demo_folder, demo_questions
from refrag_rag.serving import Server
from refrag_rag.spans import wrap

pytestmark = [
    pytest.mark.vllm,
    # Its processes and theirs: nothing here can close what they leave open.
    pytest.mark.filterwarnings("default"),
]
pytest.importorskip("vllm", reason="make test-vllm")

SMALL = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1"}
WINDOW, STARTING_S = 4096, 400
BEGINNINGS = ("Once upon a time", "The history of the town begins in")
TIE = 1e-3  # logits that are this near may swap their places


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """A server, as the docs start it, and its URL."""
    port = free_port()
    command = (
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(decoder_folder("smol")), "--enable-prompt-embeds"),
        *("--dtype", "float32", "--max-model-len", str(WINDOW)),
        *("--host", "127.0.0.1", "--port", str(port)),
    )
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("w") as out:
        started = subprocess.Popen(
            command, env=os.environ | SMALL, stdout=out, stderr=out, start_new_session=True
        )
        try:
            ends = time.monotonic() + STARTING_S
            while True:
                try:
                    if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                        break
                except httpx.HTTPError:
                    time.sleep(1)
                assert started.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < ends, log.read_text()[-3000:]
            yield started, f"http://127.0.0.1:{port}/v1"
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGTERM)
            started.wait(60)


@pytest.fixture(scope="module")
def remote(process):
    return Refrag.load("smol", backend=process[1])


@pytest.fixture(scope="module")
def whole():
    return Refrag.load("smol")


@pytest.fixture(scope="module")
def prompts():
    """A hundred: one to three documents, and text that goes on, or a question in a chat."""
    texts = [path.read_text("utf-8") for path in sorted((demo_folder() / "documents").iterdir())]
    rng = Random(0)
    made = []
    for number in range(100):
        spans = [wrap(text) for text in rng.sample(texts, 1 + number % 3)]
        if number % 2:
            question, _ = rng.choice(demo_questions())
            made.append([{"role": "user", "content": "\n".join([*spans, question])}])
        else:
            made.append("\n".join([*spans, rng.choice(BEGINNINGS)]))
    return made


@pytest.fixture(scope="module")
def long(whole, prompts):
    """A prompt with an answer of 64 tokens."""
    settings = {"max_new_tokens": 64, "p": 0.2}
    return next(one for one in prompts if whole.generate(one, **settings).finish_reason == "length")


def gap(engine, prompt, answers):
    """How near the logits of the tokens are at which two answers part; 0 if they do not."""
    ids = [one.token_ids for one in answers]
    place = next((n for n, pair in enumerate(zip(*ids, strict=False)) if len({*pair}) > 1), None)
    if place is None:
        assert ids[0] == ids[1]
        return 0.0
    model = engine.model
    inputs = model.decoder_inputs([engine.compress(prompt, p=0.2)]).inputs_embeds
    with torch.inference_mode():
        said = model.decoder.get_input_embeddings()(torch.tensor([ids[0][:place]], dtype=int))
        read = torch.cat([inputs, said], dim=1)
        logits = model.decoder(inputs_embeds=read, logits_to_keep=1).logits[0, -1]
    return float(abs(logits[ids[0][place]] - logits[ids[1][place]]))


def check(remote, whole, prompts):
    """The same answers as the model's own decoder gives, but for ties."""
    settings = {"max_new_tokens": 32, "p": 0.2}
    theirs = remote.generate_batch(prompts, **settings)
    ours = whole.generate_batch(prompts, batch_size=8, **settings)
    equal = sum(a.text == b.text for a, b in zip(ours, theirs, strict=True))
    tokens = sum(one.counts.new_tokens for one in ours)
    assert tokens > 10 * len(prompts)
    for prompt, *pair in zip(prompts, ours, theirs, strict=True):
        assert gap(whole, prompt, pair) < TIE
    assert equal >= 0.95 * len(prompts)


def test_a_hundred_answers_are_the_models_own(remote, whole, prompts):
    check(remote, whole, prompts)


def test_streams_stops_and_sampling(remote, whole, long):
    pieces = list(remote.stream(long, p=0.2))
    answer = whole.generate(long, p=0.2)
    assert "".join(one.text for one in pieces) == pieces[-1].answer.text == answer.text
    assert len(pieces) > 20
    stop = answer.text[20:24]
    stopped = remote.generate(long, p=0.2, stop=[stop])
    assert (stopped.text, stopped.finish_reason) == (answer.text.split(stop)[0], "stop")
    drawn = [
        remote.generate("Once", temperature=1.0, top_k=50, top_p=0.9, seed=seed).text
        for seed in (1, 1, 2**64 - 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_plain_and_compressed_prompts_in_one_batch(remote, whole, prompts):
    mixed = ["The capital of France is", prompts[1], "Water boils at", prompts[2]]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(remote.generate, mixed * 2))
    assert [one.text for one in found] == [one.text for one in whole.generate_batch(mixed)] * 2


def test_prompts_that_are_alike_are_not_mixed_up(remote, whole, prompts):
    """The prefix cache knows prompts of input embeddings by their values."""
    texts = [f"The code of the door is {number}. " * 12 for number in (17, 48, 17, 93)]
    asked = [f"{wrap(text)}\nWhat is the code of the door?" for text in texts]
    for p in (0.0, 1.0):
        found = [remote.generate(one, p=p).text for one in asked]
        assert found == [whole.generate(one, p=p).text for one in asked]


@pytest.mark.parametrize("kind", ["LLM", "AsyncLLM"])
def test_engines_in_this_process(kind, whole, prompts, long, monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    settings = {
        "model": str(decoder_folder("smol")),
        "enable_prompt_embeds": True,
        "dtype": "float32",
        "max_model_len": WINDOW,
    }
    if kind == "LLM":
        from vllm import LLM

        engine = LLM(**settings)
    else:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**settings))
    try:
        remote = Refrag.load("smol", backend=engine)
        check(remote, whole, prompts[:20])
        stream = remote.stream(long, p=0.2, max_new_tokens=1000)
        next(stream)
        stream.close()
        assert len(list(remote.stream(long, p=0.2))) > 20
    finally:
        (engine.llm_engine.engine_core if kind == "LLM" else engine).shutdown()


def test_what_the_server_refuses_is_told(process, whole):
    remote = Refrag.load("smol", backend=Server(process[1], model="other"))
    with pytest.raises(ServingError, match="other"):
        remote.generate("a")


def test_a_server_that_dies_in_mid_stream(process, remote, long):
    """The last test: the server is gone afterwards."""
    stream = remote.stream(long, p=0.2, max_new_tokens=1000)
    next(stream)
    os.killpg(process[0].pid, signal.SIGKILL)
    with pytest.raises(ServingError, match="broke off"):
        list(stream)
    with pytest.raises(ServingError, match="No server takes the prompt"):
        remote.generate("a")
