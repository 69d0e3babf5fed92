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

from recipes.tiny.evaluation.policies import markdown as policy_tables
from refrag_rag.cli import build_parser
from refrag_rag.cli.train import SERVING, STAGES
from refrag_rag.cli.train import main as train
from refrag_rag.evaluation.report import where
from refrag_rag.evaluation.table import markdown

DOCS = Path(__file__).parent
CARD = DOCS.parent / "src/refrag_rag/checkpoints/models/smol/README.md"
FIGURES = DOCS / "results" / "smol" / "results.json"
POLICIES = DOCS / "results" / "policies.json"
MODES = DOCS / "results" / "modes.json"
FIRST_STAGES = (
    "framework", "spans and tokenizer", "store", "layout", "inputs", "projector", "prefill",
    "decode",
)  # fmt: skip


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
            with patch.object(argparse.ArgumentParser, "parse_known_args", stop):
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
    parts = [f"{where(result)}\n"]
    parts += markdown(result["files"])
    for name, skipped in result["too_long"].items():
        if skipped:
            parts.append(f"{skipped} questions of {name} were too long for the decoder.\n")
    return "\n".join(parts)


def policies() -> str:
    report = json.loads(POLICIES.read_text("utf-8"))
    questions = report["points"][0]["cases"]
    lines = [
        f"Model fingerprint `{report['fingerprint']}`, {questions} held-out questions of its own "
        f"domain, eight retrieved passages each (recall {report['recall_at_8']:.1%}). "
        f"{report['measure'].capitalize()}, mean and 95% bootstrap interval; lower is better. "
        f"{where(report)}\n",
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
        head = f"Chunks of {report['k']} tokens of `{report['model']}`'s tokenizer. "
        head += f"{where(report)}\n\n"
        markers = ("<!-- coverage -->", "<!-- end coverage -->")
        insert(DOCS / "policies.md", head + table(report["rows"]), markers)


def speed() -> dict[str, str]:
    """Tables of the benchmarks that were run, by the name of the benchmark and of its file."""
    from benchmarks import chat, frameworks, latency, precompute

    pages = {
        "latency": latency.markdown,
        "frameworks": frameworks.markdown,
        "chat": chat.markdown,
        "precompute": precompute.markdown,
    }
    found = {name: _result(name) for name in pages}
    texts = {name: pages[name](report) for name, report in found.items() if report}
    return {  # latency names its machine itself
        name: text if name == "latency" else f"{where(found[name])}\n\n{text}"
        for name, text in texts.items()
    }


def serving() -> dict[str, str]:
    """Table of requests at the same time."""
    from benchmarks.serving import markdown

    found = _result("serving")
    return {"serving": f"{where(found)}\n\n{markdown(found)}"} if found else {}


def store() -> dict[str, str]:
    """Tables of the store: its formats, and how it grows."""
    from benchmarks.formats import formats_table
    from benchmarks.harness import columns
    from benchmarks.store import GROWTH, compaction

    found = _result("store")
    if not found:
        return {}
    tables = {}
    if found["formats"]:
        questions = found["formats"][0]["answers"][0]["questions"]
        head = f"`{found['model']}` ({found['fingerprint']}), {questions} held-out questions. "
        tables["formats"] = f"{head}{where(found)}\n\n{formats_table(found['formats'])}"
    if found["growth"]:
        tables["growth"] = f"{where(found)}\n\n{columns(found['growth'], GROWTH)}"
    if found.get("compaction"):  # a run that was broken off, or a large one, has none
        tables["growth"] += f"\n{compaction(found['compaction'])}"
    return tables


def _result(name: str) -> dict[str, Any]:
    """A benchmark's report; those of the first benchmarks have the machine in parts."""
    path = DOCS / "results" / f"{name}.json"
    found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if isinstance(found.get("machine"), dict):
        found |= found["machine"]
        found["machine"] = f"{found['processor']}, {found['threads']} threads"
        found["stages"] = FIRST_STAGES
    return found


def ablations() -> None:
    """Tables of the ablations that were run, with what was read to train and to measure."""
    sys.path.insert(0, str(DOCS.parent))
    from recipes.tiny.ablations import markdown

    for name in ("curriculum", "reconstruction"):
        path = DOCS / "results" / f"{name}.json"
        if path.exists():
            found = json.loads(path.read_text("utf-8"))
            settings, gap = found["settings"], found["difference"]
            read = f"{settings['tokens']:,} tokens" if settings["tokens"] else ""
            after = settings.get("lr_after")
            head = (
                f"k = {settings['k']}, up to {found['chunks']} chunks, "
                f"{read or str(settings['steps']) + ' steps'} of {settings['batch_size']} examples "
                f"an arm, learning rate {settings['lr']}{f' and then {after}' if after else ''}, "
                f"decoder of `{settings['model']}`, "
                f"seeds {settings['seeds']}; {gap['examples']} held-out examples of each length. "
                f"{where(found)}\n\n"
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
    sys.path.insert(0, str(DOCS.parent))  # benchmarks and tests
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
    for page, texts in (
        ("speed.md", speed()), ("store.md", store()), ("serving.md", serving()),
    ):  # fmt: skip
        for name, text in texts.items():
            insert(DOCS / page, text, (f"<!-- {name} -->", f"<!-- end {name} -->"))
    figures.write(DOCS / "figures")
    site(DOCS.parent / "site")
