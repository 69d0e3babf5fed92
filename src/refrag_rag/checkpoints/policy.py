"""``policy.safetensors``: the learned policies of a model, with their shapes in the header."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from refrag_rag.errors import CheckpointError
from refrag_rag.policies.base import Policy
from refrag_rag.policies.learned import ExpandLearned
from refrag_rag.policies.network import NetworkShape, PolicyNetwork

POLICY = "policy.safetensors"


def write_policies(policies: Mapping[str, Policy], folder: Path) -> None:
    """Write the networks of the learned ones; nothing if there is none."""
    learned = {name: p for name, p in policies.items() if isinstance(p, ExpandLearned)}
    if not learned:
        return
    tensors, shapes = {}, {}
    for name, policy in learned.items():
        shapes[name] = policy.network.shape.to_json()
        for key, tensor in policy.network.state_dict().items():
            tensors[f"{name}/{key}"] = tensor.contiguous()
    save_file(tensors, folder / POLICY, metadata=shapes)


def read_policies(folder: Path, *, chunk_width: int) -> dict[str, Policy]:
    """The learned policies of a checkpoint folder, by name.

    Raises
    ------
    CheckpointError
        If the file is damaged or belongs to another model.
    """
    path = folder / POLICY
    if not path.is_file():
        return {}
    found: dict[str, Policy] = {}
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            shapes = file.metadata() or {}
        for name, text in shapes.items():
            shape = NetworkShape(**json.loads(text))
            if shape.chunk_width != chunk_width:
                raise CheckpointError(
                    f"{path}: {name} reads embeddings {shape.chunk_width} wide, the model makes "
                    f"{chunk_width}; the file belongs to another model. Train the policy again."
                )
            network = PolicyNetwork(shape)
            own = {k.partition("/")[2]: t for k, t in tensors.items() if k.startswith(f"{name}/")}
            network.load_state_dict(own)
            found[name] = ExpandLearned(network)
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} cannot be loaded ({error}). It is damaged: download or save it again."
        ) from error
    return found
