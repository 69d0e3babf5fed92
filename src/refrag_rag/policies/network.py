"""The network behind the learned policies: two transformer layers over chunk embeddings."""

import json
import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from refrag_rag.policies.features import FEATURES
from refrag_rag.policies.lexical import SHARES

START_SCALE = 8.0  # of the lexical scores: large enough to be followed, small enough to be left


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """Sizes of a `PolicyNetwork`.

    Attributes
    ----------
    chunk_width
        D_enc.
    width, heads, layers
        Of the transformer; two layers in the paper.
    query
        Whether it also sees the question.
    """

    chunk_width: int
    width: int = 128
    heads: int = 4
    layers: int = 2
    query: bool = False

    def to_json(self) -> str:
        """For the checkpoint."""
        return json.dumps(asdict(self))


class PolicyNetwork(nn.Module):
    """One logit a chunk (REFRAG, section 2.3; sizes are not given there).

    With `query` it reads the question's chunk embeddings beside the passages', and the features of
    `chunk_features`; it starts with the scores of `lexical` and learns what to add. That variant
    is our own.

    Parameters
    ----------
    shape
        Sizes.
    dropout
        In training.
    """

    def __init__(self, shape: NetworkShape, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(shape.chunk_width)
        self.input = nn.Linear(shape.chunk_width, width)
        layer = nn.TransformerEncoderLayer(
            width,
            shape.heads,
            dim_feedforward=4 * width,
            dropout=dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, shape.layers, enable_nested_tensor=False)
        self.output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1, bias=False))
        nn.init.zeros_(self.output[-1].weight)  # type: ignore[arg-type]
        if shape.query:
            self.question = nn.Parameter(torch.zeros(width))
            self.features = nn.Linear(FEATURES, width)
            weights = torch.zeros(FEATURES)
            weights[: len(SHARES)] = START_SCALE * torch.tensor(SHARES)
            self.feature_weights = nn.Parameter(weights)

    def forward(
        self, embeddings: Tensor, question: Tensor | None = None, features: Tensor | None = None
    ) -> Tensor:
        """Logits of the chunks of B prompts, of which the shorter ones are padded with NaN.

        Parameters
        ----------
        embeddings
            *Shape:* (B, L, D_enc)
        question
            *Shape:* (B, Q, D_enc), if the network reads it.
        features
            *Shape:* (B, L, 10), if the network reads the question; see `chunk_features`.

        Returns
        -------
        Tensor
            *Shape:* (B, L); of padding, anything.
        """
        count = embeddings.shape[1]
        padding = embeddings[..., 0].isnan()  # (B, L)
        states = self._enter(embeddings)
        states = states + _places(count, self.shape.width).to(states)
        if question is not None and features is not None:
            features = features.nan_to_num()
            states = states + self.features(features)
            states = torch.cat([states, self._enter(question) + self.question], 1)
            padding = torch.cat([padding, question[..., 0].isnan()], 1)
        states = self.layers(states, src_key_padding_mask=padding)[:, :count]  # (B, L, width)
        logits: Tensor = self.output(states)[..., 0]
        return logits if features is None else logits + features @ self.feature_weights

    def _enter(self, embeddings: Tensor) -> Tensor:
        known = embeddings.nan_to_num().to(self.input.weight)
        entered: Tensor = self.input(self.dropout(self.norm(known)))
        return entered


def _places(count: int, width: int) -> Tensor:
    """Sinusoids of the chunks' places, *shape* (count, width)."""
    steps = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))  # (width / 2,)
    angles = torch.arange(count)[:, None] * steps
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]
