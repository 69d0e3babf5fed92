"""Two views of one tokenizer: passages without control tokens, prompts with slots for spans."""

import copy
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Encoding, Tokenizer

from refrag_rag.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HALVES = re.compile("[\ud800-\udfff]")
_SLOT = re.compile("\ue000\\d+:\\d+\ue001")


def backend(tokenizer: "PreTrainedTokenizerBase") -> Tokenizer:
    """The Rust tokenizer behind a Hugging Face tokenizer; without one it is a `CheckpointError`."""
    found = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(found, Tokenizer):
        raise CheckpointError(
            f"{type(tokenizer).__name__} has no fast tokenizer; expected one with character "
            "offsets. Convert it to tokenizer.json."
        )
    return found


def description(tokenizer: "PreTrainedTokenizerBase") -> str:
    """What makes a tokenizer, without truncation and padding, which every call may change."""
    return str(_without_limits(backend(tokenizer)).to_str())


def same_vocabulary(first: "PreTrainedTokenizerBase", second: "PreTrainedTokenizerBase") -> bool:
    """Whether two tokenizers give the same ids for text from documents (control tokens aside)."""
    one, other = (json.loads(backend(tokenizer).to_str()) for tokenizer in (first, second))
    names = ("model", "normalizer", "pre_tokenizer")
    return all(one.get(name) == other.get(name) for name in names)


def readable(text: str) -> str:
    """Replace halves of characters, which cut JSON and PDF files hold, one for one."""
    return _HALVES.sub("\ufffd", text)


class PlainTokenizer:
    """Tokenises text from documents. Control tokens cannot come out, whatever the text says.

    The tokenizer is built again, without added tokens and without a post-processor.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        source = backend(tokenizer)
        parts: dict[str, Any] = json.loads(source.to_str())
        parts.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
        self._tokenizer = Tokenizer.from_str(json.dumps(parts))
        self._control = {
            id_ for id_, added in source.get_added_tokens_decoder().items() if added.special
        }

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids and their character offsets in `text`.

        Some vocabularies contain the names of control tokens as ordinary pieces; where one comes
        out, the text is cut in its middle and both halves are tokenised alone.
        """
        encoding: Encoding = self._tokenizer.encode(readable(text), add_special_tokens=False)
        ids, offsets = list(encoding.ids), list(encoding.offsets)
        for id_, (start, end) in zip(ids, offsets, strict=True):
            if id_ in self._control and end - start > 1:
                middle = (start + end) // 2
                left, left_offsets = self.encode(text[:middle])
                right, right_offsets = self.encode(text[middle:])
                moved = [(start + middle, end + middle) for start, end in right_offsets]
                return left + right, left_offsets + moved
        return ids, offsets


class PromptTokenizer:
    """Tokenises prompts in which every span is one slot, on a private copy of the tokenizer."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._source = backend(tokenizer)
        self._tokenizer = _without_limits(self._source)
        self._slots: dict[str, int] = {}
        self._plain = PlainTokenizer(tokenizer)
        special = [t.content for t in self._source.get_added_tokens_decoder().values() if t.special]
        longest_first = sorted(map(re.escape, special), key=len, reverse=True)
        self._control = re.compile("|".join(longest_first)) if special else None

    def slots(self, count: int, texts: Sequence[str]) -> list[str]:
        """Placeholders for `count` spans that occur in none of `texts`.

        They are private-use characters, one added token each, so that a template that repeats or
        drops a message takes the right spans along.
        """
        nonce = 0
        while any(f"\ue000{nonce}:" in text for text in texts):
            nonce += 1
        names = [f"\ue000{nonce}:{place}\ue001" for place in range(count)]
        self._add([name for name in names if name not in self._slots])
        return names

    def encode(
        self, text: str, slots: Sequence[str], *, special_tokens: bool
    ) -> list[list[int] | int]:
        """Tokenise once; runs of token ids alternate with indices into `slots`.

        The name of a slot that is none of this prompt's is ordinary text, even if an earlier
        prompt had that slot.
        """
        if self._slots.keys() & set(_SLOT.findall(text)) - set(slots):
            fresh = copy.copy(self)
            fresh._tokenizer, fresh._slots = _without_limits(self._source), {}
            fresh._add(slots)
            return fresh.encode(text, slots, special_tokens=special_tokens)
        place = {self._slots[name]: index for index, name in enumerate(slots)}
        parts: list[list[int] | int] = [[]]
        encoding = self._tokenizer.encode(readable(text), add_special_tokens=special_tokens)
        for id_ in encoding.ids:
            if id_ in place:
                parts += [place[id_], []]
            elif isinstance(parts[-1], list):
                parts[-1].append(id_)
        return parts

    def cut_control(self, text: str) -> list[str | list[int]]:
        """Cut out what would be a control token; in its place are the ids of its letters."""
        if self._control is None or self._control.search(text) is None:
            return [text]
        pieces: list[str | list[int]] = []
        end = 0
        for match in self._control.finditer(text):
            pieces += [text[end : match.start()], self._plain.encode(match[0])[0]]
            end = match.end()
        return [piece for piece in [*pieces, text[end:]] if piece]

    def _add(self, names: Sequence[str]) -> None:
        if names:
            self._tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
            self._slots |= {name: token_id(self._tokenizer, name) for name in names}


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token; one that is not in the vocabulary is a `CheckpointError`."""
    found: int | None = tokenizer.token_to_id(token)
    if found is None:
        raise CheckpointError(f"The tokenizer has no token {token!r}; expected one that has.")
    return found


def _without_limits(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that neither cuts nor pads."""
    copied = Tokenizer.from_str(tokenizer.to_str())
    copied.no_truncation()
    copied.no_padding()
    return copied


def sentence_ends(text: str) -> list[int]:
    """Character positions after which a new sentence or line begins."""
    return [match.end() for match in re.finditer(r"[.!?][\"')\]]*\s+|\n+", text)]
