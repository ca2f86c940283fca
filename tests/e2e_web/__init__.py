"""Journeys of the page in a real browser: `make test-e2e`. Not part of `make test`: they need Chromium."""

from __future__ import annotations

import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """The browser's program."""
    return next((path for path in map(shutil.which, NAMES) if path), None)
