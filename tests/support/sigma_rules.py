"""Random Sigma rules over few fields, and events made from a rule's own values so that matches happen often."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

from support.sigma_reference import ENCODINGS, MANY, ONE, TIME_PARTS, expanded, text_of, tokens

FIELDS = ["f", "g", "Image", "h.i", "h.j.k", "l.m", "missing"]
PLACEHOLDERS = {"who": ["alice", "b*b", "c\\*"], "where": ["srv?"], "dash": ["-x"]}
NETWORKS = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "0.0.0.0/0", "2001:db8::/32", "fe80::/10", "::ffff:10.0.0.0/104"]
ADDRESSES = [
    "10.1.2.3",
    "10.200.0.1",
    "11.0.0.1",
    "2001:db8::5",
    "2001:DB8::5",
    "fe80::1%eth0",
    "::ffff:10.1.2.3",
    " 10.1.2.3",
]
NOT_ADDRESSES = ["", "a10.1.2.3", "10.1.2", "10.1.2.3.4", "010.1.2.3", "10.1.2.3/8", "::1::"]
TIMES = [
    "2021-02-22T13:20:00Z",
    "2021-02-22T13:20:00+05:30",
    "2021-02-22 13:20:59.123456",
    "2021-01-03",
    "2020-12-31T23:59:59Z",
    "2024-02-29T00:00:00Z",
    "1614000000",
    "1614000000.75",
    "-1",
]
REGEXES = [
    "a+b",
    "^b",
    "a.b$",
    "(a|b){2}",
    "[ab]+ ?-",
    "\\.",
    "^$",
    "b*a",
    "^[^a]*$",
    "[A-Z]{2,}",
    "ä|Ä",
    "^a\\nb$",
    "powershell(\\.exe)?",
    "\\\\[a-z]+\\.exe$",
    "a|^b|c$",
    "(?i)AB",
    "-{1,2}e(nc)?",
    "",
]
# Characters that fold, escape, wildcard, dash, dot and separate; and some of every length in UTF-8.
ALPHABET = "aAbB-/ äÄ*?\\._0\u017fςΣİ\u2013日😀\n"
WORDS = [
    "powershell.exe",
    "C:\\Windows\\",
    "\\\\server\\share\\*",
    " -enc ",
    "-e /e",
    "STRASSE straße",
    "ΣΑΣ",
    "K",
    "%who%",
    "a\x00b",
    "[a-z]",
    "null",
    "true",
    "4625",
    "x" * 700 + "needle" + "y" * 700,
]
TEXT = st.one_of(st.text(ALPHABET, max_size=6), st.sampled_from(WORDS))
NUMBERS = st.one_of(st.integers(-3, 12), st.sampled_from([4625, 2**53 + 1, -(2**63), 2**64, 1.5, -0.25, 1e300]))
SCALARS = st.one_of(TEXT, TEXT, NUMBERS, st.booleans())
VALUES = st.recursive(
    st.one_of(SCALARS, st.sampled_from([*ADDRESSES, *NOT_ADDRESSES, *TIMES]), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ijkm"), inner, max_size=2)),
    max_leaves=4,
)
EVENTS = st.dictionaries(st.sampled_from(["f", "g", "Image", "Ima ge", "h", "h.i", "l", "other"]), VALUES, max_size=5)


def lists_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(values, st.lists(values, min_size=1, max_size=4))


@st.composite
def items(draw: st.DrawFn) -> tuple[str, Any]:
    """A key and its value or values."""
    field = draw(st.sampled_from([*FIELDS, *FIELDS, ""]))
    kinds = ["plain", "plain", "text", "text", "text", "encoded", "expand", "re", "cidr"]
    kinds += ["number", "exists", "null", "empty", "fieldref", "time"] if field else []
    kind = draw(st.sampled_from(kinds))
    anchor = draw(st.sampled_from([[], ["contains"], ["startswith"], ["endswith"]]))
    values: st.SearchStrategy[Any] = SCALARS
    if kind == "plain":
        names = []
    elif kind == "text":
        names = [*anchor, *draw(st.sampled_from([[], [], ["windash"]])), *draw(st.sampled_from([[], [], ["cased"]]))]
        names = draw(st.permutations(names))
    elif kind == "encoded":
        wide = draw(st.sampled_from([[], [], *([name] for name in ENCODINGS)]))
        names = [*wide, draw(st.sampled_from(["base64", "base64offset"])), *anchor]
        values = st.text("abäB0 /:日", min_size=3, max_size=8)
        if wide and wide != ["utf16"] and draw(st.booleans()):  # on its own it is text with zero bytes
            names, values = [*wide, *anchor], st.text("ab*?", min_size=1, max_size=4)
    elif kind == "expand":
        names = [*anchor, "expand"]
        before = st.sampled_from(["", "", "*", "a ", "C:\\", "-"])
        values = st.tuples(before, st.sampled_from(["%who%", "%where%", "%dash%", "%who% %who%"]), before).map("".join)
    elif kind == "re":
        names = ["re", *draw(st.sampled_from([[], [], ["i"], ["s", "m"], ["ignorecase", "dotall"], ["multiline"]]))]
        values = st.sampled_from(REGEXES)
    elif kind == "cidr":
        names, values = ["cidr"], st.sampled_from(NETWORKS)
    elif kind == "number":
        names, values = [draw(st.sampled_from(["lt", "lte", "gt", "gte"]))], NUMBERS
    elif kind == "time":
        names = [draw(st.sampled_from(sorted(TIME_PARTS))), *draw(st.sampled_from([[], ["gte"], ["lt"]]))]
        values = st.sampled_from([0, 1, 2, 5, 8, 13, 20, 22, 53, 59, 1970, 2021])
    elif kind == "fieldref":
        names, values = ["fieldref", *anchor, *draw(st.sampled_from([[], ["cased"]]))], st.sampled_from(FIELDS)
    else:
        key = f"{field}|exists" if kind == "exists" else field
        return key, draw(st.booleans()) if kind == "exists" else None if kind == "null" else ""
    written = draw(lists_of(values))
    names = [*names, *draw(st.sampled_from([[], [], [], ["neq"]]))]
    if isinstance(written, list) and len(written) > 1 and draw(st.booleans()):
        names = ["all", *names]
    return "|".join([field, *names]), written


MAPS = st.lists(items(), min_size=1, max_size=3).map(dict)
SELECTIONS = st.one_of(
    MAPS,
    MAPS,
    st.lists(MAPS, min_size=1, max_size=3),
    st.lists(SCALARS, min_size=1, max_size=3),
    st.lists(st.one_of(TEXT, MAPS), min_size=1, max_size=2),
    TEXT,
)
NAMES = ["sel", "sel_2", "filter-main", "_hidden"]
CONDITIONS = st.recursive(
    st.sampled_from(
        [
            *NAMES,
            "1 of them",
            "all of them",
            "1 of sel*",
            "all of sel*",
            "any of *main",
            "all of _*",
            "1 of *e*",
            "not sel",
        ]
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or", "AND", "Or"]), inner).map(" ".join),
        inner.map(lambda text: f"not ({text})"),
        inner.map(lambda text: f"( {text})"),
    ),
    max_leaves=5,
)


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    """A whole rule of the log source ``product: test``."""
    detection: dict[str, Any] = {name: draw(SELECTIONS) for name in NAMES}
    detection["condition"] = draw(st.one_of(CONDITIONS, CONDITIONS, st.lists(CONDITIONS, min_size=1, max_size=2)))
    return {"title": "t", "logsource": {"product": "test"}, "detection": detection}


def items_of(body: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of a selection; a bare value has the empty key."""
    if isinstance(body, dict):
        yield from body.items()
    elif isinstance(body, list):
        for part in body:
            yield from items_of(part)
    else:
        yield "", body


def events_for(rule: Mapping[str, Any], seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Events that hold some of the values the rule asks for, some spelled a little differently."""
    chance = random.Random(seed)
    asked = [pair for name, body in rule["detection"].items() if name != "condition" for pair in items_of(body)]
    for _ in range(count):
        event: dict[str, Any] = {}
        for key, value in chance.sample(asked, min(len(asked), chance.randint(1, 6))):
            field, *modifiers = key.split("|")
            wanted = chance.choice(value) if isinstance(value, list) else value
            put(event, field or chance.choice(["f", "other"]), near(wanted, modifiers, chance), chance)
        yield event


def put(event: dict[str, Any], field: str, value: Any, chance: random.Random) -> None:
    """Stores a value under a flat name, along a path, or in a list."""
    if chance.random() < 0.1:
        value = [chance.choice(["z", None, 7]), value]
    outer, dot, inner = field.partition(".")
    if dot and chance.random() < 0.6 and not isinstance(event.get(outer, {}), (str, int, float, list, type(None))):
        put(event.setdefault(outer, {}), inner, value, chance)
    else:
        event[field] = value


def near(wanted: Any, modifiers: Iterable[str], chance: random.Random) -> Any:
    """A value that the item accepts, or almost."""
    names = set(modifiers)
    if "cidr" in names:
        return chance.choice([*ADDRESSES, *NOT_ADDRESSES])
    if names & TIME_PARTS.keys():
        return chance.choice(TIMES)
    if names & {"lt", "lte", "gt", "gte"}:
        number = wanted if isinstance(wanted, (int, float)) else 0
        return chance.choice([number, number + 1, number - 1, str(number), f" {number}.0 ", f"{number}e1", "x"])
    if "exists" in names or wanted is None:
        return chance.choice([None, "", "x", [], {}, {"z": 1}, [None]])
    if "re" in names:
        return chance.choice(["ab", "b", "a\nb", "aXb", "ba -", ".", "", "AB", "ÄB", "c", "x\\cmd.exe", "--enc", "aab"])
    if not isinstance(wanted, str) and chance.random() < 0.5:
        return wanted
    if "fieldref" in names:
        return chance.choice(["same", "SAME", "the same", "s"])
    pattern = chance.choice([*expanded(wanted, PLACEHOLDERS)]) if "expand" in names else tokens(text_of(wanted))
    wild = {MANY: ["", "x", "\n", "*"], ONE: ["x", "ä", "", "?"]}
    text = "".join(token if isinstance(token, str) else chance.choice(wild[token]) for token in pattern)
    if "windash" in names:
        text = "".join(chance.choice("-/\u2013\u2014\u2015") if token in "-/" else token for token in text)
    for name in modifiers:
        content = text.encode(ENCODINGS.get(name, "utf-8"))
        if name in ENCODINGS and {"base64", "base64offset"} & names:
            content = b"\xff\xfe" * (name == "utf16") + content
            text = content.decode("latin-1")
        elif name in ENCODINGS:
            text = content.decode("latin-1")
        elif name in {"base64", "base64offset"}:
            raw = text.encode("latin-1" if ENCODINGS.keys() & names else "utf-8")
            shift = chance.randint(0, 2) if name == "base64offset" else 0
            text = base64.b64encode(b"q" * shift + raw + b"q" * (shift > 0)).decode()
    return (
        chance.choice(["", "", "p", "\n"])
        + chance.choice([str, str.upper, str.lower])(text)
        + chance.choice(["", "", "s"])
    )
