"""How training reads: encoder with gradient and mixed sequences, in one forward call."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from refrag_rag.model import RefragModel
from refrag_rag.model.inputs import for_layers
from refrag_rag.text.chunking import ChunkedPassage
from refrag_rag.training.batches import Batch

Head = Callable[[Tensor], Tensor]
"""The decoder's last states to logits: *shape* (..., D_dec) to (..., vocabulary)."""
Readout = Callable[[Tensor, Head, Batch], Any]
"""What is made of the last states, *shape* (B, T, D_dec), inside the forward call: sharded weights
are whole only there. The batch is on the device."""


def all_logits(states: Tensor, head: Head, batch: Batch) -> Tensor:  # noqa: ARG001
    """Logits of all positions, *shape* (B, T, vocabulary)."""
    return head(states)


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
        self._splits = splits(model.decoder)

    def forward(
        self,
        batch: Batch,
        encode: bool = False,
        known: Tensor | None = None,
        read: Readout = all_logits,
    ) -> Any:
        """Read a batch; the logits, or what `read` makes of the decoder's last states.

        Under bfloat16 autocast the decoder's states are bfloat16 too.

        Parameters
        ----------
        encode
            Call the encoder even if the batch has no vector, since another process does.
        known
            *Shape:* (V, D_enc); the batch's chunk embeddings, which are then not computed.
        """
        model = self.model
        batch = batch.to(model.device)
        embeddings = embed_chosen(model, batch) if known is None else known
        embeds = model.embed(batch.input_ids, batch.vector_mask, embeddings, batch.vector_places)
        if encode and not len(embeddings):
            nothing = embed(model, [ChunkedPassage("?", (0,), (1,), (1,))])
            embeds = embeds + 0 * model.projector(nothing, [1]).sum()
        embeds = for_layers(embeds)
        states, head = last_states(model.decoder, split=self._splits, inputs_embeds=embeds)
        return read(states, head, batch)


@torch.no_grad()
def splits(decoder: PreTrainedModel) -> bool:
    """Whether its logits are what its output embeddings make of its last states, to the bit.

    Not so where logits are scaled or capped, or states scaled before. Two positions are read.
    """
    head, mode = decoder.get_output_embeddings(), decoder.training
    if head is None or decoder.base_model is decoder:
        return False
    weight = decoder.get_input_embeddings().weight
    embeds = weight[-2:][None]  # (1, 2, D_dec)
    decoder.eval()
    logits = decoder(inputs_embeds=embeds, use_cache=False).logits
    states = decoder.base_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    decoder.train(mode)
    return torch.equal(head(states), logits)


def last_states(decoder: PreTrainedModel, *, split: bool, **inputs: Tensor) -> tuple[Tensor, Head]:
    """The decoder's last states and its head; logits and no head where it does not split.

    Rows are padded on the right, which a causal decoder does not see: it is given no mask, and
    attention may take its fastest form.
    """
    if split:
        states = decoder.base_model(**inputs, use_cache=False).last_hidden_state
        return states, decoder.get_output_embeddings()
    return decoder(**inputs, use_cache=False).logits, lambda logits: logits


def embed_chosen(model: RefragModel, batch: Batch) -> Tensor:
    """Chunk embeddings of the batch's vectors, with gradient, *shape* (V, D_enc)."""
    if not len(batch.vector_places):
        return torch.empty(0, model.config.chunk_width, device=model.device)
    if batch.windows is None:
        return embed(model, batch.passages, batch.chosen.tolist())
    embedded: Tensor = model.encoder(batch.windows)
    return embedded


def embed(
    model: RefragModel, passages: Sequence[ChunkedPassage], chosen: Sequence[bool] | None = None
) -> Tensor:
    """Embeddings of all chunks of passages, or the chosen ones, with gradient.

    *Shape:* (chunks, D_enc). Windows without a chosen chunk are not read.
    """
    windows = [window for passage in passages for window in model.encoder.windows(passage)]
    embedded: Tensor = model.encoder(model.encoder.cutter.stack(windows, chosen=chosen))
    return embedded
