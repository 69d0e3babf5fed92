"""The wheel in fresh environments: bare, and with what each extra declares and nothing else.

An environment is a new venv into which the wheel is installed by pip. Its dependencies are linked
from the running environment, by the requirements that the wheel declares: a module that is used and
not declared is missing there, and nothing is downloaded.
"""

import subprocess
import sys
import zipfile
from collections import deque
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

import pytest

from tests.conftest import TINY

pytest.importorskip("build")
requirements = pytest.importorskip("packaging.requirements")

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
ASK = "compressible('The tower is 30 metres high.') + ' How high is the tower?'"
LANGCHAIN = (
    "from refrag_rag import *; from refrag_rag.langchain import ChatRefrag; "
    f"print(ChatRefrag(Refrag.load('{TINY}')).invoke({ASK}).text)"
)
CHECKS = {
    "": f"from refrag_rag import *; print(Refrag.load('{TINY}').generate({ASK}).text)",
    "llama-index": "from refrag_rag import *; from refrag_rag.llama_index import RefragLLM; "
    f"print(RefragLLM(Refrag.load('{TINY}')).complete({ASK}).text)",
    "langchain": LANGCHAIN,
    "agents": "from refrag_rag.langchain import RefragMiddleware; print(RefragMiddleware())",
    "train": "import refrag_rag.training.finetune, refrag_rag.training.policy; print('ok')",
    "demo": "import refrag_rag.demo.run; print('ok')",
    "ray": "import ray.data, refrag_rag.engine.ray_job; print('ok')",
    "vector-stores": "import chromadb, faiss, lancedb, qdrant_client, langchain_postgres; "
    "from llama_index.vector_stores.postgres import PGVectorStore; "
    f"from refrag_rag.llama_index import *; {LANGCHAIN}",
}
DEMO = "pip install 'refrag-rag[demo]'"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def install(wheel, tmp_path_factory):
    """A function from an extra to the folder of programs of a fresh environment with it."""
    made = {}

    def environment(extra):
        if extra not in made:
            folder = tmp_path_factory.mktemp(extra or "bare")
            run(sys.executable, "-m", "venv", folder)
            run(folder / "bin" / "pip", "install", "--quiet", "--no-index", "--no-deps", wheel)
            (packages,) = folder.glob("lib/python*/site-packages")
            (ours,) = distributions(name="refrag-rag", path=[str(packages)])
            link(needed(ours, extra), packages)
            made[extra] = folder / "bin"
        return made[extra]

    return environment


def run(*command, status=0, cwd=None):
    """Output of a command that ends with a status."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, cwd=cwd
    )
    said = done.stdout + done.stderr
    assert done.returncode == status, said[-3000:]
    return said


def needed(ours, extra):
    """Distributions that our wheel requires with an extra, all the way down."""
    found, queue = {}, deque([("refrag-rag", frozenset({extra}))])
    seen = set()
    while queue:
        name, extras = queue.popleft()
        try:
            one = ours if name == "refrag-rag" else distribution(name)
        except PackageNotFoundError:
            pytest.skip(f"{name} is not installed here; install the extra {extra!r} to test it")
        found[one.metadata["Name"]] = one
        for text in one.requires or ():
            wanted = requirements.Requirement(text)
            asked = [e for e in extras or {""} if _applies(wanted, e)]
            key = (wanted.name, frozenset(wanted.extras))
            if asked and key not in seen:
                seen.add(key)
                queue.append((wanted.name, frozenset(wanted.extras) | {""}))
    found.pop("refrag-rag")
    return list(found.values())


def _applies(wanted, extra):
    return wanted.marker is None or wanted.marker.evaluate({"extra": extra})


def link(wanted: list[Distribution], packages: Path):
    """Link distributions into a folder, whole top-level folders where nobody shares them."""
    owners = {}
    for one in distributions():
        for top in {file.parts[0] for file in one.files or ()}:
            owners.setdefault(top, set()).add(one.metadata["Name"])
    for one in wanted:
        for file in one.files or ():
            whole = len(owners[file.parts[0]]) == 1
            place = Path(file.parts[0]) if whole else Path(*file.parts)
            if file.parts[0] == ".." or (packages / place).exists():
                continue
            (packages / place).parent.mkdir(parents=True, exist_ok=True)
            (packages / place).symlink_to(Path(str(one.locate_file(place))))


def test_the_wheel_holds_neither_the_tests_model_nor_recipes(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("refrag_rag/checkpoints/models/smol/") for name in names)
    assert not [name for name in names if "tiny" in name or "recipes" in name]


@pytest.mark.parametrize("extra", CHECKS)
def test_the_wheel_works_with_an_extra(install, extra, tmp_path):
    said = run(install(extra) / "python", "-W", "ignore", "-c", CHECKS[extra], cwd=tmp_path)
    assert said.strip()


def test_the_bare_wheel_runs_doctor(install, tmp_path):
    refrag = install("") / "refrag"
    assert "torch" in run(refrag, "doctor", cwd=tmp_path)
    assert "8" in run(refrag, "doctor", TINY, cwd=tmp_path)


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (["demo"], DEMO),
        (["ask", "Who?"], DEMO),
        (["train", "finetune", "--help"], "pip install 'refrag-rag[train]'"),
    ],
)
def test_the_bare_wheel_says_which_extra_is_missing(install, tmp_path, command, hint):
    said = run(install("") / "refrag", *command, status=1, cwd=tmp_path)
    assert hint in said
    assert "Traceback" not in said


@pytest.mark.parametrize("adapter", ["llama_index", "langchain"])
def test_the_bare_wheel_has_no_frameworks(install, tmp_path, adapter):
    code = f"import refrag_rag.{adapter}"
    said = run(install("") / "python", "-c", code, status=1, cwd=tmp_path)
    assert f"pip install 'refrag-rag[{adapter.replace('_', '-')}]'" in said


def test_the_demo_runs_from_the_wheel(install, tmp_path):
    question = "Where is the head office of Nintendo?"
    said = run(install("demo") / "refrag", "demo", "--ask", question, cwd=tmp_path)
    assert "Kyoto" in said
