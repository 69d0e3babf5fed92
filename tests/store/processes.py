"""Forked children: they have the modules already, so they start at once."""

import contextlib
import os
import signal
import traceback


class Child:
    """A forked process that runs `work(say)` and can be killed.

    Parameters
    ----------
    work
        Gets a function that sends a number to the parent.
    """

    def __init__(self, work):
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(write)
            return
        status = 1
        try:
            os.close(self._read)
            work(lambda number: os.write(write, b"%d\n" % number))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def first(self):
        """Wait for the first message."""
        return os.read(self._read, 1 << 16)

    def kill(self):
        """Kill it without warning; returns the numbers that it sent."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self.wait(killed=True)

    def wait(self, *, killed=False):
        """Wait for its end; returns the numbers that it sent."""
        sent = b""
        while part := os.read(self._read, 1 << 16):
            sent += part
        os.close(self._read)
        status = os.waitpid(self.pid, 0)[1]
        if not killed:
            assert status == 0
        return [int(number) for number in sent.split()]
