"""Regular expressions of rules: written for PCRE, executed by a linear-time engine with its own syntax."""

from __future__ import annotations

import re
from collections.abc import Callable

from ironpost.errors import RuleError

RegexCheck = Callable[[str], str | None]
"""Says why the engine can't use a regular expression, or ``None``."""

MAX_REGEX = 1000
"""Longer regular expressions are refused."""
_QUANTIFIER = re.compile(r"\{[0-9]+(?:,[0-9]*)?\}")
_END = r"(?:\n?$)"
_POSIX_CLASS = re.compile(r"\[:\^?[a-z]+:\]")


def compiled_regex(pattern: str, flags: str, check: RegexCheck) -> str:
    """Returns the expression as the engine reads it.

    Raises:
        RuleError: When it is too long, or asks for what can't be matched in linear time.
    """
    if len(pattern) > MAX_REGEX:
        raise RuleError(f"regular expression has {len(pattern)} characters, at most {MAX_REGEX} are allowed")
    made = _translated(pattern)
    if flags:
        made = f"(?{flags}){made}"
    problem = check(made)
    if problem:
        raise RuleError(f"regular expression: {problem}")
    return made


def _translated(pattern: str) -> str:
    r"""Writes what both dialects spell differently in the engine's way; all else stays as it is.

    In PCRE ``\<`` is a plain ``<``, a brace that begins no quantifier is plain, and so are ``[``, ``&&``, ``--`` and
    ``~~`` within a class; ``$`` also stands before a newline that ends the value. The engine knows no possessive
    quantifiers and would read ``a++`` as ``(a+)+``.
    """
    made: list[str] = []
    at = 0
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            escaped = pattern[at + 1 : at + 2]
            made.append(escaped if escaped in {"<", ">"} else character + escaped)
            at += 2
            if escaped in {"x", "p", "P"} and pattern[at : at + 1] == "{":
                end = pattern.find("}", at) + 1 or len(pattern)
                made.append(pattern[at:end])
                at = end
        elif character == "[":
            text, at = _class(pattern, at)
            made.append(text)
        elif character == "{":
            quantifier = _QUANTIFIER.match(pattern, at)
            made.append(quantifier[0] if quantifier else "\\{")
            at += len(quantifier[0]) if quantifier else 1
            _refuse_possessive(pattern, at, quantified=bool(quantifier))
        else:
            made.append(_END if character == "$" else character)
            at += 1
            # "(?" opens a group and quantifies nothing.
            _refuse_possessive(pattern, at, quantified=character in "*+?" and pattern[at - 2 : at] != "(?")
    return "".join(made)


def _refuse_possessive(pattern: str, at: int, *, quantified: bool) -> None:
    if quantified and pattern[at : at + 1] == "+":
        raise RuleError("regular expression: possessive quantifiers such as 'a++' are not supported")


def _class(pattern: str, start: int) -> tuple[str, int]:
    """A bracketed class from its ``[`` on, and where it ends."""
    made = ["["]
    at = start + 1
    if pattern[at : at + 1] == "^":
        made.append("^")
        at += 1
    if pattern[at : at + 1] == "]":  # first of all it is plain
        made.append("\\]")
        at += 1
    while at < len(pattern):
        character = pattern[at]
        if character == "]":
            return "".join(made) + "]", at + 1
        if character == "\\":
            escaped = pattern[at + 1 : at + 2]
            made.append(escaped if escaped in {"<", ">"} else character + escaped)
            at += 2
        elif character == "[":
            named = _POSIX_CLASS.match(pattern, at)
            made.append(named[0] if named else "\\[")
            at += len(named[0]) if named else 1
        elif character in "&~-" and pattern[at + 1 : at + 2] == character:
            made.append("\\" + character)
            at += 1
        else:
            made.append(character)
            at += 1
    return "".join(made), at  # never closed; the engine says so
