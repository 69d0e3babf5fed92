"""What frameworks ask of an engine's model."""

from refrag_rag.generation.answering import Backend
from refrag_rag.model import RefragModel
from refrag_rag.text.chat_template import takes_tools


class About:
    """Properties of the model, under the frameworks' words."""

    model: RefragModel
    backend: Backend | None

    @property
    def model_name(self) -> str:
        """The model's name."""
        return self.model.config.name

    @property
    def context_window(self) -> int:
        """Decoder positions, prompt and answer together."""
        window = self.model.max_positions
        return window if self.backend is None else min(window, self.backend.window)

    @property
    def is_chat_model(self) -> bool:
        """Whether the decoder has a chat template."""
        return bool(self.model.tokenizer.chat_template)

    @property
    def takes_tools(self) -> bool:
        """Whether the decoder's chat template has a place for tools."""
        return takes_tools(self.model.tokenizer)
