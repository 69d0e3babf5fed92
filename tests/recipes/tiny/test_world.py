"""The invented world, its curricula and its data."""

import json
import lzma
import math
from itertools import pairwise
from random import Random

import pytest

from recipes.tiny.levels import LevelCurriculum
from recipes.tiny.tasks import MAX_ANSWER_TOKENS, Level, Mix, Tasks
from recipes.tiny.world import World
from recipes.tiny.world.factbook import load_factbook
from recipes.tiny.world.names import is_held_out, stem
from refrag_rag.training.lengths import LengthCurriculum


def test_every_fact_can_be_read_and_asked():
    world, rng = World(), Random(0)
    for kind in world.kinds:
        for _ in range(20):
            entity = world.entity(rng, facts=99, kind=kind)
            passage = entity.passage(rng)
            assert entity.name in passage
            assert "{" not in passage
            for fact in entity.facts:
                assert fact.value.lower() in passage.lower()
                question = entity.question(fact, rng)
                assert entity.name in question
                assert question.endswith("?")
                assert "{" not in question


def test_values_stand_where_the_passage_says():
    world, rng = World(), Random(5)
    for _ in range(300):
        first, second = (world.entity(rng, facts=9).told(rng) for _ in range(2))
        both = first.followed_by(second, "\n\n")
        assert len(both.values) == len(first.values) + len(second.values)
        for told in (first, both):
            for _, value, place in told.values:
                assert told.text[place : place + len(value)].lower() == value.lower()


def test_held_out_names_are_never_drawn_in_training():
    rng = Random(1)
    trained = {stem(rng, held_out=False) for _ in range(3000)}
    held_out = {stem(rng, held_out=True) for _ in range(1000)}
    assert not trained & held_out
    assert not any(map(is_held_out, trained))
    assert all(map(is_held_out, held_out))


def test_one_seed_one_world():
    def tell(seed):
        rng = Random(seed)
        return [e.passage(rng) for e in World().entities(rng, 5, facts=4)]

    assert tell(3) == tell(3)
    assert tell(3) != tell(4)


def test_alike_entities_differ_only_by_name():
    entities = World().entities(Random(2), 6, facts=3, alike=1.0)
    asked = {tuple(fact.attribute.name for fact in entity.facts) for entity in entities}
    assert len(asked) == 1
    assert len({entity.name for entity in entities}) == 6


def test_answers_have_at_most_six_tokens(tokenizer):
    tasks = Tasks(World(), tokenizer.backend_tokenizer, Mix(copy=0, retell=0))
    for seed in range(20):
        pieces = tasks.example(Random(seed), Level(2, 4))
        for first, rest in pairwise(pieces):
            if first.target:
                assert len(first.ids) + len(rest.ids) <= MAX_ANSWER_TOKENS + 1


def test_a_level_is_left_when_it_is_mastered():
    curriculum = LevelCurriculum(patience=5, threshold=0.9)
    rng = Random(0)
    for _ in range(30):
        curriculum.draw(rng)
        curriculum.record(1.0, 0.5)
    assert curriculum.current == 0
    for _ in range(200):
        curriculum.draw(rng)
        curriculum.record(0.1, 1.0)
        curriculum.record(math.nan, math.nan)
    assert curriculum.current == len(curriculum.levels) - 1
    copy = LevelCurriculum()
    copy.restore(json.loads(json.dumps(curriculum.state())))
    assert copy.state() == curriculum.state()


def test_length_weights_are_the_papers_table():
    table = {1: (1333, 0), 2: (333, 137), 4: (83, 447), 8: (20, 1719), 16: (5, 2125)}
    curriculum = LengthCurriculum(list(table))
    first, last = curriculum.weights(0.0), curriculum.weights(1.0)
    for (begins, ends), start, end in zip(table.values(), first, last, strict=True):
        assert start == begins
        assert end == pytest.approx(ends, rel=0.03, abs=1)


def test_lengths_grow_with_the_training():
    curriculum, rng = LengthCurriculum(), Random(0)
    early = [curriculum.draw(rng, 0.0) for _ in range(300)]
    late = [curriculum.draw(rng, 1.0) for _ in range(300)]
    assert sum(late) > 4 * sum(early)


def test_the_fact_book_gives_loose_words(tmp_path):
    records = [
        {"question": "What is the capital (name) of Absurdia?", "answers": ["Nonsense (old)"]},
        {"question": "Absurdia: what is the elevation (highest point)?", "answers": ["Tor 9 m"]},
        {"question": "What is the climate of Absurdia?", "answers": ["mild"]},
    ]
    path = tmp_path / "book.jsonl.xz"
    path.write_bytes(lzma.compress("\n".join(map(json.dumps, records)).encode()))
    pools = load_factbook(path)
    assert pools["city"] == pools["capital"] == ["Nonsense"]
    assert pools["peak"] == ["Tor"]
