"""`refrag ask`, for real: sources, the prompt, one call of the LLM, mistakes."""

import io
import os
import signal
import sys
import threading

import pytest

pytest.importorskip("faiss")
pytest.importorskip("llama_index.core")

from refrag_rag import Refrag
from refrag_rag.cli import main
from refrag_rag.demo.ask import Asker, sources
from refrag_rag.demo.home import Home
from refrag_rag.demo.library import open_index
from refrag_rag.llama_index import collect_answers
from tests.conftest import TINY
from tests.serving.fake_vllm import served

MAYOR = "Who is the mayor of Quill Bay?"
TOWN = "Quill Bay\n\nThe mayor of Quill Bay is Rosa Tarmin. Quill Bay is known for its glass lamps."
HILL = "# Mount Olm\n\nMount Olm is 812 metres high."


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home of thirty passages or so, most of them of one long file."""
    place = tmp_path_factory.mktemp("asked")
    folder = place / "docs"
    (folder / "places").mkdir(parents=True)
    (folder / "places" / "town.txt").write_text(TOWN)
    (folder / "hill.md").write_text(HILL)
    long = " ".join(f"House {n} stands in street {n * 7 % 50} of Orrin." for n in range(300))
    (folder / "orrin.txt").write_text(f"{long}\n")
    assert main(["index", str(folder), "--home", str(place / "home"), "--model", TINY]) == 0
    return place / "home"


def ask(home, *arguments):
    return main(["ask", *arguments, "--home", str(home)])


def test_sources_follow_the_answer_best_first(home, capsys):
    assert ask(home, MAYOR, "--top-k", "4") == 0
    answer, empty, *lines, end = capsys.readouterr().out.splitlines()
    assert answer
    assert (empty, end) == ("", "")
    assert lines[0].split("  ")[2:] == ["places/town.txt", "Quill Bay"]
    scores = [float(line.split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert len({line.split()[1] for line in lines}) == len(lines)  # each file once


def test_a_server_decodes(home, tiny_model, capsys):
    assert ask(home, MAYOR) == 0
    own = capsys.readouterr().out
    with served(tiny_model.decoder) as (server,):
        assert ask(home, MAYOR, "--backend", server.url) == 0
        assert len(server.bodies) == 1
    assert capsys.readouterr().out == own
    assert ask(home, MAYOR, "--backend", server.url) == 1
    assert "expected a vLLM server" in capsys.readouterr().err


def test_several_passages_of_a_file_are_one_source(home):
    retriever = open_index(Home(home)).as_retriever(similarity_top_k=6)
    nodes = retriever.retrieve("Which house stands in street 14 of Orrin?")
    best, *_ = sources(nodes)
    assert best.file == best.title == "orrin.txt"  # its first line is no title
    assert best.passages > 1
    assert best.score == max(node.score for node in nodes)
    assert sum(source.passages for source in sources(nodes)) == 6
    assert str(best).endswith(f"  orrin.txt  ({best.passages} passages)")


def test_one_call_even_where_the_text_would_not_fit(home):
    """LlamaIndex would count the passages' text and spread it over several calls."""
    engine = Refrag.load(TINY, store=Home(home).chunks)
    asker = Asker(open_index(Home(home)), engine, top_k=28)
    with collect_answers() as answers:
        asker.ask(MAYOR)
    (answer,) = answers
    assert answer.metadata["spans"] > 20
    assert answer.metadata["plain_positions"] > engine.context_window > answer.metadata["positions"]
    assert answer.metadata["cache_misses"] == 0


def test_the_prompt_answers_line_by_line(home, capsys, monkeypatch):
    lines = f"{MAYOR}\nHow high is Mount Olm?\n\nIs this still read?\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    assert ask(home) == 0
    shown = capsys.readouterr().out
    assert f"> {MAYOR}\n" in shown
    assert "> How high is Mount Olm?\n" in shown
    assert "hill.md  Mount Olm" in shown
    assert "still read" not in shown
    assert sys.stdin.read() == "Is this still read?\n"


def test_the_prompt_goes_on_after_an_error_and_ends_with_its_input(home, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{MAYOR}\nHow high is Mount Olm?"))
    assert ask(home, "--full-text", "--top-k", "28") == 0
    shown = capsys.readouterr()
    errors = [line for line in shown.err.splitlines() if line.startswith("refrag: ")]
    assert len(errors) == 2
    assert "positions" in errors[0]
    assert "> How high is Mount Olm?" in shown.out


def test_ctrl_c_at_the_prompt(home, capsys, monkeypatch):
    reading, writing = os.pipe()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    try:
        with open(reading) as stdin, open(writing, "w"):
            monkeypatch.setattr(sys, "stdin", stdin)
            killer = threading.Timer(3, os.kill, (os.getpid(), signal.SIGINT))
            killer.start()
            assert ask(home) == 130
            killer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([""], "question is empty"),
        ([" \n"], "question is empty"),
        (["caf\udce9?"], "no text"),
        ([MAYOR, "--top-k", "0"], "--top-k 0"),
        ([MAYOR, "--top-k", "-3"], "--top-k -3"),
        ([MAYOR, "-p", "1.5"], "1.5"),
        ([MAYOR, "-p", "-0.1"], "-0.1"),
        ([MAYOR, "-p", "nan"], "nan"),
        ([MAYOR, "--full-text", "-p", "0.2"], "--full-text"),
        ([MAYOR, "--full-text", "--policy", "exact"], "--full-text"),
        ([MAYOR, "--policy", "no-such"], "no-such"),
        ([MAYOR, "-k", "3"], "k = 3"),
        ([MAYOR, "--model", "no-such"], "No model 'no-such'"),
    ],
)
def test_mistakes_end_with_one_line(home, capsys, arguments, said):
    assert ask(home, *arguments) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("refrag: ")
    assert said in last
