"""Decoders in GGUF files: a small Llama, written as llama.cpp's converter would."""

import json
import shutil
import sys

import gguf
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from refrag_rag import CheckpointError, MissingExtraError, Refrag, RefragModel
from refrag_rag.checkpoints import parts
from refrag_rag.checkpoints.parts import Placement
from tests.architectures import ENCODERS
from tests.checkpoints.test_delta import apart, logits, trained
from tests.engine.test_engine import PASSAGES, messages

NAMES = {  # of a layer's tensors, ours and llama.cpp's
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
KINDS = gguf.GGMLQuantizationType


def bpe():
    """A small byte-level BPE, as GPT-2's."""
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        [*PASSAGES * 5, "system user assistant Answer from the context."], trainer
    )
    return made


def small_llama(vocabulary, *, hidden=128, seed=0, **options):
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=hidden, intermediate_size=192,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=512, rope_theta=5000.0, rms_norm_eps=1e-5,
            tie_word_embeddings=True, initializer_range=0.2, **options,
        )
    ).eval()  # fmt: skip


def write_gguf(path, decoder, tokenizer, *, kind=KINDS.F32):
    """Write a decoder and its tokenizer into one file; matrices are of the given kind."""
    config = decoder.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    parts_ = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(parts_["vocab"], key=parts_["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in CONTROL else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in parts_["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in decoder.state_dict().items():
        if name != "lm_head.weight":
            values = as_llama_cpp(name, tensor, config).numpy()
            own = kind if tensor.ndim > 1 else KINDS.F32
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_name(name):
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
    }
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def as_llama_cpp(name, tensor, config):
    """Its order of the rows that rotate."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, count in heads.items():
        if part in name:
            split = tensor.reshape(count, 2, -1, tensor.shape[1])
            return split.swapaxes(1, 2).reshape(tensor.shape).contiguous()
    return tensor


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A GGUF file in full precision, the decoder and the tokenizer in it."""
    tokenizer = bpe()
    decoder = small_llama(tokenizer.get_vocab_size())
    folder = tmp_path_factory.mktemp("gguf")
    return write_gguf(folder / "small.gguf", decoder, tokenizer), decoder, tokenizer


@pytest.fixture(scope="module")
def encoder(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    ENCODERS[0].model().save_pretrained(folder)
    wrapped(small[2]).save_pretrained(folder)
    return folder


def wrapped(tokenizer):
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=CONTROL[1], eos_token=CONTROL[2], pad_token=CONTROL[0]
    )


def test_weights_are_those_of_the_file(small):
    path, decoder, _ = small
    read = parts.read_decoder(path, Placement())
    theirs = decoder.state_dict()
    assert read.state_dict().keys() == theirs.keys()
    for name, tensor in read.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-7, rtol=1e-6)
    assert read.config.rope_parameters["rope_theta"] == 5000.0
    assert read.config.max_position_embeddings == 512


@pytest.mark.parametrize(("kind", "near"), [(KINDS.Q8_0, 0.02), (KINDS.Q4_1, 0.2)])
def test_weights_in_few_bits_are_dequantised(small, tmp_path, kind, near):
    _, decoder, tokenizer = small
    path = write_gguf(tmp_path / "small.gguf", decoder, tokenizer, kind=kind)
    read = parts.read_decoder(path, Placement())
    for name, tensor in decoder.state_dict().items():
        assert apart(read.state_dict()[name], tensor) < near
    values = as_llama_cpp("model.embed_tokens.weight", decoder.lm_head.weight, decoder.config)
    slowly = gguf.quants.dequantize(gguf.quants.quantize(values.detach().numpy(), kind), kind)
    torch.testing.assert_close(read.get_input_embeddings().weight.data, torch.from_numpy(slowly))


def test_tokenizer_and_template_are_those_of_the_file(small):
    path, _, tokenizer = small
    read = parts.read_tokenizer(path)
    for text in (*PASSAGES, "naïve 時計 🦀\n\n  two", ""):
        assert read(text, add_special_tokens=False).input_ids == tokenizer.encode(text).ids
    assert (read.bos_token_id, read.eos_token_id, read.pad_token_id) == (1, 2, 0)
    rendered = read.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert read("<|im_end|>").input_ids == [2]


def test_composed_it_answers_as_the_decoder_does(small, encoder):
    path, decoder, _ = small
    model = RefragModel.compose(encoder, path, k=8)
    assert model.config.name.endswith("small.gguf")
    engine = Refrag(model)
    prompt = engine.compress(messages(), policy="all")
    ids = prompt.ids.tolist()
    assert ids[0] == 1
    assert model.tokenizer.decode(ids).endswith("assistant\n")
    expected = decoder.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=6,
        do_sample=False, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    answer = engine.generate(messages(), policy="all", max_new_tokens=6)
    assert list(answer.token_ids) == expected[0, len(ids) :].tolist()
    few = engine.generate(messages(), policy="none", max_new_tokens=2)
    assert few.counts.positions < few.counts.plain_positions


@pytest.mark.parametrize("kind", [KINDS.F32, KINDS.Q4_1])
def test_saved_it_is_an_ordinary_checkpoint(small, encoder, tmp_path, kind):
    _, decoder, tokenizer = small
    path = write_gguf(tmp_path / "small.gguf", decoder, tokenizer, kind=kind)
    model = RefragModel.compose(encoder, path, k=8, pooling="mean")
    model.save_pretrained(tmp_path / "model")
    path.unlink()
    assert not list((tmp_path / "model").rglob("*.gguf"))
    loaded = RefragModel.from_pretrained(tmp_path / "model")
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.tokenizer.chat_template == TEMPLATE
    assert "quantization_config" not in (tmp_path / "model/decoder/config.json").read_text()
    loaded.save_pretrained(tmp_path / "again")


def test_other_files_beside_it_do_not_matter(small, encoder, tokenizer, tmp_path):
    """A downloads folder holds the parts of many models."""
    path, decoder, own = small
    other = small_llama(600, hidden=64, seed=3)
    other.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(path, tmp_path / "small.gguf")
    read = parts.read_decoder(tmp_path / "small.gguf", Placement())
    torch.testing.assert_close(read.lm_head.weight, decoder.lm_head.weight, atol=1e-7, rtol=1e-6)
    found = parts.read_tokenizer(tmp_path / "small.gguf")
    assert found(PASSAGES[0]).input_ids == own.encode(PASSAGES[0]).ids
    assert found.chat_template == TEMPLATE
    assert (found.bos_token_id, found.eos_token_id) == (1, 2)


@pytest.mark.parametrize("fault", ["empty", "cut", "garbage", "text", "half"])
def test_a_damaged_file_is_one_clear_error(small, encoder, tmp_path, fault):
    whole = small[0].read_bytes()
    path = tmp_path / "small.gguf"
    path.write_bytes(
        {
            "empty": b"",
            "cut": whole[:100],
            "garbage": whole[:24] + bytes(range(256)) * 40,
            "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "half": whole[: len(whole) // 2],
        }[fault]
    )
    with pytest.raises(CheckpointError, match=r"small\.gguf"):
        RefragModel.compose(encoder, path, k=8)


def test_a_file_cut_anywhere_is_one_clear_error(small, tmp_path):
    whole = small[0].read_bytes()
    path = tmp_path / "small.gguf"
    for size in (*range(0, 1200, 37), *range(1200, len(whole), len(whole) // 25)):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"small\.gguf"):
            parts.read_decoder(path, Placement())


def test_an_architecture_that_is_not_known_is_one_clear_error(encoder, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "wavenet")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"odd\.gguf"):
        RefragModel.compose(encoder, tmp_path / "odd.gguf", k=8)


def test_without_its_extra_the_command_is_named(small, encoder, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "gguf"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr("refrag_rag.errors.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'refrag-rag\[gguf\]'"):
        RefragModel.compose(encoder, small[0], k=8)


@pytest.mark.parametrize("named", ["file", "folder"])
def test_a_delta_checkpoint_may_have_such_a_base(tmp_path, monkeypatch, named):
    monkeypatch.setenv("REFRAG_CACHE", str(tmp_path / "cache"))
    tokenizer = bpe()
    decoder = small_llama(600)
    (tmp_path / "models").mkdir()
    path = write_gguf(tmp_path / "models" / "base.gguf", decoder, tokenizer, kind=KINDS.Q8_0)
    model = trained(path)
    model.save_pretrained(tmp_path / "delta", base=path)
    about = json.loads((tmp_path / "delta" / "refrag_config.json").read_text())["delta"]
    assert list(about["base"]["files"]) == ["base.gguf"]
    place = path if named == "file" else path.parent
    loaded = RefragModel.from_pretrained(tmp_path / "delta", base=place)
    assert apart(logits(loaded), logits(model)) < 0.03
    original = RefragModel.from_pretrained(tmp_path / "delta", base=place, adapter=False)
    theirs = parts.read_decoder(path, Placement()).state_dict()
    ours = original.decoder.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert loaded.tokenizer.chat_template == TEMPLATE
