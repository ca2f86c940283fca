"""Chat templates: ChatML, the file's own, and hostile ones."""

from __future__ import annotations

import time
from typing import Any

import pytest
from turbosparse import ArgumentError, Model, ModelFormatError, stream
from turbosparse.chat_template import CHATML, for_model, prompt_for_model, render
from turbosparse.generate import encode

HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
EXPECTED = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


def test_chatml() -> None:
    assert render(HELLO) == EXPECTED
    assert render(HELLO, add_generation_prompt=False) == EXPECTED.removesuffix("<|im_start|>assistant\n")


def test_a_template_sees_what_transformers_shows_it() -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}\n"
        "    {% if loop.first and m['role'] != 'system' %}{% continue %}{% endif %}\n"
        "{{ m | tojson }}{% endfor %}{{ eos_token }}"
    )
    assert render(HELLO[:1], template, bos_token="<s>", eos_token="</s>") == (
        '<s>{"role": "system", "content": "Be brief."}</s>'
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ raise_exception.__globals__.x }}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{% for i in range(99999) %}{{ 'y' * 1000 }}{% endfor %}",
        "{{ 'y' * 10 ** 11 }}",
        "{{ 10 ** 9 * [1] }}",
        "{{ 2 ** 1000000000 }}",
        "{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x='y') %}{% for i in range(50) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{{ 1 // 0 }}",
        "{{ messages[7].content.x }}",
        "{% if %}",
        "{{ 'x' }}" * 100_000,
    ],
)
def test_hostile_and_broken_templates(template: str) -> None:
    start = time.process_time()
    with pytest.raises(ModelFormatError) as caught:
        render(HELLO, template)
    assert caught.value.where == "tokenizer.chat_template"
    assert caught.value.exit_code == 4
    assert time.process_time() - start < 5


def test_operators_of_ordinary_size_work() -> None:
    template = "{{ '-' * 3 + 2 ** 3 * 'ab' }} {{ [1] + [2] }} {{ 2 * 3 + 1.5 }} {{ 2 ** -1 }}"
    assert render(HELLO, template) == "---abababababababab [1, 2] 7.5 0.5"


@pytest.mark.parametrize("name", ["raise_exception.__globals__", "raise_exception.__code__", "messages.__class__"])
def test_internals_are_undefined(name: str) -> None:
    assert render(HELLO, f"[{{{{ {name} }}}}]") == "[]"


def test_a_slow_template_is_stopped() -> None:
    slow = "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{{ '' }}{% endfor %}"
    start = time.perf_counter()
    with pytest.raises(ModelFormatError, match="takes longer"):
        render(HELLO, slow)
    assert time.perf_counter() - start < 10


def test_the_messages_stay_as_they_are() -> None:
    messages = [{"role": "user", "content": "a"}]
    render(messages, "{% set x = messages[0] %}{{ x.content }}")
    assert messages == [{"role": "user", "content": "a"}]


def test_a_template_may_refuse_the_messages() -> None:
    with pytest.raises(ArgumentError, match="users only") as caught:
        render(HELLO, "{{ raise_exception('users only') }}")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("message", [{"role": "user"}, {"content": "x"}, {}])
def test_messages_are_checked(message: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="message 1 lacks"):
        render([HELLO[0], message])


def test_the_file_s_template_comes_first(cases: Any) -> None:
    with Model(cases("mistral", chat_template=True).gguf, n_ctx=32) as model:
        assert for_model(model) == model.meta("tokenizer.chat_template")
        assert prompt_for_model(model, HELLO) == EXPECTED


def test_messages_are_a_prompt(model: Model) -> None:
    assert encode(model, HELLO) == encode(model, EXPECTED)
    assert [c.finish_reason for c in stream(model, HELLO, max_tokens=1, temperature=0, ignore_eos=True)] == [
        None,
        "length",
    ]


def test_chatml_is_read_as_control_tokens(model: Model) -> None:
    tokens = encode(model, prompt_for_model(model, HELLO))
    assert tokens.count(model.info.token_bos) == 1
    assert tokens.count(model.info.token_eot) == 2


class FileWith:
    """A model as far as its template and tokens go."""

    class info:  # noqa: N801
        token_bos, token_eos, add_bos = 1, 2, True

    def __init__(self, template: str | None) -> None:
        self._template = template

    def meta(self, key: str) -> str | None:
        assert key == "tokenizer.chat_template"
        return self._template

    def piece(self, token: int, *, special: bool) -> bytes:
        return {1: b"<s>", 2: b"</s>"}[token]


def test_bos_is_not_doubled() -> None:
    """The tokenizer adds it; a template that writes it too would double it."""
    model: Any = FileWith("{{ bos_token }}[{{ messages[0].content }}]{{ eos_token }}")
    assert prompt_for_model(model, HELLO) == "[Be brief.]</s>"


def test_without_a_template_it_is_chatml() -> None:
    model: Any = FileWith(None)
    assert for_model(model) == CHATML
