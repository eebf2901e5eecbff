"""Sigma rules mean what the specification says: one event, one answer."""

import base64
from typing import Any

import pytest

from ironpost.detections import RuleSet


def holds(detection: str, event: dict[str, Any], **options: Any) -> bool:
    rules = RuleSet.from_text(rule(detection), **options)
    assert rules.refused == ()
    return [found.rule_id for found in rules.detect([event])] == ["r"]


def rule(detection: str, head: str = "title: t\nid: r\nlogsource: {product: test}\n") -> str:
    return head + "detection:\n" + "\n".join("  " + line for line in detection.splitlines()) + "\n"


def selection(body: str) -> str:
    return f"s:\n  {body}\ncondition: s"


def reason(detection: str, **options: Any) -> str:
    rules = RuleSet.from_text(rule(detection), path="r.yml", **options)
    assert rules.rules == ()
    (refused,) = rules.refused
    return f"{refused.line} {refused.reason}"


@pytest.mark.parametrize(
    ("body", "event", "expected"),
    [
        ("a: Value", {"a": "vALUE"}, True),
        ("a: value", {"a": "a value"}, False),
        ("a: value", {}, False),
        ("a: 4625", {"a": "4625"}, True),
        ("a: '4625'", {"a": 4625}, True),
        ("a: true", {"a": True}, True),
        ("a: on", {"a": "ON"}, True),
        ("a: [x, y]", {"a": "y"}, True),
        ("a: x", {"a": ["z", "x"]}, True),
        ("a.b.c: x", {"a": {"b": [{"c": "y"}, {"c": "x"}]}}, True),
        ("a.b: x", {"a.b": "x"}, True),
        # wildcards and escapes
        ("a: 'v*e'", {"a": "v\nalu\ne"}, True),
        ("a: 'v?lue'", {"a": "välue"}, True),
        ("a: 'v?lue'", {"a": "vlue"}, False),
        (r"a: 'v\*e'", {"a": "v*e"}, True),
        (r"a: 'v\*e'", {"a": "value"}, False),
        (r"a: 'c:\dir'", {"a": "C:\\DIR"}, True),
        (r"a: 'c:\\dir'", {"a": "c:\\dir"}, True),
        (r"a: 'c:\\\dir'", {"a": "c:\\\\dir"}, True),
        (r"a: 'c:\\\\dir'", {"a": "c:\\\\dir"}, True),
        (r"a: 'c:\\*'", {"a": "c:\\anything"}, True),
        (r"a: 'c:\\\*'", {"a": "c:\\*"}, True),
        (r"a: 'c:\\\*'", {"a": "c:\\x"}, False),
        (r"a|startswith: 'c:\'", {"a": "c:\\x"}, True),
        (r"a|contains: '\'", {"a": "a\\b"}, True),
        # generic modifiers
        ("a|contains: val", {"a": "a VALUE"}, True),
        ("a|contains: 'v*e'", {"a": "xxvalueyy"}, True),
        ("a|startswith: val", {"a": "Value"}, True),
        ("a|startswith: alue", {"a": "Value"}, False),
        ("a|endswith: lue", {"a": "Value"}, True),
        ("a|contains|all: [x, y]", {"a": "yx"}, True),
        ("a|contains|all: [x, y]", {"a": "x"}, False),
        ("a|contains|cased: Val", {"a": "value"}, False),
        ("a|cased: Val", {"a": "Val"}, True),
        ("a|neq: x", {"a": "y"}, True),
        ("a|neq: x", {"a": "X"}, False),
        ("a|exists: true", {"a": None}, True),
        ("a|exists: true", {}, False),
        ("a|exists: false", {}, True),
        ("a: null", {}, True),
        ("a: null", {"a": None}, True),
        ("a: null", {"a": ""}, False),
        ("a: ''", {"a": ""}, True),
        ("a: ''", {}, False),
        # regular expressions
        ("a|re: 'v.lue$'", {"a": "a value"}, True),
        ("a|re: 'V.lue'", {"a": "value"}, False),
        ("a|re: 'lue$'", {"a": "value\n"}, True),
        ("a|re: 'lue$'", {"a": "value\n\n"}, False),
        ("a|re: 'lue$'", {"a": "value\nx"}, False),
        ("a|re|m: 'lue$'", {"a": "value\nx"}, True),
        ("a|re: 'lue[$]'", {"a": "value\n"}, False),
        (r"a|re: 'lue\$'", {"a": "value$"}, True),
        ("a|re|i: 'V.lue'", {"a": "value"}, True),
        ("a|re: 'a.b'", {"a": "a\nb"}, False),
        ("a|re|s: 'a.b'", {"a": "a\nb"}, True),
        ("a|re|m: '^b$'", {"a": "a\nb\nc"}, True),
        ("a|re|multiline|ignorecase: '^B$'", {"a": "a\nb\nc"}, True),
        # numbers, networks, time
        ("a|gt: 5", {"a": 6}, True),
        ("a|gt: 5", {"a": "5"}, False),
        ("a|gte: 5", {"a": "5.0"}, True),
        ("a|lt: 5.5", {"a": 5}, True),
        ("a|lte: 5", {"a": "text"}, False),
        ("a|cidr: 192.0.2.0/24", {"a": "192.0.2.255"}, True),
        ("a|cidr: 192.0.2.0/24", {"a": "192.0.3.1"}, False),
        ("a|cidr: '2001:db8::/32'", {"a": "2001:DB8:ffff::1"}, True),
        ("a|cidr: [10.0.0.0/8, 192.168.0.0/16]", {"a": "192.168.1.1"}, True),
        ("a|hour: 13", {"a": "2021-02-22T13:20:00Z"}, True),
        ("a|hour|gte: 14", {"a": "2021-02-22T13:20:00Z"}, False),
        ("a|week: 8", {"a": "2021-02-22T13:20:00Z"}, True),
        # encodings
        ("a|base64: foobar", {"a": "Zm9vYmFy"}, True),
        ("a|base64|contains: foobar", {"a": "xxZm9vYmFyxx"}, True),
        ("a|wide|base64offset|contains: ping", {"a": base64.b64encode("a ping b".encode("utf-16-le")).decode()}, True),
        ("a|utf16be|base64offset|contains: ping", {"a": base64.b64encode("ping".encode("utf-16-be")).decode()}, True),
        (
            "a|utf16|base64|contains: ping",
            {"a": base64.b64encode(b"\xff\xfe" + "ping".encode("utf-16-le")).decode()},
            True,
        ),
        ("a|windash|contains: ' -enc '", {"a": "x /enc y"}, True),
        ("a|windash|contains: ' -enc '", {"a": "x \u2013enc y"}, True),
        ("a|contains|windash: ' -a -b'", {"a": "x -a /b"}, True),
        ("a|windash|contains: 'a-b'", {"a": "a/b"}, False),
        # references
        ("a|fieldref: b", {"a": "X", "b": "x"}, True),
        ("a|fieldref: b", {"a": "x"}, False),
        ("a|fieldref|neq: b", {"a": "x", "b": "y"}, True),
        ("a|fieldref|startswith: b", {"a": "xyz", "b": "XY"}, True),
        ("a|fieldref|endswith: b", {"a": "xyz", "b": "YZ"}, True),
        # keywords
        ("'|all': [one, two]", {"x": "has one", "y": ["and TWO"]}, True),
        ("'|all': [one, two]", {"x": "has one"}, False),
    ],
)
def test_one_selection(body: str, event: dict[str, Any], expected: bool) -> None:
    assert holds(selection(body), event) is expected


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_base64offset_finds_the_value_wherever_it_starts(offset: int) -> None:
    encoded = base64.b64encode(b"x" * offset + b"http://evil" + b"yyyy").decode()
    assert holds(selection("a|base64offset|contains: http://evil"), {"a": encoded})


def test_keywords_are_searched_in_every_value_and_not_in_names() -> None:
    detection = "k: [needle, 'w*d']\ncondition: k"
    assert holds(detection, {"deep": {"er": ["hay NEEDLE"]}})
    assert holds(detection, {"a": "a wild one"})
    assert not holds(detection, {"needle": "x"})


def test_a_list_of_maps_is_any_of_them_and_a_map_all_of_its_fields() -> None:
    detection = "s:\n  - {a: 1, b: 2}\n  - {c: 3}\ncondition: s"
    assert holds(detection, {"a": 1, "b": 2})
    assert holds(detection, {"c": 3})
    assert not holds(detection, {"a": 1, "b": 3})


@pytest.mark.parametrize(
    ("condition", "true_for"),
    [
        ("a and b or c", {"ab", "c", "ac", "bc", "abc"}),
        ("a and (b or c)", {"ab", "ac", "abc"}),
        ("not a and b", {"b", "bc"}),
        ("not (a or b)", {"", "c"}),
        ("a or not b and c", {"a", "ab", "ac", "abc", "c"}),
        ("1 of them", {"a", "b", "c", "ab", "ac", "bc", "abc"}),
        ("all of them", {"abc"}),
        ("not 1 of them", {""}),
        ("NOT all of them AND a", {"a", "ab", "ac"}),
        ("1 of *b*", {"b", "ab", "bc", "abc"}),
        ("any of them and not c", {"a", "b", "ab"}),
        ("1 of a*", {"a", "ab", "ac", "abc"}),
        ("all of * and a", {"abc"}),
        ("[a, b and c]", {"a", "ab", "ac", "abc", "bc"}),
    ],
)
def test_conditions(condition: str, true_for: set[str]) -> None:
    detection = f"a: {{a: x}}\nb: {{b: x}}\nc: {{c: x}}\n_d: {{zz: x}}\ncondition: {condition}"
    rules = RuleSet.from_text(rule(detection))
    for names in ("", "a", "b", "c", "ab", "ac", "bc", "abc"):
        found = list(rules.detect([dict.fromkeys(names, "x")]))
        assert bool(found) is (names in true_for), (condition, names)


@pytest.mark.parametrize(
    ("detection", "expected"),
    [
        ("s: {a: x}\ncondition: s and nope", "6 condition: condition names 'nope'"),
        ("s: {a: x}\ncondition: s and", "6 condition: condition ends too early"),
        ("s: {a: x}\ncondition: (s", "6 condition: condition"),
        ("s: {a: x}\ncondition: s | count() > 5", "6 condition: aggregations"),
        ("s: {a: x}\ncondition: 1 of z*", "6 condition: condition: '1 of z*' fits no detection"),
        ("s: {a: x}\ncondition: s s", "6 condition: condition: unexpected 's'"),
        ("s: {a: x}", "5 condition: detection has no condition"),
        ("condition: s", "5 detection: detection has no selection"),
        ("s: {}\ncondition: s", "5 s: a selection can't be empty"),
        ("s: {a: []}\ncondition: s", "5 a: a list of values can't be empty"),
        ("s: {a|nope: x}\ncondition: s", "5 a|nope: unknown modifier 'nope'"),
        ("s: {a|re|contains: x}\ncondition: s", "5 a|re|contains: modifier 'contains' can't"),
        ("s: {a|re: 'a(?=b)'}\ncondition: s", "5 a|re: regular expression: look-around"),
        ("s: {a|re: '(a)\\1'}\ncondition: s", "5 a|re: regular expression: backreferences"),
        ("s: {a|re: '(a'}\ncondition: s", "5 a|re: regular expression: unclosed group"),
        (f"s: {{a|re: '{'a' * 1001}'}}\ncondition: s", "5 a|re: regular expression has 1001 characters"),
        ("s: {a|cidr: 10.0.0.0/99}\ncondition: s", "5 a|cidr: cidr"),
        ("s: {a|gt: text}\ncondition: s", "5 a|gt: 'gt' takes a number"),
        ("s: {a|exists: maybe}\ncondition: s", "5 a|exists: 'exists' takes true or false"),
        ("s: {a|expand: '%who%'}\ncondition: s", "5 a|expand: placeholder %who% has no values"),
        ("s: {a|i: x}\ncondition: s", "5 a|i: modifier 'i' only follows 're'"),
        ("s: {a|base64: 'x*'}\ncondition: s", "5 a|base64: modifier 'base64' takes no wildcards"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(detection: str, expected: str) -> None:
    assert reason(detection).startswith(expected)


def test_a_regular_expression_that_explodes_when_compiled_is_refused() -> None:
    assert "too large" in reason(selection("a|re: '((\\w{1,900}){1,900}){1,900}'"))


def test_placeholders_take_the_given_values() -> None:
    body = selection("a|expand: 'x-%who%'")
    assert holds(body, {"a": "X-bob"}, placeholders={"who": ["alice", "bob"]})
    assert not holds(body, {"a": "x-%who%"}, placeholders={"who": ["alice"]})


def test_unknown_keys_are_refused_with_the_nearest_known_one() -> None:
    text = rule("s: {a: x}\ncondition: s") + "falsepositive: none\n"
    (refused,) = RuleSet.from_text(text).refused
    assert (refused.line, refused.hint) == (7, "did you mean 'falsepositives'?")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("id: r\nlogsource: {product: test}\n", "title is missing"),
        ("title: t\nid: r\n", "logsource is missing"),
        ("title: t\nid: r\nlogsource: {}\n", "names no product"),
        ("title: t\nid: r\nlogsource: {produkt: test}\n", "unknown key 'produkt'"),
        ("title: t\nid: r\nlevel: extreme\nlogsource: {product: test}\n", "level 'extreme'"),
        ("title: t\nid: r\ntaxonomy: acme\nlogsource: {product: test}\n", "taxonomy 'acme'"),
    ],
)
def test_incomplete_rules_are_refused(head: str, expected: str) -> None:
    (refused,) = RuleSet.from_text(rule("s: {a: x}\ncondition: s", head)).refused
    assert expected in refused.reason


def test_one_bad_rule_stops_no_other_and_duplicate_ids_name_both_places() -> None:
    good = rule("s: {a: x}\ncondition: s")
    text = good + "---\n" + good.replace("id: r", "id: q") + "---\n" + good + "---\na: [\n"
    rules = RuleSet.from_text(text, path="many.yml")
    assert [found.id for found in rules.rules] == ["r", "q"]
    assert [(refused.line, refused.reason) for refused in rules.refused] == [
        (15, "id: id 'r' is already used at many.yml:1"),
        (23, rules.refused[1].reason),
    ]


def test_a_detection_explains_itself() -> None:
    text = (
        rule("s: {a|contains: [x, y], b: 1}\nf: {c: 2}\ncondition: s and not f") + "level: HIGH\ntags: [attack.t1059]\n"
    )
    (found,) = RuleSet.from_text(text).detect([{"a": "xy", "b": 1, "c": 3, "@timestamp": "2026-01-02T03:04:05Z"}])
    assert [(one.selection, one.field, one.value, one.op, one.pattern) for one in found.matched] == [
        ("s", "a", "xy", "contains", "x"),
        ("s", "a", "xy", "contains", "y"),
        ("s", "b", "1", "equals", "1"),
    ]
    assert (str(found.level), found.kind, found.event_index, found.tags) == ("high", "rule", 0, ("attack.t1059",))
    assert found.timestamp == 1767323045_000_000_000


def test_a_rule_sees_only_events_of_its_log_source_once_that_is_known() -> None:
    rules = RuleSet.from_text(rule("s: {a: x}\ncondition: s"))
    assert list(rules.detect([{"a": "x"}], logsource={"product": "test"}))
    assert not list(rules.detect([{"a": "x"}], logsource={"product": "other"}))
    with pytest.raises(ValueError, match="prodct"):
        list(rules.detect([], logsource={"prodct": "x"}))


def test_web_rules_read_ecs_and_their_own_names_alike() -> None:
    head = "title: t\nid: r\nlogsource: {category: webserver}\n"
    rules = RuleSet.from_text(rule("s: {cs-uri-query|contains: etc/passwd, sc-status: 200}\ncondition: s", head))
    assert list(rules.detect([{"ironpost.url.decoded": "/?f=/etc/passwd", "http.response.status_code": 200}]))
    assert list(rules.detect([{"cs-uri-query": "f=/etc/passwd", "sc-status": 200}]))
    assert not list(rules.detect([{"cs-uri-query": "f=/etc/passwd", "sc-status": 404}]))


def test_a_filter_takes_matches_away_from_the_rules_it_names() -> None:
    text = rule("s: {a: x}\ncondition: s") + (
        "---\ntitle: f\nid: f\nlogsource: {product: test}\n"
        "filter:\n  rules: [r]\n  s: {user: admin}\n  condition: not s\n"
    )
    rules = RuleSet.from_text(text)
    assert rules.refused == ()
    assert not list(rules.detect([{"a": "x", "user": "admin"}]))
    assert list(rules.detect([{"a": "x", "user": "eve"}]))


def test_a_filter_of_unknown_rules_is_listed() -> None:
    text = "title: f\nid: f\nlogsource: {product: test}\nfilter:\n  rules: [zz]\n  s: {u: a}\n  condition: not s\n"
    assert "fits no rule; it names zz" in RuleSet.from_text(text).refused[0].reason


def test_rules_that_nothing_here_can_feed_are_loaded_and_listed_with_the_reason() -> None:
    text = "---\n".join(
        rule(body, f"title: t\nid: {name}\nlogsource: {source}\n")
        for name, source, body in (
            ("windows", "{product: windows}", "s: {Image: x}\ncondition: s"),
            ("image", "{product: linux}", "s: {Image: x}\ncondition: s"),
            ("fed", "{product: linux}", "s: {message: x}\ncondition: s"),
            ("half", "{product: linux}", "s: {message: x}\nt: {Image: x}\ncondition: s or t"),
        )
    )
    rules = RuleSet.from_text(text)
    assert {unfed.rule_id: unfed.reason.partition(":")[0] for unfed in rules.unfed} == {
        "windows": "needs Windows events",
        "image": "needs Sysmon for Linux or an ECS endpoint agent",
    }
    assert len(rules.rules) == 4


def test_a_filter_with_too_many_copies_is_refused_and_the_rules_stay() -> None:
    rules = "\n---\n".join(
        f"{{title: r{number}, id: r{number}, logsource: {{product: test}}, "
        f"detection: {{s: {{a: x{number}}}, condition: s}}}}"
        for number in range(300)
    )
    hosts = ", ".join(f"a-host-with-a-long-name-{number}.example.org" for number in range(1000))
    added = (
        "{title: f, id: f, logsource: {product: test}, filter: {rules: any, "
        f"sel: {{host: [{hosts}]}}, condition: not sel}}}}"
    )
    found = RuleSet.from_text(rules + "\n---\n" + added)
    assert len(found.rules) == 300
    assert [(refused.rule_id, "filters take more than 16 MiB" in refused.reason) for refused in found.refused] == [
        ("f", True)
    ]
    assert [one.rule_id for one in found.detect([{"a": "x7", "host": "a-host-with-a-long-name-1.example.org"}])] == [
        "r7"
    ]
