"""The engine in a process of its own, for `engine.py`: settings in as an argument, one JSON line out per question.

Reads commands from standard input: `counters` and `stop`.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import ironpost
from ironpost import _core
from ironpost.detections import RuleSet
from ironpost.events.extractors import built_in


def main() -> None:
    """Runs until told to stop."""
    rules = RuleSet.load(Path(ironpost.__file__).parent / "data" / "rules")
    engine = _core.Engine(sys.argv[1].encode(), rules.native, built_in())
    engine.start({}, [])
    sys.stdout.write(json.dumps({"addresses": engine.addresses(), "rules": len(rules.native)}) + "\n")
    sys.stdout.flush()

    def take() -> None:
        while not engine.ended:
            if (batch := engine.next_batch_blocking(1000)) is not None:
                engine.acknowledge(batch.sequence)

    taker = threading.Thread(target=take)
    taker.start()
    for line in sys.stdin:
        if line.strip() == "stop":
            break
        sys.stdout.write(engine.counters().decode() + "\n")
        sys.stdout.flush()
    engine.stop_blocking()
    taker.join()
    sys.stdout.write(engine.counters().decode() + "\n")


if __name__ == "__main__":
    main()
