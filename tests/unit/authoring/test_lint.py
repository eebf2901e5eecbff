"""What `rules check` says about a rule: one finding per mistake, none about a rule without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ironpost.authoring import lint, to_sarif
from ironpost.detections import RuleSet

WHOLE = """\
title: Whole
id: 6f3f2b1e-8a58-4b51-9a6e-0d1c2b3a4f5e
status: stable
level: low
date: 2026-11-21
author: somebody
description: Nothing is wrong with it.
tags: [attack.execution, attack.t1059.004]
logsource: {product: test, category: test}
detection:
"""
FINE = "  sel: {a|contains: [foo, bar]}\n  condition: sel\n"


def found_in(tmp_path: Path, text: str) -> set[tuple[str, str, int]]:
    path = tmp_path / "rule.yml"
    path.write_text(text)
    rules = RuleSet.load(path)
    return {(one.severity, one.code, one.line) for one in lint(rules, [path])}


def test_a_rule_without_a_mistake_has_no_finding(tmp_path: Path) -> None:
    assert found_in(tmp_path, WHOLE + FINE) == set()


@pytest.mark.parametrize(
    ("detection", "finding"),
    [
        ("  sel: {a: foo}\n  other: {b: bar}\n  condition: sel\n", ("warning", "unused-selection", 12)),
        ("  sel: {a: foo}\n  condition: sel and not sel\n", ("warning", "never-true", 1)),
        ("  sel: {a: foo}\n  x: {a|contains: o}\n  condition: sel and not x\n", ("warning", "never-true", 1)),
        ("  sel: {a: foo}\n  x: {a: bar}\n  condition: sel and x\n", ("warning", "never-true", 1)),
        ("  sel: {a: foo}\n  condition: sel or not sel\n", ("warning", "always-true", 1)),
        ("  sel: {a|startswith: foo}\n  x: {a: food}\n  condition: not x or sel\n", ("warning", "always-true", 1)),
        ("  sel: {a: foo}\n  condition: not sel\n", ("warning", "holds-on-nothing", 1)),
        ("  sel: {a: null}\n  condition: sel\n", ("warning", "holds-on-nothing", 1)),
        ("  sel:\n    a: [foo, FOO]\n  condition: sel\n", ("warning", "duplicate-value", 12)),
        ("  sel:\n    a|contains: [foo, xfoox]\n  condition: sel\n", ("note", "implied-value", 12)),
        ("  sel:\n    a|contains|all: [foo, xfoox]\n  condition: sel\n", ("note", "implied-value", 12)),
        ("  sel: {a|re: '[0-9]+x'}\n  condition: sel\n", ("note", "slow-regex", 11)),
        ("  sel: {a: '*foo*'}\n  condition: sel\n", ("warning", "wildcard-for-modifier", 11)),
        ("  sel: {a: 'foo*'}\n  condition: sel\n", ("warning", "wildcard-for-modifier", 11)),
        ("  sel: {a|contains|cased: '123'}\n  condition: sel\n", ("note", "cased-no-effect", 11)),
        ("  sel: {a|contains: 4625}\n  condition: sel\n", ("note", "value-type", 11)),
        ("  sel: {a: foo}\n  timeframe: 5m\n  condition: sel\n", ("warning", "deprecated", 12)),
        ("  sel: {a: foo}\n  x: {b: 1}\n  condition: 1 of them\n", ("note", "of-them", 13)),
        ("  sel: {a: foo}\n  condition: [sel, sel]\n", ("note", "condition-list", 12)),
        ("  sel: {a|nope: foo}\n  condition: sel\n", ("error", "refused", 11)),
    ],
)
def test_a_mistake_in_the_detection_is_found_on_its_line(
    tmp_path: Path, detection: str, finding: tuple[str, str, int]
) -> None:
    assert finding in found_in(tmp_path, WHOLE + detection)


@pytest.mark.parametrize(
    "detection",
    [
        # Both cased: these are two values.
        "  sel: {a|contains|cased: [foo, FOO]}\n  condition: sel\n",
        # Other fields, other selections: nothing implies anything.
        "  sel: {a: foo}\n  x: {b|contains: o}\n  condition: sel and not x\n",
        # A literal star is no wildcard.
        "  sel: {a: 'foo\\*'}\n  condition: sel\n",
        "  sel: {a: 'f*o'}\n  condition: sel\n",
        "  sel: {a|re: 'foobar[0-9]+'}\n  condition: sel\n",
        "  sel: {a: foo}\n  x: {a: null}\n  condition: sel or (sel and not x)\n",
    ],
)
def test_what_is_meant_is_not_reported(tmp_path: Path, detection: str) -> None:
    assert found_in(tmp_path, WHOLE + detection) == set()


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        ("status: stable\n", "status: stabel\n", "status"),
        ("status: stable\n", "", "missing-status"),
        ("id: 6f3f2b1e-8a58-4b51-9a6e-0d1c2b3a4f5e\n", "", "missing-id"),
        ("date: 2026-11-21\n", "", "missing-date"),
        ("author: somebody\n", "", "missing-author"),
        ("date: 2026-11-21\n", "date: 2026/11/21\n", "date-shape"),
        ("attack.t1059.004", "attack.T1059.004", "tag-shape"),
        ("attack.execution", "attack.exekution", "tag-shape"),
        ("attack.execution", "execution", "tag-shape"),
    ],
)
def test_a_mistake_beside_the_detection_is_found(tmp_path: Path, before: str, after: str, code: str) -> None:
    assert before in WHOLE
    assert code in {finding[1] for finding in found_in(tmp_path, (WHOLE + FINE).replace(before, after))}


def test_two_rules_that_ask_the_same_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(WHOLE + FINE)
    (tmp_path / "b.yml").write_text((WHOLE + FINE).replace("6f3f", "7f3f").replace("sel", "other"))
    rules = RuleSet.load(tmp_path)
    [finding] = lint(rules, [tmp_path])
    assert (finding.code, Path(finding.path).name) == ("same-logic", "b.yml")


def test_a_field_that_is_a_slip_of_one_the_other_rules_use_is_named(tmp_path: Path) -> None:
    for number in range(25):
        name = "CommandLIne" if number == 7 else "CommandLine"
        text = (
            (WHOLE + FINE).replace("6f3f2b1e", f"6f3f2b{number:02}").replace("a|contains: [foo", f"{name}: [f{number}")
        )
        (tmp_path / f"{number}.yml").write_text(text)
    [finding] = lint(RuleSet.load(tmp_path), [tmp_path])
    assert (finding.code, Path(finding.path).name, finding.hint) == (
        "unknown-field",
        "7.yml",
        "did you mean 'CommandLine'?",
    )


def test_sarif_points_at_the_line(tmp_path: Path) -> None:
    path = tmp_path / "rule.yml"
    path.write_text(WHOLE + "  sel: {a: foo}\n  other: {b: bar}\n  condition: sel\n")
    run = to_sarif(lint(RuleSet.load(path), [path]), version="1")["runs"][0]
    [result] = run["results"]
    assert result["ruleId"] == run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == "unused-selection"
    place = result["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]) == (str(path), {"startLine": 12})
