"""The policy taught where answers stand."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from refrag_rag.cli import main
from refrag_rag.model import RefragModel
from refrag_rag.policies.learned import ExpandLearned
from refrag_rag.policies.network import NetworkShape, PolicyNetwork
from refrag_rag.training import policy_rollouts
from refrag_rag.training.data.records import Passage, QuestionRecord
from refrag_rag.training.layout import Frame, QuestionLayout
from refrag_rag.training.policy_cases import answer_chunks, question_case
from refrag_rag.training.policy_objective import PlacesObjective, PolicyModule, place_loss
from refrag_rag.training.policy_rollouts import Embeddings, see
from refrag_rag.training.reading import Reader, embed
from tests.conftest import build_model

VELMORA = "Velmora makes clocks in Port Belu since 1904."
TARSK = "Tarsk is 2,310 metres high. In 1904 it was climbed."


def record(answer="1904", gold=(True, False), question="Since when?"):
    passages = tuple(
        Passage(text=text, gold=mark) for text, mark in zip((VELMORA, TARSK), gold, strict=True)
    )
    return QuestionRecord(question=question, passages=passages, answers=(answer,), id="one")


@pytest.fixture
def reader(tokenizer):
    return Reader(build_model(tokenizer).eval().requires_grad_(False))


def case_of(reader, asked, p=0.2):
    layout = QuestionLayout(reader.model, max_passages=4)
    return question_case(layout, Frame(reader.model), asked, Random(0), p)


@pytest.mark.parametrize(("hide", "seen"), [(0.0, {0.25, 0.75}), (1.0, {None})])
def test_the_policy_sees_the_retriever_scores_of_a_record(reader, hide, seen):
    passages = (Passage(text=VELMORA, score=0.75), Passage(text=TARSK, score=0.25))
    asked = replace(record(), passages=passages)
    layout = QuestionLayout(reader.model, max_passages=4)
    for seed in range(4):
        case = question_case(
            layout, Frame(reader.model), asked, Random(seed), 0.2, hide_scores=hide
        )
        (chunks,) = see(Embeddings(reader), [case])
        assert set(chunks.retrieval) == seen
        if not hide:
            first = "".join(case.texts[i] for i in range(len(case.texts)) if not case.passages[i])
            assert chunks.retrieval[0] == {VELMORA: 0.75, TARSK: 0.25}[first]


def test_a_passage_is_encoded_once_as_long_as_it_is_kept(reader, monkeypatch):
    case, encoded = case_of(reader, record()), []

    def counted(model, passages):
        encoded.append(len(passages))
        return embed(model, passages)

    monkeypatch.setattr(policy_rollouts, "embed", counted)
    keeping, forgetting = Embeddings(reader), Embeddings(reader, keep=0)
    first, again = (see(keeping, [case])[0].embeddings for _ in range(2))
    assert encoded == [3]  # two passages and the question
    np.testing.assert_array_equal(first, again)
    for _ in range(2):
        np.testing.assert_array_equal(see(forgetting, [case])[0].embeddings, first)
    assert encoded == [3, 3, 3]


def test_the_answers_chunks_hold_it_and_no_more(reader):
    case = case_of(reader, record("Port Belu"))
    chunks = case.answer_chunks
    assert "Port Belu" in "".join(case.texts[i] for i in chunks)
    assert "Port Belu" not in "".join(case.texts[i] for i in chunks[1:])
    assert "Port Belu" not in "".join(case.texts[i] for i in chunks[:-1])


@pytest.mark.parametrize(
    ("gold", "passages"), [((True, False), 1), ((None, None), 2), ((False, False), 2)]
)
def test_gold_passages_are_looked_at_alone(reader, gold, passages):
    case = case_of(reader, record("1904", gold))
    assert len({int(case.passages[i]) for i in case.answer_chunks}) == passages


def test_parts_of_words_are_no_answers(reader):
    chunked = [reader.model.chunker.chunk(VELMORA)]
    assert answer_chunks(chunked, record("190")) == ()
    assert answer_chunks(chunked, record("Clocks")) == answer_chunks(chunked, record("clocks"))
    assert answer_chunks(chunked, record("a+b(")) == ()


def test_the_loss_is_that_of_drawing_places_first_and_a_little_of_what_is_around_them(reader):
    case = case_of(reader, record())
    logits = torch.randn(len(case.texts))
    (passage,) = {int(case.passages[i]) for i in case.answer_chunks}
    surprise = [-float(value) for value in logits.log_softmax(0)]
    places = [surprise[i] for i in case.answer_chunks]
    rest = [
        value
        for i, value in enumerate(surprise)
        if case.passages[i] == passage and i not in case.answer_chunks
    ]
    wanted = 0.8 * np.mean(places) + 0.2 * np.mean(rest)
    assert float(place_loss(logits, case)) == pytest.approx(wanted, abs=1e-6)


def test_a_case_without_the_answer_counts_nothing(reader):
    found, lost = case_of(reader, record()), case_of(reader, record("nowhere"))
    network = PolicyModule(PolicyNetwork(NetworkShape(chunk_width=32, width=16)))
    objective = PlacesObjective(reader)
    alone = objective(network, [found], [found])
    both = objective(network, [found, lost], [found, lost])
    torch.testing.assert_close(both, alone)
    assert float(both.targets) == 1


def test_the_place_is_learnt_and_nothing_else_moves(reader):
    torch.manual_seed(0)
    network = PolicyNetwork(NetworkShape(chunk_width=32, width=16, query=True))
    case = case_of(reader, record(), p=0.4)
    other = case_of(reader, record("2,310", (False, True), "How high is it?"), p=0.4)
    objective, module = PlacesObjective(reader), PolicyModule(network)
    before = {name: p.clone() for name, p in reader.named_parameters()}
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for _ in range(60):
        sums = objective(module, [case, other], [case, other])
        sums.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(sums.right) == float(sums.targets) == 2
    chosen = ExpandLearned(network).select(
        see(Embeddings(reader), [case])[0], case.question, case.allowed()
    )
    assert set(case.answer_chunks) <= set(np.flatnonzero(chosen).tolist())
    assert all(torch.equal(p, before[name]) for name, p in reader.named_parameters())


@pytest.fixture
def taught(prepared, tokenizer, tmp_path):
    """A model with a policy, by the command line, and the command."""
    start, out = tmp_path / "start", tmp_path / "taught"
    build_model(tokenizer).save_pretrained(start)
    command = "train policy --kind learned-query --objective places --steps 4 --batch-size 2"
    command += f" --width 16 --save-every 4 --lr 1e-3 --data {prepared}/questions"
    assert main([*command.split(), "--start", str(start), "--out", str(out)]) == 0
    return out / "policy" / "model", command


def test_rewards_go_on_from_what_was_taught(taught, tmp_path):
    """With a learning rate of zero the second run gives back what it started from."""
    model, command = taught
    command = command.replace("places", "reward").replace("1e-3", "0")
    out = tmp_path / "rewarded"
    assert main([*command.split(), "--start", str(model), "--out", str(out)]) == 0
    one, two = (
        RefragModel.from_pretrained(folder).policies["learned-query"].network.state_dict()
        for folder in (model, out / "policy" / "model")
    )
    assert any(one["output.1.weight"].flatten() != 0)
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_another_width_is_refused(taught, tmp_path, capsys):
    model, command = taught
    command = command.replace("--width 16", "--width 32")
    assert main([*command.split(), "--start", str(model), "--out", str(tmp_path / "no")]) != 0
    assert "width = 32" in capsys.readouterr().err


def test_text_has_no_places(prepared, taught, tmp_path, capsys):
    model, command = taught
    command = command.replace("/questions", "/text")
    assert main([*command.split(), "--start", str(model), "--out", str(tmp_path / "no")]) != 0
    assert "has no answers" in capsys.readouterr().err
