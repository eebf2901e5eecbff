"""
The native half of Ironpost: batches in, batches out, the interpreter released in between.
"""

from _typeshed import SupportsGetItem
from typing import Any, Final, SupportsIndex, final

__all__ = ["VERSION", "AuditJoiner", "Engine", "EngineBatch", "EventBatch", "Explainer", "Extractors", "Filter", "PacketReader", "RuleSet", "Session", "Unread", "check_regex", "parse", "parse_records", "regex_needles"]

VERSION: Final[str]
"""
Version of the native module, equal to the package's.
"""

@final
class AuditJoiner:
    """
    Joins the records of the Linux audit system that are one event, over the pieces a log is read in.
    """
    def __new__(cls, /) -> AuditJoiner: ...
    def __repr__(self, /) -> str: ...
    def finish(self, /) -> list[tuple[int, bytes]]:
        """
        Returns the events that still waited for records: the log is at its end.
        """
    def take(self, /, lines: bytes | bytearray, offset: SupportsIndex) -> list[tuple[int, bytes]]:
        """
        Takes whole lines that stand at byte `offset` of the log and returns the events that are over.

        Each is (offset of its first line, its lines); `parse_records` reads them.
        """

@final
class Engine:
    """
    Receives, parses, matches and correlates on threads of its own, without the interpreter.

    What comes out are batches of detections, each with the source positions and correlation windows that belong to exactly
    these detections: whoever stores all of it in one transaction and starts again from what is stored loses nothing
    and counts nothing twice.
    """
    def __new__(cls, /, settings: bytes, rules: RuleSet, extractors: Extractors, filter: Filter | None = None) -> Engine:
        """
        Prepares an engine; nothing is opened and no thread started yet.

        Args:
            settings: JSON: `workers`, `files`, `udp`, `tcp`, `journal`, `packets`, `timezone`, `queue_bytes` …
            rules: The rules in force.
            extractors: What turns log lines into fields.
            filter: The packet filter, when its events are read.

        Raises:
            ConfigError: The settings can't be used; the message names the key.
            FilterError: The filter's ring buffer can't be read.
        """
    def __repr__(self, /) -> str: ...
    def acknowledge(self, /, sequence: SupportsIndex) -> None:
        """
        Says that everything up to this batch is stored; only now the kernel's ring buffer may forget it.
        """
    def addresses(self, /) -> dict[str, str]:
        """
        Addresses the sockets are bound to, by source id.
        """
    def counters(self, /) -> bytes:
        """
        Everything counted so far, JSON: per source `received, bytes, parsed, unparsed, empty, matched, lost{reason}`, the sums,
        `detections`, `windows`, `panics`, and depth and capacity of every queue.
        """
    @property
    def ended(self, /) -> bool:
        """
        True when the engine has stopped and every batch was taken.
        """
    def next_batch(self, /) -> Any:
        """
        Awaits the next batch; `None` when the engine has stopped and everything was taken.

        A batch comes at once when it holds detections, else at most once a second when positions have moved. When the
        await is cancelled, the batch it would have got comes with the next one.
        """
    def next_batch_blocking(self, /, timeout_ms: SupportsIndex) -> EngineBatch | None:
        """
        Waits for the next batch; `None` when there is none in time or, as `ended` says, ever again.
        """
    def problems(self, /) -> list[dict[str, str]]:
        """
        What does not work now: dictionaries with `source`, `reason` and `remedy`.
        """
    def start(self, /, checkpoints: dict[str, str], windows: SupportsGetItem[int, tuple[str, SupportsGetItem[int, SupportsIndex]]]) -> None:
        """
        Opens the sources and starts the threads. A source that does not work is listed in `problems`; the others run.

        Args:
            checkpoints: Source id → what the last stored batch said about it.
            windows: (key, state) of every stored correlation window.

        Raises:
            SourceError: Not one of the sources works, or the engine was started before.
        """
    def stop(self, /) -> Any:
        """
        Stops receiving, works through what was received, and ends the threads. What was found can still be taken.
        """
    def stop_blocking(self, /) -> None:
        """
        As `stop`, without an event loop.
        """
    def swap_rules(self, /, rules: RuleSet) -> None:
        """
        Puts other rules in force for everything not yet parsed; windows of unchanged correlations are kept.
        """

@final
class EngineBatch:
    """
    Detections and everything that has to be stored together with them.
    """
    def __repr__(self, /) -> str: ...
    @property
    def checkpoints(self, /) -> dict[str, str]:
        """
        Source id → opaque text to store; an empty text means "forget this source".
        """
    @property
    def counters(self, /) -> bytes:
        """
        Everything counted up to this batch, JSON as of `Engine.counters`.
        """
    @property
    def detection_count(self, /) -> int:
        """
        Number of detections. There is no `len()`: a batch without detections is not false, its positions matter.
        """
    @property
    def detections(self, /) -> bytes:
        """
        The detections, a JSON array.
        """
    @property
    def sequence(self, /) -> int:
        """
        Number of the batch in this run, from 1; what `acknowledge` takes.
        """
    @property
    def windows(self, /) -> list[tuple[str, bytes | None]]:
        """
        (key, state) of every window that changed; `None` means "delete it".
        """

@final
class EventBatch:
    """
    Parsed events: rows of named values. Immutable.
    """
    def __len__(self, /) -> int: ...
    def __repr__(self, /) -> str: ...
    def column(self, /, name: str) -> list[str | None]:
        """
        One field of all rows: the first value as text, or None. Invalid UTF-8 is replaced.
        """
    def row(self, /, index: SupportsIndex) -> dict:
        """
        Row `index` as a dict: dotted ECS names, several values as a list.

        Raises `IndexError` beyond the last row; negative numbers count from the end.
        """
    @property
    def schema(self, /) -> list[str]:
        """
        Names of all fields that some row has, in order of first appearance.
        """
    def to_ndjson(self, /) -> bytes:
        """
        All rows as NDJSON: one flat ECS object per line.
        """

@final
class Explainer:
    """
    Why rules hold or fail on an event. Made from a plan (JSON); immutable.
    """
    def __len__(self, /) -> int: ...
    def __new__(cls, /, plan: bytes | bytearray) -> Explainer:
        """
        Compiles a plan for explanations.
        """
    def __repr__(self, /) -> str: ...
    def explain(self, /, events: Any, logsource: tuple[str | None, str | None, str | None] = ..., ids: SupportsGetItem[int, str] = ..., nearest: SupportsIndex = 5) -> bytes:
        """
        Explains events: newline-separated JSON, or a batch that `parse` made.

        `logsource` is (product, category, service) of all events, each `None` when unknown. Returns a JSON array with one
        object per event: `event`, `logsource`, `routed`, `held` and `rules`, of which there are those that hold and the
        `nearest`, or those named in `ids`.
        """

@final
class Extractors:
    """
    Compiled field extractors.

    Made from the plan that `ironpost.events.extractors` lowers extractor files to; immutable.
    """
    def __len__(self, /) -> int: ...
    def __new__(cls, /, plan: bytes | bytearray) -> Extractors:
        """
        Compiles a plan (JSON); raises `ironpost.errors.ExtractorError`.
        """
    def __repr__(self, /) -> str: ...
    def field_names(self, /) -> list[str]:
        """
        Every field that some extractor can give, sorted.
        """

@final
class Filter:
    """
    The packet filter in the kernel, loaded, attached and pinned. It goes on filtering when this object is gone.

    Lists come and go as JSON bytes. Targets are addresses or networks as text; IPv4-mapped IPv6 is taken as the IPv4 it
    means. Methods may be called from any thread.
    """
    def __repr__(self, /) -> str: ...
    def allow(self, /, targets: SupportsGetItem[int, str], *, expires_boot_ns: SupportsIndex = 0) -> bytes:
        """
        Allows sources until `expires_boot_ns` (0: for good): they are never dropped, whatever is blocked.
        """
    def attached(self, /) -> bytes:
        """
        Interfaces with how the program runs there now: `[{"interface", "mode": "native"|"skb"|null, "note"}]`.
        """
    def block(self, /, entries: SupportsGetItem[int, tuple[str, SupportsIndex, SupportsIndex, SupportsIndex]]) -> bytes:
        """
        Sets blocks; a target that is blocked already gets the new entry.

        Args:
            entries: (target, boot clock in ns after which it ends or 0, rule number, 1 = drop or 2 = monitor).

        Returns:
            `{"written": n, "refused": [{"target", "reason"}]}`; a refused target changed nothing.
        """
    @staticmethod
    def boot_ns() -> int:
        """
        The boot clock in nanoseconds: it goes on while the machine sleeps and is never set.
        """
    def counters(self, /) -> bytes:
        """
        Attachment and counters: the `filter` object of the status.
        """
    def detach(self, /) -> None:
        """
        Detaches from all interfaces and removes all pins, entries and counters.
        """
    @staticmethod
    def detach_pins(pin_dir: str) -> None:
        """
        Detaches and removes what is pinned in `pin_dir`, without opening it.
        """
    def list_allowed(self, /) -> bytes:
        """
        All allow entries: as `list_blocked`, without `mode`.
        """
    def list_blocked(self, /) -> bytes:
        """
        All blocks: `[{"target", "expires_boot_ns", "rule_id", "mode": "drop"|"monitor", "expired"}]`.
        """
    @staticmethod
    def open(pin_dir: str = "/sys/fs/bpf/ironpost", *, interfaces: SupportsGetItem[int, str], mode: str, ring_buffer_size: SupportsIndex, blocklist_max_entries: SupportsIndex, sample_every: SupportsIndex) -> Filter:
        """
        Loads, attaches and pins the filter, or takes over the pinned one with its entries and counters.

        Args:
            pin_dir: Directory for pins, on the BPF file system.
            interfaces: Interfaces to attach to; pinned attachments to others are removed.
            mode: "native", "skb", or "auto" for native with a generic fallback that is reported by `attached`.
            ring_buffer_size: Bytes, a power of two and a multiple of the page size.
            blocklist_max_entries: Room for this many addresses and, separately, networks.
            sample_every: One record for this many drops on a CPU, 0 for none.

        Raises:
            UnsupportedPlatform: Not Linux.
            PrivilegeMissing: CAP_BPF or CAP_NET_ADMIN is missing.
            InterfaceNotFound: There is no such interface.
            ForeignProgram: Another XDP program runs on an interface.
            ConfigError: A size or the mode cannot be used.
            FilterError: The kernel or the pin directory refuses.
        """
    def reader(self, /) -> PacketReader:
        """
        A reader of the packet records, starting at the first one that was not committed. Use one at a time.
        """
    def reattach(self, /) -> None:
        """
        Attaches again where the program was attached and is not any more; a program of somebody else is never replaced.

        Raises:
            ForeignProgram: Another XDP program runs on an interface by now.
            InterfaceNotFound: An interface is gone.
            FilterError: The kernel or the pin directory refuses.
        """
    def sweep(self, /) -> int:
        """
        Removes entries that have expired (they had no effect any more); returns how many.
        """
    def unallow(self, /, targets: SupportsGetItem[int, str]) -> bytes:
        """
        Removes allow entries; returns as `block` does, targets that were not allowed are refused.
        """
    def unblock(self, /, targets: SupportsGetItem[int, str]) -> bytes:
        """
        Removes blocks; returns as `block` does, targets that were not blocked are refused.
        """

@final
class PacketReader:
    """
    Reads packet records without taking them away: what is not committed is read again by the next reader.
    """
    def __repr__(self, /) -> str: ...
    def commit(self, /, position: SupportsIndex) -> None:
        """
        Gives the records before `position` (a `next_position`) back to the kernel.
        """
    def read(self, /, *, limit: SupportsIndex = 4096, timeout_ms: SupportsIndex = 0) -> bytes:
        """
        Waits up to `timeout_ms` for records and returns at most `limit`, one JSON object per line.
        """

@final
class RuleSet:
    """
    A compiled plan of rules. Immutable; a new set replaces an old one.
    """
    def __len__(self, /) -> int: ...
    def __new__(cls, /, plan: bytes) -> RuleSet:
        """
        Compiles a plan (JSON, version 1).
        """
    def __repr__(self, /) -> str: ...
    def field_names(self, /) -> list[str]:
        """
        Names of every event field the rules read.
        """
    def session(self, /, logsource: tuple[str | None, str | None, str | None] = ..., format: str = "json") -> Session:
        """
        Starts an evaluation of events that come in pieces; windows of correlations span the pieces.

        `logsource` is (product, category, service) of all events, each `None` when unknown.
        """

@final
class Session:
    """
    One evaluation of a stream of events, made by `RuleSet.session`.
    """
    def __repr__(self, /) -> str: ...
    def detect(self, /, records: bytes) -> list[Unread]:
        """
        Like `feed`, with detections that are read when asked.
        """
    def detect_batch(self, /, events: EventBatch) -> list[Unread]:
        """
        Like `feed_batch`, with detections that are read when asked.
        """
    def feed(self, /, records: bytes) -> bytes:
        """
        Evaluates newline-separated records and returns their detections as a JSON array.

        A record must be whole; order across calls is the order of time for correlations of events without a time.
        """
    def feed_batch(self, /, events: EventBatch) -> bytes:
        """
        Evaluates events that `parse` made; each row's own log source holds unless one was given for all.
        """
    @property
    def rows(self, /) -> int:
        """
        Number of events so far; the `row` of a detection counts from the session's first.
        """
    @property
    def truncated(self, /) -> int:
        """
        Number of events so far that a bound left values out of (`ironpost.truncated`).
        """

@final
class Unread:
    """
    A detection that Python has not read yet: most are only counted, or looked at by rule and level.
    """
    def __repr__(self, /) -> str: ...
    def head(self, /) -> tuple[str, str, str, str, str, int | None, int]:
        """
        What a reader looks at first: id, rule's id, its title, level, kind, time in nanoseconds or `None`, row.
        """
    def json(self, /) -> bytes:
        """
        The whole detection as a JSON object.
        """

def check_regex(pattern: str) -> str | None:
    """
    Says why the engine cannot use a regular expression, or `None` when it can.
    """

def parse(data: bytes | bytearray, extractors: Extractors, format: str = "auto", year: SupportsIndex | None = None, timezone: str = "UTC") -> EventBatch:
    """
    Parses newline-separated records.

    `year` completes timestamps without one (None: the latest year that is not in the future), `timezone` is an IANA
    name or `local`. Raises `ironpost.errors.ParseError` for an unknown format or zone.
    """

def parse_records(records: SupportsGetItem[int, bytes | bytearray], extractors: Extractors, format: str = "auto", year: SupportsIndex | None = None, timezone: str = "UTC") -> EventBatch:
    """
    Parses records that are already apart; a newline inside one is data. Otherwise like `parse`.
    """

def regex_needles(pattern: str) -> list[str] | None:
    """
    Returns the literals that spare the engine from searching most values with a regular expression, or `None`.
    """
