"""Lists, settings, files, models, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from turbosparse.chat.app import Ticket, create_chat_app
from turbosparse.server.fake import FakeEngine

from tests.chat.conftest import TOKEN, Page


def test_start_has_all_that_the_first_paint_needs(page: Page) -> None:
    page.conversation(title="one")
    found = page.get("/start")
    assert [c["title"] for c in found["conversations"]] == ["one"]
    assert found["model"]["card"]["modes"] == ["dense", "exact", "predicted"]
    assert found["model"]["state"] == "ready"
    json.dumps(found)


def test_change_delete_restore_purge(page: Page) -> None:
    key = page.conversation(title="one")
    changed = page.ask("PATCH", f"/conversations/{key}", {"title": "two", "pinned": True, "folder": "work"})
    assert (changed["title"], changed["pinned"], changed["folder"]) == ("two", True, "work")
    page.ask("DELETE", f"/conversations/{key}", status=204)
    page.get(f"/conversations/{key}", status=404)
    assert [c["id"] for c in page.get("/conversations?deleted=1")] == [key]
    page.post(f"/conversations/{key}/restore")
    page.ask("DELETE", f"/conversations/{key}", status=204)
    assert page.ask("DELETE", "/bin") == {"purged": 1}
    page.post(f"/conversations/{key}/restore", status=404)


def test_delete_and_restore_messages(page: Page) -> None:
    key = page.conversation()
    first = page.send(key, "say: one")
    page.send(key, "say: two", first["id"])
    gone = page.ask("DELETE", f"/messages/{first['id']}")
    assert [m["content"] for m in gone["messages"]] == ["say: one"]
    page.post(f"/conversations/{key}/restore-messages", {"stamp": gone["stamp"]})
    assert page.texts(key) == ["say: one", "one", "say: two", "two"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/conversations/1", {"title": 5}),
        ("PATCH", "/conversations/1", {"pinned": "yes"}),
        ("POST", "/conversations/1/messages", {}),
        ("POST", "/conversations/1/messages", {"content": "  "}),
        ("POST", "/conversations/1/messages", {"content": "x", "parent_id": 999}),
        ("POST", "/conversations/1/messages", ["x"]),
        ("PUT", "/settings", {"evil": 1}),
        ("PUT", "/settings", {"theme": 1}),
        ("POST", "/presets", {"name": " "}),
        ("POST", "/models/load", {"path": "x", "options": {"nonsense": 1}}),
        ("POST", "/models/locate", {"name": "../../etc/passwd"}),
        ("GET", "/models/folder?path=/does/not/exist", None),
        ("GET", "/conversations/1/export/exe", None),
        ("POST", "/ticket", {"ticket": "guess"}),
    ],
)
def test_bad_requests_are_refused_in_words(page: Page, method: str, path: str, body: object) -> None:
    page.conversation()
    response = page.client.request(method, "/api/chat" + path, json=body)
    assert response.status_code in (400, 404)
    assert len(response.json()["error"]["message"]) > 10


def test_a_body_that_is_no_json_is_refused(page: Page) -> None:
    response = page.client.post("/api/chat/conversations", content=b"\xff{")
    assert response.status_code == 400


def test_settings_and_presets(page: Page) -> None:
    page.ask("PUT", "/settings", {"theme": "dark", "defaults": {"temperature": 0.2}}, status=204)
    assert page.get("/start")["settings"] == {"theme": "dark", "defaults": {"temperature": 0.2}}
    [preset] = page.post("/presets", {"name": "terse", "system_prompt": "Be terse.", "settings": {}})
    assert page.ask("DELETE", f"/presets/{preset['id']}") == []
    page.ask("DELETE", f"/presets/{preset['id']}", status=404)


def test_models_are_listed_opened_and_remembered(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "some.gguf"
    file.write_bytes(b"GGUF")
    page.post("/models/load", {"path": str(file)})
    page.client.portal.call(page.client.app.state.chat.loading.wait)  # type: ignore[union-attr]
    status = page.get("/models/status")
    assert (status["state"], status["error"], status["task"]) == ("ready", None, "")
    models = page.get("/models")["models"]
    assert [m["path"] for m in models if m["kind"] == "recent"] == [str(file)]
    assert any(m["kind"] == "bundled" for m in models)


def test_a_model_that_cannot_be_opened_says_why(page: Page) -> None:
    page.post("/models/load", {"path": "/nowhere/missing.gguf"})
    page.client.portal.call(page.client.app.state.chat.loading.wait)  # type: ignore[union-attr]
    status = page.get("/models/status")
    assert status["state"] == "failed"
    assert "cannot be opened" in status["error"]["message"]


def test_a_checkpoint_is_converted_and_opened(page: Page) -> None:
    source = Path(__file__).resolve().parents[2] / "models" / "turbosparse-micro"
    page.post("/models/load", {"path": str(source)})
    assert page.get("/models/status")["task"] == "converting"
    page.client.portal.call(page.client.app.state.chat.loading.wait)  # type: ignore[union-attr]
    status = page.get("/models/status")
    assert status["error"] is None
    assert status["path"].endswith("turbosparse-micro-Q8_0.gguf")
    assert Path(status["path"]).stat().st_size > 1000


def test_plan_names_pools_and_what_would_help(page: Page, tmp_path: Path) -> None:
    plan = page.post("/models/plan", {"path": str(tmp_path / "huge.gguf")})
    assert plan["fits"] is False
    assert [pool["name"] for pool in plan["pools"]] == ["weights", "kv", "compute"]
    assert plan["advice"][0]["options"] == {"n_ctx": 2048}


def test_file_dialog_shows_models_checkpoints_and_folders_only(page: Page, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"1234")
    (tmp_path / "notes.txt").write_text("no")
    (tmp_path / ".hidden.gguf").write_text("no")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    (tmp_path / "hf" / "model.safetensors").write_text("")
    (tmp_path / "plain").mkdir()
    found = page.get(f"/models/folder?path={tmp_path}")
    kinds = {entry["name"]: entry["kind"] for entry in found["entries"]}
    assert kinds == {"a.gguf": "model", "hf": "checkpoint", "plain": "folder", "data": "folder"}


def test_a_dropped_file_is_found_by_name_and_size(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "Downloads" / "deep" / "er"
    place.mkdir(parents=True)
    (place / "m.gguf").write_bytes(b"12345")
    assert page.post("/models/locate", {"name": "m.gguf", "size": 5})["path"] == str(place / "m.gguf")
    assert page.post("/models/locate", {"name": "m.gguf", "size": 6})["path"] is None


# --- who may ask --------------------------------------------------------------


@pytest.mark.parametrize("path", ["/start", "/conversations", "/export", "/search?q=a", "/models/folder"])
def test_no_key_no_answer(page: Page, path: str) -> None:
    assert page.client.get("/api/chat" + path, headers={"authorization": ""}).status_code == 401
    assert page.client.get("/api/chat" + path, headers={"host": "evil.example"}).status_code == 403
    assert page.client.get("/api/chat" + path, headers={"origin": "https://evil.example"}).status_code == 403


def test_the_page_itself_is_public_and_may_load_nothing_from_elsewhere(page: Page) -> None:
    for path in ("/", "/static/js/app.js", "/static/css/base.css"):
        response = page.client.get(path, headers={"authorization": ""})
        assert response.status_code == 200
        assert response.headers["content-security-policy"].startswith("default-src 'self';")
    assert page.client.get("/static/../app.py", headers={"authorization": ""}).status_code in (401, 404)
    assert page.client.get("/static/%2e%2e/app.py", headers={"authorization": ""}).status_code in (401, 404)


def test_the_page_comes_in_the_chosen_theme(page: Page) -> None:
    assert 'data-theme="system"' in page.client.get("/").text
    page.ask("PUT", "/settings", {"theme": "dark"}, status=204)
    assert 'data-theme="dark"' in page.client.get("/").text
    page.ask("PUT", "/settings", {"theme": '"><script>'}, status=204)
    assert 'data-theme="system"' in page.client.get("/").text


def test_a_ticket_is_worth_the_token_once(tmp_path: Path) -> None:
    ticket = Ticket()
    app = create_chat_app(FakeEngine(), tmp_path, token=TOKEN, ticket=ticket)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.post("/api/chat/ticket", json={"ticket": "wrong"}).status_code == 400
        assert client.post("/api/chat/ticket", json={"ticket": ticket.word}).json() == {"token": TOKEN}
        assert client.post("/api/chat/ticket", json={"ticket": ticket.word}).status_code == 400
    assert not Ticket(seconds=-1).redeem(ticket.word)
