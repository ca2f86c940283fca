"""What people do, against the fake engine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from .browser import PATIENCE, Window
from .conftest import ROOT, OpenWindow, Serve

Shot = Callable[[Window, str], None]


def test_first_run(window: Window, shot: Shot) -> None:
    page = window.page
    assert "Talk with Fake Model" in page.inner_text(".empty")
    assert page.evaluate("document.activeElement.id") == "composer"
    assert "#token" not in page.url
    shot(window, "first-run")
    page.click(".examples button >> nth=0")
    assert window.wait_reply()
    assert page.locator(".sidebar .item").count() == 1


def test_send_and_stream(window: Window, shot: Shot) -> None:
    text = "say: " + " ".join(f"word{i}" for i in range(60))
    window.hold(120)
    window.say(text)
    window.grown(100)
    half = window.last_reply()
    assert text.removeprefix("say: ").startswith(half)
    assert window.page.locator("#stop").is_visible()
    shot(window, "streaming")
    window.hold(None)
    assert window.wait_reply() == text.removeprefix("say: ")
    figures = window.page.inner_text(".figures")
    for expected in ("of FFN rows computed", "/token instead of", "tok/s", "first token", "measured", "derived"):
        assert expected in figures


def test_stop_and_continue(window: Window) -> None:
    window.hold(40)
    window.say("say: " + "word " * 400)
    window.grown(10)
    window.page.keyboard.press("Escape")
    window.page.wait_for_selector(".note.stopped")
    before = window.last_reply()
    window.page.click("text=Continue the reply")
    window.grown(len(before) + 20)
    assert window.last_reply().startswith(before.strip())
    window.page.click("#stop")
    window.page.wait_for_selector(".note.stopped")


def test_regenerate_and_branches(window: Window) -> None:
    first = window.ask("tell me a story")
    window.click("Regenerate")
    window.page.wait_for_selector(".branches")
    second = window.wait_reply()
    assert window.page.inner_text(".branches") == "2/2"
    window.click("Earlier version")
    window.until("document.querySelector('.branches').innerText === '1/2'")
    assert window.last_reply() == first != second


def test_edit_and_branch(window: Window) -> None:
    window.ask("say: one")
    window.page.hover(".message.user")
    window.click("Edit message")
    assert window.page.input_value(".editor textarea") == "say: one"
    window.page.fill(".editor textarea", "say: two")
    window.page.keyboard.press("Control+Enter")
    window.until("document.querySelectorAll('.bubble')[0]?.innerText === 'say: two'")
    window.wait_reply()
    assert window.texts() == ["say: two", "two"]
    window.page.keyboard.press("Alt+ArrowLeft")
    window.until("document.querySelectorAll('.bubble')[0]?.innerText === 'say: one'")
    assert window.texts() == ["say: one", "one"]


def test_search_jumps_to_the_message(window: Window, shot: Shot) -> None:
    for word in ("okapi", "zebra", "giraffe"):
        window.page.keyboard.press("Alt+n")
        window.ask(f"say: about the {word}")
    window.page.keyboard.press("Control+k")
    window.page.keyboard.type("zeb")
    window.page.wait_for_selector(".item-excerpt mark")
    window.until("document.querySelectorAll('.sidebar .item').length === 1")
    shot(window, "search")
    window.page.keyboard.press("ArrowDown")
    window.page.keyboard.press("Enter")
    window.until("document.querySelector('.bubble')?.innerText.includes('zebra')")


def test_search_finds_other_branches(window: Window) -> None:
    window.ask("say: the first version")
    window.page.keyboard.press("Alt+e")
    window.page.fill(".editor textarea", "say: another one")
    window.page.keyboard.press("Control+Enter")
    window.until("document.querySelector('.bubble')?.innerText === 'say: another one'")
    window.wait_reply()
    window.page.fill("#search", "version")
    window.page.click(".item-excerpt")
    window.until("document.querySelector('.bubble')?.innerText === 'say: the first version'")
    window.page.wait_for_selector(".message.found")


def test_rename_pin_folder_delete_undo(window: Window) -> None:
    page = window.page
    window.ask("say: hello")
    page.hover(".row")
    window.click("Actions for say: hello")
    page.click("text=Rename...")
    page.fill("dialog input", "Greetings")
    page.keyboard.press("Enter")
    page.wait_for_selector(".item-title:has-text('Greetings')")
    page.hover(".row")
    window.click("Actions for Greetings")
    page.click("[role=menuitem] >> text=Pin")
    page.wait_for_selector(".group h2:has-text('Pinned')")
    page.hover(".row")
    window.click("Actions for Greetings")
    page.click("[role=menuitem] >> text=Unpin")
    page.wait_for_selector(".group h2:has-text('Today')")
    page.hover(".row")
    window.click("Actions for Greetings")
    page.click("text=Move to folder...")
    page.fill("dialog input", "Work")
    page.keyboard.press("Enter")
    page.wait_for_selector(".group h2:has-text('Work')")
    page.hover(".row")
    window.click("Actions for Greetings")
    page.click("[role=menuitem] >> text=Delete")
    window.until("document.querySelectorAll('.sidebar .item').length === 0")
    page.click(".toast button")
    page.wait_for_selector(".bubble")
    assert window.texts() == ["say: hello", "hello"]


def test_deleting_a_message_can_be_undone(window: Window) -> None:
    window.ask("say: one")
    window.click("Delete from here")
    window.until("document.querySelectorAll('.message').length === 1")
    window.page.click(".toast button")
    window.until("document.querySelectorAll('.message').length === 2")


def test_switch_model(window: Window, tmp_path: Path, shot: Shot, monkeypatch: pytest.MonkeyPatch) -> None:
    page = window.page
    (tmp_path / "other-model.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("HOME", str(tmp_path))
    page.click("#model-button")
    page.click("text=turbosparse-micro >> nth=0")
    page.wait_for_selector(".plan .fit")
    shot(window, "models")
    page.click("text=From this computer")
    page.click("text=other-model.gguf")
    page.wait_for_selector("#model-button:has-text('Other Model')")
    window.until("!document.querySelector('dialog')")
    assert window.ask("say: still here") == "still here"
    page.click("#model-button")
    page.wait_for_selector(".models >> text=other-model")
    assert "recent" in page.inner_text(".models li:has-text('other-model')")


def test_a_model_that_does_not_fit(window: Window, tmp_path: Path, shot: Shot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plan comes first, with what would make it fit; nothing is opened unasked."""
    page = window.page
    (tmp_path / "huge.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("HOME", str(tmp_path))
    page.click("#model-button")
    page.click("text=From this computer")
    page.click("text=huge.gguf")
    page.wait_for_selector(".plan .fit.no")
    assert "What would make it fit" in page.inner_text(".plan")
    assert "weights" in page.inner_text(".plan .pools")
    assert page.inner_text(".model-now strong") == "Fake Model"
    shot(window, "does-not-fit")
    page.click("text=Open like that")
    page.wait_for_selector("#model-button:has(.dot.ready):has-text('Huge')")


def test_unload(window: Window) -> None:
    page = window.page
    page.click("#model-button")
    page.click(".model-now >> text=Unload")
    window.until("!document.querySelector('.model-now')")
    page.keyboard.press("Escape")
    page.wait_for_selector(".empty >> text=No model is loaded")
    assert page.get_attribute("#composer", "placeholder") == "Choose a model first"


def test_a_checkpoint_is_converted(window: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    page = window.page
    monkeypatch.setenv("HOME", str(ROOT / "models"))
    page.click("#model-button")
    page.click("text=From this computer")
    page.click(".browser button:has-text('turbosparse-micro'):has-text('convert') >> nth=0")
    page.wait_for_selector("#model-button:has-text('Turbosparse Micro')")
    assert window.ask("say: converted") == "converted"


def test_a_model_that_cannot_be_opened(window: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = window.page
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("HOME", str(tmp_path))
    page.click("#model-button")
    page.click("text=From this computer")
    page.click("text=broken.gguf")
    page.wait_for_selector(".failure")
    assert "cannot be opened" in page.inner_text(".failure")


def test_compare_with_dense(window: Window, shot: Shot) -> None:
    reply = window.ask("tell me about neurons")
    window.click("Compare with dense")
    window.page.wait_for_selector(".verdict")
    texts = window.page.locator(".comparison .prose").all_inner_texts()
    assert texts == [reply, reply]
    assert "identical" in window.page.inner_text(".verdict")
    assert window.page.locator(".comparison .figures").count() == 2
    shot(window, "compare")
    window.click("Compare with dense")
    window.until("!document.querySelector('.comparison')")


def test_sparsity_panel(window: Window, shot: Shot) -> None:
    window.ask("tell me about neurons")
    window.page.keyboard.press("Alt+s")
    window.page.wait_for_selector(".strip canvas")
    assert "of neurons were not zero" in window.page.inner_text(".panel")
    drawn = """() => {
        const canvas = document.querySelector('.strip canvas');
        const context = canvas.getContext('2d', {willReadFrequently: true});
        const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
        return new Set(Array.from({length: data.length / 4}, (_, i) => data.slice(4 * i, 4 * i + 3).join())).size;
    }"""
    window.until(f"({drawn})() > 3")
    window.page.hover(".strip canvas", position={"x": 10, "y": 10})
    window.until("document.querySelector('.strip figcaption').innerText.includes('layer 0')")
    window.page.click("#measure-recall")
    window.page.wait_for_selector(".recall tbody tr >> nth=1")
    assert window.page.locator(".recall tbody th").all_inner_texts() == ["Balanced", "Fast"]
    assert "80" in window.page.inner_text(".recall tbody tr:has-text('Fast')")
    shot(window, "sparsity")


def test_the_dial_and_the_threshold(window: Window) -> None:
    """A threshold of one's own is kept with the conversation, and measured beside Balanced's and Fast's."""
    page = window.page
    page.click(".dial >> text=Balanced")
    page.keyboard.press("Alt+s")
    assert page.input_value("#threshold") == "-1"
    window.ask("say: careful")
    assert "Balanced" in page.inner_text(".panel")
    page.focus("#threshold")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    window.until("document.querySelector('.slider output').innerText.includes('1.3')")
    window.ask("say: more careful")
    page.wait_for_selector(".panel :text('Balanced (threshold \u22121.3)')")
    page.click("#measure-recall")
    page.wait_for_selector(".recall tbody tr >> nth=2")
    page.reload()
    page.wait_for_selector(".dial [aria-checked=true]:has-text('Balanced')")
    page.click(".dial >> text=Exact")
    page.keyboard.press("Alt+s")
    window.until("!document.querySelector('#threshold')")


def test_mode_dial_and_sampling(window: Window) -> None:
    page = window.page
    page.click(".dial >> text=Exact")
    page.keyboard.press("Alt+p")
    page.fill("#system-prompt", "Be brief.")
    page.locator("#system-prompt").blur()
    page.fill(".number input >> nth=1", "42")
    page.locator(".number input >> nth=1").blur()
    window.ask("say: modes")
    figures = page.locator("[data-figure=rows]").inner_text()
    assert figures.startswith("41")
    page.fill("[aria-label='Name of a new preset']", "Brief")
    page.click(".inline-form button")
    page.wait_for_selector(".presets >> text=Brief")
    page.keyboard.press("Alt+n")
    page.click(".presets >> text=Brief")
    window.until("document.querySelector('#system-prompt').value === 'Be brief.'")
    assert page.get_attribute(".dial [aria-checked=true]", "title").startswith("Neurons that come out")  # type: ignore[union-attr]


def test_tokens(window: Window, shot: Shot) -> None:
    window.ask("tell me about neurons")
    window.click("Show tokens")
    window.page.hover(".token >> nth=2")
    window.page.wait_for_selector(".token-details strong")
    details = window.page.inner_text(".token-details")
    assert "probability" in details
    assert "of neurons active" in details
    assert window.page.locator(".alternatives li").count() == 4
    window.page.focus(".token-text")
    window.page.keyboard.press("ArrowRight")
    assert window.page.locator(".token.at").get_attribute("data-at") == "3"
    shot(window, "tokens")


def test_export_and_reimport(window: Window, tmp_path: Path) -> None:
    page = window.page
    window.ask("say: keep me")
    with page.expect_download() as download:
        window.click("Export all conversations")
    file = tmp_path / "export.json"
    download.value.save_as(file)
    assert json.loads(file.read_text())["format"] == "turbosparse-chat"
    page.hover(".row")
    window.click("Actions for say: keep me")
    with page.expect_download() as download:
        page.click("text=Export as Markdown")
    assert download.value.suggested_filename == "say keep me.md"
    page.set_input_files("#import-file", file)
    window.until("document.querySelectorAll('.sidebar .item').length === 2")
    assert window.texts() == ["say: keep me", "keep me"]


def test_reload_during_a_reply(serve: Serve, open_window: OpenWindow) -> None:
    window = open_window(serve())
    words = " ".join(f"w{i}" for i in range(50))
    window.hold(30)
    window.say(f"say: {words}")
    window.grown(20)
    window.page.reload()
    window.grown(20)
    window.hold(60)
    window.grown(50)
    assert window.last_reply().startswith("w0 w1 w2")
    window.hold(None)
    assert window.wait_reply() == words


def test_dark_mode(serve: Serve, open_window: OpenWindow, shot: Shot) -> None:
    site = serve(tokens_per_second=200)
    window = open_window(site)
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light = window.page.evaluate(background)
    window.ask("say: light and dark")
    window.click("System theme: change")
    window.click("Light theme: change")
    window.until(f"{background} !== '{light}'")
    dark = window.page.evaluate(background)
    assert sum(map(int, re.findall(r"\d+", dark)[:3])) < 120 < sum(map(int, re.findall(r"\d+", light)[:3]))
    window.page.reload()
    window.page.wait_for_selector("#composer")
    window.until(f"{background} === '{dark}'")
    shot(window, "dark")
    system = open_window(site, dark=True)
    system.until(f"{background} === '{dark}'")


def test_keyboard_only(window: Window) -> None:
    """A conversation from first word to deletion, without the mouse."""
    page = window.page
    page.keyboard.type("say: typed")
    page.keyboard.press("Enter")
    assert window.wait_reply() == "typed"
    page.keyboard.press("Alt+r")
    page.wait_for_selector(".branches")
    window.wait_reply()
    page.keyboard.press("Alt+e")
    page.wait_for_selector(".editor textarea")
    page.keyboard.press("Control+a")
    page.keyboard.type("say: edited")
    page.keyboard.press("Control+Enter")
    window.until("document.querySelectorAll('.bubble')[0]?.innerText === 'say: edited'")
    window.wait_reply()
    page.keyboard.press("Control+k")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-haspopup')") == "menu"
    page.keyboard.press("Enter")
    window.until("document.activeElement.getAttribute('role') === 'menuitem'")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")  # Delete is the last entry
    window.until("document.querySelectorAll('.sidebar .item').length === 0")


def test_focus_can_be_seen_everywhere(window: Window) -> None:
    """Tab through the whole page: every stop shows an outline, and none is lost."""
    window.ask("say: hello")
    seen, page = set(), window.page
    page.evaluate("document.body.focus()")
    for _ in range(80):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
                const e = document.activeElement, s = getComputedStyle(e), box = e.closest('.composer-box') || e;
                const shown = s.outlineStyle !== 'none' || getComputedStyle(box).borderColor !== '';
                return [e.tagName, e.getAttribute('aria-label') || e.innerText || e.placeholder || '', shown];
            }"""
        )
        if found[0] == "BODY":  # through the window's own controls and round again
            continue
        assert found[2], found
        seen.add(found[1])
    for name in (
        "New conversation",
        "Search conversations",
        "Copy reply",
        "Regenerate",
        "Compare with dense",
        "Message",
    ):
        assert name in seen


def test_help_lists_the_shortcuts(window: Window) -> None:
    window.page.evaluate("document.activeElement.blur()")
    window.page.keyboard.press("?")
    window.page.wait_for_selector("dialog:has-text('Regenerate the last reply')")
    window.page.keyboard.press("Escape")
    window.until("document.querySelector('dialog') === null")


def test_overflow_is_said_with_both_numbers(serve: Serve, open_window: OpenWindow) -> None:
    window = open_window(serve(n_ctx=64))
    window.expected.append("400 (Bad Request)")
    window.say("long " * 100)
    window.page.wait_for_selector("dialog:has-text('does not fit')")
    assert "64" in window.page.inner_text("dialog")
    window.page.keyboard.press("Escape")
    assert window.page.input_value("#composer").startswith("long"), "what was written is kept"


def test_a_stock_model_is_badged(serve: Serve, open_window: OpenWindow) -> None:
    window = open_window(serve(sparse=False))
    assert window.page.inner_text(".topbar .badge") == "sparsity off"
    window.ask("say: still works")
    assert "tok/s" in window.page.inner_text(".figures")
    assert "rows" not in window.page.inner_text(".figures")


def test_without_a_key(serve: Serve, open_window: OpenWindow) -> None:
    window = open_window(serve())
    page = window.page.context.browser.new_context().new_page()  # type: ignore[union-attr]
    page.set_default_timeout(1e3 * PATIENCE)
    page.goto(window.url)
    page.wait_for_selector("text=This window has no key")
    page.context.close()


@pytest.mark.parametrize("size", [(390, 760), (900, 700)])
def test_small_windows(serve: Serve, open_window: OpenWindow, size: tuple[int, int], shot: Shot) -> None:
    window = open_window(serve(tokens_per_second=200), viewport={"width": size[0], "height": size[1]})
    window.ask("tell me about neurons")
    assert window.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shot(window, f"narrow-{size[0]}")


DROP = """([name, text]) => {
    const data = new DataTransfer();
    data.items.add(new File([text], name));
    document.body.dispatchEvent(new DragEvent('dragover', { dataTransfer: data, bubbles: true }));
    document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


def test_drop_conversations_and_models(window: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = window.page
    monkeypatch.setenv("HOME", str(tmp_path))
    exported = {"conv": {"id": "1", "name": "Dropped"}, "messages": [{"id": "a", "role": "user", "content": "hi"}]}
    page.evaluate(DROP, ["chat.json", json.dumps(exported)])
    page.wait_for_selector(".item-title:has-text('Dropped')")
    (tmp_path / "Downloads").mkdir()
    (tmp_path / "Downloads" / "m.gguf").write_text("GGUF")
    page.evaluate(DROP, ["m.gguf", "GGUF"])
    page.wait_for_selector("#model-button:has(.dot.ready) .model-name:text-is('M')")
    page.evaluate(DROP, ["elsewhere.gguf", "GGUF!"])
    page.wait_for_selector("dialog .browser")


def test_a_reply_that_is_written_makes_way(serve: Serve, open_window: OpenWindow) -> None:
    """Regenerating while a reply is written stops that one and keeps what it said."""
    window = open_window(serve())
    window.hold(40)
    window.say("say: " + "word " * 100)
    window.grown(10)
    first = window.page.get_attribute(".message.assistant", "id")
    window.page.keyboard.press("Alt+r")
    window.until(f"document.querySelector('.message.assistant').id !== '{first}'")
    window.grown(10)
    window.page.keyboard.press("Escape")
    window.page.wait_for_selector(".note.stopped")
    window.click("Earlier version")
    window.until("document.querySelector('.branches')?.innerText === '1/2'")
    window.page.wait_for_selector(".note.stopped")
