"""A blocking iterator, read from an event loop."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def read_in_thread(start: Callable[[], Iterator[T]]) -> AsyncGenerator[T, None]:
    """Run an iterator in one thread from start to end and yield its items here.

    Its exception is raised here too. A reader that goes away stops the thread at the next item.

    Parameters
    ----------
    start
        Makes the iterator; called in the thread, as locks and inference modes belong to threads.
    """
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[tuple[T] | None] = asyncio.Queue()
    abandoned = threading.Event()

    def send(item: tuple[T] | None) -> None:
        with suppress(RuntimeError):  # the loop may close while an abandoned step still runs
            loop.call_soon_threadsafe(inbox.put_nowait, item)

    def work() -> None:
        try:
            for item in start():
                if abandoned.is_set():
                    return
                send((item,))
        finally:
            send(None)

    worker = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        while (box := await inbox.get()) is not None:
            yield box[0]
        await worker
    finally:
        abandoned.set()
        worker.cancel()
