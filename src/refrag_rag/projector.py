"""The projector: chunk embeddings to the decoder's input width."""

from torch import Tensor, nn


class Projector(nn.Module):
    """Two-layer MLP whose hidden size is its output size (REFRAG, section 2).

    Parameters
    ----------
    chunk_width
        D_enc, width of a chunk embedding.
    decoder_width
        D_dec, width of the decoder's input.
    """

    def __init__(self, chunk_width: int, decoder_width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(chunk_width, decoder_width)
        self.output = nn.Linear(decoder_width, decoder_width)
        self.activation = nn.GELU()

    def forward(self, embeddings: Tensor) -> Tensor:
        """Project.

        Parameters
        ----------
        embeddings
            *Shape:* (V, D_enc)

        Returns
        -------
        Tensor
            *Shape:* (V, D_dec)
        """
        projected: Tensor = self.output(self.activation(self.hidden(embeddings)))
        return projected
