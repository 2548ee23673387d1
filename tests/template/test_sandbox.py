"""Hostile chat templates: each ends with an error, soon and in little memory."""

from __future__ import annotations

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quire.errors import TemplateError
from quire.template import budget, sandbox
from quire.template.budget import CallArguments
from quire.template.sandbox import Renderer

DEEP = (
    "{% set ns = namespace(s=(1,), t=(1,)) %}{% for i in range(100) %}"
    "{% set ns.s = (ns.s, ns.s) %}{% set ns.t = (ns.t, ns.t) %}{% endfor %}"
)
LISTS = DEEP.replace("(1,)", "[1]").replace("(ns.s, ns.s)", "[ns.s, ns.s]")
ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops with conditions": "{% for i in range(99999) if (range(99999) | list) %}{% endfor %}",
    "filtered loops": "{% for i in range(99999) %}{{ range(99999) | select('odd') | list }}{% endfor %}",
    "macro": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "call blocks": "{% macro f(n) %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call f(1) %}" * 40
    + "x"
    + "{% endcall %}" * 40,
    "output": "{% for i in range(99999) %}" + "y" * 1000 + "{% endfor %}",
    "set block": "{% set x %}{% for i in range(99999) %}" + "y" * 1000 + "{% endfor %}{% endset %}",
}
LARGE = {
    "doubled text": "{% set ns = namespace(s='ab') %}{% for i in range(99) %}"
    "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "added text": "{% set ns = namespace(s='ab') %}{% for i in range(99) %}"
    "{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "doubled list": "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}"
    "{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "summed lists": "{{ ([[1] * 1000] * 1000) | sum(start=[]) }}" * 30,
    "repeated text": "{{ 'a' * 10**12 }}",
    "repeated list": "{{ 10**12 * [1] }}",
    "repeated user text": "{{ messages[0].content * 10**12 }}",
    "same text often": "{% set s = 'x' * 1000000 %}{{ [s, s, s, s, s, s, s, s, s, s, s] | tojson }}",
    "replace": "{{ ('a' * 1000000) | replace('a', 'b' * 10000) }}",
    "replace method": "{{ ('a' * 1000000).replace('a', 'b' * 10000) }}",
    "join": "{{ ('a' * 1000000) | join('b' * 10000) }}",
    "join method": "{{ ('b' * 10000).join('a' * 1000000) }}",
    "center": "{{ 'x'.center(10**10) }}",
    "ljust": "{{ messages[0].content.ljust(10**10) }}",
    "zfill": "{{ 'x'.zfill(10**10) }}",
    "expandtabs": "{{ ('\\t' * 1000).expandtabs(10**8) }}",
    "map": "{{ range(99999) | map('center', 10000) | list | length }}",
    "split": "{{ ('a ' * 2000000).split() | length }}",
    "list": "{{ ('a' * 2000000) | list | length }}",
}
REFUSED = {
    "large power": ("{{ 10 ** (10 ** 6) }}", "too large"),
    "large product": (
        "{% set ns = namespace(n=9) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
        "too large",
    ),
    "center filter": ("{{ 'x' | center(10**10) }}", "too large"),
    "indent": ("{{ 'x' | indent(10**10) }}", "too large"),
    "batch": ("{{ [1] | batch(10**10, 'x') | list }}", "too large"),
    "round": ("{{ 1.0 | round(10**9, 'ceil') }}", "too large"),
    "percent": ("{{ '%10000000000d' % 3 }}", "width"),
    "percent with a star": ("{{ '%*d' % (10000000000, 3) }}", "width"),
    "format": ("{{ '{:10000000000}'.format(3) }}", "width"),
    "nested format": ("{{ '{:{}}'.format(3, 10**10) }}", "width"),
    "format_map": ("{{ '{a:10000000000}'.format_map({'a': 3}) }}", "width"),
    "format filter": ("{{ '%10000000000d' | format(3) }}", "width"),
    "json": ("{{ [[1]] | tojson(indent=10**10) }}", "indents JSON"),
    "bytes of a number": ("{{ (1).to_bytes(10**10, 'big') }}", "to_bytes"),
    "bytes": ("{{ 'x'.encode().center(10**10) }}", "encode"),
    "translate": ("{{ 'xx'.translate({120: 'y' * 100}) }}", "translate"),
    "range": ("{{ range(10**9) | list }}", "Range too big"),
    "own call": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "too deeply"),
    "recursive loop": ("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "too deeply"),
    "private attribute": ("{{ ''.__class__.__mro__ }}", "unsafe|undefined|no attribute"),
    "globals": ("{{ raise_exception.__globals__.x }}", "unsafe"),
    "format to private": ("{{ '{0.__class__.x}'.format(1) }}", "unsafe"),
    "changing a list": ("{{ messages.append(1) }}", "unsafe|not safely"),
    "changing a dictionary": ("{{ messages[0].update({}) }}", "unsafe|not safely"),
    "other templates": ("{% include 'other' %}", "loader|no loader"),
    "marks": ("{{ 'a'.cuts.x }}", "unsafe"),
}
NESTED = {
    "text": "{{ ns.s }}",
    "json": "{{ ns.s | tojson }}",
    "equal": "{{ ns.s == ns.t }}",
    "in": "{{ ns.s in [ns.t] }}",
    "in a generator": "{{ ns.s in ([ns.t] | map('list')) }}",
    "key": "{{ {ns.s: 1} }}",
    "get": "{{ {}.get(ns.s) }}",
    "item": "{{ messages[ns.s] }}",
    "exception": "{{ raise_exception(ns.s) }}",
    "format": "{{ '{}'.format(ns.s) }}",
    "percent": "{{ '%s' % (ns.s,) }}",
    "namespace": "{{ ns }}",
    "string": "{{ [ns.s] | map('string') | list }}",
    "unique": "{{ [[ns.s], [ns.t]] | map(attribute=0) | unique | list }}",
    "sort": "{{ [ns.s, ns.t] | sort }}",
    "index": "{{ [ns.s].index(ns.t) }}",
    "test": "{{ ns.s is eq(ns.t) }}",
    "upper": "{{ ns.s is upper }}",
    "changed": "{% for i in [1, 2] %}{{ loop.changed(ns.s) }}{% endfor %}",
    "joined": "{{ [ns.s] | join }}",
    "concatenated": "{{ ns.s ~ '' }}",
}


CHAIN = (
    "{% set ns = namespace(s=(), d=()) %}{% for i in range(500) %}{% for j in range(200) %}"
    "{% set ns.s = (ns.s,) %}{% endfor %}{% endfor %}"
)
DEEP_KEYS = {
    **{name: NESTED[name] for name in ("text", "json", "equal", "key", "get", "item", "unique")},
    "dict": "{% set x = dict([(ns.s, 1)]) %}",
    "namespace from pairs": "{% set x = namespace([(ns.s, 1)]) %}",
    "dict from a generator": "{% set x = dict({1: ns.s} | items | map('reverse') | list) %}",
    "unique of an iterator": "{{ [ns.s] | reverse | unique | list }}",
    "groups of an iterator": "{% set x = [{'a': ns.s}] | reverse | groupby('a') %}",
    "keys from an iterator": "{% set x = {}.fromkeys([ns.s] | reverse) %}",
    "keys of the type": "{% set x = dict.fromkeys([ns.s] | reverse) %}",
    "key of a key": "{% set x = {(1, ns.s): 1} %}",
    "group": "{% set x = [{'a': ns.s}] | groupby('a') %}",
}


@pytest.fixture(autouse=True)
def _small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same mechanism with a smaller budget, so that the tests take seconds."""
    monkeypatch.setattr(budget, "FREE_WORK", 400_000)


def render(source: str, **variables: Any) -> str:
    given = {"messages": [{"role": "user", "content": "Hello"}], **variables}
    return "".join(span.text for span in Renderer(source).render(given))


@pytest.mark.parametrize("source", [*ENDLESS.values(), *LARGE.values()], ids=[*ENDLESS, *LARGE])
def test_work_without_end(source: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError, match="too much work"):
            render(source)
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("use", list(NESTED.values()), ids=list(NESTED))
def test_values_that_are_small_to_make_and_large_to_read(use: str) -> None:
    for before in (DEEP, LISTS):
        with pytest.raises(TemplateError, match=r"too much work|unhashable|too deeply"):
            render(before + use)


@pytest.mark.parametrize("use", list(DEEP_KEYS.values()), ids=list(DEEP_KEYS))
def test_values_that_are_nested_too_deeply(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 levels: hashing them would overflow the stack, which ends the process."""
    monkeypatch.setattr(budget, "FREE_WORK", 10**9)
    monkeypatch.setattr(budget, "SECONDS", 100.0)
    with pytest.raises(TemplateError):
        render(CHAIN + use)


@pytest.mark.parametrize(("source", "says"), list(REFUSED.values()), ids=list(REFUSED))
def test_what_is_refused(source: str, says: str) -> None:
    with pytest.raises(TemplateError, match=says):
        render(source)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{% autoescape true %}x{% endautoescape %}", "autoescape"),
        ("{{ 'x' | urlize }}", "urlize"),
        ("x" * 1_000_001, "longer than"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "compiled"),
        ("\n\n{% for %}", "line 3"),
    ],
)
def test_templates_that_cannot_be_compiled(source: str, says: str) -> None:
    with pytest.raises(TemplateError, match=says):
        Renderer(source)


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "FREE_WORK", 10**12)
    monkeypatch.setattr(budget, "SECONDS", 0.2)
    with pytest.raises(TemplateError, match=r"longer than 0\.2 s"):
        render(ENDLESS["loops"])


def test_a_fault_leaves_the_template_usable_in_any_thread() -> None:
    renderer = Renderer("{% if bad %}" + ENDLESS["loops"] + "{% endif %}ok")
    texts: list[str] = []

    def work() -> None:
        with pytest.raises(TemplateError):
            renderer.render({"bad": True})
        texts.append("".join(span.text for span in renderer.render({"bad": False})))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["ok"] * 3


class Gate:
    """A variable of a template; whoever makes its text waits until the gate is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __str__(self) -> str:
        self.reached.set()
        assert self.opened.wait(60)
        return "opened"


def test_a_rendering_that_is_stopped_holds_up_no_other() -> None:
    renderer = Renderer("{{ value }}")
    gate = Gate()
    with ThreadPoolExecutor(3) as pool:
        stopped = pool.submit(renderer.render, {"value": gate})
        try:
            assert gate.reached.wait(60)
            others = [pool.submit(renderer.render, {"value": text}) for text in ("a", "b")]
            texts = ["".join(span.text for span in other.result(60)) for other in others]
        finally:
            gate.opened.set()
        assert texts == ["a", "b"]
        assert "".join(span.text for span in stopped.result(60)) == "opened"


def test_each_rendering_has_a_budget_of_its_own() -> None:
    """Another rendering, begun in between, does not fill up the budget of one that never ends."""
    renderer = Renderer("{{ value }}{% if bad %}" + ENDLESS["loops"] + "{% endif %}")
    gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        endless = pool.submit(renderer.render, {"value": gate, "bad": True})
        try:
            assert gate.reached.wait(60)
            long = "x" * 1_000_000  # a large budget
            (span,) = renderer.render({"value": long, "bad": False})
            assert span.text == long
        finally:
            gate.opened.set()
        with pytest.raises(TemplateError, match="too much work"):
            endless.result(60)


def test_threads_share_the_compiled_code() -> None:
    """Rendering at once, they compile nothing again, and later ones take what is idle."""
    renderer = Renderer("{{ value }}" + "{{ 'x' }}" * 1000)
    with compiling_refused(), ThreadPoolExecutor(8) as pool:
        gates = [Gate() for _ in range(8)]
        running = [pool.submit(renderer.render, {"value": gate}) for gate in gates]
        for gate in gates:
            assert gate.reached.wait(60)
        for gate in gates:
            gate.opened.set()
        for future in running:
            assert len(future.result(60)) == 2
        with making_environments_refused():
            assert len(renderer.render({"value": "a"})) == 2


def compiling_refused() -> AbstractContextManager[object]:
    return patch.object(sandbox.ChatEnvironment, "compile", side_effect=AssertionError)


def making_environments_refused() -> AbstractContextManager[object]:
    return patch.object(sandbox.ChatEnvironment, "__init__", side_effect=AssertionError)


def test_the_budget_grows_with_the_conversation() -> None:
    """A template that copies the text once for each turn is not refused on a long conversation."""
    source = (
        "{% set ns = namespace(t='') %}{% for m in messages %}"
        "{% set ns.t = ns.t ~ m.content %}{% endfor %}{{ ns.t }}"
    )
    messages = [{"role": "user", "content": "x" * 1000}] * 300
    assert len(render(source, messages=messages)) == 300_000


def test_the_date() -> None:
    from datetime import datetime

    assert render("{{ strftime_now('%Y') }}") == str(datetime.now().year)


QUADRATIC = {
    "looks at all others": (
        "{% for m in messages %}{% set ns = namespace(n=0) %}{% for o in messages[loop.index:] %}"
        "{% if o.role == 'assistant' and 'tool_calls' not in o %}{% set ns.n = ns.n + 1 %}{% endif %}"
        "{% endfor %}{{ ns.n }}{% endfor %}"
    ),
    "copies all before": (
        "{% set ns = namespace(s='') %}{% for m in messages %}{% set ns.s = ns.s ~ m.content ~ '\n' %}"
        "{% endfor %}{{ ns.s }}"
    ),
    "calls for all others": (
        "{% macro f(o) %}{{ o.content[:1] }}{% endmacro %}"
        "{% for m in messages %}{% for o in messages %}{{ f(o) }}{% endfor %}{% endfor %}"
    ),
}


@pytest.mark.parametrize("source", list(QUADRATIC.values()), ids=list(QUADRATIC))
def test_a_long_conversation_may_be_gone_through_for_each_message(source: str) -> None:
    """As templates of models in use do: their work grows with the square of the messages."""
    messages = [{"role": "user", "content": f"It is {n} degrees."} for n in range(300)]
    plain = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    expected = plain.from_string(source).render(messages=messages)
    assert render(source, messages=messages) == expected


def test_the_time_is_the_threads_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a busy machine is not work."""
    clock = iter(range(0, 10**9, 1000))
    monkeypatch.setattr(budget.time, "monotonic", lambda: float(next(clock)))
    source = "{% for i in range(40000) %}{{ i }}{% endfor %}"
    monkeypatch.setattr(budget, "FREE_WORK", 10**9)
    assert render(source).startswith("0123")


def test_a_long_conversation_may_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "FREE_WORK", 10**12)
    monkeypatch.setattr(budget, "SECONDS", 0.01)
    monkeypatch.setattr(budget, "FEW_MESSAGES", 10)
    many = [{"role": "user", "content": "x"}] * 50
    with pytest.raises(TemplateError, match=r"longer than 0\.26 s"):
        render(ENDLESS["loops"], messages=many)
    monkeypatch.setattr(budget, "MOST_SECONDS", 0.1)
    with pytest.raises(TemplateError, match=r"longer than 0\.1 s"):
        render(ENDLESS["loops"], messages=many)


def test_an_argument_that_is_called_text() -> None:
    """A call's arguments have no attributes but their keys and a dictionary's own."""
    arguments = CallArguments({"text": "Hi"}, '{"text": "Hi"}')
    source = "{{ a.text }}{{ a['text'] }}{{ a.get('text') }}{{ a.none is defined }}{{ a }}"
    assert render(source, a=arguments) == 'HiHiHiFalse{"text": "Hi"}'


def test_what_is_read_fast_is_read_as_jinja_reads_it() -> None:
    """Keys and attributes of the values that templates read most."""
    source = (
        "{{ m.items }}{{ m.content }}{{ m['content'] }}{{ m.nothing is defined }}"
        "{{ m['nothing'] is defined }}{{ m.get('content') }}{{ m.content.upper() }}"
        "{% set ns = namespace(items=1) %}{{ ns.items }}{{ ns.nothing is defined }}"
        "{% for x in 'ab' %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{{ loop.cycle(1, 2) }}"
        "{% endfor %}{{ 'a' in ['a'] }}{{ m.content in ('Hi', 1) }}{{ 'H' in m.content }}"
        "{{ 'content' in m }}{{ m not in [m] }}{{ 1 < 2 <= 2 }}{{ none == m.nothing }}"
        "{{ (['a'] | map('upper')) is iterable }}{{ 'A' in (['a'] | map('upper')) }}"
        "{{ m.content ~ 1 ~ none }}{{ 1 + 2 }}{{ m.content + 'x' }}{% set t %}{{ 'a' + 'b' }}"
        "{{ 1 ~ 2 }}{% endset %}{{ t }}{{ m.content | trim | length }}{{ [] | first }}"
    ).replace("{{ m.items }}", "{{ m.items is callable }}")
    given = {"role": "user", "content": "Hi"}
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    assert render(source, m=given) == plain.from_string(source).render(m=given)
