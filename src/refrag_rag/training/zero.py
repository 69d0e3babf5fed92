"""DeepSpeed's part (ZeRO stage 2): every process has the weights, and a part of their moments.

Rajbhandari et al., arXiv 1910.02054. DeepSpeed is imported by whoever launches with it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from refrag_rag.errors import InputError
from refrag_rag.training.settings import LoopSettings

ZERO_STAGE = 2
MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"  # AdamW counts for every tensor; here one count serves a whole part


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


def is_engine(module: nn.Module) -> bool:
    """Whether DeepSpeed has prepared a module."""
    return hasattr(module, "zero_optimization_stage")


def weights(engine: Any) -> dict[str, Tensor]:
    """All parameters and buffers."""
    found: dict[str, Tensor] = engine.module.state_dict()
    return found


def moments(engine: Any) -> dict[str, dict[str, Tensor]]:
    """Moments, in the shapes of their parameters, and steps, by name; all processes call it."""
    _link(engine)
    step = max(float(state[STEP]) for state in _parts(engine))
    return {
        name: {
            **{moment: parameter.get_full_hp_param(moment) for moment in MOMENTS},
            STEP: torch.tensor(step),
        }
        for name, parameter in _moving(engine)
    }


@torch.no_grad()
def restore(
    engine: Any, weights: Mapping[str, Tensor], moments: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Put weights and moments back, each process its part."""
    engine.module.load_state_dict(weights)
    _link(engine)
    for name, parameter in _moving(engine):
        parameter.set_full_hp_param(weights[name].to(parameter.device, torch.float32))
        for moment in MOMENTS:
            parameter.set_full_hp_param(moments[name][moment].to(parameter.device), moment)
    step = max(float(state[STEP]) for state in moments.values())
    for state in _parts(engine):
        state[STEP].fill_(step)


def _moving(engine: Any) -> Iterator[tuple[str, Any]]:
    """The trained parameters that DeepSpeed has taken over, with their names."""
    named = engine.module.named_parameters()
    return ((name, p) for name, p in named if p.requires_grad and hasattr(p, "_hp_mapping"))


def _parts(engine: Any) -> list[dict[str, Tensor]]:
    """AdamW's states of this process's part of each group, made if no step was taken yet."""
    sharded = engine.optimizer
    states = []
    for part in sharded.single_partition_of_fp32_groups:
        state = sharded.optimizer.state[part]
        if not state:
            state |= {moment: torch.zeros_like(part) for moment in MOMENTS}
            state[STEP] = torch.zeros((), dtype=torch.float32, device=part.device)
        states.append(state)
    return states


def _link(engine: Any) -> None:
    """Let parameters find their moments; DeepSpeed does so in its first step."""
    _parts(engine)
    engine.optimizer._lazy_init_hp_params_optimizer_state()
