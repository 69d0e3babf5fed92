"""Workers draw what the run itself would draw, also after it was stopped."""

import pickle
from functools import partial

import pytest

from refrag_rag.errors import InputError
from refrag_rag.training.batches import collate
from refrag_rag.training.data.documents import Documents
from refrag_rag.training.data.questions import load_questions
from refrag_rag.training.document_sources import DocumentChunks
from refrag_rag.training.feedback import FeedbackCurriculum
from refrag_rag.training.lengths import LengthCurriculum
from refrag_rag.training.loop import train
from refrag_rag.training.question_sources import QuestionLayout, Questions
from refrag_rag.training.reading import Reader
from tests.conftest import build_model
from tests.training.test_loop import FixedRows, Stopped, losses, settings, some_rows


def questions(model, prepared):
    layout = QuestionLayout(model, max_passages=3)
    records = load_questions(prepared / "questions")
    return Questions(records, layout, batch_size=4, text_shares=(0.0, 0.5))


def documents(model, prepared, kind=LengthCurriculum):
    lengths = kind(maximum=4)
    text = Documents.open(prepared / "text", model.tokenizer)
    return DocumentChunks(text, model, lengths, batch_size=3)


def run(tokenizer, prepared, folder, make, *, stop_at=None, **given):
    model = build_model(tokenizer).train()
    source = make(model, prepared)
    record, seen = source.record, []

    def watched(loss, accuracy):
        if len(seen) == stop_at:
            raise Stopped
        seen.append(loss)
        record(loss, accuracy)

    source.record = watched
    how = settings(folder, **{"steps": 6, "save_every": 2, **given})
    cut = partial(collate, cutter=model.encoder.cutter)
    train(Reader(model), source=source, settings=how, folder=folder, collate=cut)
    return losses(folder), source.summary()


# torch warns of more workers than the machine has cores
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("make", [questions, documents])
def test_any_number_of_workers_draws_the_same(tokenizer, prepared, tmp_path, make):
    wanted = run(tokenizer, prepared, tmp_path / "0", make)
    for workers in (1, 3):
        found = run(tokenizer, prepared, tmp_path / str(workers), make, workers=workers)
        assert found == wanted
    with pytest.raises(Stopped):
        run(tokenizer, prepared, tmp_path / "cut", make, workers=3, stop_at=3)
    assert run(tokenizer, prepared, tmp_path / "cut", make, workers=1) == wanted


def test_what_workers_cannot_foresee_is_refused(tokenizer, prepared, tmp_path):
    feedback = partial(documents, kind=FeedbackCurriculum)
    for make, given in ((feedback, {}), (questions, {"tokens": 1000})):
        with pytest.raises(InputError, match="workers = 2"):
            run(tokenizer, prepared, tmp_path / "run", make, workers=2, **given)
    model = build_model(tokenizer)
    how = settings(tmp_path / "run", workers=2)
    with pytest.raises(InputError, match="workers = 0"):
        train(Reader(model), source=FixedRows(some_rows()), settings=how, folder=how.out)
    assert not (tmp_path / "run").exists()


def test_a_source_can_be_sent_to_another_process(tokenizer, prepared):
    model = build_model(tokenizer)
    for make in (questions, documents):
        assert b"lm_head" not in pickle.dumps((make(model, prepared), model.encoder.cutter))
