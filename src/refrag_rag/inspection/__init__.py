"""One answered question as HTML: which chunks were vectors, which were text, and what it took."""

from refrag_rag.inspection.page import fragment, render
from refrag_rag.inspection.record import Inspection, inspect

__all__ = ["Inspection", "fragment", "inspect", "render"]
