"""A hosted LLM on this machine: an HTTP server that speaks OpenAI's chat completions."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def reply(prompt):
    """What the server answers: computed from all that it was shown."""
    return f"I was shown {len(prompt)} characters in {len(prompt.split())} words."


class Hosted(ThreadingHTTPServer):
    """Answers on a free port and remembers the requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def prompts(self):
        """Everything that the LLM was shown in each request, as one text."""
        return [_prompt(request) for request in self.requests]


class Handler(BaseHTTPRequestHandler):
    """One request a connection, so that no client leaves one open."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self.send_error(404)
            return
        self.server.requests.append(body)
        text = reply(_prompt(body))
        if body.get("stream"):
            self._send("text/event-stream", "".join(_events(body["model"], text)))
        else:
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            answer = _envelope("chat.completion", body["model"], choice) | {"usage": usage}
            self._send("application/json", json.dumps(answer))

    def _send(self, kind, text):
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def _events(model, text):
    pieces = [{"role": "assistant", "content": ""}]
    pieces += [{"content": word} for word in text.replace(" ", " \0").split("\0")]
    for delta in pieces:
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        yield f"data: {json.dumps(_envelope('chat.completion.chunk', model, choice))}\n\n"
    choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
    yield f"data: {json.dumps(_envelope('chat.completion.chunk', model, choice))}\n\n"
    yield "data: [DONE]\n\n"


def _envelope(kind, model, choice):
    return {"id": "1", "object": kind, "created": 0, "model": model, "choices": [choice]}


def _prompt(request):
    texts = []
    for message in request["messages"]:
        content = message["content"]
        blocks = [content] if isinstance(content, str) else [block["text"] for block in content]
        texts.append("".join(blocks))
    return "\n".join(texts)


@contextmanager
def hosted():
    """The server, running in a thread."""
    with Hosted() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
