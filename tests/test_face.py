"""What a program pays for importing the package, and on which systems it can."""

import subprocess
import sys

import pytest

MARKING = "import refrag_rag, refrag_rag.spans; refrag_rag.spans.wrap('A passage.')"
HEAVY = ("torch", "transformers", "numpy", "lmdb")


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


def hiding(*names):
    """Code that makes imports of these modules fail."""
    return f"import sys; sys.modules.update(dict.fromkeys({names!r})); "


@pytest.mark.parametrize(
    "code",
    [
        MARKING,
        "from refrag_rag.cli import main; main(['--version'])",
        "from refrag_rag.cli import main; main(['--help'])",
    ],
)
def test_torch_is_not_loaded(code):
    watched = "torch", "transformers"
    done = run(
        "import atexit, sys; "
        f"atexit.register(lambda: print('loaded', {watched!r} & sys.modules.keys())); ".replace(
            f"{watched!r} &", f"set({watched!r}) &"
        )
        + code
    )
    assert done.stdout.endswith("loaded set()\n"), done.stdout + done.stderr


def test_marking_needs_nothing_else():
    done = run(hiding(*HEAVY, "fcntl") + MARKING)
    assert done.returncode == 0, done.stderr


def test_without_posix_all_but_the_store_on_disk_works():
    code = (
        "import refrag_rag.cli; from refrag_rag import Refrag, RefragModel; "
        "from refrag_rag.store import MemoryStore, open_store; open_store(None)"
    )
    done = run(hiding("fcntl", "lmdb") + code)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there():
    done = run("from refrag_rag import *; import refrag_rag as r; print(len(dir(r)), Refrag)")
    assert "refrag_rag.engine.engine.Refrag" in done.stdout, done.stderr
    done = run("import refrag_rag; refrag_rag.nothing")
    assert "has no attribute 'nothing'" in done.stderr
