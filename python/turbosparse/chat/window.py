"""A window for a URL: pywebview, else a Chromium in app mode, else the browser."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import webbrowser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

TITLE = "TurboSparse"
SIZE = (1240, 860)
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "brave-browser")
FLAGS = ("--no-first-run", "--no-default-browser-check", "--disable-background-networking", "--disable-sync")
SHORT = 2.0  # seconds; a browser that ends sooner did not open


def show(url: str) -> bool:
    """Open a window and wait until it is closed; False when only a browser's tab could be opened, or nothing."""
    return _webview(url) or _chromium(url) or _tab(url)


def _webview(url: str) -> bool:
    if find_spec("webview") is None:
        return False
    try:
        webview = import_module("webview")
        webview.create_window(TITLE, url, width=SIZE[0], height=SIZE[1])
        webview.start(private_mode=True)
    except Exception as error:  # no display, no toolkit: each platform has exceptions of its own
        print(f"pywebview cannot open a window ({error}); trying a browser", file=sys.stderr)
        return False
    return True


def _chromium(url: str) -> bool:
    program = find_chromium()
    if program is None:
        return False
    with tempfile.TemporaryDirectory(prefix="turbosparse-window-", ignore_cleanup_errors=True) as profile:
        command = [program, f"--app={url}", f"--user-data-dir={profile}", f"--window-size={SIZE[0]},{SIZE[1]}", *FLAGS]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return not (_ended(process, SHORT) and process.returncode != 0) and _wait(process)
        finally:
            process.terminate()


def find_chromium() -> str | None:
    """The program of a Chromium-like browser."""
    found = (shutil.which(name) for name in CHROMIUMS)
    places = (
        Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
        Path("/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge"),
    )
    return next((path for path in found if path), None) or next((str(p) for p in places if p.exists()), None)


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _wait(process: subprocess.Popen[bytes]) -> bool:
    process.wait()
    return True


def _tab(url: str) -> bool:
    """A tab cannot be waited for."""
    webbrowser.open(url)
    return False
