"""The expansion policy's sampling, reward and loss, each against a slow reference."""

import itertools
import math
from collections import Counter
from random import Random

import numpy as np
import pytest
import torch

from recipes.tiny.evaluation.perplexity import log_perplexities, look
from refrag_rag.evaluation.metrics import bootstrap
from refrag_rag.policies import Chunks, get_policy
from refrag_rag.policies.learned import ExpandLearned, chunk_logits
from refrag_rag.policies.network import NetworkShape, PolicyNetwork
from refrag_rag.training.batches import gold
from refrag_rag.training.layout import Frame
from refrag_rag.training.policy_cases import Case, Cases
from refrag_rag.training.policy_objective import PolicyModule, PolicyObjective, clipped_loss
from refrag_rag.training.policy_rollouts import (
    Embeddings,
    Rollout,
    gumbel_top_k,
    mean_log_probs,
    see,
    sequence_log_probs,
)
from refrag_rag.training.reading import Reader
from tests.conftest import build_model

LOGITS = torch.tensor([1.0, -0.5, 0.3, 2.0])


def sequential_probability(logits, sequence):
    """Draw after draw from the softmax of what is left, as the paper writes it."""
    left, probability = list(range(len(logits))), 1.0
    for choice in sequence:
        total = sum(math.exp(logits[i]) for i in left)
        probability *= math.exp(logits[choice]) / total
        left.remove(choice)
    return probability


def test_log_probs_are_those_of_drawing_one_after_another():
    order = torch.tensor(list(itertools.permutations(range(4), 2)))
    found = sequence_log_probs(LOGITS, order).sum(1).exp()
    wanted = [sequential_probability(LOGITS.tolist(), one) for one in order.tolist()]
    torch.testing.assert_close(found, torch.tensor(wanted))
    assert float(found.sum()) == pytest.approx(1)


def test_gumbel_top_k_has_that_distribution():
    generator = torch.Generator().manual_seed(0)
    drawn = gumbel_top_k(LOGITS, 2, 20_000, generator)
    counts = Counter(map(tuple, drawn.tolist()))
    for sequence in itertools.permutations(range(4), 2):
        wanted = sequential_probability(LOGITS.tolist(), sequence)
        assert counts[sequence] / 20_000 == pytest.approx(wanted, abs=0.012)


def rollout(rewards, logits=LOGITS):
    order = torch.tensor([[0, 3], [2, 1], [3, 0]])
    return Rollout(None, order, sequence_log_probs(logits, order), torch.tensor(rewards))


def test_groups_without_a_difference_teach_nothing():
    logits = LOGITS.clone().requires_grad_()
    same = rollout([-1.0, -1.0, -1.0000005])
    assert same.advantages is None
    loss = clipped_loss(logits, same, same.advantages, 0.2)
    loss.backward()
    assert loss.item() == 0
    assert float(logits.grad.abs().sum()) == 0


def test_advantages_have_mean_zero_and_deviation_one():
    advantages = rollout([-1.0, -2.0, -4.0]).advantages
    assert float(advantages.mean()) == pytest.approx(0, abs=1e-6)
    assert float(advantages.std(correction=0)) == pytest.approx(1)


def test_the_loss_is_the_clipped_gain_of_every_draw():
    one = rollout([-1.0, -2.0, -4.0])
    now = LOGITS + torch.tensor([0.6, -0.3, 0.0, -0.6])
    found = clipped_loss(now, one, one.advantages, 0.2)
    gains = []
    ratios = (sequence_log_probs(now, one.order) - one.log_probs).exp()
    for row, advantage in zip(ratios.tolist(), one.advantages.tolist(), strict=True):
        gains += [min(r * advantage, min(max(r, 0.8), 1.2) * advantage) for r in row]
    assert float(found) == pytest.approx(-sum(gains) / len(gains), abs=1e-6)


@pytest.fixture
def reader(tokenizer):
    return Reader(build_model(tokenizer).eval().requires_grad_(False))


def case_of(reader, p=0.3, answer="Port Belu"):
    frame = Frame(reader.model)
    passages = ["Velmora makes clocks in Port Belu since 1904. " * 2, "Tarsk is 2,310 metres high."]
    pieces = [frame.first, *[frame.text_passage(text) for text in passages]]
    asked = frame.text_passage("Where is Velmora?")
    said = gold(reader.model.chunker.chunk(answer).token_ids)
    return Case([*pieces, asked, said, frame.end], p, question="Where?", asked=asked)


def test_rewards_are_the_gold_tokens_mean_log_probability(reader):
    case = case_of(reader)
    rows = [case.arranged([0, 2]), case.arranged(range(len(case.texts)))]
    found = mean_log_probs(reader, rows, 2)
    full = [i for piece in case.pieces for i in piece.ids]
    logs = reader.model.decoder(torch.tensor([full])).logits[0].log_softmax(-1)
    gold = len(case.pieces[-2].ids) + 1
    places = range(len(full) - gold, len(full))
    wanted = np.mean([float(logs[place - 1, full[place]]) for place in places])
    assert float(found[1]) == pytest.approx(wanted, abs=1e-5)
    assert float(found[0]) != pytest.approx(wanted, abs=1e-5)


def test_known_embeddings_give_the_same_rewards_without_the_encoder(reader, monkeypatch):
    case = case_of(reader)
    rows = [case.arranged(one) for one in ([0, 2], [], range(len(case.texts)), [1])]
    wanted, known = mean_log_probs(reader, rows, 3), see(Embeddings(reader), [case])[0].embeddings
    monkeypatch.setattr(reader.model, "encoder", None)
    torch.testing.assert_close(mean_log_probs(reader, rows, 3, [known] * len(rows)), wanted)


def test_an_expansion_count_is_rounded_and_at_least_one(reader):
    case = case_of(reader)
    assert case.allowed() == round(0.3 * len(case.texts))
    assert case.allowed(0.001) == 1
    assert case.allowed(0.0) == 0


def test_the_policy_learns_what_is_rewarded_and_nothing_else_moves(reader):
    """A stand-in for rewards: chunks of the second passage are worth expanding."""
    torch.manual_seed(0)
    network = PolicyNetwork(NetworkShape(chunk_width=32, width=16))
    case = case_of(reader, p=0.2)
    wanted = set(np.flatnonzero(case.passages == 1).tolist())
    objective = PolicyObjective(reader, samples=8, clip=0.2, rows_at_once=8)

    def rewarded(_reader, rows, _rows_at_once, _known):
        orders = [set(np.flatnonzero(~np.array(row.chosen)).tolist()) for row in rows]
        return torch.tensor([float(len(order & wanted)) for order in orders])

    before = {name: p.clone() for name, p in reader.named_parameters()}
    module = PolicyModule(network)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("refrag_rag.training.policy_objective.mean_log_probs", rewarded)
        for step in range(80):
            everything = [case] if step % 2 == 0 else everything  # noqa: F821
            objective(module, everything, everything).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    chosen = ExpandLearned(network).select(see(Embeddings(reader), [case])[0], "", case.allowed())
    assert set(np.flatnonzero(chosen)) <= wanted
    assert all(torch.equal(p, before[name]) for name, p in reader.named_parameters())


def test_the_same_rollouts_serve_several_steps(reader):
    drawn = []

    def draw(rng: Random, count: int):
        drawn.extend(rng.random() for _ in range(count))
        return [case_of(reader) for _ in range(count)]

    source = Cases(draw, batch_size=2, epochs=3, figures=("loss", "kept"))
    batches = [source.draw(Random(step), 0.0) for step in range(4)]
    assert batches[0] is batches[1] is batches[2]
    assert batches[3] is not batches[0]
    assert len(drawn) == 4


def test_a_query_network_starts_as_the_words_and_depends_on_the_question(reader):
    torch.manual_seed(0)
    network = PolicyNetwork(NetworkShape(chunk_width=32, width=16, query=True))
    case = case_of(reader)
    (chunks,) = see(Embeddings(reader), [case])
    chosen = ExpandLearned(network).select(chunks, "How high is Tarsk?", 2)
    assert set(np.flatnonzero(chosen)) <= set(np.flatnonzero(case.passages == 1))
    network.output[-1].weight.data.normal_()
    other = Chunks(**{**vars(chunks), "question": chunks.question + 1})
    one, two = chunk_logits(network, [chunks, other], ["Where?", "Where?"])
    assert not torch.equal(one, two)


@pytest.mark.parametrize("query", [False, True])
def test_prompts_of_several_lengths_are_read_as_each_alone(reader, query):
    torch.manual_seed(0)
    network = PolicyNetwork(NetworkShape(chunk_width=32, width=16, query=query))
    network.output[-1].weight.data.normal_()
    long = case_of(reader)
    short = Case(long.pieces[2:], 0.3, question="How high?", asked=long.asked)
    cases = [long, short]
    questions = [case.question for case in cases]
    together = chunk_logits(network, see(Embeddings(reader), cases), questions)
    for case, logits in zip(cases, together, strict=True):
        (alone,) = chunk_logits(network, see(Embeddings(reader), [case]), [case.question])
        assert logits.shape == (len(case.texts),)
        torch.testing.assert_close(logits, alone)


def test_log_perplexity_of_all_chunks_is_that_of_full_text(reader):
    cases = [case_of(reader), case_of(reader, answer="since 1904")]
    values = log_perplexities(reader, cases, look(reader, cases), get_policy("all"), 0.5)
    rows = [case.arranged(range(len(case.texts))) for case in cases]
    np.testing.assert_allclose(values, -mean_log_probs(reader, rows, 2).numpy(), atol=1e-5)


def test_the_bootstrap_interval_holds_the_mean():
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    low, high = bootstrap(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.2)
