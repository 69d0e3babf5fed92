"""Imports point one way, and frameworks are imported only in their adapters."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "refrag_rag"

# From the ground up; a module may import from its own floor and from those below it.
FLOORS = (
    ("errors",),
    ("extras", "compiling"),
    (
        *("config", "spans", "question", "tokenization", "answer", "readings", "inspection"),
        "tools",
    ),
    ("chunking", "prompt", "adapter", "store", "policies", "chat_template"),
    ("projector", "windows"),
    ("encoder", "sampling", "stopping", "assembly"),
    ("model", "checkpoints"),
    ("reuse", "decode", "lookup", "expanding", "scoring", "threads"),
    ("answering",),
    ("preparation", "precompute"),
    ("engine",),
    ("extract", "ray_job"),
    ("training", "llama_index", "langchain"),
    ("evaluation", "doctor"),
    ("demo",),
    ("cli",),
)
FRAMEWORKS = {
    "llama_index": {"llama_index", "demo"},
    "llama_index_instrumentation": {"llama_index"},
    "langchain": {"langchain"},
    "langchain_core": {"langchain", "demo"},
    "langchain_classic": {"langchain", "demo"},
    "langchain_huggingface": {"demo"},
    "sentence_transformers": set(),
    "faiss": {"demo"},
    "accelerate": {"training"},
    "datasets": {"training"},
    "peft": {"checkpoints"},
    "ray": {"ray_job"},
}
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def violations(module: str, code: str) -> list[str]:
    """What a module of the package (its first name below it) may not import."""
    found = []
    for node in ast.walk(ast.parse(code)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            if node.level:
                found.append(f"{module}: relative import")
            names = [node.module or ""]
        for name in names:
            top, _, rest = name.partition(".")
            if top == "refrag_rag" and rest:
                below = rest.split(".")[0]
                if FLOOR[below] > FLOOR[module]:
                    found.append(f"{module} imports {name}")
            elif top in FRAMEWORKS and module not in FRAMEWORKS[top]:
                found.append(f"{module} imports the framework {name}")
    return found


def modules():
    for path in sorted(SOURCE.rglob("*.py")):
        first = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if first != "__init__":
            yield pytest.param(first, path, id=str(path.relative_to(SOURCE)))


@pytest.mark.parametrize(("module", "path"), list(modules()))
def test_imports_point_one_way(module, path):
    code = path.read_text("utf-8")
    if module == "model":  # save and load are built on models; the model only forwards to them
        assert code.count("from refrag_rag.checkpoints import") == 4
    assert violations(module, code) == []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("store", "from refrag_rag.engine import Refrag"),
        ("engine", "import langchain_core.documents"),
        ("spans", "def f():\n    from refrag_rag.model import RefragModel"),
        ("langchain", "from llama_index.core import VectorStoreIndex"),
        ("engine", "from . import model"),
    ],
)
def test_a_violation_is_found(module, code):
    assert violations(module, code)


def test_importing_the_package_loads_no_framework():
    import subprocess
    import sys

    code = "import sys, refrag_rag; print([m for m in sys.argv[1:] if m in sys.modules])"
    frameworks = [name for name in FRAMEWORKS if name != "accelerate"]
    run = subprocess.run(
        [sys.executable, "-c", code, *frameworks], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
