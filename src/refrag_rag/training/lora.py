"""LoRA: the decoder stays as it is, a small adapter beside its weights learns."""

from refrag_rag.checkpoints.lora import attach
from refrag_rag.model import RefragModel


def add_adapter(model: RefragModel, *, rank: int) -> None:
    """Freeze the decoder and put an adapter of a rank into its linear layers."""
    model.decoder.requires_grad_(False)
    attach(
        model.decoder,
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
