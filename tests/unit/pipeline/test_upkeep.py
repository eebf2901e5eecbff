"""Changed rules and policies are taken over, broken ones change nothing; a filter taken off is attached again."""

from __future__ import annotations

import json

import pytest

from ironpost.config import Places
from ironpost.decisions import load_policies
from ironpost.detections import RuleSet
from ironpost.errors import ForeignProgram
from ironpost.pipeline.health import Health, HealthBoard
from ironpost.pipeline.upkeep import FilterWatch, Reloader

RULE = """
title: {title}
id: {title}
level: low
logsource: {{product: linux}}
detection:
  selection: {{message|contains: {title}}}
  condition: selection
"""

POLICY = """
id = "{id}"
name = "A policy"
severity_threshold = "low"
mode = "observe"
[action]
Ban = []
"""


class FakeParts:
    def __init__(self, places):
        self.rules = RuleSet.load(*places.rule_dirs)
        self.policies = load_policies(*places.policy_dirs)
        self.engine = self
        self.swapped = []

    def swap_rules(self, native):
        self.swapped.append(len(native))

    def use_policies(self, policies):
        self.policies = policies


@pytest.fixture
def scene(tmp_path):
    rules, policies = tmp_path / "rules", tmp_path / "policies"
    rules.mkdir()
    policies.mkdir()
    (rules / "a.yml").write_text(RULE.format(title="alpha"))
    (policies / "a.toml").write_text(POLICY.format(id="alpha"))
    places = Places(tmp_path, None, tmp_path / "s", (rules,), (policies,))
    board = HealthBoard()
    board.add("log-pipeline", "log-pipeline", enabled=True)
    parts = FakeParts(places)
    return rules, policies, parts, board, Reloader(parts, places, board)


async def test_nothing_changed_means_nothing_is_done(scene):
    _, _, parts, _, reloader = scene
    await reloader.look()
    assert parts.swapped == []


async def test_a_new_rule_is_in_force_at_the_next_look(scene):
    rules, _, parts, board, reloader = scene
    (rules / "b.yml").write_text(RULE.format(title="beta"))
    await reloader.look()
    assert parts.swapped == [2]
    assert {rule.id for rule in parts.rules.rules} == {"alpha", "beta"}
    assert board.health is Health.HEALTHY


@pytest.mark.parametrize("kind", ["rules", "policies"])
async def test_a_file_that_becomes_writable_for_all_is_not_taken_until_it_is_ours_again(scene, kind):
    rules, policies, parts, board, reloader = scene
    added = rules / "b.yml" if kind == "rules" else policies / "b.toml"
    added.write_text(RULE.format(title="beta") if kind == "rules" else POLICY.format(id="beta"))
    added.chmod(0o666)
    await reloader.look()
    [fault] = board.faults("log-pipeline").values()
    assert "a stranger could change it" in fault.reason
    assert f"chmod go-w {added}" in fault.remedy
    assert len(parts.rules.rules) == len(parts.policies.policies) == 1
    added.chmod(0o644)
    await reloader.look()
    assert board.health is Health.HEALTHY
    assert len(parts.rules.rules if kind == "rules" else parts.policies.policies) == 2


async def test_a_broken_rule_changes_nothing_is_named_and_heals_when_mended(scene):
    rules, _, parts, board, reloader = scene
    (rules / "b.yml").write_text("title: half a rule\n")
    await reloader.look()
    assert parts.swapped == []
    assert {rule.id for rule in parts.rules.rules} == {"alpha"}
    assert "b.yml" in board.to_json()[0]["reason"]
    (rules / "b.yml").write_text(RULE.format(title="beta"))
    await reloader.look()
    assert parts.swapped == [2]
    assert board.health is Health.HEALTHY


async def test_a_removed_rule_is_out_of_force(scene):
    rules, _, parts, _, reloader = scene
    (rules / "b.yml").write_text(RULE.format(title="beta"))
    await reloader.look()
    (rules / "b.yml").unlink()
    await reloader.look()
    assert parts.swapped == [2, 1]


async def test_a_directory_that_goes_away_leaves_its_rules_in_force(scene):
    rules, _, parts, board, reloader = scene
    rules.rename(rules.with_name("elsewhere"))
    await reloader.look()
    assert parts.swapped == []
    assert {rule.id for rule in parts.rules.rules} == {"alpha"}
    assert str(rules) in board.to_json()[0]["reason"]
    rules.with_name("elsewhere").rename(rules)
    await reloader.look()
    assert board.health is Health.HEALTHY


async def test_policies_change_likewise(scene):
    _, policies, parts, board, reloader = scene
    (policies / "b.toml").write_text(POLICY.format(id="beta"))
    await reloader.look()
    assert {policy.id for policy in parts.policies.policies} == {"alpha", "beta"}
    (policies / "b.toml").write_text("id = ")
    await reloader.look()
    assert {policy.id for policy in parts.policies.policies} == {"alpha", "beta"}
    assert board.health is Health.DEGRADED
    assert "b.toml" in board.to_json()[0]["reason"]


class FakeFilter:
    """A filter on one interface that others can take off."""

    def __init__(self):
        self.mode, self.note, self.foreign, self.tried = "native", "", False, 0

    def attached(self):
        return json.dumps([{"interface": "eth7", "mode": self.mode, "note": self.note}]).encode()

    def reattach(self):
        self.tried += 1
        if self.foreign:
            raise ForeignProgram('the XDP program "other" (id 9) runs on eth7', "remove it first")
        self.mode, self.note = "native", ""


class FilterParts:
    def __init__(self):
        self.filter, self.filter_reattached, self.filter_given_up = FakeFilter(), 0, False

    def filter_text(self):
        return "eth7"


@pytest.fixture
def watched():
    board = HealthBoard()
    board.add("ebpf-engine", "detector", enabled=True)
    parts = FilterParts()
    return parts, board, FilterWatch(parts, board)


async def test_a_filter_taken_off_is_attached_again_and_counted(watched):
    """Case 27."""
    parts, board, watch = watched
    parts.filter.mode, parts.filter.note = None, "not attached: the link was removed from outside"
    await watch.look()
    assert (parts.filter.mode, parts.filter_reattached, board.health) == ("native", 1, Health.HEALTHY)
    await watch.look()
    assert parts.filter_reattached == 1


async def test_a_link_whose_pin_is_gone_is_pinned_again(watched):
    parts, board, watch = watched
    parts.filter.note = "attached, but the pin of the link was removed from outside"
    await watch.look()
    assert (parts.filter.note, parts.filter_reattached, board.health) == ("", 1, Health.HEALTHY)


async def test_a_foreign_program_is_left_alone_shown_and_asked_about_less_and_less(watched):
    parts, board, watch = watched
    parts.filter.mode, parts.filter.note, parts.filter.foreign = None, "not attached: the XDP program other", True
    pauses = [await watch.look() for _ in range(9)]
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert board.health is Health.UNHEALTHY
    assert any("other" in fault.reason for fault in board.faults("ebpf-engine").values())
    parts.filter.foreign = False
    assert await watch.look() == 1
    assert board.health is Health.HEALTHY


async def test_generic_mode_is_no_reason_to_attach_again(watched):
    parts, board, watch = watched
    parts.filter.mode, parts.filter.note = "skb", "generic mode, slower"
    await watch.look()
    assert (parts.filter.tried, board.health) == (0, Health.DEGRADED)


async def test_a_filter_taken_off_on_purpose_stays_off(watched):
    parts, _, watch = watched
    parts.filter.mode, parts.filter_given_up = None, True
    await watch.look()
    assert parts.filter.tried == 0
