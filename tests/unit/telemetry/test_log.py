"""Log records: levels per module, one trace through tasks, nothing a terminal obeys."""

from __future__ import annotations

import ast
import asyncio
import io
import json
from pathlib import Path

import pytest
import structlog

import ironpost
from ironpost.errors import ConfigError
from ironpost.telemetry import LevelFilter, bound_trace, configure_logging, get_logger


@pytest.fixture
def stream():
    yield io.StringIO()
    structlog.reset_defaults()


def records(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_says_when_where_what_and_its_facts(stream):
    configure_logging(form="json", stream=stream)
    get_logger("ironpost.rules").info("rule_loaded", rule_id="x", severity="high")
    [record] = records(stream)
    assert record["message"] == "rule_loaded"
    assert (record["level"], record["target"]) == ("info", "ironpost.rules")
    assert (record["rule_id"], record["severity"]) == ("x", "high")
    assert record["timestamp"].endswith("Z")
    assert record["file"].split(":")[0].endswith("test_log.py")
    assert isinstance(record["thread"], int)


def test_levels_are_chosen_per_module_by_the_longest_name(stream):
    configure_logging(level="warn", form="json", directives="ironpost.a=debug,ironpost::a::b=error", stream=stream)
    for target in ("ironpost", "ironpost.a", "ironpost.a.b", "ironpost.ab"):
        get_logger(target).debug("detail")
        get_logger(target).warning("odd")
    assert [(record["target"], record["message"]) for record in records(stream)] == [
        ("ironpost", "odd"),
        ("ironpost.a", "detail"),
        ("ironpost.a", "odd"),
        ("ironpost.ab", "odd"),
    ]


@pytest.mark.parametrize(
    ("directives", "module", "level", "allowed"),
    [
        ("", "x", 20, True),
        ("", "x", 10, False),
        ("debug", "x", 10, True),
        ("off", "x", 50, False),
        ("x", "x.y", 5, True),
        ("x=warn,debug", "x", 20, False),
        ("x=warn,debug", "y", 10, True),
    ],
)
def test_directives_read_like_rust_log(directives, module, level, allowed):
    assert LevelFilter.parse(directives).allows(module, level) is allowed


@pytest.mark.parametrize(("form", "directives"), [("xml", ""), ("json", "ironpost=loud")])
def test_an_unknown_format_or_level_is_refused_with_the_choices(stream, form, directives):
    with pytest.raises(ConfigError) as caught:
        configure_logging(form=form, directives=directives, stream=stream)
    assert caught.value.hint.startswith("use ")


async def test_a_trace_follows_its_task_and_no_other(stream):
    configure_logging(form="json", stream=stream)
    log = get_logger("ironpost")

    async def work(trace):
        with bound_trace(trace):
            await asyncio.sleep(0)
            log.info("step")

    await asyncio.gather(work("a" * 32), work("b" * 32))
    log.info("step")
    assert [record.get("trace_id") for record in records(stream)] == ["a" * 32, "b" * 32, None]


def test_attacker_text_cannot_reach_a_terminal_raw(stream):
    configure_logging(form="pretty", stream=stream)
    get_logger("ironpost").warning("login_failed", user="\x1b[2Jroot\u202e\x9b1m")
    text = stream.getvalue()
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    assert r"\x1b[2Jroot\u202e\x9b1m" in text


def test_a_reader_that_is_gone_does_not_stop_the_writer():
    class Gone(io.StringIO):
        def write(self, _text):
            raise BrokenPipeError

    configure_logging(form="json", stream=Gone())
    get_logger("ironpost").info("said_into_the_void")
    structlog.reset_defaults()


def test_records_of_libraries_take_the_same_way(stream):
    import logging

    configure_logging(form="json", stream=stream)
    logging.getLogger("urllib3.pool").warning("retry %s", 1)
    [record] = records(stream)
    assert (record["target"], record["message"], record["text"]) == ("urllib3.pool", "library_message", "retry 1")
    logging.getLogger().handlers.clear()


def test_no_record_replaces_the_name_of_its_component():
    """``target`` is what ``RUST_LOG`` filters by: a fact of that name would hide where the record came from."""
    package = Path(ironpost.__file__).parent
    taken = [
        f"{path.name}:{node.lineno}"
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and "_log." in ast.unparse(node.func)
        and any(keyword.arg == "target" for keyword in node.keywords)
    ]
    assert taken == []
