"""Answers that an event loop reads, as one sequence of steps in another thread."""

import asyncio
import os
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

    def __init__(self, given: asyncio.AbstractEventLoop | None = None) -> None:
        self._given = given
        self._own: tuple[int, asyncio.AbstractEventLoop] | None = None

    def read(
        self, rows: Sequence[Row], stopped: Callable[[int], bool]
    ) -> Generator[list[Token], None, None]:
        """Read rows at the same time. One that nobody needs any more is cancelled.

        Raises
        ------
        ServingError
            If a row fails, or the loop does not run in another thread.
        """
        loop = self._running()
        inbox: Inbox = SimpleQueue()
        tasks = [
            asyncio.run_coroutine_threadsafe(_forward(number, row, inbox), loop)
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

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._given is None:
            if self._own is None or self._own[0] != os.getpid():  # a fork has no threads
                loop = asyncio.new_event_loop()
                threading.Thread(target=_serve, args=(loop,), daemon=True).start()
                weakref.finalize(self, loop.call_soon_threadsafe, loop.stop)
                self._own = os.getpid(), loop
            return self._own[1]
        if not self._given.is_running() or asyncio._get_running_loop() is self._given:
            raise ServingError(
                "vLLM's engine belongs to an event loop that has ended, or that would wait for "
                "itself; expected one that runs elsewhere. Use the async methods in that loop, or "
                "build the AsyncLLM outside of any."
            )
        return self._given


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
