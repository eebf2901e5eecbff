"""Defaults < file < environment < flags, and only the merged result is judged."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironpost.config import ConfigInvalid, Configuration, environment_variables, example, load, to_plain, to_toml
from ironpost.errors import ConfigError

FOUNDING_VARIABLES = [
    "IRONPOST_GENERAL_LOG_LEVEL",
    "IRONPOST_GENERAL_LOG_FORMAT",
    "IRONPOST_GENERAL_DATA_DIR",
    "IRONPOST_GENERAL_PID_FILE",
    "IRONPOST_EBPF_ENABLED",
    "IRONPOST_EBPF_INTERFACE",
    "IRONPOST_EBPF_XDP_MODE",
    "IRONPOST_EBPF_RING_BUFFER_SIZE",
    "IRONPOST_EBPF_BLOCKLIST_MAX_ENTRIES",
    "IRONPOST_LOG_PIPELINE_ENABLED",
    "IRONPOST_LOG_PIPELINE_SOURCES",
    "IRONPOST_LOG_PIPELINE_SYSLOG_BIND",
    "IRONPOST_LOG_PIPELINE_SYSLOG_TCP_BIND",
    "IRONPOST_LOG_PIPELINE_WATCH_PATHS",
    "IRONPOST_LOG_PIPELINE_BATCH_SIZE",
    "IRONPOST_LOG_PIPELINE_FLUSH_INTERVAL_SECS",
    "IRONPOST_STORAGE_POSTGRES_URL",
    "IRONPOST_STORAGE_REDIS_URL",
    "IRONPOST_STORAGE_RETENTION_DAYS",
    "IRONPOST_CONTAINER_ENABLED",
    "IRONPOST_CONTAINER_DOCKER_SOCKET",
    "IRONPOST_CONTAINER_POLL_INTERVAL_SECS",
    "IRONPOST_CONTAINER_POLICY_PATH",
    "IRONPOST_CONTAINER_AUTO_ISOLATE",
    "IRONPOST_SBOM_ENABLED",
    "IRONPOST_SBOM_SCAN_DIRS",
    "IRONPOST_SBOM_VULN_DB_UPDATE_HOURS",
    "IRONPOST_SBOM_VULN_DB_PATH",
    "IRONPOST_SBOM_MIN_SEVERITY",
    "IRONPOST_SBOM_OUTPUT_FORMAT",
    "IRONPOST_METRICS_ENABLED",
    "IRONPOST_METRICS_LISTEN_ADDR",
    "IRONPOST_METRICS_PORT",
    "IRONPOST_METRICS_ENDPOINT",
]

NOWHERE = Path("/nonexistent/ironpost.toml")


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "ironpost.toml"
    path.write_text(text)
    return path


def problems_of(caught: pytest.ExceptionInfo[ConfigInvalid]) -> dict[str, ConfigError]:
    return {problem.field: problem for problem in caught.value.problems}


def test_without_any_layer_the_defaults_apply():
    loaded = load(environment={}, default_path=NOWHERE)
    assert loaded.config == Configuration()
    assert loaded.path is None
    assert loaded.origins == {}


@pytest.mark.parametrize(
    ("key", "default"),
    [
        ("general.log_level", "info"),
        ("general.log_format", "json"),
        ("general.data_dir", "/var/lib/ironpost"),
        ("general.pid_file", "/var/run/ironpost/ironpost.pid"),
        ("general.mode", "observe"),
        ("ebpf.enabled", False),
        ("ebpf.interface", "eth0"),
        ("ebpf.xdp_mode", "auto"),
        ("ebpf.ring_buffer_size", 262144),
        ("ebpf.blocklist_max_entries", 10000),
        ("log_pipeline.enabled", True),
        ("log_pipeline.syslog_bind", "127.0.0.1:5514"),
        ("log_pipeline.syslog_tcp_bind", "127.0.0.1:5514"),
        ("log_pipeline.batch_size", 100),
        ("log_pipeline.flush_interval_secs", 5),
        ("log_pipeline.rule_dir", "/etc/ironpost/rules"),
        ("log_pipeline.storage.postgres_url", "postgresql://localhost:5432/ironpost"),
        ("log_pipeline.storage.redis_url", "redis://localhost:6379"),
        ("log_pipeline.storage.retention_days", 30),
        ("container.enabled", False),
        ("container.docker_socket", "/var/run/docker.sock"),
        ("container.poll_interval_secs", 10),
        ("container.policy_path", "/etc/ironpost/policies"),
        ("container.auto_isolate", False),
        ("sbom.scan_dirs", ["."]),
        ("sbom.vuln_db_update_hours", 24),
        ("sbom.min_severity", "medium"),
        ("sbom.output_format", "cyclonedx"),
        ("metrics.enabled", False),
        ("metrics.listen_addr", "127.0.0.1"),
        ("metrics.port", 9100),
        ("metrics.endpoint", "/metrics"),
        ("response.default_duration", "10m"),
    ],
)
def test_defaults_are_the_documented_ones(key, default):
    value = Configuration()
    for part in key.split("."):
        value = getattr(value, part)
    assert value == default


def test_every_founding_variable_sets_a_key():
    assert set(FOUNDING_VARIABLES) <= set(environment_variables())
    assert len(FOUNDING_VARIABLES) == 34


def test_a_partial_file_leaves_the_rest_at_its_default(tmp_path):
    loaded = load(write(tmp_path, "[log_pipeline]\nbatch_size = 1000\n"), environment={})
    assert loaded.config.log_pipeline.batch_size == 1000
    assert loaded.config.log_pipeline.flush_interval_secs == 5


def test_the_environment_wins_over_the_file_and_flags_win_over_both(tmp_path):
    path = write(tmp_path, '[general]\nlog_level = "error"\nlog_format = "pretty"\n')
    loaded = load(
        path,
        environment={"IRONPOST_GENERAL_LOG_LEVEL": "warn", "IRONPOST_GENERAL_LOG_FORMAT": "pretty"},
        flags={"general.log_level": ("--log-level", "debug")},
    )
    assert loaded.config.general.log_level == "debug"
    assert loaded.origins["general.log_level"] == "flag --log-level"
    assert loaded.origins["general.log_format"] == "environment IRONPOST_GENERAL_LOG_FORMAT"


LEVELS = st.sampled_from(["trace", "debug", "info", "warn", "error"])


@given(file=st.none() | LEVELS, variable=st.none() | LEVELS, flag=st.none() | LEVELS)
def test_the_highest_layer_that_speaks_decides(tmp_path_factory, file, variable, flag):
    path = tmp_path_factory.mktemp("layers") / "ironpost.toml"
    path.write_text("" if file is None else f'[general]\nlog_level = "{file}"\n')
    loaded = load(
        path,
        environment={} if variable is None else {"IRONPOST_GENERAL_LOG_LEVEL": variable},
        flags={} if flag is None else {"general.log_level": ("--log-level", flag)},
    )
    expected = next(level for level in (flag, variable, file, "info") if level is not None)
    assert loaded.config.general.log_level == expected


def test_a_bad_value_of_the_file_that_the_environment_corrects_is_accepted(tmp_path):
    path = write(tmp_path, "[log_pipeline]\nbatch_size = 0\n")
    loaded = load(path, environment={"IRONPOST_LOG_PIPELINE_BATCH_SIZE": "10"})
    assert loaded.config.log_pipeline.batch_size == 10


def test_lists_in_the_environment_are_split_at_commas():
    loaded = load(
        environment={"IRONPOST_LOG_PIPELINE_SOURCES": " syslog_udp , file,"},
        default_path=NOWHERE,
    )
    assert loaded.config.log_pipeline.sources == ["syslog_udp", "file"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("IRONPOST_LOG_PIPELINE_BATCH_SIZE", "many", "whole number"),
        ("IRONPOST_EBPF_ENABLED", "perhaps", "true or false"),
        ("IRONPOST_METRICS_PORT", "", "whole number"),
    ],
)
def test_a_variable_of_the_wrong_type_is_an_error_that_names_it(name, text, expected):
    with pytest.raises(ConfigInvalid, match=expected) as caught:
        load(environment={name: text}, default_path=NOWHERE)
    assert caught.value.path == f"environment {name}"


def test_a_variable_out_of_bounds_is_named_as_the_culprit(tmp_path):
    path = write(tmp_path, "[log_pipeline]\nbatch_size = 5\n")
    with pytest.raises(ConfigInvalid) as caught:
        load(path, environment={"IRONPOST_LOG_PIPELINE_BATCH_SIZE": "10001"})
    assert caught.value.path == "environment IRONPOST_LOG_PIPELINE_BATCH_SIZE"
    assert "at most 10000" in caught.value.reason


def test_a_variable_that_sets_nothing_is_mentioned_with_what_was_meant():
    loaded = load(environment={"IRONPOST_GENERAL_LOGLEVEL": "debug"}, default_path=NOWHERE)
    assert "IRONPOST_GENERAL_LOG_LEVEL" in loaded.notices[0]


def test_a_key_that_changes_nothing_is_named_once_it_is_set(tmp_path):
    text = '[log_pipeline]\ndrop_policy = "Newest"\n[container]\nmax_concurrent_actions = 3\n'
    text += "container_cache_ttl_secs = 5\n[metrics]\nenabled = true\n[sbom]\nenabled = false\nmax_packages = 7\n"
    path = write(tmp_path, text)
    notices = load(path, environment={"IRONPOST_METRICS_PORT": "9200"}).notices
    assert [notice.partition(" ")[0] for notice in notices] == [
        "log_pipeline.drop_policy",
        "container.max_concurrent_actions",
        "container.container_cache_ttl_secs",
        "metrics.enabled",
        "sbom.max_packages",
        "metrics.port",
    ]
    assert f"({path}:2) has no effect in this version: the newest datagrams are shed" in notices[0]
    assert "(environment IRONPOST_METRICS_PORT)" in notices[-1]
    assert load(write(tmp_path, "[general]\nhealth_interval_secs = 5\n"), environment={}).notices == ()


def test_an_unknown_key_is_an_error_with_line_and_suggestion(tmp_path):
    path = write(tmp_path, '# comment\n[general]\nlog_levl = "info"\n')
    with pytest.raises(ConfigInvalid, match="unknown key") as caught:
        load(path, environment={})
    assert (caught.value.path, caught.value.line) == (str(path), 3)
    assert caught.value.hint == "did you mean general.log_level?"


def test_a_key_in_the_wrong_section_is_told_its_home(tmp_path):
    with pytest.raises(ConfigInvalid) as caught:
        load(write(tmp_path, "[general]\nbatch_size = 5\n"), environment={})
    assert "log_pipeline.batch_size" in caught.value.hint


def test_all_mistakes_are_reported_at_once(tmp_path):
    text = '[general]\nlog_level = "loud"\n[log_pipeline]\nbatch_size = "5"\nsources = []\n'
    text += "[metrics]\nenabled = true\nport = 0\n"
    with pytest.raises(ConfigInvalid) as caught:
        load(write(tmp_path, text), environment={})
    found = {field: problem.line for field, problem in problems_of(caught).items()}
    assert found == {"general.log_level": 2, "log_pipeline.batch_size": 4, "log_pipeline.sources": 5, "metrics.port": 8}


def test_settings_of_a_disabled_module_are_not_checked_but_kept(tmp_path):
    path = write(tmp_path, '[ebpf]\nenabled = false\ninterface = ""\nxdp_mode = "warp"\nring_buffer_size = 17\n')
    config = load(path, environment={}).config
    assert (config.ebpf.xdp_mode, config.ebpf.ring_buffer_size) == ("warp", 17)
    with pytest.raises(ConfigInvalid) as caught:
        load(path, environment={"IRONPOST_EBPF_ENABLED": "true"})
    assert set(problems_of(caught)) == {"ebpf.interface", "ebpf.xdp_mode", "ebpf.ring_buffer_size"}


def test_a_misspelt_key_in_a_disabled_module_is_still_an_error(tmp_path):
    with pytest.raises(ConfigInvalid, match="unknown key"):
        load(write(tmp_path, "[ebpf]\nenable = true\n"), environment={})


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [("[general\n", 1, 9), ('[general]\nlog_level = "info"\nlog_level = "warn"\n', 3, 19), ("a = \n", 1, 5)],
)
def test_broken_toml_is_reported_with_line_and_column(tmp_path, text, line, column):
    with pytest.raises(ConfigError, match=f"line {line}, column {column}") as caught:
        load(write(tmp_path, text), environment={})
    assert caught.value.line == line


def test_a_named_file_that_is_missing_is_an_error_but_the_default_file_is_not(tmp_path):
    with pytest.raises(ConfigError, match="not found"):
        load(tmp_path / "missing.toml", environment={})
    assert load(environment={}, default_path=tmp_path / "missing.toml").path is None


def test_a_file_that_is_no_text_is_refused_with_its_line(tmp_path):
    path = tmp_path / "ironpost.toml"
    path.write_bytes(b"[general]\n# \xff\n")
    with pytest.raises(ConfigError, match="UTF-8") as caught:
        load(path, environment={})
    assert caught.value.line == 2


@pytest.mark.parametrize("section", ["general = 5\n", '[log_pipeline]\nstorage = "x"\n'])
def test_a_section_given_as_a_value_is_an_error_also_under_a_variable(tmp_path, section):
    with pytest.raises(ConfigInvalid, match="section"):
        load(write(tmp_path, section), environment={})


@pytest.mark.parametrize("path", ["relative.log", "/var/log/../../etc/shadow", "/etc/shadow"])
def test_watch_paths_outside_the_roots_are_refused(tmp_path, path):
    with pytest.raises(ConfigInvalid) as caught:
        load(write(tmp_path, f'[log_pipeline]\nwatch_paths = ["{path}"]\n'), environment={})
    assert caught.value.field == "log_pipeline.watch_paths"


def test_a_link_put_beside_a_log_keeps_no_command_from_starting(tmp_path):
    (tmp_path / "link.log").symlink_to("/etc/passwd")
    text = f'[log_pipeline]\nwatch_roots = ["{tmp_path}"]\nwatch_paths = ["{tmp_path}/link.log"]\n'
    assert load(write(tmp_path, text), environment={}).config.log_pipeline.watch_paths == [f"{tmp_path}/link.log"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[log_pipeline]\nsyslog_bind = "5514"\n', "ADDRESS:PORT"),
        ('[log_pipeline]\nsyslog_bind = "localhost:5514"\n', "not an IP address"),
        ('[log_pipeline]\nsyslog_bind = "127.0.0.1:70000"\n', "above 65535"),
        ('[log_pipeline]\nsources = ["sislog"]\n', "must be one of"),
        ('[response]\nallowlist = ["10.0.0.0/33"]\n', "not an IP address or network"),
        ('[response]\ndefault_duration = "soon"\n', "duration"),
        ("[sbom]\nenabled = true\nscan_interval_secs = 30\n", "at least 60"),
        ("[ebpf]\nenabled = true\nring_buffer_size = 100000\n", "power of two"),
        ('[ebpf]\nenabled = true\nxdp_mode = "hw"\n', "no card holds the filter's prefix tries"),
        ('[metrics]\nenabled = true\nendpoint = "/m"\n', "only /metrics"),
        ("[log_pipeline]\nbatch_size = true\n", "whole number"),
    ],
)
def test_a_value_out_of_its_domain_says_what_is_expected(tmp_path, text, expected):
    with pytest.raises(ConfigInvalid, match=expected) as caught:
        load(write(tmp_path, text), environment={})
    assert caught.value.line > 1


def test_the_example_file_is_current_valid_and_equal_to_the_defaults():
    path = Path(__file__).parents[3] / "ironpost.toml.example"
    assert path.read_text() == example()
    assert load(path, environment={}).config == Configuration()


def test_every_key_is_documented():
    undocumented = [line for line in example().splitlines() if line.startswith("#  [")]
    assert undocumented == []


def test_what_is_shown_can_be_read_again(tmp_path):
    shown = to_toml(Configuration())
    assert load(write(tmp_path, shown), environment={}).config == Configuration()
    assert tomllib.loads(shown) == to_plain(Configuration())


def test_passwords_are_masked_when_shown(tmp_path):
    path = write(
        tmp_path, '[log_pipeline.storage]\npostgres_url = "postgresql://me:s/e@c:r@et@db:5432/x?sslpassword=hid"\n'
    )
    shown = to_toml(load(path, environment={}).config, section="log_pipeline")
    assert "***REDACTED***@db:5432" in shown
    assert not any(secret in shown for secret in ("s/e", "c:r", "et@", "hid"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("IRONPOST_GENERAL_LOG_LEVL", "; did you mean IRONPOST_GENERAL_LOG_LEVEL?"),
        ("IRONPOST_HOME", ""),
        ("IRONPOST_VERSION", ""),
    ],
)
def test_only_a_variable_that_is_close_to_a_setting_is_taken_for_a_slip(tmp_path, name, hint):
    loaded = load(environment={name: "x"}, default_path=tmp_path / "none.toml")
    assert loaded.notices == (f"environment variable {name} is no setting of Ironpost{hint}",)
