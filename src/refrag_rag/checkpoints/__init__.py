"""Loading and saving models: names to folders, folders to parts."""

from refrag_rag.checkpoints.compose import compose
from refrag_rag.checkpoints.convert import convert
from refrag_rag.checkpoints.delta import assembled
from refrag_rag.checkpoints.delta_saving import save_delta
from refrag_rag.checkpoints.hub import push_to_hub
from refrag_rag.checkpoints.loading import decoder_folder, layout_of, load
from refrag_rag.checkpoints.native import save
from refrag_rag.checkpoints.resolve import EMBEDDED, resolve

__all__ = [
    "EMBEDDED",
    "assembled",
    "compose",
    "convert",
    "decoder_folder",
    "layout_of",
    "load",
    "push_to_hub",
    "resolve",
    "save",
    "save_delta",
]
