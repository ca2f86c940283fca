from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from turbosparse.chat.app import create_chat_app
from turbosparse.chat.store import Store
from turbosparse.server.fake import FakeEngine

TOKEN = "a-token-for-tests-only"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path) as opened:
        yield opened


class Page:
    """What the page does, without a browser."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        client.headers["authorization"] = f"Bearer {TOKEN}"

    def ask(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        response = self.client.request(method, "/api/chat" + path, json=body)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    def get(self, path: str, **more: Any) -> Any:
        return self.ask("GET", path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> Any:
        return self.ask("POST", path, body, **more)

    def events(self, path: str) -> list[dict[str, Any]]:
        """All events of a stream, until it ends."""
        response = self.client.get("/api/chat" + path)
        assert response.status_code == 200, response.text
        lines = [line for line in response.text.split("\n\n") if line.startswith("data: ")]
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    def conversation(self, **values: Any) -> int:
        return int(self.post("/conversations", values)["id"])

    def send(self, conversation: int, content: str, parent: int | None = None) -> dict[str, Any]:
        """Send, wait for the end; the finished reply."""
        sent = self.post(f"/conversations/{conversation}/messages", {"content": content, "parent_id": parent})
        return self.finish(sent["messages"][1]["id"])

    def finish(self, message: int) -> dict[str, Any]:
        last: dict[str, Any] = self.events(f"/messages/{message}/events")[-1]
        assert last["type"] == "end"
        found: dict[str, Any] = last["message"]
        return found

    def texts(self, conversation: int) -> list[str]:
        return [m["content"] for m in self.get(f"/conversations/{conversation}")["messages"]]


MakePage = Callable[..., Page]


@pytest.fixture
def make_page(tmp_path: Path) -> Iterator[MakePage]:
    """make_page(**arguments of FakeEngine) -> a Page on an application that runs."""
    open_clients: list[TestClient] = []

    def make(**engine: Any) -> Page:
        app = create_chat_app(FakeEngine(**engine), tmp_path / "data", token=TOKEN)
        client = TestClient(app, base_url="http://127.0.0.1")
        client.__enter__()
        open_clients.append(client)
        return Page(client)

    (tmp_path / "data").mkdir()
    yield make
    for client in open_clients:
        client.__exit__(None, None, None)


@pytest.fixture
def page(make_page: MakePage) -> Page:
    return make_page()
