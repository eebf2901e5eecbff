"""Arrows that import-linter cannot see: who goes through the native door, and who knows PyO3."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "python" / "ironpost"
#: Rooms that may import `ironpost._core`.
NATIVE_ROOMS = {"events", "detections", "enforcement", "pipeline"}


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_only_the_rooms_of_the_data_path_go_through_the_native_door() -> None:
    sources = sorted(PACKAGE.rglob("*.py"))
    assert sources
    strangers = {
        str(path.relative_to(PACKAGE))
        for path in sources
        if "ironpost._core" in imported_modules(path) and path.relative_to(PACKAGE).parts[0] not in NATIVE_ROOMS
    }
    assert strangers == set()


def test_pyo3_is_named_by_the_door_crate_alone() -> None:
    manifests = {path.parent.name: tomllib.loads(path.read_text()) for path in ROOT.glob("rust/*/Cargo.toml")}
    assert "ironpost-py" in manifests
    assert {name for name, manifest in manifests.items() if "pyo3" in manifest.get("dependencies", {})} == {
        "ironpost-py"
    }


def test_no_crate_imports_a_later_one() -> None:
    allowed = {
        "ironpost-events": set(),
        "ironpost-detect": {"ironpost-events"},
        "ironpost-xdp": {"ironpost-ebpf-common"},
        "ironpost-engine": {"ironpost-events", "ironpost-detect", "ironpost-xdp"},
        "ironpost-py": {"ironpost-events", "ironpost-detect", "ironpost-xdp", "ironpost-engine"},
    }
    for path in ROOT.glob("rust/*/Cargo.toml"):
        manifest = tomllib.loads(path.read_text())
        ours = {name for name in manifest["dependencies"] if name.startswith("ironpost-")}
        assert ours <= allowed[path.parent.name], path
