"""The table of modes: complete, and written only from tests that passed."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.modes import Mode, rows_of, table

COMMITTED = Path(__file__).parents[1] / "docs" / "results" / "modes.json"
REFRESH = "refresh with: make modes"


def test_the_committed_table_lists_the_marked_tests(request):
    """In a run of some files only, what these files mark must be in the table."""
    config = request.config
    rows = [asdict(row) for row in rows_of(config.stash[table].tests.values())]
    committed = json.loads(COMMITTED.read_text("utf-8"))
    if config.getoption("--modes"):
        pytest.skip("the table is being written")
    assert [row for row in rows if row not in committed] == [], REFRESH
    whole = config.args_source is config.ArgsSource.TESTPATHS
    frameworks = {row["framework"] for row in rows}  # one that is not installed marks nothing
    if whole:
        stale = [row for row in committed if row["framework"] in frameworks and row not in rows]
        assert stale == [], REFRESH


def test_only_rows_whose_tests_all_passed_are_written(pytester, tmp_path):
    pytester.makepyfile(
        """
        import pytest
        mark = lambda name: pytest.mark.mode(framework="LangChain", name=name, result="works")

        @pytest.mark.parametrize("good", [True, False])
        @mark("half")
        def test_half(good):
            assert good

        @mark("whole")
        def test_whole():
            pass

        @mark("skipped")
        def test_skipped():
            pytest.skip("not here")
        """
    )
    pytester.makeconftest("from tests.modes import pytest_addoption, pytest_configure")
    pytester.makeini(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\nmarkers = mode(name): a row"
    )
    target = tmp_path / "modes.json"
    pytester.runpytest_inprocess("--modes", str(target), "-p", "no:cacheprovider")
    rows = json.loads(target.read_text("utf-8"))
    assert rows == [{"framework": "LangChain", "name": "whole", "result": "works", "note": ""}]


def test_a_mode_has_one_result():
    works, noted = Mode("LangChain", "a", "works"), Mode("LangChain", "a", "works", "note")
    assert rows_of([works, noted, works]) == [noted]
    with pytest.raises(pytest.UsageError, match="two results"):
        rows_of([works, Mode("LangChain", "a", "degrades")])
    with pytest.raises(pytest.UsageError, match="expected"):
        Mode("LangChain", "a", "perhaps")
