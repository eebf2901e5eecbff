"""What CONTRIBUTING.md and ARCHITECTURE.md promise about the whole tree, read from the tree."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "python" / "ironpost"
SOURCES = sorted(PACKAGE.rglob("*.py"))
#: Rooms that know nothing of one another; the pipeline wires them.
ROOMS = {"events", "detections", "alerts", "decisions", "enforcement", "storage"}
COMMON = {"model", "errors", "system", "ownership", "_core"}  # who may use the last one is in test_arrows.py
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def toml(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))


def crates() -> dict[str, dict[str, Any]]:
    paths = [*ROOT.glob("rust/*/Cargo.toml"), *ROOT.glob("ebpf/*/Cargo.toml")]
    assert len(paths) >= 7
    return {path.parent.name: tomllib.loads(path.read_text(encoding="utf-8")) for path in paths}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def prerequisites(target: str) -> str:
    found = re.search(rf"^{target}:([^#\n]*)", MAKEFILE, re.MULTILINE)
    assert found, f"no target {target}"
    return found[1]


def recipe(target: str) -> str:
    found = re.search(rf"^{target}:[^\n]*\n((?:\t[^\n]*\n)+)", MAKEFILE, re.MULTILINE)
    assert found, f"target {target} does nothing"
    return found[1]


def test_there_is_one_version() -> None:
    version = toml("Cargo.toml")["workspace"]["package"]["version"]
    assert "version" in toml("pyproject.toml")["project"]["dynamic"], "the wheel takes the version of the crates"
    for name, manifest in crates().items():
        assert manifest["package"]["version"] in ({"workspace": True}, version), name


def test_versions_of_dependencies_stand_in_one_place() -> None:
    shared = toml("Cargo.toml")["workspace"]["dependencies"]
    own = set()
    for crate, manifest in crates().items():
        if crate == "ironpost-ebpf":  # a workspace of its own, for a compiler of its own
            continue
        for name, wanted in [*manifest.get("dependencies", {}).items(), *manifest.get("dev-dependencies", {}).items()]:
            if not isinstance(wanted, dict) or wanted.get("workspace") is not True:
                own.add((crate, name, str(wanted["version"] if isinstance(wanted, dict) else wanted)))
    # A member of both workspaces cannot inherit; it must say the same.
    assert own == {("ironpost-ebpf-common", "zerocopy", shared["zerocopy"]["version"])}
    assert toml("pyproject.toml")["project"]["dependencies"]


def test_one_command_runs_every_kind_of_test() -> None:
    assert {"check", "ebpf-check", "test-rust", "test-python"} <= set(prerequisites("test").split())
    assert "cargo test --workspace" in recipe("test-rust")
    assert "pytest" in recipe("test-python")
    assert "exec make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_a_warning_ends_the_build() -> None:
    assert {"format", "lint", "types"} <= set(prerequisites("check").split())
    assert "--deny warnings" in recipe("lint")
    assert "ruff check" in recipe("lint")
    assert toml("pyproject.toml")["tool"]["mypy"]["strict"] is True
    lints = toml("Cargo.toml")["workspace"]["lints"]["clippy"]
    assert {"unwrap_used", "expect_used", "panic"} <= set(lints)
    unlinted = {name for name, manifest in crates().items() if manifest.get("lints") != {"workspace": True}}
    assert unlinted == {"ironpost-ebpf", "ironpost-ebpf-common"}, "crates of the kernel side have no workspace lints"


def test_crates_are_of_edition_2024_without_async_trait() -> None:
    assert toml("Cargo.toml")["workspace"]["package"]["edition"] == "2024"
    for name, manifest in crates().items():
        assert manifest["package"]["edition"] in ({"workspace": True}, "2024"), name
        assert "async-trait" not in manifest.get("dependencies", {}), name


def test_toolchains_are_pinned() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", toml("rust-toolchain.toml")["toolchain"]["channel"])
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    names = [line for line in constraints.splitlines() if line.strip() and not line.startswith("#")]
    assert names
    assert [line for line in names if "==" not in line] == []


def test_the_kernel_object_is_built_by_one_command_and_compared() -> None:
    assert "ebpf/build.sh" in recipe("ebpf")
    assert "ebpf/build.sh --check" in recipe("ebpf-check")
    assert (ROOT / "ebpf" / "prebuilt" / "ironpost.bpfel.o").stat().st_size > 0


def test_rooms_know_nothing_of_one_another() -> None:
    strangers = set()
    for path in SOURCES:
        room = path.relative_to(PACKAGE).parts[0]
        if room not in ROOMS:
            continue
        for node in ast.walk(tree(path)):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                parts = module.split(".")
                if parts[0] == "ironpost" and len(parts) > 1 and parts[1] not in {room, *COMMON}:
                    strangers.add((str(path.relative_to(PACKAGE)), module))
    assert strangers == set()


def test_every_error_raised_on_purpose_has_one_root() -> None:
    root = importlib.import_module("ironpost.errors").IronpostError
    homeless = set()
    for path in SOURCES:
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef) and any("Error" in ast.unparse(base) for base in node.bases):
                kind = getattr(importlib.import_module(module), node.name)
                if issubclass(kind, Exception) and not issubclass(kind, root):
                    homeless.add(f"{module}.{node.name}")
    assert homeless == set()


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(PACKAGE)) for path in SOURCES])
def test_no_input_is_checked_by_assert_and_no_exception_is_swallowed_bare(path: Path) -> None:
    for node in ast.walk(tree(path)):
        assert not isinstance(node, ast.Assert), node.lineno
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), node.lineno


def test_only_the_command_line_prints() -> None:
    printing = {
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert {path for path in printing if not path.startswith(("cli/", "demo/"))} == set()
    lints = toml("Cargo.toml")["workspace"]["lints"]["clippy"]
    assert {"print_stdout", "print_stderr"} <= set(lints)
