"""Python rules at work: what a function may cost, and what happens when it costs more.

Rules from files run in a process of their own, one for each file, so that a function that never returns, a regular
expression that explodes or a crash ends that process and not the daemon. Rules given as objects run where they are
called from; their time is measured, but nothing can end a call that does not return.

None of this keeps a rule from doing harm on purpose: it is the operator's own code and may do what its user may.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ironpost.errors import RuleError
from ironpost.model.python_rule import CALL_SECONDS, LOAD_SECONDS, Answer, PythonRule, Verdict, judged

MEAN_SECONDS = 0.005
"""A rule whose calls take longer than this on average is disabled: it would hold up everything behind it."""
MEASURED_CALLS = 200
"""Calls after which the average counts."""
MAX_ERRORS = 10
"""Exceptions of one rule until it is disabled."""
_WORKER = Path(__file__).with_name("judging_worker.py")
_PIPE_BYTES = 1 << 16
_GRACE_SECONDS = 1.0


@dataclass(slots=True)
class RuleHealth:
    """What became of one Python rule; ``asked = matched + declined + errors + (1 if its call was ended)``.

    Attributes:
        unasked: Events its prefilter found after it was disabled; nothing is reported for them.
        disabled: Why it is no longer asked, or ``""``.
    """

    asked: int = 0
    matched: int = 0
    declined: int = 0
    errors: int = 0
    unasked: int = 0
    seconds: float = 0.0
    disabled: str = ""
    last_error: str = ""


class CallEndedError(Exception):
    """A call that had to be ended from outside."""


class Runner(Protocol):
    """Calls functions."""

    def call(self, rule_id: str, event: str) -> Answer:
        """Judges an event, given as JSON.

        Raises:
            CallEndedError: When the call did not return in time, or its process died.
        """
        ...

    def close(self) -> None:
        """Ends what runs."""
        ...


@dataclass(frozen=True, slots=True)
class InProcess:
    """Calls functions where it stands."""

    rules: Mapping[str, PythonRule]

    def call(self, rule_id: str, event: str) -> Answer:
        """Judges an event, given as JSON."""
        return judged(self.rules[rule_id], event)

    def close(self) -> None:
        """Nothing runs."""


class WorkerProcess:
    """Calls the functions of one file in a process of its own.

    The process is started with the import of the file and again after a call had to be ended. It inherits neither the
    environment nor open files, and ends itself with its parent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._end: weakref.finalize[[subprocess.Popen[bytes]], WorkerProcess] | None = None

    def rules(self) -> list[PythonRule]:
        """Imports the file and returns its rules, without their functions.

        Raises:
            RuleError: When it can't be imported.
        """
        told = self._start()
        if "error" in told:
            raise RuleError(told["error"], path=str(self._path), line=int(told.get("line") or 0))
        return [_told_rule(value, self._path) for value in told["rules"]]

    def call(self, rule_id: str, event: str) -> Answer:
        """Judges an event, given as JSON.

        Raises:
            CallEndedError: When the call did not return in time, or its process died.
        """
        if self._process is None and "error" in (told := self._start()):
            raise CallEndedError(f"could not be started again: {told['error']}")
        told = self._ask(f"{json.dumps(rule_id)}\t{event}\n".encode(), CALL_SECONDS + _GRACE_SECONDS)
        return Answer(told["facts"], told["seconds"], told["error"])

    def close(self) -> None:
        """Ends the process."""
        if self._end is not None:
            self._end()
        self._process = None

    def _start(self) -> dict[str, Any]:
        self.close()
        self._rest = b""
        environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "TZ") if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER), str(self._path.absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        self._end = weakref.finalize(self, _end_process, self._process)
        try:
            return self._ask(b"", LOAD_SECONDS)
        except CallEndedError as error:
            return {"error": f"could not be imported: {error}"}

    def _ask(self, line: bytes, seconds: float) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise CallEndedError("its process is gone")
        try:
            process.stdin.write(line)
            process.stdin.flush()
            answer = self._read_line(process.stdout.fileno(), time.monotonic() + seconds)
        except BrokenPipeError:
            answer = b""
        if answer:
            try:
                found = json.loads(answer)
            except ValueError:
                found = None
            if isinstance(found, dict) and ("error" in found or not line):
                return found
            self.close()
            raise CallEndedError("wrote something else than its verdict to the pipe of its process")
        self.close()
        code = process.returncode
        late = code in {None, -14, -9}  # the worker's own alarm, or ours
        limit = CALL_SECONDS if line else LOAD_SECONDS
        raise CallEndedError(f"did not return within {limit:g} s" if late else f"ended its process (code {code})")

    def _read_line(self, descriptor: int, deadline: float) -> bytes:
        """A line, or nothing when the process ends or the time is over."""
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return b""
                piece = os.read(descriptor, _PIPE_BYTES)
                if not piece:
                    return b""
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line


def _end_process(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                continue  # what was still to be written has no reader
    try:
        process.wait(0.05)  # it may have ended by itself, and then says how
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # what a rule started ends with it


def _told_rule(value: Mapping[str, Any], path: Path) -> PythonRule:
    def elsewhere(_event: Mapping[str, Any]) -> Verdict:
        raise RuntimeError("this rule's function lives in its own process")

    return PythonRule(
        id=str(value["id"]),
        title=str(value["title"]),
        level=str(value["level"]),
        prefilter=value["prefilter"],
        logsource=value["logsource"],
        function=elsewhere,
        description=str(value["description"]),
        tags=tuple(value["tags"]),
        entity=tuple(value["entity"]),
        path=str(path),
        line=int(value["line"]),
    )


@dataclass(slots=True)
class Judges:
    """All Python rules of a rule set."""

    runners: Mapping[str, Runner] = field(default_factory=dict)
    health: dict[str, RuleHealth] = field(default_factory=dict)
    gone: int = 0

    @classmethod
    def of(cls, runners: Iterable[tuple[str, Runner]]) -> Judges:
        """Makes one of rule ids and who calls their functions."""
        made = dict(runners)
        return cls(made, {rule_id: RuleHealth() for rule_id in made})

    def __call__(self, found: Sequence[Any]) -> list[Any]:
        """Takes detections as the engine reports them, and returns those that the functions confirm.

        Detections of other rules pass. Those of a rule that is disabled are counted in its ``unasked``, those of a rule
        that was just taken away in ``gone``. A call takes at most :data:`CALL_SECONDS` in its own process.
        """
        return [each for each in found if not (isinstance(each, dict) and "event" in each) or self._confirms(each)]

    def close(self) -> None:
        """Ends the processes."""
        for runner in self.runners.values():
            runner.close()

    def _confirms(self, found: dict[str, Any]) -> bool:
        event = found.pop("event")
        rule_id = found["rule_id"]
        runner = self.runners.get(rule_id)
        if runner is None:
            self.gone += 1
            return False
        health = self.health[rule_id]
        if health.disabled:
            health.unasked += 1
            return False
        health.asked += 1
        try:
            answer = runner.call(rule_id, event)
        except CallEndedError as error:
            health.disabled = f"a call {error}"
            return False
        health.seconds += answer.seconds
        if answer.error:
            health.errors += 1
            health.last_error = answer.error
            if health.errors >= MAX_ERRORS:
                health.disabled = f"raised {health.errors} exceptions, the last {answer.error}"
            return False
        if answer.seconds > CALL_SECONDS:
            health.disabled = f"a call took {answer.seconds:.1f} s, at most {CALL_SECONDS:g} s are allowed"
        elif health.asked >= MEASURED_CALLS and health.seconds > health.asked * MEAN_SECONDS:
            mean = health.seconds / health.asked * 1000
            health.disabled = f"its calls take {mean:.1f} ms on average, at most {MEAN_SECONDS * 1000:g} ms are allowed"
        if answer.facts is None:
            health.declined += 1
            return False
        health.matched += 1
        found["fields"] = {**(found.get("fields") or {}), **answer.facts}
        return True
