"""The public rules, when they lie beside the checkout: all are accounted for."""

import tarfile
from pathlib import Path

import pytest

from ironpost.detections import RuleSet

ARCHIVE = Path(__file__).parents[4] / "shared" / "data" / "sigmahq-rules.tar.xz"
ACTIVE = (
    "rules",
    "rules-emerging-threats",
    "rules-threat-hunting",
    "rules-placeholder",
    "rules-compliance",
    "rules-dfir",
)


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.exists(), reason=f"the public Sigma rules are not at {ARCHIVE}")
def test_every_public_rule_is_loaded_or_lacks_a_placeholder(tmp_path: Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        # Debian 12's Python 3.11.2 has no filters yet.
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (root,) = (path.parent for path in tmp_path.rglob("SOURCE.txt"))
    folders = [root / name for name in ACTIVE]
    rules = RuleSet.load(*folders)
    files = sum(1 for folder in folders for _ in folder.rglob("*.yml"))
    assert len(rules.rules) + len(rules.refused) == files == 3780
    assert [refused.reason for refused in rules.refused if "placeholder" not in refused.reason] == []
    assert len(rules.refused) == 25
    assert len(rules.native) == 3755
