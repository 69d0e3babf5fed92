"""How training reads: encoder with gradient and mixed sequences, in one forward call."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from refrag_rag.model import RefragModel
from refrag_rag.text.chunking import ChunkedPassage
from refrag_rag.training.batches import Batch


class Reader(nn.Module):
    """Encoder, projector and decoder behind one `forward`, as sharded training needs it.

    Parameters whose module is not called itself (the embedding table, the projector) belong to the
    outermost module, whose call gathers them; the transformers' blocks are gathered one by one.
    """

    def __init__(self, model: RefragModel) -> None:
        super().__init__()
        self.model = model
        parts = (model.encoder.model, model.decoder)
        self._no_split_modules = sorted({n for part in parts for n in part._no_split_modules or ()})

    def forward(self, batch: Batch, encode: bool = False, known: Tensor | None = None) -> Tensor:
        """Logits of a batch, *shape* (B, T, vocabulary).

        Parameters
        ----------
        encode
            Call the encoder even if the batch has no vector, since another process does.
        known
            *Shape:* (V, D_enc); the batch's chunk embeddings, which are then not computed.
        """
        device = self.model.device
        embeddings = embed_chosen(self.model, batch) if known is None else known
        logits: Tensor = self.model(
            batch.input_ids.to(device),
            batch.vector_mask.to(device),
            embeddings,
            batch.attention_mask.to(device),
        )
        if encode and not len(embeddings):
            nothing = embed(self.model, [ChunkedPassage("?", (0,), (1,), (1,))])
            logits = logits + 0 * self.model.projector(nothing, [1]).sum()
        return logits


def embed_chosen(model: RefragModel, batch: Batch) -> Tensor:
    """Chunk embeddings of the batch's vectors, with gradient, *shape* (V, D_enc)."""
    if not batch.vector_mask.any():
        return torch.empty(0, model.config.chunk_width, device=model.device)
    embedded = embed(model, batch.passages)  # (all chunks, D_enc)
    return embedded[batch.chosen.to(embedded.device)]


def embed(model: RefragModel, passages: Sequence[ChunkedPassage]) -> Tensor:
    """Embeddings of all chunks of passages, with gradient, *shape* (sum of L, D_enc)."""
    windows = [window for passage in passages for window in model.encoder.windows(passage)]
    return torch.cat(model.encoder(windows))
