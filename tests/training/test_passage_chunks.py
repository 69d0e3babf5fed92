"""A retriever's vector for a whole passage: the ordinary stages train what reads it."""

import json
import shutil
from random import Random

import numpy as np

from refrag_rag import Refrag, RefragModel
from refrag_rag.cli import main
from refrag_rag.spans import wrap
from refrag_rag.training.curricula import build_curriculum
from refrag_rag.training.data.documents import Documents
from refrag_rag.training.document_sources import DocumentChunks


def retriever(parts, folder):
    """The encoder as a folder of sentence-transformers that pools by cls and normalises."""
    shutil.copytree(parts / "encoder", folder / "0_Transformer")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{n}", "type": f"sentence_transformers.models.{n}"}
        for i, n in enumerate(("Transformer", "Pooling", "Normalize"))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return str(folder)


def test_the_ordinary_stages_train_it(parts, prepared, tmp_path):
    run = tmp_path / "run"
    common = ["--out", str(run), "--steps", "4", "--batch-size", "2"]
    rebuilt = [
        "--encoder", retriever(parts, tmp_path / "retriever"), "--decoder", str(parts / "decoder"),
        "--chunking", "passage", "--k", "32", "--data", str(prepared / "text"), "--chunks", "3",
    ]  # fmt: skip
    assert main(["train", "reconstruct", *common, *rebuilt]) == 0
    started = RefragModel.from_pretrained(run / "reconstruct" / "model")
    assert started.config.chunking == "passage"
    assert started.config.normalize
    asked = ["--data", str(prepared / "questions"), "--start", "reconstruct"]
    assert main(["train", "finetune", *common, *asked]) == 0
    model = RefragModel.from_pretrained(run / "finetune" / "model")
    assert model.fingerprint != started.fingerprint  # the encoder moved
    documents = Documents.open(str(prepared / "text"), model.tokenizer)
    lengths = build_curriculum("longest", chunks=3)
    for asked, passages in ((False, 3), (True, 1)):
        row = DocumentChunks(documents, model, lengths, asked=asked).row(Random(0), 0.5)
        assert len(row.passages) == sum(row.vectors) == passages
        assert all(len(one.token_ids) < 40 for one in row.passages)  # cut and tokenised again
    engine = Refrag(model, policy="none")
    text = "Anna Keld founded Velmora Works. " * 20
    engine.keep_embeddings([text], np.eye(1, 32))
    answer = engine.generate(wrap(text) + " Who?", max_new_tokens=3)
    assert answer.counts.plain_positions - answer.counts.positions > 50
