r"""What a rule means, case by case: detection, events that match, events that don't, and who says so.

Sources: ``rules``, ``modifiers`` and ``filters`` are chapters of the Sigma specification 2.1.0; ``pySigma`` is the
reference converter 2.0.1, where the specification leaves a question open or contradicts it; ``ours`` is a decision of
this engine, named as such in docs/reference/rules.md.
"""

# ruff: noqa: E501 - the tables have a case a line

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

import pytest

from ironpost.detections import RuleSet
from ironpost.detections.field_maps import FieldMap

HEAD = "title: t\nid: r\nlogsource: {product: test}\ndetection:\n"


@dataclass(frozen=True)
class Case:
    """One detection; ``s: {…}`` stands for a selection and its condition."""

    detection: str
    source: str
    hits: list[Any] = field(default_factory=list)
    misses: list[Any] = field(default_factory=list)

    @property
    def rule(self) -> str:
        body = self.detection if "condition:" in self.detection else f"s:\n  {self.detection}\ncondition: s"
        return HEAD + "".join(f"  {line}\n" for line in body.splitlines())


def b64(text: str | bytes, encoding: str = "utf-8") -> str:
    return base64.b64encode(text.encode(encoding) if isinstance(text, str) else text).decode()


def a(*values: Any) -> list[dict[str, Any]]:
    """Events whose only field is ``a``."""
    return [{"a": value} for value in values]


def wide(text: str) -> str:
    """Text as two-byte characters would be shown."""
    return "".join(character + "\0" for character in text)


# fmt: off
TEXT = [
    Case("a: Value", "rules: values are case-insensitive", a("Value", "vALUE", "VALUE"), a("value ", " value", "a value", "valu", "")),
    Case("a: ÄÖÜ", "ours: case folding is Unicode's, one character for one", a("äöü", "ÄÖÜ"), a("aou")),
    Case("a: straße", "ours: case folding never changes the number of characters", a("STRAßE"), a("STRASSE")),
    Case("a: 'x'", "rules: a value is the whole field", a("x", ["y", "x"]), a("xx", ["y"], [])),
    Case("a: 'v*e'", "rules: * is a run of any length", a("ve", "value", "v e"), a("values", "avalue")),
    Case("a: 'v*e'", "ours: * also crosses line breaks", a("v\nalu\r\ne")),
    Case("a: 'v?lue'", "rules: ? is a single mandatory character", a("value", "v\nlue", "välue"), a("vlue", "vaalue")),
    Case("a: '??'", "rules: ? is a single mandatory character", a("ab", "éè", "日本"), a("a", "abc", "")),
    Case("a: '*'", "rules: * is a run of any length, also none", a("", "x", 0, False), [{}, {"a": None}]),
    Case("a: '?*'", "rules: wildcards combine", a("x", "xy"), a("")),
    Case("a: '*a*b*'", "rules: wildcards combine", a("ab", "xaxbx"), a("ba", "a")),
    Case("a: 'a*a'", "rules: a run does not overlap its ends", a("aa", "aba"), a("a")),
    Case("a: prog?.exe", "rules: the specification's own example", a("progA.exe", "progB.exe"), a("prog.exe", "progAB.exe")),
    Case("a: antivirus_V*.exe", "rules: the specification's own example", a("antivirus_V1.exe", "antivirus_V21.2.1.exe"), a("antivirus.exe")),
    Case("a: 'a.c'", "rules: values are no regular expressions", a("a.c"), a("abc")),
    Case("a: '[ab]'", "rules: values are no regular expressions", a("[ab]"), a("a", "b")),
    Case("a: '%n%'", "rules: without expand a placeholder is plain text", a("%n%"), a("n")),
]
ESCAPES = [
    Case(r"a: 'c:\dir'", "rules: a plain backslash may be single", a("c:\\dir"), a("c:dir", "c:\\\\dir")),
    Case(r"a: 'c:\\dir'", "rules: or double", a("c:\\dir"), a("c:\\\\dir")),
    Case(r"a: 'v\*e'", "rules: a wildcard is escaped to be plain", a("v*e"), a("value", "v\\*e")),
    Case(r"a: 'v\?e'", "rules: a wildcard is escaped to be plain", a("v?e"), a("vae")),
    Case(r"a: 'c:\\*'", "rules: backslash, then wildcard", a("c:\\", "c:\\x"), a("c:", "c:*")),
    Case(r"a: 'c:\\?'", "rules: backslash, then wildcard", a("c:\\x"), a("c:\\", "c:\\?x")),
    Case(r"a: 'c:\\\*'", "rules: three escape both", a("c:\\*"), a("c:\\x", "c:\\\\*")),
    Case(r"a: 'c:\\\?'", "rules: three escape both", a("c:\\?"), a("c:\\x")),
    Case(r"a: 'c:\\\dir'", "rules: three backslashes are two", a("c:\\\\dir"), a("c:\\dir", "c:\\\\\\dir")),
    Case(r"a: 'c:\\\\dir'", "rules: four backslashes are two", a("c:\\\\dir"), a("c:\\dir")),
    Case(r"a: '\\\\*'", "rules: four backslashes, then a wildcard", a("\\\\", "\\\\host"), a("\\x")),
    Case(r"a: 'x\'", "pySigma: a last backslash is plain", a("x\\"), a("x")),
    Case(r"a|startswith: 'c:\'", "ours: a last backslash does not escape the wildcard that a modifier adds", a("c:\\x", "c:\\"), a("c:*", "c:")),
    Case(r"a|contains: '\'", "ours: a last backslash does not escape the wildcard that a modifier adds", a("a\\b", "\\"), a("a*b", "a")),
    Case(r"a|endswith: '\x'", "rules: a plain backslash may be single", a("c:\\X", "\\x"), a("x", "c:x")),
    Case(r"a|contains: '\*'", "rules: a wildcard is escaped to be plain", a("a*b"), a("ab", "\\")),
    Case(r"a|endswith: '\\*'", "rules: backslash, then wildcard", a("x\\", "x\\y"), a("x")),
    Case(r"a: '\n'", "rules: a backslash before anything else is plain", a("\\n"), a("\n")),
]
GENERIC = [
    Case("a|contains: val", "modifiers: contains", a("val", "a VALUE", "xval"), a("va l", "")),
    Case("a|contains: 'v*e'", "modifiers: contains keeps wildcards within", a("a value b"), a("a v b")),
    Case("a|contains: '*val*'", "pySigma: no wildcard is added where one stands", a("a value"), a("va")),
    Case("a|contains: ''", "ours: every text contains the empty one", a("", "x", 5), [{}, {"a": None}]),
    Case("a|startswith: val", "modifiers: startswith", a("Value", "val"), a("a value", "va")),
    Case("a|startswith: 'v?l'", "modifiers: startswith keeps wildcards within", a("value"), a("vlue")),
    Case("a|endswith: lue", "modifiers: endswith", a("VALUE", "lue"), a("values", "ue")),
    Case("a|endswith: ['\\\\cmd.exe', '\\\\sh.exe']", "modifiers: lists are OR", a("c:\\cmd.exe", "c:\\SH.EXE"), a("cmd.exe")),
    Case("a|contains: 5", "modifiers: numbers are text to contains (pySigma refuses; lst-09)", a(1520, "a5"), a(12)),
    Case("a|startswith: 15", "modifiers: numbers are text (pySigma refuses; lst-09)", a(1520), a(2015)),
    Case("a|contains|all: [x, y]", "modifiers: all links values with AND", a("yx", "x and y"), a("x", "y", ["x", "z"])),
    Case("a|contains|all: [x, y]", "ours: each value of all may stand in another element of a list", a(["x", "y"])),
    Case("a|all: ['*x*', '*y*']", "modifiers: all with wildcards", a("xy"), a("x")),
    Case("a|contains|all: x", "pySigma: all with a single value changes nothing", a("x"), a("y")),
    Case("a|all|contains: [x, y]", "modifiers: all may stand anywhere", a("xy"), a("x")),
    Case("a|cased: Val", "modifiers: cased", a("Val"), a("val", "VAL")),
    Case("a|contains|cased: Val", "modifiers: cased with contains", a("a Value"), a("a value")),
    Case("a|cased|startswith: Val", "pySigma: cased may come first", a("Value"), a("value")),
    Case("a|endswith|cased: UE", "modifiers: cased with endswith", a("valUE"), a("value")),
    Case("a|cased: 'V*e?'", "modifiers: cased with wildcards", a("Values"), a("values", "ValuEs")),
    Case("a|exists: true", "modifiers: presence, not the value: null and empty count", a("x", "", None, 0, False, {}, [], {"b": 1}, [{}]), [{}, {"b": 1}, {"ab": 1}]),
    Case("a|exists: false", "modifiers: presence, not the value", [{}, {"b": 1}], a("x", "", None, {}, [])),
    Case("a.b|exists: true", "modifiers: presence of a nested field", a({"b": None}, {"b": {}}, [{"c": 1}, {"b": 2}]), a({}, {"c": 1}, "b")),
    Case("a|neq: x", "modifiers: the field is different from the value", [*a("y", "xx", ""), {}], a("x", "X")),
    Case("a|neq: [x, y]", "pySigma: neq negates the whole list", a("z"), a("x", "y")),
    Case("a|contains|neq: x", "pySigma: neq with contains", a("y"), a("axb")),
    Case("a|contains|all|neq: [x, y]", "pySigma: neq negates the AND, too", a("x", "y"), a("xy")),
    Case("a|neq: 5", "modifiers: neq is numeric, too", a(6, "6"), a(5, "5")),
    Case("a|neq: null", "pySigma: neq negates whatever was asked", a("x", ""), [{}, {"a": None}]),
    Case("a|re|neq: '^x'", "pySigma: neq negates whatever was asked", a("ax"), a("xa")),
    Case("a|cidr|neq: 10.0.0.0/8", "pySigma: neq negates whatever was asked", a("11.0.0.1", "x"), a("10.0.0.1")),
]
REGEX = [
    Case("a|re: 'v.lue$'", "modifiers: re is searched anywhere", a("a value", "value"), a("values")),
    Case("a|re: 'V.lue'", "modifiers: re is case-sensitive", a("Value"), a("value", "VALUE")),
    Case("a|re|i: 'V.lue'", "modifiers: i", a("value", "VALUE")),
    Case("a|re|ignorecase: 'V.lue'", "pySigma: ignorecase is i", a("value")),
    Case("a|re: 'a.b'", "modifiers: . is no line break", a("axb"), a("a\nb")),
    Case("a|re|s: 'a.b'", "modifiers: s", a("a\nb")),
    Case("a|re|dotall: 'a.b'", "pySigma: dotall is s", a("a\nb")),
    Case("a|re: '^b$'", "modifiers: anchors are the text's without m", a("b"), a("a\nb\nc")),
    Case("a|re|m: '^b$'", "modifiers: m", a("a\nb\nc"), a("ab")),
    Case("a|re|multiline|ignorecase: '^B$'", "pySigma: flags chain", a("a\nb\nc")),
    Case("a|re|i|m|s: '^B.c$'", "modifiers: flags chain", a("a\nb\nc")),
    Case("a|re: ['^x', 'y$']", "modifiers: lists are OR", a("xa", "ay"), a("ax")),
    Case("a|re|all: ['x', 'y']", "modifiers: all with re", a("yx"), a("x")),
    Case("a|re: '^$'", "modifiers: an empty value is a text", a(""), [{}, {"a": None}, {"a": "x"}]),
    Case("a|re: '(a|b){2,3}'", "modifiers: groups, alternation, quantifiers", a("xabx"), a("axb")),
    Case("a|re: '[^a-c]'", "modifiers: character classes", a("abd"), a("abc")),
    Case("a|re: '5\\d'", "modifiers: numbers are text to re", a(51, "x52"), a(15)),
    Case(r"a|re: '\<b\>'", "modifiers: PCRE's \\< is a plain character", a("x<b>y"), a("x b y", "b")),
    Case("a|re: 'x{'", "modifiers: PCRE's brace that begins no quantifier is plain", a("x{1"), a("x")),
    Case("a|re: '{a}'", "modifiers: PCRE's brace that begins no quantifier is plain", a("{a}"), a("a")),
    Case("a|re: '[[]x[&&]'", "modifiers: PCRE's classes have no set operations", a("[x&"), a("x")),
    Case("a|re: '[[:digit:]]+x'", "modifiers: PCRE's named classes", a("12x"), a("x")),
    Case("a|re: '[]x]{2}'", "modifiers: PCRE's ] first in a class is plain", a("]x"), a("]")),
]
ENCODED = [
    Case("a|base64: foobar", "modifiers: base64", a("Zm9vYmFy"), a("foobar", "xZm9vYmFy")),
    Case("a|base64|contains: foobar", "modifiers: base64, then contains", a("xxZm9vYmFyxx")),
    Case("a|base64: 'ä'", "pySigma: text is UTF-8 before base64", a(b64("ä")), a(b64("ä", "latin-1"))),
    Case(r"a|base64: 'a\*b'", "ours: an escaped wildcard is a plain character before base64", a(b64("a*b")), a(b64("a\\*b"))),
    Case("a|base64|cased: foobar", "ours: base64 in its case", a("Zm9vYmFy"), a("zM9VyMfY")),
    Case("a|base64offset|contains: foobar", "modifiers: base64offset, three shifts", a(*(b64("x" * n + "foobar" + "y" * m) for n in range(3) for m in range(3))), a(b64("fooba"))),
    Case("a|base64offset|contains: [foobar, bazqux]", "modifiers: base64offset, list", a(b64("1bazqux1")), a(b64("1quxbaz1"))),
    Case("a|wide|base64offset|contains: ping", "modifiers: wide in a chain", a(b64("a ping b", "utf-16-le")), a(b64("a ping b"))),
    Case("a|utf16le|base64offset|contains: ping", "modifiers: utf16le is wide", a(b64("a ping b", "utf-16-le"))),
    Case("a|utf16be|base64offset|contains: ping", "modifiers: utf16be", a(b64("ping", "utf-16-be")), a(b64("ping", "utf-16-le"))),
    Case("a|utf16|base64|contains: ping", "modifiers: utf16 has a byte order mark", a(b64(b"\xff\xfe" + "ping".encode("utf-16-le"))), a(b64("ping", "utf-16-le"))),
    Case("a|wide|base64: 'ä'", "modifiers: wide of other than ASCII, before base64", a(b64("ä", "utf-16-le"))),
    Case("a|wide|contains: cmd", "modifiers: wide, `cmd` is 63 00 6d 00 64 00", a(wide("a CMD")), a("cmd")),
    Case("a|utf16be|contains: cmd", "modifiers: utf16be, `cmd` is 00 63 00 6d 00 64", a("\0c\0m\0d"), a("cmd")),
    Case("a|utf16: cmd", "pySigma: in a text the byte order mark is U+FEFF", a("\ufeff" + wide("cmd")), a(wide("cmd"))),
    Case("a|utf16: 'c*d'", "pySigma: the byte order mark stands once, in front", a("\ufeff" + wide("cmd")), a(wide("cmd"))),
    Case("a|wide: 'c*'", "pySigma: wildcards stay wildcards in wide", a(wide("cmd")), a("cmd")),
    Case("a|contains|wide: cmd", "pySigma: wide may follow contains", a(wide("a cmd b"))),
    Case("a|base64|base64: foo", "modifiers: transformations chain in their order", a(b64(b64("foo"))), a(b64("foo"))),
    Case("a|base64: 5", "ours: a number is its text before base64", a(b64("5"))),
]
WINDASH = [
    Case("a|windash: '-x'", "modifiers: windash", a("-x", "/x", "\u2013x", "\u2014x", "\u2015x"), a("x", "--x", "+x")),
    Case("a|windash: '/x'", "modifiers: windash, the other way round", a("-x", "/x", "\u2013x")),
    Case("a|windash: '\u2013x'", "modifiers: all five are interchangeable (pySigma: only - and /)", a("-x", "/x", "\u2015x")),
    Case("a|windash|contains: ' -a -b'", "modifiers: each position on its own", a("x -a -b", "x /a -b", "x -a /b", "x /a \u2014b"), a("x -a b")),
    Case("a|contains|windash: ' -a -b'", "pySigma: windash may follow contains", a("x -a /b")),
    Case("a|windash: 'a-b'", "pySigma: only before a word, not within", a("a-b"), a("a/b")),
    Case("a|windash: '-param-name'", "pySigma: the second dash stays", a("/param-name", "\u2013param-name"), a("/param/name")),
    Case("a|windash|contains|all: [' -a', ' -b']", "pySigma: spellings are OR within each value of all", a("x /b -a"), a("x /b")),
    Case("a|windash|contains: '-*x'", "pySigma: only before a word", a("-1x"), a("/1x")),
    Case("a|windash|startswith|cased: '-X'", "modifiers: windash with cased", a("/Xy"), a("/xy")),
]
NUMBERS = [
    Case("a: 4625", "rules: numbers compare by text", a(4625, "4625"), a(46250, 4625.0, "4625 ")),
    Case("a: '4625'", "rules: numbers compare by text", a(4625, "4625")),
    Case("a: -5", "rules: numbers compare by text", a(-5, "-5"), a(5)),
    Case("a: 1.10", "ours: numbers keep the form in which they were written", a("1.10"), a(1.1)),
    Case("a: 0x1F", "ours: only decimal integers are numbers", a("0x1f"), a(31)),
    Case("a: 007", "ours: leading zeros stay", a("007"), a(7)),
    Case("a: true", "rules: booleans compare by text", a(True, "true", "TRUE"), a(1, False)),
    Case("a: yes", "ours: only true and false are booleans", a("YES"), a(True)),
    Case("a: 2021-02-03", "ours: dates stay text", a("2021-02-03")),
    Case("a|gt: 5", "modifiers: gt", a(6, 5.5, "6", " 6 "), a(5, "5", 4, "x", "", None, "six")),
    Case("a|gte: 5", "modifiers: gte", a(5, 5.0, "5", "5.0", 6), a(4.999)),
    Case("a|lt: 5", "modifiers: lt", a(4, -1, "4", "4.9"), a(5, "x", "")),
    Case("a|lte: 5", "modifiers: lte", a(5, "5.0"), a(6)),
    Case("a|gt: '5'", "ours: numeric text is a number to gt (pySigma refuses)", a(6), a(5)),
    Case("a|gt: -1.5e1", "ours: numbers as JSON writes them", a(-14, -14.9), a(-16, -15)),
    Case("a|gt: 9007199254740992", "ours: integers compare exactly", a(9007199254740993, "9007199254740993"), a(9007199254740992)),
    Case("a|lt: 18446744073709551616", "ours: integers compare exactly, of any size", a(18446744073709551615), a(18446744073709551616)),
    Case("a|gt: [10, 5]", "modifiers: lists are OR", a(6), a(5)),
    Case("{a|gte: 5, a|lt: 10}", "modifiers: a range is two keys", a(5, 9), a(4, 10)),
    Case("a|gt: 5", "ours: 'inf', 'nan' and hexadecimal are no numbers", [], a("inf", "nan", "0x10", True)),
]
NETWORKS = [
    Case("a|cidr: 192.0.2.0/24", "modifiers: cidr", a("192.0.2.0", "192.0.2.255"), a("192.0.3.0", "x", "", 5, "192.0.2.0/24")),
    Case("a|cidr: 10.0.0.0/8", "modifiers: cidr", a("10.255.0.1"), a("11.0.0.0", "110.0.0.1")),
    Case("a|cidr: '2001:db8::/32'", "modifiers: cidr, version 6", a("2001:DB8:ffff::1", "2001:0db8::"), a("2001:db9::1", "32.1.13.184")),
    Case("a|cidr: '::1/128'", "modifiers: cidr, version 6", a("::1", "0:0:0:0:0:0:0:1"), a("::2")),
    Case("a|cidr: 192.0.2.7", "pySigma: an address is a network of one", a("192.0.2.7"), a("192.0.2.8")),
    Case("a|cidr: 192.0.2.7/24", "ours: host bits are left out (pySigma refuses)", a("192.0.2.200"), a("192.0.3.7")),
    Case("a|cidr: 192.0.2.0/24", "ours: an IPv4 address written as IPv6 is that address", a("::ffff:192.0.2.1"), a("::ffff:192.0.3.1")),
    Case("a|cidr: 0.0.0.0/0", "modifiers: cidr", a("8.8.8.8"), a("", "::", "2001:db8::1")),
    Case("a|cidr: [10.0.0.0/8, 192.168.0.0/16]", "modifiers: lists are OR", a("192.168.1.1", ["1.1.1.1", "10.1.1.1"]), a("172.16.0.1")),
]
TIMES = [
    Case("a|minute: 20", "modifiers: minute", a("2021-02-22T13:20:59Z", "2021-02-22 13:20:00"), a("2021-02-22T13:21:00Z", "x", "")),
    Case("a|hour: 13", "modifiers: hour; not designed for time zones", a("2021-02-22T13:20:00Z", "2021-02-22T13:20:00+05:00"), a("2021-02-22T14:20:00Z")),
    Case("a|day: 22", "modifiers: day", a("2021-02-22T13:20:00Z", "2021-02-22"), a("2021-02-21T22:22:22Z")),
    Case("a|week: 8", "modifiers: week (ISO 8601)", a("2021-02-22", "2021-02-28T23:59:59Z"), a("2021-03-01")),
    Case("a|week: 53", "ours: ISO 8601 has years of 53 weeks", a("2021-01-03"), a("2021-01-04")),
    Case("a|month: 2", "modifiers: month", a("2021-02-22T13:20:00Z"), a("2021-03-22")),
    Case("a|year: 2021", "modifiers: year", a("2021-02-22T13:20:00Z"), a("2020-02-22")),
    Case("a|hour|gte: 14", "ours: parts compare with lt, lte, gt and gte", a("2021-02-22T14:00:00Z", "2021-02-22T23:00:00Z"), a("2021-02-22T13:59:00Z")),
    Case("a|hour: [1, 13]", "modifiers: lists are OR", a("2021-02-22T01:20:00Z"), a("2021-02-22T02:20:00Z")),
    Case("a|hour: 13", "ours: numbers are seconds since 1970, UTC", a(1614000000, "1614000000.5")),
]
REFERENCES = [
    Case("a|fieldref: b", "modifiers: fieldref", [{"a": "X", "b": "x"}, {"a": 5, "b": "5"}], [{"a": "x", "b": "y"}, {"a": "x"}, {"b": "x"}, {"a": None, "b": None}]),
    Case("a|fieldref: [b, c]", "modifiers: lists are OR", [{"a": "x", "c": "x"}], [{"a": "x", "b": "y"}]),
    Case("a|fieldref|neq: b", "modifiers: fieldref with neq", [{"a": "x", "b": "y"}, {"a": "x"}], [{"a": "x", "b": "X"}]),
    Case("a|fieldref|startswith: b", "pySigma: fieldref with startswith", [{"a": "xyz", "b": "XY"}], [{"a": "xyz", "b": "yz"}]),
    Case("a|fieldref|endswith: b", "pySigma: fieldref with endswith", [{"a": "xyz", "b": "YZ"}], [{"a": "xyz", "b": "xy"}]),
    Case("a|fieldref|contains: b", "pySigma: fieldref with contains", [{"a": "xyz", "b": "Y"}], [{"a": "xyz", "b": "q"}]),
    Case("a|fieldref|contains|neq: b", "pySigma: both", [{"a": "xyz", "b": "q"}], [{"a": "xyz", "b": "y"}]),
    Case("a|fieldref|cased: b", "ours: fieldref with cased", [{"a": "x", "b": "x"}], [{"a": "x", "b": "X"}]),
    Case("a|fieldref: b.c", "modifiers: fieldref to a nested field", [{"a": "x", "b": {"c": "x"}}], [{"a": "x", "b": {"d": "x"}}]),
    Case("a|fieldref: b", "ours: wildcards in an event are plain", [], [{"a": "xy", "b": "x*"}]),
]
SPECIAL = [
    Case("a: null", "rules: null is its own type", [{}, {"a": None}, {"b": 1}], a("", "null", 0, False, {}, [], {"b": 1})),
    Case("a: ''", "rules: empty is present and empty", a("", ["x", ""]), [{}, *a(None, "x", " ", 0, {}, [])]),
    Case("{a: null, b: x}", "rules: null beside others", [{"b": "x"}, {"a": None, "b": "x"}], [{"a": "y", "b": "x"}]),
    Case("s: {b: x}\nn: {a: null}\ncondition: s and not n", "rules: 'not null' is a selection of its own, negated", [{"b": "x", "a": ""}], [{"b": "x"}]),
    Case("a: ['', x]", "rules: empty may stand in a list", a("", "x"), [{}, {"a": "y"}]),
    Case("a.b: null", "ours: a nested field is null when the path ends", [{}, *a({}, {"c": 1}, {"b": None}, "x")], a({"b": 1}, {"b": {}})),
]
STRUCTURE = [
    Case("{a: 1, b: 2}", "rules: a map is AND", [{"a": 1, "b": 2}], [{"a": 1}, {"b": 2}]),
    Case("s:\n  - {a: 1, b: 2}\n  - {c: 3}\ncondition: s", "rules: a list of maps is OR", [{"a": 1, "b": 2}, {"c": 3}], [{"a": 1, "b": 3}]),
    Case("s:\n  - {a: 1}\n  - word\ncondition: s", "pySigma: maps and keywords may share a list", [{"a": 1}, {"z": "a word"}], [{"a": 2}]),
    Case("s:\n  - [x, y]\n  - {a: 1}\ncondition: s", "pySigma: lists nest", [{"z": "y"}, {"a": 1}], [{"a": 2}]),
    Case("a: [x, y]", "rules: a list of values is OR", a("x", "y"), a("z")),
    Case("a.b: x", "ours: a flat name comes as it is", [{"a.b": "x"}], [{"a_b": "x"}]),
    Case("a.b.c: x", "ours: a dotted name is a path", [*a({"b": {"c": "x"}}, {"b.c": "x"}), {"a.b": {"c": "x"}}], a({"c": "x"}, "x")),
    Case("a.b: x", "ours: a path goes through lists of objects", a([{"b": "y"}, {"b": "x"}], {"b": ["y", "x"]}), a([{"b": "y"}], ["x"])),
    Case("A: x", "rules: field names are as the log source writes them", [{"A": "x"}], a("x")),
    Case("SAMUserAccount: x", "rules: blanks are left out of field names", [{"SAM User Account": "x"}, {"SAMUserAccount": "x"}], [{"SAM_User_Account": "x"}]),
    Case("a: x\n  b|contains: [y, z]\n  c|neq: q", "rules: keys of a map are AND", [{"a": "x", "b": "az"}], [{"a": "x", "b": "az", "c": "q"}, {"a": "x"}]),
]
KEYWORDS = [
    Case("k: [needle]\ncondition: k", "rules: keywords are searched in the whole event", [{"x": "hay NEEDLE hay"}, {"x": {"y": ["needle"]}}, {"x": 1, "y": "needles"}], [{"needle": "x"}, {"x": "need le"}, {}]),
    Case("k: needle\ncondition: k", "pySigma: a single keyword needs no list", [{"x": "needle"}], [{"x": "y"}]),
    Case("k: [one, two]\ncondition: k", "rules: keywords are OR", [{"x": "two"}], [{"x": "three"}]),
    Case("k: {'|all': [one, two]}\ncondition: k", "rules: '|all' is AND", [{"x": "one two"}, {"x": "one", "y": "two"}], [{"x": "one"}]),
    Case("k: ['w*d']\ncondition: k", "rules: wildcards in keywords", [{"x": "a wild one"}], [{"x": "w"}]),
    Case("k: [4625]\ncondition: k", "pySigma: numbers are keywords, too", [{"x": 4625}, {"x": "id 4625"}], [{"x": 462}]),
    Case("k: {'|re': 'n.{2}dle'}\ncondition: k", "pySigma: modifiers without a field", [{"x": "a needle"}], [{"x": "a nedle"}]),
    Case("k: {'|contains|all': [one, two]}\ncondition: k", "pySigma: modifiers without a field", [{"x": "one", "y": "two"}], [{"x": "one"}]),
    Case("k: {'|startswith': need}\ncondition: k", "ours: a keyword with an anchor stands so in one value", [{"x": "needle"}], [{"x": "a needle"}]),
    Case("k: {'|cased': Needle}\ncondition: k", "modifiers: cased without a field", [{"x": "a Needle"}], [{"x": "a needle"}]),
    Case("k: [needle]\ncondition: not k", "rules: no value has the keyword", [{"x": "y"}, {}], [{"x": "needle"}]),
    Case("k: ['*needle*']\ncondition: k", "rules: wildcards in keywords", [{"x": "a needle"}], [{"x": "y"}]),
]


def names(*present: str) -> list[dict[str, Any]]:
    return [dict.fromkeys(each, "x") for each in present]


ABC = "a: {a: x}\nb: {b: x}\nc: {c: x}\n_d: {d: x}\ncondition: "
CONDITIONS = [
    Case(ABC + "a", "rules: one name", names("a", "ab"), names("", "b")),
    Case(ABC + "a and b or c", "rules: or binds weaker than and", names("ab", "c", "ac"), names("a", "b")),
    Case(ABC + "c or a and b", "rules: or binds weaker than and", names("ab", "c"), names("a", "b")),
    Case(ABC + "a and (b or c)", "rules: brackets", names("ab", "ac"), names("c", "bc", "a")),
    Case(ABC + "((a) and ((b or (c))))", "rules: nested brackets", names("ab", "ac"), names("c", "a")),
    Case(ABC + "not a and b", "rules: not binds before and", names("b", "bc"), names("", "ab")),
    Case(ABC + "not (a and b)", "rules: brackets", names("", "a", "b"), names("ab")),
    Case(ABC + "not a or b", "rules: not binds before or", names("", "b", "ab"), names("a")),
    Case(ABC + "not not a", "pySigma: not repeats", names("a"), names("")),
    Case(ABC + "not 1 of them", "rules: x of binds before not", names("", "d"), names("a", "bc")),
    Case(ABC + "not all of them", "rules: x of binds before not", names("", "ab", "d"), names("abc")),
    Case(ABC + "1 of them", "rules: names that start with _ are left out", names("a", "b", "bc"), names("", "d")),
    Case(ABC + "any of them", "pySigma: any is 1", names("a"), names("d")),
    Case(ABC + "all of them", "rules: names that start with _ are left out", names("abc", "abcd"), names("ab", "abd")),
    Case(ABC + "all of *", "pySigma: * leaves them out, too", names("abc"), names("abd")),
    Case(ABC + "1 of _*", "pySigma: a pattern that starts with _ means them", names("d"), names("abc")),
    Case(ABC + "_d", "rules: such a name may be used itself", names("d"), names("abc")),
    Case(ABC + "a AND NOT b", "ours: words may be in capitals", names("a"), names("ab")),
    Case(ABC + "[a, b and c]", "rules: a list of conditions is OR", names("a", "bc"), names("b", "c")),
    Case(ABC + "a and not 1 of b*", "rules: x of pattern", names("a", "ac"), names("ab", "b")),
    Case("sel_a: {a: x}\nsel_b: {b: x}\nother: {c: x}\ncondition: all of sel_*", "rules: x of pattern", names("ab"), names("a", "ac")),
    Case("a_sel: {a: x}\nb_sel: {b: x}\nother: {c: x}\ncondition: all of *_sel", "rules: * at arbitrary positions", names("ab"), names("a", "bc")),
    Case("x_a_y: {a: x}\nx_b_y: {b: x}\nx_c: {c: x}\ncondition: 1 of x_*_y", "rules: * at arbitrary positions", names("a", "b"), names("c")),
    Case("sel-1: {a: x}\nsel_2: {b: x}\ncondition: sel-1 and sel_2", "pySigma: names have letters, digits, _ and -", names("ab"), names("a")),
    Case("sel: {a: x}\nsel_2: {b: x}\ncondition: 1 of sel", "pySigma: a pattern without * is a name", names("a"), names("b")),
    Case("s: {a: x}\nf_1: {b: x}\nf_2: {c: x}\ncondition: s and not 1 of f_*", "rules: the common form", names("a"), names("ab", "ac", "")),
    Case("s: {a: x}\nf_1: {b: x}\nf_2: {c: x}\ncondition: s and not all of f_*", "rules: the other form", names("a", "ab"), names("abc")),
    Case("notepad: {a: x}\norder: {b: x}\ncondition: notepad and not order", "ours: words within names are no words", names("a"), names("ab", "b")),
    Case("a: {a: x}\ncondition: " + "(" * 50 + "a" + ")" * 50, "ours: 50 brackets are fine", names("a"), names("")),
]
# fmt: on

GROUPS = {
    "text": TEXT,
    "escapes": ESCAPES,
    "generic": GENERIC,
    "regex": REGEX,
    "encoded": ENCODED,
    "windash": WINDASH,
    "numbers": NUMBERS,
    "networks": NETWORKS,
    "times": TIMES,
    "references": REFERENCES,
    "special": SPECIAL,
    "structure": STRUCTURE,
    "keywords": KEYWORDS,
    "conditions": CONDITIONS,
}
ALL = [
    pytest.param(case, id=f"{group}-{index:02}")
    for group, cases in GROUPS.items()
    for index, case in enumerate(cases, 1)
]


def matched(rules: RuleSet, event: Any) -> bool:
    return any(found.rule_id == "r" for found in rules.detect([event]))


@pytest.mark.parametrize("case", ALL)
def test_case(case: Case) -> None:
    rules = RuleSet.from_text(case.rule)
    assert rules.refused == ()
    assert [event for event in case.hits if not matched(rules, event)] == []
    assert [event for event in case.misses if matched(rules, event)] == []


def test_all_cases_in_one_batch_answer_as_they_do_alone() -> None:
    """Other rules and events around it change no answer."""
    cases = [case for cases in GROUPS.values() for case in cases]
    text = "---\n".join(case.rule.replace("id: r", f"id: r{index}") for index, case in enumerate(cases))
    rules = RuleSet.from_text(text)
    events, expected = [], set()
    for index, case in enumerate(cases):
        for event in case.hits:
            expected.add((len(events), f"r{index}"))
            events.append(event)
        events += case.misses
    own = {(row, f"r{index}") for row, index in _owners(cases)}
    found = {(detection.event_index, detection.rule_id) for detection in rules.detect(events)}
    assert found & own == expected


def _owners(cases: list[Case]) -> list[tuple[int, int]]:
    made: list[tuple[int, int]] = []
    for index, case in enumerate(cases):
        for _ in (*case.hits, *case.misses):
            made.append((len(made), index))
    return made


def test_there_are_enough_cases() -> None:
    assert len(ALL) >= 160
    assert all(case.hits or case.misses for cases in GROUPS.values() for case in cases)


PLACED = "title: f\nid: f\nlogsource: {%s}\nfilter:\n  rules: %s\n  o: {u: root}\n  condition: %s\n"
FILTERS = [
    pytest.param("product: test", "[r]", "not o", True, False, id="by id"),
    pytest.param("product: test", "[named]", "not o", True, False, id="by name"),
    pytest.param("product: test", "named", "not o", True, False, id="one name without a list"),
    pytest.param("product: test", "any", "not o", True, False, id="any"),
    pytest.param("product: test", "ANY", "not o", True, False, id="any in capitals"),
    pytest.param("product: test", "[]", "not o", True, False, id="an empty list is any (pySigma)"),
    pytest.param("category: c", "any", "not o", True, False, id="a log source with fewer parts contains the rule's"),
    pytest.param("product: other", "any", "not o", True, True, id="another log source does not"),
    pytest.param("product: test, service: s", "any", "not o", True, True, id="nor one with more parts"),
    pytest.param("product: test", "any", "o", False, True, id="the condition is ANDed as it stands (filt-03, pySigma)"),
    pytest.param("product: test", "any", "not 1 of o*", True, False, id="patterns are the filter's own"),
    pytest.param("product: test", "any", "not 1 of them", True, False, id="'them' is the filter's own"),
]


@pytest.mark.parametrize(("logsource", "rules", "condition", "others", "root"), FILTERS)
def test_filter(logsource: str, rules: str, condition: str, others: bool, root: bool) -> None:
    rule = (
        "title: t\nid: r\nname: named\nlogsource: {product: test, category: c}\n"
        "detection:\n  s: {a: x}\n  o: {a: x}\n  condition: all of them\n---\n"
    )
    loaded = RuleSet.from_text(rule + PLACED % (logsource, rules, condition))
    assert loaded.refused == ()
    assert (matched(loaded, {"a": "x", "u": "eve"}), matched(loaded, {"a": "x", "u": "root"})) == (others, root)
    assert not matched(loaded, {"a": "y", "u": "eve"})


@pytest.mark.parametrize(
    ("filter_text", "expected"),
    [
        ("filter:\n  o: {u: a}\n  condition: not o\n", "filter has no rules"),
        ("filter:\n  rules: any\n  o: {u: a}\n  condition: [not o, o]\n", "a filter has one condition"),
        ("filter:\n  rules: any\n  o: {u: a}\n", "a filter has one condition"),
        ("filter:\n  rules: any\n  condition: not o\n", "filter has no selection"),
        ("filter:\n  rules: any\n  o: {u: a}\n  condition: not q\n", "condition names 'q'"),
        ("filter:\n  rules: [q]\n  o: {u: a}\n  condition: not o\n", "filter fits no rule"),
        ("filter: [x]\n", "filter is a mapping"),
    ],
)
def test_a_broken_filter_is_refused_and_the_rules_stay(filter_text: str, expected: str) -> None:
    text = HEAD + "  s: {a: x}\n  condition: s\n---\ntitle: f\nid: f\nlogsource: {product: test}\n" + filter_text
    loaded = RuleSet.from_text(text, path="f.yml")
    (refused,) = loaded.refused
    assert expected in refused.reason
    assert refused.line >= 6
    assert [rule.id for rule in loaded.rules] == ["r"]


GLOBAL = """
action: global
title: shared
logsource: {product: test}
level: high
detection:
  condition: s
---
id: one
detection: {s: {a: x}}
---
id: two
level: low
detection: {s: {b: x}}
---
action: repeat
id: three
detection: {s: {c: x}}
---
action: reset
---
title: alone
id: four
logsource: {product: test}
detection: {s: {d: x}, condition: s}
"""


def test_collections_with_actions_mean_what_they_mean_to_the_reference_converter() -> None:
    loaded = RuleSet.from_text(GLOBAL)
    assert loaded.refused == ()
    assert [(rule.id, rule.title, rule.level) for rule in loaded.rules] == [
        ("one", "shared", "high"),
        ("two", "shared", "high"),  # what is merged in wins
        ("three", "shared", "high"),
        ("four", "alone", "medium"),
    ]
    # 'repeat' adds to the rule before it, so that its selection asks for both fields.
    found = [(d.event_index, d.rule_id) for d in loaded.detect([{"a": "x"}, {"b": "x"}, {"b": "x", "c": "x"}])]
    assert found == [(0, "one"), (1, "two"), (2, "two"), (2, "three")]


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [("action: repeat\nid: x\n", 1, "no rule before"), ("a: 1\naction: x\n", 2, "none of")],
)
def test_other_actions_are_refused(text: str, line: int, expected: str) -> None:
    (refused,) = RuleSet.from_text(text).refused
    assert refused.line == line
    assert expected in refused.reason


PLACEHOLDERS = "placeholders:\n  Servers: ['srv*', '10.1.1.1']\n  one: 5\n  dir: 'c:\\'\n  pattern: 'a+'\n---\n"


@pytest.mark.parametrize(
    ("detection", "hits", "misses"),
    [
        ("a|expand: '%Servers%'", a("srv12", "10.1.1.1"), a("xsrv", "%Servers%")),
        ("a|contains|expand: '%Servers%'", a("my srv12"), a("sr")),
        ("a|expand|contains: ' %one% '", a("a 5 b"), a("5")),
        (r"a|expand: 'C:\Users\%one%\x'", a("C:\\Users\\5\\x"), a("C:\\Users5\\x", "C:\\Users\\%one%\\x")),
        (r"a|expand: 'C:\\%one%'", a("C:\\5"), a("C:5")),
        (r"a|re|expand: '^C:\\%one%$'", a("C:\\5"), a("C:5")),
        ("a|expand: '100%'", a("100%"), a("100")),
        ("a|expand: '%dir%*'", a("c:\\x"), a("c:*")),
        ("a|expand|base64: '%one%'", a(b64("5")), a("5")),
        ("a|re|expand: '^%pattern%$'", a("aaa"), a("a+")),
        ("a|cidr|expand: '10.1.1.0/%one%'", a("8.0.0.1"), a("16.0.0.1")),
        ("a|expand: '%one%%one%'", a("55"), a("5")),
        ("'|expand': 'x%one%'", [{"z": "ax5"}], [{"z": "x"}]),
        ("a|all|expand|contains: ['%one%', y]", a("y5"), a("5")),
    ],
)
def test_placeholders_take_their_values_from_the_rule_files(detection: str, hits: Any, misses: Any) -> None:
    case = Case(detection, "rules: placeholders")
    # The values may stand in a document after the rule.
    for text in (PLACEHOLDERS + case.rule, case.rule + "---\n" + PLACEHOLDERS):
        rules = RuleSet.from_text(text)
        assert rules.refused == ()
        assert [event for event in hits if not matched(rules, event)] == []
        assert [event for event in misses if matched(rules, event)] == []


def test_a_placeholder_without_values_refuses_its_rule_alone() -> None:
    text = PLACEHOLDERS + HEAD + "  s: {a|expand: '%nobody%'}\n  condition: s\n---\n" + HEAD.replace("id: r", "id: q")
    rules = RuleSet.from_text(text + "  s: {a: x}\n  condition: s\n", path="r.yml")
    (refused,) = rules.refused
    assert (refused.line, refused.reason) == (11, "a|expand: placeholder %nobody% has no values")
    assert refused.hint == "give them in a rule file: 'placeholders: {nobody: [value, …]}'"
    assert [rule.id for rule in rules.rules] == ["q"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("placeholders: [x]\n", "placeholders is a mapping"),
        ("placeholders: {x: []}\n", "a value or a list"),
        ("placeholders: {x: {y: z}}\n", "a value or a list"),
        ("placeholders: {x: a}\n---\nplaceholders: {x: b}\n", "has its values already"),
        ("placeholders: {x: a}\nlevel: high\n", "unknown key 'level'"),
    ],
)
def test_broken_placeholders_are_refused(text: str, expected: str) -> None:
    (refused,) = RuleSet.from_text(text).refused
    assert expected in refused.reason


def test_what_is_probably_not_meant_is_told_and_the_rule_works() -> None:
    text = HEAD.replace("id: r", "id: r\nmy_own: 1\nstatus: deprecated") + (
        "  timeframe: 5m\n  s: {a|contains|all: x}\n  unused: {b: y}\n  condition: s\n"
    )
    (rule,) = RuleSet.from_text(text).rules
    assert [(warning.line, warning.field, warning.reason) for warning in rule.warnings] == [
        (3, "my_own", "custom key, without effect here"),
        (4, "status", "deprecated: another rule replaces it"),
        (8, "a|contains|all", "'all' has no effect on a single value"),
        (9, "unused", "the condition never names this selection"),
        (7, "timeframe", "has no effect"),
    ]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("falsepositive: x", "falsepositives"),
        ("Level: high", "level"),
        ("tag: [x]", "tags"),
        ("severity: high", "level"),
    ],
)
def test_a_misspelt_key_is_no_custom_key(key: str, hint: str) -> None:
    (refused,) = RuleSet.from_text(f"{key}\n{HEAD}  s: {{a: x}}\n  condition: s\n").refused
    assert refused.line == 1
    assert hint in refused.hint


TAXONOMY = (
    "title: t\nid: r\ntaxonomy: %s\nlogsource: {category: webserver}\ndetection: {s: {cs-uri-query: x}, condition: s}\n"
)


def test_taxonomies_choose_the_field_maps() -> None:
    event = {"ironpost.url.decoded": "x", "url.query": "x"}
    assert matched(RuleSet.from_text(TAXONOMY % "sigma"), event)
    assert not matched(RuleSet.from_text(TAXONOMY % "ecs"), event)  # its names are the event's own
    (refused,) = RuleSet.from_text(TAXONOMY % "acme").refused
    assert (refused.line, refused.hint) == (3, "give a field map that says 'taxonomy: acme'")


def test_a_field_map_may_name_another_taxonomy() -> None:
    maps = [FieldMap("acme", fields={"query": ("url.query",)}, taxonomy="acme")]
    text = TAXONOMY.replace("cs-uri-query", "query")
    assert matched(RuleSet.from_text(text % "acme", field_maps=maps), {"url.query": "x"})
    assert not matched(RuleSet.from_text(text % "sigma", field_maps=maps), {"url.query": "x"})
