"""The notebooks of `examples/` as pages: a hook of mkdocs, nothing is written into `docs/`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

EXAMPLES = Path(__file__).parents[1] / "examples"
FOLDER = "notebooks"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the notebooks into the navigation, in the order of `notebooks()`."""
    for entry in config.nav or []:
        if "Notebooks" in entry:
            entry["Notebooks"] = [f"{FOLDER}/{path.stem}.md" for path in notebooks()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add one page a notebook."""
    for path in notebooks():
        page = as_markdown(json.loads(path.read_text("utf-8")), path.name)
        files.append(File.generated(config, f"{FOLDER}/{path.stem}.md", content=page))
    return files


def notebooks() -> list[Path]:
    """The quickstarts first, then by name."""
    return sorted(EXAMPLES.glob("*.ipynb"), key=lambda p: (not p.stem.startswith("quick"), p.stem))


def as_markdown(notebook: dict[str, Any], name: str) -> str:
    """Cells in their order: text as it is, code and outputs in fences, pictures inline."""
    parts = []
    for place, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            if place == 0:
                parts.append(f"*This page is the notebook `examples/{name}` with its outputs.*")
        elif cell["cell_type"] == "code":
            parts += [_fence("python", source), *_outputs(cell["outputs"])]
    return "\n\n".join(parts) + "\n"


def _outputs(outputs: list[dict[str, Any]]) -> Iterator[str]:
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            picture = "".join(data["image/png"]).replace("\n", "")
            yield f"![The picture that this cell draws](data:image/png;base64,{picture})"
        elif "text/html" in data:
            yield "".join(data["text/html"])
        elif text := "".join(output.get("text", data.get("text/plain", ""))):
            yield _fence("text", text)


def _fence(language: str, text: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````"
