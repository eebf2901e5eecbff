"""The documents say what is so: their examples load, their lists are whole, their links and commands exist."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from ironpost import _core
from ironpost.authoring import find_cases, lint, run_cases
from ironpost.cli.app import app
from ironpost.config import load as load_config
from ironpost.config.load import DEFAULT_PATH
from ironpost.decisions import parse_policy, policies
from ironpost.detections import RuleSet, short_form
from ironpost.detections.field_maps import load_maps
from ironpost.detections.values import KNOWN_MODIFIERS
from ironpost.events import parse
from ironpost.events.extractors import Extractors, parse_text, plan
from ironpost.model import TRUST_LEVELS, ActionRecord, Alert, Decision
from ironpost.pipeline.commands import Commands
from ironpost.pipeline.health import Fault, Health, Module

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md")])
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def blocks(*kinds: str) -> list[Any]:
    """Every fenced example of a kind, named by page and line."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[1].strip() in kinds:
                line = text.count("\n", 0, match.start()) + 2
                found.append(pytest.param(match[2], id=f"{page.relative_to(ROOT)}:{line}"))
    assert found, f"no example of {kinds}"
    return found


def page(name: str) -> str:
    return (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")


def source(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("text", blocks("yaml rule"))
def test_rules_in_the_documents_load(text: str) -> None:
    rules = RuleSet.from_text(text)
    assert rules.refused == ()
    assert rules.rules
    assert len(rules.native) >= 1


def test_the_cases_of_the_guide_pass_with_its_rule(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "guides" / "rules.md").read_text(encoding="utf-8")
    found = dict(FENCE.findall(text))
    (tmp_path / "service_login.yml").write_text(found["yaml rule"])
    (tmp_path / "service_login.test.yml").write_text(found["yaml cases"])
    rules = RuleSet.load(tmp_path)
    cases, broken = find_cases(rules)
    assert broken == []
    assert [(report.case.name, report.reason) for report in run_cases(rules, cases)] == [
        ("a login by password", ""),
        ("a person", ""),
        ("an event that is parsed already", ""),
    ]
    assert lint(rules, [tmp_path]) == []


def test_every_check_of_rules_is_described() -> None:
    text = (ROOT / "docs" / "guides" / "rules.md").read_text(encoding="utf-8")
    written = "".join(source(f"python/ironpost/authoring/{name}.py") for name in ("lint", "values"))
    codes = set(re.findall(r'"(?:warning|note)",\s*"([a-z]+(?:-[a-z]+)+|status)"', written))
    assert len(codes) >= 15
    assert missing(text, codes) == []


@pytest.mark.parametrize("text", blocks("yaml field-map"))
def test_field_maps_in_the_documents_load(text: str, tmp_path: Path) -> None:
    (tmp_path / "map.yml").write_text(text)
    [found] = load_maps([tmp_path])
    assert found.fields


@pytest.mark.parametrize("text", blocks("yaml extractor"))
def test_extractors_in_the_documents_load_and_prove_themselves(text: str) -> None:
    extractor = parse_text(text.encode())
    compiled = Extractors(extractors=(extractor,), refused=()).compile()
    assert extractor.cases
    for case in extractor.cases:
        row = parse([case.record], year=2026, extractors=compiled).row(0)
        found = {name: None if row.get(name) is None else str(row[name]) for name in case.expect}
        assert found == dict(case.expect), case.record


@pytest.mark.parametrize("text", blocks("toml policy"))
def test_policies_in_the_documents_load(text: str) -> None:
    assert parse_policy(text).enabled


@pytest.mark.parametrize("text", blocks("toml config"))
def test_configurations_in_the_documents_load(text: str, tmp_path: Path) -> None:
    path = tmp_path / "ironpost.toml"
    path.write_text(text)
    assert load_config(path, environment={}).origins


@pytest.mark.parametrize("text", blocks("json plan"))
def test_plans_in_the_documents_are_executable(text: str) -> None:
    written = json.loads(text)
    assert len(_core.RuleSet(text.encode())) == len(written["rules"]) + len(written["correlations"])


@pytest.mark.parametrize(
    ("kind", "noun"), [("json alert", Alert), ("json decision", Decision), ("json action", ActionRecord)]
)
def test_objects_in_the_documents_are_what_is_printed(kind: str, noun: Any) -> None:
    for parameter in blocks(kind):
        written = json.loads(parameter.values[0])
        assert noun.from_json(written).to_json() == written


def test_the_module_in_the_documents_is_what_is_printed() -> None:
    [parameter] = blocks("json module")
    written = json.loads(parameter.values[0])
    [problem] = written["problems"]
    module = Module(written["name"], written["type"], enabled=True)
    module.faults["x"] = Fault(Health.DEGRADED, problem["reason"], problem["remedy"])
    assert module.to_json() == written


@pytest.mark.parametrize("text", blocks("json request"))
def test_requests_in_the_documents_name_a_command(text: str) -> None:
    assert json.loads(text)["command"] in commands()


@pytest.mark.parametrize("text", blocks("json error"))
def test_errors_in_the_documents_have_all_keys(text: str) -> None:
    assert set(json.loads(text)["error"]) == {"code", "message", "hint", "exit_code"}


@pytest.mark.parametrize("text", blocks("python run"))
def test_programs_in_the_documents_run(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rules").symlink_to(ROOT / "rules")
    (tmp_path / "auth.log").write_bytes((ROOT / "tests/rules/ssh_brute_force/match.log").read_bytes())
    (tmp_path / "extractors").mkdir()
    [example] = blocks("yaml extractor")
    (tmp_path / "extractors" / "example.yml").write_text(example.values[0])
    monkeypatch.chdir(tmp_path)
    exec(compile(text, "example", "exec"), {"__name__": "example"})


def shell_lines() -> Iterator[Any]:
    for parameter in blocks("sh"):
        for line in parameter.values[0].splitlines():
            words = shlex.split(line, comments=True)
            words = words[1:] if words[:1] == ["sudo"] else words
            if words[:1] == ["ironpost"]:
                yield pytest.param(words[1:], id=line)


@pytest.mark.parametrize("words", list(shell_lines()))
def test_command_lines_in_the_documents_exist(words: list[str]) -> None:
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands
        command, words = command.commands[words[0]], words[1:]
    # Reads options and arguments without running anything; raises what a user would see.
    command.make_context("ironpost", list(words))


def test_the_help_says_where_the_configuration_is_looked_for() -> None:
    group: Any = get_command(app)
    for name in ("start", "status"):
        [option] = [one for one in group.commands[name].params if "--config" in one.opts]
        assert str(DEFAULT_PATH) in option.help


def commands() -> set[str]:
    return {*Commands(daemon=None).table(), "tail"}  # type: ignore[arg-type]  # nothing is asked of it


def missing(text: str, words: Iterator[str] | set[str] | list[str]) -> list[str]:
    return sorted(word for word in words if f"`{word}`" not in text)


def test_every_key_of_a_policy_is_described() -> None:
    keys = {*policies._TOP_KEYS, *policies._MATCH_KEYS, *policies._FILTER_KEYS}
    assert missing(page("policies.md").replace("`[", "`").replace("]`", "`"), keys) == []
    assert [word for word in policies._VERBS if f"`{word} = " not in page("policies.md")] == []
    assert missing(page("policies.md"), [*TRUST_LEVELS]) == []


def test_every_command_of_the_socket_is_described() -> None:
    assert missing(page("control.md"), commands()) == []


def test_every_modifier_and_operator_of_rules_is_described() -> None:
    assert missing(page("rules.md"), set(KNOWN_MODIFIERS)) == []
    assert missing(page("rules.md"), set(short_form._OPERATORS)) == []
    assert missing(page("rules.md"), set(short_form._THRESHOLD_KEYS)) == []


def test_every_operator_and_key_of_the_plan_is_described() -> None:
    text = source("rust/ironpost-detect/src/plan.rs")
    enums = dict(re.findall(r"enum (Op|Comparison|CorrelationType) \{(.*?)\n\}", text, re.DOTALL))
    operators = [name.lower() for name in re.findall(r"^    (\w+),", enums["Op"] + ",", re.MULTILINE)]
    comparisons = [name.lower() for name in re.findall(r"^    (\w+),$", enums["Comparison"], re.MULTILINE)]
    kinds = [
        re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower() for name in re.findall(r"(\w+),", enums["CorrelationType"] + ",")
    ]
    structs = re.findall(r"struct (?:Rule|Correlation)Plan(?:<'a>)? \{(.*?)\n\}", text, re.DOTALL)
    keys = {
        name.removeprefix("_").replace("kind", "type")
        for body in structs
        for name in re.findall(r"pub\(crate\) (\w+):", body)
    }
    assert (len(operators), len(comparisons), len(kinds), len(structs)) == (15, 6, 9, 2)
    assert missing(page("plan.md"), [*operators, *comparisons, *kinds, *keys]) == []


def test_every_capture_type_is_described() -> None:
    body = re.search(
        r"fn from_name.*?Some\(match name \{(.*?)_ =>", source("rust/ironpost-events/src/extract/pattern.rs"), re.DOTALL
    )
    assert body
    names = re.findall(r'"(\w+)"', body[1])
    assert len(names) == 10
    assert missing(page("extractors.md"), names) == []


def test_every_reason_and_map_of_the_filter_is_described() -> None:
    text = source("ebpf/ironpost-ebpf-common/src/lib.rs")
    reasons = re.search(r"pub mod reason \{.*?NAMES: [^=]*= \[(.*?)\]", text, re.DOTALL)
    maps = re.search(r"pub mod names \{(.*?)\n\}", text, re.DOTALL)
    assert reasons
    assert maps
    names = re.findall(r'"(\w+)"', reasons[1]) + re.findall(r'= "(\w+)"', maps[1])
    assert len(names) >= 20
    assert missing(page("filter.md"), names) == []


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_links_lead_somewhere(path: Path) -> None:
    targets = [target for target in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_an_extractor_of_the_documents_lowers_to_the_plan_of_the_engine() -> None:
    [example] = blocks("yaml extractor")
    assert len(_core.Extractors(plan([parse_text(example.values[0].encode())]))) == 1


@pytest.mark.parametrize("text", blocks("python example"))
def test_python_examples_in_the_documents_run(text: str) -> None:
    exec(compile(text, "example", "exec"), {"__name__": "example"})
