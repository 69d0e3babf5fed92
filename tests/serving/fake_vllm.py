"""vLLM as seen from outside, over a small decoder of transformers: its server, and its engines."""

import base64
import io
import json
import threading
import time
from contextlib import contextmanager
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import torch

NO_EMBEDS = (
    "You must set `--enable-prompt-embeds` to input `prompt_embeds`. (parameter=prompt_embeds)"
)
FULL = "The request queue is full. Please retry your request later."


def greedy(decoder, embeds, limit, ends):
    """Token ids one by one, as vLLM gives them: an end token is the last."""
    cache, read = None, {"inputs_embeds": embeds[None].to(decoder.dtype)}
    for _ in range(limit):
        with torch.inference_mode():
            output = decoder(**read, past_key_values=cache, use_cache=True)
        cache, token = output.past_key_values, int(output.logits[0, -1].argmax())
        yield token
        if token in ends:
            return
        read = {"input_ids": torch.tensor([[token]])}


class FakeServer(ThreadingHTTPServer):
    """Completions from input embeddings; `behaviour` says what goes wrong."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, decoder, behaviour="", *, window=2048):
        super().__init__(("127.0.0.1", 0), Handler)
        self.decoder, self.behaviour, self.window = decoder, behaviour, window
        self.bodies, self.steps, self.released = [], 0, threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Clients may go away."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        assert self.path == "/v1/models"
        listed = [{"id": "decoder", "object": "model", "max_model_len": self.server.window}]
        self._reply(200, {"object": "list", "data": listed})

    def do_POST(self):
        assert self.path == "/v1/completions"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        file = io.BytesIO(base64.b64decode(body.pop("prompt_embeds"), validate=True))
        embeds = torch.load(file, weights_only=True)
        self.server.bodies.append(body)
        behaviour, width = self.server.behaviour, self.server.decoder.config.hidden_size
        if behaviour == "hangs":
            self.server.released.wait(30)
        if behaviour in ("429", "503"):
            self._refuse(int(behaviour), FULL)
        elif behaviour == "no flag":
            self._refuse(400, NO_EMBEDS)
        elif embeds.shape[1] != width:
            said = f"`prompt_embeds` hidden_size {embeds.shape[1]} does not match {width}."
            self._refuse(400, said)
        else:
            self._stream(body, embeds, behaviour)
        self.close_connection = True

    def _stream(self, body, embeds, behaviour):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        ends = body["stop_token_ids"]
        ids = greedy(self.server.decoder, embeds, body["max_tokens"], ends)
        for number, token in enumerate(ids):
            self.server.steps += 1
            last = token in ends or number + 1 == body["max_tokens"]
            reason = None if not last else "stop" if token in ends else "length"
            if behaviour == "slow":
                time.sleep(0.02)
            if number == 2 and behaviour == "dies":
                return  # the stream is not closed properly
            if number == 2 and behaviour == "ends early":
                break
            if number == 2 and behaviour == "error":
                self._chunk({"error": {"message": "EngineCore died", "code": 500}})
                break
            choice = {"index": 0, "text": "", "finish_reason": reason, "token_ids": [token]}
            if behaviour == "no ids":
                del choice["token_ids"]
            self._chunk({"object": "text_completion", "choices": [choice]})
            self._write(b": as proxies do\n\n")
        self._write(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, event):
        self._write(f"data: {json.dumps(event)}\n\n".encode())

    def _write(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _refuse(self, status, said):
        self._reply(status, {"error": {"message": said, "type": "BadRequestError", "code": status}})

    def _reply(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@contextmanager
def served(decoder, *behaviours, **settings):
    """Servers of these behaviours, each in a thread."""
    servers = [FakeServer(decoder, behaviour, **settings) for behaviour in behaviours or ("",)]
    threads = [
        threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
        for one in servers
    ]
    for thread in threads:
        thread.start()
    try:
        yield servers
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.released.set()
            server.shutdown()
            thread.join()
            server.server_close()


class RequestOutputKind(Enum):
    DELTA = 1


def SamplingParams(**values):
    return SimpleNamespace(**values)


def config_of(decoder, *, window=2048, enabled=True):
    """What vLLM's `ModelConfig` has of this."""
    return SimpleNamespace(
        enable_prompt_embeds=enabled,
        max_model_len=window,
        dtype=decoder.dtype,
        get_hidden_size=lambda: decoder.config.hidden_size,
    )


def _outputs(decoder, name, prompt, sampling):
    ids = greedy(decoder, prompt["prompt_embeds"], sampling.max_tokens, sampling.stop_token_ids)
    for token in ids:
        part = SimpleNamespace(token_ids=[token], finish_reason=None)
        yield SimpleNamespace(request_id=name, outputs=[part], finished=False)
    part = SimpleNamespace(token_ids=[], finish_reason="stop")
    yield SimpleNamespace(request_id=name, outputs=[part], finished=True)


class FakeAsyncLLM:
    """An `AsyncLLM`, which belongs to the loop that it is first asked in."""

    def __init__(self, decoder, *, error=None, **config):
        self.decoder, self.model_config = decoder, config_of(decoder, **config)
        self.output_handler, self.error, self.steps = None, error, 0

    async def generate(self, prompt, sampling, request_id):
        for output in _outputs(self.decoder, request_id, prompt, sampling):
            if self.error is not None:
                raise self.error
            self.steps += 1
            yield output


class FakeLLM:
    """An `LLM`: requests are added, and all go on by a token a step."""

    def __init__(self, decoder, **config):
        self.decoder, self.model_config = decoder, config_of(decoder, **config)
        self.llm_engine, self.running, self.aborted = self, {}, []

    def add_request(self, name, prompt, sampling):
        self.running[name] = _outputs(self.decoder, name, prompt, sampling)

    def step(self):
        outputs = [next(one) for one in list(self.running.values())]
        for output in outputs:
            if output.finished:
                del self.running[output.request_id]
        return outputs

    def abort_request(self, names):
        for name in names:
            self.aborted.append(name)
            self.running.pop(name, None)
