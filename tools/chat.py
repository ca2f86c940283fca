"""Chat with the bundled model in the terminal. Run by `make chat`; an empty line ends it."""

from __future__ import annotations

from pathlib import Path

import turbosparse
from turbosparse import convert

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "build" / "demo" / "turbosparse-micro-chat.gguf"


def main() -> None:
    """Read a line, stream the answer, repeat."""
    if not MODEL.exists():
        MODEL.parent.mkdir(parents=True, exist_ok=True)
        convert.convert(ROOT / "models" / "turbosparse-micro", MODEL, outtype="q8_0")
    messages: list[dict[str, str]] = []
    with turbosparse.Model(MODEL) as model:
        while text := input("> ").strip():
            messages.append({"role": "user", "content": text})
            answer = ""
            for chunk in turbosparse.stream(model, messages, max_tokens=200):
                print(chunk.text, end="", flush=True)
                answer += chunk.text
            print()
            messages.append({"role": "assistant", "content": answer})


if __name__ == "__main__":
    try:
        main()
    except (EOFError, KeyboardInterrupt):
        print()
