"""The examples run as they stand, and the notebooks show what they say."""

import ast
import difflib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from refrag_rag import Refrag
from refrag_rag.store import LMDBStore, passage_key

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")

from examples.execute import execute, faults
from tests.conftest import TINY

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = ("langchain_rag.py", "llama_index_rag.py")
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.mark.parametrize("name", SCRIPTS)
def test_example_runs_and_prints_an_answer(name, tmp_path):
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.strip()


def test_every_process_encodes_its_share_into_one_store(tmp_path):
    texts = [f"Passage {i}: " + "a ship left the yard. " * (1 + i % 5) for i in range(30)]
    source, store = tmp_path / "passages.jsonl", tmp_path / "vectors"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(EXAMPLES / "precompute_on_all_gpus.py"), str(source), TINY, str(store)]
    run = subprocess.run(
        command,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    told = sorted(line for line in run.stdout.splitlines() if line.startswith("process"))
    assert told == [f"process {i}: 15 encoded, 0 there before" for i in range(2)]

    alone = Refrag.load(TINY)
    alone.precompute(texts)
    keys = [passage_key(text) for text in texts]
    expected = alone.store.get(alone.namespace, keys)
    with LMDBStore(store, read_only=True) as together:
        found = together.get(alone.namespace, keys)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.embeddings, other.embeddings, atol=2e-3)


@pytest.mark.slow
@each_notebook
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_notebook_runs(path, tmp_path):
    done = execute(path, tmp_path)
    assert faults(done) == []
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_the_readme_shows_the_example_as_it_runs():
    script = (EXAMPLES / "llama_index_rag.py").read_text("utf-8").partition('"""\n\n')[2]
    assert f"```python\n{script}```" in (EXAMPLES.parent / "README.md").read_text("utf-8")


@each_notebook
def test_a_notebook_is_kept_with_its_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert faults(notebook) == []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert any(cell.outputs for cell in code)


@pytest.mark.parametrize(
    "output",
    [
        {"output_type": "error", "ename": "E", "evalue": "", "traceback": []},
        {"output_type": "stream", "name": "stderr", "text": "UserWarning: this"},
        {"output_type": "stream", "name": "stdout", "text": "see /home/me/model"},
        {
            "output_type": "display_data",
            "metadata": {},
            "data": {"text/plain": "PosixPath('/tmp/x')"},
        },
    ],
)
def test_faults_are_found(output):
    cell = nbformat.v4.new_code_cell()
    cell.outputs = [nbformat.from_dict(output)]
    assert faults(nbformat.v4.new_notebook(cells=[cell]))


def tagged(name, tag):
    """Lines of the cell with a tag, without comments."""
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    ast.parse(cell.source)
    return [re.sub(r"\s*#.*", "", line) for line in cell.source.splitlines()]


@pytest.mark.parametrize(
    "name", ["quickstart_llama_index", "quickstart_langchain", "add_to_an_existing_chain"]
)
def test_three_lines_make_the_difference(name):
    before, after = tagged(name, "without"), tagged(name, "with")
    assert not any(line.lstrip().startswith(("import", "from")) for line in (*before, *after))
    new = [line for line in difflib.ndiff(before, after) if line.startswith("+ ")]
    assert 0 < len(new) <= 3, new
    for line in new:
        assert re.search(r"Refrag\w*\(", line), line
