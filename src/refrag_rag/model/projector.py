"""The projector: chunk embeddings to the decoder's input width."""

from torch import Tensor, nn
from transformers import PretrainedConfig

from refrag_rag.config import RefragConfig
from refrag_rag.errors import CheckpointError
from refrag_rag.model.norm_projector import NormProjector


class Projector(nn.Module):
    """Two-layer MLP (REFRAG, section 2, where the hidden size is the output size).

    Parameters
    ----------
    chunk_width
        D_enc, width of a chunk embedding.
    decoder_width
        D_dec, width of the decoder's input.
    hidden_width
        Size of the hidden layer; D_dec if not given. A concatenation of k token states is wide
        while D_dec of a small decoder is not: D_dec hidden units would be its bottleneck.
    """

    needs_runs = False

    def __init__(
        self, chunk_width: int, decoder_width: int, hidden_width: int | None = None
    ) -> None:
        super().__init__()
        hidden_width = hidden_width or decoder_width
        self.hidden = nn.Linear(chunk_width, hidden_width)
        self.output = nn.Linear(hidden_width, decoder_width)
        self.activation = nn.GELU()

    @property
    def widths(self) -> tuple[int, int]:
        """D_enc and D_dec."""
        return self.hidden.in_features, self.output.out_features

    def forward(self, embeddings: Tensor, _runs: list[int] | None = None) -> Tensor:
        """Project.

        Parameters
        ----------
        embeddings
            *Shape:* (V, D_enc)
        _runs
            Not used: every vector is projected by itself.

        Returns
        -------
        Tensor
            *Shape:* (V, D_dec)
        """
        projected: Tensor = self.output(self.activation(self.hidden(embeddings)))
        return projected


def build_projector(
    config: RefragConfig, *, encoder: PretrainedConfig, decoder: PretrainedConfig
) -> Projector | NormProjector:
    """A new projector of the kind that a config names.

    Raises
    ------
    CheckpointError
        If its attention layers cannot be built from the model that they belong to.
    """
    if config.projector == "mlp":
        return Projector(config.chunk_width, config.decoder_width, config.projector_width)
    attention = encoder if config.projector == "attn_norm_mlp" else decoder.get_text_config()
    if config.projector != "norm_mlp" and attention.model_type != "qwen3":
        raise CheckpointError(
            f"projector = {config.projector!r} has Qwen3 layers; the model they belong to is "
            f"{attention.model_type!r}. Choose another projector."
        )
    return NormProjector(
        config.chunk_width,
        config.decoder_width,
        kind=config.projector,
        layers=config.projector_layers,
        attention=attention,
    )
