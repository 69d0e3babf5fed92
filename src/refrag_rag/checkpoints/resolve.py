"""Where a model is: embedded in the package, in a folder, or on the hub."""

from importlib import resources
from pathlib import Path

from huggingface_hub import constants, snapshot_download

from refrag_rag.checkpoints.base import HUB_ERRORS
from refrag_rag.checkpoints.gguf import GGUF
from refrag_rag.errors import CheckpointError

EMBEDDED = ("smol",)
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.md")


def resolve(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Find a checkpoint folder; hub files are downloaded, pickles never.

    Raises
    ------
    CheckpointError
        If there is no such embedded model, folder or hub repository.
    """
    name = str(name_or_path)
    if name in EMBEDDED:
        return Path(str(resources.files("refrag_rag.checkpoints"))) / "models" / name
    if Path(name).is_dir() or (name.endswith(GGUF) and Path(name).is_file()):
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(
            f"No model {name!r}: expected an embedded model ({', '.join(EMBEDDED)}), an existing "
            "folder, or a hub id such as 'owner/name'."
        )
    try:
        found = snapshot_download(
            name,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=list(HUB_FILES),
        )
    except HUB_ERRORS as error:
        raise CheckpointError(
            f"The hub model {name!r} cannot be loaded ({type(error).__name__}: {error}). "
            + _advice(local_files_only)
        ) from error
    return Path(found)


def model_name(name_or_path: str | Path) -> str:
    """What a model is called: its hub id, also for a folder of the hub's cache, or its folder."""
    if not Path(name_or_path).exists():
        return str(name_or_path)
    folder = Path(name_or_path).absolute()
    if folder.parent.name == "snapshots" and folder.parts[-3].startswith("models--"):
        return folder.parts[-3].removeprefix("models--").replace("--", "/")
    return folder.resolve().name


def _advice(local_files_only: bool) -> str:
    if local_files_only or constants.HF_HUB_OFFLINE:
        return "Only the cache was searched: offline mode or local_files_only is on."
    return "Check the name and the connection, or pass a local folder."
