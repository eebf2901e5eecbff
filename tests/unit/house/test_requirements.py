"""docs/requirements.md is complete, and every test it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ROW = re.compile(r"^\| ([RO]-\d{3}) \| (.+?) \| (proven|planned|declined) \| (.*) \|$")
TEST = re.compile(r"`([\w./-]+\.(?:py|rs))::(\w+)`")


def rows() -> list[tuple[str, str, str]]:
    found = [
        ROW.match(line)
        for line in (ROOT / "docs/requirements.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(("| R-", "| O-"))
    ]
    assert all(found), "a row that is not `| id | requirement | state | proof |`"
    return [(row[1], row[3], row[4]) for row in found if row]


def functions(path: Path) -> set[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".rs":
        return set(re.findall(r"\bfn (\w+)", text))
    return {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_number_is_listed_exactly_once() -> None:
    wanted = [f"R-{number:03}" for number in range(1, 247)] + [f"O-{number:03}" for number in range(1, 119)]
    assert sorted(identifier for identifier, _, _ in rows()) == sorted(wanted)


def test_every_named_test_exists_and_every_proof_names_one() -> None:
    missing = []
    for identifier, state, proof in rows():
        named = TEST.findall(proof)
        if state == "proven" and not named:
            missing.append(f"{identifier}: proven by nothing")
        for path, function in named:
            if not (ROOT / path).is_file() or function not in functions(ROOT / path):
                missing.append(f"{identifier}: {path}::{function}")
    assert missing == []


@pytest.mark.parametrize("state", ["planned", "declined"])
def test_what_is_not_proven_says_where_it_belongs_or_why(state: str) -> None:
    silent = [identifier for identifier, row_state, proof in rows() if row_state == state and not proof.strip()]
    assert silent == []
