"""Which rules this host can feed, by what, and what the others would need."""

import pytest

from ironpost.detections import RuleSet
from ironpost.detections.supply import Supply, judge_rules

TEMPLATE = "title: t\nid: {id}\nlogsource: {{{source}}}\ndetection: {{s: {{{fields}}}, condition: s}}\n"


def judged(source: str, fields: str, supply: Supply) -> tuple[tuple[str, ...], str]:
    rules = RuleSet.from_text(TEMPLATE.format(id="r", source=source, fields=fields))
    assert rules.refused == ()
    found = judge_rules(rules.rules, supply)["r"]
    return found.fed_by, found.reason


@pytest.mark.parametrize(
    ("source", "fields", "fed_by"),
    [
        ("product: linux, service: sshd", "source.ip: 192.0.2.1", "system logs"),
        ("product: linux", "'message|contains': x", "system logs"),
        ("product: linux, service: sudo", "USER: root", "system logs"),
        ("category: webserver", "cs-uri-query: x", "web server access logs"),
        ("service: nginx", "message: x", "web server error logs"),
        ("product: ironpost, service: filter", "tcp.flags: S", "packet filter"),
        ("product: linux, service: auditd", "type: EXECVE", "auditd"),
        ("product: linux, category: process_creation", "CommandLine: x", "auditd"),
    ],
)
def test_rules_for_what_this_host_writes_are_fed(source: str, fields: str, fed_by: str) -> None:
    names, reason = judged(source, fields, Supply.shipped())
    assert fed_by in names
    assert reason == ""


@pytest.mark.parametrize(
    ("source", "fields", "reason"),
    [
        ("product: windows, category: process_creation", "Image: x", "needs Windows events"),
        ("product: aws, service: cloudtrail", "eventName: x", "needs cloud audit logs"),
        ("category: proxy", "c-uri: x", "needs network sensors and proxies"),
        ("product: linux, category: process_creation", "ParentImage: x", "needs Sysmon for Linux"),
        ("product: plan9", "message: x", "no source supplies product plan9"),
        ("category: webserver", "cs-shoe-size: 43", "lack the fields it needs: cs-shoe-size"),
    ],
)
def test_other_rules_say_what_they_need(source: str, fields: str, reason: str) -> None:
    names, given = judged(source, fields, Supply.shipped())
    assert names == ()
    assert reason in given


def test_only_what_is_configured_feeds_rules() -> None:
    web = ("category: webserver", "cs-uri-query: x")
    ssh = ("product: linux, service: sshd", "source.ip: 192.0.2.1")
    packets = ("product: ironpost, service: filter", "tcp.flags: S")
    audit = ("product: linux, service: auditd", "type: EXECVE")
    journal = Supply.configured(["journal"], [])
    assert judged(*ssh, journal)[0]
    assert "add the access log" in judged(*web, journal)[1]
    assert "add /var/log/audit/audit.log" in judged(*audit, journal)[1]
    assert judged(*audit, Supply.configured(["file"], ["/var/log/audit/audit.log"]))[0] == ("auditd",)
    assert "ebpf.enabled" in judged(*packets, journal)[1]
    files = Supply.configured(["file"], ["/var/log/nginx/*access.log", "/var/log/messages"])
    assert judged(*ssh, files)[0]
    assert judged(*web, files)[0]
    assert not judged(*ssh, Supply.configured(["file"], ["/var/log/nginx/access.log"]))[0]
    assert judged(*packets, Supply.configured(["filter"], []))[0] == ("packet filter",)


def test_a_rule_lives_when_one_of_its_alternatives_can_hold() -> None:
    text = TEMPLATE.format(id="r", source="category: webserver", fields="cs-shoe-size: 43").replace(
        "condition: s", "t: {cs-method: GET}, condition: s or t"
    )
    assert RuleSet.from_text(text).unfed == ()
    assert RuleSet.from_text(text.replace("s or t", "s and t")).unfed
    assert RuleSet.from_text(text.replace("s or t", "not s")).unfed == ()


def test_a_correlation_lives_on_its_rules() -> None:
    base = TEMPLATE.format(id="fed", source="product: linux", fields="message: x") + "---\n"
    base += TEMPLATE.format(id="starved", source="product: windows", fields="Image: x") + "---\n"

    def correlation(kind: str, rules: str) -> str:
        return base + (
            f"title: c\nid: c\ncorrelation: {{type: {kind}, rules: [{rules}], timespan: 1m"
            + (", condition: {gte: 2}}" if kind == "event_count" else "}")
        )

    assert "c" not in {rule.rule_id for rule in RuleSet.from_text(correlation("event_count", "fed, starved")).unfed}
    (_, unfed) = RuleSet.from_text(correlation("temporal", "fed, starved")).unfed
    assert unfed.reason.startswith("nothing feeds its rule starved: needs Windows events")
    alive = RuleSet.from_text(correlation("event_count", "fed"))
    assert alive.feeding["c"].fed_by == alive.feeding["fed"].fed_by
