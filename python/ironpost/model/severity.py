"""How bad: five levels, ordered."""

from __future__ import annotations

from enum import IntEnum


class Severity(IntEnum):
    """A level as Sigma and the alert lists name it; ``str()`` gives the lower-case word."""

    INFO = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    @classmethod
    def parse(cls, text: str) -> Severity:
        """Reads a level in any case, with the short forms ``informational``, ``med`` and ``crit``.

        Raises:
            ValueError: When the word is no level.
        """
        word = text.strip().lower()
        found = _WORDS.get(word)
        if found is None:
            raise ValueError(f"{text!r} is no severity; use info, low, medium, high or critical")
        return found

    def __str__(self) -> str:
        return self.name.lower()


_WORDS = {level.name.lower(): level for level in Severity} | {
    "informational": Severity.INFO,
    "med": Severity.MEDIUM,
    "crit": Severity.CRITICAL,
}
