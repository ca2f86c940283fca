"""Servers on the loopback interface: on the fake engine, and on the bundled model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from turbosparse.server.app import create_app
from turbosparse.server.engine import Engine
from turbosparse.server.fake import FakeEngine
from turbosparse.server.run import background

TOKEN = "a-token-for-the-tests"
MODELS = Path(__file__).resolve().parents[2] / "models"


@dataclass(frozen=True)
class Server:
    """A running server and a client that has its token."""

    url: str
    engine: Any
    client: httpx.Client

    def get(self, path: str, **given: Any) -> httpx.Response:
        return self.client.get(path, **given)

    def post(self, path: str, body: Any = None, **given: Any) -> httpx.Response:
        return self.client.post(path, json=body, **given)

    def chat(self, text: str, **body: Any) -> dict[str, Any]:
        answer = self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **body})
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def stream(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Objects of a whole stream, which must end as the dialect ends."""
        return list(self.events(path, body))

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with self.client.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            yield from parse(response.iter_lines())

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(name + " ")).split()[1])


def parse(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The objects of an event stream; everything else in it must be [DONE], a comment or empty."""
    ended = False
    for line in lines:
        if line.startswith("data: {"):
            assert not ended
            yield json.loads(line[len("data: ") :])
        else:
            assert line in ("", "data: [DONE]") or line.startswith(":"), line
            ended = ended or line == "data: [DONE]"


@contextmanager
def running(engine: Engine, **options: Any) -> Iterator[Server]:
    app = create_app(engine, **({"token": TOKEN} | options))
    with background(app) as url, httpx.Client(base_url=url, headers=authorised(), timeout=30) as client:
        yield Server(url, engine, client)


def authorised(token: str = TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def allowed(seconds: float) -> float:
    """What `seconds` of an idle machine are on this one now."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A fake that answers as fast as it can."""
    with running(FakeEngine()) as found:
        yield found


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(engine, **options of create_app) -> Server, closed with the test."""
    with ExitStack() as stack:
        yield lambda engine, **options: stack.enter_context(running(engine, **options))


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled checkpoint as a Q8_0 file."""
    from turbosparse.convert import convert

    path = tmp_path_factory.mktemp("server") / "micro.gguf"
    convert(MODELS / "turbosparse-micro", path, outtype="q8_0")
    return path
