"""LlamaIndex LLM with a scripted engine: prompts, arguments, answers, errors, threads."""

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core import PromptTemplate, get_response_synthesizer
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.schema import (
    NodeWithScore,
    TextNode,
)

from refrag_rag.errors import InputError, PromptTooLongError, RefragError
from refrag_rag.llama_index import (
    RefragLLM,
    RefragTransform,
)
from refrag_rag.spans import strip_spans
from tests.fake_engine import FakeEngine

# --- LLM: prompts --------------------------------------------------------------------------


def test_complete_is_one_user_message_for_a_chat_model():
    engine = FakeEngine()
    RefragLLM(engine).complete("hi")
    RefragLLM(engine, system_prompt="Be brief.").complete("hi")
    RefragLLM(engine).complete("hi", formatted=True)
    RefragLLM(engine, completion_to_prompt=lambda prompt: f"<{prompt}>").complete("hi")
    RefragLLM(engine, is_chat_model=False).complete("hi")
    user = {"role": "user", "content": "hi"}
    system = {"role": "system", "content": "Be brief."}
    assert [prompt for prompt, _ in engine.calls] == [[user], [system, user], "hi", "<hi>", "hi"]


def test_chat_hands_over_roles_and_text():
    engine = FakeEngine()
    roles = [MessageRole.DEVELOPER, MessageRole.USER, MessageRole.MODEL, MessageRole.TOOL]
    RefragLLM(engine).chat([ChatMessage(role=role, content=role.value) for role in roles])
    seen = [(message["role"], message["content"]) for message in engine.calls[0][0]]
    assert seen == [
        ("system", "developer"),
        ("user", "user"),
        ("assistant", "model"),
        ("tool", "tool"),
    ]
    image = ImageBlock(image=b"i", image_mimetype="image/png")
    with pytest.raises(InputError, match="ImageBlock"):
        RefragLLM(engine).chat([ChatMessage(blocks=[TextBlock(text="t"), image])])


def test_chat_with_a_plain_model_or_an_own_format():
    engine = FakeEngine(is_chat_model=False)
    RefragLLM(engine).chat([ChatMessage(content="hi")])
    RefragLLM(engine, system_prompt="S").complete("hi")
    own = RefragLLM(FakeEngine(), messages_to_prompt=lambda messages: f"{len(messages)} in")
    own.chat([ChatMessage(content="hi")])
    assert [prompt for prompt, _ in engine.calls] == ["user: hi\nassistant: ", "S\n\nhi"]
    assert own.engine.calls[0][0] == "1 in"


def test_metadata_and_tokenizer():
    engine = FakeEngine()
    metadata = RefragLLM(engine, max_new_tokens=9).metadata
    assert (metadata.context_window, metadata.num_output) == (4096, 9)
    assert (metadata.is_chat_model, metadata.model_name) == (True, "fake")
    assert not metadata.is_function_calling_model
    assert RefragLLM(engine, context_window=99, is_chat_model=False).metadata.context_window == 99
    assert len(RefragLLM(engine).tokenizer()("a b c")) == 3


# --- LLM: arguments ------------------------------------------------------------------------


def test_arguments_of_the_call_win():
    engine = FakeEngine()
    llm = RefragLLM(engine, p=0.2, generate_kwargs={"temperature": 0.7, "top_k": 5})
    llm.complete("hi", max_tokens=3, temperature=0.1, stop="\n", seed=1, top_p=None, policy="all")
    llm.chat([ChatMessage(content="hi")], do_sample=False, question="who?", p=0.5)
    assert engine.calls[0][1] == {
        "max_new_tokens": 3,
        "temperature": 0.1,
        "top_k": 5,
        "stop": "\n",
        "seed": 1,
        "p": 0.2,
        "policy": "all",
    }
    assert engine.calls[1][1] == {
        "max_new_tokens": 64,
        "temperature": 0.0,
        "top_k": 5,
        "question": "who?",
        "p": 0.5,
    }


def test_unknown_arguments_are_refused():
    with pytest.raises(InputError, match="num_beams"):
        RefragLLM(FakeEngine(), generate_kwargs={"num_beams": 4})
    with pytest.raises(InputError, match="max_length"):
        RefragLLM(FakeEngine()).complete("hi", max_length=4)


def test_nothing_is_loaded_in_the_constructor(tmp_path):
    llm = RefragLLM(model_name=str(tmp_path / "none"), store=tmp_path / "store")
    assert not (tmp_path / "store").exists()
    with pytest.raises(RefragError):
        llm.complete("hi")


# --- LLM: answers --------------------------------------------------------------------------


def test_components_with_the_same_settings_share_one_engine(tmp_path, monkeypatch):
    loads = []

    def load(**settings):
        loads.append(settings)
        return FakeEngine()

    monkeypatch.setattr("refrag_rag.engine.Refrag.load", load)
    llm = RefragLLM(store=tmp_path, load_kwargs={"on_miss": "text"})
    transform = RefragTransform(store=tmp_path, load_kwargs={"on_miss": "text"})
    other = RefragLLM(store=tmp_path)
    assert llm.engine is transform.engine
    assert llm.engine is not other.engine
    settings = {"name_or_path": "smol", "store": str(tmp_path)}
    assert loads == [{**settings, "on_miss": "text"}, settings]


def test_answers_carry_counts_outside_the_message():
    llm = RefragLLM(FakeEngine())
    response = llm.chat([ChatMessage(content="hi")])
    assert response.message.content == "a b c"
    assert response.message.additional_kwargs == {}
    assert response.additional_kwargs == {"positions": 7, "cache_hits": 1}
    assert response.raw["cache_hits"] == 1
    last = list(llm.stream_complete("hi"))[-1]
    assert last.raw == response.raw == llm.complete("hi").raw


def test_token_counting_handler_sees_true_positions():
    counter = TokenCountingHandler()
    RefragLLM(FakeEngine(), callback_manager=CallbackManager([counter])).complete("hi")
    assert (counter.prompt_llm_token_count, counter.completion_llm_token_count) == (7, 3)


def test_stream_gives_pieces_and_the_text_so_far():
    responses = list(RefragLLM(FakeEngine()).stream_chat([ChatMessage(content="hi")]))
    assert [response.delta for response in responses] == ["a ", "b ", "c ", ""]
    assert responses[1].message.content == "a b "


# --- LLM: errors and threads ---------------------------------------------------------------

SOURCES = [NodeWithScore(node=TextNode(text=f"fact {i}"), score=1.0) for i in range(2)]


@pytest.mark.parametrize("mode", ["refine", "compact", "tree_summarize", "simple_summarize"])
@pytest.mark.parametrize("error", [PromptTooLongError("too long"), ValueError("v"), TypeError("t")])
@pytest.mark.parametrize("chat", [True, False])
def test_no_synthesizer_swallows_an_error(mode, error, chat):
    llm = RefragLLM(FakeEngine(error=error, is_chat_model=chat))
    synthesizer = get_response_synthesizer(llm=llm, response_mode=mode)
    with pytest.raises(RefragError):
        synthesizer.synthesize("who?", SOURCES)
    with pytest.raises(RefragError):
        asyncio.run(synthesizer.asynthesize("who?", SOURCES))


def test_no_streaming_synthesizer_swallows_an_error():
    llm = RefragLLM(FakeEngine(error=ValueError("v")))
    synthesizer = get_response_synthesizer(llm=llm, response_mode="compact", streaming=True)
    with pytest.raises(RefragError):
        "".join(synthesizer.synthesize("who?", SOURCES).response_gen)


def test_async_streams_end_with_the_error():
    seen = []

    async def read():
        async for response in await llm.astream_complete("hi"):
            seen.append(response.delta)

    llm = RefragLLM(FakeEngine(error=PromptTooLongError("too long")))
    with pytest.raises(PromptTooLongError):
        asyncio.run(read())
    assert seen == ["a ", "b ", "c "]


def test_an_abandoned_async_stream_frees_its_thread():
    engine = FakeEngine("w " * 500, step_s=0.01)

    async def read_one():
        stream = await RefragLLM(engine).astream_chat([ChatMessage(content="hi")])
        await anext(stream)
        assert engine.running.is_set()
        await stream.aclose()
        del stream
        gc.collect()
        await asyncio.sleep(0.2)
        assert not engine.running.is_set()

    asyncio.run(read_one())
    assert engine.steps < 100


def test_async_calls_leave_the_event_loop_free():
    engine = FakeEngine("w " * 20, step_s=0.01)

    async def both():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticker = asyncio.create_task(tick())
        async for _ in await RefragLLM(engine).astream_complete("hi"):
            pass
        ticker.cancel()
        return ticks

    assert asyncio.run(both()) >= 5


def test_predict_uses_the_chat_template_and_the_system_prompt():
    engine = FakeEngine()
    llm = RefragLLM(engine, system_prompt="S")
    assert llm.predict(PromptTemplate("say {x}"), x="hi") == "a b c"
    assert [message["role"] for message in engine.calls[0][0]] == ["system", "user"]
    assert strip_spans(engine.calls[0][0][1]["content"]) == "say hi"


# --- LLM with a real model -----------------------------------------------------------------


def test_all_eight_calls_of_the_llm_agree(engine):
    llm = RefragLLM(engine, max_new_tokens=6)
    prompt, messages = "Where is Aru?", [ChatMessage(content="Where is Aru?")]

    async def ask():
        return [
            (await llm.acomplete(prompt)).text,
            (await llm.achat(messages)).message.content,
            "".join([r.delta async for r in await llm.astream_complete(prompt)]),
            "".join([r.delta async for r in await llm.astream_chat(messages)]),
        ]

    texts = [
        llm.complete(prompt).text,
        llm.chat(messages).message.content,
        "".join(r.delta for r in llm.stream_complete(prompt)),
        "".join(r.delta for r in llm.stream_chat(messages)),
        *asyncio.run(ask()),
    ]
    assert set(texts) == {texts[0]}
    assert list(llm.stream_complete(prompt))[-1].text == texts[0]


def test_a_stream_may_change_threads_and_be_left(engine):
    llm = RefragLLM(engine, max_new_tokens=4)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        stream, left = llm.stream_complete("Aru?"), llm.stream_complete("Kesh?")
        one.submit(next, left).result()
        one.submit(next, stream).result()
        last = other.submit(list, stream).result()[-1]
        assert last.text == other.submit(llm.complete, "Aru?").result(timeout=60).text


def test_calls_from_several_tasks_at_once(engine):
    llm = RefragLLM(engine, max_new_tokens=4)
    prompts = ["Aru?", "Kesh?", "Mira?"]

    async def ask():
        return await asyncio.gather(*(llm.acomplete(prompt) for prompt in prompts))

    assert [r.text for r in asyncio.run(ask())] == [llm.complete(p).text for p in prompts]
