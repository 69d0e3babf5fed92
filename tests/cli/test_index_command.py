"""`refrag index`, for real: files of all sorts, a real retriever, a store on disk, changes."""

import os
import resource
import shutil
import signal
from contextlib import contextmanager

import pytest

pytest.importorskip("faiss")
pytest.importorskip("llama_index.core")

from refrag_rag import InputError, StoreError
from refrag_rag.cli import main
from refrag_rag.demo import library
from refrag_rag.demo.files import decode, read_folder, title
from refrag_rag.demo.home import Home, Record
from refrag_rag.store import LMDBStore, passage_key
from tests.conftest import TINY

TOWN = "Quill Bay\n\nThe mayor of Quill Bay is Rosa Tarmin. Quill Bay is known for its glass lamps."
HILL = "# Mount Olm\n\nMount Olm is 812 metres high."
LAKE = "Lake Senna\n\nLake Senna is 40 metres deep. Its water is used by the town of Orrin."
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01"


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "docs"
    (made / "high").mkdir(parents=True)
    (made / "town.txt").write_text(TOWN)
    (made / "high" / "hill.md").write_text(HILL)
    return made


def index(folder, home, *more):
    return main(["index", str(folder), "--home", str(home), "--model", TINY, *more])


def stored(home):
    with LMDBStore(home / "chunks", read_only=True) as store:
        return {key for name in store.namespaces() for key in store.keys(name)}


def passages(home):
    return sorted(node.text for node in library.open_index(Home(home)).docstore.docs.values())


# --- files to text ---------------------------------------------------------------------------

WORDS = "Žluť und Größe, naïve café"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_in_unicode_is_read_rightly(encoding):
    assert decode(f"{WORDS}\r\nb\rc".encode(encoding)) == f"{WORDS}\nb\nc"


def test_utf_16_the_other_way_round():
    assert decode(b"\xfe\xff" + WORDS.encode("utf-16-be")) == WORDS


def test_text_of_western_europe_is_read_rightly():
    assert decode("Größe, “naïve”, 5 €".encode("cp1252")) == "Größe, “naïve”, 5 €"
    assert decode("Größe \x81".encode("latin-1")) == "Größe \x81"  # cp1252 has no such character


def test_damaged_utf_8_stays_utf_8():
    damaged = WORDS.encode()[:-1] + b" and on"  # in the middle of the last letter
    assert decode(damaged) == WORDS[:-1] + "\ufffd and on"


def test_colours_and_the_end_mark_of_dos_are_text():
    assert decode(b"\x1b[1mwarning\x1b[0m: all is well\x1a") is not None


@pytest.mark.parametrize(
    "data",
    [PNG, b"PK\x03\x04\x14\x00\x08", b"text\x00text", b"%PDF-1.4\nall ASCII", bytes(range(1, 32))],
)
def test_what_is_no_text_is_not_read(data):
    assert decode(data) is None


def test_titles_are_short_first_lines():
    assert title(HILL) == "Mount Olm"
    assert title("\n\n== Olm ==\nIt is high.") == "Olm"
    assert title('{"id": 1}') == ""
    assert title("A long sentence is no title, " * 3) == ""


def test_a_folder_of_all_sorts(folder, tmp_path):
    (folder / "picture.png").write_bytes(PNG)
    (folder / "paper.pdf").write_bytes(b"%PDF-1.4 \x00")
    (folder / "rows.jsonl").write_text('{"text": "one"}\n')
    (folder / "empty.txt").write_text(" \n")
    (folder / ".hidden").write_text("no")
    (folder / "itself").symlink_to(folder / "itself")
    (folder / "nowhere.md").symlink_to(tmp_path / "nowhere.md")
    (folder / "high" / "round").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    (folder / "home").mkdir()
    (folder / "home" / "refrag.json").write_text("{}")
    found = read_folder(folder, without=folder / "home")
    names = [document.id_ for document in found.documents]
    assert names == ["rows.jsonl", "town.txt", "high/hill.md"]
    assert found.skipped == ["itself", "nowhere.md", "paper.pdf", "picture.png", "pipe"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_that_may_not_be_read_are_skipped(folder):
    (folder / "town.txt").chmod(0)
    assert read_folder(folder).skipped == ["town.txt"]


# --- indexing, and indexing again ------------------------------------------------------------


def test_index_then_ask_in_two_processes_worth_of_state(folder, tmp_path, capsys):
    """The second finds model and embeddings of the first."""
    assert index(folder, tmp_path / "home") == 0
    shown = capsys.readouterr()
    assert "2 passages" in shown.out
    assert "2 new, 0 kept, 0 removed" in shown.out
    for stage in ("reading", "splitting", "encoding", "embedding"):
        assert f"{stage}: 100%" in shown.err
    home = str(tmp_path / "home")
    assert main(["ask", "Who is the mayor of Quill Bay?", "--home", home, "--show"]) == 0
    shown = capsys.readouterr().out
    assert "cache_hits: 2" in shown
    assert "cache_misses: 0" in shown


def test_again_only_what_changed_is_embedded(folder, tmp_path, capsys, monkeypatch):
    embedded = []

    class Counting(library.HuggingFaceEmbedding):
        def get_text_embedding_batch(self, texts, **settings):
            embedded.extend(texts)
            return super().get_text_embedding_batch(texts, **settings)

    monkeypatch.setattr(library, "HuggingFaceEmbedding", Counting)
    home = tmp_path / "home"
    index(folder, home)
    (folder / "lake.txt").write_text(LAKE)
    (folder / "town.txt").rename(folder / "city.txt")
    (folder / "high" / "hill.md").unlink()
    embedded.clear()
    capsys.readouterr()
    assert index(folder, home) == 0
    assert "2 passages" in (shown := capsys.readouterr().out)
    assert "1 new, 1 kept, 1 removed" in shown
    assert embedded == [LAKE]
    assert passages(home) == sorted([LAKE, TOWN])
    assert stored(home) == {passage_key(LAKE), passage_key(TOWN)}
    embedded.clear()
    assert index(folder, home) == 0
    assert "0 new, 2 kept, 0 removed" in capsys.readouterr().out
    assert embedded == []


def test_an_updated_index_finds_what_a_new_one_finds(folder, tmp_path, capsys):
    updated, new = tmp_path / "updated", tmp_path / "new"
    index(folder, updated)
    (folder / "lake.txt").write_text(LAKE)
    (folder / "a.txt").write_text(TOWN.replace("mayor", "bishop"))
    index(folder, updated)
    index(folder, new)
    capsys.readouterr()
    found = []
    for home in (updated, new):
        assert main(["ask", "How deep is Lake Senna?", "--home", str(home)]) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1]


def test_files_that_are_no_text_are_named_in_one_line(folder, tmp_path, capsys):
    for number in range(12):
        (folder / f"{number:02}.png").write_bytes(PNG)
    assert index(folder, tmp_path / "home") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert "skipped 12 files" in line
    assert "00.png, 01.png" in line
    assert line.endswith("and 4 more")


def test_mistakes_end_with_one_line(folder, tmp_path, capsys):
    home = str(tmp_path / "home")
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(PNG)
    for arguments, said in (
        (["ask", "Who?", "--home", home], "refrag index FOLDER"),
        (["index", str(tmp_path / "absent"), "--home", home], "no folder"),
        (["index", str(tmp_path / "empty"), "--home", home], "no readable text"),
        (["index", str(tmp_path / "pictures"), "--home", home], "no readable text"),
        (["index", str(folder), "--model", "no-such", "--home", home], "No model 'no-such'"),
        (["index", str(folder), "--model", TINY, "-k", "3", "--home", home], "k = 3"),
        (["index", str(folder), "--home", str(folder / "town.txt")], "cannot be written"),
        (["index", str(folder), "--ray", "0", "--model", TINY, "--home", home], "workers"),
    ):
        assert main(arguments) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("refrag: ")
        assert said in last


def test_a_home_is_of_one_folder(folder, tmp_path, capsys):
    home = tmp_path / "home"
    index(folder, home)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    assert index(other, home) == 1
    assert f"index of {folder}" in capsys.readouterr().err
    assert passages(home) == sorted([TOWN, HILL])


def test_two_at_once_in_one_home(folder, tmp_path, capsys):
    home = tmp_path / "home"
    with Home(home).locked():
        assert index(folder, home) == 1
    assert "Another `refrag index` is at work" in capsys.readouterr().err
    assert index(folder, home) == 0


# --- what goes wrong half-way ----------------------------------------------------------------


@contextmanager
def full_disk(at):
    """No file may grow beyond so many bytes: writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("at", [100, 1000])
def test_a_full_disk_leaves_the_older_index(folder, tmp_path, at):
    home = Home(tmp_path / "home")
    index(folder, home.path)
    newer = library.open_index(home)
    record = home.record()
    said = pytest.raises(StoreError, match="older index there is as it was")
    with full_disk(at), said, home.replacing(record) as place:
        newer.storage_context.persist(str(place))
    assert home.record() == record
    assert passages(home.path) == sorted([TOWN, HILL])
    assert [place.name for place in home.path.glob("index-*")] == [record.index]


def test_a_killed_run_leaves_the_older_index_and_is_swept_up(folder, tmp_path, capsys):
    home = Home(tmp_path / "home")
    index(folder, home.path)
    child = os.fork()
    if not child:
        with home.replacing(Record(str(folder), TINY)) as made:
            (made / "docstore.json").write_text('{"half')
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(list(home.path.glob("index-*"))) == 2
    assert passages(home.path) == sorted([TOWN, HILL])
    assert index(folder, home.path) == 0
    assert "0 new, 2 kept" in capsys.readouterr().out
    assert len(list(home.path.glob("index-*"))) == 1


def test_a_damaged_index_is_said_and_made_anew(folder, tmp_path, capsys):
    home = Home(tmp_path / "home")
    index(folder, home.path)
    (home.path / home.record().index / "docstore.json").write_text('{"half')
    with pytest.raises(InputError, match="Run `refrag index"):
        library.open_index(home)
    assert index(folder, home.path) == 0
    assert passages(home.path) == sorted([TOWN, HILL])
    (home.path / "refrag.json").write_text("{")
    assert main(["ask", "Who?", "--home", str(home.path)]) == 1
    assert "Delete" in capsys.readouterr().err
