"""Libraries that would write among what the demo prints."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Keep the bars of loading weights, and what these loggers say below errors, off the screen."""
    bars = transformers_logging.is_progress_bar_enabled()
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    transformers_logging.disable_progress_bar()
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
