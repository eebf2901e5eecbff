"""Extractor files: the shipped ones prove themselves, wrong ones are refused with a place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ironpost.errors import ExtractorError
from ironpost.events import Case, Extractor, Extractors, failed_cases, load, parse
from ironpost.events.extractors import built_in, parse_text, plan
from ironpost.ownership import Doubt

SHIPPED = load()
CASES = [(extractor, case) for extractor in SHIPPED.extractors for case in extractor.cases]
PLAN = Path(__file__).parents[3] / "rust" / "ironpost-events" / "tests" / "extractors.json"

GOOD = b"""\
name: mine
match: {process.name: [mined]}
logsource: {product: linux, service: mined}
patterns:
  - id: first
    pattern: 'hello {user.name:word}'
    set: {event.action: greeting}
cases:
  - line: "Nov 20 18:54:43 host mined[1]: hello bob"
    expect: {user.name: bob}
"""


def test_every_shipped_extractor_loads_and_has_cases() -> None:
    assert SHIPPED.refused == ()
    assert {extractor.name for extractor in SHIPPED.extractors} >= {"sshd", "sudo", "su", "cron", "busybox-httpd"}
    assert all(extractor.cases for extractor in SHIPPED.extractors)


@pytest.mark.parametrize(
    ("extractor", "case"), CASES, ids=[f"{extractor.name}:{case.line}" for extractor, case in CASES]
)
def test_shipped_case_gives_what_it_says(extractor: Extractor, case: Case) -> None:
    row = parse([case.record], year=2026).row(0)
    found = {name: None if row.get(name) is None else str(row[name]) for name in case.expect}
    assert found == dict(case.expect), f"{extractor.path}:{case.line}"


def test_the_plan_that_the_rust_tests_use_is_the_shipped_one() -> None:
    made = json.dumps(json.loads(plan(SHIPPED.extractors)), indent=1, ensure_ascii=False) + "\n"
    assert PLAN.read_text() == made, f"{PLAN} is old: write this test's `made` into it"


def test_own_extractors_join_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_bytes(GOOD)
    loaded = load(tmp_path)
    assert loaded.refused == ()
    row = parse([b"Nov 20 18:54:43 host mined[1]: hello bob"], extractors=loaded.compile()).row(0)
    assert (row["user.name"], row["event.action"]) == ("bob", "greeting")
    assert len(loaded.compile()) == len(built_in()) + 1


def test_an_extractor_that_a_stranger_could_change_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_bytes(GOOD)
    doubted = Doubt(str(tmp_path), "is writable by everybody", f"chmod o-w {tmp_path}")
    loaded = load(tmp_path, doubt=lambda path: doubted if path.parent == tmp_path else None)
    (refused,) = loaded.refused
    assert "stranger" in refused.reason
    assert refused.hint == doubted.remedy
    assert len(loaded.compile()) == len(built_in())


def test_a_case_that_gives_something_else_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_bytes(GOOD.replace(b"user.name: bob", b"user.name: eve"))
    (failed,) = failed_cases(load(tmp_path))
    assert (failed.path, failed.line) == (str(tmp_path / "mine.yml"), 9)
    assert "'bob'" in failed.reason
    assert failed_cases(load()) == []


def test_one_bad_file_is_refused_and_the_others_work(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_bytes(b"name: [")
    (tmp_path / "b.yml").write_bytes(GOOD)
    (tmp_path / "c.yml").write_bytes(GOOD)
    loaded = load(tmp_path)
    assert isinstance(loaded, Extractors)
    assert [extractor.name for extractor in loaded.extractors][-1] == "mine"
    assert [Path(error.path).name for error in loaded.refused] == ["a.yml", "c.yml"]
    assert "already defined" in loaded.refused[1].reason


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExtractorError, match="no such file or directory"):
        load(tmp_path / "none.yml")


@pytest.mark.parametrize(
    ("replace", "by", "line", "reason"),
    [
        (b"{user.name:word}'", b"{user.name:wrd}'", 5, "`wrd` is no type"),
        (b"hello {user.name:word}", b"hello [{user.name:word}", 5, "not closed"),
        (b"name: mine\n", b"name: mine\nname: yours\n", 2, "occurs twice"),
        (b"    set: {event.action: greeting}\n", b"    set: {a: 1, a: 2}\n", 7, "occurs twice"),
        (b"patterns:\n", b"patern: x\npatterns:\n", 4, "unknown key"),
        (b"name: mine\n", b"", 1, "missing"),
        (b"name: mine\n", b"name: {}\n", 1, "expected a text"),
        (b"[mined]", b"mined", 2, "expected a list"),
        (b"name: mine\n", b"name: &a mine\nx: *a\n", 2, "aliases"),
        (b"name: mine\n", b"name: !!python/object/apply:os.system [x]\n", 1, "expected a text"),
        (b"name: mine\n", b"name: !!python/name:os.system x\n", 1, "expected a text"),
        (b"name: mine\n", b"name: 'mine\n", 1, "not YAML"),
    ],
)
def test_wrong_text_is_refused_with_line_and_reason(replace: bytes, by: bytes, line: int, reason: str) -> None:
    assert parse_text(GOOD).name == "mine"
    with pytest.raises(ExtractorError, match=reason) as caught:
        parse_text(GOOD.replace(replace, by), path="x.yml")
    assert (caught.value.path, caught.value.line if reason != "not YAML" else line) == ("x.yml", line)


@pytest.mark.parametrize("text", [b"", b"[]", b"a", b"\xff\xfe\x00", b"name: x\npatterns: []\n", b"[" * 100_000])
def test_what_is_no_extractor_is_refused(text: bytes) -> None:
    with pytest.raises(ExtractorError):
        parse_text(text)


def test_a_file_that_is_too_large_is_refused() -> None:
    with pytest.raises(ExtractorError, match="larger than"):
        parse_text(b"#" * (1 << 20) + b"\n")
