"""The docs are whole, and what is generated in them is not stale."""

import ast
import functools
import importlib.util
import re
import sys
from pathlib import Path

import pytest

import refrag_rag
import refrag_rag.langchain
import refrag_rag.llama_index
from refrag_rag import errors

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PUBLIC = (refrag_rag, refrag_rag.llama_index, refrag_rag.langchain)
ERRORS = [name for name in vars(errors) if name.endswith("Error")]


@pytest.fixture(scope="module")
def build():
    """The module `docs/build.py`."""
    # By its path: a package of PyPI has the same name.
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(DOCS))
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def site(build, tmp_path_factory):
    """The site, built strictly: a warning is an error."""
    pytest.importorskip("mkdocs", reason="mkdocs is in the extra docs")
    pytest.importorskip("material", reason="mkdocs-material is in the extra docs")
    folder = tmp_path_factory.mktemp("site")
    build.site(folder)
    return folder


def test_the_command_line_page_is_fresh(build):
    """`make docs` writes it again."""
    assert (DOCS / "cli.md").read_text("utf-8") == build.cli_page()


def test_the_command_line_page_has_every_command(build):
    page = build.cli_page()
    for command in ("refrag demo", "refrag ask", "refrag train finetune", "refrag train prepare"):
        assert f"\n## {command}\n" in page
    assert "| `-p` `P` |" in page


@pytest.mark.parametrize("page", ["speed", "store", "serving"])
def test_the_tables_of_the_benchmarks_are_fresh(build, page):
    text = (DOCS / f"{page}.md").read_text("utf-8")
    tables = getattr(build, page)()
    assert len(tables) == {"speed": 4, "store": 2, "serving": 1}[page]
    for name, table in tables.items():
        assert f"<!-- {name} -->\n{table}<!-- end {name} -->" in text


def test_figures_are_fresh(build, tmp_path):
    build.figures.write(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_text("utf-8") == (DOCS / "figures" / path.name).read_text("utf-8")


def test_the_site_builds_strictly_and_needs_no_network(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    loads = re.compile(r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=\"?(https?:)?//[^\">]*")
    for page in pages:
        assert loads.search(page.read_text("utf-8")) is None, page.name


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_the_api_reference_has_every_public_name(site, module):
    place = module.__name__.partition(".")[2] or "index"
    page = (site / "api" / f"{place}.html").read_text("utf-8")
    missing = [name for name in module.__all__ if f'id="{module.__name__}.{name}"' not in page]
    assert missing == []


def test_every_notebook_is_a_page(site):
    notebooks = {path.stem for path in (ROOT / "examples").glob("*.ipynb")}
    assert {path.stem for path in (site / "notebooks").glob("*.html")} == notebooks


def sections():
    """Error class -> quoted parts of its messages, from the troubleshooting page."""
    page = (DOCS / "troubleshooting.md").read_text("utf-8")
    for section in re.split(r"^## ", page, flags=re.M)[1:]:
        name, _, body = section.partition("\n")
        if name.endswith("Error"):
            yield name, re.findall(r"^\| `([^`]+)` \|", body, flags=re.M)


@functools.cache
def raised():
    """Error class -> the texts of all its messages in the source."""
    found = dict.fromkeys(ERRORS, "")
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") in found):
                continue
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    found[node.func.id] += part.value + "\n"
    return found


def test_troubleshooting_names_every_error_class():
    assert sorted(name for name, _ in sections()) == sorted(ERRORS)


@pytest.mark.parametrize(("name", "messages"), list(sections()))
def test_troubleshooting_quotes_messages_that_exist(name, messages):
    texts = raised()[name]
    assert messages
    assert [message for message in messages if message not in texts] == []
