"""Questions made from one sentence, by patterns alone: a number, date or name of it is asked."""

import re
from dataclasses import dataclass
from random import Random

LENGTHS = (40, 300)  # characters of a sentence that is asked
WORDS = 6  # of four letters and more that are left beside the answer
BLANK = "___"
MARKUP = re.compile(r"[|{}<>#*=_\\`~\[\]\t]|https?:|\(\)|\( ?[,;]|^[-+\d]")
# the sentence says nothing alone: what it is about stands before it
OPEN = re.compile(
    r"(?:He|She|It|They|We|I|You|His|Her|Its|Their|This|These|That|Those|Such|There|Here|Both|"
    r"Another|Other|However|Then|Also|Thus|Therefore|But|And|Or|So|Later|Afterwards?|"
    r"(?:In|At|By|During|After) (?:this|that|these|those|the same|his|her|its|their))\b"
)
CAPITAL = r"[A-Z\u00c0-\u00d6\u00d8-\u00de]"
NAME = (
    rf"{CAPITAL}[\w'\u2019-]{{1,30}}"
    rf"(?: (?:(?:of|de|von|van|da|del|di|la|of the) )?{CAPITAL}[\w'\u2019-]{{1,30}}){{0,5}}"
)
MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
DATE = rf"(?:\d{{1,2}} {MONTH}(?: \d{{4}})?|{MONTH} \d{{1,2}}(?:, \d{{4}})?|{MONTH} \d{{4}})"
NUMBER = r"\d{1,15}(?:[.,]\d{1,15}){0,6}%?"
ASKED = re.compile(
    rf"(?P<date>\b{DATE}\b)|(?<![\w.,$\u20ac\u00a3/:+-])(?P<number>{NUMBER})(?![\w/:\u2013-]|[.,]\d)"
    rf"|(?<![\w'\u2019/-])(?P<name>{NAME})(?![\w/-])"
)
FORMS = {
    "number": ("Which number completes this sentence?",),
    "date": ("Which date completes this sentence?",),
    "name": ("Which name completes this sentence?",),
}
ANY = ("Fill in:", "Fill in the blank:", "Complete the sentence:", "What is missing here?")
# sentence: subject X, answer Y
DIRECT = tuple(
    (re.compile(rf"(?P<x>(?:The )?{NAME}) {pattern}(?=[ ,.;])"), question)
    for pattern, question in (
        (rf"was born (?:on|in) (?P<y>{DATE}|\d{{4}})", "When was {} born?"),
        (rf"was born in (?P<y>{NAME})", "Where was {} born?"),
        (rf"died (?:on|in) (?P<y>{DATE}|\d{{4}})", "When did {} die?"),
        (rf"is the capital of (?P<y>{NAME})", "What is {} the capital of?"),
        (rf"was founded by (?P<y>{NAME})", "Who founded {}?"),
        (rf"was founded (?:on|in) (?P<y>{DATE}|\d{{4}})", "When was {} founded?"),
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
    for pattern, question in DIRECT:
        match = pattern.match(sentence)
        if match and _safe(sentence, match["y"], title) and match["x"] != match["y"]:
            return Cloze(question.format(match["x"]), match["y"])
    found = [one for one in ASKED.finditer(sentence) if _asks(one, sentence, title)]
    if not found:
        return None
    match = rng.choice(found)
    blanked = sentence[: match.start()] + BLANK + sentence[match.end() :]
    form = rng.choice((*ANY, *FORMS[str(match.lastgroup)]))
    return Cloze(f"{form} {blanked}", match.group())


def _asks(match: re.Match[str], sentence: str, title: str | None) -> bool:
    at_start = match.lastgroup == "name" and not sentence[: match.start()].strip("\"'\u201c( ")
    possessive = match.group().endswith(("'s", "\u2019s"))
    return not at_start and not possessive and _safe(sentence, match.group(), title)


def _safe(sentence: str, answer: str, title: str | None) -> bool:
    known = (title or "").lower()
    if re.search(rf"\b{re.escape(answer.lower())}\b", known) or (known and known in answer.lower()):
        return False
    if len(re.findall(rf"(?<!\w){re.escape(answer)}(?!\w)", sentence)) != 1:
        return False
    return len(re.findall(r"[^\W\d_]{4,}", sentence.replace(answer, " "))) >= WORDS
