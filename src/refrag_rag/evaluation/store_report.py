"""``refrag bench store``: both tables, and the figures as JSON."""

import json
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from recipes.tiny.questions import held_out_questions
from refrag_rag.errors import InputError
from refrag_rag.evaluation import store_formats, store_growth
from refrag_rag.model import RefragModel

PACKAGES = ("torch", "transformers", "numpy", "lmdb")


def measure_store(
    model: str, target: Path, *, questions: int, passages: int, folder: Path | None = None
) -> Iterator[str]:
    """Measure, write JSON to `target`, and yield Markdown.

    Parameters
    ----------
    model
        Embedded name, folder or hub id.
    questions
        Held-out questions for the formats; 0 leaves the formats out.
    passages
        Size to which a store grows; 0 leaves that out. Checking all entries and compacting are
        measured up to `store_growth.LARGEST_WALK` passages only.
    folder
        Where it grows; it must be empty, and is left as it is in the end. By default a temporary
        folder.

    Raises
    ------
    InputError
        If the folder is not empty.
    """
    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; expected a new or an empty folder.")
    report: dict[str, Any] = {
        "model": model,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": {package: version(package) for package in PACKAGES},
        "formats": [],
        "growth": [],
    }
    if questions:
        loaded = RefragModel.from_pretrained(model)
        report |= {"fingerprint": loaded.fingerprint, "k": loaded.config.k}
        asked = held_out_questions(loaded.tokenizer, count=questions)
        for row in store_formats.measure_formats(loaded, asked):
            report["formats"].append(asdict(row))
            _write(report, target)  # a long run leaves what it has
        yield store_formats.markdown(report["formats"])
    if passages:
        with tempfile.TemporaryDirectory() as temporary:
            place = Path(temporary) / "store" if folder is None else folder
            for step in store_growth.measure_growth(place, passages):
                report["growth"].append(asdict(step))
                _write(report, target)
            if passages <= store_growth.LARGEST_WALK:
                report["compaction"] = store_growth.measure_compaction(place)
        yield store_growth.markdown(report["growth"])
        if "compaction" in report:
            yield f"Delete and compact: {report['compaction']}\n"
    _write(report, target)


def _write(report: dict[str, Any], target: Path) -> None:
    target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
