"""A start at which vectors can be read: a chunk of one token is that token at once."""

import logging
from dataclasses import replace
from random import Random

import torch
from torch import Tensor, nn

from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.model.encoder import LinearPooling
from refrag_rag.model.projector import Projector
from refrag_rag.training.data.documents import Documents

STATES = 16  # encoder states looked at, for each number of a state
RIDGE = 1e-3  # of the mean square of the states
AT_ONCE = 32  # windows

logger = logging.getLogger(__name__)


@torch.no_grad()
def start_readable(model: RefragModel, documents: Documents, rng: Random) -> float:
    """Let pooling give tokens' own embeddings back, and the projector hand them on.

    The pooling's map of a chunk's first place is the least-squares one from the encoder's states to
    the embeddings of the tokens that were read; each further place turns it by a rotation of its
    own, so that the order can be told. The projector becomes the identity: hidden units x and -x,
    of which GELU(x) - GELU(-x) = x.

    Returns
    -------
    float
        R², the share of the embeddings' variance that the states give back.

    Raises
    ------
    InputError
        If the model is not of a form that can do that.
    """
    pooling, projector = model.encoder.pooling, model.projector
    width = model.config.decoder_width
    fits = model.config.chunk_width == width and model.config.encoder_reads_ids
    if not isinstance(pooling, LinearPooling) or not isinstance(projector, Projector) or not fits:
        raise InputError(
            "readable_start needs linear pooling, an mlp projector, an encoder that reads the "
            "decoder's token ids, and embeddings of the decoder's width. Leave it out, or take "
            "the decoder's first layers as encoder (--encoder-layers)."
        )
    states, embeddings = _read(model, documents, rng)  # (N, encoder width), (N, width)
    square = states.T @ states
    ridge = RIDGE * square.diag().mean() * torch.eye(len(square), device=square.device)
    found = torch.linalg.solve(square + ridge, states.T @ embeddings)  # (encoder width, width)
    for place, part in enumerate(pooling.map.weight.chunk(pooling.places, dim=1)):
        rotation = nn.init.orthogonal_(torch.empty(width, width)).to(found)
        part.copy_((found @ rotation if place else found).T)
    pooling.map.bias.zero_()
    _hand_on(model, projector, width)
    left = (states @ found - embeddings).square().sum()
    share = 1 - float(left / (embeddings - embeddings.mean(0)).square().sum())
    logger.info("readable start: the states give back %.2f of the embeddings' variance", share)
    return share


def _read(model: RefragModel, documents: Documents, rng: Random) -> tuple[Tensor, Tensor]:
    """States of the encoder's tokens, and the decoder's embeddings of the same tokens."""
    window = min(model.config.window, documents.longest)
    count = -(-STATES * model.config.encoder_width // window)
    states, embeddings = [], []
    table = model.decoder.get_input_embeddings()
    for start in range(0, count, AT_ONCE):
        runs = [documents.run(rng, window).tolist() for _ in range(min(AT_ONCE, count - start))]
        ids = torch.tensor(runs, device=model.device)  # (B, W)
        read = model.encoder.model(input_ids=ids).last_hidden_state  # (B, W, encoder width)
        states.append(read.flatten(0, 1).float())
        embeddings.append(table(ids).flatten(0, 1).float())
    return torch.cat(states), torch.cat(embeddings)


def _hand_on(model: RefragModel, old: Projector, width: int) -> None:
    """Put an identity in the projector's place."""
    projector = Projector(width, width, 2 * width).to(old.output.weight)
    one = torch.eye(width)
    projector.hidden.weight.copy_(torch.cat([one, -one]))
    projector.output.weight.copy_(torch.cat([one, -one], dim=1))
    projector.hidden.bias.zero_()
    projector.output.bias.zero_()
    model.projector = projector
    model.config = replace(model.config, projector_width=2 * width)
