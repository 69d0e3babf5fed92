"""What is asked in a prompt: templates say much around it that is not in question."""

import re

# "Query: ...", "The original query is as follows: ...", up to a line that leads to an answer.
_LABELLED = re.compile(
    r"^[^\n:]{0,30}\b(?:query|question)(?: is as follows)?:(.*?)"
    r"(?=^[^\n:]{0,40}\banswer\b[^\n:]{0,20}:|\Z)",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)


def find_question(text: str) -> str:
    """Find what stands behind the last label such as ``Query:`` or ``Question:``.

    The words of a template ("Given the context information and not prior knowledge") would else
    count as words of the question.

    Returns
    -------
    str
        All of `text`, stripped, if nothing stands behind a label.
    """
    labelled = [match[1].strip() for match in _LABELLED.finditer(text)]
    return next((asked for asked in reversed(labelled) if asked), text.strip())
