"""Stopping an evaluation: from another thread, and on Ctrl-C while the main thread sits in C."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import CancelledError


class Canceller:
    """Hands a request to stop to the evaluation or generation under way, and to no later one.

    Args:
        send: sets the C flag; the evaluation under way, or else the next one, then ends early.
    """

    def __init__(self, send: Callable[[], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._generating = False
        self._evaluating = False
        self._requested = False
        self._left_over = False  # the C flag may have been set after the evaluation had ended

    @property
    def requested(self) -> bool:
        """Whether the generation under way was told to stop."""
        return self._requested

    def cancel(self) -> None:
        """Stop what is under way; without effect when nothing is. Any thread."""
        with self._lock:
            self._requested = self._generating or self._evaluating
            if self._evaluating:
                self._send()
                self._left_over = True

    @contextmanager
    def generation(self) -> Iterator[None]:
        """Scope of one generation: a request between two evaluations reaches the next check."""
        self._generating, self._requested = True, False
        try:
            yield
        finally:
            self._generating = self._requested = False

    def run(self, evaluate: Callable[[], int], cancelled: int) -> int:
        """Status of `evaluate()`; `cancelled` is the status of one that was stopped.

        Raises:
            CancelledError: a request came before it began.
        """
        if self._requested:
            raise CancelledError("the generation was cancelled")
        left_over, self._left_over = self._left_over, False
        try:
            self._evaluating = True
            status = evaluate()
            if status == cancelled and left_over and not self._requested:
                status = evaluate()
        finally:
            with self._lock:
                self._evaluating = False
                self._requested = self._requested and self._generating
        if status == cancelled:
            self._left_over = False
        return status


@contextmanager
def on_interrupt(action: Callable[[], None]) -> Iterator[None]:
    """While inside, SIGINT calls `action` at once, from another thread.

    Python itself runs signal handlers only when the C call has returned; the KeyboardInterrupt
    then follows as ever. Outside the main thread, or where a wake-up descriptor is in use
    (asyncio), nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(reader, action), daemon=True)
    watcher.start()
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        if previous != -1:
            signal.set_wakeup_fd(previous)
        yield
    finally:
        signal.set_wakeup_fd(previous)
        writer.close()
        watcher.join()
        reader.close()


def _watch(reader: socket.socket, action: Callable[[], None]) -> None:
    while number := reader.recv(1):
        if number[0] == signal.SIGINT:
            action()
