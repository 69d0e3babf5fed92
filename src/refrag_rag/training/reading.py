"""How a training step reads: encoder with gradient, mixed sequence, weighted loss."""

import torch

from refrag_rag.chunking import ChunkedPassage
from refrag_rag.model import RefragModel
from refrag_rag.training.batches import Batch
from refrag_rag.training.loss import Metrics, next_token_loss


def read(model: RefragModel, batch: Batch) -> Metrics:
    """Loss of a batch in which any share of the chunks is vectors."""
    return next_token_loss(
        model(batch.input_ids, batch.vector_mask, embed_chosen(model, batch), batch.attention_mask),
        batch,
    )


def embed_chosen(model: RefragModel, batch: Batch) -> torch.Tensor:
    """Chunk embeddings of the batch's vectors, with gradient.

    Returns
    -------
    Tensor
        *Shape:* (V, D_enc)
    """
    if not batch.vector_mask.any():
        return torch.empty(0, model.config.chunk_width)
    windows = [
        window
        for ids in batch.windows
        for window in model.encoder.windows(
            ChunkedPassage("", tuple(ids), _chunk_lengths(len(ids), batch.k), ())
        )
    ]
    embedded = torch.cat(model.encoder(windows))  # (all chunks, D_enc)
    return embedded[batch.chosen.to(embedded.device)]


def _chunk_lengths(tokens: int, k: int) -> tuple[int, ...]:
    full, rest = divmod(tokens, k)
    return (k,) * full + ((rest,) if rest else ())
