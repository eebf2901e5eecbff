"""Rule files are read without YAML's surprises, and what is wrong is named with its line."""

import errno
import os
from pathlib import Path

import pytest

from ironpost.detections import RuleSet
from ironpost.detections.documents import Document, parse_documents, read_documents, rule_files
from ironpost.errors import RuleError


def only(text: str) -> Document:
    (document,) = parse_documents(text, "r.yml")
    assert isinstance(document, Document)
    return document


def problem(text: str) -> RuleError:
    errors = [item for item in parse_documents(text, "r.yml") if isinstance(item, RuleError)]
    assert len(errors) == 1
    return errors[0]


def test_words_that_other_readers_turn_into_booleans_stay_text() -> None:
    data = only("a: on\nb: no\nc: yes\nd: 2021-02-03\ne: 0x1F3FFF\nf: 007\ng: 1.10\nh: true\ni: 5\nj: ~\nk: '5'\n").data
    assert data == {"a": "on", "b": "no", "c": "yes", "d": "2021-02-03", "e": "0x1F3FFF", "f": "007", "g": "1.10",
                    "h": True, "i": 5, "j": None, "k": "5"}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "given twice"),
        ("a: 1\nb: !!python/object/apply:os.system ['id']\n", 2, "not allowed"),
        ("a: 1\nb: !custom x\n", 2, "not allowed"),
        ("a: 1\nb: !!binary aGk=\n", 2, "not allowed"),
        ("a: [1\nb: 2\n", 2, "YAML"),
        ("a: 1\n? [x]\n: 2\n", 2, "a key is text"),
        ("- 1\n", 1, "mapping"),
        ("a: *nowhere\n", 1, "YAML"),
        ("a:\n\tb: 1\n", 2, "YAML"),
    ],
)
def test_what_is_refused_has_a_line_and_a_reason(text: str, line: int, reason: str) -> None:
    error = problem(text)
    assert (error.path, error.line) == ("r.yml", line)
    assert reason in error.reason


def test_aliases_cannot_multiply_a_small_file() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "aliases included" in problem("\n".join(levels)).reason


def test_an_alias_of_itself_ends() -> None:
    assert "nested deeper" in problem("a: &a [*a]\n").reason


def test_deep_nesting_is_refused() -> None:
    assert "nested deeper" in problem("a: " + "[" * 60 + "]" * 60).reason


def test_documents_after_a_bad_one_are_read() -> None:
    first, second = parse_documents("a: 1\na: 2\n---\nb: 3\n", "r.yml")
    assert isinstance(first, RuleError)
    assert isinstance(second, Document)
    assert (second.data, second.line) == ({"b": 3}, 4)


def test_empty_documents_are_skipped() -> None:
    assert [item.data for item in parse_documents("---\n---\na: 1\n---\n") if isinstance(item, Document)] == [{"a": 1}]


def test_files_are_found_by_both_endings_and_in_order(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "c.txt", ".hidden.yml", "sub/d.YML"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a: 1\n")
    assert [path.name for path in rule_files(tmp_path)] == ["a.yml", "b.yaml", "d.YML"]


def test_files_that_are_too_large_missing_or_no_text_say_so(tmp_path: Path) -> None:
    large = tmp_path / "large.yml"
    with large.open("wb") as file:
        file.truncate(10 * 1024 * 1024 + 1)
    binary = tmp_path / "binary.yml"
    binary.write_bytes(b"a: 1\nb: \xff\n")
    for path, line, reason in (
        (large, 0, "larger"),
        (binary, 2, "UTF-8"),
        (tmp_path / "none.yml", 0, "cannot be read"),
    ):
        (error,) = read_documents(path)
        assert isinstance(error, RuleError)
        assert (error.path, error.line) == (str(path), line)
        assert reason in error.reason


def test_a_named_path_that_is_not_there_is_no_empty_set(tmp_path):
    with pytest.raises(RuleError) as missing:
        RuleSet.load(tmp_path, tmp_path / "ruels")
    assert missing.value.path == str(tmp_path / "ruels")
    assert missing.value.hint
    assert RuleSet.load(tmp_path).rules == ()


@pytest.mark.parametrize("name", ["directory", "file.yml"])
def test_a_named_path_that_may_not_be_read_is_no_empty_set(tmp_path, monkeypatch, name):
    (tmp_path / "directory").mkdir()
    (tmp_path / "file.yml").touch()
    real = os.open

    def open_as_somebody_else(path, *arguments, **more):
        if str(path) == str(tmp_path / name):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *arguments, **more)

    monkeypatch.setattr(os, "open", open_as_somebody_else)
    with pytest.raises(RuleError, match="Permission denied") as refused:
        RuleSet.load(tmp_path / name)
    assert refused.value.path == str(tmp_path / name)


@pytest.mark.parametrize("text", ["a: " + "[" * 100_000, "a: " + "{a: " * 100_000, "- " * 100_000, "? " * 100_000])
def test_nesting_that_would_overflow_a_stack_is_refused_like_any_other(text: str) -> None:
    assert "nested deeper" in problem(text).reason or "a key is text" in problem(text).reason


def test_a_syntax_error_ends_only_its_own_document_and_lines_count_from_the_file_start() -> None:
    first, second, third = parse_documents("a: 1\n---\nb: [\n---\nc: |\n  --- x\n  y\nd: 1\nd: 2\n", "r.yml")
    assert isinstance(first, Document)
    assert isinstance(second, RuleError)
    assert isinstance(third, RuleError)
    assert (second.line, third.line, third.reason) == (4, 9, "key 'd' is given twice")


def test_a_document_with_too_many_values_is_refused_at_the_first_too_many() -> None:
    error = problem("a:\n" + "  - x\n" * 100_000)
    assert (error.line, error.hint) == (20_000, "split the document into several rules")
    assert "more than 20,000 values" in error.reason


def test_merge_keys_and_aliases_as_keys_are_refused() -> None:
    assert "merge keys" in problem("a: &a {b: 1}\nc:\n  <<: *a\n").reason
    assert "an alias" in problem("a: &a b\n*a : 1\n").reason


def test_an_alias_gives_the_value_it_names() -> None:
    assert only("a: &a [x, y]\nb: *a\n").data == {"a": ["x", "y"], "b": ["x", "y"]}


def test_an_explicit_text_tag_keeps_the_text() -> None:
    assert only("a: !!str 5\nb: !!int 5\n").data == {"a": "5", "b": 5}
