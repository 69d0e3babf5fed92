"""A real Ray cluster of two workers fills the store as one process does."""

import numpy as np
import pytest

from refrag_rag import Refrag
from refrag_rag.engine.ray_job import StoreWriter, precompute_on_ray
from refrag_rag.errors import InputError
from refrag_rag.store import LMDBStore, passage_key
from tests.conftest import TINY, build_model

TEXTS = [f"Passage {n} is about {'clocks ' * (n % 7 + 1)}and port {n}." for n in range(600)]


@pytest.fixture
def model_folder(tokenizer, tmp_path):
    build_model(tokenizer).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def entries(engine: Refrag, texts):
    found = engine.store.get(engine.namespace, [passage_key(text) for text in texts])
    assert None not in found
    return found


def check_equal(one: Refrag, other: Refrag) -> None:
    for left, right in zip(entries(one, TEXTS), entries(other, TEXTS), strict=True):
        np.testing.assert_array_equal(left.token_ids, right.token_ids)
        np.testing.assert_allclose(left.embeddings, right.embeddings, atol=2e-3)


@pytest.fixture
def engine(model_folder, tmp_path):
    engine = Refrag.load(model_folder, store=tmp_path / "store")
    yield engine
    engine.store.close()


def test_a_worker_writes_what_it_encodes_and_keeps_nothing(model_folder, engine, tmp_path):
    worker = StoreWriter(model_folder, str(tmp_path / "stores"), {})
    found = worker({"text": np.array(TEXTS[:5], object)})
    (place,) = found["store"]
    with LMDBStore(place, read_only=True) as store:
        keys = [passage_key(text) for text in TEXTS[:5]]
        assert store.contains(engine.namespace, keys) == [True] * 5
    assert [one.name for one in (tmp_path / "stores").iterdir()] == [place.rpartition("/")[2]]
    assert not list(worker._engine.store.keys(engine.namespace))


def test_stores_of_a_killed_job_count_as_done(model_folder, engine, tmp_path):
    pytest.importorskip("ray")
    stores = tmp_path / "stores"
    StoreWriter(model_folder, str(stores), {})({"text": np.array(TEXTS[:5], object)})
    merged = precompute_on_ray(engine, TEXTS[:5], model=model_folder, folder=stores)
    assert merged.new == 5
    assert len(entries(engine, TEXTS[:5])) == 5


def test_what_cannot_take_stores_in_is_refused(model_folder):
    pytest.importorskip("ray")
    with pytest.raises(InputError, match="expected one on disk"):
        precompute_on_ray(Refrag.load(model_folder), TEXTS, model=model_folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_two_workers_fill_the_store_as_one_process_does(model_folder, engine, tmp_path):
    ray = pytest.importorskip("ray")
    alone = Refrag.load(model_folder, store=LMDBStore(tmp_path / "alone"))
    alone.precompute(TEXTS)
    engine.precompute(TEXTS[:10])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with pytest.raises(InputError, match="expected the engine's"):
            precompute_on_ray(engine, TEXTS[:20], model=TINY, folder=tmp_path / "others")
        assert engine.store.namespaces() == [engine.namespace]
        merged = precompute_on_ray(
            engine, [*TEXTS, TEXTS[0], " "], model=model_folder, folder=tmp_path / "stores"
        )
    finally:
        ray.shutdown()
    assert merged.stores == 3  # of 256 passages at most
    assert merged.new == len(TEXTS) - 10
    check_equal(engine, alone)
    alone.store.close()
