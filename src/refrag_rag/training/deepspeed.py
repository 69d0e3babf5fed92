"""DeepSpeed's part (ZeRO stage 2), through accelerate's public interface alone.

Every process has the weights, and a part of their moments (Rajbhandari et al., arXiv 1910.02054).
States are DeepSpeed's own checkpoints, for as many processes as wrote them. DeepSpeed is imported
by whoever launches with it.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator, DistributedType

from refrag_rag.errors import InputError, TrainingError
from refrag_rag.training.settings import LoopSettings

ZERO_STAGE = 2
LATEST = "deepspeed.json"  # names the checkpoint to go on from


def is_used(accelerator: Accelerator) -> bool:
    """Whether the run was launched with DeepSpeed."""
    return bool(accelerator.distributed_type == DistributedType.DEEPSPEED)


def configure(accelerator: Accelerator, settings: LoopSettings) -> None:
    """Give DeepSpeed the run's settings, before anything is prepared.

    Mixed precision is autocast over float32 weights, as without DeepSpeed, so that frozen weights
    stay what they are to the bit.

    Raises
    ------
    InputError
        If the launch configuration asks for another ZeRO stage, for offloading, or for fp16.
    """
    plugin: Any = accelerator.state.deepspeed_plugin
    if plugin.zero_stage != ZERO_STAGE or plugin.offload_optimizer_device != "none":
        raise InputError(
            f"DeepSpeed was launched with ZeRO stage {plugin.zero_stage}, moments offloaded to "
            f"{plugin.offload_optimizer_device!r}; expected stage {ZERO_STAGE} and 'none'. Use "
            "examples/accelerate/deepspeed.yaml, or fsdp2.yaml to shard the weights too."
        )
    if settings.precision == "fp16":
        raise InputError("precision = 'fp16' under DeepSpeed; expected 'bf16' or 'no'.")
    plugin.deepspeed_config |= {
        "train_micro_batch_size_per_gpu": 1,  # rows are dealt out by the loop, not by a loader
        "gradient_clipping": settings.clip,
        "bf16": {"enabled": False},
        "torch_autocast": {"enabled": settings.precision == "bf16", "dtype": "bfloat16"},
    }


def save(accelerator: Accelerator, folder: Path, rest: dict[str, Any], *, step: int) -> None:
    """Write a checkpoint of this step, then name it as the latest and remove those before it.

    All processes call it.

    Raises
    ------
    TrainingError
        If it cannot be written; the one before it stays.
    """
    name = f"deepspeed-{step}"
    try:
        accelerator.save_state(str(folder / name))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            latest = {"checkpoint": name, "processes": accelerator.num_processes, "rest": rest}
            beside = folder / f"{LATEST}.part"
            beside.write_text(json.dumps(latest), encoding="utf-8")
            os.replace(beside, folder / LATEST)
            for older in set(folder.glob("deepspeed-*")) - {folder / name}:
                shutil.rmtree(older)
    except OSError as error:
        raise unwritten(folder, error) from error


def load(accelerator: Accelerator, folder: Path) -> dict[str, Any] | None:
    """Restore what `save` wrote; None if there is nothing.

    Raises
    ------
    InputError
        If it was written by another number of processes.
    """
    path = folder / LATEST
    if not path.exists():
        return None
    latest = json.loads(path.read_text("utf-8"))
    if latest["processes"] != accelerator.num_processes:
        raise InputError(
            f"The state in {folder} is that of {latest['processes']} processes under DeepSpeed; "
            f"expected as many, not {accelerator.num_processes}. FSDP2 may change their number."
        )
    accelerator.load_state(str(folder / latest["checkpoint"]))
    rest: dict[str, Any] = latest["rest"]
    return rest


def unwritten(folder: Path, error: Exception) -> TrainingError:
    """The error for a state that cannot be written."""
    return TrainingError(
        f"The state in {folder} cannot be written ({error}); the one before it is kept. "
        "Make room and start the same command again: it goes on there."
    )
