"""Compiled packs: the same answers as without, never a stale, a damaged or a stranger's one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ironpost.detections import RuleSet
from ironpost.detections.field_maps import FieldMap
from ironpost.detections.pack import MAX_PACKS, MIN_FILES, user_cache
from ironpost.ownership import Doubt

EVENTS = b'{"user.name": "mallory7", "n": 1}\n{"user.name": "alice"}\n{"actor": "mallory3"}\n'


def rule(number: int, *, name: str = "mallory", more: str = "") -> str:
    return f"""
title: Rule {number}
id: rule-{number}
description: Says "ü" and \u2028 more
level: high
tags: [attack.t1110, attack.credential-access]
logsource: {{product: linux}}
detection:
  person:
    user.name: {name}{number}
  condition: person
{more}
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    folder = tmp_path / "rules"
    (folder / "below").mkdir(parents=True)
    for number in range(MIN_FILES):
        (folder / "below" / f"{number:03}.yml").write_text(rule(number))
    (folder / "broken.yml").write_text("title: Broken\nid: broken\nlogsource: {product: linux}\n")
    (folder / "unfed.yml").write_text(rule(500).replace("product: linux", "product: windows"))
    (folder / "feeding.yml").write_text(
        rule(600) + "---\ntitle: Many\nid: many\ncorrelation:\n  type: event_count\n  rules: rule-600\n"
        "  group-by: user.name\n  timespan: 60s\n  condition: {gte: 2}\n"
    )
    (folder / "asking.yml").write_text(rule(700).replace("user.name: mallory700", "user.name|expand: '%names%'"))
    return folder


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    return tmp_path / "packs"


def files(packs: Path) -> list[Path]:
    return sorted(packs.iterdir())


def test_a_pack_gives_the_same_answers_as_compiling(rules: Path, packs: Path) -> None:
    cold = RuleSet.load(rules, cache=None)
    first = RuleSet.load(rules, cache=packs)
    second = RuleSet.load(rules, cache=packs)
    assert (cold.pack, first.pack, second.pack) == ("", "not there; written", "used")
    assert len(second.rules) == len(cold.rules) == MIN_FILES + 3
    assert second.plan == cold.plan
    assert tuple(second.rules) == tuple(cold.rules)
    assert [dict(found.plan) for found in second.rules] == [dict(found.plan) for found in cold.rules]
    assert second.refused == cold.refused
    assert {found.rule_id for found in second.refused} == {"broken", "rule-700"}
    assert second.unfed == cold.unfed
    assert [found.rule_id for found in second.unfed] == ["rule-500"]
    assert second.rule("rule-3") == cold.rule("rule-3")
    found = [(hit.rule_id, hit.evidence) for hit in second.detect(EVENTS)]
    assert found == [(hit.rule_id, hit.evidence) for hit in cold.detect(EVENTS)]
    assert [rule_id for rule_id, _ in found] == ["rule-7"]


def test_a_pack_is_read_without_the_rules_being_compiled(
    rules: Path, packs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RuleSet.load(rules, cache=packs)

    def reads(*_: object) -> None:
        raise AssertionError("YAML is read")

    monkeypatch.setattr("ironpost.detections.documents._Loader", reads)
    with pytest.raises(AssertionError, match="YAML is read"):
        RuleSet.load(rules, cache=None)
    assert [hit.rule_id for hit in RuleSet.load(rules, cache=packs).detect(EVENTS)] == ["rule-7"]


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda rules: (rules / "below" / "003.yml").write_text(rule(3, name="eve")),
    "content of the same length": lambda rules: (rules / "below" / "003.yml").write_text(rule(3, name="mallorz")),
    "added": lambda rules: (rules / "more.yaml").write_text(rule(900)),
    "removed": lambda rules: (rules / "below" / "003.yml").unlink(),
    "renamed": lambda rules: (rules / "below" / "003.yml").rename(rules / "below" / "3.yml"),
    "unreadable": lambda rules: (rules / "below" / "003.yml").write_bytes(b"\xff"),
    "gone with a link left": lambda rules: (rules / "link.yml").symlink_to(rules / "below" / "003.yml"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_rules_makes_another_pack(rules: Path, packs: Path, change: str) -> None:
    RuleSet.load(rules, cache=packs)
    CHANGES[change](rules)
    after = RuleSet.load(rules, cache=packs)
    assert after.pack == "not there; written"
    assert tuple(after.rules) == tuple(RuleSet.load(rules, cache=None).rules)
    assert len(files(packs)) == 2


def test_field_maps_and_placeholders_are_part_of_the_name(rules: Path, packs: Path, tmp_path: Path) -> None:
    RuleSet.load(rules, cache=packs)
    mapped = FieldMap("mine", fields={"user.name": ("actor",)})
    assert RuleSet.load(rules, cache=packs, field_maps=[mapped]).pack == "not there; written"
    found = RuleSet.load(rules, cache=packs, field_maps=[mapped])
    assert found.pack == "used"
    assert [hit.rule_id for hit in found.detect(EVENTS)] == ["rule-7", "rule-3"]
    file = tmp_path / "map.yml"
    for name in ("agent", "other"):
        file.write_text(f"name: mine\nfields: {{user.name: {name}}}\n")
        assert RuleSet.load(rules, cache=packs, field_maps=[file]).pack == "not there; written"
    given = RuleSet.load(rules, cache=packs, placeholders={"names": ["alice"]})
    assert given.pack == "not there; written"
    again = RuleSet.load(rules, cache=packs, placeholders={"names": ["alice"]})
    assert again.pack == "used"
    assert {hit.rule_id for hit in again.detect(EVENTS)} == {"rule-7", "rule-700"}


def test_a_file_that_becomes_doubtful_is_refused_although_a_pack_had_it(rules: Path, packs: Path) -> None:
    trusting = RuleSet.load(rules, cache=packs, doubt=lambda _: None)
    doubted = rules / "below" / "007.yml"

    def doubt(file: Path) -> Doubt | None:
        return Doubt(str(file), "is writable by everybody", "chmod") if file == doubted else None

    for state in ("not there; written", "used"):
        careful = RuleSet.load(rules, cache=packs, doubt=doubt)
        assert careful.pack == state
        assert str(doubted) in {found.path for found in careful.refused}
        assert list(careful.detect(EVENTS)) == []
    assert [hit.rule_id for hit in trusting.detect(EVENTS)] == ["rule-7"]


def test_only_its_owner_may_read_a_pack(rules: Path, packs: Path) -> None:
    RuleSet.load(rules, cache=packs)
    assert packs.stat().st_mode & 0o777 == 0o700
    assert [file.stat().st_mode & 0o777 for file in files(packs)] == [0o600]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "one bit": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "one bit of the lengths": lambda content: content[:60] + bytes([content[60] ^ 1]) + content[61:],
    "longer": lambda content: content + b"\0",
    "something else": lambda content: b"x" * len(content),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_pack_is_written_anew(rules: Path, packs: Path, damage: str) -> None:
    cold = RuleSet.load(rules, cache=packs)
    (file,) = files(packs)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    found = RuleSet.load(rules, cache=packs)
    assert found.pack == "damaged; written"
    assert tuple(found.rules) == tuple(cold.rules)
    assert RuleSet.load(rules, cache=packs).pack == "used"


def test_a_pack_that_others_may_write_is_not_used(rules: Path, packs: Path) -> None:
    RuleSet.load(rules, cache=packs)
    (file,) = files(packs)
    file.chmod(0o666)
    found = RuleSet.load(rules, cache=packs)
    assert found.pack == f"not used, a stranger could change it: {file} is writable by everybody; written"
    packs.chmod(0o777)
    found = RuleSet.load(rules, cache=packs)
    assert found.pack.startswith(f"not used, a stranger could change it: {packs} is writable by everybody")
    assert found.pack.endswith(f"not written, a stranger could change it: {packs} is writable by everybody")
    assert len(found.rules) == MIN_FILES + 3


@pytest.mark.root
def test_a_pack_of_somebody_else_is_not_used(rules: Path, packs: Path) -> None:
    RuleSet.load(rules, cache=packs)
    (file,) = files(packs)
    os.chown(file, 12345, 12345)
    found = RuleSet.load(rules, cache=packs)
    assert found.pack == f"not used, a stranger could change it: {file} belongs to user 12345; written"
    assert file.stat().st_uid == 0


def test_a_link_in_place_of_a_pack_is_not_followed(rules: Path, packs: Path, tmp_path: Path) -> None:
    RuleSet.load(rules, cache=packs)
    (file,) = files(packs)
    aside = file.rename(tmp_path / "aside")
    file.symlink_to(aside)
    assert RuleSet.load(rules, cache=packs).pack.startswith("cannot be read: ")
    assert not file.is_symlink()
    assert aside.exists()


def test_a_directory_in_place_of_a_pack_is_no_error(rules: Path, packs: Path) -> None:
    RuleSet.load(rules, cache=packs)
    [pack] = packs.iterdir()
    pack.unlink()
    pack.mkdir()
    assert len(RuleSet.load(rules, cache=packs).rules) > 0


def test_a_place_that_cannot_be_written_is_no_error(rules: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = RuleSet.load(rules, cache=tmp_path / "file" / "packs")
    assert found.pack == "cannot be read: Not a directory; not written: Not a directory"
    assert len(found.rules) == MIN_FILES + 3


def test_only_the_packs_last_used_are_kept(rules: Path, packs: Path) -> None:
    for number in range(MAX_PACKS):
        (rules / "changing.yml").write_text(rule(1000 + number))
        RuleSet.load(rules, cache=packs)
    first = min(files(packs), key=lambda file: file.stat().st_mtime_ns)
    (rules / "changing.yml").write_text(rule(1000))
    assert RuleSet.load(rules, cache=packs).pack == "used"  # now the second is the oldest
    second = min(files(packs), key=lambda file: file.stat().st_mtime_ns)
    assert second != first
    (rules / "changing.yml").write_text(rule(2000))
    RuleSet.load(rules, cache=packs)
    assert len(files(packs)) == MAX_PACKS
    assert first.exists()
    assert not second.exists()


def test_writers_at_the_same_time_leave_one_whole_pack(rules: Path, packs: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ironpost.detections import RuleSet\n"
        "for _ in range(5):\n"
        "    found = RuleSet.load(sys.argv[1], cache=Path(sys.argv[2]))\n"
        f"    assert len(found.rules) == {MIN_FILES + 3}, found\n"
        "    assert found.pack in ('used', 'not there; written'), found.pack\n"
        "    [file.unlink(missing_ok=True) for file in Path(sys.argv[2]).glob('[!.]*')]\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(rules), str(packs)]) for _ in range(4)]
    assert [process.wait(timeout=25) for process in running] == [0, 0, 0, 0]
    assert [file for file in files(packs) if file.name.startswith(".")] == []
    RuleSet.load(rules, cache=packs)
    assert RuleSet.load(rules, cache=packs).pack == "used"


def test_small_sets_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "one.yml").write_text(rule(1))
    found = RuleSet.load(tmp_path / "one.yml", cache=tmp_path / "packs")
    assert found.pack == ""
    assert not (tmp_path / "packs").exists()


def test_the_users_packs_are_in_the_cache_directory() -> None:
    assert user_cache({"XDG_CACHE_HOME": "/var/cache/me", "HOME": "/h"}) == Path("/var/cache/me/ironpost/rules")
    assert user_cache({"XDG_CACHE_HOME": "relative", "HOME": "/h"}) == Path("/h/.cache/ironpost/rules")
    assert user_cache({}) is None
