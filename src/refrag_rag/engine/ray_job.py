"""Encoding on a Ray cluster: workers write stores, this process merges them into its own.

A store has one writer, so the machines of a cluster meet in a folder that all of them reach. It
keeps what was written: a job that was killed goes on from there.
"""

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError, need
from refrag_rag.spans import neutralise
from refrag_rag.store import LMDBStore, passage_key
from refrag_rag.store.merge import Merged, merge_stores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCH = 256  # passages of one worker's store


class StoreWriter:
    """One worker: loads the model once, and writes what it encodes as stores into a folder.

    Every machine must reach model and folder; the options are those of `Refrag.load`.
    """

    def __init__(self, model: str, folder: str, options: dict[str, Any]) -> None:
        self._engine = Refrag.load(model, **options)
        self._folder = Path(folder)

    def __call__(self, batch: "dict[str, NDArray[np.object_]]") -> dict[str, list[str]]:
        """Write the texts of a batch; gives the namespace and the folder of their store."""
        texts = [str(text) for text in batch["text"]]
        engine, namespace, name = self._engine, self._engine.namespace, uuid4().hex
        engine.precompute(texts)
        keys = [passage_key(text) for text in texts]
        entries = zip(keys, engine.store.get(namespace, keys), strict=True)
        with LMDBStore(self._folder / f".{name}") as store:
            store.put(namespace, {key: entry for key, entry in entries if entry is not None})
        os.replace(self._folder / f".{name}", self._folder / name)  # whole under this name
        engine.store.delete(namespace, keys)
        return {"namespace": [namespace], "store": [str(self._folder / name)]}


def precompute_on_ray(
    engine: Refrag,
    texts: Sequence[str],
    *,
    model: str,
    folder: str | Path | None = None,
    workers: int = 2,
    options: dict[str, Any] | None = None,
) -> Merged:
    """Encode passages that the engine's store has not on the connected Ray cluster.

    Without one, Ray starts one on this machine. Scores of policies are not computed.

    Parameters
    ----------
    engine
        Its store, on disk, takes all in.
    texts
        Passages.
    model
        What the workers load: the same model as the engine's.
    folder
        Where workers write; the machines of the cluster share it. Stores in it count as done, and
        stay. None: a folder of this machine that is removed in the end.
    workers
        Processes that encode, each with a model of its own.
    options
        Of `Refrag.load` in the workers, such as ``device``.

    Returns
    -------
    Merged
        Counts of what was taken in.

    Raises
    ------
    MissingExtraError
        If Ray is not installed.
    InputError
        If the store is not on disk, or the workers' model is not the engine's.
    """
    if workers < 1:
        raise InputError(f"workers = {workers}; expected at least 1.")
    need("ray", "precompute_on_ray")
    if not isinstance(engine.store, LMDBStore):
        raise InputError(
            f"A store of type {type(engine.store).__name__}; expected one on disk. Load the engine "
            "with store=FOLDER."
        )
    with ExitStack() as stack:
        stores = Path(folder or stack.enter_context(tempfile.TemporaryDirectory()))
        stores.mkdir(parents=True, exist_ok=True)
        done = _take_in(engine.store, stores)
        missing = _missing(engine, texts)
        if not missing:
            return done
        made = _encode(missing, model, stores, workers, options or {})
        if strange := made - {engine.namespace}:
            raise InputError(
                f"The workers' model {model!r} has the fingerprint {sorted(strange)}; expected the "
                f"engine's, {engine.namespace}. Nothing was taken in; use another folder next time."
            )
        return _take_in(engine.store, stores)


def _encode(
    texts: Sequence[str], model: str, stores: Path, workers: int, options: dict[str, Any]
) -> set[str]:
    """Write the stores; the namespaces that they have."""
    import ray.data

    # By length, so that the passages of a batch are alike.
    rows = [{"text": text} for text in sorted(texts, key=len)]
    blocks = -(-len(rows) // BATCH)
    written = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        StoreWriter,
        fn_constructor_args=(model, str(stores.resolve()), options),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    return {str(row["namespace"]) for row in written.take_all()}


def _missing(engine: Refrag, texts: Sequence[str]) -> list[str]:
    """Passages that the store has not, once each."""
    wanted = list(dict.fromkeys(text for text in map(neutralise, texts) if text.strip()))
    have = engine.store.contains(engine.namespace, list(map(passage_key, wanted)))
    return [text for text, there in zip(wanted, have, strict=True) if not there]


def _take_in(store: LMDBStore, folder: Path) -> Merged:
    return merge_stores(store, [one for one in sorted(folder.glob("[!.]*")) if one.is_dir()])
