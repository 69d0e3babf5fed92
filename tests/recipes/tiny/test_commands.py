"""The recipe's commands: every stage for a few steps, one after the other."""

import subprocess
from dataclasses import fields

import pytest

from recipes.tiny.__main__ import STAGES, main
from recipes.tiny.base import BaseSettings
from recipes.tiny.settings import CONFIG
from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.training.settings import build, read_config

QUICK = "--steps 2 --no-compile --micro-batch 8 --log-every 1"


def test_the_configuration_has_no_unknown_setting(tmp_path):
    sections = read_config(str(CONFIG))
    assert set(sections) - {"all"} == set(STAGES)
    for stage, (_, kind) in STAGES.items():
        made = build(kind, stage, str(CONFIG), {"out": tmp_path})
        for name, value in sections[stage].items():
            found = getattr(made, name)
            assert (list(found) if isinstance(found, tuple) else found) == value


def test_every_setting_is_explained():
    for _, kind in STAGES.values():
        assert all(field.metadata.get("about") for field in fields(kind))


def test_values_are_checked(tmp_path):
    for name, value in (("easier", 1.5), ("mastered", -1.0), ("questions", 0)):
        with pytest.raises(InputError, match=f"{name} = {value}"):
            BaseSettings(out=tmp_path, **{name: value})


def test_an_unknown_command_is_one_clear_error(capsys):
    assert main(["overfit"]) == 1
    assert "expected one of base, reconstruct" in capsys.readouterr().err


def test_the_whole_recipe_is_valid_bash():
    script = CONFIG.with_name("train.sh")
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


def test_every_stage_goes_on_from_the_one_before(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "base" / "tokenizer")  # training one takes longer
    for stage in STAGES:
        given = f"{stage} {QUICK} --out {tmp_path}"
        if stage == "policy":
            given += " --samples 2 --epochs 1 --batch-size 2 --width 16"
        assert main(given.split()) == 0
    model = RefragModel.from_pretrained(tmp_path / "policy" / "model")
    assert list(model.policies) == ["learned"]
    assert (model.config.name, model.config.k) == ("refrag-tiny", 8)
