"""Who can change a file, asked of real files with real modes."""

from __future__ import annotations

import grp
import os
import pwd
import struct
import subprocess

import pytest

from ironpost.config import load, packaged
from ironpost.config.load import ConfigError
from ironpost.decisions import load_policies
from ironpost.detections import RuleSet
from ironpost.ownership import Doubt, log_doubt, setting_doubt

NOBODY = pwd.getpwnam("nobody").pw_uid
A_PERSONS_GROUP = 4242

RULE = """
title: {0}
id: {0}
level: low
logsource: {{product: linux}}
detection:
  selection: {{message|contains: {0}}}
  condition: selection
"""
POLICY = 'id = "{0}"\nname = "{0}"\nseverity_threshold = "low"\nmode = "observe"\n[action]\nBan = []\n'

pytestmark = pytest.mark.root


@pytest.fixture
def log(tmp_path):
    directory = tmp_path / "logs"
    directory.mkdir(mode=0o755)
    path = directory / "auth.log"
    path.write_text("")
    path.chmod(0o640)
    return path


def test_a_log_that_the_host_alone_writes_is_not_doubted(log):
    assert log_doubt(log) is None
    os.chown(log, pwd.getpwnam("www-data").pw_uid, grp.getgrnam("adm").gr_gid)
    log.chmod(0o660)
    assert log_doubt(log) is None


@pytest.mark.parametrize("doubt", [log_doubt, setting_doubt])
@pytest.mark.parametrize("mode", [0o606, 0o602])
def test_a_file_that_everybody_writes_is_doubted(log, doubt, mode):
    log.chmod(mode)
    found = doubt(log)
    assert (found.path, found.reason) == (str(log), "is writable by everybody")
    subprocess.run(found.remedy.split(), check=True)
    assert doubt(log) is None


@pytest.mark.parametrize("doubt", [log_doubt, setting_doubt])
def test_a_file_of_somebody_else_is_doubted_until_the_remedy(log, doubt):
    os.chown(log, NOBODY, 0)
    found = doubt(log)
    assert found == Doubt(str(log), "belongs to nobody", f"chown root {log}")
    subprocess.run(found.remedy.split(), check=True)
    assert doubt(log) is None


@pytest.mark.parametrize("doubt", [log_doubt, setting_doubt])
def test_a_group_of_people_is_doubted_until_the_remedy(log, doubt):
    os.chown(log, 0, A_PERSONS_GROUP)
    assert doubt(log) is None
    log.chmod(0o660)
    found = doubt(log)
    assert found.reason == f"is writable by the group {A_PERSONS_GROUP}"
    subprocess.run(found.remedy.split(), check=True)
    assert doubt(log) is None


def test_a_setting_is_for_its_owner_to_write_whatever_the_group(log):
    os.chown(log, 0, 0)
    log.chmod(0o660)
    assert log_doubt(log) is None
    assert setting_doubt(log).reason == "is writable by the group root"
    os.chown(log, pwd.getpwnam("www-data").pw_uid, 0)
    assert setting_doubt(log).reason == "belongs to www-data"


@pytest.mark.parametrize("doubt", [log_doubt, setting_doubt])
@pytest.mark.parametrize(
    ("mode", "doubted"), [(0o777, True), (0o1777, False), (0o755, False), (0o1755, False), (0o757, True)]
)
def test_a_directory_in_which_everybody_may_replace_the_file_is_doubted(log, doubt, mode, doubted):
    log.parent.chmod(mode)
    found = doubt(log)
    assert (found is not None) is doubted
    if found is not None:
        assert (found.path, found.reason) == (str(log.parent), "is writable by everybody")


@pytest.mark.parametrize(("mode", "doubted"), [(0o777, True), (0o1777, True), (0o755, False)])
def test_a_log_that_does_not_exist_yet_is_whose_who_may_create_it(log, mode, doubted):
    log.unlink()
    log.parent.chmod(mode)
    assert (log_doubt(log) is not None) is doubted
    assert (log_doubt(log.parent / "*.log") is not None) is doubted
    assert (log_doubt(log.parent / "later" / "x.log") is not None) is doubted


def test_a_directory_of_somebody_else_high_above_is_doubted(tmp_path):
    path = tmp_path / "home" / "logs" / "deep" / "x.log"
    path.parent.mkdir(parents=True)
    path.write_text("")
    assert log_doubt(path) is None
    os.chown(tmp_path / "home", NOBODY, 0)
    assert log_doubt(path).path == setting_doubt(path).path == str(tmp_path / "home")


@pytest.mark.parametrize("doubt", [log_doubt, setting_doubt])
def test_a_link_is_as_good_as_its_directory_its_owner_and_its_target(log, tmp_path, doubt):
    shared = tmp_path / "shared"
    shared.mkdir()
    link = shared / "link.log"
    link.symlink_to("../logs/auth.log")
    assert doubt(link) is None
    shared.chmod(0o777)
    assert doubt(link).path == str(shared)
    shared.chmod(0o1777)
    assert doubt(link) is None
    os.lchown(link, NOBODY, 0)
    assert doubt(link).path == str(link)
    shared.chmod(0o755)
    os.lchown(link, 0, 0)
    log.chmod(0o666)
    assert doubt(link).path == str(log)


def test_links_that_lead_nowhere_end(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert log_doubt(tmp_path / "a") is None


@pytest.mark.parametrize(
    ("tag", "identifier", "permissions", "reason"),
    [
        (0x02, NOBODY, 6, "is writable by nobody"),
        (0x02, NOBODY, 4, ""),
        (0x02, 33, 6, ""),
        (0x08, A_PERSONS_GROUP, 6, f"is writable by the group {A_PERSONS_GROUP}"),
        (0x08, A_PERSONS_GROUP, 4, ""),
    ],
)
def test_an_access_list_that_lets_a_person_write_is_doubted(log, tag, identifier, permissions, reason):
    everyone = 0xFFFF_FFFF
    entries = [(0x01, 6, everyone), (0x04, 4, everyone), (tag, permissions, identifier), (0x10, 6, everyone)]
    entries = sorted([*entries, (0x20, 0, everyone)])
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.chown(log, 0, A_PERSONS_GROUP)
    os.setxattr(log, "system.posix_acl_access", value)
    found = log_doubt(log)
    assert (found.reason if found else "") == reason


def test_what_comes_with_the_program_is_as_good_as_the_program(tmp_path, monkeypatch):
    package = tmp_path / "venv" / "site-packages" / "ironpost"
    (package / "data").mkdir(parents=True)
    rule = package / "data" / "rule.yml"
    rule.write_text(RULE.format("alpha"))
    for path in (tmp_path / "venv", package, rule):
        os.chown(path, NOBODY, NOBODY)
    assert setting_doubt(rule) is not None
    monkeypatch.setattr("ironpost.ownership._CODE", str(package))
    assert setting_doubt(rule) is None
    beside = tmp_path / "venv" / "site-packages" / "ironpost-other.toml"
    beside.write_text("")
    os.chown(beside, NOBODY, NOBODY)
    assert setting_doubt(beside) is not None


def test_rules_and_policies_of_the_package_are_all_accepted():
    rules = RuleSet.load(packaged("rules"), doubt=setting_doubt)
    policies = load_policies(packaged("policies"), doubt=setting_doubt)
    assert rules.rules
    assert policies.policies
    assert (rules.refused, policies.refused) == ((), ())


def test_a_strangers_rule_is_refused_and_stops_no_other(tmp_path):
    for name in ("alpha", "beta"):
        (tmp_path / f"{name}.yml").write_text(RULE.format(name))
    (tmp_path / "beta.yml").chmod(0o666)
    rules = RuleSet.load(tmp_path, doubt=setting_doubt)
    assert [rule.id for rule in rules.rules] == ["alpha"]
    [refused] = rules.refused
    assert refused.path == str(tmp_path / "beta.yml")
    assert "a stranger could change it" in refused.reason
    assert refused.hint == f"chmod go-w {tmp_path}/beta.yml"
    assert len(RuleSet.load(tmp_path).rules) == 2


def test_a_strangers_policy_is_refused_and_stops_no_other(tmp_path):
    for name in ("alpha", "beta"):
        (tmp_path / f"{name}.toml").write_text(POLICY.format(name))
    os.chown(tmp_path / "beta.toml", NOBODY, 0)
    policies = load_policies(tmp_path, doubt=setting_doubt)
    assert [policy.id for policy in policies.policies] == ["alpha"]
    [refused] = policies.refused
    assert (refused.path, refused.hint) == (str(tmp_path / "beta.toml"), f"chown root {tmp_path}/beta.toml")
    assert len(load_policies(tmp_path).policies) == 2


def test_a_directory_that_others_write_gives_no_rule(tmp_path):
    directory = tmp_path / "rules"
    directory.mkdir()
    (directory / "alpha.yml").write_text(RULE.format("alpha"))
    directory.chmod(0o775)
    rules = RuleSet.load(directory, doubt=setting_doubt)
    assert rules.rules == ()
    assert rules.refused[0].hint == f"chmod go-w {directory}"


def test_a_strangers_configuration_is_refused(tmp_path):
    path = tmp_path / "ironpost.toml"
    path.write_text("")
    assert load(path, environment={}, doubt=setting_doubt).path == path
    path.chmod(0o664)
    with pytest.raises(ConfigError, match="a stranger could change it") as caught:
        load(path, environment={}, doubt=setting_doubt)
    assert (caught.value.path, caught.value.hint) == (str(path), f"chmod go-w {path}")
    with pytest.raises(ConfigError):
        load(None, environment={}, default_path=path, doubt=setting_doubt)
    assert load(path, environment={}).path == path
    assert load(None, environment={}, default_path=tmp_path / "none", doubt=setting_doubt).path is None
