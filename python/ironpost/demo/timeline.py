"""What happened, in order, and what was observed of it from outside."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

NS_PER_MS = 1_000_000


class Kind(StrEnum):
    """What a line of the timeline is."""

    ATTACK = "attack"
    SEEN = "seen"
    DECIDED = "decided"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of the timeline.

    Attributes:
        at_ns: Wall clock.
        step: Letter of the step it belongs to.
        source: Who says so: ``auth.log``, ``packets``, ``engine``, or ``daemon`` for its own word.
    """

    at_ns: int
    step: str
    kind: Kind
    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Check:
    """One claim about the product, and what a look from outside said."""

    step: str
    claim: str
    holds: bool
    observed: str


@dataclass(slots=True)
class Report:
    """Collects checks and moments of a run and prints them.

    Attributes:
        quiet: No progress on standard error.
        figures: Measured delays in milliseconds, by name.
    """

    quiet: bool = False
    started_ns: int = field(default_factory=time.time_ns)
    checks: list[Check] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    not_shown: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Prints a line of progress."""
        if not self.quiet:
            seconds = (time.time_ns() - self.started_ns) / 1e9
            sys.stderr.write(f"[{seconds:5.1f} s] {text}\n")
            sys.stderr.flush()

    def expect(self, step: str, claim: str, holds: bool, observed: str = "") -> bool:
        """Notes whether a claim holds, and says so."""
        self.checks.append(Check(step, claim, holds, observed))
        self.say(f"   {'ok  ' if holds else 'FAIL'} {claim}" + (f" ({observed})" if observed else ""))
        return holds

    def moment(self, at_ns: int, step: str, kind: Kind, source: str, text: str) -> None:
        """Notes that something happened at a time."""
        self.moments.append(Moment(at_ns, step, kind, source, text))

    def figure(self, name: str, from_ns: int | None, until_ns: int | None) -> None:
        """Notes a delay, if both of its ends were observed."""
        if from_ns is not None and until_ns is not None:
            self.figures[name] = round((until_ns - from_ns) / NS_PER_MS, 2)

    def leave_out(self, text: str) -> None:
        """Notes loudly what this run does not show."""
        self.not_shown.append(text)
        self.say(f"   NOT SHOWN: {text}")

    @property
    def holds(self) -> bool:
        """Whether everything that was claimed was observed."""
        return bool(self.checks) and all(check.holds for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The whole report as one JSON object."""
        return {
            "ok": self.holds,
            "seconds": round((time.time_ns() - self.started_ns) / 1e9, 1),
            "checks": [
                {"step": check.step, "claim": check.claim, "holds": check.holds, "observed": check.observed}
                for check in self.checks
            ],
            "timeline": [
                {
                    "at_ms": round((moment.at_ns - self.started_ns) / NS_PER_MS, 1),
                    "step": moment.step,
                    "kind": moment.kind.value,
                    "source": moment.source,
                    "text": moment.text,
                }
                for moment in self._in_order()
            ],
            "milliseconds": self.figures,
            "not_shown": self.not_shown,
        }

    def _in_order(self) -> list[Moment]:
        return sorted(self.moments, key=lambda moment: moment.at_ns)

    def to_text(self) -> str:
        """The report for people."""
        lines = ["", "Timeline", "      at ms  step  what     told by    "]
        for moment in self._in_order():
            at = (moment.at_ns - self.started_ns) / NS_PER_MS
            lines.append(
                f"{at:11.1f}  {moment.step:<4}  {moment.kind.value:<7}  {moment.source:<9}  {_printable(moment.text)}"
            )
        if self.figures:
            lines += ["", "Delays"]
            lines += [f"{value:11.2f}  ms  {name}" for name, value in self.figures.items()]
        failed = [check for check in self.checks if not check.holds]
        lines.append("")
        for check in failed:
            lines.append(f"FAIL  step {check.step}: {check.claim}" + (f" ({check.observed})" if check.observed else ""))
        lines += [f"NOT SHOWN: {text}" for text in self.not_shown]
        count = len(self.checks) - len(failed)
        lines.append(f"{count} of {len(self.checks)} claims observed from outside")
        return "\n".join(lines)


def _printable(text: str) -> str:
    """Text that an attacker may have written, without anything a terminal would act on."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
