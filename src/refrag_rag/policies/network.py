"""The network behind the learned policies: two transformer layers over chunk embeddings."""

import json
import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

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

    With `query` it reads the question's chunk embeddings beside the passages', and what `lexical`
    finds; it starts with the scores of `lexical` and learns what to add. That variant is
    our own.

    Parameters
    ----------
    shape
        Sizes.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.norm = nn.LayerNorm(shape.chunk_width)
        self.input = nn.Linear(shape.chunk_width, width)
        layer = nn.TransformerEncoderLayer(
            width,
            shape.heads,
            dim_feedforward=4 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, shape.layers, enable_nested_tensor=False)
        self.output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1, bias=False))
        nn.init.zeros_(self.output[-1].weight)  # type: ignore[arg-type]
        if shape.query:
            self.question = nn.Parameter(torch.zeros(width))
            self.words = nn.Linear(len(SHARES), width)
            self.word_weights = nn.Parameter(START_SCALE * torch.tensor(SHARES))

    def forward(
        self, embeddings: Tensor, question: Tensor | None = None, words: Tensor | None = None
    ) -> Tensor:
        """Logits of the chunks of B prompts, of which the shorter ones are padded with NaN.

        Parameters
        ----------
        embeddings
            *Shape:* (B, L, D_enc)
        question
            *Shape:* (B, Q, D_enc), if the network reads it.
        words
            *Shape:* (B, L, 4), if the network reads the question: what chunk, sentence, neighbours
            and passage match of its words, as shares of the best score.

        Returns
        -------
        Tensor
            *Shape:* (B, L); of padding, anything.
        """
        count = embeddings.shape[1]
        padding = embeddings[..., 0].isnan()  # (B, L)
        states = self._enter(embeddings)
        states = states + _places(count, self.shape.width).to(states)
        if question is not None and words is not None:
            words = words.nan_to_num()
            states = states + self.words(words)
            states = torch.cat([states, self._enter(question) + self.question], 1)
            padding = torch.cat([padding, question[..., 0].isnan()], 1)
        states = self.layers(states, src_key_padding_mask=padding)[:, :count]  # (B, L, width)
        logits: Tensor = self.output(states)[..., 0]
        return logits + words @ self.word_weights if words is not None else logits

    def _enter(self, embeddings: Tensor) -> Tensor:
        known = embeddings.nan_to_num().to(self.input.weight)
        entered: Tensor = self.input(self.norm(known))
        return entered


def _places(count: int, width: int) -> Tensor:
    """Sinusoids of the chunks' places, *shape* (count, width)."""
    steps = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))  # (width / 2,)
    angles = torch.arange(count)[:, None] * steps
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]
