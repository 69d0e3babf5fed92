"""Training examples: passages first, then questions, repetitions or retellings.

See `refrag_rag.training.batches`; pieces know where values stand in them.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from tokenizers import Tokenizer

from recipes.tiny.layout import Mark, MarkedPiece
from recipes.tiny.world import Entity, Statement, Told, World
from refrag_rag.text.tokenization import token_id
from refrag_rag.training.prompts import PLAIN, SEPARATOR, STYLES, Style

PASSAGE_WEIGHT, PROMPT_WEIGHT, COPY_WEIGHT, ANSWER_WEIGHT = 0.1, 0.02, 0.3, 0.9
# The first token of an answer is where the passage is chosen: it weighs most and is the target,
# which the curriculum watches.
CHOICE_WEIGHT = 1.0
MAX_ANSWER_TOKENS = 6


class Exchange(NamedTuple):
    """A question, its answer, and the entity it asks for if the answer is a value of one."""

    question: str
    answer: str
    name: str = ""


@dataclass(frozen=True)
class Level:
    """Size of a context: passages, facts in each, and how often these name their entity."""

    passages: int
    facts: int
    by_name: float = 0.65


@dataclass(frozen=True)
class Mix:
    """Shares of the tasks; the rest is question answering."""

    copy: float = 0.1
    retell: float = 0.1
    plain_style: float = 0.6
    joined: float = 0.0
    questions: int = 12


class Tasks:
    """Makes examples from a world.

    Parameters
    ----------
    world
        Where entities come from.
    tokenizer
        The model's tokenizer; role tokens are looked up by name, text is encoded without them.
    mix
        Shares of the tasks.
    """

    def __init__(self, world: World, tokenizer: Tokenizer, mix: Mix) -> None:
        self.world = world
        self.mix = mix
        self.tokenizer = tokenizer
        names = ("bos", "end", "system", "user", "assistant")
        self.roles = {name: token_id(tokenizer, f"<|{name}|>") for name in names}

    def example(self, rng: Random, level: Level) -> list[MarkedPiece]:
        """Draw one example of the given size."""
        entities = self.world.entities(rng, level.passages, facts=level.facts, alike=0.75)
        told = [entity.told(rng, by_name=level.by_name) for entity in entities]
        if len(told) > 2 and rng.random() < self.mix.joined:  # a span of several encoder windows
            told[:2] = [told[0].followed_by(told[1], SEPARATOR)]
        draw = rng.random()
        if draw < self.mix.copy and len(told) == len(entities):
            place = rng.randrange(len(told))
            exchanges = [Exchange(_ask_copy(entities[place], rng, len(told)), told[place].text)]
        elif draw < self.mix.copy + self.mix.retell:
            subject = rng.choice(entities)
            again = subject.passage(rng, title=False)
            exchanges = [Exchange(f"Tell me about {subject.name}.", again)]
        else:
            exchanges = self._questions(entities, rng)
        weight = ANSWER_WEIGHT if draw >= self.mix.copy + self.mix.retell else COPY_WEIGHT
        style = PLAIN if rng.random() < self.mix.plain_style else rng.choice(STYLES)
        return self.render(told, exchanges, style, weight)

    def restatement(self, rng: Random, level: Level) -> list[MarkedPiece]:
        """Draw one example in which every sentence of every passage is said again, shuffled.

        Where a value is to be said, the name at the sentence's head alone tells which passage it
        stands in: the same choice as in a question, at every sentence and in the passage's words.
        """
        entities = self.world.entities(rng, level.passages, facts=level.facts, alike=0.75)
        stated = [(entity, entity.statements(rng, by_name=1.0)) for entity in entities]
        told = [entity.tell(statements, entity.title(rng)) for entity, statements in stated]
        pieces = self.render(told, [Exchange("Repeat all sentences.", "")], PLAIN, COPY_WEIGHT)
        sentences = [(entity.name, one) for entity, statements in stated for one in statements]
        rng.shuffle(sentences)
        return [*pieces[:-1], *(piece for one in sentences for piece in self._said(*one))]

    def render(
        self,
        passages: Sequence[Told],
        exchanges: Sequence[Exchange],
        style: Style,
        weight: float = ANSWER_WEIGHT,
    ) -> list[MarkedPiece]:
        """Lay out a conversation: the passages and the first question, then further ones."""
        pieces = [MarkedPiece([self.roles["bos"]], 0.0)]
        context = self._context(passages)
        for place, exchange in enumerate(exchanges):
            first = place == 0
            asked = style.between + exchange.question + style.after if first else exchange.question
            if first and style.context_in_system:
                pieces += [self._role("system"), self._text(style.system), *context, self._end()]
                pieces += [self._role("user"), self._text(asked)]
            elif first:
                if style.system:
                    pieces += [self._role("system"), self._text(style.system), self._end()]
                pieces += [self._role("user"), self._text(style.before), *context]
                pieces += [self._text(asked)]
            else:
                pieces += [self._role("user"), self._text(asked)]
            pieces += [self._end(), self._role("assistant")]
            pieces += self._answer(exchange, weight)
        return [piece for piece in pieces if len(piece.ids)]

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _answer(self, exchange: Exchange, weight: float) -> list[MarkedPiece]:
        """The tokens of an answer; the first of them weighs most."""
        encoded = self.tokenizer.encode(exchange.answer, add_special_tokens=False)
        ids = [*encoded.ids, self.roles["end"]]
        starts = [start for start, _ in encoded.offsets] if exchange.name else []
        says = [(exchange.name, exchange.answer, start) for start in starts]
        if weight != ANSWER_WEIGHT:
            return [MarkedPiece(ids, weight, says=says)]
        return [
            self._choice(ids[:1], says[:1]),
            MarkedPiece(ids[1:], weight, says=says[1:]),
        ]

    def _choice(self, ids: Sequence[int], says: Sequence[Mark]) -> MarkedPiece:
        return MarkedPiece(ids, CHOICE_WEIGHT, target=True, says=says)

    def _said(self, name: str, statement: Statement) -> list[MarkedPiece]:
        """A sentence of which the first token of the value is a target."""
        encoded = self.tokenizer.encode(" " + statement.text, add_special_tokens=False)
        ends = [end for _, end in encoded.offsets]
        target = next(place for place, end in enumerate(ends) if end > statement.place + 1)
        ids = encoded.ids
        return [
            MarkedPiece(ids[:target], COPY_WEIGHT),
            MarkedPiece(
                ids[target : target + 1],
                CHOICE_WEIGHT,
                target=True,
                says=[(name, statement.value, 0)],
            ),
            MarkedPiece(ids[target + 1 :], COPY_WEIGHT),
        ]

    def _questions(self, entities: Sequence[Entity], rng: Random) -> list[Exchange]:
        asked = [
            Exchange(entity.question(fact, rng), fact.value, entity.name)
            for entity in entities
            for fact in entity.facts
            if len(self.encode(fact.value)) <= MAX_ANSWER_TOKENS
        ]
        count = min(len(asked), self.mix.questions)
        return rng.sample(asked, count) or [Exchange("Who is it?", entities[0].name)]

    def _context(self, passages: Sequence[Told]) -> list[MarkedPiece]:
        pieces = []
        for place, told in enumerate(passages):
            if place:
                pieces.append(self._text(SEPARATOR))
            pieces.append(self._passage(told))
        return pieces

    def _passage(self, told: Told) -> MarkedPiece:
        encoded = self.tokenizer.encode(told.text, add_special_tokens=False)
        ends = [end for _, end in encoded.offsets]
        holds = {
            (name, value, character): bisect_right(ends, place + character)
            for name, value, place in told.values
            for character in range(len(value))
        }
        return MarkedPiece(encoded.ids, PASSAGE_WEIGHT, passage=True, holds=holds)

    def _text(self, text: str) -> MarkedPiece:
        return MarkedPiece(self.encode(text), PROMPT_WEIGHT)

    def _role(self, name: str) -> MarkedPiece:
        return MarkedPiece([self.roles[name]], 0.0)

    def _end(self) -> MarkedPiece:
        return MarkedPiece([self.roles["end"]], 0.0)


def _ask_copy(entity: Entity, rng: Random, passages: int) -> str:
    if passages == 1 and rng.random() < 0.5:
        return "Repeat the text."
    return f"Repeat the text about {entity.name}."
