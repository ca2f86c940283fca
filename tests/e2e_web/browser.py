"""Debian's Chromium through Playwright, and a page that remembers what it asked for and complained about."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright
from turbosparse.server.fake import FakeEngine

from . import chromium

PATIENCE = 120.0  # seconds that a state of the page may take: a busy machine is slow, not wrong

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-default-apps", "--no-default-browser-check"),
    *("--disable-domain-reliability", "--disable-client-side-phishing-detection", "--metrics-recording-only"),
    *(
        "--disable-features=OptimizationHints,MediaRouter,Translate,NetworkTimeServiceQuerying,AutofillServerCommunication",
        "--no-pings",
    ),
)
SCHEMES = ("blob", "data", "devtools", "about", "chrome", "chrome-untrusted", "chrome-extension")


def launch(playwright: Playwright, net_log: Path) -> Browser:
    """A headless browser that writes down every request of its own and of its pages."""
    args = [*FLAGS, f"--log-net-log={net_log}", "--net-log-capture-mode=Default"]
    return playwright.chromium.launch(executable_path=chromium(), headless=True, args=args)


def requested(net_log: Path, host: str = "127.0.0.1") -> list[str]:
    """URLs that pages of `host` asked for, by Chromium's own log; what the browser wants for itself is left out."""
    text = net_log.read_text(encoding="utf-8", errors="replace").rstrip().rstrip(",")
    try:
        log = json.loads(text)
    except ValueError:
        log = json.loads(text + "]}")  # the browser was ended before it closed the list
    start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    requests = [event.get("params", {}) for event in log["events"] if event["type"] == start]
    ours = [r for r in requests if host in r.get("initiator", "") or host in r.get("network_isolation_key", "")]
    return [request["url"] for request in ours if urlsplit(request["url"]).scheme not in SCHEMES]


@dataclass
class Window:
    """A page on a site; `engine` is the fake one behind it, if it is one."""

    page: Page
    url: str
    engine: FakeEngine | None = None
    complaints: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def open(self, path: str = "") -> None:
        """Load the page and wait until one can write."""
        self.page.goto(f"{self.url}/{path}")
        self.page.wait_for_selector("#composer")
        self.until("document.activeElement.id === 'composer'")

    def hold(self, tokens: int | None) -> None:
        """Let replies of the fake engine come no further than this; None lets them end."""
        assert self.engine is not None
        self.engine.hold_at = tokens

    def say(self, text: str) -> None:
        """Type a message, send it."""
        self.page.fill("#composer", text)
        self.page.keyboard.press("Enter")

    def wait_reply(self) -> str:
        """Until no reply is being written; the last one's text."""
        self.page.wait_for_selector("#send")
        self.page.wait_for_selector(".message.assistant.last .reply-foot")
        return self.last_reply()

    def ask(self, text: str) -> str:
        """Send, wait for the end; the reply's text."""
        before = self.page.locator(".message.assistant").count()
        self.say(text)
        self.until(f"document.querySelectorAll('.message.assistant').length > {before}")
        return self.wait_reply()

    def grown(self, characters: int) -> None:
        """Until a reply under way shows more than this many characters."""
        self.until(f"document.querySelector('.prose.growing')?.textContent.length > {characters}")

    def content(self) -> str:
        """The last reply as it was written, before Markdown."""
        asked = "import('/static/js/state.js').then(({ state }) => state.current.messages.at(-1).content)"
        return str(self.page.evaluate(f"() => {asked}"))

    def settle(self) -> None:
        """Until transitions are over and two frames were drawn."""
        self.page.evaluate(
            """async () => {
                const ends = document.getAnimations().filter((a) => a.effect.getComputedTiming().endTime < Infinity);
                await Promise.allSettled(ends.map((a) => a.finished));
                for (let i = 0; i < 2; i += 1) await new Promise(requestAnimationFrame);
            }"""
        )

    def until(self, expression: str, seconds: float = PATIENCE) -> None:
        """Until a JavaScript expression is true. (Playwright's own way needs eval, which the page forbids.)"""
        end = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"never became true: {expression}"
            self.page.wait_for_timeout(15)

    def last_reply(self) -> str:
        """Text of the last reply."""
        return str(self.page.locator(".message.assistant .prose").last.inner_text())

    def texts(self) -> list[str]:
        """Text of all messages that are drawn."""
        return [str(t) for t in self.page.locator(".message .prose, .message .bubble").all_inner_texts()]

    def click(self, label: str, nth: int = -1) -> None:
        """Click the button with this label, the last one of them unless told otherwise."""
        found = self.page.locator(f"[aria-label='{label}']:visible")
        found.nth(nth if nth >= 0 else found.count() - 1).click()


def new_window(context: BrowserContext, url: str, engine: FakeEngine | None) -> Window:
    """A page that keeps what its console complains about."""
    context.set_default_timeout(1e3 * PATIENCE)
    window = Window(context.new_page(), url, engine)

    def heard(message: ConsoleMessage) -> None:
        wanted = any(text in message.text for text in window.expected)
        if message.type in ("error", "warning") and not wanted:
            window.complaints.append(f"{message.type}: {message.text} ({message.location.get('url')})")

    def failed(error: Any) -> None:
        window.complaints.append(f"exception: {error}")

    window.page.on("console", heard)
    window.page.on("pageerror", failed)
    return window
