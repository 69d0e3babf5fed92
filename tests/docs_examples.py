"""The code of the docs' pages, to be run."""

import asyncio
import inspect
import re
from ast import PyCF_ALLOW_TOP_LEVEL_AWAIT
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def run_example(page, heading, names):
    """Run the first block of Python below a heading, which may await; gives all names then."""
    section = (DOCS / page).read_text("utf-8").partition(f"\n## {heading}\n")[2]
    block = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    found = eval(compile(block, page, "exec", flags=PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.isawaitable(found):
        asyncio.run(found)
    return names
