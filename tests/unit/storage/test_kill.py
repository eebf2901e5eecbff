"""A writer killed at random moments: nothing is lost, nothing is double."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ironpost.storage import Store, StoreReader

TOTAL = 3000
BATCH = 20

CHILD = """
import sys
from support.response import decision, detection
from ironpost.model import ActionRecord, Entity, LIVE_STATES, DecisionState, Transition, Verb
from ironpost.storage import CommitUnit, Store
path, total, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def decide(alert, found, history):
    return [decision(alert.entity.value, id=found.id, alert_ids=(alert.id,))]

with Store(path) as store:
    position = int(store.checkpoints().get("source", "0"))
    while position < total:
        # Half a batch is read again each time, as after a crash between engine and store.
        first = max(0, position - batch // 2)
        items = [
            detection(n, entity=Entity("source.ip", f"10.0.{n // 5 // 250}.{n // 5 % 250}"))
            for n in range(first, min(total, first + batch))
        ]
        position = first + len(items)
        store.commit(CommitUnit(items, {"source": str(position)}, [("window", str(position).encode())]), decide)
        work = store.work([Verb.BAN])
        store.settle(
            [ActionRecord("ip_ban", each.target, success=True, timestamp=1, decision_id=each.id) for each in work],
            [Transition(each.id, LIVE_STATES, DecisionState.ACTIVE, enforced_until=each.expires_at) for each in work],
        )
        print(position, flush=True)
"""


@pytest.mark.slow
def test_a_store_killed_at_random_moments_loses_and_doubles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ironpost.db"
    dice = random.Random(7)
    kills = 0
    acknowledged = 0
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    for _ in range(400):
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(TOTAL), str(BATCH)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout is not None
            for _ in range(dice.randrange(1, 12)):
                line = child.stdout.readline()
                acknowledged = max(acknowledged, int(line or 0))
            # Somewhere inside the next commit, not between two.
            time.sleep(dice.random() * 0.004)
            child.send_signal(signal.SIGKILL)
            kills += child.wait() == -signal.SIGKILL
        with StoreReader(path) as reader:
            stored = int(reader.checkpoints()["source"])
            assert stored >= acknowledged
            assert dict(reader.windows())["window"] == str(stored).encode()
            assert reader.check() == "ok"
        if stored >= TOTAL:
            break
    assert kills >= 10
    with Store(path) as store:
        alerts = store.alerts(limit=TOTAL)
        assert sum(alert.count for alert in alerts) == TOTAL
        assert {alert.count for alert in alerts} == {5}
        decisions = store.decisions(limit=TOTAL)
        assert len(decisions) == len(alerts) == TOTAL // 5
        verdict = store.verify_ledger()
        assert verdict.is_whole
        banned = {record.target for record in store.actions(limit=10 * TOTAL)}
        assert banned <= {each.target for each in decisions}
