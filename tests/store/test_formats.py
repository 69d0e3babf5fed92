"""Formats of chunk embeddings, and the bytes of entries."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from refrag_rag import StoreError
from refrag_rag.store import LMDBStore, PassageEntry
from refrag_rag.store.formats import FORMATS, get_format
from tests.store.test_stores import entry, same

# Relative squared error on vectors with outlier dimensions; measured, with room above.
ERRORS = {"fp32": 0.0, "fp16": 1e-7, "bf16": 5e-6, "int8": 3e-4}


# SHA-256 of what is read back of the same numbers.
DIGESTS = {
    "fp16": "0523e7e608422763",
    "fp32": "bada717767826ac3",
    "bf16": "2382c2888bc378ba",
    "int8": "7372e85339bf0940",
}


def vectors(chunks=64, width=768, seed=0):
    """Like those of real encoders: a few dimensions are far larger than the others."""
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(chunks, width)).astype(np.float32)
    made[:, [5, 300]] *= 30
    return made


def there_and_back(name, given):
    form = get_format(name)
    data = form.encode(given)
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
    with LMDBStore(tmp_path, format=name) as store:
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
        LMDBStore(tmp_path / "new", format="fp8")
    assert not (tmp_path / "new").exists()


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


def test_numbers_read_back_are_bit_equal_to_those_of_the_format(tmp_path):
    """Fixed bytes for fixed numbers: a change of format would change what stores give."""
    given = vectors(chunks=5, width=400, seed=7).astype(np.float32)
    digests = {}
    for name in FORMATS:
        with LMDBStore(tmp_path / name, format=name) as store:
            made = entry(chunks=5, width=400)
            store.put("a", {"x": replace(made, embeddings=given)})
            found = store.get("a", ["x"])[0]
        digests[name] = hashlib.sha256(found.embeddings.tobytes()).hexdigest()[:16]
    assert digests == DIGESTS


def test_an_empty_value_is_no_entry(tmp_path):
    with LMDBStore(tmp_path) as store:
        store.put("a", {"x": entry()})
        store.put_bytes("a", {"empty": b""})
        assert store.get("a", ["empty", "x"])[0] is None


def test_one_store_of_mixed_formats(tmp_path):
    for name in FORMATS:
        with LMDBStore(tmp_path, format=name) as store:
            store.put("a", {name: entry(chunks=30, width=100)})
    with LMDBStore(tmp_path) as store:
        found = dict(zip(FORMATS, store.get("a", list(FORMATS)), strict=True))
    for name, one in found.items():
        assert one.embeddings.dtype == FORMATS[name].dtype
        np.testing.assert_allclose(one.embeddings, entry(30, 100).embeddings, atol=0.03)


def test_one_record_a_passage(tmp_path):
    with LMDBStore(tmp_path) as store:
        for chunks in (1, 8, 16, 24):
            store.put("a", {"x": entry(chunks=chunks, width=768)})
            assert [key for key, _ in store.scan(lambda _key, _data: None)] == [b"a/x"]
            assert same(store.get("a", ["x"])[0], entry(chunks=chunks, width=768))
        assert store.delete("a", ["x"]) == 1
        assert store._environment().db.stat()["overflow_pages"] == 0


def test_read_entries_may_be_changed_and_put_again(tmp_path):
    with LMDBStore(tmp_path) as store:
        store.put("a", {"x": entry()})
        found = store.get("a", ["x"])[0]
        more = replace(found, scores={**found.scores, "s": np.ones(3, np.float32)})
        store.put("a", {"x": more})
        assert same(store.get("a", ["x"])[0], entry(s=np.ones(3, np.float32)))
