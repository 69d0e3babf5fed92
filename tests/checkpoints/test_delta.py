"""Delta checkpoints: what comes out of base and delta, and what lies in them."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, LlamaModel

from refrag_rag import CheckpointError, InputError, Refrag, RefragConfig, RefragModel
from refrag_rag.checkpoints import base, decoder_folder, lora, parts
from refrag_rag.checkpoints.delta import assembled
from refrag_rag.checkpoints.delta_saving import LEAST, save_delta
from refrag_rag.checkpoints.groups import restored, rounded
from refrag_rag.checkpoints.parts import Placement
from refrag_rag.model.encoder import ChunkEncoder, build_pooling
from refrag_rag.model.projector import Projector
from refrag_rag.policies.learned import ExpandLearned
from refrag_rag.policies.network import NetworkShape, PolicyNetwork
from refrag_rag.training.stage import add_adapter
from tests.engine.test_engine import PASSAGES, messages
from tests.model.test_encoder import foreign

SHAPE = {
    "vocab_size": 600,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
}
RANK = 128  # so that some factors are large enough to be rounded


def write_base(folder, tokenizer, **options):
    """A public model as it lies on the hub: a decoder and its tokenizer."""
    torch.manual_seed(0)
    decoder = LlamaForCausalLM(
        LlamaConfig(**SHAPE, num_hidden_layers=2, tie_word_embeddings=True, **options)
    )
    decoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained(base_folder, *, adapter=True, **settings):
    """A model as training leaves it: a base with an adapter, an encoder that keeps its table."""
    decoder = parts.read_decoder(Path(base_folder), Placement())
    tokenizer = parts.read_tokenizer(Path(base_folder))
    torch.manual_seed(1)
    shape = {**SHAPE, "initializer_range": 0.05}
    encoder = LlamaModel(LlamaConfig(**shape, num_hidden_layers=1, tie_word_embeddings=False))
    with torch.no_grad():
        encoder.embed_tokens.weight.copy_(decoder.get_input_embeddings().weight)
    config = RefragConfig(
        **{
            "name": "trained", "k": 8, "window": 32, "encoder_width": 128, "decoder_width": 128,
            "pooling": "linear", "chunk_sizes": (8, 4), "shared_vocabulary": True,
            "projector_width": 160, **settings,
        }
    )  # fmt: skip
    pooling = build_pooling(config)
    model = RefragModel(
        config=config,
        encoder=ChunkEncoder(encoder, tokenizer, config, pooling and pooling.start()),
        projector=Projector(config.chunk_width, 128, config.projector_width),
        decoder=decoder,
        tokenizer=tokenizer,
    )
    if adapter:
        add_adapter(model, rank=RANK)
        with torch.no_grad():
            for name, parameter in decoder.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.02)
    return model.eval()


@dataclasses.dataclass
class Made:
    """A trained model, its base, and its delta checkpoint."""

    model: RefragModel
    base: Path
    folder: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer):
    place = tmp_path_factory.mktemp("delta")
    folder = write_base(place / "base", tokenizer)
    model = trained(folder)
    model.save_pretrained(place / "delta", base=folder)
    return Made(model, folder, place / "delta")


@pytest.fixture(scope="module")
def put_together(made, tmp_path_factory):
    """The models that come out, with the adapter merged and without it, and their cache."""
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("assembled")
        patch.setenv("REFRAG_CACHE", str(cache))
        merged = RefragModel.from_pretrained(made.folder, base=made.base)
        original = RefragModel.from_pretrained(made.folder, base=made.base, adapter=False)
        return merged, original, cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REFRAG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@torch.inference_mode()
def logits(model):
    engine = Refrag(model, policy="none", vectors="float32")
    inputs = model.decoder_inputs([engine.compress(messages())])
    return model.decoder(inputs_embeds=inputs.inputs_embeds).logits


def apart(ours, theirs):
    """How far two tensors are apart, as a share of their size."""
    return float((ours - theirs).norm() / theirs.norm())


# --- what comes out ------------------------------------------------------------------------


def test_what_is_served_is_the_trained_decoder(made, put_together, monkeypatch):
    merged, original, cache = put_together
    monkeypatch.setenv("REFRAG_CACHE", str(cache))
    served = parts.read_decoder(decoder_folder(made.folder), Placement())
    name = "model.layers.0.self_attn.q_proj.weight"
    weight, trained, base = (
        one.get_parameter(name) for one in (served, merged.decoder, original.decoder)
    )
    assert torch.equal(weight, trained)
    assert not torch.equal(weight, base)


def test_kept_apart_the_adapter_can_be_trained_further(made, put_together, tmp_path, monkeypatch):
    merged, original, cache = put_together
    monkeypatch.setenv("REFRAG_CACHE", str(cache))
    model = RefragModel.from_pretrained(made.folder, base=made.base, adapter="apart")
    torch.testing.assert_close(logits(model), logits(merged), atol=2e-4, rtol=1e-3)
    assert lora.has_adapter(model.decoder)
    _, weights = lora.factors(model.decoder)
    assert all(torch.equal(weights[name], t) for name, t in original.decoder.state_dict().items())
    model.save_pretrained(tmp_path / "again", base=made.base)
    again, before = (load_file(f / "delta.safetensors") for f in (tmp_path / "again", made.folder))
    assert again.keys() == before.keys()
    assert all(torch.equal(again[name], before[name]) for name in again if name.startswith("adapt"))


@pytest.mark.parametrize("spoil", ["missing", "narrow", "ranks", "unknown"])
def test_factors_that_do_not_fit_are_not_put_back(made, spoil):
    decoder = parts.read_decoder(made.base, Placement())
    name = "model.layers.0.self_attn.q_proj"
    adapter = {f"{name}.A": torch.ones(4, 128), f"{name}.B": torch.ones(4, 128)}
    if spoil == "missing":
        del adapter[f"{name}.B"]
    elif spoil == "narrow":
        adapter[f"{name}.A"] = torch.ones(4, 12)
    elif spoil == "ranks":
        other = "model.layers.1.self_attn.q_proj"
        adapter |= {f"{other}.A": torch.ones(2, 128), f"{other}.B": torch.ones(2, 128)}
    else:
        adapter = {n.replace("q_proj", "z_proj"): t for n, t in adapter.items()}
    with pytest.raises(CheckpointError, match="adapter"):
        lora.put_back(decoder, adapter)
    assert not lora.has_adapter(decoder)


def test_logits_are_those_of_the_trained_model_but_for_eight_bits(made, put_together):
    merged, _, _ = put_together
    # Eight bits in groups of 64 leave about 0.6 % of a matrix; two roundings and two layers on top.
    assert 1e-5 < apart(logits(merged), logits(made.model)) < 0.03
    bare = trained(made.base, adapter=False)
    bare.encoder, bare.projector = made.model.encoder, made.model.projector
    assert apart(logits(bare), logits(made.model)) > 0.3  # the adapter is no small matter here


def test_every_weight_is_the_slow_references(made, put_together):
    """Rounded where large, fp16 elsewhere; the adapter's product added to the base's weights."""
    merged, _, _ = put_together
    ours = merged.state_dict()
    for name, tensor in made.model.encoder.model.state_dict().items():
        large = tensor.ndim > 1 and tensor.numel() >= LEAST
        expected = slowly_rounded(tensor) if large else tensor.half().float()
        if name == "embed_tokens.weight":
            expected = tensor  # the base's own, to the last bit
        torch.testing.assert_close(ours[f"encoder.model.{name}"], expected, atol=1e-7, rtol=1e-6)
    for part in ("projector.", "encoder.pooling."):
        for name, tensor in made.model.state_dict().items():
            if name.startswith(part):
                assert torch.equal(ours[name], tensor.half().float())
    theirs = parts.read_decoder(made.base, Placement()).state_dict()
    for name, module in made.model.decoder.named_modules():
        if hasattr(module, "lora_A"):
            first = module.lora_A["default"].weight.detach()  # (rank, in)
            second = module.lora_B["default"].weight.detach().T  # (rank, out); alpha = rank
            first, second = (
                slowly_rounded(one) if one.numel() >= LEAST else one.half().float()
                for one in (first, second)
            )
            theirs[f"{name}.weight"] = theirs[f"{name}.weight"] + second.T @ first
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[f"decoder.{name}"], tensor, atol=1e-5, rtol=1e-5)


def test_without_the_adapter_the_decoder_is_the_bases_bit_for_bit(made, put_together):
    _, original, _ = put_together
    theirs = parts.read_decoder(made.base, Placement()).state_dict()
    ours = original.decoder.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_both_read_passages_alike(put_together):
    merged, original, _ = put_together
    assert merged.fingerprint == original.fingerprint
    passages = [merged.chunker.chunk(passage) for passage in PASSAGES]
    for ours, theirs in zip(merged.encode(passages), original.encode(passages), strict=True):
        assert torch.equal(ours, theirs)


def test_both_folders_are_ordinary_checkpoints(put_together):
    merged, _, cache = put_together
    ours, bare = sorted(p for p in cache.iterdir() if p.is_dir())
    assert bare.name == f"{ours.name}-bare"
    for folder in (ours, bare):
        assert not (folder / "delta.safetensors").exists()
        config = RefragConfig.from_json((folder / "refrag_config.json").read_text())
        assert config == merged.config
        assert not (folder / "decoder_adapter").exists()
    assert torch.equal(logits(RefragModel.from_pretrained(ours)), logits(merged))
    assert not list(cache.glob(".*"))  # nothing half made is left


def test_factors_of_several_ranks_come_out_right(made, cache, tmp_path):
    """Peft has one rank for all and exceptions by name."""
    model = trained(made.base, adapter=False)
    lora.attach(
        model.decoder, r=4, lora_alpha=12, lora_dropout=0.0, target_modules=["q_proj", "up_proj"],
        rank_pattern={"layers.1.self_attn.q_proj": 2}, task_type="CAUSAL_LM",
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.decoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(tmp_path / "delta", base=made.base)
    merged = RefragModel.from_pretrained(tmp_path / "delta", base=made.base)
    ranks = {len(m.lora_A["default"].weight) for m in model.decoder.modules() if hasattr(m, "r")}
    assert ranks == {2, 4}
    assert apart(logits(merged), logits(model)) < 0.03


def test_a_decoder_without_an_adapter_needs_none(made, cache, tmp_path):
    model = trained(made.base, adapter=False)
    model.save_pretrained(tmp_path / "delta", base=made.base)
    for adapter in (True, False):
        loaded = RefragModel.from_pretrained(tmp_path / "delta", base=made.base, adapter=adapter)
        assert all(
            torch.equal(ours, theirs)
            for ours, theirs in zip(
                loaded.decoder.state_dict().values(),
                model.decoder.state_dict().values(),
                strict=True,
            )
        )
        assert not list(cache.glob("*/decoder_adapter"))


def test_the_dtype_is_the_trained_decoders(made, cache, tmp_path):
    model = trained(made.base).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "delta", base=made.base)
    folder = assembled(tmp_path / "delta", Placement(base=made.base))
    for path in folder.rglob("*.safetensors"):
        assert {t.dtype for t in load_file(path).values()} == {torch.bfloat16}, path
    loaded = RefragModel.from_pretrained(tmp_path / "delta", base=made.base)
    assert loaded.decoder.dtype == torch.float32  # on CPUs


def test_k_is_chosen_when_it_is_loaded_and_nothing_is_made_for_another(made, cache):
    with pytest.raises(InputError, match="4 or 8 tokens"):
        RefragModel.from_pretrained(made.folder, base=made.base, k=5)
    assert not cache.exists()
    models = [RefragModel.from_pretrained(made.folder, base=made.base, k=k) for k in (4, 8)]
    assert [model.config.k for model in models] == [4, 8]
    assert models[0].fingerprint != models[1].fingerprint
    assert len([p for p in cache.iterdir() if p.is_dir()]) == 1


# --- what lies in it -----------------------------------------------------------------------


def test_it_holds_what_was_trained_and_no_more(made):
    names = {p.relative_to(made.folder).as_posix() for p in made.folder.rglob("*") if p.is_file()}
    assert names == {
        "README.md", "delta.safetensors", "encoder/config.json", "refrag_config.json",
    }  # fmt: skip
    with safe_open(made.folder / "delta.safetensors", "pt") as file:
        stored = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        shared = json.loads(file.metadata()["shared"])
    assert shared == {"embed_tokens.weight": "model.embed_tokens.weight"}
    assert not [name for name in stored if "embed_tokens" in name or name.startswith("decoder")]
    assert {kind for name, kind in stored.items() if name.startswith("projector")} == {"F16"}
    assert stored["encoder.layers.0.mlp.up_proj.weight"] == "I8"
    assert stored["encoder.layers.0.mlp.up_proj.weight.scale"] == "F16"
    assert stored["adapter.model.layers.0.mlp.up_proj.A"] == "I8"
    assert stored["encoder.norm.weight"] == "F16"
    size = (made.folder / "delta.safetensors").stat().st_size
    whole = 4 * sum(p.numel() for p in trained(made.base, adapter=False).parameters())
    assert size < 0.5 * whole


def test_its_config_names_the_base_by_its_files(made):
    about = json.loads((made.folder / "refrag_config.json").read_text())["delta"]
    assert about["base"]["name"] == "base"
    assert about["base"]["files"]["model.safetensors"] == base.sha256(
        made.base / "model.safetensors"
    )
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= about["base"][
        "files"
    ].keys()
    assert about["sha256"] == base.sha256(made.folder / "delta.safetensors")
    assert about["dtype"] == "float32"
    assert "repository" not in about["base"]


def test_saving_again_replaces_the_whole_and_other_files_are_left_alone(made, tmp_path, cache):
    shutil.copytree(made.folder, tmp_path / "delta")
    other = trained(made.base, name="other")
    other.save_pretrained(tmp_path / "delta", base=made.base)
    loaded = RefragModel.from_pretrained(tmp_path / "delta", base=made.base)
    assert loaded.config.name == "other"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("precious")
    with pytest.raises(CheckpointError, match="other files"):
        other.save_pretrained(tmp_path / "thesis", base=made.base)
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("fault", ["trained", "another", "larger", "more than LoRA"])
def test_a_decoder_that_is_not_the_bases_is_refused(made, tokenizer, tmp_path, fault):
    model = trained(made.base, adapter=fault == "trained")
    place = made.base
    if fault == "trained":
        with torch.no_grad():
            model.decoder.model.norm.weight += 0.1
    elif fault == "another":
        with torch.no_grad():
            model.decoder.get_input_embeddings().weight[5] *= 1.01
    elif fault == "larger":
        place = write_base(tmp_path / "larger", tokenizer, head_dim=64)
    else:
        lora.attach(model.decoder, r=2, target_modules=["q_proj"], use_dora=True)
    with pytest.raises(CheckpointError, match=r"save_pretrained\(folder\)"):
        save_delta(model, tmp_path / "delta", base=place)
    assert not (tmp_path / "delta").exists()


def test_an_adapter_of_transposed_matrices_is_refused():
    """GPT-2's square ones would be merged the wrong way round, and nobody would see it."""
    decoder = GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2))
    lora.attach(decoder, r=2, target_modules=["attn.c_proj"], fan_in_fan_out=True)
    with pytest.raises(CheckpointError, match=r"nn\.Linear"):
        lora.factors(decoder)


def test_learned_policies_travel(made, cache, tmp_path):
    model = trained(made.base)
    torch.manual_seed(2)
    network = PolicyNetwork(NetworkShape(chunk_width=128, width=16, heads=2))
    model.policies["learned"] = ExpandLearned(network)
    model.save_pretrained(tmp_path / "delta", base=made.base)
    loaded = RefragModel.from_pretrained(tmp_path / "delta", base=made.base)
    ours = loaded.policies["learned"].network.state_dict()
    assert all(torch.equal(ours[name], one) for name, one in network.state_dict().items())
    Refrag(loaded, policy="learned", p=0.5).generate(messages(), max_new_tokens=1)


def test_a_chat_template_of_its_own_travels(made, cache, tmp_path):
    model = trained(made.base)
    template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}Say:"
    model.tokenizer.chat_template = template
    model.save_pretrained(tmp_path / "delta", base=made.base)
    loaded = RefragModel.from_pretrained(tmp_path / "delta", base=made.base)
    assert loaded.tokenizer.chat_template == template
    ids = Refrag(loaded).compress(messages(), policy="all").ids.tolist()
    assert loaded.tokenizer.decode(ids).endswith("Say:")


def test_an_end_token_of_its_own_travels(made, cache, tmp_path):
    model = trained(made.base)
    model.tokenizer.eos_token = "<|user|>"
    model.save_pretrained(tmp_path / "delta", base=made.base)
    loaded = RefragModel.from_pretrained(tmp_path / "delta", base=made.base)
    assert loaded.tokenizer.eos_token == "<|user|>"


def test_an_encoder_with_a_vocabulary_of_its_own_travels(made, tokenizer, cache, tmp_path):
    encoder, _, _ = foreign(tokenizer)
    config = dataclasses.replace(encoder.config, name="foreign", decoder_width=128)
    whole = trained(made.base)
    model = RefragModel(
        config=config,
        encoder=ChunkEncoder(encoder.model, encoder.tokenizer, config),
        projector=Projector(32, 128),
        decoder=whole.decoder,
        tokenizer=whole.tokenizer,
    ).eval()
    model.save_pretrained(tmp_path / "delta", base=made.base)
    loaded = RefragModel.from_pretrained(tmp_path / "delta", base=made.base)
    assert len(loaded.encoder.tokenizer) == len(encoder.tokenizer) != len(loaded.tokenizer)
    assert not loaded.config.shared_vocabulary
    assert apart(logits(loaded), logits(model)) < 0.03


def test_a_checkpoint_without_a_card_is_put_together_too(made, cache, tmp_path):
    shutil.copytree(made.folder, tmp_path / "delta")
    (tmp_path / "delta" / "README.md").unlink()
    loaded = RefragModel.from_pretrained(tmp_path / "delta", base=made.base)
    assert loaded.config == made.model.config


@pytest.mark.parametrize("name", ["owner/name", "../../outside", ".hidden", "a*[b]?", "x" * 400])
def test_any_name_gives_a_folder_of_the_cache(made, cache, tmp_path, name):
    shutil.copytree(made.folder, tmp_path / "delta")
    path = tmp_path / "delta" / "refrag_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": name}))
    folder = assembled(tmp_path / "delta", Placement(base=made.base))
    assert folder.parent == cache
    assert RefragModel.from_pretrained(folder).config.name == name
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "delta"]


# --- once ----------------------------------------------------------------------------------


def test_the_second_load_needs_neither_base_nor_delta(made, cache, tmp_path):
    shutil.copytree(made.base, tmp_path / "base")
    shutil.copytree(made.folder, tmp_path / "delta")
    first = RefragModel.from_pretrained(tmp_path / "delta", base=tmp_path / "base")
    times = {p: p.stat().st_mtime_ns for p in cache.rglob("*") if p.is_file()}
    shutil.rmtree(tmp_path / "base")
    (tmp_path / "delta" / "delta.safetensors").write_bytes(b"garbage")
    second = RefragModel.from_pretrained(tmp_path / "delta")
    assert torch.equal(logits(second), logits(first))
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*") if p.is_file()} == times


def test_another_delta_is_another_folder(made, cache, tmp_path):
    shutil.copytree(made.folder, tmp_path / "delta")
    path = tmp_path / "delta" / "refrag_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"window": 16}))
    folders = {assembled(f, Placement(base=made.base)) for f in (made.folder, tmp_path / "delta")}
    assert len(folders) == 2


# --- a base that comes as a package --------------------------------------------------------


@pytest.fixture
def package(made, tmp_path, monkeypatch):
    """An installed distribution that carries the base, and would break if it was imported."""
    site = tmp_path / "site"
    shutil.copytree(made.base, site / "carrier" / "model")
    (site / "carrier" / "__init__.py").write_text("raise SystemExit('imported')")
    (site / "carrier" / "model" / "__init__.py").write_text("raise SystemExit('imported')")
    (site / "zz_carrier.pth").write_text("import carrier")
    about = site / "carrier-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[llm]\ncarrier = carrier\n")
    files = [p.relative_to(site).as_posix() for p in site.rglob("*") if p.is_file()]
    stray = "carrier/config.json"  # of something else
    (site / stray).write_text("{}")
    (about / "RECORD").write_text("".join(f"{name},,\n" for name in [stray, *files]))
    monkeypatch.syspath_prepend(str(site))
    return site


def test_an_installed_base_is_found_and_nothing_of_it_is_run(made, cache, tmp_path, package):
    made.model.save_pretrained(tmp_path / "delta", base=made.base, distribution=("carrier", "1.0"))
    loaded = RefragModel.from_pretrained(tmp_path / "delta")
    assert apart(logits(loaded), logits(made.model)) < 0.03
    assert not [name for name in sys.modules if name.partition(".")[0] == "carrier"]


# --- eight bits ----------------------------------------------------------------------------


def slowly_rounded(tensor):
    """Number by number: the largest of every group is 127 of its scale."""
    rows = []
    for row in tensor.detach().float().reshape(-1, tensor.shape[-1]):
        size = 64 if len(row) % 64 == 0 else len(row)
        out = []
        for start in range(0, len(row), size):
            group = row[start : start + size].tolist()
            largest = max(abs(value) for value in group)
            scale = float(torch.tensor(max(largest / 127, 1e-7)).half())
            if scale * 127 < largest:
                scale = float((torch.tensor(scale).half().view(torch.int16) + 1).view(torch.half))
            out += [round(value / scale) * scale for value in group]
        rows.append(torch.tensor(out))
    return torch.stack(rows).reshape(tensor.shape)


@pytest.mark.parametrize("shape", [(5, 64), (3, 128), (3, 100), (2, 7), (2, 3, 192), (1, 1)])
@pytest.mark.parametrize("size", [1.0, 1e3, 1e-3, 1e-5, 0.0])
def test_rounding_is_the_slow_references(shape, size):
    torch.manual_seed(0)
    weight = torch.randn(shape) * size
    if weight.shape[-1] == 128:
        weight[1, :64] = 0  # a group of zeros beside one that is not
    packed = rounded("w", weight)
    groups = shape[-1] // 64 if shape[-1] % 64 == 0 else 1
    assert packed["w"].dtype == torch.int8
    assert packed["w.scale"].shape == (*shape[:-1], groups)
    assert packed["w.scale"].dtype == torch.float16
    (found,) = restored(packed).values()
    step = packed["w.scale"].float().repeat_interleave(shape[-1] // groups, dim=-1)
    reference = slowly_rounded(weight)
    ties = (found - reference).abs() > 1e-6 * reference.abs() + 1e-12
    assert ties.sum() <= weight.numel() / 500  # float32 and float64 may round a half differently
    assert ((found - weight).abs() <= 0.501 * step).all()
    assert torch.equal(found[weight == 0], weight[weight == 0])


def test_ordinary_tensors_stay_beside_rounded_ones():
    weight, bias = torch.randn(4, 64), torch.randn(4).half()
    found = restored(rounded("w", weight) | {"b": bias})
    assert found.keys() == {"w", "b"}
    assert torch.equal(found["b"], bias.float())


@pytest.mark.parametrize(
    "stored",
    [
        {"w.scale": torch.ones(2, 1)},
        {"w": torch.ones(2, 64, dtype=torch.int8), "w.scale": torch.ones(3, 1)},
        {"w": torch.ones(2, 64, dtype=torch.int8), "w.scale": torch.ones(2, 3)},
    ],
)
def test_scales_that_do_not_belong_are_refused(stored):
    with pytest.raises(ValueError, match="scale"):
        restored(stored)
