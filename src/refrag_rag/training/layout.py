"""Texts and questions to pieces: passages as the engine cuts them, prompts as it lays them out."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.policies import Chunks, Policy, choose, get_policy, limit_of, needs_of
from refrag_rag.prompt.assemble import parse
from refrag_rag.spans import neutralise, wrap
from refrag_rag.text.chat_template import Prompt
from refrag_rag.text.tokenization import PromptTokenizer
from refrag_rag.training.batches import Piece, gold, passages_of
from refrag_rag.training.data.questions import keep_passages
from refrag_rag.training.data.records import Passage, QuestionRecord
from refrag_rag.training.prompts import SEPARATOR, STYLES, Style


class Frame:
    """What stands around a training example: the decoder's first token, and its last.

    Passages are cut by the model's own chunker, exactly as at question time.
    """

    def __init__(self, model: RefragModel) -> None:
        self._tokenizer, self._chunker = model.tokenizer, model.chunker
        self._whole = model.config.chunking == "passage"
        first = model.tokenizer("", add_special_tokens=True).input_ids
        end = model.tokenizer.eos_token_id
        self._around: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        if model.boundary is not None:
            before, behind = model.boundary
            self._around = (tuple(before.token_ids), tuple(behind.token_ids))
        self.first = Piece([i for i in first if i != end])
        self.end = gold([end])

    def text(self, ids: Any) -> str:
        """What token ids say; a character cut in half at either end is left out."""
        text: str = self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text.strip("\ufffd")

    def passage(self, ids: Any, *, k: int | None = None) -> Piece:
        """Token ids as a passage."""
        return self.text_passage(self.text(ids), k=k)

    def passages(self, ids: Any, *, k: int) -> list[Piece]:
        """Token ids as one passage, or of k tokens each where a chunk is a whole passage."""
        step = k if self._whole else max(1, len(ids))
        return [self.passage(ids[at : at + step], k=k) for at in range(0, len(ids), step)]

    def text_passage(self, text: str, *, k: int | None = None) -> Piece:
        """Text as a passage, in chunks of the model's k or another."""
        chunked = self._chunker.chunk(text, k=k)
        return Piece(chunked.token_ids, chunked=chunked, around=self._around)


class QuestionLayout:
    """Prompts and question records to pieces, through the chat template if the decoder has one.

    A prompt has at most `max_passages`; gold ones are kept.
    """

    def __init__(self, model: RefragModel, *, max_passages: int) -> None:
        self._tokenizer, self._frame = model.tokenizer, Frame(model)
        self._slots = PromptTokenizer(model.tokenizer)
        self._encode = model.chunker.chunk
        self.max_passages = max_passages

    def example(
        self,
        record: QuestionRecord,
        rng: Random,
        *,
        k: int | None = None,
        further: Sequence[QuestionRecord] = (),
    ) -> tuple[list[Piece], str]:
        """One example in one of the wordings of real chains, and its question.

        The question is what the engine takes for it: the last message's text outside spans.
        `further` questions about the same passages follow, each with its answer.
        """
        kept = keep_passages(record.passages, self.max_passages)
        shuffled = rng.sample(kept, len(kept))
        prompt = self.prompt(shuffled, record, rng.choice(STYLES))
        return self.lay_out(prompt, record.answers[0], k=k, further=further)

    def lay_out(
        self,
        prompt: Prompt,
        answer: str,
        *,
        k: int | None = None,
        further: Sequence[QuestionRecord] = (),
    ) -> tuple[list[Piece], str]:
        """Any prompt with spans, followed by its answer and further questions; and its question."""
        question = parse(prompt, self._tokenizer, self._slots).question
        answers = [answer, *(one.answers[0] for one in further)]
        talk = _conversation(prompt, answers, [one.question for one in further])
        parsed = parse(talk, self._tokenizer, self._slots)
        passages = len(parsed.spans) - len(further)
        pieces: list[Piece] = []
        for part in parsed.parts:
            if isinstance(part, int):
                span = parsed.spans[part]
                passage = self._frame.text_passage(span.text, k=k)
                answered = gold(self._encode(span.text).token_ids)
                pieces.append(
                    replace(passage, retrieval=span.score) if part < passages else answered
                )
            elif part:
                ended = bool(pieces) and pieces[-1].target and part[0] == self._frame.end.ids[0]
                pieces += [self._frame.end, Piece(part[1:])] if ended else [Piece(part)]
        said = gold(self._encode(answers[-1]).token_ids)
        return [*pieces, said, self._frame.end], question

    def prompt(self, passages: Sequence[Passage], record: QuestionRecord, style: Style) -> Prompt:
        """Messages (one text without a chat template) that ask a record's question."""
        context = SEPARATOR.join(wrap(one.titled(), score=one.score) for one in passages)
        asked = style.between + neutralise(record.question) + style.after
        earlier = [{"role": t.role, "content": neutralise(t.text)} for t in record.history]
        if not self._tokenizer.chat_template:
            said = "".join(f"{turn['content']}{SEPARATOR}" for turn in earlier)
            return f"{style.system}{said}{style.before}{context}{asked}"
        inside = style.context_in_system
        system = style.system + context if inside else style.system
        user = asked if inside else style.before + context + asked
        first = [{"role": "system", "content": system}] if system else []
        return [*first, *earlier, {"role": "user", "content": user}]

    def task(
        self, instruction: str, text: str, answer: str, *, k: int | None = None
    ) -> list[Piece]:
        """A text as the only passage behind an instruction, and what is to be said of it."""
        asked = f"{instruction}{wrap(text)}"
        templated = bool(self._tokenizer.chat_template)
        prompt: Prompt = [{"role": "user", "content": asked}] if templated else asked + SEPARATOR
        return self.lay_out(prompt, answer, k=k)[0]


def _conversation(prompt: Prompt, answers: Sequence[str], questions: Sequence[str]) -> Prompt:
    """A prompt, and questions that follow its answers; answers stand as spans."""
    turns = [(wrap(a), neutralise(q)) for a, q in zip(answers, questions, strict=False)]
    if isinstance(prompt, str):
        return prompt + "".join(f"{a}{SEPARATOR}{q}{SEPARATOR}" for a, q in turns)
    roles = ("assistant", "user")
    said = (zip(roles, turn, strict=True) for turn in turns)
    return [*prompt, *({"role": r, "content": text} for turn in said for r, text in turn)]


def draw_masks(pieces: Sequence[Piece], rng: Random, share: float) -> list[list[bool]]:
    """For each passage, for each chunk, whether it stays text: with a probability of `share`."""
    return [[rng.random() < share for _ in range(len(one))] for one in passages_of(pieces)]


def chosen_masks(
    pieces: Sequence[Piece], question: str, policy: Policy, share: float
) -> list[list[bool]]:
    """For each passage, for each chunk, whether it stays text: what a policy chooses."""
    passages = [piece for piece in pieces if piece.chunked is not None]
    chunked = passages_of(passages)
    texts = [text for one in chunked for text in one.chunk_texts()]
    of = np.repeat(np.arange(len(chunked)), [len(one) for one in chunked])  # (L,)
    chunks = Chunks(
        texts=texts,
        passages=of,
        embeddings=np.empty((len(texts), 0), np.float32),
        scores={},
        retrieval=[piece.retrieval for piece in passages],
    )
    expanded = choose(policy, chunks, question, limit_of(share, len(texts))).expanded
    return [expanded[of == place].tolist() for place in range(len(chunked))]


def word_policy(name: str) -> Policy:
    """A policy that chooses by texts and retrieval scores, without a model.

    Raises
    ------
    InputError
        If there is none of that name, or it needs a model.
    """
    policy = get_policy(name)
    if needs := needs_of(policy):
        raise InputError(
            f"choose = {name!r} needs {', '.join(sorted(needs))}, which training has not; expected "
            "a policy that reads texts and scores alone, such as lexical, hybrid or retrieval."
        )
    return policy
