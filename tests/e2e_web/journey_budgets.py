"""The budgets of the page, measured; gates on wall time are twice the budget, as others use the machine too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from turbosparse.chat.store import Store

from .browser import Window
from .conftest import OpenWindow, Serve

TEXT = """Here is **some** text with `code` and a list:

- one thing
- another thing

```python
def double(x):
    return 2 * x
```

And a closing line, number {i}.
"""


def gate(holds: bool, budget: str) -> None:
    """Wall time is judged only where the machine has time for us."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > 1.5 * cores:
        print(f"\nnot judged ({budget}): load {load:.1f} on {cores} cores", end="")
        return
    assert holds, budget


def report(request: pytest.FixtureRequest, **figures: Any) -> None:
    """Shown with -s, and kept in the report."""
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
    seconds = []
    for _ in range(3):  # the first one fills the caches
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
            try:
                assert program.stdout is not None
                url, token = program.stdout.readline().strip().split("/#token=")
                open_window(url, token=token)
                seconds.append(time.perf_counter() - start)
            finally:
                program.send_signal(signal.SIGINT)
        assert program.returncode == 0
    report(request, seconds=[round(s, 2) for s in seconds])
    gate(min(seconds) < 2 * 2.0, "window usable within 2 s")


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
    times = []
    for _ in range(5):
        times.append(window.page.evaluate(opened))
        window.page.keyboard.press("Alt+n")
        window.until("!document.querySelector('.message')")
    report(request, milliseconds=[round(t) for t in times])
    gate(min(times) < 2 * 300, "2,000 messages open within 300 ms")
    window.page.click(".sidebar .item")
    window.page.wait_for_selector("text=number 1999")
    window.page.evaluate("document.querySelector('.thread').scrollTop = 0")
    window.until("document.querySelectorAll('.message').length > 40")
    frames = """() => new Promise((resolve) => {
        const thread = document.querySelector('.thread'), begin = performance.now();
        let n = 0;
        const step = () => { thread.scrollTop -= 40; n += 1;
            performance.now() - begin < 1500 ? requestAnimationFrame(step) : resolve(n / 1.5); };
        requestAnimationFrame(step);
    })"""
    report(request, frames_per_second=round(window.page.evaluate(frames)))


TOKENS = 20_000


def long_script(prompt: str, _: object) -> list[str]:
    """Markdown of many kinds, for as long as one asks."""
    return [TEXT.format(i=i) + "\n" for i in range(2000)]


@pytest.mark.timeout(400)
def test_keeps_up_with_200_tokens_per_second_for_20000_tokens(
    serve: Serve, open_window: OpenWindow, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    window = open_window(serve(tokens_per_second=330, n_ctx=40000, script=long_script))
    page = window.page
    page.keyboard.press("Alt+p")
    page.fill(".number input >> nth=0", str(TOKENS))
    page.locator(".number input >> nth=0").blur()
    page.keyboard.press("Alt+s")
    busy, start = Busy(window), time.perf_counter()
    window.say("go on")
    page.wait_for_selector(".prose.growing")
    lags = []
    while page.locator("#stop").count():
        page.wait_for_timeout(3000)
        lags.append(lag(window))
    seconds = time.perf_counter() - start
    share = busy.seconds() / seconds
    stats = page.evaluate("document.querySelector('[data-figure=speed]').title")
    rate = TOKENS / seconds
    longest = max(lags[:-1] or lags)
    report(request, tokens_per_second=round(rate), busy_share=round(share, 2), longest_lag_blocks=longest, said=stats)
    gate(rate > 200, "200 tokens per second, or the fake itself is too slow")
    assert share < 0.5
    assert longest <= 3, "the page shows what it has received less than a second later"


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
    """From the click to the first painted character, the fake's own 10 ms per token included."""
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
    times = []
    for _ in range(5):
        window.page.fill("#composer", "say: " + "word " * 10)
        times.append(window.page.evaluate(measured))
        window.wait_reply()
    report(request, milliseconds=[round(t) for t in times])
    gate(min(times) < 200, "first token")
