"""turbosparse serve"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options

if TYPE_CHECKING:
    from ..server.live import LiveEngine

DEFAULT_PORT = 8080


def command(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="GGUF file. [default: the bundled model]", show_default=False),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; others than this machine's need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = DEFAULT_PORT,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            help="What clients must send as Authorization: Bearer TOKEN. "
            "[default: made once and kept in a file that only you can read]",
            show_default=False,
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="Read the token from this file.", show_default=False)
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask for no token; only on an address of this machine.")
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option("--cors-origin", help="Let pages of this origin use the server; several times. * is every one."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="Name under which clients may reach the server; several times."),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option("--parallel", min=1, max=64, help="Requests at once. [default: 4]", show_default=False),
    ] = None,
    queue: Annotated[int, typer.Option("--queue", min=0, help="Requests that may wait.")] = 64,
    n_ctx: Annotated[
        int | None,
        typer.Option("-c", "--n-ctx", min=1, help="Tokens of each request's context. [default: up to 4096]"),
    ] = None,
    mode: options.ModeOption = None,
    threads: options.ThreadsOption = None,
    kv_type: options.KvTypeOption = "f16",
    flash_attn: options.FlashAttnOption = "auto",
    ignore_swa: options.IgnoreSwaOption = False,
    memory: options.MemoryOption = "auto",
) -> None:
    """Serve a model over HTTP, to OpenAI's clients and to those of llama-server.

    turbosparse serve m.gguf --port 8080

    curl -H "Authorization: Bearer $(cat ~/.local/share/turbosparse/token)" http://127.0.0.1:8080/v1/models

    Only programs of this machine reach it, and only with the token. Pages of other origins are
    refused unless --cors-origin names them.
    """
    from ..model import silence_host
    from ..server.app import create_app
    from ..server.engine import LoadOptions
    from ..server.live import LiveEngine
    from ..server.run import bind, check_host, serve

    secret = _token(token, token_file, no_auth)
    check_host(host, secret)
    silence_host()
    engine = LiveEngine(
        LoadOptions(
            mode=mode,
            n_ctx=n_ctx,
            n_parallel=parallel,
            n_threads=threads,
            kv_type=kv_type,
            flash_attn=flash_attn,
            ignore_swa=ignore_swa,
            memory=memory,
        ),
        max_waiting=queue,
    )
    app = create_app(engine, token=secret, hosts=[host, *(allow_host or ())], origins=cors_origin or ())
    path = file if file is not None else _bundled()

    async def start() -> None:
        await engine.load(path)

    try:
        serve(app, bind(host, port), lambda url: _announce(engine, url, token or token_file, secret), start)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)


def _token(token: str | None, file: Path | None, no_auth: bool) -> str | None:
    from ..errors import ArgumentError
    from ..server.tokenfile import SHORTEST, stored_token

    if (token is not None) + (file is not None) + no_auth > 1:
        raise ArgumentError(
            "--token, --token-file and --no-auth exclude each other; give one of them",
            where="--token",
            expected="one of them",
            found="several",
        )
    if no_auth:
        return None
    if token is None:
        return stored_token(file)
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ArgumentError(
            f"--token must have at least {SHORTEST} printable ASCII characters and no spaces",
            where="--token",
            expected=f"{SHORTEST} characters",
            found=f"{len(token)} characters",
        )
    return token


def _bundled() -> Path:
    from .. import bundled

    return bundled.default_model()


def _announce(engine: LiveEngine, url: str, given: object, secret: str | None) -> None:
    """Two lines on standard error: what is served where, and where the token is."""
    from ..server.tokenfile import token_path

    card = engine.card
    print(
        f"{card.id}: {card.n_parallel} requests at once, {card.n_ctx} tokens each, at {url}",
        file=sys.stderr,
    )
    if secret is None:
        print("no token is asked for: every program of this machine may use it", file=sys.stderr)
    elif given is None:
        print(f'token: in {token_path()}; send it as "Authorization: Bearer TOKEN"', file=sys.stderr)
