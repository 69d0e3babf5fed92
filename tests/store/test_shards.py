"""Shards: written by several, taken in by one."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from refrag_rag import StoreError
from refrag_rag.cli import main
from refrag_rag.store import LMDBStore
from refrag_rag.store.shards import export_shards, import_shards, write_shard
from tests.store.test_stores import entry, same


def filled(path, seeds, **settings):
    with LMDBStore(path, **settings) as store:
        store.put("a", {f"k{seed}": entry(seed=seed) for seed in seeds})
    return path


def contents(path):
    with LMDBStore(path) as store:
        return {
            name: dict(zip(keys, store.get_bytes(name, keys), strict=True))
            for name in store.namespaces()
            for keys in [list(store.keys(name))]
        }


def test_a_store_goes_through_shards_byte_for_byte(tmp_path, capsys):
    source = filled(tmp_path / "source", range(10))
    with LMDBStore(source, vectors="int8") as store:
        store.put("b", {"x": entry(seed=1)})
    shards, target = str(tmp_path / "shards"), str(tmp_path / "target")
    assert main(["store", "export", str(source), shards, "--passages", "4"]) == 0
    assert "4 shards" in capsys.readouterr().out
    assert main(["store", "import", target, shards]) == 0
    assert "11 entries in 4 shards: 11 new" in capsys.readouterr().out
    assert contents(target) == contents(source)
    assert main(["store", "import", target, shards]) == 0
    assert "11 entries in 4 shards: 0 new" in capsys.readouterr().out
    assert contents(target) == contents(source)


def test_shards_of_several_workers_merge(tmp_path):
    parts = [range(0, 5), range(3, 8), range(8, 10)]
    for number, part in enumerate(parts):
        worker = filled(tmp_path / f"worker{number}", part)
        with LMDBStore(worker, read_only=True) as store:
            export_shards(store, tmp_path / "shards")
    with LMDBStore(tmp_path / "all") as store:
        assert import_shards(store, [tmp_path / "shards"]).new == 10
    assert contents(tmp_path / "all") == contents(filled(tmp_path / "one", range(10)))
    assert len(list((tmp_path / "shards").iterdir())) == 3  # nothing is left beside them


def test_stored_entries_stay_and_get_missing_scores(tmp_path):
    mine = entry(seed=1, here=np.ones(3, np.float32))
    theirs = entry(seed=2, here=np.zeros(3, np.float32), there=np.zeros(3, np.float32))
    write_shard(tmp_path / "shards", "a", {"x": theirs})
    with LMDBStore(tmp_path / "store") as store:
        store.put("a", {"x": mine})
        done = import_shards(store, [tmp_path / "shards"])
        assert (done.new, done.scored) == (0, 1)
        got = store.get("a", ["x"])[0]
        assert import_shards(store, [tmp_path / "shards"]).scored == 0
    np.testing.assert_array_equal(got.embeddings, mine.embeddings)
    assert {name: values.tolist() for name, values in got.scores.items()} == {
        "here": [1, 1, 1],
        "there": [0, 0, 0],
    }


def test_a_damaged_entry_is_replaced(tmp_path):
    write_shard(tmp_path / "shards", "a", {"x": entry()})
    with LMDBStore(tmp_path / "store") as store:
        store.put_bytes("a", {"x": entry().to_bytes()[:-1] + b"\0"})
        assert import_shards(store, [tmp_path / "shards"]).new == 1
        assert same(store.get("a", ["x"])[0], entry())


@pytest.mark.parametrize("fault", ["cut", "flipped", "foreign", "nothing"])
def test_one_bad_shard_and_nothing_is_imported(tmp_path, fault):
    good = write_shard(tmp_path, "a", {"x": entry(), "y": entry(seed=1)})
    bad = write_shard(tmp_path, "a", {"z": entry(seed=2)})
    data = bytearray(bad.read_bytes())
    if fault == "flipped":
        data[-20] ^= 4
    bad.write_bytes(bytes(data[:-7] if fault == "cut" else data))
    if fault == "foreign":
        save_file({"weight": np.zeros(3)}, bad)
    if fault == "nothing":
        bad.unlink()
    with LMDBStore(tmp_path / "store") as store:
        with pytest.raises(StoreError, match=bad.name):
            import_shards(store, [good, bad])
        assert store.namespaces() == []
        with pytest.raises(StoreError, match="No shards"):
            import_shards(store, [tmp_path / "store"])


def test_a_shard_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be written"):
        write_shard(tmp_path / "file" / "shards", "a", {"x": entry()})
    assert [place.name for place in tmp_path.iterdir()] == ["file"]
