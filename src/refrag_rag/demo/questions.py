"""The demo's two collections: short facts, and long addresses, each with questions."""

from importlib import resources
from pathlib import Path

COLLECTIONS = {
    "facts": "14 short documents",
    "addresses": "State of the Union addresses, in the public domain",
}


def demo_folder(collection: str = "facts") -> Path:
    """Folder of a collection, with ``documents/`` and ``questions.txt``."""
    return Path(str(resources.files("refrag_rag"))) / "demo" / collection


def demo_questions(collection: str = "facts") -> list[tuple[str, list[str]]]:
    """Questions of a collection, each with the answers that count."""
    lines = (demo_folder(collection) / "questions.txt").read_text("utf-8").splitlines()
    pairs = [line.partition(" = ") for line in lines if line and not line.startswith("#")]
    return [(question, answers.split(" | ")) for question, _, answers in pairs]
