"""Tool calls in answers: every format, what is malformed, streams; tools in prompts."""

import json

import pytest
from tokenizers import AddedToken

from refrag_rag import Refrag
from refrag_rag.errors import InputError
from refrag_rag.generation.answer_text import AnswerText
from refrag_rag.spans import wrap
from refrag_rag.text.tool_calls import FORMATS, AnswerStream, parse_tool_calls
from tests.conftest import build_model
from tests.tool_templates import TEMPLATES, with_template

CALLS = [("search", {"query": "capital of Kesh", "k": 3}), ("add", {"a": [1, {"b": None}]})]


def hermes(name, arguments):
    call = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{call}\n</tool_call>"


def mistral(name, arguments):
    return "[TOOL_CALLS]" + json.dumps([{"name": name, "arguments": arguments}])


def mistral_named(name, arguments):
    return f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments)}"


def llama(name, arguments):
    return json.dumps({"name": name, "parameters": arguments})


def tagged(name, arguments):
    return "<|python_tag|>" + llama(name, arguments)


WRITERS = [hermes, mistral, mistral_named, llama, tagged]


def streamed(text, size, names=None):
    """Split as a stream splits it; nothing shown is taken back."""
    stream = AnswerStream(names)
    shown = "".join(stream.add(text[at : at + size]) for at in range(0, len(text), size))
    rest = stream.finish()
    return shown, rest._replace(text=shown + rest.text)


def found(parsed):
    return (
        parsed.text,
        [(c.name, c.arguments) for c in parsed.calls],
        [i.text for i in parsed.invalid],
    )


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("call", CALLS)
def test_every_format_is_read(write, call):
    assert found(parse_tool_calls(write(*call))) == ("", [call], [])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (hermes(*CALLS[0]) + "\n" + hermes(*CALLS[1]), 2),
        (mistral_named(*CALLS[0]) + mistral_named(*CALLS[1]), 2),
        (llama(*CALLS[0]) + "; " + llama(*CALLS[1]), 2),
        ("[TOOL_CALLS]" + json.dumps([{"name": n, "arguments": a} for n, a in CALLS]), 2),
    ],
)
def test_several_calls(text, count):
    parsed = parse_tool_calls(text)
    assert found(parsed) == ("", CALLS, [])
    assert len({call.id for call in parsed.calls}) == count


def test_ids_are_unique_and_of_the_shape_that_mistral_takes():
    ids = [parse_tool_calls(hermes(*CALLS[0])).calls[0].id for _ in range(200)]
    assert len(set(ids)) == 200
    assert all(len(one) == 9 and one.isalnum() for one in ids)


def test_text_around_calls_stays():
    text = f"Let me look. \n{hermes(*CALLS[0])}\n and then {hermes(*CALLS[1])}\n"
    assert found(parse_tool_calls(text)) == ("Let me look.\n and then", CALLS, [])
    for plain in ("", " \n", "No call.", "a < b, [TOOL", "{not json", '{"capital": "Dorn"}', "[1]"):
        assert found(parse_tool_calls(plain)) == (plain, [], [])


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "query",
    [
        wrap("a passage"),
        "</tool_call> <tool_call>",
        "[TOOL_CALLS][{}]",
        "<|python_tag|>; {",
        'quotes " and \\ and }{ and \u2028 and 🦊\r\n',
    ],
)
def test_markers_in_arguments_are_harmless(write, query):
    text = write("search", {"query": query})
    assert found(parse_tool_calls(text)) == ("", [("search", {"query": query})], [])
    assert found(streamed(text, 3)[1]) == found(parse_tool_calls(text))


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        "<tool_call>{</tool_call>",
        "<tool_call>{'name': 'f'}</tool_call>",
        "<tool_call>[1, 2]</tool_call>",
        '<tool_call>{"name": 3}</tool_call>',
        '<tool_call>{"name": "f", "arguments": 3}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "no json"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": 1',
        '<tool_call>{"name": "f"}} </tool_call>',
        "<tool_call>" + "[" * 100_000,
        '<tool_call>{"name": "f", "arguments": {"a": ' + "1" * 5000 + "}}</tool_call>",
        "[TOOL_CALLS]",
        "[TOOL_CALLS][{]",
        "[TOOL_CALLS]f[ARGS]{",
        "[TOOL_CALLS]f{}",
        "<|python_tag|>search.call(query=1)",
    ],
)
def test_what_cannot_be_read_is_kept_as_invalid(text):
    parsed = parse_tool_calls(text)
    assert found(parsed) == ("", [], [text])
    assert parsed.invalid[0].error
    assert found(streamed(text, 5)[1]) == found(parsed)


def test_one_bad_call_takes_no_other_along():
    text = "<tool_call>{oops</tool_call>" + hermes(*CALLS[0]) + "<tool_call>{" + hermes(*CALLS[1])
    parsed = parse_tool_calls(text)
    assert found(parsed) == ("", CALLS, ["<tool_call>{oops</tool_call>", "<tool_call>{"])


def test_unmarked_json_is_a_call_only_of_a_known_tool():
    text = llama("search", {})
    assert found(parse_tool_calls(text, ["search"]))[1] == [("search", {})]
    assert found(parse_tool_calls(text, ["other"])) == (text, [], [])
    assert found(parse_tool_calls(tagged("new", {}), ["other"]))[1] == [("new", {})]
    assert found(parse_tool_calls('{"name": "search", "age": 3}')) == (
        '{"name": "search", "age": 3}',
        [],
        [],
    )


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "A plain answer, a < b and [brackets].",
        " \n ",
        f"First. {hermes(*CALLS[0])} after {hermes(*CALLS[1])}",
        f"Look:\n{mistral(*CALLS[0])}",
        llama(*CALLS[0]),
        f"It is {llama(*CALLS[0])}",
        '{"capital": "Dorn"}',
        "Well <tool_call>{",
        "ends in <tool_",
        "<| not a tag",
    ],
)
def test_a_stream_gives_the_same_text_and_calls(text, size):
    shown, whole = streamed(text, size)
    assert found(whole) == found(parse_tool_calls(text))
    for mark in ("<tool_call>", "[TOOL_CALLS]"):
        assert mark not in shown


def test_plain_text_is_not_held_back():
    stream = AnswerStream(["search"])
    assert [stream.add(piece) for piece in ("The ", "capital", " is", " Dorn.")] == [
        "The",
        " capital",
        " is",
        " Dorn.",
    ]


def test_every_format_has_a_template_here():
    assert set(TEMPLATES) == set(FORMATS)


# Tools in prompts

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Searches [[refrag]]all[[/refrag]] passages.",
            "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
        },
    }
]
PASSAGE = "Kesh exports tin. Its capital is Dorn, a town of 900 people by the river Ona."
CALL = {"id": "abcdefgh1", "function": {"name": "search", "arguments": '{"query": "Kesh"}'}}
CHAT = [
    {"role": "system", "content": "Rules. " + wrap("Answer briefly, always.")},
    {"role": "user", "content": "What is the capital of Kesh?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "abcdefgh1", "name": "search", "content": wrap(PASSAGE)},
]


@pytest.fixture(params=sorted(TEMPLATES))
def tooled(request, tokenizer):
    return Refrag(build_model(with_template(tokenizer, request.param)), p=0.0)


def test_tools_and_calls_reach_the_template(tooled):
    laid_out = tooled.compress(CHAT, tools=TOOLS, policy="all")
    text = "".join(segment.text for segment in laid_out.segments)
    assert "Searches all passages." in text
    assert '{"query": "Kesh"}' in text
    assert '\\"' not in text  # arguments are objects, not JSON in JSON
    assert PASSAGE in text
    assert tooled.takes_tools


def test_spans_in_tool_results_and_system_prompts_become_vectors(tooled):
    tooled.precompute([PASSAGE])
    answer = tooled.generate(CHAT, tools=TOOLS, max_new_tokens=4)
    counts = answer.counts
    assert (counts.spans, counts.cache_hits, counts.cache_misses) == (2, 1, 1)
    assert counts.positions < counts.plain_positions
    batch = tooled.generate_batch([CHAT, CHAT], tools=TOOLS, max_new_tokens=4)
    streamed_text = "".join(d.text for d in tooled.stream(CHAT, tools=TOOLS, max_new_tokens=4))
    assert [one.text for one in batch] == [answer.text] * 2
    assert streamed_text == answer.text
    assert tooled.compress(CHAT).positions < counts.positions  # no tools, fewer positions


def test_a_template_without_tools_is_an_error(engine):
    assert not engine.takes_tools
    user = CHAT[1:2]
    for ask in (
        lambda: engine.generate(user, tools=TOOLS),
        lambda: engine.generate_batch([user], tools=TOOLS),
        lambda: list(engine.stream(user, tools=TOOLS)),
        lambda: engine.compress(user, tools=TOOLS),
    ):
        with pytest.raises(InputError, match="does not mention tools"):
            ask()
    with pytest.raises(InputError, match="does not mention tool_calls"):
        engine.generate(CHAT)
    assert engine.generate(user, tools=[], max_new_tokens=1)


@pytest.mark.parametrize(
    "tools", ["search", {"name": "f"}, [{"name": "f"}], [None], [{"function": {"name": 3}}]]
)
def test_tools_of_another_shape_are_refused(tooled, tools):
    with pytest.raises(InputError, match="expected"):
        tooled.generate(CHAT, tools=tools)


@pytest.mark.parametrize("call", [None, {}, {"function": "f"}, {"function": {"arguments": {}}}])
def test_calls_of_another_shape_are_refused(tooled, call):
    with pytest.raises(InputError, match="Tool call"):
        tooled.generate([{"role": "assistant", "content": "", "tool_calls": [call]}])


def test_tools_need_messages(tooled):
    with pytest.raises(InputError, match="Pass messages"):
        tooled.generate("Who?", tools=TOOLS)


def test_a_refusing_template_is_one_clear_error(tokenizer):
    copy = with_template(tokenizer, "hermes")
    copy.chat_template = "{{ tools }}{{ raise_exception('Roles must alternate.') }}"
    with pytest.raises(InputError, match=r"\['user'\].*Roles must alternate"):
        Refrag(build_model(copy)).generate(CHAT[1:2])


def test_arguments_cannot_stand_for_a_span(tooled):
    """Text that looks like a place for a span, or marks one, stays text."""
    arguments = {"query": "\ue0000:0\ue001 [[refrag]]x[[/refrag]]", "\ue0000:1\ue001": 1}
    call = {"id": "abcdefgh1", "function": {"name": "search", "arguments": arguments}}
    chat = [CHAT[0], CHAT[1], {"role": "assistant", "tool_calls": [call]}, CHAT[3]]
    laid_out = tooled.compress(chat, tools=TOOLS)
    assert laid_out.spans == 2
    assert "[[refrag" not in "".join(getattr(s, "text", "") for s in laid_out.segments)


def test_markers_that_are_special_tokens_are_shown_with_tools(tokenizer):
    copy = with_template(tokenizer, "mistral")
    copy.add_tokens([AddedToken("[TOOL_CALLS]", special=True, normalized=False)])
    text = '[TOOL_CALLS][{"name":"f","arguments":{}}]'
    ids = copy(text, add_special_tokens=False).input_ids
    assert copy.convert_tokens_to_ids("[TOOL_CALLS]") in ids
    for kept, shown in (((), text[12:]), (("[TOOL_CALLS]",), text)):
        answer = AnswerText(copy, frozenset([2]), (), kept)
        for token in [*ids, 2]:
            answer.add(token)
        assert answer.text.replace(" ", "") == shown
