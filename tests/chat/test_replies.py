"""Sending, branching, stopping, continuing, comparing: over HTTP, with the fake engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from turbosparse.chat.replies import title_of
from turbosparse.chat.store import Store

from tests.chat.conftest import TOKEN, MakePage, Page

SERVER = """
import sys
from pathlib import Path
from turbosparse.chat.app import create_chat_app
from turbosparse.server.fake import FakeEngine
from turbosparse.server.run import bind, serve
app = create_chat_app(FakeEngine(tokens_per_second=50), Path(sys.argv[1]), token=sys.argv[2])
with bind("127.0.0.1", 0) as listening:
    serve(app, listening, ready=lambda url: print(url, flush=True))
"""


def test_send_and_stream(make_page: MakePage) -> None:
    page = make_page(tokens_per_second=50)
    key = page.conversation()
    sent = page.post(f"/conversations/{key}/messages", {"content": "say: hello there friend"})
    user, reply = sent["messages"]
    assert (user["role"], reply["role"], reply["status"]) == ("user", "assistant", "streaming")
    assert sent["conversation"]["title"] == "say: hello there friend"
    events = page.events(f"/messages/{reply['id']}/events")
    rows = [row for event in events if event["type"] == "delta" for row in event["rows"]]
    end = events[-1]["message"]
    assert events[0] == {"type": "start", "prefix": ""}
    assert "".join(row[1] for row in rows) == end["content"] == "hello there friend"
    assert end["status"] == "complete"
    stats = end["stats"]
    assert stats["mode"] == "predicted"
    assert stats["seed"] >= 0
    assert stats["sparsity"]["rows"] < stats["sparsity"]["rows_dense"]
    assert stats["timings"]["predicted_n"] == len(rows)
    assert stats["ttft_ms"] > 0
    assert page.get(f"/messages/{reply['id']}/trace")["rows"] == rows
    token, text, probability, active, alternatives, layers = rows[0]
    assert isinstance(token, int)
    assert isinstance(text, str)
    assert 0 < probability <= 1
    assert 0 < active < 1
    assert len(alternatives) == 4
    assert len(layers) == 8


def test_a_finished_reply_can_be_followed_too(page: Page) -> None:
    key = page.conversation()
    reply = page.send(key, "say: done")
    assert [event["type"] for event in page.events(f"/messages/{reply['id']}/events")] == ["end"]


def test_regenerate_makes_a_sibling_and_keeps_the_first(page: Page) -> None:
    key = page.conversation()
    first = page.send(key, "tell me something")
    second = page.finish(page.post(f"/messages/{first['id']}/regenerate")["id"])
    assert second["parent_id"] == first["parent_id"]
    assert second["siblings"] == [first["id"], second["id"]]
    assert second["stats"]["seed"] != first["stats"]["seed"]
    back = page.post(f"/messages/{first['id']}/select")
    assert back[-1]["content"] == first["content"]


def test_edit_of_a_question_branches_and_answers(page: Page) -> None:
    key = page.conversation()
    first = page.send(key, "say: one")
    path = page.post(f"/messages/{first['parent_id']}/edit", {"content": "say: two"})
    page.finish(path[-1]["id"])
    assert page.texts(key) == ["say: two", "two"]
    assert len(path[0]["siblings"]) == 2
    assert [m["content"] for m in page.post(f"/messages/{first['id']}/select")] == ["say: one", "one"]


def test_edit_of_a_reply_keeps_both(page: Page) -> None:
    key = page.conversation()
    first = page.send(key, "say: one")
    path = page.post(f"/messages/{first['id']}/edit", {"content": "uno"})
    assert path[-1]["content"] == "uno"
    assert path[-1]["stats"] == {"edited": True}
    assert page.get("/search?q=uno")[0]["message_id"] == path[-1]["id"]


def test_history_and_system_prompt_reach_the_engine(make_page: MakePage) -> None:
    prompts: list[str] = []

    def script(prompt: str, _: object) -> list[str]:
        prompts.append(prompt)
        return ["fine"]

    page = make_page(script=script)
    key = page.conversation(system_prompt="Be brief.")
    first = page.send(key, "How are you?")
    page.send(key, "And now?", first["id"])
    assert all(text in prompts[-1] for text in ("system\nBe brief.", "How are you?", "fine", "And now?"))


def test_settings_reach_the_engine(page: Page) -> None:
    key = page.conversation(settings={"max_tokens": 3, "seed": 7, "mode": "exact", "unknown": 1})
    stats = page.send(key, "say: a b c d e f g h i j")["stats"]
    assert stats["seed"] == 7
    assert stats["mode"] == "exact"
    assert stats["finish_reason"] == "length"
    assert stats["timings"]["predicted_n"] == 3


@pytest.mark.parametrize(
    "settings", [{"temperature": "hot"}, {"seed": -1}, {"stop": [""]}, {"top_p": None, "seed": 1.5}]
)
def test_bad_settings_are_refused_before_anything_is_kept(page: Page, settings: dict[str, object]) -> None:
    key = page.conversation(settings=settings)
    page.post(f"/conversations/{key}/messages", {"content": "hello"}, status=400)
    assert page.texts(key) == []


def test_too_long_a_prompt_is_refused_with_both_numbers(make_page: MakePage) -> None:
    page = make_page(n_ctx=64)
    key = page.conversation()
    error = page.post(f"/conversations/{key}/messages", {"content": "xyz " * 100}, status=400)["error"]
    assert error["type"] == "ContextOverflowError"
    assert error["needed"] > error["available"] == 64
    assert page.texts(key) == []


def test_without_a_model_nothing_is_kept(make_page: MakePage) -> None:
    page = make_page(loaded=False)
    key = page.conversation()
    page.post(f"/conversations/{key}/messages", {"content": "hello"}, status=409)
    assert page.texts(key) == []


def test_stop_keeps_what_was_said_and_continue_goes_on(make_page: MakePage) -> None:
    page = make_page(tokens_per_second=50)
    key = page.conversation()
    sent = page.post(f"/conversations/{key}/messages", {"content": "say: " + "word " * 200})
    reply = sent["messages"][1]["id"]
    time.sleep(0.3)
    start = time.perf_counter()
    stopped = page.post(f"/messages/{reply}/stop")
    assert time.perf_counter() - start < 0.4
    assert stopped["status"] == "stopped"
    assert stopped["content"].startswith("word")
    page.post(f"/messages/{reply}/continue")
    time.sleep(0.3)
    went_on = page.post(f"/messages/{reply}/stop")
    assert went_on["content"].startswith(stopped["content"])
    assert len(went_on["content"]) > len(stopped["content"])
    rows = page.get(f"/messages/{reply}/trace")["rows"]
    assert "".join(row[1] for row in rows) == went_on["content"]


def test_a_second_reader_gets_everything(make_page: MakePage) -> None:
    page = make_page(tokens_per_second=200)
    key = page.conversation()
    text = "say: " + "again " * 40
    sent = page.post(f"/conversations/{key}/messages", {"content": text})
    reply = sent["messages"][1]["id"]
    time.sleep(0.3)
    assert page.get(f"/conversations/{key}")["messages"][1]["status"] == "streaming"
    events = page.events(f"/messages/{reply}/events")  # the page was loaded anew
    deltas = [event for event in events if event["type"] == "delta"]
    assert deltas[0]["from"] == 0
    assert "".join(row[1] for event in deltas for row in event["rows"]) == events[-1]["message"]["content"]
    assert len(deltas) < 0.8 * sum(len(event["rows"]) for event in deltas), (
        "tokens that come faster than 30 times a second are sent together"
    )


def test_failures_end_up_in_the_message(make_page: MakePage) -> None:
    page = make_page(fail_at=3)
    key = page.conversation()
    reply = page.send(key, "say: one two three four five")
    assert reply["status"] == "failed"
    assert "told to fail" in reply["stats"]["error"]["message"]
    assert reply["content"]


def test_compare_with_dense(page: Page) -> None:
    key = page.conversation()
    reply = page.send(key, "tell me about neurons")
    page.post(f"/messages/{reply['id']}/comparison", {"mode": "dense"}, status=204)
    events = page.events(f"/messages/{reply['id']}/comparison/events")
    found = events[-1]["comparison"]
    assert found["content"] == reply["content"], "the fake says the same for the same seed"
    assert found["stats"]["mode"] == "dense"
    assert found["stats"]["seed"] == reply["stats"]["seed"]
    assert found["stats"]["params"] == reply["stats"]["params"]
    assert page.get(f"/messages/{reply['id']}/comparison")["comparison"] == found
    assert page.texts(key)[-1] == reply["content"], "the conversation is not touched"


def test_recall_is_measured(page: Page) -> None:
    key = page.conversation()
    page.send(key, "tell me about neurons")
    answer = page.post(f"/conversations/{key}/recall", {"threshold_shifts": [0, -0.5]})
    fast, balanced = answer["found"]
    assert (fast["threshold_shift"], balanced["threshold_shift"]) == (0, -0.5)
    assert fast["recall"] == 0.8
    assert balanced["recall"] > fast["recall"]
    assert balanced["selected"] > fast["selected"]
    assert answer["tokens"] > 10
    for wrong in ("x", True, 1000):
        page.post(f"/conversations/{key}/recall", {"threshold_shifts": [wrong]}, status=400)
    page.post(f"/conversations/{key}/recall", {"threshold_shifts": []}, status=400)


def test_the_threshold_reaches_the_engine(page: Page) -> None:
    key = page.conversation(settings={"mode": "predicted", "threshold_shift": -0.5})
    assert page.send(key, "say: hello")["stats"]["threshold_shift"] == -0.5
    page.ask("PATCH", f"/conversations/{key}", {"settings": {"mode": "predicted", "threshold_shift": "low"}})
    page.post(f"/conversations/{key}/messages", {"content": "say: hello", "parent_id": None}, status=400)


def test_deleting_a_conversation_stops_its_reply(make_page: MakePage) -> None:
    page = make_page(tokens_per_second=20)
    key = page.conversation()
    page.post(f"/conversations/{key}/messages", {"content": "say: " + "word " * 100})
    page.ask("DELETE", f"/conversations/{key}", status=204)
    assert page.get("/start")["replying"] == []
    page.post(f"/conversations/{key}/restore")
    assert page.get(f"/conversations/{key}")["messages"][1]["status"] == "stopped"


def test_the_end_of_the_program_marks_replies_interrupted(make_page: MakePage, tmp_path: Path) -> None:
    page = make_page(tokens_per_second=20)
    key = page.conversation()
    page.post(f"/conversations/{key}/messages", {"content": "say: " + "word " * 100})
    time.sleep(0.2)
    page.client.__exit__(None, None, None)
    with Store(tmp_path / "data") as store:
        assert store.path(key)[1].status == "interrupted"
        assert store.path(key)[1].content
    page.client.__enter__()


def test_killed_during_a_reply(tmp_path: Path) -> None:
    """kill -9: the conversation is whole, the reply kept up to its last flush and marked."""
    command = [sys.executable, "-c", SERVER, str(tmp_path), TOKEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip() + "/api/chat"
        with httpx.Client(headers={"authorization": f"Bearer {TOKEN}"}, timeout=10) as client:
            key = client.post(url + "/conversations", json={}).json()["id"]
            text = " ".join(f"word{i}" for i in range(400))
            client.post(url + f"/conversations/{key}/messages", json={"content": f"say: {text}"}).raise_for_status()
            time.sleep(1.5)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    with Store(tmp_path) as store:
        user, reply = store.path(key)
        assert user.content.endswith("word399")
        assert reply.status == "interrupted"
        assert reply.content
        assert text.startswith(reply.content)
        assert len(reply.content) > 20
        assert store.db.rows("PRAGMA integrity_check")[0][0] == "ok"


def test_titles() -> None:
    assert title_of("\n\n  Hello \nworld") == "Hello"
    assert title_of("word " * 40).endswith("word...")
    assert len(title_of("word " * 40)) <= 63
