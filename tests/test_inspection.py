"""One answered question as HTML, looked at in a real browser too."""

import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest

from refrag_rag import Refrag, compressible
from refrag_rag.cli import main
from refrag_rag.inspection import Inspection, render
from refrag_rag.inspection.page import HEADING
from refrag_rag.prompt import SpanLayout
from refrag_rag.spans import wrap
from tests.browser import dump, needs_browser, screenshot

PASSAGES = [
    "The captain of the Titanic was Edward Smith. The Titanic was lost in 1912.",
    "The head office of Nintendo is in Kyoto & not <b>Osaka</b>. \u202e Nintendo makes games.",
]
QUESTION = "Who was the captain of the Titanic?"
SCRIPT = "document.title='taken';document.body.setAttribute('data-taken','1')"
EVIL = (
    f"<script>{SCRIPT}</script></mark></span></p></article></style></div>"
    f'<img src=x onerror="{SCRIPT}">\'"><svg onload="{SCRIPT}"> <!-- {{7*7}} &lt;b&gt; '
    "<iframe srcdoc='<script>parent.document.title=1</script>'></iframe>"
)


class Elements(HTMLParser):
    """Counts elements by name and class, and keeps the text of chunks."""

    def __init__(self, page):
        super().__init__()
        self.names, self.classes, self.chunks = Counter(), Counter(), []
        self.foreign, self._open = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        kinds = (given.get("class") or "").split()
        self.names[tag] += 1
        self.classes.update(kinds)
        self.foreign += [name for name in given if name.startswith("on") or name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self._open.append("chunk" in kinds)
            if "chunk" in kinds:
                self.chunks.append((tag, ""))

    def handle_endtag(self, tag):
        self._open.pop()

    def handle_data(self, data):
        if self._open and self._open[-1]:
            tag, text = self.chunks[-1]
            self.chunks[-1] = (tag, text + data)


def answered(engine, passages=PASSAGES, question=QUESTION, **settings):
    marked = [wrap(text, score=0.5) for text in passages]
    prompt = [{"role": "user", "content": "\n".join([*marked, question])}]
    return engine.generate(prompt, max_new_tokens=4, **settings)


def expected_chunks(record):
    """Element and text of every chunk, as the record says."""
    return [
        ("mark" if expanded else "span", text)
        for reading in record.layouts
        for text, expanded in zip(reading.texts(), reading.expanded, strict=True)
    ]


@pytest.fixture
def evil(engine):
    return answered(engine, [*PASSAGES, EVIL], question=f"Who? {EVIL}")


# --- the record ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy", ["lexical", "none", "all", "random", "retrieval", "exact+lexical"]
)
def test_an_answer_says_how_each_span_was_read(engine, policy):
    answer = answered(engine, policy=policy, p=0.3)
    prompt = engine.compress(
        "\n".join(map(compressible, PASSAGES)), question=answer.question, policy=policy, p=0.3
    )
    assert [reading.text for reading in answer.layouts] == PASSAGES
    assert ["".join(reading.texts()) for reading in answer.layouts] == PASSAGES
    assert [reading.retrieval for reading in answer.layouts] == [0.5, 0.5]
    assert sum(int(r.expanded.sum()) for r in answer.layouts) == answer.counts.expanded
    assert expected_chunks(prompt) == expected_chunks(answer)
    assert [r.scores is not None for r in answer.layouts] == [
        policy in ("lexical", "retrieval")
    ] * 2
    assert answer.question == QUESTION
    assert all("readings" not in name and name != "question" for name in answer.metadata())


def test_a_kept_answer_keeps_no_vectors(engine):
    """Vectors are the bulk of a prompt, and many answers may be kept."""
    widths = [
        value.shape
        for reading in answered(engine).layouts
        for value in vars(reading).values()
        if isinstance(value, np.ndarray)
    ]
    assert widths
    assert all(len(shape) == 1 for shape in widths)


def test_ranks_stretch_over_all_passages_and_leave_out_what_has_no_score():
    def reading(*scores):
        ends, mask = np.arange(1, len(scores) + 1), np.zeros(len(scores), bool)
        return SpanLayout("x" * len(scores), ends, mask, True, scores=np.array(scores, float))

    def ranks(*layouts):
        shown = Inspection("", layouts, 1, 2)
        return [[chunk.rank for chunk in chunks] for chunks in shown.passages()]

    assert ranks(reading(1, np.nan), reading(3, 2, -np.inf)) == [[0, 0], [1, 0.5, 0]]
    assert ranks(reading(2, 2, np.nan)) == [[1, 1, 0]]
    assert ranks(SpanLayout("x", np.array([1]), np.array([True]), False)) == [[0]]


def test_the_parts_of_the_time_make_up_the_whole(engine):
    timings = answered(engine).timings
    assert sum(seconds for _, seconds in timings.parts()) == pytest.approx(
        timings.total_s, rel=1e-3
    )


# --- the page ------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["lexical", "none", "all"])
def test_every_chunk_is_one_element_with_its_text(engine, policy):
    answer = answered(engine, policy=policy, p=0.3)
    found = Elements(render(answer))
    assert found.chunks == expected_chunks(answer)
    assert found.classes["passage"] == 2
    assert found.names["h1"] == 1


def test_positions_and_timings_are_on_the_page(engine):
    answer = answered(engine)
    page = render(answer)
    counts = answer.counts
    assert f"<b>{counts.positions}</b> positions instead of {counts.plain_positions}" in page
    assert f"{counts.positions_saved} saved" in page
    for name, _ in answer.timings.parts():
        assert f"{name} <b>" in page
    assert "retrieval score 0.5" in page
    assert page.count("not in the store") == 2
    assert "from the store" in render(answered(engine))


def test_nothing_of_a_document_becomes_markup(evil):
    page = render(evil)
    found = Elements(page)
    assert found.chunks == expected_chunks(evil)
    assert not set(found.names) & {"script", "img", "svg", "iframe"}
    assert found.foreign == []


def test_the_page_fetches_nothing(engine):
    page = render(answered(engine))
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|url\(|@import|<link|<script", page)


def test_a_title_stands_for_a_long_question(engine):
    long = "Context " * 100 + QUESTION
    answer = answered(engine, question=long)
    page = render(answer)
    assert f"<title>{long[:HEADING].rstrip()}…</title>" in page
    assert "what the policy was asked" in page
    assert f"<title>{QUESTION}</title>" in render(answer, title=QUESTION)
    assert "what the policy was asked" not in render(answered(engine))


def test_records_without_spans_question_or_characters_of_utf8(engine):
    page = render(engine.generate("Hello", max_new_tokens=2))
    assert "no marked passages" in page
    assert "No question" in render(Inspection("", (), 3, 3))
    broken = Inspection("a\ud800b", (), 1, 1, answer="\ud800")
    assert "a?b" in render(broken).encode("utf-8").decode("utf-8")


def test_jupyter_shows_the_same(engine):
    answer = answered(engine)
    prompt = engine.compress(compressible(PASSAGES[0]) + QUESTION)
    for record in (answer, prompt):
        shown = record._repr_html_()
        assert shown.startswith('<div class="refrag">')
        assert shown in render(record)
    assert Elements(prompt._repr_html_()).chunks == expected_chunks(prompt)
    assert "timings" not in prompt._repr_html_().split("</style>")[1]


# --- the command ---------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder that `refrag index` indexed, with a small embedding model."""
    pytest.importorskip("faiss")
    library = pytest.importorskip("refrag_rag.demo.library")
    from tests.llama_index.chains import HashedWords

    monkeypatch.setattr(library, "embedding_model", HashedWords)
    folder = tmp_path / "documents"
    folder.mkdir()
    for number, text in enumerate([*PASSAGES, EVIL]):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    assert main(["index", str(folder), "--home", str(tmp_path / "home")]) == 0
    return tmp_path / "home"


def test_the_command_asks_and_writes_the_page(home, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["inspect", QUESTION, "--home", str(home), "--out", str(page), "--top-k", "2"]) == 0
    text = page.read_text("utf-8")
    answer, written = capsys.readouterr().out.splitlines()[-2:]
    assert written == str(page)
    assert f'<p class="answer" dir="auto">{answer}</p>' in text
    found = Elements(text)
    assert found.classes["passage"] == 2
    assert f"<title>{QUESTION}</title>" in text
    assert 0 < found.names["mark"] < found.classes["chunk"]


def test_the_command_refuses_a_folder_that_is_not_there(tmp_path, capsys):
    page = tmp_path / "no" / "page.html"
    assert main(["inspect", "?", "--home", str(tmp_path), "--out", str(page)]) == 1
    assert "no folder" in capsys.readouterr().err


# --- the browser ---------------------------------------------------------------------------


@needs_browser
def test_a_browser_shows_every_chunk_and_runs_nothing(evil, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(render(evil), encoding="utf-8")
    seen = Elements(dump(page))
    assert [tag for tag, _ in seen.chunks] == [tag for tag, _ in expected_chunks(evil)]
    assert [text for _, text in seen.chunks] == [text for _, text in expected_chunks(evil)]
    assert not set(seen.names) & {"script", "img", "svg", "iframe"}


@needs_browser
def test_even_markup_that_got_into_the_page_runs_nothing(evil, tmp_path):
    """The page forbids scripts; without that this browser would run them."""
    page, unguarded = tmp_path / "page.html", tmp_path / "unguarded.html"
    broken = render(evil).replace("</body>", f"{EVIL}</body>")
    page.write_text(broken, encoding="utf-8")
    unguarded.write_text(broken.replace("Content-Security-Policy", "none"), encoding="utf-8")
    assert "data-taken" not in dump(page).split("<body")[1].split(">")[0]
    assert "data-taken" in dump(unguarded).split("<body")[1].split(">")[0]


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_paints_the_page(model, tmp_path, dark):
    image = pytest.importorskip("PIL.Image")
    page, target = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(render(answered(Refrag(model), p=0.3)), encoding="utf-8")
    screenshot(page, target, dark=dark)
    with image.open(target) as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)  # (height, width, 3)
    assert pixels.shape == (900, 900, 3)
    assert (pixels[0, 0].mean() < 60) == dark  # the paper
    red, green, blue = pixels.reshape(-1, 3).T
    amber = (red > 200) & (green > 120) & (blue < 90)  # the line below expanded chunks
    vectors = (blue > 200) & (red < 130)  # the bar
    assert amber.sum() > 200
    assert vectors.sum() > 200
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
