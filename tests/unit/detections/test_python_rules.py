"""Rules written in Python: chosen by a Sigma detection, judged by a function, and bounded in what they may cost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import ironpost
from ironpost.detections import RuleSet
from ironpost.detections.judging import MAX_ERRORS, MEASURED_CALLS, WorkerProcess
from ironpost.model.python_rule import PythonRule

LOGSOURCE = {"product": "test"}
PREFILTER = {"s": {"a|contains": ["x", "y"]}, "condition": "s"}
HEAD = f"""import ironpost
def rule(id, value):
    return ironpost.rule(id=id, title=id, level="high", prefilter={{"s": {{"a": value}}, "condition": "s"}},
                         logsource={LOGSOURCE})
"""

FINE = "@rule('fine', 'x')\ndef fine(event):\n    return True\n"


def made(function: Any, **options: Any) -> PythonRule:
    given = {"id": "p", "title": "Judged", "level": "high", "prefilter": PREFILTER, "logsource": LOGSOURCE}
    return ironpost.rule(**{**given, **options})(function)


def detected(rule: PythonRule, *events: dict[str, Any]) -> list[Any]:
    rules = RuleSet.from_text("", python_rules=[rule])
    assert rules.refused == ()
    return list(rules.detect(events))


def from_file(directory: Path, text: str) -> RuleSet:
    file = directory / "rules.py"
    file.write_text(HEAD + text)
    return RuleSet.load(file)


@pytest.mark.parametrize(
    ("verdict", "facts"),
    [
        (True, {}),
        ("because", {"ironpost.reason": "because"}),
        ({"score": 5, "who": "eve"}, {"score": "5", "who": "eve"}),
        ({}, {}),
        (False, None),
        (None, None),
        ("", None),
    ],
)
def test_a_verdict_decides_and_its_facts_are_reported(verdict: Any, facts: dict[str, str] | None) -> None:
    found = detected(made(lambda _event: verdict), {"a": "x"})
    assert [{**detection.fields} for detection in found] == ([] if facts is None else [{"a": "x", **facts}])
    assert [(detection.rule_id, detection.rule_title, str(detection.level)) for detection in found] == (
        [] if facts is None else [("p", "Judged", "high")]
    )


def test_only_events_of_the_prefilter_reach_the_function_and_whole() -> None:
    seen: list[Mapping[str, Any]] = []

    def judge(event: Mapping[str, Any]) -> bool:
        seen.append(event)
        return False

    event = {"a": "x", "n": 5, "b": True, "z": None, "l": [1, "2"], "o": {"p": {"q": "r"}}, "B C": "d"}
    assert detected(made(judge), event, {"a": "z", "n": 1}, {"n": 2}) == []
    (one,) = seen
    assert {name: one[name] for name in ("a", "n", "b", "z", "l", "o.p.q", "B C")} == {
        "a": "x", "n": 5, "b": True, "z": None, "l": (1, "2"), "o.p.q": "r", "B C": "d",
    }  # fmt: skip
    with pytest.raises(TypeError):
        one["a"] = "y"  # type: ignore[index] # that is what is tested


def test_the_decorator_keeps_the_function_and_its_docstring() -> None:
    @ironpost.rule(id="p", title="t", prefilter=PREFILTER, logsource=LOGSOURCE, tags=["attack.t1110"])
    def judge(event: Mapping[str, Any]) -> bool:
        """Says yes."""
        return event["a"] == "x"

    assert judge({"a": "x"}) is True
    assert (judge.description, judge.level, judge.tags, Path(judge.path).name) == (
        "Says yes.", "medium", ("attack.t1110",), "test_python_rules.py",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"prefilter": {"s": {"a": "x"}}}, "detection has no condition"),
        ({"prefilter": {"s": {"a|nope": "x"}, "condition": "s"}}, "unknown modifier 'nope'"),
        ({"prefilter": {"s": {"a": object()}, "condition": "s"}}, "a value is text"),
        ({"prefilter": {"s": {5: "x"}, "condition": "s"}}, "a key is text"),
        ({"logsource": {}}, "logsource names no product"),
        ({"level": "extreme"}, "level 'extreme'"),
        ({"title": ""}, "title is missing"),
    ],
)
def test_a_rule_that_can_not_be_meant_is_refused_with_its_place(options: dict[str, Any], expected: str) -> None:
    rules = RuleSet.from_text("", python_rules=[made(lambda _event: True, **options)])
    (refused,) = rules.refused
    assert expected in refused.reason
    assert Path(refused.path).name == "test_python_rules.py"
    assert refused.line > 0


def test_two_rules_may_not_share_an_id_and_a_correlation_may_not_build_on_one() -> None:
    text = (
        "title: t\nid: p\nlogsource: {product: test}\ndetection: {s: {a: q}, condition: s}\n---\n"
        "title: c\nid: c\ncorrelation: {type: event_count, rules: j, timespan: 1m, condition: {gte: 2}}\n"
    )
    rules = RuleSet.from_text(text, python_rules=[made(lambda _event: True), made(lambda _event: True, id="j")])
    assert sorted(rule.id for rule in rules.rules) == ["j", "p"]
    assert ["already used" in refused.reason or "is a Python rule" in refused.reason for refused in rules.refused] == [
        True,
        True,
    ]


def test_a_filter_takes_events_from_a_python_rule_too() -> None:
    text = (
        "title: f\nid: f\nlogsource: {product: test}\n"
        "filter: {rules: [p], o: {u: root}, condition: not o}\n"
    )  # fmt: skip
    rules = RuleSet.from_text(text, python_rules=[made(lambda _event: True)])
    assert [found.event_index for found in rules.detect([{"a": "x", "u": "root"}, {"a": "x"}])] == [1]


def test_exceptions_are_counted_and_too_many_disable_the_rule_alone() -> None:
    rules = RuleSet.from_text(
        "", python_rules=[made(lambda event: event["nope"]), made(lambda _event: True, id="other")]
    )
    assert {found.rule_id for found in rules.detect([{"a": "x"}] * (MAX_ERRORS + 5))} == {"other"}
    health = rules.judges.health["p"]
    assert (health.asked, health.errors, health.unasked) == (MAX_ERRORS, MAX_ERRORS, 5)
    assert health.disabled == f"raised {MAX_ERRORS} exceptions, the last KeyError: 'nope'"
    assert rules.judges.health["other"].matched == MAX_ERRORS + 5


def test_a_verdict_of_another_type_is_an_error() -> None:
    rules = RuleSet.from_text("", python_rules=[made(lambda _event: 5)])
    assert list(rules.detect([{"a": "x"}])) == []
    assert "not int" in rules.judges.health["p"].last_error


def test_a_rule_that_is_slow_on_average_is_disabled() -> None:
    waiting = __import__("threading").Event()
    rules = RuleSet.from_text("", python_rules=[made(lambda _event: waiting.wait(0.01))])
    list(rules.detect([{"a": "x"}] * (MEASURED_CALLS + 1)))
    health = rules.judges.health["p"]
    assert (health.asked, health.unasked) == (MEASURED_CALLS, 1)
    assert "on average" in health.disabled


def test_a_file_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    rules = from_file(
        tmp_path,
        "import os\nprint('this is no answer')\n"
        "@rule('pid', 'x')\ndef judge(event):\n    print('nor this')\n    return {'pid': os.getpid()}\n",
    )
    assert rules.refused == ()
    first, second = rules.detect([{"a": "x"}, {"a": "y"}, {"a": "X"}])
    assert int(first.fields["pid"]) == int(second.fields["pid"]) != os.getpid()


def test_a_file_may_be_named_relative_to_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_file(tmp_path, "@rule('here', 'x')\ndef here(event):\n    return True\n")
    monkeypatch.chdir(tmp_path)
    rules = RuleSet.load("rules.py", python_files=True)
    assert rules.refused == ()
    assert [found.rule_id for found in rules.detect([{"a": "x"}])] == ["here"]


def test_a_rule_that_writes_into_the_pipe_of_its_process_is_disabled(tmp_path: Path) -> None:
    rules = from_file(
        tmp_path,
        "import os\n@rule('noise', 'h')\ndef noise(event):\n"
        "    for descriptor in range(3, 20):\n"
        "        try:\n            os.write(descriptor, b'no verdict\\n')\n"
        "        except OSError:\n            pass\n"
        f"    return True\n{FINE}",
    )
    assert [found.rule_id for found in rules.detect([{"a": "h"}, {"a": "x"}])] == ["fine"]
    assert "something else than its verdict" in rules.judges.health["noise"].disabled


def test_what_a_rule_started_ends_with_its_process(tmp_path: Path) -> None:
    rules = from_file(
        tmp_path,
        "import subprocess\n@rule('starts', 'x')\ndef starts(event):\n"
        "    return {'pid': subprocess.Popen(['sleep', '600']).pid}\n",
    )
    [found] = rules.detect([{"a": "x"}])
    rules.judges.close()
    for _ in range(500):
        state = Path(f"/proc/{found.fields['pid']}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    pytest.fail("it runs on")


HANGING = {
    "a loop": "    while True:\n        pass\n",
    "a regular expression": "    import re\n    return re.match('(a+)+$', 'a' * 60 + 'b')\n",
    "sleep": "    import time\n    time.sleep(1e6)\n",
    "handlers": (
        "    import signal, time\n    signal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        "    while True:\n        time.sleep(1)\n"
    ),
}


@pytest.mark.parametrize("name", HANGING)
def test_a_call_that_never_returns_is_ended_and_the_other_rules_go_on(tmp_path: Path, name: str) -> None:
    rules = from_file(
        tmp_path,
        f"@rule('hangs', 'h')\ndef hangs(event):\n{HANGING[name]}\n{FINE}",
    )
    events = [{"a": "x"}, {"a": "h"}, {"a": "x"}, {"a": "h"}]
    assert [(found.event_index, found.rule_id) for found in rules.detect(events)] == [(0, "fine"), (2, "fine")]
    health = rules.judges.health["hangs"]
    assert (health.disabled, health.asked, health.unasked) == ("a call did not return within 1 s", 1, 1)


@pytest.mark.parametrize("body", ["os._exit(3)", "os.kill(os.getpid(), 11)"])
def test_a_rule_that_ends_its_process_is_disabled_and_the_others_go_on(tmp_path: Path, body: str) -> None:
    rules = from_file(
        tmp_path,
        f"import os\n@rule('dies', 'h')\ndef dies(event):\n    {body}\n{FINE}",
    )
    assert [found.rule_id for found in rules.detect([{"a": "h"}, {"a": "x"}])] == ["fine"]
    assert "ended its process" in rules.judges.health["dies"].disabled


def test_memory_without_end_and_leaving_are_errors_like_others(tmp_path: Path) -> None:
    rules = from_file(
        tmp_path,
        "@rule('eats', 'h')\ndef eats(event):\n    return 'x' * (1 << 34)\n"
        "@rule('leaves', 'x')\ndef leaves(event):\n    raise SystemExit(0)\n",
    )
    assert list(rules.detect([{"a": "h"}, {"a": "x"}])) == []
    assert rules.judges.health["eats"].last_error == "MemoryError: "
    assert rules.judges.health["leaves"].last_error == "SystemExit: 0"


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("def broken(:\n", 5, "SyntaxError"),
        ("x = 1\nraise ValueError('no')\n", 6, "ValueError: no"),
        ("import sys\nsys.exit(1)\n", 6, "SystemExit"),
        ("import nothing_of_this_name\n", 5, "ModuleNotFoundError"),
        ("", 0, "has no rules"),
    ],
)
def test_a_file_that_can_not_be_imported_is_refused_with_the_line(
    tmp_path: Path, text: str, line: int, expected: str
) -> None:
    rules = from_file(tmp_path, text)
    (refused,) = rules.refused
    assert expected in refused.reason
    assert (refused.path, refused.line) == (str(tmp_path / "rules.py"), line)


def test_python_files_of_directories_run_only_when_asked_for(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "rules.py").write_text(
        HEAD + f"open({str(marker)!r}, 'w').close()\n@rule('p', 'x')\ndef f(event):\n    return True\n"
    )
    rules = RuleSet.load(tmp_path)
    (refused,) = rules.refused
    assert (refused.reason, refused.hint) == ("Python files are not run from here", "name the file itself to run it")
    assert not marker.exists()
    assert [rule.id for rule in RuleSet.load(tmp_path, python_files=True).rules] == ["p"]
    assert marker.exists()


def test_a_file_that_somebody_else_could_change_never_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    file = tmp_path / "rules.py"
    file.write_text(f"open({str(marker)!r}, 'w').close()\n")
    file.chmod(0o666)
    for rules in (RuleSet.load(file), RuleSet.load(tmp_path, python_files=True)):
        assert "a stranger could change it" in rules.refused[0].reason
        assert not marker.exists()


def test_the_process_has_nothing_of_our_environment_and_ends_with_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    file = tmp_path / "rules.py"
    file.write_text(
        HEAD + "import os\n@rule('p', 'x')\ndef f(event):\n    return {'env': sorted(os.environ), 'pid': os.getpid()}\n"
    )
    worker = WorkerProcess(file)
    assert [rule.id for rule in worker.rules()] == ["p"]
    facts = worker.call("p", json.dumps({"a": "x"})).facts
    assert facts is not None
    assert "SECRET_TOKEN" not in facts["env"]
    worker.close()
    assert not Path(f"/proc/{facts['pid']}").exists()


def test_a_rule_that_was_taken_away_meanwhile_confirms_nothing() -> None:
    rules = RuleSet.from_text("", python_rules=[made(lambda _event: True)])
    assert rules.judges([{"rule_id": "gone", "event": "{}"}, {"rule_id": "plain"}]) == [{"rule_id": "plain"}]
    assert rules.judges.gone == 1
