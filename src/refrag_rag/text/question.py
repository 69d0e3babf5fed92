"""What is asked in a prompt: templates say much around it that is not in question."""

import re

_ASKED = (
    "query", "question", "frage", "anfrage", "pregunta", "consulta", "requête", "domanda",
    "pergunta", "vraag", "вопрос", "问题", "問題", "質問", "질문",
)  # fmt: skip
_ANSWERED = (
    "answer", "antwort", "respuesta", "réponse", "risposta", "resposta", "antwoord", "ответ",
    "答案", "回答", "답변",
)  # fmt: skip
# "Query: ...", "The original query is as follows: ...", up to a line that leads to an answer.
_LABELLED = re.compile(
    rf"^[^\n:\uff1a]{{0,30}}\b(?:{'|'.join(_ASKED)})(?: is as follows)?[^\S\n]?[:\uff1a](.*?)"
    rf"(?=^[^\n:\uff1a]{{0,40}}\b(?:{'|'.join(_ANSWERED)})\b[^\n:\uff1a]{{0,20}}[:\uff1a]|\Z)",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
# "Answer: ..." with what it says, up to an empty line.
_SAID = re.compile(
    rf"\W*(?:{'|'.join(_ANSWERED)})[^\S\n]?[:\uff1a][^\S\n]*\S.*?\n[^\S\n]*\n",
    re.IGNORECASE | re.DOTALL,
)


def find_question(text: str) -> str:
    """Find what stands behind the last label such as ``Query:`` or ``Question:``.

    The words of a template ("Given the context information and not prior knowledge") would else
    count as words of the question. A question that is answered already is none: then it is what
    follows the answer, unless the prompt ends by asking for another answer.

    Returns
    -------
    str
        All of `text`, stripped, if nothing stands behind a label.
    """
    labelled = [match for match in _LABELLED.finditer(text) if match[1].strip()]
    if not labelled:
        return text.strip()
    last = labelled[-1]
    said = _SAID.match(text, last.end())
    behind = text[said.end() :].strip() if said else ""
    return last[1].strip() if not behind or behind.endswith((":", "\uff1a")) else behind
