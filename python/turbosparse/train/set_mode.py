"""Which mode a GGUF file asks for: `python -m turbosparse.train.set_mode FILE exact`.

A file with trained predictors asks for `predicted`; where their recall is low, `exact` is the better default.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from gguf.constants import GGUFValueType

from turbosparse.convert.ggufile import GGUFFile
from turbosparse.convert.keys import DEFAULT_MODE
from turbosparse.train.trim import copy_kv, write_gguf

MODES = ("exact", "predicted", "dense")


def set_mode(path: Path, mode: str) -> None:
    """Writes the file again with another turbosparse.default_mode; weights are copied as stored."""
    part = path.with_suffix(".part")
    with GGUFFile(path) as file:
        write_gguf(part, copy_kv(file) | {DEFAULT_MODE: (GGUFValueType.STRING, mode, None)}, file)
    os.replace(part, path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("mode", choices=MODES)
    args = parser.parse_args()
    set_mode(args.file, args.mode)


if __name__ == "__main__":
    main()
