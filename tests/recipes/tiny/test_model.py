"""The tests' model on questions that it has not seen: it reads text, vectors and policies."""

from dataclasses import replace
from random import Random

import pytest
import torch
from torch import nn

from recipes.tiny.evaluation.quality import ANSWER_TOKENS, Arm, measure, message
from recipes.tiny.questions import held_out_questions
from recipes.tiny.sources import reconstruction_rows
from recipes.tiny.tasks import Mix, Tasks
from recipes.tiny.world import World
from refrag_rag import Refrag
from refrag_rag.evaluation.metrics import exact_match
from refrag_rag.training.batches import collate
from refrag_rag.training.loss import next_token_sums
from refrag_rag.training.reading import embed_chosen
from tests.conftest import TINY


@pytest.fixture(scope="module")
def tiny():
    return Refrag.load(TINY)


@pytest.fixture(scope="module")
def answers(tiny):
    questions = held_out_questions(tiny.model.tokenizer, count=40)
    found = measure(tiny, questions, [Arm("full text", "all", 1.0), Arm("vectors", "none", 0.0)])
    alone = [message(replace(question, passages=())) for question in questions]
    found["no context"] = tiny.generate_batch(alone, batch_size=8, max_new_tokens=ANSWER_TOKENS)
    return questions, found


def share(answers, arm):
    questions, found = answers
    pairs = zip(questions, found[arm], strict=True)
    return sum(exact_match(answer.text, q.answers) for q, answer in pairs) / len(questions)


def test_tiny_reads_text(answers):
    assert share(answers, "full text") > share(answers, "no context") + 0.3


def test_tiny_reads_vectors(answers):
    assert share(answers, "vectors") > share(answers, "no context") + 0.3


def test_tinys_own_policy_finds_the_answer(tiny):
    """Better than the words of the question alone, with a tenth of the chunks."""
    questions = held_out_questions(tiny.model.tokenizer, count=60)
    found = {}
    for policy in ("random", "learned", "lexical", "learned-query"):
        prompts = [tiny.compress(message(q), policy=policy, p=0.1) for q in questions]
        texts = [
            "".join(p.text for p in prompt.segments if getattr(p, "role", "") == "expanded")
            for prompt in prompts
        ]
        pairs = zip(texts, questions, strict=True)
        found[policy] = sum(question.answers[0] in text for text, question in pairs)
    assert found["learned-query"] > found["lexical"] > found["learned"] > found["random"]
    assert found["learned-query"] > 0.8 * len(questions)


def test_tiny_reads_the_embeddings(tiny):
    """Zeroed embeddings, or those of other chunks, must hurt a trained model."""
    model = tiny.model
    tasks = Tasks(World(held_out=True), model.tokenizer.backend_tokenizer, Mix())
    rows = reconstruction_rows(Random(0), tasks, chunks=2, k=model.config.k, positions=2000)
    batch = collate(rows)
    losses = []
    with torch.inference_mode():
        own = embed_chosen(model, batch)
        for vectors in (own, torch.zeros_like(own), own.roll(11, dims=0)):
            logits = model(batch.input_ids, batch.vector_mask, vectors, batch.attention_mask)
            sums = next_token_sums(logits, nn.Identity(), batch)
            losses.append(float(sums.target_loss / sums.targets))
    assert losses[0] < losses[1] - 0.5
    assert losses[0] < losses[2] - 0.5


def test_tiny_needs_a_seventh_of_the_positions(tiny):
    passages = [p for q in held_out_questions(tiny.model.tokenizer, count=50) for p in q.passages]
    chunked = [tiny.model.chunker.chunk(passage) for passage in set(passages)]
    tokens = sum(len(one.token_ids) for one in chunked)
    assert sum(map(len, chunked)) <= tokens / 7
