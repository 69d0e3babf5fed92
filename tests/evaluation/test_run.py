"""``refrag eval``: arms, answers that survive a stop, and the table."""

import json
import lzma

import numpy as np
import pytest

from refrag_rag import InputError
from refrag_rag.cli import main
from refrag_rag.evaluation.answers import AnswerFile, Row
from refrag_rag.evaluation.arms import (
    CLOSED,
    FULL,
    VECTORS,
    answer,
    build_arms,
    choose_arms,
    foreign_store,
    read,
)
from refrag_rag.evaluation.metrics import bootstrap
from refrag_rag.evaluation.prompts import fits, prompt
from refrag_rag.evaluation.questions import Question, read_questions
from refrag_rag.evaluation.table import markdown, score_rows
from refrag_rag.store import passage_key
from tests.conftest import build_model

PASSAGES = tuple(
    f"Passage {n}. " + f"The mill {n} stood by the river for years. " * 6 for n in "abcd"
)
OTHER = Question("Where?", ("here",), tuple(f"Elsewhere {n} it rained." * 5 for n in range(4)))
QUESTION = Question("What stood by the river?", ("mill b",), PASSAGES, scores=(0.8, 0.9, 0.1, 0.2))
ARMS = {arm.name: arm for arm in build_arms(["lexical", "random"], [0.2])}
EQUAL = "best passages as text, positions of p = 0.2"


def ask(engine, arm, **options):
    return answer([read(engine, arm, QUESTION, other=OTHER, **options)])[0]


def test_every_arm_reads_what_it_says(engine):
    engine.precompute([*QUESTION.passages, *OTHER.passages])
    full, closed, vectors, lexical = (
        ask(engine, ARMS[name]).counts for name in (FULL, CLOSED, VECTORS, "lexical, p = 0.2")
    )
    assert full.positions == full.plain_positions
    assert closed.spans == 0
    assert vectors.expanded == 0
    assert 0 < lexical.expanded <= 0.2 * lexical.chunks + 1
    assert closed.positions < vectors.positions < lexical.positions < full.positions


def test_equal_positions_are_filled_with_the_best_passages(engine):
    engine.precompute(QUESTION.passages)
    room = ask(engine, ARMS["lexical, p = 0.2"]).counts.positions
    found = ask(engine, ARMS[EQUAL], positions=room).counts
    assert found.positions == found.plain_positions
    assert 0.9 * room < found.positions <= room
    assert found.spans == 0
    everything = ask(engine, ARMS[EQUAL], positions=10_000).counts
    assert everything.positions == engine.compress(prompt(QUESTION, marked=False)).positions
    nothing = ask(engine, ARMS[EQUAL], positions=1).counts
    assert nothing.positions == engine.compress(prompt(Question(QUESTION.text, (), ()))).positions


@pytest.mark.parametrize("name", ["lexical", "retrieval"])
def test_a_budget_of_positions_is_filled_by_every_method(engine, name):
    engine.precompute(QUESTION.passages)
    least = ask(engine, ARMS[VECTORS]).counts.positions
    full = engine.compress(prompt(QUESTION, marked=False)).positions
    room = (least + full) // 2
    arms = {arm.name: arm for arm in build_arms([name], [], [room])}
    for at, spans in (
        (f"best passages as text, {room} positions", 0),
        (f"text chosen by {name}, {room} positions", 0),
        (f"{name}, {room} positions", 4),
    ):
        found = ask(engine, arms[at]).counts
        assert 0.8 * room < found.positions <= room
        assert found.spans == spans
    tight = {arm.name: arm for arm in build_arms([name], [], [least - 1])}
    found = ask(engine, tight[f"{name}, {least - 1} positions"]).counts
    assert (found.positions, found.expanded) == (least, 0)


def test_the_policy_sees_the_retrieval_scores(engine):
    engine.precompute(QUESTION.passages)
    expanded = [
        layout.expanded.any()
        for layout in engine.compress(prompt(QUESTION), policy="retrieval", p=0.2).layouts
    ]
    assert expanded == [False, True, False, False]


def test_foreign_embeddings_are_those_of_the_other_question(engine):
    engine.precompute([*QUESTION.passages, *OTHER.passages])
    found = ask(engine, ARMS["embeddings of other passages"])
    assert found.counts.positions == ask(engine, ARMS[VECTORS]).counts.positions
    keys = [[passage_key(p) for p in q.passages] for q in (QUESTION, OTHER)]
    store = foreign_store(engine, QUESTION, OTHER)
    swapped = store.get(engine.namespace, keys[0])
    own, theirs = (engine.store.get(engine.namespace, one) for one in keys)
    for entry, mine, other in zip(swapped, own, theirs, strict=True):
        assert entry.token_ids.tolist() == mine.token_ids.tolist()
        shared = min(len(other.embeddings), len(entry.embeddings))
        np.testing.assert_array_equal(entry.embeddings[:shared], other.embeddings[:shared])


def test_arms_are_chosen_with_what_they_need():
    arms = list(ARMS.values())
    assert [arm.name for arm in choose_arms(arms, [EQUAL])] == ["lexical, p = 0.2", EQUAL]
    assert choose_arms(arms, []) == arms
    with pytest.raises(InputError, match="full text"):
        choose_arms(arms, ["everything"])


def test_the_window_is_checked_without_encoding(engine):
    assert fits(engine, QUESTION, 24)
    assert not fits(engine, Question("?", ("a",), ("word " * 4000,)), 24)
    assert len(engine.store.get(engine.namespace, ["x"])) == 1


def write(path, count=3, **changes):
    contexts = [{"title": "T", "text": text, "score": i} for i, text in enumerate(PASSAGES)]
    record = {"question": "What stood?", "answers": ["mill"], "contexts": contexts} | changes
    text = (json.dumps(record) + "\n") * count
    path.write_bytes(lzma.compress(text.encode()) if path.suffix == ".xz" else text.encode())
    return path


def test_a_run_goes_on_where_it_was_stopped(tokenizer, tmp_path, capsys):
    build_model(tokenizer).save_pretrained(tmp_path / "model")
    data = [write(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl.xz", count=2)]
    command = ["eval", str(tmp_path / "model"), "--data", *map(str, data)]
    command += ["--out", str(tmp_path / "out"), "--shares", "0.2"]
    assert main([*command, "--limit", "1"]) == 0
    kept = tmp_path / "out" / "answers.jsonl"
    first = kept.read_text()
    kept.write_text(first[:-20])  # a run that was killed while it wrote
    assert main(command) == 0
    rows = [json.loads(line) for line in kept.read_text().splitlines()[1:]]
    places = [(row["file"], row["question"], row["arm"]) for row in rows]
    assert len(places) == len(set(places)) == 5 * len(ARMS)
    assert kept.read_text().startswith(first[: first.rfind("\n", 0, -1) + 1])
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {name: rows[0]["questions"] for name, rows in result["files"].items()} == {
        "a": 3,
        "b": 2,
    }
    assert "**b**" in capsys.readouterr().out


@pytest.fixture
def run_on(tokenizer, tmp_path):
    """Runs ``refrag eval`` on files; a few arms."""
    build_model(tokenizer).save_pretrained(tmp_path / "model")
    command = ["eval", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    command += ["--arms", VECTORS, "embeddings of other passages"]

    def run(*files, options=()):
        return main([*command, "--data", *map(str, files), *options])

    return run


def answers(tmp_path):
    lines = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()[1:]
    return [json.loads(line) for line in lines]


def test_batches_give_the_answers_that_single_questions_give(tokenizer, tmp_path):
    build_model(tokenizer).save_pretrained(tmp_path / "model")
    lines = [write(tmp_path / f"{n}.jsonl", 1, question=f"What {n} stood?") for n in "abcde"]
    data = tmp_path / "all.jsonl"
    data.write_text("".join(line.read_text() for line in lines))
    found = []
    for batch in (1, 3):
        command = ["eval", str(tmp_path / "model"), "--data", str(data), "--shares", "0.2"]
        out = tmp_path / f"out{batch}"
        assert main([*command, "--out", str(out), "--batch", str(batch)]) == 0
        rows = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()[1:]]
        found.append({(r["question"], r["arm"]): (r["text"], r["positions"]) for r in rows})
        timed = {row["question"] for row in rows if row["ttft_s"] is not None}
        assert timed == (set(range(5)) if batch == 1 else set())
    assert found[0] == found[1]


def test_other_questions_under_the_same_name_are_refused(run_on, tmp_path, capsys):
    assert run_on(write(tmp_path / "a.jsonl")) == 0
    assert run_on(write(tmp_path / "a.jsonl", answers=["another"])) == 1
    assert "answers another question 0 of a" in capsys.readouterr().err


def test_files_of_one_name_are_refused(run_on, tmp_path, capsys):
    (tmp_path / "b").mkdir()
    files = [write(tmp_path / "a.jsonl"), write(tmp_path / "b" / "a.jsonl.xz")]
    assert run_on(*files) == 1
    assert "different names" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_question_alone_has_no_other_passages(run_on, tmp_path):
    assert run_on(write(tmp_path / "a.jsonl", count=1)) == 0
    assert [row["arm"] for row in answers(tmp_path)] == [VECTORS]


def test_the_table_is_of_the_questions_that_were_asked_for(run_on, tmp_path):
    data = write(tmp_path / "a.jsonl")
    assert run_on(data) == run_on(data, options=["--limit", "2"]) == 0
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {row["questions"] for row in result["files"]["a"]} == {2}
    assert run_on(data, options=["--limit", "0"]) == 1


@pytest.mark.parametrize("options", [["--policies", "nope"], ["--shares", "1.5"]])
def test_settings_are_checked_before_anything_is_written(tokenizer, tmp_path, options):
    build_model(tokenizer).save_pretrained(tmp_path / "model")
    command = ["eval", str(tmp_path / "model"), "--out", str(tmp_path / "out"), *options]
    assert main([*command, "--data", str(write(tmp_path / "a.jsonl"))]) == 1
    assert not (tmp_path / "out" / "answers.jsonl").exists()


def test_another_run_in_the_same_folder_is_refused(tmp_path):
    AnswerFile(tmp_path / "a.jsonl", {"model": "one"})
    with pytest.raises(InputError, match="another run"):
        AnswerFile(tmp_path / "a.jsonl", {"model": "two"})
    (tmp_path / "b.jsonl").write_text('{"model": "one"}\n{"file": 1}\n')
    with pytest.raises(InputError, match="line 2"):
        AnswerFile(tmp_path / "b.jsonl", {"model": "one"})
    for left in ("", '{"model": "o', '{"model": "two"}'):  # stopped while it began
        (tmp_path / "c.jsonl").write_text(left)
        AnswerFile(tmp_path / "c.jsonl", {"model": "one"}).add(row(0, VECTORS, True))
        assert len(AnswerFile(tmp_path / "c.jsonl", {"model": "one"}).rows) == 1
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file" / "answers.jsonl"):
        with pytest.raises(InputError, match="Choose another folder"):
            AnswerFile(place, {"model": "one"})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answers": "mill"}, "line 1"),
        ({"contexts": [{"title": "T"}]}, "line 1"),
        ({"contexts": None}, "line 1"),
        ({"question": 5}, "line 1"),
        ({"question": " "}, "line 1"),
        ({"answers": []}, "line 1"),
        ({"contexts": []}, "line 1"),
        ({"contexts": [{"text": "a", "score": 10**400}]}, "line 1"),
    ],
)
def test_a_bad_line_is_one_clear_error(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        read_questions(write(tmp_path / "q.jsonl", **changes))


def test_files_that_cannot_be_read_are_named(tmp_path):
    cut = write(tmp_path / "q.jsonl.xz", count=400)
    cut.write_bytes(cut.read_bytes()[:-30])
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "\xe9"}\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    for name in ("q.jsonl.xz", "latin.jsonl", "empty.jsonl", "absent.jsonl"):
        with pytest.raises(InputError, match=name):
            read_questions(tmp_path / name)


def test_scores_rank_the_passages(tmp_path):
    (question,) = read_questions(write(tmp_path / "q.jsonl", count=1))
    assert question.ranking == (3, 2, 1, 0)
    assert question.passages[0].startswith("T\nPassage a")


def row(number, arm, exact, k=8):
    return Row("f", number, arm, k, "", exact, float(exact), 10, 0.5, "")


def test_differences_are_paired_and_on_common_questions():
    rows = [row(n, FULL, n % 2 == 0, k=0) for n in range(10)]
    rows += [row(n, VECTORS, n % 4 == 0) for n in range(8)]
    full, vectors = score_rows(rows)
    assert (full["questions"], vectors["questions"]) == (10, 8)
    assert (full["exact"], vectors["exact"]) == (0.5, 0.25)
    mean, low, high = vectors["exact_to_full"]
    assert mean == -0.25
    assert low <= -0.25 <= high <= 0
    (table,) = markdown({"f": [full, vectors]})
    assert "| all compressed | 8 | 8 | 25.0" in table


def test_the_bootstrap_interval_is_that_of_a_slow_one():
    values = np.random.default_rng(1).normal(3.0, 2.0, 50)
    low, high = bootstrap(values)
    rng = np.random.default_rng(7)
    means = [rng.choice(values, 50).mean() for _ in range(10_000)]
    np.testing.assert_allclose((low, high), np.percentile(means, [2.5, 97.5]), atol=0.03)
