"""What the stages share: the model they start from, what moves, and what a run leaves behind."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn
from transformers import PreTrainedModel

from refrag_rag.checkpoints.lora import attach, has_adapter, multiply_merged
from refrag_rag.checkpoints.native import save
from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.training.batches import collate
from refrag_rag.training.chunk_sizes import ChunkSizes, chunk_sizes
from refrag_rag.training.feedback import Watch
from refrag_rag.training.loop import train
from refrag_rag.training.loss import Objective, next_token_loss
from refrag_rag.training.packing import Drawn, MakeRow, Packed
from refrag_rag.training.protocols import Source
from refrag_rag.training.reading import Reader
from refrag_rag.training.settings import LoopSettings, setting
from refrag_rag.training.state import whole_weights

MODEL = "model"
PARTS = ("decoder", "encoder", "projector")
ENCODER = "model.encoder.model."  # how the reader's parameters of the encoder's layers begin


@dataclass(frozen=True, kw_only=True)
class StageSettings(LoopSettings):
    """What all stages of a whole model have."""

    start: str | None = setting(
        None,
        "where to start: a stage of this run, a folder or a hub id (default: the stage before)",
    )


@dataclass(frozen=True, kw_only=True)
class ModelSettings(StageSettings):
    """What the stages that train a whole model have: how steps are filled, and what moves."""

    batch_size: int = setting(32, "examples of a step, over all processes", least=1)
    positions: int = setting(
        0,
        "instead of a batch size: positions of a step, filled with examples of like length",
        least=0,
    )
    sizes: tuple[int, ...] = setting(
        (), "chunk sizes of the model, one drawn an example (default: its k)"
    )
    grow: tuple[int, ...] = setting((), "chunk sizes to grow through first, as 1 2 4 8")
    growing: float = setting(1.0, "share of the run in which chunks grow")
    lora: int = setting(
        0, "rank of a LoRA adapter on the decoder, which then does not move itself", least=0
    )
    freeze: tuple[str, ...] = setting((), "parts that do not move: decoder, encoder, projector")
    freeze_embeddings: bool = setting(False, "keep the encoder's token embeddings as they are")
    encoder_rate: float = setting(1.0, "learning rate of the encoder's layers, as a share of lr")

    def __post_init__(self) -> None:
        """Check what stays as it is."""
        super().__post_init__()
        frozen = set(self.freeze)
        if not frozen < set(PARTS) or (self.lora and "decoder" in frozen):
            raise InputError(
                f"freeze = {self.freeze} with lora = {self.lora}; expected some of "
                f"{', '.join(PARTS)}, not all, and no adapter on a frozen decoder."
            )

    def chunk_sizes(self, model: RefragModel) -> ChunkSizes:
        """The sizes of chunks, checked against a model."""
        return chunk_sizes(model.config, self.sizes, self.grow, self.growing)

    def source(self, row: MakeRow) -> Source:
        """Steps of rows that are drawn one by one."""
        if not self.positions:
            return Drawn(row, batch_size=self.batch_size)
        return Packed(row, positions=self.positions)


@dataclass(frozen=True, kw_only=True)
class TextSettings(ModelSettings):
    """What the stages that read text have."""

    data: str = field(metadata={"about": "text that `refrag train prepare` has written"})
    asked: bool = setting(False, "say in words, in the chat template, what to do with the text")
    chunks: int = setting(256, "longest context, in chunks")
    curriculum: str = setting("table8", "of lengths: table8, feedback, longest or shuffled")
    held_out: str | None = setting(None, "prepared text that feedback is measured on")
    look_every: int = setting(50, "steps between looks at held-out text", least=1)

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        super().__post_init__()
        if self.curriculum == "feedback" and self.held_out is None:
            raise InputError("curriculum = 'feedback' needs text to watch; expected --held-out.")
        if self.positions and self.curriculum in ("feedback", "shuffled"):
            raise InputError(
                f"curriculum = {self.curriculum!r} draws steps of one length; expected table8 or "
                "longest beside positions."
            )


def start_model(settings: StageSettings, before: str, *, dtype: str | None = None) -> RefragModel:
    """The model a stage starts from, in training mode; an adapter stays beside the decoder.

    `dtype` is as for `refrag_rag.checkpoints.load`; where the model does not move, ``auto`` reads
    it as it is stored.

    Raises
    ------
    CheckpointError
        If there is none.
    InputError
        If chunks do not fill windows evenly, or its chunks cannot be trained on.
    """
    start = settings.start or before
    of_this_run = settings.out / start / MODEL
    model = RefragModel.from_pretrained(
        of_this_run if of_this_run.is_dir() else start, dtype=dtype, adapter="apart"
    )
    check_trainable(model)
    return model.train()


def check_trainable(model: RefragModel) -> None:
    """Refuse what the stages cannot train.

    Raises
    ------
    InputError
        Says which setting, and what to use instead.
    """
    config = model.config
    if config.window % config.k:
        raise InputError(
            f"window = {config.window} is no multiple of k = {config.k}; expected whole chunks in "
            "a window. Choose another window."
        )
    if config.chunked_by != "decoder":
        raise InputError(
            "The encoder's tokenizer cuts this model's chunks; training needs the decoder's. "
            "Compose a new model."
        )
    if config.pooling == "queries":
        raise InputError(
            "pooling = 'queries' reads all chunks of a window together; training reads those that "
            "stand as vectors alone. Train a model with another pooling."
        )
    if model.tokenizer.eos_token_id is None:
        raise InputError(
            "The decoder's tokenizer has no eos token, which ends every answer; set one in its "
            "tokenizer_config.json."
        )


def freeze(model: RefragModel, moving: Iterable[nn.Module]) -> None:
    """Only the parameters of `moving` are trained."""
    model.requires_grad_(False)
    for module in moving:
        module.requires_grad_(True)


def set_moving(model: RefragModel, settings: ModelSettings, *, decoder: bool) -> None:
    """Encoder, projector and, if it is to, the decoder are trained.

    Of a decoder with an adapter, or one that gets it now, the adapter is trained alone.

    Raises
    ------
    InputError
        If the decoder has an adapter of another rank.
    """
    freeze(model, [model])
    decoder = decoder and "decoder" not in settings.freeze
    if settings.freeze_embeddings:
        model.encoder.model.get_input_embeddings().requires_grad_(False)
    model.decoder.requires_grad_(decoder)
    if has_adapter(model.decoder):
        rank = model.decoder.refrag_adapter.r
        if settings.lora not in (0, rank):
            raise InputError(
                f"lora = {settings.lora}; the model has an adapter of rank {rank}. Expected that "
                "rank, or no lora."
            )
        for name, parameter in model.decoder.named_parameters():
            parameter.requires_grad_(".lora_" in name and (decoder or settings.lora > 0))
    elif settings.lora:
        add_adapter(model, rank=settings.lora)
    for name in settings.freeze:
        getattr(model, name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            f"freeze = {settings.freeze} leaves nothing to train in this stage, which does not "
            "move the decoder. Freeze less."
        )


def add_adapter(model: RefragModel, *, rank: int) -> None:
    """Freeze the decoder and put a LoRA adapter of a rank into its linear layers."""
    model.decoder.requires_grad_(False)
    attach(
        model.decoder,
        r=rank,
        lora_alpha=rank,  # weight = original + B A, as in a delta checkpoint
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def run_stage(
    model: RefragModel,
    source: Source,
    settings: StageSettings,
    folder: Path,
    *,
    objective: Objective = next_token_loss,
    watch: Watch | None = None,
) -> None:
    """Train, then save ``folder/model``."""
    if settings.gradient_checkpointing:
        for part in (model.encoder.model, model.decoder):
            _checkpoint_activations(part)
    if PartialState().num_processes == 1:  # sharded weights are gathered where modules are called
        multiply_merged(model.decoder)
    module = train(
        Reader(model),
        source=source,
        settings=settings,
        folder=folder,
        objective=objective,
        watch=watch,
        rates={ENCODER: settings.encoder_rate} if isinstance(settings, ModelSettings) else {},
        collate=partial(
            collate,
            cutter=model.encoder.cutter,
            most=model.max_positions if settings.compile or torch.cuda.is_available() else None,
        ),
    )
    finish(module, model, folder)


def _checkpoint_activations(part: PreTrainedModel) -> None:
    """Its name changed in transformers 5."""
    enable = getattr(part, "activation_checkpointing_enable", part.gradient_checkpointing_enable)
    enable({"use_reentrant": False})


def finish(module: nn.Module, model: RefragModel, folder: Path) -> None:
    """Save the model whole; the first process does it."""
    process = PartialState()
    weights = None
    if process.num_processes > 1:  # the model's own tensors may be shards
        weights = {n.removeprefix("model."): t for n, t in whole_weights(module).items()}
    if process.is_main_process:
        save(model, folder / MODEL, weights=weights)
    process.wait_for_everyone()
