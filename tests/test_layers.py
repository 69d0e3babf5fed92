"""Imports point one way, and frameworks are imported only in their adapters."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "refrag_rag"

# From the ground up; a module may import from its own floor and from those below it.
FLOORS = (
    ("errors",),
    ("config", "spans"),
    ("text",),
    ("store", "policies"),
    ("prompt",),
    ("model",),
    ("checkpoints",),
    ("generation",),
    ("serving",),
    ("engine",),
    ("inspection", "adapters"),
    ("training", "llama_index", "langchain"),
    ("evaluation",),
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
    "sentence_transformers": {"evaluation"},
    "faiss": {"demo"},
    "accelerate": {"training"},
    "datasets": {"training"},
    "peft": {"checkpoints"},
    "ray": {"engine"},
    "vllm": {"serving"},
}
# Ways to import that no reader of imports sees; find_spec only looks, and is no such way.
DYNAMIC = {"import_module", "__import__", "exec_module", "load_module", "run_module", "run_path"}
FORWARDED = "from refrag_rag.checkpoints import"
# What notebooks show of answers and prompts is drawn by a room above, asked for when it is shown.
PICTURES = {"generation", "prompt"}
OUTSIDE = {"benchmarks", "recipes", "tests"}  # beside the package, not in the wheel
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def said(node: ast.AST) -> set[str]:
    """The names in one node: plain ones, attributes, imported ones, and texts for `getattr`."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.name for alias in node.names}
    value = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "value", None)
    return {value} if isinstance(value, str) else set()


def _without_pictures(module: str, tree: ast.Module) -> ast.Module:
    """The code without the bodies of `_repr_html_`, which may import `inspection` and no more."""
    for node in ast.walk(tree) if module in PICTURES else ():
        if isinstance(node, ast.FunctionDef) and node.name == "_repr_html_":
            inside = [part for part in node.body if isinstance(part, ast.ImportFrom)]
            assert [part.module for part in inside] == ["refrag_rag.inspection"]
            node.body = [part for part in node.body if part not in inside]
    return tree


def violations(module: str, code: str) -> list[str]:
    """What a module of the package (its first name below it) may not import."""
    found = []
    for node in ast.walk(_without_pictures(module, ast.parse(code))):
        found += [f"{module}: dynamic import ({way})" for way in said(node) & DYNAMIC]
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
            elif top in OUTSIDE:
                found.append(f"{module} imports {name}, which is not in the wheel")
            elif top in FRAMEWORKS and module not in FRAMEWORKS[top]:
                found.append(f"{module} imports the framework {name}")
    return found


def sources():
    """Path and code of every file; `RefragModel` forwards to what is built on it, four times."""
    for path in sorted(SOURCE.rglob("*.py")):
        code = path.read_text("utf-8")
        if path == SOURCE / "model" / "model.py":
            assert code.count(FORWARDED) == 4
            code = code.replace(FORWARDED, "from refrag_rag.errors import")
        yield path, code


def test_imports_point_one_way():
    rooms = {path: path.relative_to(SOURCE).parts[0].removesuffix(".py") for path, _ in sources()}
    found = [
        one
        for path, code in sources()
        if rooms[path] != "__init__"
        for one in violations(rooms[path], code)
    ]
    assert found == []
    assert {*rooms.values()} - FLOOR.keys() == {"__init__"}
    assert len(FLOOR) <= 20


def test_no_files_import_each_other_in_a_circle():
    names = {}
    for path, _ in sources():
        parts = ("refrag_rag", *path.relative_to(SOURCE).with_suffix("").parts)
        names[".".join(parts).removesuffix(".__init__")] = path
    graph = {}
    for path, code in sources():
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        imported = set()
        for node in ast.walk(_without_pictures(room, ast.parse(code))):
            if isinstance(node, ast.ImportFrom):
                deeper = {f"{node.module}.{alias.name}" for alias in node.names} & names.keys()
                imported |= deeper or {node.module} & names.keys()
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names} & names.keys()
        graph[path] = {names[name] for name in imported} - {path}
    list(TopologicalSorter(graph).static_order())  # raises where there is a circle


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("store", "from refrag_rag.engine import Refrag"),
        ("engine", "import langchain_core.documents"),
        ("spans", "def f():\n    from refrag_rag.model import RefragModel"),
        ("langchain", "from llama_index.core import VectorStoreIndex"),
        ("engine", "from . import model"),
        ("evaluation", "from benchmarks.harness import run"),
        ("engine", "from importlib import import_module"),
        ("engine", "import importlib\nimportlib.import_module('refrag_rag.cli')"),
        ("engine", "import importlib\ngetattr(importlib, 'import_module')('faiss')"),
        ("engine", "def f():\n    return __import__('llama_index')"),
    ],
)
def test_a_violation_is_found(module, code):
    assert violations(module, code)


def test_the_face_imports_by_name_only_what_its_table_has():
    import refrag_rag

    code = (SOURCE / "__init__.py").read_text("utf-8")
    assert {name.partition(".")[0] for name in refrag_rag._LAZY.values()} <= set(FLOOR)
    assert code.count('import_module(f"{__name__}.{_LAZY[name]}")') == 1
    way = "cli: dynamic import (import_module)"
    assert violations("cli", code) == [way, way]  # where it is imported, where it is called


def test_importing_the_package_loads_no_framework():
    import subprocess
    import sys

    code = "import sys, refrag_rag; print([m for m in sys.argv[1:] if m in sys.modules])"
    frameworks = [name for name in FRAMEWORKS if name != "accelerate"]
    run = subprocess.run(
        [sys.executable, "-c", code, *frameworks], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
