"""Question records of the world."""

from random import Random

from recipes.tiny.records import draw_records
from recipes.tiny.sources import open_tasks
from recipes.tiny.tasks import Mix


def test_records_of_one_context_ask_for_different_facts(tokenizer):
    tasks = open_tasks(tokenizer, Mix(), None)
    records = draw_records(tasks, Random(0), 6)
    assert len(records) == 6
    assert len({tuple(p.text for p in one.passages) for one in records}) == 1
    assert len({(one.id, one.question) for one in records}) == 6
    for one in records:
        (gold,) = [passage for passage in one.passages if passage.gold]
        assert one.answers[0] in gold.text
