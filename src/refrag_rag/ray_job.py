"""Encoding on a Ray cluster: workers write shards, this process takes them into the store.

A store has one writer, so the machines of a cluster meet in a folder that all of them reach. It
keeps what was written: a job that was killed goes on from there.
"""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError
from refrag_rag.extras import need
from refrag_rag.spans import neutralise
from refrag_rag.store import LMDBStore, passage_key
from refrag_rag.store.shards import Imported, import_shards, write_shard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCH = 256  # passages of one shard


class ShardWriter:
    """One worker: it loads the model once, and writes what it encodes as shards.

    Parameters
    ----------
    model
        Name, folder or hub id; every machine must reach it.
    folder
        Where shards go; every machine must reach it.
    options
        Of `Refrag.load`.
    """

    def __init__(self, model: str, folder: str, options: dict[str, Any]) -> None:
        self._engine = Refrag.load(model, **options)
        self._folder = folder

    def __call__(self, batch: "dict[str, NDArray[np.object_]]") -> dict[str, list[str]]:
        """Encode the texts of a batch.

        Returns
        -------
        dict
            The namespace and the path of the shard.
        """
        texts = [str(text) for text in batch["text"]]
        self._engine.precompute(texts)
        keys = [passage_key(text) for text in texts]
        found = self._engine.store.get(self._engine.namespace, keys)
        entries = {k: e for k, e in zip(keys, found, strict=True) if e is not None}
        path = write_shard(self._folder, self._engine.namespace, entries)
        self._engine.store.delete(self._engine.namespace, keys)
        return {"namespace": [self._engine.namespace], "shard": [str(path)]}


def precompute_on_ray(
    engine: Refrag,
    texts: Sequence[str],
    *,
    model: str,
    folder: str | Path | None = None,
    workers: int = 2,
    options: dict[str, Any] | None = None,
) -> Imported:
    """Encode passages that the engine's store has not on the Ray cluster that is connected.

    Without one, Ray starts one on this machine. Scores of policies are not computed.

    Parameters
    ----------
    engine
        Its store, on disk, takes the shards in.
    texts
        Passages.
    model
        What the workers load: the same model as the engine's.
    folder
        Where workers write; the machines of the cluster share it. Shards in it count as done, and
        stay. None: a folder of this machine that is removed in the end.
    workers
        Processes that encode, each with a model of its own.
    options
        Of `Refrag.load` in the workers, such as ``device``.

    Returns
    -------
    Imported
        Counts of what was taken in.

    Raises
    ------
    MissingExtraError
        If Ray is not installed.
    InputError
        If the store is not on disk, or the workers' model is not the engine's.
    """
    need("ray", "precompute_on_ray")
    if not isinstance(engine.store, LMDBStore):
        raise InputError(
            f"A store of type {type(engine.store).__name__}; expected one on disk. Load the engine "
            "with store=FOLDER."
        )
    if workers < 1:
        raise InputError(f"workers = {workers}; expected at least 1.")
    with ExitStack() as stack:
        shards = Path(folder or stack.enter_context(tempfile.TemporaryDirectory()))
        shards.mkdir(parents=True, exist_ok=True)
        done = _take_in(engine, shards)
        missing = _missing(engine, texts)
        if not missing:
            return done
        made = _encode(missing, model, shards, workers, options or {})
        if strange := made - {engine.namespace}:
            raise InputError(
                f"The workers' model {model!r} has the fingerprint {sorted(strange)}; expected the "
                f"engine's, {engine.namespace}. Nothing was taken in; use another folder next time."
            )
        return _take_in(engine, shards)


def _encode(
    texts: Sequence[str], model: str, shards: Path, workers: int, options: dict[str, Any]
) -> set[str]:
    """Write the shards; the namespaces that they are under."""
    import ray.data

    # By length, so that the passages of a batch are alike.
    rows = [{"text": text} for text in sorted(texts, key=len)]
    blocks = -(-len(rows) // BATCH)
    written = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        ShardWriter,
        fn_constructor_args=(model, str(shards.resolve()), options),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    return {str(row["namespace"]) for row in written.take_all()}


def _missing(engine: Refrag, texts: Sequence[str]) -> list[str]:
    """Passages that the store has not, once each."""
    wanted = list(dict.fromkeys(text for text in map(neutralise, texts) if text.strip()))
    have = set(engine.store.keys(engine.namespace))
    return [text for text in wanted if passage_key(text) not in have]


def _take_in(engine: Refrag, shards: Path) -> Imported:
    if not any(shards.glob("[!.]*.safetensors")) or not isinstance(engine.store, LMDBStore):
        return Imported(0, 0, 0, 0)
    return import_shards(engine.store, [shards])
