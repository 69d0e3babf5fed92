"""The clock of the benchmarks, with times that are known."""

import pytest

from benchmarks.harness import columns, median, new_store, ratio, run, summary


def test_systems_take_turns_and_the_first_run_of_each_does_not_count():
    now, said = [0.0], []

    def system(name, *seconds):
        left = iter((100.0, *seconds))

        def work():
            said.append(name)
            now[0] += next(left)
            return {"ttft": now[0]}

        return work

    systems = {"ours": system("ours", 1.0, 2.0, 4.0), "plain": system("plain", 10.0, 30.0, 20.0)}
    rows = run(systems, 3, clock=lambda: now[0])
    assert said == ["ours", "plain"] * 4
    assert [(row["round"], row["system"], row["seconds"]) for row in rows] == [
        *((0, "ours", 1.0), (0, "plain", 10.0)),
        *((1, "ours", 2.0), (1, "plain", 30.0)),
        *((2, "ours", 4.0), (2, "plain", 20.0)),
    ]
    assert summary(rows, "ours")["seconds"] == {"median": 2.0, "low": 1.0, "high": 4.0}
    assert summary(rows, "plain")["runs"] == 3
    assert "ttft" in rows[0]


def test_ratios_are_of_runs_in_the_same_round():
    rows = [
        {"system": "ours", "round": 0, "ttft": 1.1}, {"system": "bare", "round": 0, "seconds": 1.0},
        {"system": "ours", "round": 1, "ttft": 9.9}, {"system": "bare", "round": 1, "seconds": 9.0},
        {"system": "ours", "round": 2, "ttft": 4.0}, {"system": "bare", "round": 2, "seconds": 2.0},
    ]  # fmt: skip
    found = ratio(rows, ("ours", "ttft"), ("bare", "seconds"))
    assert found == pytest.approx({"median": 1.1, "low": 1.1, "high": 2.0})
    assert median({"overhead": found}, "overhead") == pytest.approx(1.1)


def test_the_largest_peak_is_kept():
    rows = [{"system": "a", "round": n, "seconds": 1.0, "peak_bytes": n} for n in range(3)]
    assert summary(rows, "a")["peak_bytes"] == 2


def test_columns_that_nobody_fills_are_left_out():
    templates = {"name": "`{name}`", "ms": "{ms:.1f}", "never": "{never}", "none": "{none:.1f}"}
    rows = [{"name": "a", "ms": 1.25, "none": None}, {"name": "b", "ms": None, "none": None}]
    assert columns(rows, templates) == "| name | ms |\n|---|---|\n| `a` | 1.2 |\n| `b` | - |\n"


def test_a_store_is_gone_afterwards():
    with new_store() as store:
        assert store.path.exists()
    assert not store.path.exists()
