"""What a model may say, and what must not come of it."""

from __future__ import annotations

import pytest

from .browser import Window
from .conftest import OpenWindow, Serve

HOSTILE = """\
<script>window.pwned = 1</script>
<img src="https://evil.example/a.png" onerror="window.pwned = 2">
<svg onload="window.pwned = 3"><a xlink:href="javascript:window.pwned=4"><text>x</text></a></svg>
<iframe src="https://evil.example/"></iframe>
<style>body { display: none }</style>
<form action="https://evil.example/"><input name="q"></form>
<div style="background: url(https://evil.example/b.png)">styled</div>

![remote](https://evil.example/c.png) [click](javascript:window.pwned=5) [data](data:text/html,<script>1</script>)
[fine](https://evil.example/page "title") <https://evil.example/auto> https://evil.example/bare

[ref]: https://evil.example/ref.png
![by reference][ref]

$\\href{javascript:window.pwned=6}{x}$ $\\includegraphics{https://evil.example/d.png}$ $\\htmlData{x=1}{y}$

```html
<script>window.pwned = 7</script>
```

```"><img src=x onerror=window.pwned=8>
code
```

| <img src=x onerror=window.pwned=9> |
|---|
| [x](vbscript:1) |
"""


def test_hostile_output_is_inert(serve: Serve, open_window: OpenWindow) -> None:
    window = open_window(serve(tokens_per_second=2000, script=lambda prompt, request: [HOSTILE]))
    page = window.page
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    window.ask("be hostile")
    page.wait_for_selector(".hljs-tag")
    page.wait_for_selector(".katex")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("window.pwned") is None
    prose = page.locator(".message.assistant .prose")
    for tag in ("script", "img", "svg[onload]", "iframe", "style", "form", "input", "a[href]", "object", "link"):
        assert prose.locator(tag).count() == 0, tag
    attributes = "[...document.querySelectorAll('.prose *')].flatMap((e) => e.getAttributeNames())"
    assert not [name for name in page.evaluate(attributes) if name.startswith("on")]
    assert "<script>window.pwned = 1</script>" in prose.inner_text()
    assert all(url.startswith(window.url) for url in asked), asked
    assert page.locator("body").is_visible()


def test_links_are_opened_only_on_request(serve: Serve, open_window: OpenWindow) -> None:
    window = open_window(serve(script=lambda prompt, request: ["[fine](https://evil.example/page)"]))
    window.ask("a link")
    window.page.click(".link")
    assert "https://evil.example/page" in window.page.inner_text("dialog")
    link = window.page.locator("dialog a")
    assert link.get_attribute("rel") == "noopener noreferrer"
    window.click("Copy address") if window.page.locator("[aria-label='Copy address']").count() else window.page.click(
        "text=Copy address"
    )
    assert window.page.evaluate("navigator.clipboard.readText()") == "https://evil.example/page"


@pytest.mark.parametrize("piece", ["<img src=x onerror=window.pwned=1>", "[a](javascript:window.pwned=1)", "<b>x</b>"])
def test_inert_while_it_streams_too(window: Window, piece: str) -> None:
    """Half an element, then its other half: no moment in between is live."""
    window.hold(0)
    window.say(f"say: {piece}\n\n{piece}\n\nend")
    window.page.wait_for_selector(".prose.growing", state="attached")
    window.page.evaluate(
        """() => { window.seen = new Set();
            new MutationObserver(() => document.querySelectorAll('.prose *').forEach((e) => window.seen.add(e.tagName)))
                .observe(document.body, {subtree: true, childList: true}); }"""
    )
    for tokens in range(1, 2 * len(piece), 3):
        window.hold(tokens)
        window.until(f"document.querySelector('.prose.growing')?.textContent.length >= {min(tokens, 2)}")
    window.hold(None)
    window.wait_reply()
    assert window.page.evaluate("window.pwned") is None
    assert "P" in window.page.evaluate("[...window.seen]"), "the observer must have seen it grow"
    assert not {"IMG", "SCRIPT", "A", "B"} & set(window.page.evaluate("[...window.seen]"))


def test_hostile_titles_and_questions(window: Window) -> None:
    window.ask("<img src=x onerror=window.pwned=1> say: ok")
    window.page.fill("#search", "img")
    window.page.wait_for_selector(".item-excerpt, .side-note")
    assert window.page.evaluate("window.pwned") is None
    assert window.page.locator(".bubble img, .item img").count() == 0
