"""The command ``refrag``: thin, every command a few lines over the library."""

from refrag_rag.cli.main import build_parser, main

__all__ = ["build_parser", "main"]
