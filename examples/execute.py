"""Execute notebooks and keep their outputs: ``python examples/execute.py [NAME.ipynb ...]``."""

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent
ABSOLUTE = re.compile(r"(?<![\w.:/<])/(?:home|root|tmp|usr|var|opt|work|mnt|Users)/")


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Execute a notebook in `folder`, on the CPU; progress bars are left out.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        coalesce_streams=True,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    client.execute(env={**os.environ, **quiet})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if not _is_bar(output)]
    return notebook


def _is_bar(output: nbformat.NotebookNode) -> bool:
    """Whether it is a progress bar and nothing else."""
    lines = re.split(r"[\r\n]+", output.get("text", "").strip())
    return output.get("name") == "stderr" and all(re.search(r"\d+%\|", one) for one in lines)


def faults(notebook: nbformat.NotebookNode) -> list[str]:
    """Errors, warnings and absolute paths in the outputs."""
    found = []
    for place, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = str(output.get("text", "")) + str(data.get("text/plain", ""))
            text += str(data.get("text/html", ""))
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"cell {place}: {str(output)[:500]}")
            elif absolute := re.search(
                r"(?<![\w.:/<])/(?:home|root|tmp|usr|var|opt|work|Users)/", text
            ):
                found.append(f"cell {place}: absolute path {text[absolute.start() :][:80]}")
    return found


if __name__ == "__main__":
    names = sys.argv[1:] or sorted(path.name for path in EXAMPLES.glob("*.ipynb"))
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            done = execute(EXAMPLES / name, Path(folder))
        done.metadata.pop("widgets", None)
        done.metadata["language_info"] = {"name": "python"}
        if problems := faults(done):
            sys.exit(f"{name}: {problems}")
        nbformat.write(done, EXAMPLES / name)
        print(name)
