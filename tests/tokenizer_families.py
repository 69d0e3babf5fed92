"""Small tokenizers with the normalizers, pre-tokenizers and decoders of common families.

The vocabularies are trained on the spot; how text goes in and comes out is that of the family.
"""

from collections.abc import Callable, Mapping

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SIZE = 600
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEXTS = ["Velmora makes clocks in Port Belu, by the river. Who? In 1912!", "naïve café 東京"] * 20
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def llama2() -> PreTrainedTokenizerFast:
    """SentencePiece with a blank in front of every text, unknown characters as bytes."""
    return _pieces(
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        decoders.Strip(" ", 1, 0),
    )


def gemma() -> PreTrainedTokenizerFast:
    """SentencePiece without that blank."""
    return _pieces(normalizers.Replace(" ", "▁"))


def qwen() -> PreTrainedTokenizerFast:
    """Byte-level, of text in normal form C."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    return _trained(made, SPECIAL, pre_tokenizers.ByteLevel.alphabet())


def _pieces(normalizer: normalizers.Normalizer, *last: decoders.Decoder) -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last]
    made.decoder = decoders.Sequence(steps)
    return _trained(made, SPECIAL + BYTES, [])


def _trained(made: Tokenizer, special: list[str], alphabet: list[str]) -> PreTrainedTokenizerFast:
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


FAMILIES: Mapping[str, Callable[[], PreTrainedTokenizerFast]] = {
    "Llama 2": llama2,
    "Gemma": gemma,
    "Qwen": qwen,
}
