"""The table of framework modes, made from the tests that carry ``@pytest.mark.mode``.

``make modes`` (``pytest --modes=FILE -m mode``) writes the rows whose tests all passed, and
``docs/build.py`` makes docs/modes.md of them.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

FRAMEWORKS = ("LlamaIndex", "LangChain")
RESULTS = ("works", "degrades", "not applicable")


@dataclass(frozen=True, order=True)
class Mode:
    """One row: what happens to marked passages in one mode of a framework."""

    framework: str
    name: str
    result: str = "works"
    note: str = ""

    def __post_init__(self):
        if self.framework not in FRAMEWORKS or self.result not in RESULTS:
            raise pytest.UsageError(f"{self}; expected {FRAMEWORKS} and {RESULTS}")

    @property
    def key(self):
        return self.framework, self.name


class ModeTable:
    """Plugin: collects the marked tests, and which of them passed."""

    def __init__(self, target: str | None) -> None:
        self.target = target
        self.tests: dict[str, Mode] = {}
        self._passed: dict[str, bool] = {}

    @pytest.hookimpl(tryfirst=True)  # before tests are deselected
    def pytest_collection_modifyitems(self, items):
        for item in items:
            for marker in item.iter_markers("mode"):
                self.tests[item.nodeid] = Mode(*marker.args, **marker.kwargs)
        rows_of(self.tests.values())

    def pytest_runtest_logreport(self, report):
        self._passed[report.nodeid] = report.passed and self._passed.get(report.nodeid, True)

    def pytest_sessionfinish(self):
        if self.target is not None:
            failed = {mode.key for test, mode in self.tests.items() if not self._passed.get(test)}
            rows = rows_of(mode for mode in self.tests.values() if mode.key not in failed)
            text = json.dumps([asdict(row) for row in rows], indent=1)
            Path(self.target).write_text(text + "\n", encoding="utf-8")


table = pytest.StashKey[ModeTable]()


def pytest_addoption(parser):
    parser.addoption("--modes", metavar="FILE", help="write the table of framework modes")


def pytest_configure(config):
    config.stash[table] = ModeTable(config.getoption("--modes"))
    config.pluginmanager.register(config.stash[table], "modes")


def rows_of(modes: Iterable[Mode]) -> list[Mode]:
    """Sorted rows, one a framework and name; notes of several tests are joined."""
    rows: dict[tuple[str, str], Mode] = {}
    for mode in sorted(set(modes)):
        known = rows.setdefault(mode.key, mode)
        if known.result != mode.result:
            raise pytest.UsageError(f"{known} and {mode}: one mode, two results")
        notes = dict.fromkeys(note for note in (known.note, mode.note) if note)
        rows[mode.key] = Mode(*mode.key, mode.result, "; ".join(notes))
    return list(rows.values())
