"""Help is there before torch is installed."""

from __future__ import annotations

import subprocess
import sys


def test_help_needs_no_torch() -> None:
    script = "import sys; sys.modules['torch'] = None; from turbosparse.train import drelu; drelu.main()"
    done = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--dtype" in done.stdout
