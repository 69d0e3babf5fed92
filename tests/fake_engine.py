"""A scripted engine for tests of adapters."""

import threading
import time
from types import SimpleNamespace
from typing import Any

from refrag_rag.policies import get_policy


class FakeEngine:
    """Answers with a script, word by word, and remembers what it was asked."""

    model_name, context_window, namespace = "fake", 4096, "fake-1"
    takes_tools = False

    def __init__(self, script="a b c", *, is_chat_model=True, error=None, step_s=0.0):
        self.script, self.is_chat_model = script, is_chat_model
        self.error, self.step_s = error, step_s
        self.calls: list[tuple[Any, dict[str, Any]]] = []
        self.batches: list[list[str]] = []
        self.running = threading.Event()
        self.steps = 0

    def get_policy(self, policy=None):
        return get_policy(policy or "lexical")

    def precompute(self, texts, *, batch_size=64, progress=False):
        self.batches.append(list(texts))

    def tokenize(self, text):
        return [0] * len(text.split())

    def generate(self, prompt, **settings):
        self.calls.append((prompt, settings))
        if self.error is not None:
            raise self.error
        return self._answer()

    def stream(self, prompt, **settings):
        self.calls.append((prompt, settings))
        self.running.set()
        try:
            for word in self.script.split(" "):
                time.sleep(self.step_s)
                self.steps += 1
                yield SimpleNamespace(text=word + " ", answer=None)
            if self.error is not None:
                raise self.error
            yield SimpleNamespace(text="", answer=self._answer())
        finally:
            self.running.clear()

    def _answer(self):
        counts = SimpleNamespace(positions=7, new_tokens=3)
        return SimpleNamespace(
            text=self.script, counts=counts, metadata=lambda: {"positions": 7, "cache_hits": 1}
        )
