"""pySigma, the reference converter, and our loader read rules alike; a difference has a name here."""

from __future__ import annotations

import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sigma.exceptions import SigmaError

from ironpost.detections import RuleSet
from ironpost.detections.values import KNOWN_MODIFIERS
from support.pysigma import ours, theirs
from support.sigma_rules import NETWORKS, REGEXES, SCALARS, items, lists_of, rules

ARCHIVE = Path(__file__).parents[4] / "shared" / "data" / "sigmahq-rules.tar.xz"

# Nothing is made smaller: a failure names the one item at fault anyway.
QUIET: dict[str, Any] = {"phases": [Phase.generate], "suppress_health_check": list(HealthCheck)}
# What pySigma refuses and we take, by its message.
TAKEN = {
    "incompatible to value type": "all values are text (specification: General), so numbers may be searched",
    "object has no attribute": "likewise, a number or boolean as a regular expression",
    "only applicable to unmodified values": "'all' before 're' or 'cidr' changes how values are joined, not the values",
    "Unknown modifier 'utf16le'": "in the specification's appendix",
    "only allowed for": "text beyond ASCII has a UTF-16 form as well, and base64 makes ASCII of it",
}
# What we refuse and pySigma takes, by our message.
REFUSED = {
    "null can't": "a keyword is a value, and null has no text that a modifier could change",
    "can't be part of a list": "null is never in a list (specification: Special Field Values)",
    "no field that could be": "a keyword is text anywhere in the event, no number and no time",
    "can't be combined with": "one of the modifiers would be without effect",
    "is given twice": "likewise",
    "encoded only once": "UTF-16 of UTF-16 is no encoding anybody uses",
    "compared with an integer": "no year has twenty digits",
    "takes an integer": "a minute or a year has no fraction",
    "too short for 'base64offset'": "nothing of the value stays the same at each offset, so it would match everything",
    "not text needs base64": "UTF-16 after base64 has bytes that no text field holds",
}


def corpus() -> Iterator[tuple[str, str]]:
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".yml") else None
            if file is not None:
                yield member.name, file.read().decode()


def loaded(text: str) -> RuleSet:
    """Ours; a placeholder stands for its own name, as it does in the form of pySigma's tree."""
    return RuleSet.from_text(text, placeholders={name: [f"<{name}>"] for name in re.findall(r"%([^%\s]+)%", text)})


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.exists(), reason=f"the public Sigma rules are not at {ARCHIVE}")
def test_every_public_rule_is_read_as_pysigma_reads_it() -> None:
    read = 0
    different = []
    for name, written in corpus():
        # A log source without field maps: field names stay as they are written.
        block = r"^logsource:\s*\n(?:[ \t]+.*\n|#.*\n)+"
        text = re.sub(block, "logsource:\n  product: arbiter\n", written, flags=re.MULTILINE)
        rules = loaded(text)
        assert rules.refused == (), name
        read += 1
        if ours(rules.rules[0].plan) != theirs(text):
            different.append(name)
    assert (read, different) == (3780, [])


def verdict(detection: dict[str, Any]) -> str:
    """How the two readings of a detection relate: ``same``, or the named difference.

    Raises:
        AssertionError: For a difference without a name.
    """
    rule = {"title": "t", "logsource": {"product": "arbiter"}, "detection": detection}
    text = json.dumps(rule, ensure_ascii=False)
    rules = loaded(text)
    reason = rules.refused[0].reason if rules.refused else ""
    try:
        expected = theirs(text)
    except (SigmaError, AttributeError) as error:
        if reason:
            return "same"
        return next((why for message, why in TAKEN.items() if message in str(error)), "") or fail(text, error)
    if reason:
        return next((why for message, why in REFUSED.items() if message in reason), "") or fail(text, reason)
    found = ours(rules.rules[0].plan)
    if found == expected:
        return "same"
    if "windash" in text and re.search("[\u2013-\u2015]", text):
        return "a dash of any kind is interchangeable (specification: windash)"
    if re.search(r"cased\|(\w+\|)*windash", text):
        return "pySigma forgets 'cased' when 'windash' follows"
    if re.search(r"\d{16}", text):
        return "we compare integers exactly, pySigma as floats"
    return fail(text, f"\nours   {found}\ntheirs {expected}")


def fail(text: str, difference: object) -> str:
    raise AssertionError(f"{text}\n{difference}")


WILD = st.tuples(
    st.sampled_from(["f", ""]),
    st.lists(st.sampled_from([*sorted(KNOWN_MODIFIERS), "nope"]), max_size=3),
    lists_of(st.one_of(SCALARS, st.none(), st.sampled_from([*REGEXES, *NETWORKS, "%who%"]))),
).map(lambda drawn: ("|".join([drawn[0], *drawn[1]]), drawn[2]))


def test_random_items_are_read_as_pysigma_reads_them() -> None:
    verdicts: Counter[str] = Counter()

    @settings(max_examples=120, deadline=None, **QUIET)
    @given(st.lists(st.one_of(WILD, items()), min_size=10, max_size=20))
    def round_of(made: list[tuple[str, Any]]) -> None:
        for key, value in made:
            verdicts[verdict({"s": {key: value}, "condition": "s"})] += 1

    round_of()
    assert verdicts["same"] / verdicts.total() > 0.8


def test_random_conditions_are_read_as_pysigma_reads_them() -> None:
    verdicts: Counter[str] = Counter()

    @settings(max_examples=200, deadline=None, **QUIET)
    @given(rules())
    def round_of(rule: dict[str, Any]) -> None:
        written = json.dumps(rule["detection"]["condition"])
        # pySigma knows operators in lower case only, and no minus in a pattern of names.
        condition = json.loads(re.sub(r"\b(AND|Or)\b", lambda found: found[0].lower(), written))
        names = {name: {"f": name} for name in rule["detection"] if name != "condition"}
        verdicts[verdict({**names, "condition": condition})] += 1

    round_of()
    assert verdicts.keys() == {"same"}
