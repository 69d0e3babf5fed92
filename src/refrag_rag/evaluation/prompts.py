"""The prompt that every arm is measured in: LlamaIndex's own for answering questions."""

from refrag_rag.engine import Refrag
from refrag_rag.evaluation.questions import Question
from refrag_rag.spans import wrap
from refrag_rag.text.chat_template import Message

CONTEXT = "Context information is below.\n---------------------\n{context}\n---------------------\n"
ASK = (
    "Given the context information and not prior knowledge, answer the query.\n"
    "Query: {question}\nAnswer: "
)


def prompt(question: Question, *, context: bool = True, marked: bool = True) -> list[Message]:
    """One user message: the passages, as spans unless they are not to be marked; the question."""
    passages = list(question.passages)
    if marked:
        scores = question.scores or [None] * len(passages)
        passages = [
            wrap(passage, score=score) for passage, score in zip(passages, scores, strict=True)
        ]
    content = CONTEXT.replace("{context}", "\n\n".join(passages)) if context else ""
    return [{"role": "user", "content": content + ASK.replace("{question}", question.text)}]


def plain_positions(engine: Refrag, question: Question) -> int:
    """Positions of the prompt with the passages as text; nothing is encoded."""
    return engine.compress(prompt(question, marked=False)).positions


def fits(engine: Refrag, question: Question, answer_tokens: int) -> bool:
    """Whether the decoder's window holds the full text and an answer."""
    return plain_positions(engine, question) + answer_tokens <= engine.context_window
