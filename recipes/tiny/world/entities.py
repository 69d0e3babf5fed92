"""Entities of the invented world and the passages that describe them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from recipes.tiny.world.values import Pools, Values, load_words, read_resource


@dataclass(frozen=True)
class Attribute:
    """How one attribute is stated and asked."""

    name: str
    value_type: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """One kind of entity: its noun, pronouns, name patterns and attributes."""

    noun: str
    pronouns: tuple[str, ...]
    patterns: tuple[str, ...]
    attributes: tuple[Attribute, ...]


@dataclass(frozen=True)
class Fact:
    """One attribute of one entity, with its value."""

    attribute: Attribute
    value: str


@dataclass(frozen=True)
class Statement:
    """A sentence that tells one fact, and the fact's value in it."""

    text: str
    value: str

    @property
    def place(self) -> int:
        """Character at which the value begins; at the head of a sentence it is capitalised."""
        return max(self.text.rfind(self.value), 0)


@dataclass(frozen=True)
class Told:
    """A passage, and where values stand in it.

    Attributes
    ----------
    text
        The passage.
    values
        An entity's name, a value of it, and the character at which this value begins.
    """

    text: str
    values: tuple[tuple[str, str, int], ...] = ()

    def followed_by(self, other: "Told", between: str) -> "Told":
        """Both in one passage."""
        start = len(self.text) + len(between)
        moved = tuple((name, value, start + place) for name, value, place in other.values)
        return Told(self.text + between + other.text, self.values + moved)


@dataclass(frozen=True)
class Entity:
    """A named thing with facts. The same facts can be told in many ways."""

    name: str
    kind: Kind
    facts: tuple[Fact, ...]

    def passage(self, rng: Random, *, title: bool = True, by_name: float = 0.65) -> str:
        """Tell all facts in random order and wording, under a title line.

        Parameters
        ----------
        by_name
            Share of the sentences that call the entity by its name.
        """
        return self.told(rng, title=title, by_name=by_name).text

    def told(self, rng: Random, *, title: bool = True, by_name: float = 0.65) -> Told:
        """Draw a `passage`, with the places of its values."""
        statements = self.statements(rng, by_name=by_name)
        opening = f"{self.name} is {_article(self.kind.noun)}. " if rng.random() < 0.2 else ""
        return self.tell(statements, (self.title(rng) if title else "") + opening)

    def statements(self, rng: Random, *, by_name: float) -> list[Statement]:
        """Tell all facts in random order and wording, a sentence each; the first by name."""
        pronoun = rng.choice(self.kind.pronouns)
        told = rng.sample(self.facts, len(self.facts))
        return [
            Statement(
                self._statement(fact, rng, pronoun, by_name=place == 0 or rng.random() < by_name),
                fact.value,
            )
            for place, fact in enumerate(told)
        ]

    def tell(self, statements: Sequence[Statement], opening: str) -> Told:
        """Put statements one after the other."""
        text, values = opening, []
        for number, statement in enumerate(statements):
            text += " " if number else ""
            values.append((self.name, statement.value, len(text) + statement.place))
            text += statement.text
        return Told(text, tuple(values))

    def title(self, rng: Random) -> str:
        """Draw a title line."""
        return rng.choice(TITLES).format(self.name)

    def question(self, fact: Fact, rng: Random) -> str:
        """Ask for one fact."""
        return rng.choice(fact.attribute.questions).replace("{N}", self.name)

    def _statement(self, fact: Fact, rng: Random, pronoun: str, *, by_name: bool) -> str:
        template = rng.choice(fact.attribute.statements)
        if by_name:
            subject = self.name
        elif template.startswith("{S}") and rng.random() < 0.6:
            subject = pronoun
        else:
            subject = f"the {self.kind.noun}"
        if re.search(r"\b[Aa] \{V\}", template) and fact.value[0].lower() in "aeiou":
            template = re.sub(r"\b([Aa]) \{V\}", r"\1n {V}", template)
        text = template.replace("{S}", subject).replace("{N}", self.name)
        text = text.replace("{V}", fact.value)
        return text[0].upper() + text[1:]


TITLES = ("{}\n", "# {}\n\n", "title: {}\n\n", "{}: ", "{}. ", "## {}\n", "{}\n\n")


@dataclass
class World:
    """Draws entities with random facts.

    Parameters
    ----------
    held_out
        Use only invented names that no training world contains.
    pools
        Extra word lists, see `recipes.tiny.world.factbook`.
    """

    held_out: bool = False
    pools: Pools = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the templates."""
        words: dict[str, Sequence[str]] = {**load_words()}
        for name, extra in self.pools.items():
            words[name] = [*words.get(name, ()), *extra]
        self.values = Values(words, held_out=self.held_out)
        self.kinds = load_kinds()

    def entity(
        self,
        rng: Random,
        *,
        facts: int,
        kind: Kind | None = None,
        attributes: Sequence[Attribute] | None = None,
    ) -> Entity:
        """Draw one entity with at most `facts` facts, of given attributes if there are any."""
        kind = kind or rng.choice(self.kinds)
        chosen = attributes or rng.sample(kind.attributes, min(facts, len(kind.attributes)))
        name = self.values.fill(rng.choice(kind.patterns), rng)
        return Entity(
            name, kind, tuple(Fact(a, self.values.draw(a.value_type, rng)) for a in chosen)
        )

    def entities(self, rng: Random, count: int, *, facts: int, alike: float = 0.5) -> list[Entity]:
        """Draw entities of different names.

        Parameters
        ----------
        alike
            How often all are of one kind with the same attributes, so that only the name tells
            which passage answers.
        """
        kind = attributes = None
        if rng.random() < alike:
            kind = rng.choice(self.kinds)
            attributes = rng.sample(kind.attributes, min(facts, len(kind.attributes)))
        found: dict[str, Entity] = {}
        while len(found) < count:
            entity = self.entity(rng, facts=facts, kind=kind, attributes=attributes)
            found.setdefault(entity.name, entity)
        return list(found.values())


def load_kinds() -> list[Kind]:
    """Parse ``templates.txt``."""
    kinds: list[Kind] = []
    header: tuple[str, ...] = ()
    attributes: list[Attribute] = []
    for line in [*read_resource("templates.txt"), "["]:
        if not line.startswith("["):
            attributes.append(_attribute(line))
            continue
        if header:
            noun, pronouns, patterns = header
            kinds.append(Kind(noun, _list(pronouns), _list(patterns), tuple(attributes)))
        header, attributes = tuple(line.partition("] ")[2].split("; ")), []
    return kinds


def _attribute(line: str) -> Attribute:
    head, _, body = line.partition(": ")
    name, value_type = head.split()
    statements, _, questions = body.partition(" ?? ")
    return Attribute(name, value_type, _list(statements, " | "), _list(questions, " | "))


def _list(text: str, mark: str = ", ") -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(mark))


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
