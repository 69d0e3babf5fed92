"""Settings come from bundled files, own files and the command line, and are checked."""

from dataclasses import fields

import pytest

from refrag_rag.cli import main
from refrag_rag.errors import InputError
from refrag_rag.training.finetune import FinetuneSettings
from refrag_rag.training.policy import PolicySettings
from refrag_rag.training.pretrain import PretrainSettings
from refrag_rag.training.reconstruct import ReconstructSettings
from refrag_rag.training.settings import build, parse, read_config

KINDS = {
    "reconstruct": ReconstructSettings,
    "pretrain": PretrainSettings,
    "policy": PolicySettings,
    "finetune": FinetuneSettings,
}


@pytest.mark.parametrize("config", ["small", "paper"])
def test_bundled_files_have_no_unknown_setting(config, tmp_path):
    sections = read_config(config)
    assert set(sections) - {"all"} <= set(KINDS)
    for stage in set(sections) - {"all"}:
        made = build(KINDS[stage], stage, config, {"out": tmp_path})
        for name, value in sections[stage].items():
            found = getattr(made, name)
            given = (value,) if isinstance(found, tuple) and not isinstance(value, list) else value
            assert (list(found) if isinstance(given, list) else found) == given


def test_the_papers_figures(tmp_path):
    """references.md: learning rates, batch, warm-up, schedule, precision, lengths, p."""
    made = {
        stage: build(KINDS[stage], stage, "paper", {"out": tmp_path})
        for stage in ("reconstruct", "pretrain", "policy", "finetune")
    }
    assert [made[s].lr for s in ("reconstruct", "pretrain", "finetune")] == [2e-4, 5e-5, 2e-5]
    for one in (made["reconstruct"], made["pretrain"], made["finetune"]):
        assert (one.batch_size, one.warmup, one.schedule) == (256, 0.04, "cosine")
        assert one.precision == "bf16"
    assert made["reconstruct"].chunks * made["reconstruct"].k == 2048
    assert made["pretrain"].following == 2048
    assert made["pretrain"].text_shares == (0.0, 0.1)
    assert made["policy"].shares == (0.1,)
    assert made["reconstruct"].window == made["reconstruct"].k


def test_the_command_line_wins(tmp_path):
    given = [
        "--config",
        "small",
        "--out",
        str(tmp_path),
        "--lr",
        "0.5",
        "--no-gradient-checkpointing",
    ]
    made = parse(PretrainSettings, "pretrain", "", [*given, "--text-shares", "0", "0.5"])
    assert made.lr == 0.5
    assert made.gradient_checkpointing is False
    assert made.text_shares == (0.0, 0.5)
    assert made.chunks == 64


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--sheduel=linear", "'sheduel'; did you mean 'schedule'"),
        ("--x", "setting 'x'; See --help"),
    ],
)
def test_an_unknown_option_is_named_with_the_nearest(tmp_path, option, message):
    with pytest.raises(InputError, match=message):
        parse(PretrainSettings, "pretrain", "", ["--out", str(tmp_path), option])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("all: {lrr: 1}", "unknown setting 'lrr'; did you mean 'lr'"),
        ("pretrain: {text_shares: [a]}", r"text_shares = \['a'\]; expected a list of float"),
        ("pretrain: {steps: many}", "steps = 'many'; expected int"),
        ("pretrain: {steps: 1.5}", "steps = 1.5; expected int"),
        ("pretrain: {gradient_checkpointing: 1}", "expected bool"),
        ("[1, 2]", "no sections"),
        ("a: b: c", "cannot be read"),
    ],
)
def test_bad_files_are_named_with_field_and_value(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        build(PretrainSettings, "pretrain", str(path), {"out": tmp_path, "data": "text"})


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (PretrainSettings, {"steps": 0}, "steps = 0"),
        (PretrainSettings, {"schedule": "sine"}, "schedule = 'sine'"),
        (PretrainSettings, {"curriculum": "feedback"}, "held-out"),
        (PolicySettings, {"kind": "lexical"}, "kind = 'lexical'"),
        (PolicySettings, {"samples": 1}, "samples = 1"),
        (PolicySettings, {"save_every": 7}, "multiple of epochs"),
        (PolicySettings, {"shares": (0.0,)}, "shares"),
        (FinetuneSettings, {"lora": -1}, "lora = -1"),
    ],
)
def test_values_are_checked(tmp_path, kind, given, message):
    with pytest.raises(InputError, match=message):
        kind(out=tmp_path, data="data", **given)


def test_every_setting_is_explained():
    for kind in KINDS.values():
        assert all(field.metadata.get("about") for field in fields(kind))


def test_an_unknown_stage_is_one_clear_error(capsys):
    assert main(["train", "overfit"]) == 1
    assert "expected one of reconstruct, pretrain" in capsys.readouterr().err


def test_a_run_needs_a_folder_and_data(tmp_path):
    with pytest.raises(InputError, match="--out"):
        parse(PretrainSettings, "pretrain", "", ["--config", "small"])
    with pytest.raises(InputError, match="--data"):
        parse(PretrainSettings, "pretrain", "", ["--out", str(tmp_path)])


def test_a_new_model_needs_parts_or_a_start(tmp_path, capsys):
    given = ["--out", str(tmp_path), "--data", "text"]
    assert main(["train", "reconstruct", *given]) == 1
    assert "No model to start from" in capsys.readouterr().err
    assert main(["train", "reconstruct", *given, "--encoder", "some/encoder"]) == 1
    assert "expected both or neither" in capsys.readouterr().err


def test_the_curriculum_is_shown(capsys):
    assert main(["train", "curriculum"]) == 0
    assert "1333" in capsys.readouterr().out
