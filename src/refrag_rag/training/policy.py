"""Stage 3: the expansion policy, by reinforcement learning. Only the policy's network moves.

The reward is minus the log-perplexity of the gold continuation, or of the gold answer. A policy of
the same kind that the model has already goes on learning. ``--objective places`` teaches where
answers stand instead, a quick start for rewards.
``python -m refrag_rag.training.policy --config small --out RUN`` (REFRAG, section 2.3)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from accelerate import PartialState

from refrag_rag.checkpoints.native import save
from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.policies.learned import ExpandLearned
from refrag_rag.policies.network import NetworkShape, PolicyNetwork
from refrag_rag.training.curricula import build_curriculum
from refrag_rag.training.data.documents import Documents, is_documents
from refrag_rag.training.data.questions import load_questions
from refrag_rag.training.data.records import QuestionRecord
from refrag_rag.training.document_sources import DocumentContinuation
from refrag_rag.training.layout import Frame, QuestionLayout
from refrag_rag.training.loop import train
from refrag_rag.training.policy_cases import Case, Cases, DrawCases, question_case
from refrag_rag.training.policy_objective import PlacesObjective, PolicyModule, PolicyObjective
from refrag_rag.training.pretrain import STAGE as PRETRAIN
from refrag_rag.training.reading import Reader
from refrag_rag.training.settings import parse, setting
from refrag_rag.training.stage import MODEL, StageSettings, start_model

STAGE = "policy"
QUERY = "learned-query"  # the kind that sees the question
REWARD, PLACES = "reward", "places"


@dataclass(frozen=True, kw_only=True)
class PolicySettings(StageSettings):
    """The network, and how its arrangements are drawn and compared."""

    data: str = field(metadata={"about": "text or questions: see `refrag train prepare`"})
    batch_size: int = setting(32, "examples of a step, over all processes", least=1)

    kind: str = setting(
        "learned",
        "learned (the paper's), or learned-query, which sees the question",
        choices=("learned", QUERY),
    )
    objective: str = setting(
        REWARD,
        "reward, or places: where the answers of questions stand, without asking the decoder",
        choices=(REWARD, PLACES),
    )
    width: int = setting(128, "of the network")
    dropout: float = setting(0.0, "of the network, in training")
    hide_scores: float = setting(
        0.2, "of questions: how often the retrieval scores are kept from the policy"
    )
    samples: int = setting(8, "arrangements of one example, G", least=2)
    epochs: int = setting(4, "steps on the same rollouts", least=1)
    ratio: float = setting(0.2, "clip of the probability ratio")
    shares: tuple[float, ...] = setting((0.1,), "shares of chunks to expand, one drawn an example")
    chunks: int = setting(256, "of text: chunks of context")
    following: int = setting(2048, "of text: most tokens to predict")
    max_passages: int = setting(10, "of questions: most passages of a prompt")

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        super().__post_init__()
        if self.save_every % self.epochs:
            raise InputError(
                f"save_every = {self.save_every}; expected a multiple of epochs = {self.epochs}, "
                "so that a run never goes on in the middle of its rollouts."
            )
        if not self.shares or not all(0 < share < 1 for share in self.shares):
            raise InputError(f"shares = {self.shares}; expected fractions between 0 and 1.")


def run(settings: PolicySettings) -> None:
    """Train a policy on questions or text."""
    torch.manual_seed(settings.seed)
    model = start_model(settings, PRETRAIN, dtype="auto")
    train_policy(model, settings, _draw_cases(settings, model))


def train_policy(model: RefragModel, settings: PolicySettings, draw_cases: DrawCases) -> None:
    """Train a policy on any cases, and save it with the model."""
    model.eval().requires_grad_(False)
    reader = Reader(model).to(PartialState().device)
    network = _network(settings, model)
    objective: PolicyObjective | PlacesObjective = PlacesObjective(reader)
    epochs = 1
    if settings.objective == REWARD:
        objective = PolicyObjective(
            reader, samples=settings.samples, clip=settings.ratio, rows_at_once=settings.micro_batch
        )
        epochs = settings.epochs
    train(
        PolicyModule(network),
        source=Cases(
            draw_cases, batch_size=settings.batch_size, epochs=epochs, figures=objective.figures
        ),
        settings=settings,
        folder=settings.out / STAGE / settings.kind,
        objective=objective,
        whole=True,
    )
    target = settings.out / STAGE / MODEL
    if PartialState().is_main_process:
        if target.is_dir():  # policies of other kinds that were trained for this encoder
            before = RefragModel.from_pretrained(target)
            model.policies |= before.policies if before.fingerprint == model.fingerprint else {}
        model.policies[settings.kind] = ExpandLearned(network)
        save(model, target)


def _network(settings: PolicySettings, model: RefragModel) -> PolicyNetwork:
    """The model's own network of this kind, or a new one."""
    shape = NetworkShape(
        chunk_width=model.config.chunk_width, width=settings.width, query=settings.kind == QUERY
    )
    own = model.policies.get(settings.kind)
    if not isinstance(own, ExpandLearned):
        return PolicyNetwork(shape, dropout=settings.dropout)
    if own.network.shape != shape:
        raise InputError(
            f"width = {settings.width}, but the model's {settings.kind} has "
            f"{own.network.shape.width}; expected the same, or a model without that policy."
        )
    return own.network.train()


def _draw_cases(settings: PolicySettings, model: RefragModel) -> DrawCases:
    """Where cases come from: question records, or prepared text."""
    if not is_documents(settings.data):
        known = load_questions(settings.data)
        cases = question_cases(model, settings)
        return lambda rng, count: cases(rng.choices(known, k=count), rng)
    if settings.objective == PLACES:
        raise InputError(
            f"data = {settings.data!r} is text, which has no answers; objective = {PLACES!r} "
            f"expected questions. Use objective = {REWARD!r}."
        )
    source = DocumentContinuation(
        Documents.open(settings.data, model.tokenizer),
        model,
        build_curriculum("longest", chunks=settings.chunks),
        following=settings.following,
        text_shares=(0.0,),
    )

    def draw(rng: Random) -> Case:
        share = rng.choice(settings.shares)
        return Case(source.rows(rng, settings.chunks, 1)[0].pieces, share)

    return lambda rng, count: [draw(rng) for _ in range(count)]


def question_cases(
    model: RefragModel, settings: PolicySettings
) -> Callable[[Sequence[QuestionRecord], Random], list[Case]]:
    """Turns question records into cases, each with one of the shares to expand."""
    frame, layout = Frame(model), QuestionLayout(model, max_passages=settings.max_passages)
    return lambda records, rng: [
        question_case(
            layout,
            frame,
            one,
            rng,
            rng.choice(settings.shares),
            hide_scores=settings.hide_scores,
        )
        for one in records
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a policy."""
    run(parse(PolicySettings, STAGE, __doc__, arguments))


if __name__ == "__main__":
    main()
