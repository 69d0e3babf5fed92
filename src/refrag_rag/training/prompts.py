"""How passages and a question are put to the model: the wordings of real RAG chains."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """One prompt wording: ``system``, then ``before`` passages ``between`` question ``after``.

    With `context_in_system` the passages stand in the system message.
    """

    system: str = ""
    before: str = ""
    between: str = "\n\n"
    after: str = ""
    context_in_system: bool = False


SEPARATOR = "\n\n"  # between passages, and between turns where there is no chat template
PLAIN = Style()

REPEAT = ("Repeat the text:\n", "Write this text out once more.\n\n", "Copy:\n\n")
CONTINUE = ("Continue the text:\n", "How does this text go on?\n\n")

# Wordings that the frameworks' default templates and common recipes send to a model, so that the
# trained model is at home in an unchanged chain.
STYLES = (
    PLAIN,
    Style(between="\n\nQuestion: ", after="\nAnswer:"),
    Style(before="Context:\n", between="\n\nQuestion: "),
    Style(
        before="Context information is below.\n---------------------\n",
        between=(
            "\n---------------------\nGiven the context information and not prior knowledge, "
            "answer the query.\nQuery: "
        ),
        after="\nAnswer: ",
    ),
    Style(
        system=(
            "You are an expert Q&A system that is trusted around the world.\n"
            "Always answer the query using the provided context information, "
            "and not prior knowledge.\n"
            "Some rules to follow:\n"
            "1. Never directly reference the given context in your answer.\n"
            "2. Avoid statements like 'Based on the context, ...' or "
            "'The context information ...' or anything along those lines."
        ),
        before="Context information is below.\n---------------------\n",
        between=(
            "\n---------------------\nGiven the context information and not prior knowledge, "
            "answer the query.\nQuery: "
        ),
        after="\nAnswer: ",
    ),
    Style(
        before="Answer the question based only on the following context:\n\n",
        between="\n\nQuestion: ",
    ),
    Style(
        system="Answer the question from the context below.\n\n",
        context_in_system=True,
        between="",
    ),
    Style(
        system=(
            "Use the following pieces of retrieved context to answer the question. "
            "If you don't know the answer, say that you don't know. Keep the answer short.\n\n"
        ),
        context_in_system=True,
        between="",
    ),
)
