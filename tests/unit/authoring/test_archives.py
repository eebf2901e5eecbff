"""A bundle of rules is a stranger's: nothing of it lands outside, and its size is bounded (adversarial case 37)."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from ironpost.authoring import archives
from ironpost.authoring.archives import read_members
from ironpost.authoring.collection import MANIFEST, collect, store
from ironpost.detections import RuleSet
from ironpost.errors import RuleError

RULE = """\
title: {id}
id: {id}
level: low
tags: [attack.execution, attack.t1059]
logsource: {{product: linux}}
detection: {{sel: {{message|contains: {id}}}, condition: sel}}
"""


def tar(path: Path, members: dict[str, bytes | tarfile.TarInfo], mode: str = "w:xz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


def rule(identifier: str) -> bytes:
    return RULE.format(id=identifier).encode()


@pytest.mark.parametrize(
    "name",
    ["../evil.yml", "rules/../../evil.yml", "/etc/evil.yml", "..\\evil.yml", "C:/evil.yml", "a\nb.yml", "x" * 2000],
)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_name_that_leads_outside_refuses_the_archive(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / f"bundle.{kind}"
    if kind == "tar":
        tar(path, {"good.yml": rule("good"), name: rule("evil")})
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("good.yml", rule("good"))
            archive.writestr(name, rule("evil"))
    target = tmp_path / "target"
    with pytest.raises(RuleError, match="outside"):
        store(collect(path), target)
    assert not target.exists()
    assert sorted(item.name for item in tmp_path.iterdir()) == [path.name]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_links_and_devices_are_never_taken(tmp_path: Path, mode: str) -> None:
    members: dict[str, bytes | tarfile.TarInfo] = {
        "b/good.yml": rule("good"),
        "b/sym.yml": link("b/sym.yml", tarfile.SYMTYPE, "/etc/passwd"),
        "b/hard.yml": link("b/hard.yml", tarfile.LNKTYPE, "b/good.yml"),
        "b/pipe.yml": link("b/pipe.yml", tarfile.FIFOTYPE, ""),
    }
    found = collect(tar(tmp_path / "bundle", members, mode))
    assert [one.id for one in found.rules] == ["good"]
    assert found.skipped == {"no regular file, links are not followed": ["sym.yml", "hard.yml", "pipe.yml"]}


def test_a_link_in_a_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(rule("secret"))
    source = tmp_path / "source"
    source.mkdir()
    (source / "good.yml").write_bytes(rule("good"))
    (source / "link.yml").symlink_to(tmp_path / "secret")
    found = collect(source)
    assert list(found.files) == ["good.yml"]


@pytest.mark.parametrize("kind", ["gz", "zip"])
def test_a_bomb_ends_at_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(archives, "MAX_UNPACKED", 1 << 20)
    path = tmp_path / f"bomb.{kind}"
    zeros = b"#" + b"0" * (8 << 20)
    if kind == "gz":
        tar(path, {"big.bin": zeros, "good.yml": rule("good")}, "w:gz")
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("big.yml", zeros)
    assert path.stat().st_size < 100_000
    with pytest.raises(RuleError, match="unpacks to more than"):
        list(read_members(path))


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    with pytest.raises(RuleError, match="members"):
        list(read_members(tar(tmp_path / "many.tar", {f"{number}.txt": b"" for number in range(4)})))


@pytest.mark.parametrize(
    "content", [b"", b"no archive", b"PK\x03\x04cut", b"\x1f\x8b\x08cut", b"\xfd7zXZ\x00cut", b"BZhcut"]
)
def test_a_broken_archive_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken"
    path.write_bytes(content)
    with pytest.raises(RuleError, match="broken: archive can't be read"):
        list(read_members(path))


def test_names_ids_and_tags_are_kept(tmp_path: Path) -> None:
    bundle = tar(tmp_path / "b.tar", {"repo/linux/a.yml": rule("a"), "repo/README.yml": b"hello: world\n"})
    found = collect(bundle)
    changes = store(found, tmp_path / "target")
    assert changes.added == ["linux/a.yml"]
    assert (tmp_path / "target" / "linux" / "a.yml").read_bytes() == rule("a")
    [loaded] = RuleSet.load(tmp_path / "target").rules
    assert (loaded.id, loaded.tags) == ("a", ("attack.execution", "attack.t1059"))
    assert found.skipped == {"no rule": ["README.yml"]}
    assert found.coverage() == {"execution": {"t1059": 1}}


def test_a_name_that_is_a_file_and_a_folder_is_named_and_the_rest_imported(tmp_path: Path) -> None:
    bundle = tar(tmp_path / "b.tar", {"b.yml/c.yml": rule("c"), "b.yml": rule("b"), "d.yml": rule("d")})
    found = collect(bundle)
    assert found.skipped == {"name is a file and a folder": ["b.yml"]}
    assert store(found, tmp_path / "target").added == ["b.yml/c.yml", "d.yml"]


def test_a_folder_in_a_files_place_is_said_before_anything_is_written(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "d.yml").mkdir(parents=True)
    with pytest.raises(RuleError, match=r"is a folder: d\.yml cannot be written"):
        store(collect(tar(tmp_path / "b.tar", {"a.yml": rule("a"), "d.yml": rule("d")})), target)
    assert [file.name for file in target.iterdir()] == ["d.yml"]


def test_a_second_import_updates_its_own_files_and_no_others(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in ("same", "changed", "edited", "gone"):
        (source / f"{name}.yml").write_bytes(rule(name))
    store(collect(source), target)
    (source / "changed.yml").write_bytes(rule("changed") + b"status: test\n")
    (source / "edited.yml").write_bytes(rule("edited") + b"status: test\n")
    (source / "gone.yml").unlink()
    (source / "new.yml").write_bytes(rule("new"))
    mine = rule("edited") + b"status: stable\n"
    (target / "edited.yml").write_bytes(mine)
    changes = store(collect(source), target)
    assert changes.to_json() == {
        "added": ["new.yml"],
        "updated": ["changed.yml"],
        "kept": ["edited.yml"],
        "gone": ["gone.yml"],
        "removed": [],
        "unchanged": 1,
    }
    assert (target / "edited.yml").read_bytes() == mine
    changes = store(collect(source), target, force=True, prune=True)
    assert (changes.updated, changes.removed) == (["edited.yml"], ["gone.yml"])
    assert not (target / "gone.yml").exists()


def test_a_link_in_the_target_is_not_written_through(tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (target / "linux").symlink_to(outside)
    bundle = tar(tmp_path / "b.tar", {"x/linux/a.yml": rule("a"), "x/b.yml": rule("b")})
    with pytest.raises(RuleError, match="out of the target"):
        store(collect(bundle), target)
    assert list(outside.iterdir()) == []


def test_a_forged_record_of_earlier_imports_removes_nothing_outside(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "victim.yml").write_bytes(rule("victim"))
    (target / MANIFEST).write_text('{"version": 1, "files": {"../victim.yml": {"sha256": "x"}, "/etc/passwd": {}}}')
    changes = store(collect(tar(tmp_path / "b.tar", {"a.yml": rule("a")})), target, prune=True)
    assert (changes.added, changes.gone, changes.removed) == (["a.yml"], [], [])
    assert (tmp_path / "victim.yml").exists()


def test_an_id_in_use_is_not_copied(tmp_path: Path) -> None:
    known = RuleSet.from_text(rule("a").decode(), path="mine.yml")
    found = collect(tar(tmp_path / "b.tar", {"a.yml": rule("a"), "b.yml": rule("b")}), known=known)
    assert found.duplicates == [("a", "a.yml", "mine.yml:1")]
    assert store(found, tmp_path / "target").added == ["b.yml"]
