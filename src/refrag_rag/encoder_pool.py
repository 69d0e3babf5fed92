"""Several processes that cut and encode passages, on the CPU or on a GPU each; one writes.

The process that asks keeps what they make, since a store has one writer at a time.
"""

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import multiprocessing

from refrag_rag.chunking import ChunkedPassage, Chunker
from refrag_rag.encoder import ChunkEncoder
from refrag_rag.errors import InputError, RefragError
from refrag_rag.model import RefragModel


class Encoded(NamedTuple):
    """Passages with their chunk embeddings, *shape* (L, D_enc) each."""

    passages: list[ChunkedPassage]
    embeddings: list[NDArray[np.float32]]


class EncoderPool:
    """Processes that share the encoder's weights. They live as long as the context.

    Parameters
    ----------
    model
        Its encoder and chunker work. On the CPU the processes share its weights; on GPUs each has
        a copy.
    workers
        How many processes. On the CPU the cores are divided among them; of GPUs each takes one.
    batch_size
        Encoder windows at once.

    Raises
    ------
    InputError
        If there are fewer GPUs than that.
    """

    def __init__(self, model: RefragModel, workers: int, *, batch_size: int) -> None:
        devices = worker_devices(next(model.encoder.parameters()).device, workers)
        encoder = model.encoder
        if devices[0].type != "cpu":
            encoder = copy.deepcopy(encoder).cpu()  # each process moves it to its own device
        context = multiprocessing.get_context("spawn")
        threads = max(1, (os.cpu_count() or 1) // workers)
        self._pipes: list[Connection] = []
        self._processes = []
        for device in devices:
            ours, theirs = context.Pipe()
            arguments = (theirs, encoder, model.chunker, batch_size, threads, device)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> "EncoderPool":
        """Use as a context manager."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            if kind is not None:
                process.terminate()
            process.join()

    def encode(self, groups: Iterable[Sequence[str]]) -> Iterator[Encoded]:
        """Encode groups of passages, in the order in which they get done.

        Raises
        ------
        RefragError
            If a process ends before its time, or a passage cannot be encoded.
        """
        left = iter(groups)
        busy: set[Connection] = set()
        for pipe in self._pipes:
            self._send(pipe, left, busy)
        while busy:
            for ready in wait(list(busy)):
                if isinstance(ready, Connection):
                    made = self._receive(ready)
                    busy.discard(ready)
                    self._send(ready, left, busy)
                    yield made

    def _send(self, pipe: Connection, left: Iterator[Sequence[str]], busy: set[Connection]) -> None:
        group = next(left, None)
        if group is None:
            return
        try:
            pipe.send(list(group))
        except OSError as error:
            raise _gone() from error
        busy.add(pipe)

    def _receive(self, pipe: Connection) -> Encoded:
        try:
            found = pipe.recv()
        except (EOFError, OSError) as error:
            raise _gone() from error
        if isinstance(found, RefragError):
            raise found
        return Encoded(*found)


def worker_devices(device: torch.device, workers: int) -> list[torch.device]:
    """Where each process encodes: all on the CPU, or one on each of the first GPUs.

    Raises
    ------
    InputError
        If there are fewer GPUs than processes.
    """
    if device.type == "cpu":
        return [device] * workers
    found = torch.get_device_module(device).device_count()
    if workers > found:
        raise InputError(
            f"workers = {workers} with an encoder on {device}, and {found} such devices; expected "
            "at most one worker a device."
        )
    return [torch.device(device.type, index) for index in range(workers)]


def encode_group(
    encoder: ChunkEncoder, passages: Sequence[ChunkedPassage], windows: Any, batch_size: int
) -> Encoded:
    """Encode in this process."""
    made = encoder.encode(passages, batch_size=batch_size, windows=windows)
    return Encoded(list(passages), [tensor.float().cpu().numpy() for tensor in made])


def _serve(
    pipe: Connection,
    encoder: ChunkEncoder,
    chunker: Chunker,
    batch_size: int,
    threads: int,
    device: torch.device,
) -> None:
    torch.set_num_threads(threads)
    if device.type != "cpu":  # shared weights stay where they are
        encoder.to(device)
    while True:
        try:
            texts = pipe.recv()
        except EOFError:
            return
        try:
            passages = [chunker.chunk(text) for text in texts]
            pipe.send(tuple(encode_group(encoder, passages, None, batch_size)))
        except RefragError as error:
            pipe.send(error)


def _gone() -> RefragError:
    return RefragError(
        "A worker process ended before its time; what was kept stays, and calling again goes on "
        "from there. Was memory short? A script that uses workers needs the guard "
        "`if __name__ == '__main__':`."
    )
