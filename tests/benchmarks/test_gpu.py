"""The script for a GPU, rehearsed: every table and its figures are written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"


@pytest.mark.slow
def test_every_table_is_written(tmp_path):
    command = [str(SCRIPT), str(tmp_path), "test", "cpu"]
    run = subprocess.run(
        command,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "failed" not in run.stderr
    names = ("paper", "graphs", "throughput", "long", "precompute")
    for name in names:
        assert "|" in (tmp_path / f"{name}.md").read_text()
        assert json.loads((tmp_path / f"{name}.json").read_text())["versions"]["torch"]
    cells = json.loads((tmp_path / "throughput.json").read_text())["cells"]
    assert [cell["batch"] for cell in cells] == [1, 8, 32]
