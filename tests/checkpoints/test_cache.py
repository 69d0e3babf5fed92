"""The cache of checkpoints that were put together: full, unwritable, killed, shared."""

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from platformdirs import user_cache_path

from refrag_rag import CheckpointError, RefragModel
from refrag_rag.checkpoints.cache import cache_folder, cached
from tests.checkpoints import test_delta
from tests.checkpoints.test_delta import logits

cache, made = test_delta.cache, test_delta.made  # fixtures


def load(made):
    return RefragModel.from_pretrained(made.folder, base=made.base)


def folders(cache):
    """What lies in the cache, finished or not, without locks."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_the_variable_of_the_environment_is_the_place(monkeypatch, tmp_path):
    monkeypatch.setenv("REFRAG_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("REFRAG_CACHE", "")
    assert cache_folder() == user_cache_path("refrag-rag")
    monkeypatch.delenv("REFRAG_CACHE")
    assert cache_folder() == user_cache_path("refrag-rag")


# --- a place that cannot be written --------------------------------------------------------


@pytest.mark.parametrize("below", ["", "cache", "a/b/cache"])
def test_an_unwritable_place_is_one_error_with_the_variable(made, tmp_path, monkeypatch, below):
    (tmp_path / "file").write_text("a regular file")
    monkeypatch.setenv("REFRAG_CACHE", str(tmp_path / "file" / below))
    with pytest.raises(CheckpointError, match=r"cannot be written .* Set REFRAG_CACHE"):
        load(made)
    assert (tmp_path / "file").read_text() == "a regular file"


@contextmanager
def file_size(limit):
    """No file may become longer: what a full disk says, for everybody who can run tests."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE")
@pytest.mark.parametrize("limit", [2_000, 400_000])
def test_no_room_is_one_error_and_leaves_nothing(made, cache, limit):
    with file_size(limit), pytest.raises(CheckpointError, match="Set REFRAG_CACHE") as caught:
        load(made)
    assert "cannot be written" in str(caught.value)
    assert "File too large" in str(caught.value)
    assert folders(cache) == []
    assert torch.equal(logits(load(made)), logits(load(made)))  # with room it is there


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE")
def test_saving_without_room_is_one_error_and_leaves_nothing(made, tmp_path):
    for options in ({}, {"base": made.base}):
        with file_size(50_000), pytest.raises(CheckpointError, match="File too large"):
            made.model.save_pretrained(tmp_path / "model", **options)
        assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A disk of a chosen size."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("may not mount a disk")
        return place

    yield mount
    if os.path.ismount(place):
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs")
@pytest.mark.parametrize("room", ["nothing", "weights", "half a tokenizer", "half an encoder"])
def test_a_full_disk_is_one_error_and_leaves_nothing(made, tmp_path, monkeypatch, small_disk, room):
    """Each library says it in its own way; that of tokenizers is no OSError."""
    monkeypatch.setenv("REFRAG_CACHE", str(tmp_path / "whole"))
    load(made)
    (whole,) = (path for path in (tmp_path / "whole").iterdir() if path.is_dir())
    decoder = (whole / "decoder" / "model.safetensors").stat().st_size // 1024
    words = (whole / "decoder" / "tokenizer.json").stat().st_size // 1024
    size = {
        "nothing": 4,
        "weights": decoder // 2,
        "half a tokenizer": decoder + 12 + words // 2,
        "half an encoder": decoder + words + 200,
    }
    disk = small_disk(size[room])
    monkeypatch.setenv("REFRAG_CACHE", str(disk))
    with pytest.raises(CheckpointError, match=r"cannot be written .*Set REFRAG_CACHE") as caught:
        load(made)
    assert "No space left" in str(caught.value)
    assert (type(caught.value.__cause__) is Exception) == (room == "half a tokenizer")
    assert folders(disk) == []


# --- killed, and built anew ----------------------------------------------------------------

KILLED = """
import os, shutil, signal, sys
from refrag_rag import RefragModel
shutil.copyfile = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # the card is written last
RefragModel.from_pretrained(sys.argv[1], base=sys.argv[2])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_what_a_killed_process_left_is_removed_and_built_again(made, cache):
    command = [sys.executable, "-c", KILLED, str(made.folder), str(made.base)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    (half,) = folders(cache)
    assert half.startswith(".trained-")
    assert (cache / half / "projector.safetensors").is_file()
    loaded = load(made)
    (whole,) = folders(cache)
    assert half.startswith(f".{whole}.")
    assert loaded.config == made.model.config
    assert torch.equal(logits(loaded), logits(load(made)))


def test_only_the_same_checkpoints_rest_is_removed(cache):
    for name in (".a-1.x", ".a-1-bare.x", ".a-2.x", "a-3", "thesis"):
        (cache / name).mkdir(parents=True)
        (cache / name / "file").write_text("x")
    cached("a-1", lambda folder: folder.mkdir())
    assert folders(cache) == [".a-1-bare.x", ".a-2.x", "a-1", "a-3", "thesis"]


def test_a_failed_build_is_tried_again(cache):
    def fail(_):
        raise CheckpointError("no base")

    for _ in range(2):
        with pytest.raises(CheckpointError, match="no base"):
            cached("a-1", fail)
    assert cached("a-1", lambda folder: folder.mkdir()) == cache / "a-1"


def test_a_complete_folder_is_used_as_it_is(made, cache):
    load(made)
    (name,) = folders(cache)
    path = cache / name / "refrag_config.json"
    path.write_text(path.read_text().replace('"trained"', '"touched"'))
    (cache / f"{name}.lock").unlink()
    assert load(made).config.name == "touched"
    assert not (cache / f"{name}.lock").exists()  # nobody asked for it
    shutil.rmtree(cache / name)
    assert load(made).config.name == "trained"


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_a_finished_folder_may_be_read_by_others(made, cache):
    load(made)
    (name,) = folders(cache)
    assert (cache / name).stat().st_mode & 0o777 == 0o755


# --- several at once -----------------------------------------------------------------------


def test_threads_build_once(made, cache):
    built, results = [], []
    barrier = threading.Barrier(4)

    def build(folder):
        built.append(folder)
        (folder.parent / ".a-1.part").mkdir()
        (folder.parent / ".a-1.part").rename(folder)

    def ask():
        barrier.wait()
        results.append(cached("a-1", build))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(built), set(results)) == (1, {cache / "a-1"})


def load_and_tell(folder, base, cache, meet, told):
    """In a process of its own."""
    os.environ["REFRAG_CACHE"] = cache
    meet.wait(120)
    model = RefragModel.from_pretrained(folder, base=base)
    inode = {p.name: p.stat().st_ino for p in Path(cache).iterdir() if p.is_dir()}
    told.put((inode, logits(model).numpy()))


@pytest.mark.slow
def test_two_processes_at_once_build_once_and_both_are_right(made, cache):
    context = multiprocessing.get_context("spawn")
    meet, told = context.Barrier(2), context.Queue()
    given = (str(made.folder), str(made.base), str(cache), meet, told)
    processes = [context.Process(target=load_and_tell, args=given) for _ in range(2)]
    for process in processes:
        process.start()
    (inode, first), (other, second) = (told.get(timeout=240) for _ in processes)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(inode) == 1
    assert inode == other  # the folder that one made is not made again by the other
    assert (first == second).all()
    torch.testing.assert_close(torch.from_numpy(first), logits(load(made)))
    assert len(folders(cache)) == 1
