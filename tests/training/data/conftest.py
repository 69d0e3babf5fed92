import gzip
import json
import lzma

import pytest

OPENERS = {".jsonl": open, ".jsonl.gz": gzip.open, ".jsonl.xz": lzma.open}


@pytest.fixture
def write(tmp_path):
    """Writes records, or raw lines, to a file whose name says how it is compressed."""

    def write_(name, records):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
        opener = next(o for end, o in reversed(OPENERS.items()) if name.endswith(end))
        with opener(path, "wb") as file:
            file.write(b"\n".join(lines))
        return path

    return write_
