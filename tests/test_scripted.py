"""The script of the tests: said word for word, in order, while the decoder reads for real."""

import pytest

from refrag_rag.spans import wrap
from tests.scripted import scripted

PROMPT = [
    {"role": "user", "content": wrap("Aru lies in the north. Its capital is Belo.") + " Who?"}
]
LINES = ["Belo.", '<tool_call>\n{"name": "f", "arguments": {"a": "🦊"}}\n</tool_call>', ""]


def test_lines_are_said_in_order(engine):
    expected = engine.generate(PROMPT, max_new_tokens=5)
    with scripted(engine.model, *LINES, *LINES[:2], LINES[1]) as script:
        for line in LINES:
            answer = engine.generate(PROMPT, max_new_tokens=200)
            assert (answer.text, answer.finish_reason) == (line, "stop")
        batch = engine.generate_batch([PROMPT, PROMPT[0]["content"]], max_new_tokens=200)
        assert [one.text for one in batch] == LINES[:2]
        assert "".join(d.text for d in engine.stream(PROMPT, max_new_tokens=200)) == LINES[1]
    assert script.positions == [prompt.positions for prompt in script.prompts]
    assert script.positions[:3] == [expected.counts.positions] * 3
    assert engine.generate(PROMPT, max_new_tokens=5).text == expected.text


def test_an_exception_is_raised_and_an_unused_line_is_found(engine):
    with scripted(engine.model, RuntimeError("out of memory")), pytest.raises(RuntimeError):
        engine.generate(PROMPT)
    with pytest.raises(AssertionError, match="never said"), scripted(engine.model, "x"):
        pass


def test_a_rule_goes_on_after_the_lines(engine):
    with scripted(engine.model, "first", rule=lambda text: "no" if "Who" in text else "yes"):
        said = [engine.generate(p, max_new_tokens=20).text for p in (PROMPT, PROMPT, "Where?")]
    assert said == ["first", "no", "yes"]
