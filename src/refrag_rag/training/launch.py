"""How a run was launched: devices, processes and precision, by accelerate."""

from pathlib import Path

from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType

from refrag_rag.errors import InputError
from refrag_rag.training import deepspeed
from refrag_rag.training.settings import LoopSettings


def open_accelerator(settings: LoopSettings, folder: Path, *, whole: bool) -> Accelerator:
    """The accelerator of a run, by what ``accelerate launch`` or ``torchrun`` has set.

    Raises
    ------
    InputError
        If the launch configuration does not fit the run; nothing is written.
    """
    accelerator = Accelerator(
        mixed_precision=settings.precision,
        log_with=settings.tracker,
        project_dir=str(folder),
        # a step of text alone leaves encoder and projector out
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if whole and accelerator.distributed_type == DistributedType.FSDP:
        raise InputError(
            "FSDP shards weights, which this stage needs whole; expected DDP or one process."
        )
    if deepspeed.is_used(accelerator):
        deepspeed.configure(accelerator, settings)
    if settings.tracker:
        accelerator.init_trackers("refrag-rag", config=None)
    return accelerator
