"""Whatever the engine is given: an answer, or one clear error of our own type."""

import copy
import dataclasses
import pickle

import pytest

from refrag_rag import InputError, PromptTooLongError, Refrag
from refrag_rag.checkpoints import save
from refrag_rag.spans import wrap

USER = [{"role": "user", "content": "Who?"}]
LONG = " ".join(f"word{n}" for n in range(3000))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    place = tmp_path_factory.mktemp("model") / "model"
    save(model, place)
    return place


@pytest.mark.parametrize("prompt", [None, 5, {}, [], [5], [None], "", " \n", [{"role": "user"}]])
def test_prompts(engine, prompt):
    for call in (engine.generate, engine.compress, lambda one: next(engine.stream(one))):
        with pytest.raises(InputError):
            call(prompt)


@pytest.mark.parametrize("content", ["", "  \n"])
def test_an_empty_question_is_no_prompt(engine, content):
    empty = {"role": "user", "content": content}
    for messages in ([empty], [{"role": "system", "content": "Be kind."}, empty]):
        with pytest.raises(InputError, match="empty"):
            engine.generate(messages)
    assert engine.generate([empty, *USER], max_new_tokens=1).counts.new_tokens == 1


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "question": [5, ["who?"]],
        "policy": [5, "nonsense", "lexical+nonsense", object()],
        "p": ["0.5", -0.1, 1.1, float("nan"), True, [0.1]],
        "max_new_tokens": [0, -1, "5", 1.5, True, None],
        "stop": [5, [5], [""], "", None],
        "temperature": ["x", -1, float("nan"), True],
        "top_p": [0, 1.1, "x"],
        "top_k": [-1, 0.5, "x"],
        "repetition_penalty": [0, "x"],
        "seed": ["x", 0.5],
        "tools": [5, "tool", [{}]],
        "temprature": [1.0],
    }.items(),
)
def test_arguments(engine, name, values):
    for value in values:
        with pytest.raises(InputError, match=name if name != "tools" else "[Tt]ool"):
            engine.generate(USER, **{name: value})


@pytest.mark.parametrize(
    ("setting", "values"),
    {
        "p": ["0.5", 2, True],
        "policy": [3, "nonsense"],
        "on_miss": [3, "skip"],
        "store": ["", 3],
        "device": ["cuda:99", "nonsense"],
        "dtype": ["float61", "int8", 8],
        "k": ["8", 7],
    }.items(),
)
def test_settings_of_an_engine(folder, setting, values):
    for value in values:
        with pytest.raises(InputError):
            Refrag.load(folder, **{setting: value})


@pytest.mark.parametrize("texts", [None, 5, "text", [None], ["fine", 5], [b"bytes"]])
def test_passages(engine, texts):
    for call in (engine.precompute, engine.forget):
        with pytest.raises(InputError):
            call(texts)


def test_batches_and_texts(engine):
    for prompts in ("Who?", 5):
        with pytest.raises(InputError, match="list of prompts"):
            engine.generate_batch(prompts)
    for size in (0, "x", True):
        with pytest.raises(InputError, match="batch_size"):
            engine.generate_batch(["Who?"], batch_size=size)
    for count in (engine.count_tokens, engine.tokenize):
        with pytest.raises(InputError, match="expected text"):
            count(None)


def test_copies_share_an_engine_and_other_processes_load_their_own(engine):
    @dataclasses.dataclass
    class Settings:
        engine: Refrag

    assert copy.deepcopy(engine) is copy.copy(engine) is engine
    assert dataclasses.asdict(Settings(engine))["engine"] is engine
    with pytest.raises(InputError, match="other process"):
        pickle.dumps(engine)


@pytest.mark.parametrize(
    ("prompt", "policy", "advice"),
    [
        (LONG, "none", "outside passages"),
        (wrap(LONG) + " Who?", "all", "fewer chunks"),
        (wrap(LONG * 10) + " Who?", "none", "fewer passages"),
    ],
)
def test_a_prompt_that_is_too_long_gets_advice_that_helps(engine, prompt, policy, advice):
    with pytest.raises(PromptTooLongError, match=advice):
        engine.generate(prompt, policy=policy)
