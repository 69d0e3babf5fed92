"""Rows of the `datasets` library: of the hub, saved folders and its file formats."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from refrag_rag.errors import InputError

SAVED = ("dataset_dict.json", "state.json")
BUILDERS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".arrow": "arrow",
    ".txt": "text",
}


def read_rows(
    source: str, *, name: str | None, split: str | None, streaming: bool
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every row with its number, from 0 as the library counts.

    Parameters
    ----------
    source
        A hub id, a folder that ``save_to_disk`` wrote, or what ``load_dataset`` reads.
    name
        The configuration.
    split
        May be left out if there is only one.
    streaming
        Read rows as they come, without keeping a copy on this machine.

    Raises
    ------
    InputError
        If the data set or a row cannot be read, or the split is not clear.
    """
    return _rows(source, _load(source, name=name, split=split, streaming=streaming))


def _rows(source: str, dataset: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = iter(dataset)
    number = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # the formats below raise errors of many libraries
            raise InputError(
                f"hf:{source} cannot be read at row {number} ({type(error).__name__}: {error}); "
                "expected rows of one form. Check the data set or the connection."
            ) from error
        yield number, row
        number += 1


def _load(source: str, *, name: str | None, split: str | None, streaming: bool) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"hf:{source} needs the package datasets, which is not installed. "
            "Run: pip install datasets"
        ) from error
    path = Path(source).expanduser()
    try:
        if any((path / file).is_file() for file in SAVED):
            _check_no_name(source, name)
            return _one_split(source, datasets.load_from_disk(str(path)), split)
        if path.is_file():
            _check_no_name(source, name)
            builder, files = _builder(path), {"data_files": str(path)}
            loaded = datasets.load_dataset(builder, split=split, streaming=streaming, **files)
        else:
            loaded = datasets.load_dataset(source, name, split=split, streaming=streaming)
    except InputError:
        raise
    except Exception as error:  # the hub, the network and each format have errors of their own
        raise InputError(
            f"hf:{source} (config {name!r}, split {split!r}) cannot be loaded "
            f"({type(error).__name__}: {error}); expected a hub id, a saved folder or a file that "
            "datasets reads. Check name, config and split."
        ) from error
    return _one_split(source, loaded, None)


def _check_no_name(source: str, name: str | None) -> None:
    if name is not None:
        raise InputError(
            f"hf:{source} lies on this machine, but name={name!r} was given; expected no "
            "configuration. Leave it out."
        )


def _builder(path: Path) -> str:
    for suffix in path.suffixes:
        if suffix.lower() in BUILDERS:
            return BUILDERS[suffix.lower()]
    raise InputError(f"hf:{path} is of no known kind; expected one of {', '.join(BUILDERS)}.")


def _one_split(source: str, loaded: Any, split: str | None) -> Any:
    """The one split that is wanted."""
    if not isinstance(loaded, dict):
        if split is not None and split != str(loaded.split):
            raise InputError(
                f"hf:{source} is one set without splits, but split={split!r} was given; "
                "expected none. Leave it out."
            )
        return loaded
    if split is not None and split not in loaded:
        raise InputError(
            f"hf:{source} has no split {split!r}; expected one of {', '.join(loaded)}."
        )
    if split is None and len(loaded) > 1:
        raise InputError(
            f"hf:{source} has the splits {', '.join(loaded)}; expected one. Name it with split=."
        )
    return loaded[split] if split is not None else next(iter(loaded.values()))
