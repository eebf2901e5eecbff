"""The report of the demonstration: when it may say that all is well."""

from __future__ import annotations

import ipaddress
import struct

from ironpost.demo import latency, preflight, probe, sshd
from ironpost.demo.preflight import Missing
from ironpost.demo.timeline import Kind, Report


def test_report_without_a_check_does_not_hold():
    assert not Report(quiet=True).holds


def test_one_claim_that_was_not_observed_spoils_the_report():
    report = Report(quiet=True)
    report.expect("a", "this", holds=True)
    assert report.holds
    report.expect("a", "that", holds=False, observed="nothing")
    assert not report.holds
    assert "FAIL  step a: that (nothing)" in report.to_text()
    assert report.to_json()["ok"] is False


def test_timeline_is_in_order_of_time_whatever_the_order_of_notes():
    report = Report(quiet=True, started_ns=1_000_000_000)
    report.moment(1_005_000_000, "a", Kind.DONE, "packets", "second")
    report.moment(1_002_500_000, "a", Kind.SEEN, "auth.log", "first")
    assert [(entry["at_ms"], entry["text"]) for entry in report.to_json()["timeline"]] == [
        (2.5, "first"),
        (5.0, "second"),
    ]


def test_delay_is_given_only_when_both_ends_were_observed():
    report = Report(quiet=True)
    report.figure("whole", 1_000_000, 3_500_000)
    report.figure("half", 1_000_000, None)
    assert report.figures == {"whole": 2.5}


def test_missing_things_lead_to_one_command_without_repetition():
    items = [
        Missing("program ssh", "", ("openssh-client",)),
        Missing("program ssh-keygen", "", ("openssh-client",)),
        Missing("program ip", "", ("iproute2",)),
    ]
    assert (
        preflight.explain(items).splitlines()[-1]
        == "hint: apt-get install --no-install-recommends iproute2 openssh-client"
    )


def test_echo_request_has_a_checksum_that_sums_to_zero():
    # RFC 1071: the sum over data and its checksum is all ones, so the checksum of the whole is zero.
    rest = struct.pack("!HHQ", 0x1234, 7, 0xDEAD_BEEF_0102_0304)
    checksum = probe._checksum(struct.pack("!BBH", 8, 0, 0) + rest)
    assert probe._checksum(struct.pack("!BBH", 8, 0, checksum) + rest) == 0


def test_failure_line_tells_the_real_address_behind_a_forged_user_name():
    forged = "a from 192.0.2.1 port 22 ssh2"
    text = f"Nov 20 18:38:20 h sshd[1]: Failed password for invalid user {forged} from 192.0.2.9 port 5 ssh2"
    assert sshd.LogLine(0, text).failed_from == "192.0.2.9"
    assert sshd.LogLine(0, text.replace("Failed", "Accepted")).failed_from == ""


def test_line_of_the_bench_is_a_failure_of_its_source():
    line = latency._failure(ipaddress.IPv4Address("198.18.1.7"), 3).decode()
    assert sshd.LogLine(0, line).failed_from == "198.18.1.7"


def test_p99_of_two_hundred_is_the_third_longest():
    measured = latency.Latency(tuple(float(number) for number in range(200, 0, -1)))
    assert (measured.minimum, measured.median, measured.p99) == (1.0, 100.5, 198.0)


def test_text_for_a_terminal_has_no_escape_sequence_of_an_attacker():
    report = Report(quiet=True)
    report.moment(1, "a", Kind.SEEN, "auth.log", "user \x1b]0;owned\x07\n")
    assert "\x1b" not in report.to_text()
    assert r"user \x1b]0;owned\x07\n" in report.to_text()
