"""turbosparse inspect"""

from __future__ import annotations

import json

from .options import FileArgument, JsonOption


def command(file: FileArgument, as_json: JsonOption = False) -> None:
    """Explain a TurboSparse GGUF file without running it.

    Shows the architecture, how sparse the neurons are, what predictors it has, how the neurons are
    placed, and the memory and bytes per token of each mode (estimated from recorded frequencies).
    The file is checked against the format first, every offset and length of it.

    turbosparse inspect m.gguf

    turbosparse inspect m.gguf --json
    """
    from turbosparse.convert.inspect import as_text, inspect_file

    facts = inspect_file(file)
    print(json.dumps(facts) if as_json else as_text(facts))
