"""The last stage's contexts: how large they are, and how often they are asked about."""

from random import Random

import pytest

from recipes.tiny.finetune import FinetuneSettings, open_source
from refrag_rag.errors import InputError
from tests.conftest import build_model


def test_the_share_of_easier_contexts_is_what_is_asked_for(tokenizer, tmp_path):
    model = build_model(tokenizer)
    for easier in (0.0, 0.3):
        levels = open_source(FinetuneSettings(out=tmp_path, easier=easier), model).curriculum
        drawn = [levels.draw(Random(seed)) for seed in range(400)]
        assert sum(one.facts < 6 for one in drawn) / 400 == pytest.approx(easier, abs=0.06)
    with pytest.raises(InputError, match="expected 0 to 1"):
        FinetuneSettings(out=tmp_path, easier=1.5)


def test_a_context_is_asked_about_as_often_as_said(tokenizer, tmp_path):
    model = build_model(tokenizer)
    for questions in (3, 30):
        how = FinetuneSettings(out=tmp_path, easier=0.0, questions=questions, text_shares=(1.0,))
        source = open_source(how, model)
        steps = [(source.draw(Random(seed), 0.0), source.reconstructing) for seed in range(8)]
        rows = [row for rows, reconstructing in steps if not reconstructing for row in rows]
        assert max(sum(row.targets) for row in rows) == questions
    with pytest.raises(InputError, match="questions = 0"):
        FinetuneSettings(out=tmp_path, questions=0)
