"""axe-core on every state of the page, light and dark: nothing serious."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .browser import Window
from .conftest import OpenWindow, Serve

MARKDOWN = """say: ## Title

Text with `code`, [a link](https://example.org) and $x^2$.

```python
print(1)  # one
```

| a | b |
|---|---|
| 1 | 2 |"""


def reply(window: Window) -> None:
    window.ask(MARKDOWN)
    window.page.wait_for_selector(".katex")
    window.page.wait_for_selector(".hljs-comment")


def sparsity(window: Window) -> None:
    window.ask("tell me about neurons")
    window.page.keyboard.press("Alt+s")
    window.page.wait_for_selector(".strip canvas")


def settings(window: Window) -> None:
    window.page.keyboard.press("Alt+p")
    window.page.wait_for_selector("#system-prompt")


def tokens(window: Window) -> None:
    window.ask("tell me about neurons")
    window.click("Show tokens")
    window.page.hover(".token >> nth=2")
    window.page.wait_for_selector(".alternatives")


def compare(window: Window) -> None:
    window.ask("tell me about neurons")
    window.click("Compare with dense")
    window.page.wait_for_selector(".verdict")


def models(window: Window) -> None:
    window.page.click("#model-button")
    window.page.click("text=turbosparse-micro >> nth=0")
    window.page.wait_for_selector(".plan .fit")


def help_dialog(window: Window) -> None:
    window.click("Keyboard shortcuts")


def editing(window: Window) -> None:
    window.ask("say: one")
    window.page.keyboard.press("Alt+e")
    window.page.wait_for_selector(".editor")


def searching(window: Window) -> None:
    window.ask("say: findable words")
    window.page.fill("#search", "findable")
    window.page.wait_for_selector(".item-excerpt mark")


def empty(window: Window) -> None:
    window.page.wait_for_selector(".empty")


STATES = [empty, reply, sparsity, settings, tokens, compare, models, help_dialog, editing, searching]
RUN = """async () => {
    const { violations } = await axe.run(document, { resultTypes: ['violations'] });
    const where = (n) => n.html.slice(0, 160) + ' :: ' + n.failureSummary.slice(0, 200);
    return violations.map((v) => [v.impact, v.id, v.nodes.slice(0, 3).map(where)]);
}"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_nothing_serious(
    serve: Serve, open_window: OpenWindow, axe: str, state: Callable[[Window], None], dark: bool
) -> None:
    window = open_window(serve(tokens_per_second=500), dark=dark)
    state(window)
    window.settle()
    window.page.evaluate(axe)
    found = window.page.evaluate(RUN)
    assert [each for each in found if each[0] in ("serious", "critical")] == []
