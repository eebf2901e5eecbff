"""``kill -9`` of the daemon at random moments of attacks: nothing lost, nothing doubled, the filter keeps dropping.

Every round brings one new address that guesses passwords, one that scans ports and one web container that gets an
SQL injection, kills the daemon somewhere in between, looks at the banned ones while it is dead, and starts it again
on the same data. In the end the store is compared with sshd's log, the containers' logs and the scans that were made.
"""

from __future__ import annotations

import contextlib
import ipaddress
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ironpost.demo import docker_lab, probe, sshd, steps
from ironpost.demo.timeline import Kind, Report

#: Benchmark networks (RFC 2544): as many attackers as rounds, inside the lab only.
GUESSERS = ipaddress.IPv4Network("198.18.0.0/16")
SCANNERS = ipaddress.IPv4Network("198.19.0.0/16")
#: Longer than any run, so that every ban still stands at the end.
BAN_DURATION = "30m"
#: A wave of wrong passwords takes about a quarter of a second; the kill falls before, into or after it.
LATEST_KILL_SECONDS = 0.7
LONGEST_DEATH_SECONDS = 0.5
#: Starting and catching up takes about a second.
LATEST_AGAIN_SECONDS = 2.0
PROBE_INTERVAL_SECONDS = 0.02
FIRST_WEB_PORT = 9000


@dataclass(slots=True)
class Attacks:
    """Everything that attacked so far.

    Attributes:
        guessers: Addresses that tried passwords.
        scanners: Addresses that scanned.
        injected: Containers that got an injection.
        banned: Probers of the addresses that were seen dropped.
    """

    guessers: list[ipaddress.IPv4Address] = field(default_factory=list)
    scanners: list[ipaddress.IPv4Address] = field(default_factory=list)
    injected: list[docker_lab.WebContainer] = field(default_factory=list)
    banned: list[probe.Prober] = field(default_factory=list)


def play(directory: Path, report: Report, *, times: int, seed: int | None, with_containers: bool) -> None:
    """Kills the daemon ``times`` times; what it found is in the report."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    moments = random.Random(seed)  # noqa: S311 - repeatable on purpose, nothing secret
    report.say(f"killing the daemon {times} times at random moments, seed {seed}")
    attacks = Attacks()
    with steps.set_stage(directory, report, ban_duration=BAN_DURATION, with_containers=with_containers) as stage:
        stage.lab.give_network(stage.lab.attacker, GUESSERS)
        stage.lab.give_network(stage.lab.scanner, SCANNERS)
        with contextlib.ExitStack() as stack:
            bystander = stack.enter_context(probe.Prober(stage.lab.bystander, stage.lab.host.v4))
            for number in range(1, times + 1):
                _round(stage, stack, attacks, number, moments)
            lost, sent = bystander.lost(), bystander.sent()
            claim = "bystander: no packet lost in the whole run"
            report.expect("kill", claim, lost == 0, f"{lost} of {sent} probes lost")
        _compare(stage, attacks, "in the end")
        states = [web.state() for web in attacks.injected]
        if states:
            claim = f"all {len(states)} injected containers are paused, says the engine"
            report.expect("kill", claim, set(states) == {"paused"}, ", ".join(states))
            neighbours = [web.state() for web in stage.web.values()]
            report.expect("kill", "the others run", set(neighbours) == {"running"}, ", ".join(neighbours))
        report.expect("kill", "the daemon ends when asked", stage.daemon.stop() == 0)
        _compare(stage, attacks, "with the daemon down")


def _round(
    stage: steps.Stage, stack: contextlib.ExitStack, attacks: Attacks, number: int, moments: random.Random
) -> None:
    """One kill, with attacks before, while and after the daemon is dead."""
    lab, daemon, report = stage.lab, stage.daemon, stage.report
    guesser, scanner = GUESSERS[256 + number], SCANNERS[256 + number]
    probers = [
        stack.enter_context(probe.Prober(client, lab.host.v4, source=address, interval_seconds=PROBE_INTERVAL_SECONDS))
        for client, address in ((lab.attacker, guesser), (lab.scanner, scanner))
    ]
    web = None
    if stage.engine:
        port = FIRST_WEB_PORT + number
        web = docker_lab.start_web_container(stage.engine, lab.host, f"shop-{number}", port)
    kill_seconds = moments.uniform(0, LATEST_KILL_SECONDS)
    start_seconds = kill_seconds + moments.uniform(0.1, LONGEST_DEATH_SECONDS)
    # Every other time it is killed once more while it starts and catches up.
    again_seconds = moments.uniform(0, LATEST_AGAIN_SECONDS) if number % 2 == 0 else None
    killed_ns = started_ns = 0
    logins: list[subprocess.Popen[bytes]] = []

    def guess() -> None:
        logins.extend(
            sshd.start_login(lab.attacker, lab.host.v4, user=user, source=guesser) for user in ("admin", "root")
        )

    def scan() -> None:
        probe.scan(lab.scanner, lab.host.v4, steps.SCANNED_PORTS, source=scanner)

    def inject() -> None:
        if web is not None:
            probe.http_status(lab.visitor, lab.host.v4, web.port, steps.INJECTION)

    def kill() -> None:
        nonlocal killed_ns
        daemon.kill()
        killed_ns = time.time_ns()

    def start() -> None:
        nonlocal started_ns
        if again_seconds is not None:
            daemon.launch()
            time.sleep(again_seconds)
            daemon.kill()
            text = f"kill -9 again, {again_seconds * 1000:.0f} ms after it was started"
            report.moment(time.time_ns(), "kill", Kind.ATTACK, "operator", text)
        started_ns = time.time_ns()
        daemon.start()

    acts: list[tuple[float, Callable[[], None]]] = [
        (0.0, guess),
        # These fall before, into or after the time without a daemon.
        (moments.uniform(0, start_seconds + 0.2), scan),
        (moments.uniform(0, start_seconds + 0.2), inject),
        (kill_seconds, kill),
        (start_seconds, start),
    ]
    begun = time.monotonic()
    try:
        for seconds, act in sorted(acts, key=lambda planned: planned[0]):
            time.sleep(max(0.0, begun + seconds - time.monotonic()))
            act()
        silences = [prober.wait_for_silence(steps.REACTION_SECONDS) for prober in probers]
    finally:
        sshd.end_logins(logins)
    report.moment(
        killed_ns, "kill", Kind.ATTACK, "operator", f"kill -9 number {number}, {kill_seconds * 1000:.0f} ms into it"
    )
    for address, silent_ns in zip((guesser, scanner), silences, strict=True):
        report.expect("kill", f"round {number}: {address} is dropped in the end", silent_ns is not None)
    if web is not None:
        paused = probe.wait_until(lambda: web.state() == "paused", steps.REACTION_SECONDS)
        report.expect("kill", f"round {number}: shop-{number} is paused in the end", paused, web.state())
        attacks.injected.append(web)
    if attacks.banned:
        answered = sum(prober.answered(since_ns=killed_ns, until_ns=started_ns) for prober in attacks.banned)
        lost = sum(prober.lost(since_ns=killed_ns, until_ns=started_ns) for prober in attacks.banned)
        claim = f"round {number}: the filter drops while the daemon is dead"
        report.expect(
            "kill", claim, answered == 0 < lost, f"{answered} of {answered + lost} probes of banned addresses answered"
        )
    attacks.guessers.append(guesser)
    attacks.scanners.append(scanner)
    attacks.banned += [prober for prober, silent_ns in zip(probers, silences, strict=True) if silent_ns is not None]


def _compare(stage: steps.Stage, attacks: Attacks, when: str) -> None:
    """The store against what really happened, counted from sshd's and the containers' logs and from our own scans."""
    report, told = stage.report, stage.daemon.told()
    expected = {
        "ssh_brute_force": {
            str(address)
            for address in attacks.guessers
            if len(stage.keeper.failures_from(address)) >= steps.DECIDING_FAILURE
        },
        "port_scan": {str(address) for address in attacks.scanners},
        "sql_injection": {
            web.id for web in attacks.injected if "UNION SELECT" in web.log_file.read_text(errors="replace")
        },
    }
    raised = Counter(stage.daemon.detections())
    for rule_id, wanted in expected.items():
        found: Counter[str] = Counter()
        for alert in told.alerts:
            if alert["rule_id"] == rule_id:
                # Raised twice for one attack, an alert stands there twice or has two detections in it.
                container = alert.get("container") or {}
                found[container.get("id") or alert["entity"]["value"]] += raised[rule_id, alert["id"]]
        lost = sorted(value for value in wanted if not found[value])
        doubled = sorted(f"{value}: {count}" for value, count in found.items() if count > 1)
        invented = sorted(set(found) - wanted)
        report.expect("kill", f"{when}: {rule_id}: no alert lost of {len(wanted)}", not lost, ", ".join(lost))
        report.expect("kill", f"{when}: {rule_id}: none doubled", not doubled, ", ".join(doubled))
        report.expect("kill", f"{when}: {rule_id}: none invented", not invented, ", ".join(invented))
    written = stage.keeper.count()
    cited = [Counter(alert["evidence"]) for alert in told.alerts if alert["rule_id"] == "ssh_brute_force"]
    # Lines of one connection in one second are equal, so their numbers are compared.
    counted_twice = sorted({line for lines in cited for line in lines if lines[line] > written[line]})
    report.expect("kill", f"{when}: no log line counted twice", not counted_twice, "; ".join(counted_twice))
    decisions = Counter(f"{decision['verb']} {decision['target']}" for decision in told.decisions)
    due = {f"ban {address}" for address in (*attacks.guessers, *attacks.scanners)}
    due |= {f"pause {web.id}" for web in attacks.injected}
    odd = sorted(
        f"{what}: {decisions[what]}" for what in due | set(decisions) if decisions[what] != 1 or what not in due
    )
    report.expect(
        "kill", f"{when}: one decision for each of {len(due)} attackers and containers", not odd, ", ".join(odd)
    )
