"""The same journeys with the bundled model, through `turbosparse chat` itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from turbosparse.chat.store import Store

from .browser import PATIENCE, Window
from .conftest import OpenWindow, Site

Shot = Callable[[Window, str], None]
Chat = Callable[..., Window]


@pytest.fixture
def programs() -> Iterator[list[subprocess.Popen[str]]]:
    """What was started; it ends after the windows."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for program in started:
        program.send_signal(signal.SIGINT)
        assert program.wait(PATIENCE) == 0


@pytest.fixture
def chat(tmp_path: Path, programs: list[subprocess.Popen[str]], open_window: OpenWindow) -> Chat:
    """chat(**settings of new conversations) -> a Window on `turbosparse chat`, whose model is open."""

    def start(**settings: Any) -> Window:
        with Store(tmp_path) as store:
            store.set_setting("defaults", settings)
        command = [sys.executable, "-m", "turbosparse", "chat", "--no-window", "--data-dir", str(tmp_path), "-t", "1"]
        program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        programs.append(program)
        assert program.stdout is not None
        url, token = program.stdout.readline().strip().split("/#token=")
        window = open_window(Site(url), token=token)
        window.page.wait_for_selector(".dot.ready")
        return window

    return start


def test_first_run_send_and_stream(chat: Chat, shot: Shot) -> None:
    window = chat(max_tokens=120, ignore_eos=True, seed=1)
    assert "Talk with" in window.page.inner_text(".empty")
    window.page.click(".examples button >> nth=0")
    text = window.wait_reply()
    assert len(text) > 50
    share = float(window.page.inner_text("[data-figure=rows]").split()[0])
    assert 0 < share < 60
    window.page.keyboard.press("Alt+s")
    window.page.wait_for_selector(".strip canvas")
    shot(window, "bundled-sparsity")


def test_stop_reload_and_continue(chat: Chat) -> None:
    window = chat(max_tokens=3000, ignore_eos=True)
    window.say("Tell me everything.")
    window.grown(40)
    window.page.reload()
    window.grown(60)
    window.page.keyboard.press("Escape")
    window.page.wait_for_selector(".note.stopped")
    before = window.content()
    window.page.click("text=Continue the reply")
    window.grown(len(before) + 20)
    window.page.keyboard.press("Escape")
    window.page.wait_for_selector(".note.stopped")
    assert window.content().startswith(before)


def test_regenerate_edit_and_branch(chat: Chat) -> None:
    window = chat(max_tokens=40, ignore_eos=True, temperature=1.2)
    first = window.ask("Hello, how are you?")
    window.click("Regenerate")
    window.page.wait_for_selector(".branches")
    assert window.wait_reply() != first
    window.click("Earlier version")
    window.until("document.querySelector('.branches').innerText === '1/2'")
    assert window.last_reply() == first
    window.page.keyboard.press("Alt+e")
    window.page.fill(".editor textarea", "Good morning!")
    window.page.keyboard.press("Control+Enter")
    window.until("document.querySelector('.bubble')?.innerText === 'Good morning!'")
    window.wait_reply()
    window.page.keyboard.press("Alt+ArrowLeft")
    window.until("document.querySelector('.bubble')?.innerText === 'Hello, how are you?'")


def test_exact_says_what_dense_says(chat: Chat, shot: Shot) -> None:
    window = chat(max_tokens=60, ignore_eos=True, mode="exact", seed=5)
    reply = window.ask("What is your favourite animal?")
    window.click("Compare with dense")
    window.page.wait_for_selector(".verdict")
    assert window.page.locator(".comparison .prose").all_inner_texts() == [reply, reply]
    shares = window.page.locator("[data-figure=rows]").all_inner_texts()
    assert shares[1].startswith("100")
    assert not shares[0].startswith("100")
    shot(window, "bundled-compare")


def test_search_export_import(chat: Chat, tmp_path: Path) -> None:
    window = chat(max_tokens=10)
    window.ask("The walrus and the carpenter")
    window.page.fill("#search", "walr")
    window.page.wait_for_selector(".item-excerpt mark")
    window.page.fill("#search", "")
    with window.page.expect_download() as download:
        window.click("Export all conversations")
    download.value.save_as(tmp_path / "all.json")
    assert len(json.loads((tmp_path / "all.json").read_text())["conversations"]) == 1
    window.page.set_input_files("#import-file", tmp_path / "all.json")
    window.until("document.querySelectorAll('.sidebar .item').length === 2")


def test_switch_model(chat: Chat) -> None:
    window = chat(max_tokens=20, ignore_eos=True)
    page = window.page
    page.click("#model-button")
    page.click("text=turbosparse-micro-moe")
    page.wait_for_selector(".plan .fit.yes")
    page.click(".model-more >> text=Open")
    page.wait_for_selector("#model-button:has(.dot.ready):has-text('moe')")
    window.until("!document.querySelector('dialog')")
    assert window.ask("Hello!")
    assert "FFN rows" in page.inner_text(".figures")


def test_a_stock_model_opens_with_a_badge(chat: Chat, shot: Shot) -> None:
    window = chat(max_tokens=40, seed=1)
    page = window.page
    page.click("#model-button")
    page.click("text=SmolLM2-135M-Instruct")
    page.click(".model-more >> text=Open")
    page.wait_for_selector(".topbar .badge:has-text('sparsity off')")
    window.until("!document.querySelector('dialog')")
    assert window.ask("What is the capital of France?")
    assert "tok/s" in page.inner_text(".figures")
    shot(window, "bundled-stock")


def test_recall_and_tokens(chat: Chat, shot: Shot) -> None:
    window = chat(max_tokens=60, ignore_eos=True, seed=3)
    window.ask("What do you like to do?")
    window.page.keyboard.press("Alt+s")
    window.page.click("#measure-recall")
    window.page.wait_for_selector(".recall tbody tr >> nth=1")
    found = window.page.locator(".recall tbody td:nth-child(3)").all_inner_texts()
    balanced, fast = (float(text.split()[0]) for text in found)
    assert 30 < fast < balanced <= 100
    window.click("Show tokens")
    window.page.focus(".token-text")
    for _ in range(5):
        window.page.keyboard.press("ArrowRight")
    window.page.wait_for_selector(".alternatives li")
    shot(window, "bundled-tokens")


def test_dark_and_keyboard_only(chat: Chat, shot: Shot) -> None:
    window = chat(max_tokens=20)
    window.page.emulate_media(color_scheme="dark")
    window.page.keyboard.type("Hello")
    window.page.keyboard.press("Enter")
    assert window.wait_reply()
    window.page.keyboard.press("Alt+d")
    window.page.wait_for_selector(".verdict")
    shot(window, "bundled-dark")
