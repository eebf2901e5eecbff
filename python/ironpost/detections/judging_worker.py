"""The process that runs the Python rules of one file: events come in on standard input, verdicts go out.

Started by :class:`ironpost.detections.judging.WorkerProcess` as a script, and not as a module of the package, so that
it loads nothing of Ironpost but what a rule needs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import sys
import traceback
from typing import Any

MEMORY_BYTES = 1 << 30
"""Address space of the process; beyond it a rule gets a MemoryError."""


def main(path: str) -> None:
    """Imports the file, tells its rules, and judges events until standard input ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a rule prints is no answer
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from ironpost.model.python_rule import CALL_SECONDS, LOAD_SECONDS, judged  # noqa: PLC0415 - after the limits are set

    # Without a handler the alarm ends the process, also in the middle of a regular expression.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, LOAD_SECONDS)
    rules, told = _imported(path)
    signal.setitimer(signal.ITIMER_REAL, 0)
    _tell(out, told)
    for line in sys.stdin.buffer:
        rule_id, _, event = line.partition(b"\t")
        signal.setitimer(signal.ITIMER_REAL, CALL_SECONDS)
        answer = judged(rules[json.loads(rule_id)], event)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _tell(out, {"facts": answer.facts, "seconds": answer.seconds, "error": answer.error})


def _tell(out: Any, value: Any) -> None:
    out.write(json.dumps(value).encode() + b"\n")
    out.flush()


def _imported(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    from ironpost.model.python_rule import PythonRule  # noqa: PLC0415 - as above

    try:
        spec = importlib.util.spec_from_file_location("ironpost_rules", path)
        if spec is None or spec.loader is None:
            return {}, {"error": "is no Python file"}
        module = importlib.util.module_from_spec(spec)
        sys.modules["ironpost_rules"] = module
        spec.loader.exec_module(module)
        found = [value for value in vars(module).values() if isinstance(value, PythonRule)]
        rules = {rule.id: rule for rule in found}
        told = [
            {
                "id": rule.id, "title": rule.title, "level": rule.level, "prefilter": dict(rule.prefilter),
                "logsource": dict(rule.logsource), "description": rule.description, "tags": list(rule.tags),
                "entity": list(rule.entity), "line": rule.line,
            }
            for rule in found
        ]  # fmt: skip
        json.dumps(told)
    except BaseException as error:  # noqa: BLE001 - a file may even call sys.exit()
        signal.setitimer(signal.ITIMER_REAL, 0)
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else 0
        return {}, {"error": f"{type(error).__name__}: {error}", "line": line}
    return rules, {"rules": told}


if __name__ == "__main__":
    main(sys.argv[1])
