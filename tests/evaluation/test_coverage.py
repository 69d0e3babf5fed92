"""Coverage: whether what a policy expands holds the answer."""

import json
import lzma
from dataclasses import replace

import numpy as np
import pytest

from refrag_rag.cli import main
from refrag_rag.evaluation.coverage import coverage, covers, cut
from refrag_rag.evaluation.questions import Question
from refrag_rag.policies import get_policy, limit_of
from refrag_rag.policies.learned import ExpandLearned
from refrag_rag.policies.network import NetworkShape, PolicyNetwork
from tests.conftest import build_model

PASSAGES = (
    "Velmora\nVelmora Works was founded in 1912 by Anna Keld. It makes clocks in Port Belu.",
    "Tarsk\nTarsk Group was founded in 1855 by Leo Brand. It makes shoes in New Dor.",
)


@pytest.fixture(scope="module")
def found(tokenizer):
    questions = [
        Question("Who founded Velmora Works?", ("Anna Keld",), PASSAGES),
        Question("Who founded the moon?", ("Nobody at all",), PASSAGES),
    ]
    return cut(questions, build_model(tokenizer))


def test_questions_without_an_answer_in_any_passage_are_left_out(found):
    assert [question.text for question, _ in found] == ["Who founded Velmora Works?"]
    ((_, chunks),) = found
    assert "".join(chunks.texts) == "".join(PASSAGES)


def test_only_consecutive_chunks_of_one_passage_cover(found):
    ((_, chunks),) = found
    everything = np.ones(len(chunks.texts), bool)
    assert covers(chunks, everything, ("anna keld",))
    assert not covers(chunks, ~everything, ("Anna Keld",))
    assert not covers(chunks, everything, ("Belu. Tarsk",))
    assert not covers(chunks, everything, ("Ann",))
    name = next(row for row, text in enumerate(chunks.texts) if "Keld" in text)
    without = everything.copy()
    without[name] = False
    assert not covers(chunks, without, ("Anna Keld",))


def test_a_larger_budget_covers_more(found):
    none, everything = (
        coverage(found, get_policy("lexical"), p, file="a", ranking="file") for p in (0.0, 1.0)
    )
    assert (none.covered, everything.covered) == (0.0, 1.0)
    assert everything.low < 1.0 == everything.high


def test_the_command_writes_a_table(tokenizer, tmp_path, capsys):
    build_model(tokenizer).save_pretrained(tmp_path / "model")
    contexts = [dict(zip(("title", "text"), text.split("\n"), strict=True)) for text in PASSAGES]
    record = {"question": "Who founded Velmora?", "answers": ["Anna Keld"], "contexts": contexts}
    with lzma.open(tmp_path / "asked.jsonl.xz", "wt") as lines:
        lines.write(json.dumps(record) + "\n")
    target = tmp_path / "out" / "coverage.json"
    command = ["coverage", str(tmp_path / "asked.jsonl.xz"), "--json", str(target)]
    command += ["--model", str(tmp_path / "model"), "--shares", "0.1", "1.0"]
    assert main(command) == 0
    assert "| asked.jsonl.xz, 1 | file | `lexical` |" in capsys.readouterr().out
    rows = json.loads(target.read_text())["rows"]
    assert {row["policy"] for row in rows} == {"random", "lexical", "hybrid"}
    whole = {row["policy"]: row["covered"] for row in rows if row["p"] == 1.0}
    assert whole == dict.fromkeys(whole, 1.0)
    assert main([*command, "--policies", "perplexity"]) == 1
    assert "needs scores of a store" in capsys.readouterr().err


def test_scores_of_a_retriever_and_policies_of_the_model_are_used(tokenizer, tmp_path):
    model = build_model(tokenizer)
    shape = NetworkShape(chunk_width=model.config.chunk_width, width=16, query=True)
    model.policies["learned-query"] = ExpandLearned(PolicyNetwork(shape))
    scored = Question("Who did it?", ("Anna Keld", "Leo Brand"), PASSAGES, scores=(0.1, 0.9))
    ((question, chunks),) = cut([scored], model, encode=True)
    assert chunks.embeddings.shape == (len(chunks.texts), model.config.chunk_width)
    half = 0.5
    first, last = (
        get_policy("retrieval").select(chunks, question.text, limit_of(half, len(chunks.texts)))
        for chunks in (chunks, replace(chunks, retrieval=[0.9, 0.1]))
    )
    assert first.tolist() != last.tolist()
    policy = model.policies["learned-query"]
    found = coverage([(question, chunks)], policy, 1.0, file="a", ranking="file")
    assert (found.policy, found.covered) == ("learned-query", 1.0)
