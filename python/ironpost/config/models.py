"""The configuration as one tree of models: every key, its default, its bounds and its sentence of documentation.

The generated ``ironpost.toml.example`` and the error messages come from here, so that they can't disagree.
"""

from __future__ import annotations

import ipaddress
import mmap
import posixpath
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ironpost.config.values import parse_bind
from ironpost.model import parse_duration

_MAX_PATH = 4096

LogLevel = Literal["trace", "debug", "info", "warn", "error"]
LogFormat = Literal["json", "pretty"]
Mode = Literal["observe", "enforce"]
SourceName = Literal["syslog", "syslog_udp", "syslog_tcp", "syslog_unix", "file", "journal", "docker"]


def _plain_path(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    if len(text) > _MAX_PATH:
        raise ValueError(f"must be at most {_MAX_PATH} characters")
    if ".." in text.split("/"):
        raise ValueError("must not contain '..'")
    return text


def _absolute_path(text: str) -> str:
    if not posixpath.isabs(_plain_path(text)):
        raise ValueError("must be an absolute path")
    return text


def _absolute_or_empty(text: str) -> str:
    return _absolute_path(text) if text else text


def _bind(text: str) -> str:
    parse_bind(text)
    return text


def _duration(text: str) -> str:
    if parse_duration(text) < 1_000_000_000:
        raise ValueError("must be at least one second")
    return text


def _file_mode(text: str) -> str:
    if not re.fullmatch("0?[0-7]{3}", text):
        raise ValueError(f"{text!r} is no octal permission such as 0666 or 0660")
    return text


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError as error:
        raise ValueError(f"{text!r} is not an IP address or network such as 192.0.2.7 or 192.0.2.0/24") from error


def _ring_buffer(size: int) -> int:
    if size < mmap.PAGESIZE or size & (size - 1):
        raise ValueError(f"must be a power of two and a multiple of the page size ({mmap.PAGESIZE})")
    return size


def _scan_interval(seconds: int) -> int:
    if 0 < seconds < 60:
        raise ValueError("must be 0 (only on demand) or at least 60")
    return seconds


def _xdp_mode(mode: str) -> str:
    if mode == "hw":
        raise ValueError(
            "hw is not possible: no card holds the filter's prefix tries and ring buffer; use auto or native"
        )
    return mode


def _endpoint(text: str) -> str:
    if text != "/metrics":
        raise ValueError("only /metrics is served")
    return text


Path = Annotated[str, AfterValidator(_plain_path)]
AbsolutePath = Annotated[str, AfterValidator(_absolute_path)]
OptionalPath = Annotated[str, AfterValidator(_absolute_or_empty)]
Bind = Annotated[str, AfterValidator(_bind)]
Duration = Annotated[str, AfterValidator(_duration)]
Network = Annotated[str, AfterValidator(_network)]
FileMode = Annotated[str, AfterValidator(_file_mode)]
XdpMode = Annotated[Literal["native", "skb", "hw", "auto"], AfterValidator(_xdp_mode)]
ScanInterval = Annotated[int, AfterValidator(_scan_interval)]
RingBufferSize = Annotated[int, AfterValidator(_ring_buffer)]


class Section(BaseModel):
    """What every section has in common: unknown keys are errors, types are not guessed, values don't change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class General(Section):
    """The daemon itself."""

    log_level: LogLevel = "info"
    """Least level that is logged; RUST_LOG-like filters per module come from the RUST_LOG variable."""
    log_format: LogFormat = "json"
    """Form of the daemon's own log on standard error."""
    data_dir: AbsolutePath = "/var/lib/ironpost"
    """Where state lives. When left at the default and not writable: $XDG_STATE_HOME/ironpost."""
    pid_file: OptionalPath = "/var/run/ironpost/ironpost.pid"
    """File with the daemon's process id; empty for none. At the default and not writable: inside data_dir."""
    control_socket: OptionalPath = ""
    """Unix socket of the command line; empty for control.sock inside data_dir."""
    mode: Mode = "observe"
    """observe: decide, but change nothing on this host. enforce: carry decisions out."""
    health_interval_secs: int = Field(default=30, ge=1, le=3600)
    """Seconds between two health checks."""


class Ebpf(Section):
    """The packet filter (XDP). Needs CAP_BPF and CAP_NET_ADMIN."""

    enabled: bool = False
    """Attach the filter."""
    interface: str = Field(default="eth0", min_length=1)
    """Interface to filter, several separated by commas, or auto: those with a default route."""
    xdp_mode: XdpMode = "auto"
    """auto: native, else generic, and says so; native: in the driver or not at all; skb: generic, works everywhere."""
    ring_buffer_size: RingBufferSize = 262_144
    """Bytes of the kernel's event buffer: a power of two, at least a page."""
    blocklist_max_entries: int = Field(default=10_000, ge=1, le=16_777_216)
    """Most networks on the kernel's block list, per address family."""
    pin_dir: AbsolutePath = "/sys/fs/bpf/ironpost"
    """Directory on the BPF file system where the filter stays while no daemon runs."""
    sample_every: int = Field(default=1, ge=1, le=1_000_000)
    """Report every n-th dropped packet as an event; counters always count all."""


class Storage(Section):
    """Servers for larger installations. The store on this host (SQLite in data_dir) needs none of them."""

    postgres_url: str = "postgresql://localhost:5432/ironpost"
    """PostgreSQL for alerts and events."""
    redis_url: str = "redis://localhost:6379"
    """Redis for the live stream."""
    retention_days: int = Field(default=30, ge=1, le=3650)
    """Days that closed alerts and their detections are kept."""


class LogPipeline(Section):
    """Logs in, detections out."""

    enabled: bool = True
    """Read logs."""
    sources: list[SourceName] = Field(default=["syslog", "file", "journal"], min_length=1)
    """syslog (= syslog_udp and syslog_tcp), syslog_unix, file, journal, docker."""
    syslog_bind: Bind = "127.0.0.1:5514"
    """Syslog over UDP."""
    syslog_tcp_bind: Bind = "127.0.0.1:5514"
    """Syslog over TCP, newline or octet-counted frames."""
    syslog_tcp_max_connections: int = Field(default=256, ge=1, le=65_536)
    """Syslog connections open at one time; further ones are closed and counted."""
    syslog_tcp_max_connections_per_peer: int = Field(default=32, ge=1, le=65_536)
    """The same for one address (IPv6: one /64 network)."""
    syslog_tcp_idle_secs: int = Field(default=300, ge=1, le=86_400)
    """Seconds after which a silent connection is closed and counted."""
    syslog_tcp_max_message_bytes: int = Field(default=1_048_576, ge=65_536, le=16_777_216)
    """A longer message is cut there, marked and counted."""
    syslog_unix_path: AbsolutePath = "/run/ironpost/log"
    """Socket that syslog_unix makes for programs of this host; /dev/log where no other program makes it."""
    syslog_unix_mode: FileMode = "0666"
    """Permissions of that socket, octal; 0666 lets every program write, as /dev/log does."""
    watch_paths: list[AbsolutePath] = [
        "/var/log/auth.log",
        "/var/log/syslog",
        "/var/log/secure",
        "/var/log/messages",
        "/var/log/audit/audit.log",
    ]
    """Files to follow, * and ? allowed in the last part. Of the defaults, those that exist."""
    watch_roots: list[AbsolutePath] = Field(default=["/var/log", "/tmp"], min_length=1)  # noqa: S108 - a root, not a file
    """Directories that watch_paths may lie in once links are resolved."""
    batch_size: int = Field(default=100, ge=1, le=10_000)
    """Rows that are stored together at most."""
    flush_interval_secs: int = Field(default=5, ge=1, le=3600)
    """Seconds that rows wait for the store at most; detection never waits."""
    rule_dir: AbsolutePath = "/etc/ironpost/rules"
    """Sigma rules. When left at the default and missing: the rules that come with Ironpost."""
    field_map_dir: AbsolutePath = "/etc/ironpost/field_maps"
    """Your field maps; they stand before those that come with Ironpost. When left at the default and missing: none."""
    extractor_dir: AbsolutePath = "/etc/ironpost/extractors"
    """Your extractors, read at the start beside the shipped ones. When left at the default and missing: none."""
    rule_reload_secs: int = Field(default=30, ge=1, le=86_400)
    """Seconds between two looks at rule_dir for changes."""
    buffer_capacity: int = Field(default=10_000, ge=1, le=10_000_000)
    """Events that may wait between receivers and detection."""
    drop_policy: Literal["Oldest", "Newest"] = "Oldest"
    """Which syslog datagrams are shed (and counted) when the buffer is full; files and TCP wait instead."""
    alert_dedup_window_secs: int = Field(default=60, ge=1, le=86_400)
    """Seconds between two notices of an alert that keeps gathering."""
    alert_rate_limit_per_rule: int = Field(default=10, ge=1, le=100_000)
    """Repeated notices of one rule per minute; a new alert is always shown, and all are stored and counted."""
    timezone: str = Field(default="local", min_length=1)
    """Time zone of log lines that name none: local, UTC, or a name such as Europe/Berlin."""
    workers: int = Field(default=0, ge=0, le=1024)
    """Threads that parse and match; 0 for one per core."""
    storage: Storage = Storage()
    """See below."""


class Container(Section):
    """Container isolation through the Docker engine."""

    enabled: bool = False
    """Talk to the engine."""
    docker_socket: str = Field(default="/var/run/docker.sock", min_length=1)
    """The engine's socket."""
    poll_interval_secs: int = Field(default=10, ge=1, le=3600)
    """Seconds between two looks at whether the engine answers."""
    policy_path: AbsolutePath = "/etc/ironpost/policies"
    """Response policies. When left at the default and missing: the policies that come with Ironpost."""
    auto_isolate: bool = False
    """Let policies isolate containers; general.mode must be enforce too."""
    max_concurrent_actions: int = Field(default=10, ge=1, le=100)
    """Actions on containers under way at once."""
    action_timeout_secs: int = Field(default=30, ge=1, le=300)
    """Seconds an action may take."""
    retry_max_attempts: int = Field(default=3, ge=0, le=10)
    """Further attempts after a failed action."""
    retry_backoff_base_ms: int = Field(default=500, ge=0, le=30_000)
    """Milliseconds before the first further attempt, multiplied by its number."""
    container_cache_ttl_secs: int = Field(default=60, ge=1, le=3600)
    """Seconds that a looked-up container is believed."""


class Sbom(Section):
    """Inventory and known vulnerabilities."""

    enabled: bool = False
    """Scan periodically."""
    scan_dirs: list[Path] = Field(default=["."], min_length=1)
    """Directories to scan."""
    vuln_db_update_hours: int = Field(default=24, ge=1, le=8760)
    """Hours between two updates of the vulnerability database."""
    vuln_db_path: Path = "/var/lib/ironpost/vuln-db"
    """Directory of the vulnerability database."""
    min_severity: Literal["info", "low", "medium", "high", "critical"] = "medium"
    """Least severity that becomes an alert."""
    output_format: Literal["spdx", "cyclonedx"] = "cyclonedx"
    """Form of the written document."""
    scan_interval_secs: ScanInterval = Field(default=86_400, ge=0, le=604_800)
    """Seconds between two scans; 0 for only on demand, else at least 60."""
    max_file_size: int = Field(default=10_485_760, ge=1, le=104_857_600)
    """Largest file that is read, in bytes."""
    max_packages: int = Field(default=50_000, ge=1, le=500_000)
    """Most packages of one scan."""


class Metrics(Section):
    """Prometheus metrics over HTTP."""

    enabled: bool = False
    """Serve metrics."""
    listen_addr: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on; anything but loopback is answered with a warning."""
    port: int = Field(default=9100, ge=1, le=65_535)
    """Port to listen on."""
    endpoint: Annotated[str, AfterValidator(_endpoint)] = "/metrics"
    """Path of the metrics."""


class Response(Section):
    """What decisions may touch, and for how long."""

    allowlist: list[Network] = []
    """Addresses and networks that are never acted on."""
    default_duration: Duration = "10m"
    """How long a decision lasts when neither the policy nor the command says."""


class Configuration(Section):
    """All sections."""

    general: General = General()
    ebpf: Ebpf = Ebpf()
    log_pipeline: LogPipeline = LogPipeline()
    container: Container = Container()
    sbom: Sbom = Sbom()
    metrics: Metrics = Metrics()
    response: Response = Response()


#: Keys that are accepted and change nothing in this version, with what happens instead; a section stands for its keys.
WITHOUT_EFFECT = {
    "log_pipeline.batch_size": "what was found is stored at once",
    "log_pipeline.flush_interval_secs": "what was found is stored at once",
    "log_pipeline.drop_policy": "the newest datagrams are shed, and counted",
    "log_pipeline.storage.postgres_url": "alerts are stored on this host, in data_dir",
    "log_pipeline.storage.redis_url": "the live stream comes from the control socket",
    "container.max_concurrent_actions": "actions are carried out one after another",
    "container.container_cache_ttl_secs": "containers are looked up each time",
    "sbom": "there is no periodic scan",
    "metrics": "no metrics are served; `ironpost status --json` has all counters",
}

#: Sections with an ``enabled`` key: while it is false, only names and types of their keys are checked.
OPTIONAL_SECTIONS = ("ebpf", "log_pipeline", "container", "sbom", "metrics")
