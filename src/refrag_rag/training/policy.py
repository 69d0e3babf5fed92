"""Stage 3: the expansion policy, by reinforcement learning. Only the policy's network moves.

The reward is minus the log-perplexity of the gold continuation, or of the gold answer. A policy of
the same kind that the model has already goes on learning. ``--objective places`` teaches where
answers stand instead, a quick start for rewards.
``python -m refrag_rag.training.policy --config small --out RUN`` (REFRAG, section 2.3)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from accelerate import PartialState

from refrag_rag.checkpoints.native import save
from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.policies import Policy, get_policy
from refrag_rag.policies.learned import ExpandLearned
from refrag_rag.policies.network import NetworkShape, PolicyNetwork
from refrag_rag.training.curricula import build_curriculum
from refrag_rag.training.data.documents import Documents, is_documents
from refrag_rag.training.data.questions import load_questions
from refrag_rag.training.data.records import QuestionRecord
from refrag_rag.training.document_sources import DocumentContinuation, Frame
from refrag_rag.training.expansion import expansion_points, write_points
from refrag_rag.training.loop import LOG, train
from refrag_rag.training.policy_cases import Cases, DrawCases, question_case, text_case
from refrag_rag.training.policy_objective import PolicyModule, PolicyObjective
from refrag_rag.training.policy_places import PlacesObjective
from refrag_rag.training.policy_rollouts import Case
from refrag_rag.training.pretrain import STAGE as PRETRAIN
from refrag_rag.training.question_sources import QuestionLayout
from refrag_rag.training.reading import Reader
from refrag_rag.training.report import write_report
from refrag_rag.training.settings import parse, setting
from refrag_rag.training.stage import MODEL, WORLD, StageSettings, start_model
from refrag_rag.training.tasks import Mix, Tasks
from refrag_rag.training.world_records import draw_records
from refrag_rag.training.world_sources import open_tasks

STAGE = "policy"
KINDS = {"learned": False, "learned-query": True}
REWARD, PLACES = "reward", "places"


@dataclass(frozen=True, kw_only=True)
class PolicySettings(StageSettings):
    """The network, and how its arrangements are drawn and compared."""

    kind: str = setting(
        "learned", "learned (the paper's), or learned-query, which sees the question"
    )
    objective: str = setting(
        REWARD,
        "reward, or places: where the answers of questions stand, without asking the decoder",
    )
    width: int = setting(128, "of the network")
    samples: int = setting(8, "arrangements of one example, G")
    epochs: int = setting(4, "steps on the same rollouts")
    ratio: float = setting(0.2, "clip of the probability ratio")
    shares: tuple[float, ...] = setting((0.1,), "shares of chunks to expand, one drawn an example")
    chunks: int = setting(256, "of text: chunks of context")
    following: int = setting(2048, "of text: most tokens to predict")
    max_passages: int = setting(10, "of questions: most passages of a prompt")
    questions: int = setting(1, "of the world: questions on one context, which is encoded once")
    measured: int = setting(
        64, "examples, drawn as in training, to measure policies on in the end; 0 for none"
    )

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        super().__post_init__()
        if self.kind not in KINDS:
            raise InputError(f"kind = {self.kind!r}; expected one of {', '.join(KINDS)}.")
        if self.objective not in (REWARD, PLACES):
            raise InputError(f"objective = {self.objective!r}; expected {REWARD} or {PLACES}.")
        if self.samples < 2 or self.epochs < 1 or self.questions < 1:
            raise InputError(
                f"samples = {self.samples}, epochs = {self.epochs}, questions = {self.questions}; "
                "expected at least 2, 1 and 1."
            )
        if self.save_every % self.epochs:
            raise InputError(
                f"save_every = {self.save_every}; expected a multiple of epochs = {self.epochs}, "
                "so that a run never goes on in the middle of its rollouts."
            )
        if not self.shares or not all(0 < share < 1 for share in self.shares):
            raise InputError(f"shares = {self.shares}; expected fractions between 0 and 1.")


def run(settings: PolicySettings) -> None:
    """Train a policy for a model, save it with the model, and measure it."""
    torch.manual_seed(settings.seed)
    model = start_model(settings, PRETRAIN).eval().requires_grad_(False)
    reader = Reader(model).to(PartialState().device)
    network = _network(settings, model)
    draw_cases = _draw_cases(settings, model)
    objective, epochs = _objective(settings, reader)
    folder = settings.out / STAGE / settings.kind
    train(
        PolicyModule(network),
        source=Cases(
            draw_cases, batch_size=settings.batch_size, epochs=epochs, figures=objective.figures
        ),
        settings=settings,
        folder=folder,
        objective=objective,
        whole=True,
    )
    target = settings.out / STAGE / MODEL
    if PartialState().is_main_process:
        model.policies |= _trained_before(target, model)
        model.policies[settings.kind] = ExpandLearned(network)
        save(model, target)
        if settings.measured:
            cases = draw_cases(Random("measured"), settings.measured)
            _measure(reader, cases, settings, folder)
        if (folder / LOG).exists():
            write_report(folder)


def _network(settings: PolicySettings, model: RefragModel) -> PolicyNetwork:
    """The model's own network of this kind, or a new one."""
    shape = NetworkShape(
        chunk_width=model.config.chunk_width, width=settings.width, query=KINDS[settings.kind]
    )
    own = model.policies.get(settings.kind)
    if not isinstance(own, ExpandLearned):
        return PolicyNetwork(shape)
    if own.network.shape != shape:
        raise InputError(
            f"width = {settings.width}, but the model's {settings.kind} has "
            f"{own.network.shape.width}; expected the same, or a model without that policy."
        )
    return own.network.train()


def _objective(
    settings: PolicySettings, reader: Reader
) -> tuple[PolicyObjective | PlacesObjective, int]:
    """The loss, and how many steps in a row read the same cases."""
    if settings.objective == REWARD:
        return PolicyObjective(
            reader, samples=settings.samples, clip=settings.ratio, rows_at_once=settings.micro_batch
        ), settings.epochs
    if is_documents(settings.data):
        raise InputError(
            f"data = {settings.data!r} is text, which has no answers; objective = {PLACES!r} "
            f"expected questions. Use objective = {REWARD!r}."
        )
    return PlacesObjective(reader), 1


def _trained_before(folder: Path, model: RefragModel) -> dict[str, Policy]:
    """Policies of other kinds that an earlier run of this stage has trained for this encoder."""
    if not folder.is_dir():
        return {}
    before = RefragModel.from_pretrained(folder)
    return before.policies if before.fingerprint == model.fingerprint else {}


def _draw_cases(settings: PolicySettings, model: RefragModel) -> DrawCases:
    """Where cases come from: the world, question records, or prepared text."""
    frame = Frame(model)
    layout = QuestionLayout(model, max_passages=settings.max_passages)

    def asked(records: Iterable[QuestionRecord], rng: Random) -> list[Case]:
        shares = settings.shares
        return [question_case(layout, frame, one, rng, rng.choice(shares)) for one in records]

    if settings.data == WORLD:
        tasks = open_tasks(model.tokenizer, Mix(), settings.factbook)
        return lambda rng, count: asked(_world(tasks, rng, count, settings.questions), rng)
    if not is_documents(settings.data):
        known = load_questions(settings.data)
        return lambda rng, count: asked(rng.choices(known, k=count), rng)
    source = DocumentContinuation(
        Documents.open(settings.data, model.tokenizer),
        model,
        build_curriculum("longest", k=model.config.k, chunks=settings.chunks),
        batch_size=1,
        following=settings.following,
        text_shares=(0.0,),
    )
    return lambda rng, count: [
        text_case(source, settings.chunks, rng, rng.choice(settings.shares)) for _ in range(count)
    ]


def _world(tasks: Tasks, rng: Random, count: int, together: int) -> list[QuestionRecord]:
    """Records of the world, so many on each context."""
    found: list[QuestionRecord] = []
    while len(found) < count:
        found += draw_records(tasks, rng, min(together, count - len(found)))
    return found


def _measure(reader: Reader, cases: Sequence[Case], settings: PolicySettings, folder: Path) -> None:
    """The policies that need nothing but the prompt, beside the model's own."""
    others = ("none", "random", "lexical", "exact", "perplexity")
    policies = {name: get_policy(name) for name in others} | reader.model.policies
    write_points(
        expansion_points(reader, cases, policies, sorted(settings.shares)),
        folder / "expansion.json",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a policy."""
    run(parse(PolicySettings, STAGE, __doc__, arguments))


if __name__ == "__main__":
    main()
