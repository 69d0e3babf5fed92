"""Formats of chunk embeddings, the bytes of entries, and many of them read into one array."""

import numpy as np
import pytest
from safetensors.numpy import save

from refrag_rag import StoreError
from refrag_rag.store import LMDBStore, MemoryStore, PassageEntry, passage_key, records
from refrag_rag.store.formats import FORMATS, get_format
from refrag_rag.store.rows import read_rows
from tests.store.test_stores import entry, same

# Relative squared error on vectors with outlier dimensions; measured, with room above.
ERRORS = {"fp32": 0.0, "fp16": 1e-7, "bf16": 5e-6, "int8": 3e-4}


def vectors(chunks=64, width=768, seed=0):
    """Like those of real encoders: a few dimensions are far larger than the others."""
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(chunks, width)).astype(np.float32)
    made[:, [5, 300]] *= 30
    return made


def there_and_back(name, given):
    form = get_format(name)
    data = form.encode(given)
    assert len(data) == form.size(*given.shape)
    out = np.empty(given.shape, form.dtype)
    form.decode(data, out)
    return out


def relative_error(given, got):
    return float(((given - got) ** 2).sum() / (given**2).sum())


@pytest.mark.parametrize("name", FORMATS)
def test_error_of_every_format(name):
    given = vectors()
    assert relative_error(given, there_and_back(name, given)) <= ERRORS[name]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(0, 16), (3, 1), (2, 100), (1, 64)])
def test_every_shape(name, shape):
    given = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    got = there_and_back(name, given)
    np.testing.assert_allclose(got, given, atol=0.02)
    np.testing.assert_array_equal(there_and_back(name, got.astype(np.float32)), got)


@pytest.mark.parametrize("name", FORMATS)
def test_zeros_and_tiny_numbers(name):
    given = np.zeros((2, 70), np.float32)
    given[1] = 1e-7
    got = there_and_back(name, given)
    assert not got[0].any()
    np.testing.assert_allclose(got[1], 1e-7, rtol=0.2)


@pytest.mark.parametrize(("name", "number"), [("fp16", 7e4), ("bf16", 3.4e38)])
def test_numbers_out_of_range_are_refused(name, number):
    with pytest.raises(StoreError, match="too large"):
        get_format(name).encode(np.full((1, 4), number, np.float32))


def test_what_is_not_finite_is_refused():
    made = entry()
    made.embeddings[0, 0] = np.nan
    with pytest.raises(StoreError, match="finite"):
        made.to_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_a_store_keeps_its_format_and_reads_all(tmp_path, name):
    with LMDBStore(tmp_path, vectors=name) as store:
        store.put("a", {"x": entry(chunks=70, width=100, score=np.arange(70, dtype=np.float32))})
        found = store.get("a", ["x"])[0]
    assert found.embeddings.dtype == FORMATS[name].dtype
    np.testing.assert_allclose(found.embeddings, entry(70, 100).embeddings, atol=0.03)
    assert found.scores["score"].tolist() == list(range(70))
    np.testing.assert_array_equal(found.token_ids, entry(70, 100).token_ids)
    with LMDBStore(tmp_path) as store:  # opened without the name
        np.testing.assert_array_equal(store.get("a", ["x"])[0].embeddings, found.embeddings)


def test_a_format_that_does_not_exist(tmp_path):
    with pytest.raises(StoreError, match="expected one of fp16"):
        LMDBStore(tmp_path / "new", vectors="fp8")
    assert not (tmp_path / "new").exists()


def older(made):
    """An entry's bytes as earlier versions wrote them."""
    arrays = {name: getattr(made, name) for name in ("embeddings", "token_ids", "chunk_lengths")}
    scores = {f"score.{name}": values for name, values in made.scores.items()}
    return save({**arrays, "char_ends": made.char_ends, **scores})


def test_older_entries_are_read(tmp_path):
    made = entry(chunks=40, seed=3, s=np.ones(40, np.float32))
    assert same(PassageEntry.from_bytes(older(made)), made)
    with LMDBStore(tmp_path) as store:
        store.put_bytes("a", {"x": older(made)})
        store.put("a", {"y": entry(seed=4)})
        assert same(store.get("a", ["x"])[0], made)
        for keys, wanted in (("yx", (entry(seed=4), made)), ("xy", (made, entry(seed=4)))):
            found = store.read_into("a", list(keys))
            assert [same(*pair) for pair in zip(found, wanted, strict=True)] == [True, True]


def test_every_cut_and_every_flipped_bit_is_noticed():
    data = entry(chunks=2, width=4, s=np.ones(2, np.float32)).to_bytes()
    for length in range(len(data)):
        with pytest.raises(StoreError):
            PassageEntry.from_bytes(data[:length])
    for place in range(8 * len(data)):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(StoreError):
            PassageEntry.from_bytes(bytes(changed))
    with pytest.raises(StoreError):
        PassageEntry.from_bytes(data + b"\0")


@pytest.mark.parametrize(("chunks", "tokens"), [(8, 32), (16, 16), (5, 8)])
def test_values_fill_their_pages(tmp_path, chunks, tokens):
    made = PassageEntry(
        np.ones((chunks, 768), np.float16),
        np.full(chunks * tokens, 40_000, np.int32),
        np.full(chunks, tokens, np.int32),
        np.arange(1, chunks + 1, dtype=np.int32) * 90,
    )
    with LMDBStore(tmp_path) as store:
        keys = [passage_key(str(i)) for i in range(60)]
        page, before = store.map_info()["page"], store.map_info()["used_pages"]
        store.put("n" * 32, dict.fromkeys(keys, made))
        used = (store.map_info()["used_pages"] - before) * page / 60
        whole_pages = -(-(len(made.to_bytes()) + 16) // page) * page
        assert used < min(1.15 * len(made.to_bytes()) + 300, whole_pages + 250)
        store.put("n" * 32, {key: entry() for key in keys})  # replaced by small ones
        assert store.map_info()["used_pages"] < 20
        assert list(store.keys("n" * 32)) == sorted(keys)
        assert store.delete("n" * 32, keys) == 60
        assert store.namespaces() == []
        assert store.map_info()["used_pages"] <= 1


@pytest.fixture(params=["memory", "lmdb"])
def store(request, tmp_path):
    made = MemoryStore() if request.param == "memory" else LMDBStore(tmp_path / "store")
    yield made
    made.close()


def test_entries_that_are_missing_take_no_rows(tmp_path):
    made = [entry(chunks=3, seed=5), entry(chunks=5, seed=6)]
    with LMDBStore(tmp_path) as store:
        store.put("a", {"x": made[0], "y": made[1]})
        found = store.read_into("a", ["no", "y", "neither", "x"])
        assert [one is None for one in found] == [True, False, True, False]
        assert same(found[1], made[1])
        assert same(found[3], made[0])
        assert found[1].embeddings.base is found[3].embeddings.base
        assert store.read_into("a", ["no"]) == [None]
        store.put_bytes("a", {"empty": b""})
        assert store.read_into("a", ["empty", "x"])[0] is None
        assert store.read_into("a", []) == []


def test_many_are_read_into_one_array(store):
    made = {f"k{i}": entry(chunks=8 * i, width=64, seed=i) for i in range(1, 20)}
    store.put("a", made)
    keys = ["k7", "none", "k1", "k19", "k7"]
    buffer = np.full((400, 64), 7, np.float16)
    asked = []

    def allocate(rows, width, dtype):
        asked.append((rows, width, dtype))
        return buffer[:rows]

    found = read_rows(store, "a", keys, allocate)
    assert asked == [(8 * (7 + 1 + 19 + 7), 64, np.float16)]
    assert found[1] is None
    assert all(one.embeddings.base is not None for one in found if one)
    for key, one in zip(keys, found, strict=True):
        assert one is None or same(one, made[key])
    together = np.concatenate([made[key].embeddings for key in keys if key in made])
    np.testing.assert_array_equal(buffer[: len(together)], together)
    assert (buffer[len(together) :] == 7).all()
    assert read_rows(store, "a", ["none"], allocate) == [None]
    assert len(asked) == 1


def test_mixed_formats_are_read_into_the_wider(tmp_path):
    for name in FORMATS:
        with LMDBStore(tmp_path, vectors=name) as store:
            store.put("a", {name: entry(chunks=30, width=100)})
    with LMDBStore(tmp_path) as store:
        found = store.read_into("a", list(FORMATS))
        for one, other in zip(found, store.get("a", list(FORMATS)), strict=True):
            assert one.embeddings.dtype == np.float32
            np.testing.assert_array_equal(one.embeddings, other.embeddings)


def test_arrays_that_do_not_fit_are_refused(store):
    store.put("a", {"x": entry(width=16), "y": entry(width=32)})
    with pytest.raises(StoreError, match="one width"):
        read_rows(store, "a", ["x", "y"])
    with pytest.raises(StoreError, match="contiguous"):
        read_rows(store, "a", ["x"], lambda rows, width, dtype: np.empty((rows, 99), dtype))


@pytest.mark.parametrize(
    ("chunks", "saved", "expected"), [(8, records.SAVED, 2), (24, records.SAVED, 1), (24, 0, 2)]
)
def test_a_second_record_has_to_save_room(tmp_path, monkeypatch, chunks, saved, expected):
    monkeypatch.setattr(records, "SAVED", saved)  # 0: as stores were written before
    made = {"x": entry(chunks=chunks, width=768), "small": entry(width=768)}
    with LMDBStore(tmp_path) as store:
        store.put("a", {"x": made["x"]})
        assert store.scan(lambda transaction: transaction.stat()["entries"]) == expected
        monkeypatch.undo()
        store.put("a", {"small": made["small"]})
        for read in (store.get, store.read_into):
            found = read("a", ["x", "none", "small", "x"])
            assert found[1] is None
            assert same(found[0], made["x"])
            assert same(found[2], made["small"])
            assert same(found[3], made["x"])
        store.put("a", {"x": made["x"]})
        assert same(store.read_into("a", ["x"])[0], made["x"])
        assert store.delete("a", list(made)) == 2
        assert store.scan(lambda transaction: transaction.stat()["entries"]) == 0


def test_a_missing_second_part_is_noticed(tmp_path):
    with LMDBStore(tmp_path) as store:
        store.put("a", {"x": entry(chunks=8, width=768)})
        store._write(lambda transaction: transaction.delete(b"a/x\0"))
        for read in (store.get, store.read_into):
            with pytest.raises(StoreError, match="part of it is missing"):
                read("a", ["x"])


def test_read_entries_may_be_changed_and_put_again(tmp_path):
    from dataclasses import replace

    with LMDBStore(tmp_path) as store:
        store.put("a", {"x": entry()})
        found = store.read_into("a", ["x"])[0]
        more = replace(found, scores={**found.scores, "s": np.ones(3, np.float32)})
        store.put("a", {"x": more})
        assert same(store.get("a", ["x"])[0], entry(s=np.ones(3, np.float32)))
