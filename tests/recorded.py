"""An engine that remembers what it was asked, and what must hold for every prompt it answered."""

from dataclasses import dataclass
from typing import Any

from refrag_rag import Refrag
from refrag_rag.generation.answer import Answer
from refrag_rag.prompt import TextSegment


@dataclass(frozen=True)
class Call:
    """One prompt that an engine answered."""

    prompt: Any
    arguments: dict[str, Any]
    answer: Answer

    @property
    def text(self):
        """The prompt as one text."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join(message["content"] for message in self.prompt)

    @property
    def layout(self):
        """The arguments that decide how the prompt is laid out."""
        names = ("question", "policy", "p", "tools")
        return {name: self.arguments[name] for name in names if name in self.arguments}


class RecordedEngine(Refrag):
    """An engine that remembers what it was asked."""

    def __init__(self, model, **settings):
        super().__init__(model, **settings)
        self.calls: list[Call] = []

    def generate_batch(self, prompts, **arguments):
        answers = super().generate_batch(prompts, **arguments)
        self.calls += [Call(p, arguments, a) for p, a in zip(prompts, answers, strict=True)]
        return answers

    def stream(self, prompt, **arguments):
        for delta in super().stream(prompt, **arguments):
            if delta.answer is not None:
                self.calls.append(Call(prompt, arguments, delta.answer))
            yield delta

    @property
    def asked(self):
        """The calls whose prompts hold passages."""
        return [call for call in self.calls if call.answer.counts.spans]


def check_vectors(engine, texts, *, spans, scripted=False):
    """Precomputed passages reached the decoder as vectors only, but for expanded chunks.

    And each answer, unless it was scripted, is the one that a new engine gives for that prompt.

    Parameters
    ----------
    texts
        The passages.
    spans
        How many passages each prompt with passages held, in the order of the calls.
    """
    assert [call.answer.counts.spans for call in engine.asked] == spans
    own = Refrag(engine.model, p=engine.p)
    sentences = [sentence for text in texts for sentence in text.split(". ")]
    for call in engine.calls:
        counts, laid_out = call.answer.counts, own.compress(call.prompt, **call.layout)
        assert counts.positions == laid_out.positions
        if not scripted:
            assert own.generate(call.prompt, **call.arguments).text == call.answer.text
        if not counts.spans:
            continue
        assert (counts.cache_hits, counts.cache_misses) == (counts.spans, 0)
        assert counts.positions < counts.plain_positions
        assert counts.expanded < counts.chunks
        read = plain_text(laid_out)
        assert [sentence for sentence in sentences if sentence in read] == []


def plain_text(prompt):
    """What the decoder reads as text, expanded chunks apart."""
    return "".join(
        segment.text
        for segment in prompt.segments
        if isinstance(segment, TextSegment) and segment.role == "prompt"
    )
