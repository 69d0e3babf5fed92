"""The examples run as they stand."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example_runs_and_prints_an_answer(path, tmp_path):
    run = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.strip()


def test_the_training_script_is_valid_bash():
    script = EXAMPLES / "train_tiny.sh"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
