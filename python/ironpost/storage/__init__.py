"""What must survive a crash: detections, alerts, decisions, the ledger, positions and windows."""

from ironpost.storage.ledger import Verdict
from ironpost.storage.reader import StoreReader
from ironpost.storage.store import AlertChange, CommitResult, CommitUnit, Decide, Store

__all__ = ["AlertChange", "CommitResult", "CommitUnit", "Decide", "Store", "StoreReader", "Verdict"]
