"""The projector: chunk embeddings to the decoder's input width."""

from torch import Tensor, nn


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

    def __init__(
        self, chunk_width: int, decoder_width: int, hidden_width: int | None = None
    ) -> None:
        super().__init__()
        hidden_width = hidden_width or decoder_width
        self.hidden = nn.Linear(chunk_width, hidden_width)
        self.output = nn.Linear(hidden_width, decoder_width)
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
