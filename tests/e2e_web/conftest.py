from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, sync_playwright
from turbosparse.chat.app import create_chat_app
from turbosparse.server.fake import FakeEngine
from turbosparse.server.run import background

from .browser import Window, launch, new_window, requested

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a-token-for-the-journeys"
SHOTS = ROOT / "build" / "e2e"


@pytest.fixture(scope="session")
def net_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("net") / "net.json"


@pytest.fixture(scope="session")
def browser(net_log: Path) -> Iterator[Browser]:
    """One browser for all; at its end, its own log must know no other host than ours."""
    with sync_playwright() as playwright:
        opened = launch(playwright, net_log)
        yield opened
        opened.close()
    urls = requested(net_log)
    strangers = sorted({url for url in urls if urlsplit(url).hostname != "127.0.0.1"})
    assert urls, "the log must have seen our own requests"
    assert strangers == []


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core's source."""
    folder = tmp_path_factory.mktemp("axe")
    subprocess.run([sys.executable, str(ROOT / "tools" / "web-assets.py"), "--axe", str(folder)], check=True)
    return (folder / "axe.js").read_text(encoding="utf-8")


class Site(NamedTuple):
    """Where a server is; `engine` None: in another process."""

    url: str
    engine: FakeEngine | None = None


Serve = Callable[..., Site]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """serve(**arguments of FakeEngine) -> a Site; data lies in tmp_path / "data"."""
    (tmp_path / "data").mkdir(exist_ok=True)
    running: list[Any] = []

    def start(**options: Any) -> Site:
        engine = FakeEngine(**options)
        context = background(create_chat_app(engine, tmp_path / "data", token=TOKEN))
        running.append(context)
        return Site(context.__enter__(), engine)

    yield start
    for context in reversed(running):
        context.__exit__(None, None, None)


OpenWindow = Callable[..., Window]


@pytest.fixture
def open_window(browser: Browser, request: pytest.FixtureRequest) -> Iterator[OpenWindow]:
    """open_window(site, dark=...) -> a Window; a screenshot is kept, and its console must have been silent."""
    opened: list[Window] = []

    def start(site: Site, *, dark: bool = False, token: str = TOKEN, **options: Any) -> Window:
        scheme = "dark" if dark else "light"
        options = {"viewport": {"width": 1280, "height": 840}, "color_scheme": scheme, **options}
        context = browser.new_context(**options)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        window = new_window(context, site.url, site.engine)
        opened.append(window)
        window.open(f"#token={token}")
        return window

    yield start
    SHOTS.mkdir(parents=True, exist_ok=True)
    for i, window in enumerate(opened):
        if not window.page.is_closed():
            window.page.screenshot(path=SHOTS / f"{request.node.name.replace('/', '-')}-{i}.png")
            window.page.context.close()
    complaints = [complaint for window in opened for complaint in window.complaints]
    assert complaints == []


@pytest.fixture
def window(serve: Serve, open_window: OpenWindow) -> Window:
    """A window on a fake engine of 300 tokens per second."""
    return open_window(serve(tokens_per_second=300))


@pytest.fixture
def shot() -> Callable[[Window, str], None]:
    """Keep a picture under a name."""

    def take(window: Window, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        window.settle()
        window.page.screenshot(path=SHOTS / f"{name}.png")

    return take
