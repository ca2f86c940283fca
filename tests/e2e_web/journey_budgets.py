"""The budgets of the page, measured and printed.

Wall time: the best of some samples against twice the budget, as other machines are slower; samples
during which others used the CPU may only help. CPU time is judged always.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from turbosparse.chat.store import Store

from .browser import PATIENCE, Window
from .conftest import OpenWindow, Serve, Site
from .quiet import Others

TEXT = """Here is **some** text with `code` and a list:

- one thing
- another thing

```python
def double(x):
    return 2 * x
```

And a closing line, number {i}.
"""


SAMPLES = 3  # besides a first one that fills caches
ATTEMPTS, SECONDS = 8, 20.0  # at most, both
BUSY = 0.1  # share of the cores that others may have during a sample that counts against us


def within(budget: float, measure: Callable[[], float], request: pytest.FixtureRequest, unit: str) -> None:
    """Measure until the best sample keeps the budget, which it may do on a busy machine too.

    It fails where none keeps twice the budget and one of them had the machine to itself; without such a
    sample it says that it did not judge.
    """
    measure()
    samples: list[tuple[float, float]] = []
    end = time.monotonic() + SECONDS
    while len(samples) < ATTEMPTS and time.monotonic() < end:
        others = Others()
        samples.append((measure(), others.share()))
        quiet = [value for value, share in samples if share < BUSY]
        if len(samples) >= SAMPLES and (min(samples)[0] < budget or len(quiet) >= SAMPLES):
            break
    report(request, **{unit: ", ".join(f"{value:.3g} (others {share:.0%})" for value, share in samples)})
    if min(samples)[0] >= 2 * budget and not quiet:
        print("  not judged: the machine was never ours", end="")
        return
    assert min(samples)[0] < 2 * budget


def report(request: pytest.FixtureRequest, **figures: Any) -> None:
    """Shown (tests.e2e_web passes -s), and kept in the report."""
    for name, value in figures.items():
        request.node.user_properties.append((name, value))
        print(f"\n{request.node.name}: {name} = {value}", end="")


class Busy:
    """How long the page's main thread has been at work, in seconds, since this was made."""

    def __init__(self, window: Window) -> None:
        self._session = window.page.context.new_cdp_session(window.page)
        self._session.send("Performance.setTimeDomain", {"timeDomain": "threadTicks"})  # of the CPU, not of the wall
        self._session.send("Performance.enable")
        self._before = self._now()

    def _now(self) -> float:
        metrics = {m["name"]: m["value"] for m in self._session.send("Performance.getMetrics")["metrics"]}
        return float(metrics["TaskDuration"])

    def seconds(self) -> float:
        """So far."""
        return self._now() - self._before


def test_window_is_usable_within_2_seconds(
    open_window: OpenWindow, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """From the command to a box that one can write in, with the bundled model being opened meanwhile."""
    command = [sys.executable, "-m", "turbosparse", "chat", "--no-window", "--data-dir", str(tmp_path), "-t", "1"]

    def seconds() -> float:
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
            assert program.stdout is not None
            url, token = program.stdout.readline().strip().split("/#token=")
            window = open_window(Site(url), token=token)
            found = time.perf_counter() - start
            window.page.context.close()  # first: it would complain about a server that is gone
            program.send_signal(signal.SIGINT)
            assert program.wait(PATIENCE) == 0
        return found

    within(2.0, seconds, request, "seconds")


def test_a_conversation_of_2000_messages_opens_within_300_ms(
    serve: Serve, open_window: OpenWindow, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "data").mkdir(exist_ok=True)
    with Store(tmp_path / "data") as store, store.db.transaction():
        key, parent = store.create("long one").id, None
        for i in range(2000):
            role: Any = "assistant" if i % 2 else "user"
            parent = store.add(key, role, TEXT.format(i=i), parent=parent).id
    window = open_window(serve())
    opened = """() => new Promise((resolve) => {
        const begin = performance.now();
        document.querySelector('.sidebar .item').click();
        const look = () => document.querySelectorAll('.message').length
            ? requestAnimationFrame(() => resolve(performance.now() - begin)) : requestAnimationFrame(look);
        look();
    })"""

    def milliseconds() -> float:
        found = float(window.page.evaluate(opened))
        window.page.keyboard.press("Alt+n")
        window.until("!document.querySelector('.message')")
        return found

    within(300, milliseconds, request, "milliseconds")
    window.page.click(".sidebar .item")
    window.page.wait_for_selector("text=number 1999")
    window.page.evaluate("document.querySelector('.thread').scrollTop = 0")
    window.until("document.querySelectorAll('.message').length > 40")
    frames = """() => new Promise((resolve) => {
        const thread = document.querySelector('.thread'), begin = performance.now();
        thread.scrollTop = thread.scrollHeight;
        let n = 0;
        const step = (now) => { thread.scrollTop -= 40; n += 1;
            now - begin < 1500 ? requestAnimationFrame(step) : resolve(1e3 / ((now - begin) / n)); };
        requestAnimationFrame(step);
    })"""
    within(20, lambda: 1e3 / float(window.page.evaluate(frames)), request, "milliseconds_per_frame")


TOKENS = 20_000


def long_script(prompt: str, _: object) -> list[str]:
    """Markdown of many kinds, for as long as one asks."""
    return [TEXT.format(i=i) + "\n" for i in range(2000)]


@pytest.mark.timeout(900)
def test_keeps_up_with_200_tokens_per_second_for_20000_tokens(
    serve: Serve, open_window: OpenWindow, request: pytest.FixtureRequest
) -> None:
    """They come faster than that; what the page's main thread works for one is judged."""
    window = open_window(serve(tokens_per_second=1000, n_ctx=40000, script=long_script))
    page = window.page
    page.keyboard.press("Alt+p")
    page.fill(".number input >> nth=0", str(TOKENS))
    page.locator(".number input >> nth=0").blur()
    page.keyboard.press("Alt+s")
    busy, others, start = Busy(window), Others(), time.perf_counter()
    window.say("go on")
    page.wait_for_selector(".prose.growing")
    lags = []
    while page.locator("#stop").count():
        page.wait_for_timeout(1500)
        lags.append(lag(window))
    seconds, share = time.perf_counter() - start, others.share()
    at_200 = 200 * busy.seconds() / TOKENS
    longest = max(lags[:-1] or lags)
    report(
        request,
        tokens_per_second=round(TOKENS / seconds),
        busy_at_200_per_second=f"{at_200:.0%}",
        longest_lag_in_blocks=longest,
        others_had=f"{share:.0%}",
    )
    assert at_200 < 0.5
    assert share >= BUSY or longest <= 3 * TOKENS / seconds / 200, "shows what it has less than a second later"
    window.wait_reply()
    content = window.content()
    assert len(content) >= TOKENS  # a token is a word or a byte
    assert "".join(long_script("", None)).startswith(content)


def lag(window: Window) -> int:
    """Numbered blocks of text (some 170 characters) that the page has received and does not show yet."""
    asked = """async () => {
        const { state } = await import('/static/js/state.js');
        const live = [...state.live.values()][0], shown = document.querySelector('.prose.growing');
        const count = (text) => Number((text.match(/number \\d+/g) || ['number 0']).at(-1).slice(7));
        return live && shown ? count(live.text) - count(shown.textContent) : 0;
    }"""
    return int(window.page.evaluate(asked))


def test_the_first_token_is_painted_at_once(window: Window, request: pytest.FixtureRequest) -> None:
    """From the click to the first painted character, the fake's own 3 ms per token included."""
    window.ask("say: warm up")
    measured = """() => new Promise((resolve) => {
        const begin = performance.now(), before = document.querySelectorAll('.message.assistant').length;
        document.querySelector('#send').click();
        const look = () => {
            const all = document.querySelectorAll('.message.assistant .prose');
            if (all.length > before && all[all.length - 1].textContent) resolve(performance.now() - begin);
            else requestAnimationFrame(look);
        };
        look();
    })"""

    def milliseconds() -> float:
        window.page.fill("#composer", "say: " + "word " * 10)
        found = float(window.page.evaluate(measured))
        window.wait_reply()
        return found

    within(100, milliseconds, request, "milliseconds")


def test_stop_stops_within_200_ms(window: Window, request: pytest.FixtureRequest) -> None:
    """From Esc to a page that says so; and nothing is said after it."""
    stopped = """() => new Promise((resolve) => {
        const begin = performance.now();
        dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape' }));
        const look = () => document.querySelector('.message.last .note.stopped')
            ? resolve(performance.now() - begin) : requestAnimationFrame(look);
        look();
    })"""

    def milliseconds() -> float:
        window.page.keyboard.press("Alt+n")
        window.until("!document.querySelector('.message')")
        window.say("say: " + "word " * 200)
        window.grown(5)
        return float(window.page.evaluate(stopped))

    within(200, milliseconds, request, "milliseconds")
