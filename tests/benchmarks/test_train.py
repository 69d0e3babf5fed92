"""Training steps are timed, small."""

import json

from benchmarks import train


def test_steps_are_timed_on_a_cpu(tmp_path, capsys):
    path = tmp_path / "report.json"
    asked = "--shape tiny --steps 3 --warmup 1 --precision no --peak 1e12 --workers 1"
    train.main([*asked.split(), "--json", str(path)])
    found = json.loads(path.read_text("utf-8"))
    assert found["positions"] == 4 * 64
    assert found["encoder_tokens"] == 8 * train.WINDOW
    assert found["positions_per_second"] > 0
    assert 0 <= found["waiting"] < 1
    assert found["of_peak"] == found["flops"] / 1e12
    assert "decoder positions/s" in capsys.readouterr().out
