"""Questions made from one sentence, by patterns alone: a number, date or name of it is asked."""

import re
from dataclasses import dataclass
from random import Random

LENGTHS = (40, 300)  # characters of a sentence that is asked
WORDS = 6  # of four letters and more that are left beside the answer
BLANK = "___"
MARKUP = re.compile(
    r"[|{}<>#*=_\\`~\[\]\t]|\"[,;]?\"|\b(?:than|of|the|and|a) ?[.,\u2014]|"
    r"https?:|,,|\(\)|\( ?[,;]|^[-+\d]"
)
# the sentence says nothing alone: what it is about stands before it
OPEN = re.compile(
    r"(?:He|She|It|They|We|I|You|His|Her|Its|Their|This|These|That|Those|Such|There|Here|Both|"
    r"Another|Other|However|Then|Also|Thus|Therefore|But|And|Or|So|Later|Afterwards?|"
    r"(?:In|At|By|During|After|Because of|Before) (?:this|that|these|those|the same|his|her|"
    r"its|their)|"
    r"(?:In|On|At|By|From|Since|Until|During|After) [\w ,]{1,20}\d,? (?:he|she|it|they))\b"
)
CAPITAL = r"[A-Z\u00c0-\u00d6\u00d8-\u00de]"
NAME = (
    rf"{CAPITAL}[\w'\u2019-]{{1,30}}"
    rf"(?: (?:(?:of|de|von|van|da|del|di|la|of the) )?{CAPITAL}[\w'\u2019-]{{1,30}}){{0,5}}"
)
MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
DATE = rf"(?:\d{{1,2}}\s{MONTH}(?:\s\d{{4}})?|{MONTH} \d{{1,2}}(?:, \d{{4}})?|{MONTH} \d{{4}})"
METRES = r"(?:square |cubic )?(?:kilo|centi|milli)?met(?:er|re)s"
UNIT = (
    r"(?:thousand|million|billion|trillion|percent|per cent|degrees|(?:square )?(?:miles|feet|km)|"
    rf"{METRES}|inches|acres|hectares|kg|kilograms|pounds|tons|tonnes|seconds|minutes|hours|days|"
    r"weeks|months|years)"
)
NUMBER = rf"\d{{1,15}}(?:[.,]\d{{1,15}}){{0,6}}%?(?:\s{UNIT}\b)?"
YEAR = r"(?<=[a-z] )(?:1\d{3}|20\d\d)"  # a bare number of this size after a word
ASKED = re.compile(
    rf"(?<![\w/\u2013-])(?P<date>{DATE})(?![\w/\u2013-])|(?<![\w.,$\u20ac\u00a3/:+\u2013\u2212-])"
    rf"(?:(?P<year>{YEAR})(?!%|\s{UNIT}\b)|(?P<number>{NUMBER}))(?![\w/:\u2013-]|[.,]\d)"
    rf"|(?<![\w'\u2019/-])(?P<name>{NAME})(?![\w/-])"
)
# after these a capital letter is a sentence's or a quotation's, or the name has begun before
BEGINS = re.compile(r"(?:^|[.!?:;\u2026])[\"'\u201c\u2018(\[\s]*$|[\"\u201c]$")
COMES_FROM = re.compile(
    rf"\b{CAPITAL}\. ?$|\b{CAPITAL}\w{{1,30}} (?:of|for) (?:the )?{CAPITAL}\w{{1,30}} and $"
)
GOES_ON = re.compile(rf" (?:{CAPITAL}\.|\d)")
NO_NAME = frozenset(
    "He She It They We I You His Her Its Their This These That Those There A An The In On At By As "
    "For If When While After Before But And Or Mr Mrs Ms Dr St Sir Lord Lady King Queen".split()
)
ANY = ("Fill in:", "Fill in the blank:", "Complete the sentence:", "What is missing here?")
WHICH = ("Which {} completes this sentence?", "Which {} is missing:")
ENDS = r"(?=\.|,? [^A-Z\d])"  # a name or a date is whole
WHEN = rf"(?:on|in) (?P<y>{DATE}|\d{{4}}){ENDS}"
WHERE = rf"in (?P<y>{NAME})(?=\.|,? [^A-Z]|, )"
WHO = rf"by (?P<y>{NAME})(?=\.|,? (?!and\b|or\b)[a-z])"  # of several, one is not the answer
PAST = {
    "became": "become", "began": "begin", "joined": "join", "left": "leave", "married": "marry",
    "moved": "move", "published": "publish", "received": "receive", "released": "release",
    "returned": "return", "signed": "sign", "won": "win", "wrote": "write",
}  # fmt: skip
IN_YEAR = rf"In (?P<y>\d{{4}}),? (?P<x>(?:the )?{NAME})"
# one clause: what has a second verb does not stand behind a first one that was turned round
SECOND = r".*, (?:and|but) |.* (?:and|but) (?:\w+ed|became|was|were|had|won)\b"
REST = rf"(?!{SECOND})(?P<rest>[^;:?!]{{10,120}})\.$"
SUBJECT = rf"(?P<x>(?:The )?{NAME})"
# subject X, verb V, answer Y
DIRECT = tuple(
    (re.compile(pattern), question)
    for pattern, question in (
        (rf"{IN_YEAR} (?P<v>was|were) {REST}", "In which year {v} {x} {rest}?"),
        (rf"{IN_YEAR} (?P<v>{'|'.join(PAST)}) {REST}", "In which year did {x} {v} {rest}?"),
        (
            rf"{SUBJECT} was (?P<v>born|founded|opened|built|completed|released|published) {WHEN}",
            "When was {x} {v}?",
        ),
        (rf"{SUBJECT} died {WHEN}", "When did {x} die?"),
        (rf"{SUBJECT} was (?P<v>born|founded|built) {WHERE}", "Where was {x} {v}?"),
        (rf"{SUBJECT} is located {WHERE}", "Where is {x} located?"),
        (
            rf"{SUBJECT} is the capital of (?P<y>{NAME}){ENDS}",
            "What is {x} the capital of?",
        ),
        (
            rf"{SUBJECT} was (?P<v>founded|directed|designed|invented|discovered) {WHO}",
            "Who {v} {x}?",
        ),
    )
)


@dataclass(frozen=True)
class Cloze:
    """A question, and its answer as the sentence has it."""

    question: str
    answer: str


def cloze(sentence: str, title: str | None, rng: Random) -> Cloze | None:
    """Ask for one number, date or name of a sentence, in a form drawn by `rng`.

    None if the sentence has none that is safe: it is no whole sentence, leans on what stands
    before it, says too little beside the answer, or has the answer twice; a title is not asked.
    """
    shortest, longest = LENGTHS
    whole = shortest <= len(sentence) <= longest and sentence[0].isupper() and sentence[-1] in ".!?"
    if not whole or MARKUP.search(sentence) or OPEN.match(sentence) or sentence.count('"') % 2:
        return None
    direct = _direct(sentence, title)
    if direct:
        return direct
    found = [one for one in ASKED.finditer(sentence) if _asks(one, sentence, title)]
    if not found:
        return None
    match = rng.choice(found)
    blanked = sentence[: match.start()] + BLANK + sentence[match.end() :]
    form = rng.choice(ANY + WHICH).format(match.lastgroup)
    return Cloze(f"{form} {blanked}", match.group())


def _direct(sentence: str, title: str | None) -> Cloze | None:
    for pattern, question in DIRECT:
        match = pattern.match(sentence)
        if match and _safe(sentence, match["y"], title) and match["x"] not in NO_NAME:
            words = match.groupdict()
            words["v"] = PAST.get(words.get("v") or "", words.get("v"))
            return Cloze(question.format(**words), match["y"])
    return None


def _asks(match: re.Match[str], sentence: str, title: str | None) -> bool:
    answer, before = match.group(), sentence[: match.start()]
    if match.lastgroup != "name":
        return _safe(sentence, answer, title)
    quoted = before.endswith(('"', "\u201c")) and sentence[match.end()] in '"\u201d'
    inside = before.count('"') % 2 and not quoted
    listed = " of " in answer and re.match(rf" and {CAPITAL}", sentence[match.end() :])
    part = inside or listed or COMES_FROM.search(before) or GOES_ON.match(sentence, match.end())
    begins = BEGINS.search(before) and not quoted
    other = answer.endswith(("'s", "\u2019s", "'", "\u2019")) or answer in NO_NAME
    return not (part or begins or other) and _safe(sentence, answer, title)


def _safe(sentence: str, answer: str, title: str | None) -> bool:
    known = (title or "").lower()
    if re.search(rf"\b{re.escape(answer.lower())}\b", known) or (known and known in answer.lower()):
        return False
    if len(re.findall(rf"(?<!\w){re.escape(answer)}(?!\w)", sentence)) != 1:
        return False
    return len(re.findall(r"[^\W\d_]{4,}", sentence.replace(answer, " "))) >= WORDS
