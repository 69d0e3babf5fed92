"""The user's cache folder: what is put together once and used again."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from refrag_rag.errors import CheckpointError

VARIABLE = "REFRAG_CACHE"  # of the environment: a folder to use instead
logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where checkpoints that were put together are kept."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen) if chosen else user_cache_path("refrag-rag")


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """A folder of the cache, built if it is not there.

    One process builds, others wait for it. What a killed process has left is removed.

    Parameters
    ----------
    name
        Name of the folder; it says all that its content depends on.
    build
        Writes a folder beside and renames it into place when it is complete.

    Raises
    ------
    CheckpointError
        If the cache cannot be written.
    """
    folder = cache_folder() / name
    try:
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{name}.lock"):
            if not folder.is_dir():
                for left in folder.parent.glob(f".{name}.*"):
                    logger.info("Removing %s, which was never finished.", left)
                    shutil.rmtree(left, ignore_errors=True)
                build(folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written ({error}); expected room and permission there. Set "
            f"{VARIABLE} to another folder."
        ) from error
    return folder
