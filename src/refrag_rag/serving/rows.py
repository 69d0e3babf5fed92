"""Answers that an event loop reads, as one sequence of steps in another thread."""

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing
from queue import SimpleQueue

from refrag_rag.errors import ServingError
from refrag_rag.generation.decode import Token

Row = AsyncGenerator[Sequence[int], None]  # new token ids of one answer, as they come
Inbox = SimpleQueue[tuple[int, Sequence[int] | BaseException | None]]  # a row's, its error or end


class Loop:
    """An event loop in another thread: a given one, or one of its own that ends with it."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        if loop is None:
            loop = asyncio.new_event_loop()
            threading.Thread(target=_serve, args=(loop,), daemon=True).start()
            weakref.finalize(self, loop.call_soon_threadsafe, loop.stop)
        elif not loop.is_running():
            raise ServingError(
                "vLLM's engine belongs to an event loop that has ended; expected one that runs. "
                "Build the AsyncLLM outside of any event loop."
            )
        self._loop = loop

    def read(
        self, rows: Sequence[Row], stopped: Callable[[int], bool]
    ) -> Generator[list[Token], None, None]:
        """Read rows at the same time. One that nobody needs any more is cancelled.

        Raises
        ------
        ServingError
            If a row fails, or this is called in the loop itself.
        """
        if asyncio._get_running_loop() is self._loop:
            raise ServingError(
                "A call in the event loop of vLLM's engine would wait for itself; expected another "
                "thread. Use the async methods."
            )
        inbox: Inbox = SimpleQueue()
        tasks = [
            asyncio.run_coroutine_threadsafe(_forward(number, row, inbox), self._loop)
            for number, row in enumerate(rows)
        ]
        running = set(range(len(rows)))
        try:
            while running:
                number, found = inbox.get()
                if number not in running:  # cancelled already
                    continue
                if isinstance(found, ServingError):
                    raise found
                if isinstance(found, BaseException):
                    raise ServingError(
                        f"vLLM failed ({type(found).__name__}: {found}). See its log."
                    ) from found
                for token in found or ():
                    yield [(number, token)]
                    if stopped(number):
                        break
                if found is None or stopped(number):
                    running.discard(number)
                    tasks[number].cancel()
        finally:
            for task in tasks:
                task.cancel()


async def _forward(number: int, row: Row, inbox: Inbox) -> None:
    try:
        async with aclosing(row):
            async for ids in row:
                inbox.put((number, ids))
        inbox.put((number, None))
    except BaseException as error:
        inbox.put((number, error))
        raise


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()
