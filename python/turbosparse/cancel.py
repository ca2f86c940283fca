"""Stopping an evaluation: from another thread, and on Ctrl-C while the main thread sits in C."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from .errors import ArgumentError, CancelledError


class CancelToken:
    """Stops the one generation that it was given to. Any thread may call cancel, at any time.

        token = CancelToken()
        threading.Timer(2, token.cancel).start()
        result = model.generate("Once upon a time", cancel=token)  # ends with finish_reason "cancelled"

    Cancelled before its generation begins, it stops that at its first evaluation; afterwards it
    has no effect, and never on the generation of somebody else.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._stop: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<CancelToken {'cancelled' if self._cancelled else 'armed'}>"

    @property
    def cancelled(self) -> bool:
        """Whether cancel was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Stop the generation, now or as soon as it begins."""
        with self._lock:
            self._cancelled = True
            if self._stop is not None:
                self._stop()

    @contextmanager
    def bound(self, stop: Callable[[], None]) -> Iterator[None]:
        """Scope of the generation that `stop` stops."""
        with self._lock:
            self._stop = stop
            if self._cancelled:
                stop()
        try:
            yield
        finally:
            with self._lock:
                self._stop = None


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
    def generation(self, token: CancelToken | None = None) -> Iterator[None]:
        """Scope of one generation: a request, also one by `token`, between two evaluations reaches the next check."""
        self._generating, self._requested = True, False
        try:
            with token.bound(self.cancel) if token is not None else nullcontext():
                yield
        finally:
            self._generating = self._requested = False

    def check_idle(self) -> None:
        """ArgumentError while an evaluation is under way: only another thread can ask then."""
        if self._evaluating:
            raise ArgumentError(
                "the model is busy in another thread; a model belongs to one thread at a time: open a second Model, or "
                "use AsyncModel, whose tasks wait for each other",
                where="Model",
                expected="one thread at a time",
                found="two",
            )

    def run(self, evaluate: Callable[[], int], cancelled: int) -> int:
        """Status of `evaluate()`; `cancelled` is the status of one that was stopped.

        Raises:
            CancelledError: a request came before it began.
            ArgumentError: another thread is at it.
        """
        with self._lock:
            self.check_idle()
            if self._requested:
                raise CancelledError("the generation was cancelled")
            self._evaluating = True
            left_over, self._left_over = self._left_over, False
        try:
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
