"""The tokenizer of `tiny`: byte-level BPE, digits in pairs, one token per chat role."""

import logging
from collections.abc import Iterator
from itertools import islice
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from recipes.tiny.world import World
from refrag_rag.training.prompts import STYLES

BOS, END, PAD = "<|bos|>", "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
logger = logging.getLogger(__name__)


def train_tokenizer(
    world: World, *, vocab_size: int, passages: int, seed: int
) -> PreTrainedTokenizerFast:
    """Train the BPE on passages and questions of a world and on the prompt wordings."""
    bpe = Tokenizer(models.BPE())
    # A leading space on every text makes a word the same tokens at the start of an answer as in
    # the middle of a passage, so that copying is copying.
    bpe.normalizer = normalizers.Prepend(" ")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{N}{1,2}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    bpe.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(world, passages, Random(seed)), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=list(ROLES),
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _texts(world: World, passages: int, rng: Random) -> Iterator[str]:
    for style in STYLES:
        yield from [style.system, style.before, style.between, style.after] * max(1, passages // 50)
    for _ in range(passages):
        entity = world.entity(rng, facts=8)
        yield entity.passage(rng)
        for fact in islice(entity.facts, 3):
            yield entity.question(fact, rng)
