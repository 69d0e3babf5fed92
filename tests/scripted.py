"""Scripted generation: the decoder really reads its inputs, what it says comes from a script.

    with scripted(engine.model, '<tool_call>{"name": "search"}</tool_call>', "Dorn") as script:
        agent.invoke(...)
    assert script.prompts[1].spans == 3

Small models cannot reason; agents, routers and tools need a model that says the right thing. A
forward hook overwrites the logits after the real forward, so that everything before and behind it
(spans, vectors, cache, sampling, stop strings, streaming) is the real thing.
"""

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class Script:
    """What is still to be said, and what the decoder read.

    Attributes
    ----------
    lines
        Texts still to be said, or exceptions to be raised, one a prompt.
    prompts
        The `CompressedPrompt` of every prompt that was read.
    positions
        Decoder positions of every prompt, counted in the forward itself.
    """

    lines: list
    prompts: list = field(default_factory=list)
    positions: list[int] = field(default_factory=list)


@contextmanager
def scripted(model, *lines, rule=None):
    """Let the decoder of `model` say `lines`, one a generated answer, each with its end token.

    A line may be an exception: it is raised in the forward. A batch takes one line a row. After
    the last line, `rule` says what follows on a prompt's text, where it is given.
    """
    script = Script(list(lines))
    player = _Player(model.tokenizer, script, rule)
    build_inputs = model.decoder_inputs

    def decoder_inputs(prompts):
        script.prompts += prompts
        player.asked.prompts = list(prompts)
        return build_inputs(prompts)

    model.decoder_inputs = decoder_inputs
    hook = model.decoder.register_forward_hook(player.play, with_kwargs=True)
    try:
        yield script
    finally:
        hook.remove()
        del model.decoder_inputs
    assert not script.lines, f"never said: {script.lines}"


class _Player:
    def __init__(self, tokenizer, script, rule):
        self._tokenizer, self._script, self._rule = tokenizer, script, rule
        self.asked = threading.local()  # prompts whose forward comes next, in this thread
        self._lock = threading.Lock()
        self._running = {}  # id of the KV cache -> the cache, and what its rows still say

    def play(self, _decoder, _args, inputs, output):
        """Overwrite the last logits with the next token of every row's line."""
        if not inputs.get("use_cache"):
            return  # no generation
        cache = output.past_key_values
        with self._lock:
            if inputs.get("inputs_embeds") is not None:
                rows = [self._next(prompt) for prompt in self.asked.prompts]
                self._script.positions += inputs["attention_mask"].sum(-1).tolist()
                self._running[id(cache)] = cache, rows
            _, rows = self._running[id(cache)]
            tokens = [row.pop(0) if len(row) > 1 else row[0] for row in rows]
        output.logits[:, -1] = -1e4
        output.logits[torch.arange(len(tokens)), -1, tokens] = 1e4

    def _next(self, prompt):
        assert self._script.lines or self._rule, "the script has ended, and the model is asked"
        if self._script.lines:
            line = self._script.lines.pop(0)
        else:
            line = self._rule("".join(getattr(part, "text", "") for part in prompt.segments))
        if isinstance(line, BaseException):
            raise line
        ids = self._tokenizer(line, add_special_tokens=False).input_ids
        said = self._tokenizer.decode(ids, skip_special_tokens=False)
        assert said == line, f"the tokenizer says {said!r} for {line!r}"
        return [*ids, self._tokenizer.eos_token_id]
