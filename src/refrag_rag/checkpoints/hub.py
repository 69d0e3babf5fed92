"""Publishing a model on the hub, in our own layout."""

import tempfile
from pathlib import Path

from huggingface_hub import HfApi

from refrag_rag.checkpoints.base import HUB_ERRORS
from refrag_rag.checkpoints.native import save
from refrag_rag.errors import CheckpointError
from refrag_rag.model import RefragModel


def push_to_hub(
    model: RefragModel,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload refrag-rag model",
) -> str:
    """Save a model to a temporary folder and upload it in one commit.

    Returns
    -------
    str
        Address of the commit.

    Raises
    ------
    CheckpointError
        If the hub refuses or cannot be reached.
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        save(model, folder)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message,
            )
        except HUB_ERRORS as error:
            raise CheckpointError(
                f"The model cannot be uploaded to {repo_id!r} ({type(error).__name__}: {error}). "
                "Check the name, the token and the connection."
            ) from error
    return str(commit.commit_url)
