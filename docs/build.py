"""Write the generated pages: the command line, and the tables of measured figures."""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import figures

from refrag_rag.cli import build_parser
from refrag_rag.evaluation.expansion import markdown as policy_tables
from refrag_rag.evaluation.table import markdown
from refrag_rag.training.commands import SERVING, STAGES
from refrag_rag.training.commands import main as train

DOCS = Path(__file__).parent
CARD = DOCS.parent / "src/refrag_rag/models/smol/README.md"
FIGURES = DOCS / "results" / "smol" / "results.json"
POLICIES = DOCS / "results" / "policies.json"
MODES = DOCS / "results" / "modes.json"


def cli_page() -> str:
    """All commands, from the parsers themselves: the same on every Python and terminal."""
    page = "# Command line\n\nMade by `make docs` from the commands' own parsers.\n"
    for command in (*commands(build_parser()), *training_commands()):
        page += f"\n## {command.prog}\n\n{_about(command)}\n\n{_arguments(command)}"
    return page


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and all below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            for name, command in action.choices.items():
                command.description = command.description or helps.get(name)
                yield from commands(command)


def training_commands() -> Iterator[argparse.ArgumentParser]:
    """The commands below `refrag train` make their parsers when they run: stop them there."""

    class Parsed(Exception):
        pass

    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        raise Parsed(parser)

    for name in (*STAGES, *SERVING):
        try:
            with patch.object(argparse.ArgumentParser, "parse_args", stop):
                train([name])
        except Parsed as found:
            parser = found.args[0]
            parser.prog = f"refrag train {name}"
            yield parser


def _about(command: argparse.ArgumentParser) -> str:
    text = " ".join((command.description or "").split())
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _arguments(command: argparse.ArgumentParser) -> str:
    rows = []
    for action in command._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        names = ", ".join(f"`{name}`" for name in action.option_strings)
        value = action.metavar or (action.dest.upper() if names else action.dest)
        takes = "" if names and action.nargs == 0 else f" `{value}`"
        text = (action.help or "").replace("|", "\\|")
        rows.append(f"| {(names + takes).strip()} | {text} |\n")
    return "| argument | meaning |\n|---|---|\n" + "".join(rows) if rows else ""


def tables() -> str:
    result = json.loads(FIGURES.read_text("utf-8"))
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    parts = [f"Python {result['python']}, {versions}; {result['machine']}.\n"]
    parts += markdown(result["files"])
    for name, skipped in result["too_long"].items():
        if skipped:
            parts.append(f"{skipped} questions of {name} were too long for the decoder.\n")
    return "\n".join(parts)


def policies() -> str:
    report = json.loads(POLICIES.read_text("utf-8"))
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    questions = report["points"][0]["cases"]
    lines = [
        f"Model fingerprint `{report['fingerprint']}`, {questions} held-out questions of its own "
        f"domain, eight retrieved passages each (recall {report['recall_at_8']:.1%}). "
        f"{report['measure'].capitalize()}, mean and 95% bootstrap interval; lower is better. "
        f"Python {report['python']}, {versions}; {report['machine']}.\n",
        policy_tables(report),
        _gold_retrieved(report["points_gold_retrieved"]),
        "![Log-perplexity over the effective compression rate](results/policies.png)\n",
        "Differences at p = 0.1 on the same questions (paired bootstrap, 95%):\n",
    ]
    for one in report["differences"]:
        if one["p"] == 0.1 and one["policy"].startswith(("lexical", "learned")):
            lines.append(
                f"- `{one['policy']}` against `{one['than']}`: {one['mean']:+.4f} "
                f"({one['low']:+.4f} to {one['high']:+.4f})"
            )
    return "\n".join(lines) + "\n"


def _gold_retrieved(points: list[dict[str, Any]]) -> str:
    """The primary measure where the gold passage is surely among the passages."""
    shown = [one for one in points if one["p"] in (0.0, 0.1, 1.0)]
    values = ", ".join(f"`{one['policy']}` {one['value']:.4f}" for one in shown)
    questions = f"{shown[0]['cases']:,} questions with their gold passage among the eight"
    return f"At p = 0.1 on the {questions}: {values}.\n"


def coverage() -> None:
    """Table of how often what a policy expands holds the answer."""
    from refrag_rag.evaluation.coverage import markdown as table

    path = DOCS / "results" / "coverage.json"
    if path.exists():
        report = json.loads(path.read_text("utf-8"))
        versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
        head = f"Chunks of {report['k']} tokens of `{report['model']}`'s tokenizer. "
        head += f"Python {report['python']}, {versions}; {report['machine']}.\n\n"
        markers = ("<!-- coverage -->", "<!-- end coverage -->")
        insert(DOCS / "policies.md", head + table(report["rows"]), markers)


def speed() -> None:
    """Tables of the benchmarks that were run, each from its own file."""
    from refrag_rag.demo.latency import frameworks_table
    from refrag_rag.evaluation.latency_chat import chat_table
    from refrag_rag.evaluation.latency_precompute import precompute_table
    from refrag_rag.evaluation.latency_tables import markdown as latency_tables

    pictures = {"latency": "Speed-ups over the context", "frameworks": "Where the time goes"}
    tables = {
        "latency": latency_tables,
        "frameworks": frameworks_table,
        "chat": chat_table,
        "precompute": precompute_table,
    }
    for name, table in tables.items():
        path = DOCS / "results" / f"{name}.json"
        if path.exists():
            found = json.loads(path.read_text("utf-8"))
            text = table(found)
            if name != "latency":  # which names its machine itself
                machine = found["machine"]
                text = f"{machine['processor']}, {machine['threads']} threads.\n\n{text}"
            if name in pictures:
                text += f"\n![{pictures[name]}](results/{name}.png)\n"
            insert(DOCS / "speed.md", text, (f"<!-- {name} -->", f"<!-- end {name} -->"))


def store() -> None:
    """Tables of the store: its formats, and how it grows."""
    from refrag_rag.evaluation import store_formats, store_growth

    path = DOCS / "results" / "store.json"
    if not path.exists():
        return
    found = json.loads(path.read_text("utf-8"))
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    machine = f"Python {found['python']}, {versions}; {found['machine']}.\n"
    tables = {}
    if found["formats"]:
        questions = found["formats"][0]["answers"][0]["questions"]
        head = f"`{found['model']}` ({found['fingerprint']}), {questions} held-out questions. "
        tables["formats"] = head + machine + "\n" + store_formats.markdown(found["formats"])
    if found["growth"]:
        tables["growth"] = machine + "\n" + store_growth.markdown(found["growth"])
    if done := found.get("compaction"):  # a run that was broken off, or a large one, has none
        tables["growth"] += (
            f"\nDeleting {done['deleted']:,} of them took {done['delete_s']:.1f} s, compacting "
            f"{done['compact_s']:.0f} s; {done['bytes_given_back'] / 1e9:.1f} GB were given back.\n"
        )
    for name, text in tables.items():
        insert(DOCS / "store.md", text, (f"<!-- {name} -->", f"<!-- end {name} -->"))


def ablations() -> None:
    """Tables of the ablations that were run, with what was read to train and to measure."""
    sys.path.insert(0, str(DOCS.parent))
    from recipes.tiny.ablations import markdown

    for name in ("curriculum", "reconstruction"):
        path = DOCS / "results" / f"{name}.json"
        if path.exists():
            found = json.loads(path.read_text("utf-8"))
            settings, gap = found["settings"], found["difference"]
            versions = ", ".join(f"{one} {number}" for one, number in found["versions"].items())
            read = f"{settings['tokens']:,} tokens" if settings["tokens"] else ""
            after = settings.get("lr_after")
            head = (
                f"k = {settings['k']}, up to {found['chunks']} chunks, "
                f"{read or str(settings['steps']) + ' steps'} of {settings['batch_size']} examples "
                f"an arm, learning rate {settings['lr']}{f' and then {after}' if after else ''}, "
                f"decoder of `{settings['model']}`, "
                f"seeds {settings['seeds']}; {gap['examples']} held-out examples of each length. "
                f"Python {found['python']}, {versions}; {found['machine']}.\n\n"
            )
            marks = (f"<!-- {name} -->", f"<!-- end {name} -->")
            insert(DOCS.parent / "recipes" / "tiny" / "README.md", head + markdown(found), marks)


def insert(
    path: Path, text: str, marks: tuple[str, str] = ("<!-- figures -->", "<!-- end -->")
) -> None:
    """Replace what stands between the two marks of a page."""
    page = path.read_text("utf-8")
    first, last = map(re.escape, marks)
    marked = re.compile(rf"({first}\n).*({last})", re.DOTALL)
    path.write_text(marked.sub(lambda m: m[1] + text + m[2], page), encoding="utf-8")


def architectures() -> str:
    sys.path.insert(0, str(DOCS.parent))
    from tests.architectures import DECODERS, ENCODERS

    lines = ["| part | architecture | class | of note |", "|---|---|---|---|"]
    for part, items in (("decoder", DECODERS), ("encoder", ENCODERS)):
        for item in items:
            name = type(item.model()).__name__
            lines.append(f"| {part} | {item.name} | `{name}` | {item.care} |")
    return "\n".join(lines) + "\n"


def modes() -> str:
    """Tables of the framework modes, from the rows that the tests wrote."""
    results = {"works": "works", "degrades": "degrades to text", "not applicable": "not applicable"}
    head = f"| mode | {' | '.join(results.values())} | |\n|---|---|---|---|---|\n"
    parts: dict[str, str] = {}
    for row in json.loads(MODES.read_text("utf-8")):
        ticks = " | ".join("✓" if row["result"] == result else "" for result in results)
        line = f"| {row['name']} | {ticks} | {row['note']} |\n"
        parts[row["framework"]] = parts.get(row["framework"], head) + line
    return "\n".join(f"## {name}\n\n{rows}" for name, rows in parts.items())


def site(folder: Path) -> None:
    """Build the pages as HTML; a warning is an error.

    Raises
    ------
    SystemExit
        If a page, a link or a name of the API reference is missing.
    """
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(DOCS.parent / "mkdocs.yml"), site_dir=str(folder)))


if __name__ == "__main__":
    insert(DOCS / "modes.md", modes())
    insert(DOCS / "models.md", architectures())
    (DOCS / "cli.md").write_text(cli_page(), encoding="utf-8")
    if POLICIES.exists():
        insert(DOCS / "policies.md", policies())
    coverage()
    if FIGURES.exists():
        for path in (CARD, DOCS / "results.md"):
            insert(path, tables())
    ablations()
    speed()
    store()
    figures.write(DOCS / "figures")
    site(DOCS.parent / "site")
