"""A run folder's log becomes pictures and figures, however the run ended."""

import json
import subprocess
import sys

import numpy as np
import pytest

from refrag_rag.errors import InputError
from refrag_rag.training.expansion_picture import ExpansionPoint, plot_expansion
from refrag_rag.training.log_figures import length_figures, level_figures
from refrag_rag.training.pictures import plot_curriculum, plot_lengths, plot_losses
from refrag_rag.training.report import read_log, read_points, write_report

image = pytest.importorskip("matplotlib.image")
NAN = float("nan")


def line(step, **more):
    return {
        "step": step,
        "minutes": step / 100,
        "tokens": 1600 * step,
        "loss": 5 / (1 + step / 100),
        "lr": 0.001,
        **more,
    }


def lengths_at(step):
    return {
        "k": 8,
        "accuracy": {"1": 0.5 + step / 1000, "2": 0.25, "4": 0.0},
        "target_loss": {"1": 1.5, "2": 2.5, "4": 0.0},
    }


def write(folder, lines, *, end=""):
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(one) + "\n" for one in lines) + end
    (folder / "log.jsonl").write_text(text, encoding="utf-8")
    return folder


def colours(path):
    pixels = image.imread(path)  # (height, width, 4)
    assert pixels.shape[1] >= 800
    return len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0))


def point(policy, p, value, **interval):
    return {"policy": policy, "k": 16, "p": p, "value": value, **interval}


def test_a_reconstruction_run(tmp_path):
    folder = write(tmp_path / "reconstruct", [line(s, **lengths_at(s)) for s in (20, 40, 60)])
    (folder / "settings.json").write_text('{"lr": 0.002, "data": "a|b"}', encoding="utf-8")
    path = write_report(folder)
    text = path.read_text(encoding="utf-8")
    assert path == folder / "report.md"
    for expected in (
        "# Stage `reconstruct`",
        "| steps | 60 |",
        "| minutes | 0.6 |",
        "| tokens seen | 96,000 |",
        "| first logged loss of a step (nats per token) | 4.1667 at step 20 |",
        "| last logged loss of a step (nats per token) | 3.1250 at step 60 |",
        "| best logged loss of a step (nats per token) | 3.1250 at step 60 |",
        "| 1 x 8 = 8 tokens | 56.0% | 1.500 |",
        "| 2 x 8 = 16 tokens | 25.0% | 2.500 |",
        "![Loss over the steps](loss.png)",
        "(lengths.png)",
        "| lr | 0.002 |",
        "| data | a\\|b |",
    ):
        assert expected in text
    assert "| 4 x 8" not in text  # not drawn yet
    assert "half written" not in text
    assert sorted(p.name for p in folder.iterdir()) == [
        "lengths.png", "log.jsonl", "loss.png", "report.md", "settings.json",
    ]  # fmt: skip
    assert colours(folder / "loss.png") > 1
    assert colours(folder / "lengths.png") > 1


def test_a_mixed_run_has_levels_and_lengths(tmp_path):
    mixed = {"level": 1, "target_accuracy": [0.9, 0.4, 0.0], "target_loss": [0.3, 1.25, 0.0]}
    lines = [line(s, **mixed, reconstruction=lengths_at(s)) for s in range(20, 1200, 20)]
    folder = write(tmp_path / "pretrain", lines)
    (folder / "settings.yaml").write_text("lr: 0.001\nsteps: 1200\n", encoding="utf-8")
    text = write_report(folder).read_text(encoding="utf-8")
    assert "| 1 | 40.0% | 1.250 |" in text
    assert "| 2 x 8 = 16 tokens | 25.0% | 2.500 |" in text
    assert "| 2 | " not in text.split("## Levels")[1]
    assert "## Settings (`settings.yaml`)" in text
    assert colours(folder / "levels.png") > 1


def test_a_killed_and_resumed_run(tmp_path):
    folder = write(tmp_path / "run", [line(20), line(40), line(60)])
    with (folder / "log.jsonl").open("ab") as file:
        file.write(b'{"step": 80, "lo\n')
        file.write('{"step": 80, "name": "é'.encode()[:-1] + b"\n\x00\x00\n[1]\n{}\n\n")
        file.write(json.dumps({**line(40), "loss": 9.5}).encode() + b"\n")
        file.write(json.dumps(line(100)).encode())  # whole, without its line break
    log = read_log(folder / "log.jsonl")
    assert [one["step"] for one in log.lines] == [20, 40, 60, 100]
    assert log.lines[1]["loss"] == 9.5
    assert (log.skipped, log.repeated) == (5, 1)
    text = write_report(folder).read_text(encoding="utf-8")
    assert "| skipped, half written | 5 |" in text
    assert "| replaced by a resumed run | 1 |" in text


def test_missing_keys_and_nan_are_left_out(tmp_path):
    odd = [
        {"step": 20},
        {"step": 40, "loss": NAN, "lr": None, "minutes": "3", "target_loss": [NAN]},
        {"step": 60, "loss": 2.0, "level": "x", "target_accuracy": 3, "reconstruction": 5},
        {"step": 80, "loss": 3.0, "accuracy": {"1": NAN, "2": 0.5, "x": 1}, "target_loss": {}},
    ]
    text = write_report(write(tmp_path / "odd", odd)).read_text(encoding="utf-8")
    assert "| best logged loss of a step (nats per token) | 2.0000 at step 60 |" in text
    assert "| 2 | 50.0% |  |" in text
    assert "minutes" not in text
    assert "nan" not in text.lower()


def test_a_log_without_losses_still_has_a_report(tmp_path):
    folder = write(tmp_path / "bare", [{"step": 20, "minutes": 0.5}])
    assert "| steps | 20 |" in write_report(folder).read_text(encoding="utf-8")
    assert not list(folder.glob("*.png"))


def test_a_damaged_settings_file_is_named(tmp_path):
    folder = write(tmp_path / "run", [line(20)])
    (folder / "settings.json").write_text('{"lr": 0.', encoding="utf-8")
    assert "The file cannot be read" in write_report(folder).read_text(encoding="utf-8")


def test_expansion_is_drawn_and_listed(tmp_path):
    folder = write(tmp_path / "policy", [line(20)])
    points = [
        point("none", 0.0, 1.069),
        point("random", 0.1, 1.041, low=1.03, high=1.05),
        point("random", 0.2, 1.02, low=1.01, high=1.03),
        point("learned", 0.1, 1.033),
    ]
    (folder / "expansion.json").write_text(json.dumps({"measure": "nats", "points": points}))
    text = write_report(folder, unit="minus the advantage").read_text(encoding="utf-8")
    assert "| random | 16 | 0.1 | 6.40 | 1.0410 | 1.0300 to 1.0500 |" in text
    assert "| none | 16 | 0 | 16.00 | 1.0690 |  |" in text
    assert "of a step (minus the advantage)" in text
    assert colours(folder / "expansion.png") > 1


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"points": [{"policy": "a"}]}', json.dumps({"points": [point("a", 1.5, 1.0)]})],
)
def test_a_wrong_expansion_file_is_refused_before_anything_is_written(tmp_path, text):
    folder = write(tmp_path / "run", [line(20)])
    (folder / "expansion.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="expected"):
        write_report(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["expansion.json", "log.jsonl"]


@pytest.mark.parametrize("text", [None, "", '{"step": 2'])
def test_a_folder_without_a_log_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "log.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="expected"):
        write_report(tmp_path)
    assert not (tmp_path / "report.md").exists()


def test_nothing_to_draw_is_refused(tmp_path):
    for draw in (plot_losses, plot_lengths, plot_expansion):
        with pytest.raises(InputError):
            draw([], tmp_path / "a.png")
    with pytest.raises(InputError, match="expected"):
        plot_curriculum(4, 0, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("maximum", [1, 256])
def test_the_curriculum_is_drawn(tmp_path, maximum):
    plot_curriculum(maximum, 8, tmp_path / "curriculum.png")
    assert colours(tmp_path / "curriculum.png") > 10
    assert [p.name for p in tmp_path.iterdir()] == ["curriculum.png"]


def test_the_effective_rate_is_the_papers():
    rate = ExpansionPoint(policy="random", k=16, p=0.1, value=1.0).rate
    assert rate == pytest.approx(6.4)
    assert ExpansionPoint(policy="all", k=16, p=1.0, value=1.0).rate == 1
    with pytest.raises(InputError, match="expected"):
        ExpansionPoint(policy="a", k=0, p=0.1, value=1.0)


def test_points_are_read_with_their_intervals(tmp_path):
    path = tmp_path / "expansion.json"
    path.write_text(json.dumps({"points": [point("a", 0.1, 2, low=1, high=3, seed=4)]}))
    assert read_points(path) == (
        [ExpansionPoint(policy="a", k=16, p=0.1, value=2.0, low=1.0, high=3.0)],
        None,
    )


def test_figures_of_a_line():
    nested = {"accuracy": 0.9, "reconstruction": {"accuracy": {"2": 0.5, "1": 0.0}}}
    assert length_figures(nested) == {1: (0.0, None), 2: (0.5, None)}
    assert length_figures({"accuracy": {4: 0.5}, "target_loss": {"4": NAN}}) == {4: (0.5, None)}
    assert level_figures({"target_accuracy": [0.5, 0.0], "target_loss": [1.0]}) == {
        0: (0.5, 1.0),
        1: (0.0, None),
    }


@pytest.mark.slow
def test_the_command_writes_the_report(tmp_path):
    folder = write(tmp_path / "run", [line(20), line(40)])
    command = [sys.executable, "-m", "refrag_rag.training.report", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "report.md" in done.stderr
    assert (folder / "report.md").exists()
