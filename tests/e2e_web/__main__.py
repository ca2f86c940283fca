"""Run the journeys, or say why not.

    python -m tests.e2e_web [pytest arguments]

Where Chromium or Playwright is missing it prints "e2e not run" and the reason, and ends with 0:
a machine without a browser is no failure of the page.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from turbosparse.chat.routes.page import missing_libraries

from . import chromium


def obstacle() -> str | None:
    """What is missing, and the command that mends it."""
    if find_spec("playwright") is None:
        return "playwright is not installed (pip install playwright)"
    if chromium() is None:
        return "there is no Chromium (apt-get install chromium)"
    if missing_libraries():
        return "the page's libraries are not there (python tools/web-assets.py, which needs npm)"
    return None


def main() -> int:
    """pytest's exit code, or 0 after "e2e not run"."""
    missing = obstacle()
    if missing:
        print(f"e2e not run: {missing}")
        return 0
    given = sys.argv[1:]
    where = [] if any("journey_" in each for each in given) else [str(Path(__file__).parent)]
    # -s: what they measure is shown, and which budget was not judged
    return int(pytest.main(["-s", "-o", "python_files=journey_*.py", *where, *given]))


if __name__ == "__main__":
    sys.exit(main())
