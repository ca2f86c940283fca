"""The command line: `turbosparse COMMAND ...`.

Only the module of the subcommand that is asked for is imported, so `turbosparse -h` is fast.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from ..errors import EXIT_CANCELLED, EXIT_MEMORY

# name -> what the list of commands says; the module turbosparse.cli.<name> has `command`
COMMANDS = {
    "generate": "Continue a text, or answer a message.",
    "chat": "Chat in a window, or in the terminal.",
    "serve": "Answer over HTTP, as OpenAI's API and llama-server do.",
    "perplexity": "Measure a model on a text.",
    "convert": "Make a GGUF file from a checkpoint.",
    "inspect": "Explain a GGUF file.",
    "verify": "Compare a GGUF file with its checkpoint.",
    "quantize": "Re-quantise a GGUF file.",
    "synth": "Write a synthetic checkpoint with planted sparsity.",
    "bench": "Measure speed and sparsity, alone or against llama.cpp.",
    "doctor": "Examine this machine and installation.",
}
CONTEXT = {"help_option_names": ["-h", "--help"]}
EXIT_CODES = (
    "Exit codes: 0 done, 1 unforeseen, 2 usage, 3 unsupported model, 4 bad input, 5 memory or disk space, "
    "6 verification failed, 7 host library, 8 libllama or ggml failed, 130 interrupted."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character still gets the text
    try:
        typer.main.get_command(_app(given)).main(given, prog_name="turbosparse")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return EXIT_CANCELLED
    except Exception as error:
        if debug:
            raise
        return report(error)
    return 0


def report(error: Exception) -> int:
    """One paragraph on standard error; returns the exit code."""
    code = getattr(error, "exit_code", None)
    text = " ".join(str(error).split()) or type(error).__name__
    if code is None:
        text = f"{type(error).__name__}: {text} (--debug shows where)"
        code = EXIT_MEMORY if isinstance(error, MemoryError) else 1
    print(f"turbosparse: error: {text}", file=sys.stderr)
    return int(code)


def _app(arguments: Sequence[str]) -> typer.Typer:
    """The application, with the real function for the subcommand asked for and bare names for the rest."""
    app = typer.Typer(
        help="Activation-sparse language models inside stock llama.cpp.",
        epilog=EXIT_CODES,
        context_settings=CONTEXT,
        rich_markup_mode=None,
        add_completion=False,
        no_args_is_help=True,
    )
    app.callback()(_globals)
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, summary in COMMANDS.items():
        if name == asked:
            app.command(name, context_settings=CONTEXT)(_function(name))
        else:
            app.command(name, help=summary)(_unloaded)
    return app


def _function(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = import_module(f"turbosparse.cli.{name}").command
    return function


def _unloaded() -> None:
    """Stands for a subcommand in the list of commands; never called."""


def _show_version(value: bool) -> None:
    if value:
        from .. import __version__

        print(f"turbosparse {__version__}")
        raise typer.Exit


def _globals(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where an error comes from.")] = False,
) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
