"""After pruning or factorising: a LoRA adapter learns what the decoder said before."""

from pathlib import Path
from tempfile import TemporaryDirectory

from refrag_rag.checkpoints.shrinking import MADE
from refrag_rag.engine import Refrag
from refrag_rag.model import RefragModel
from refrag_rag.training import finetune
from refrag_rag.training.teacher import write_answers

RANK = 16


def heal(
    folder: Path, teacher: Refrag, questions: Path, *, steps: int, minutes: float | None = None
) -> None:
    """Teach a checkpoint's decoder the answers that another gives from full text.

    The adapter is kept beside the decoder, whose own weights stay as they are; so do encoder and
    projector, and with them what a store holds.

    Parameters
    ----------
    folder
        The checkpoint, which is written anew.
    teacher
        With the decoder as it was.
    questions
        A file of question records.
    steps, minutes
        When it ends.

    Raises
    ------
    InputError
        If the teacher answers none of them.
    """
    with TemporaryDirectory() as place:
        run = Path(place)
        write_answers(questions, run / "answers", teacher)
        settings = finetune.FinetuneSettings(
            out=run,
            data=(str(run / "answers"),),
            start=str(folder),
            steps=steps,
            minutes=minutes,
            lora=RANK,
            freeze=("encoder", "projector"),
            batch_size=8,
            micro_batch=4,
            save_every=steps,
        )
        finetune.run(settings)
        model = RefragModel.from_pretrained(run / finetune.STAGE / "model", adapter="apart")
        done = {**getattr(model.decoder.config, MADE, {}), "healed on": questions.name}
        setattr(model.decoder.config, MADE, done)
        model.save_pretrained(folder)
