"""Passage embeddings that exist already, such as a vector database's, into the store."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from refrag_rag.engine.lookup import PassageLookup
from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.spans import neutralise
from refrag_rag.store import passage_key


def keep_embeddings(
    model: RefragModel, lookup: PassageLookup, texts: Iterable[str], embeddings: ArrayLike | Tensor
) -> None:
    """Keep embeddings in place of what the encoder would make; see `Refrag.keep_embeddings`."""
    config, passages = model.config, [model.chunker.chunk(neutralise(text)) for text in texts]
    if config.chunking != "passage":
        raise InputError(
            f"{config.name} has one vector for {config.k} tokens; expected a model with chunking "
            "= 'passage'. Let precompute encode the passages."
        )
    try:
        if isinstance(embeddings, Tensor):  # maybe on a GPU
            embeddings = embeddings.detach().float().cpu().numpy()
        given = torch.from_numpy(np.array(embeddings, np.float32))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"embeddings cannot be read ({error}); expected an array of numbers (N, D_enc)."
        ) from error
    expected = (len(passages), config.chunk_width)
    if given.shape != expected and (passages or given.numel()):
        raise InputError(
            f"embeddings of shape {tuple(given.shape)}; expected {expected}: one for each of "
            f"{len(passages)} passages, as wide as those that {config.name} reads."
        )
    for passage, row in zip(passages, given, strict=True):
        if not len(passage):
            raise InputError(f"Passage {passage.text!r} has no tokens; expected text.")
        if not (row.abs() <= lookup.largest).all():
            raise InputError(
                f"The embedding of {passage.text!r:.80} has NaN, infinity or a number beyond "
                f"{lookup.largest:g}; expected finite numbers that the store's type holds."
            )
    found = {passage_key(one.text): (one, row) for one, row in zip(passages, given, strict=True)}
    lookup.add({key: one for key, (one, _) in found.items()}, [r[None] for _, r in found.values()])
