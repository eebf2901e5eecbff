"""Numbers and paths have documented bounds: the bounds are taken, what lies beyond is refused by its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from ironpost.config import ConfigInvalid, load

#: Key, least, most.
BOUNDS = [
    ("ebpf.blocklist_max_entries", 1, None),
    ("log_pipeline.batch_size", 1, 10_000),
    ("log_pipeline.flush_interval_secs", 1, 3600),
    ("log_pipeline.syslog_tcp_max_connections", 1, 65_536),
    ("log_pipeline.syslog_tcp_max_connections_per_peer", 1, 65_536),
    ("log_pipeline.syslog_tcp_idle_secs", 1, 86_400),
    ("log_pipeline.syslog_tcp_max_message_bytes", 65_536, 16_777_216),
    ("log_pipeline.buffer_capacity", 1, 10_000_000),
    ("log_pipeline.alert_dedup_window_secs", 1, None),
    ("log_pipeline.alert_rate_limit_per_rule", 1, None),
    ("log_pipeline.storage.retention_days", 1, 3650),
    ("container.poll_interval_secs", 1, 3600),
    ("container.max_concurrent_actions", 1, 100),
    ("container.action_timeout_secs", 1, 300),
    ("container.retry_max_attempts", 0, 10),
    ("container.retry_backoff_base_ms", 0, 30_000),
    ("container.container_cache_ttl_secs", 1, 3600),
    ("sbom.vuln_db_update_hours", 1, 8760),
    ("sbom.scan_interval_secs", 60, 604_800),
    ("sbom.max_file_size", 1, 104_857_600),
    ("sbom.max_packages", 1, 500_000),
    ("metrics.port", 1, 65_535),
]


def setting(tmp_path: Path, key: str, value: str) -> Path:
    section, _, name = key.rpartition(".")
    path = tmp_path / "ironpost.toml"
    enabled = "" if section.startswith("log_pipeline") else "enabled = true\n"
    path.write_text(f"[{section}]\n{enabled}{name} = {value}\n")
    return path


def value_of(tmp_path: Path, key: str, value: str) -> object:
    found: object = load(setting(tmp_path, key, value), environment={}).config
    for part in key.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(("key", "least", "most"), BOUNDS)
def test_numbers_are_taken_up_to_their_bounds_and_refused_beyond(
    tmp_path: Path, key: str, least: int, most: int | None
) -> None:
    for good in (least, *((most,) if most is not None else ())):
        assert value_of(tmp_path, key, str(good)) == good
    for bad in (least - 1, *((most + 1,) if most is not None else ())):
        with pytest.raises(ConfigInvalid) as caught:
            value_of(tmp_path, key, str(bad))
        assert caught.value.field == key
        assert caught.value.line > 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sbom.scan_dirs", '["../elsewhere"]'),
        ("sbom.scan_dirs", "[]"),
        ("sbom.scan_dirs", f'["{"a" * 4097}"]'),
        ("sbom.vuln_db_path", '"/var/lib/../../etc"'),
        ("sbom.vuln_db_path", '""'),
        ("sbom.output_format", '"xml"'),
        ("sbom.min_severity", '"severe"'),
        ("container.docker_socket", '""'),
        ("metrics.listen_addr", '""'),
    ],
)
def test_paths_and_words_that_cannot_be_meant_are_refused(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        value_of(tmp_path, key, value)
    assert caught.value.field.startswith(key)
