"""Does the gate of bench/regress.py work? A kernel made 15 % slower must fail it, this tree must pass it five times.

    python -m bench.regress_proof            (make bench-regress-proof)

Builds the last commit twice, once as it is and once with three rows of twenty multiplied a second
time. Takes some ten minutes; any part of it can be repeated by the command that is printed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench import regress

PASSES = 5
FILE = "ggml_sparse/src/rows.h"
HEAD = "    float dot(int64_t i, const void * x, const uint8_t * ahead) const {"
DOT = HEAD + " return dot_(n_col_, row(i), x, ahead); }\n"
SLOWER = f"""\
{HEAD}
        if (i % 20 < 3) {{
            volatile float again = dot_(n_col_, row(i), x, row(i));
            (void) again;
        }}
        return dot_(n_col_, row(i), x, ahead);
    }}
"""


def plant(tree: Path) -> None:
    """Make every dot of the checkout `tree` take 15 % more time. SystemExit where the code has moved on."""
    path = tree / FILE
    text = path.read_text(encoding="utf-8")
    if SLOWER in text:
        return
    if text.count(DOT) != 1:
        raise SystemExit(f"{FILE} has not the one line that is to be slowed down; mend bench/regress_proof.py")
    path.write_text(text.replace(DOT, SLOWER), encoding="utf-8")


def gate(*arguments: str) -> int:
    """Exit code of one run of the gate against the last commit: 1 = something is slower."""
    command = ["-m", "bench.regress", "--base", "HEAD", *arguments]
    print("$ python", *command, flush=True)
    return subprocess.run([sys.executable, *command], cwd=regress.ROOT, check=False).returncode


def main() -> int:
    """0 when the gate does what it should, 1 when not."""
    if subprocess.run(["git", "-C", str(regress.ROOT), "diff", "--quiet", "HEAD"], check=False).returncode:
        raise SystemExit("this tree differs from its last commit, so it cannot stand for an unchanged one")
    slower = regress.build("HEAD", "slower", plant)
    codes = [gate("--head", str(slower)), *(gate() for _ in range(PASSES))]
    right = codes == [1] + PASSES * [0]
    print(f"the gate {'works' if right else 'does not work'}: exit codes {codes}, wanted 1 and {PASSES} times 0")
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
