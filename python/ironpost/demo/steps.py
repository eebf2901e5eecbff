"""The scenario: what is attacked, what has to follow, and how it is looked at from outside."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironpost.demo import docker_lab, probe, sshd
from ironpost.demo.daemon import Daemon, Settings, Told, pin_file_system, run_daemon
from ironpost.demo.lab import IPV6, Lab, Namespace, build
from ironpost.demo.timeline import Kind, Report
from ironpost.model import times

BAN_SECONDS = 10
#: The failure that makes it a brute force, by the shipped rule ``ssh_brute_force``.
DECIDING_FAILURE = 5
REACTION_SECONDS = 20
#: An expiry is a moment of the kernel's boot clock; it was set by wall clock and is observed by probes.
EXPIRY_TOLERANCE_SECONDS = 1.0
SCANNED_PORTS = range(1000, 1060)
WEB_PORTS = {"shop-a": 8081, "shop-b": 8082}
INJECTION = "/products/1%27%20UNION%20SELECT%20password%20FROM%20users--"


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything a step may use."""

    lab: Lab
    daemon: Daemon
    keeper: sshd.LogKeeper
    report: Report
    engine: docker_lab.Engine | None
    web: dict[str, docker_lab.WebContainer]


@contextlib.contextmanager
def set_stage(directory: Path, report: Report, *, ban_duration: str, with_containers: bool) -> Iterator[Stage]:
    """Builds lab, sshd, containers and daemon, and takes them all down again in reverse order."""
    with contextlib.ExitStack() as stack:
        report.say("building the lab: namespaces, links, addresses")
        lab = stack.enter_context(build())
        auth_log = directory / "auth.log"
        keeper = stack.enter_context(sshd.LogKeeper(directory, auth_log))
        report.say("starting a real sshd")
        stack.enter_context(sshd.serve(lab.host, directory))
        web: dict[str, docker_lab.WebContainer] = {}
        engine = None
        if with_containers:
            report.say("starting a private container engine and two identical web containers")
            engine = stack.enter_context(docker_lab.start_engine(lab.host, directory / "engine"))
            docker_lab.import_image(engine)
            for name, port in WEB_PORTS.items():
                web[name] = docker_lab.start_web_container(engine, lab.host, name, port)
        settings = Settings(
            directory=directory,
            auth_log=auth_log,
            pin_directory=stack.enter_context(pin_file_system(directory / "bpf")),
            ban_duration=ban_duration,
            docker_socket=engine.socket if engine else None,
            allow=(str(lab.allowed.v4),),
        )
        report.say("starting the daemon with enforcement on")
        daemon = stack.enter_context(run_daemon(lab, settings))
        yield Stage(lab, daemon, keeper, report, engine, web)


def play(stage: Stage) -> None:
    """Plays all steps; what fails is in the report."""
    lab, report = stage.lab, stage.report
    check_peace(stage)
    with contextlib.ExitStack() as stack:
        probers = {role: stack.enter_context(probe.Prober(client, lab.host.v4)) for role, client in lab.clients.items()}
        bans = [attack_sshd(stage, probers["attacker"])]
        if IPV6:
            by_v6 = stack.enter_context(probe.Prober(lab.attacker, lab.host.v6))
            bans.append(attack_over_v6(stage, by_v6))
        else:
            report.leave_out("the attack over IPv6: this kernel has none")
        scan_ports(stage, probers["scanner"])
        if stage.web:
            inject(stage)
        for ban in bans:
            see_expiry(stage, ban)
        for role in ("bystander", "allowed", "visitor"):
            lost, sent = probers[role].lost(), probers[role].sent()
            report.expect("all", f"{role}: no packet lost in the whole run", lost == 0, f"{lost} of {sent} probes lost")


def check_peace(stage: Stage) -> None:
    """Before anything happens everybody reaches everything."""
    stage.report.say("0) before: everybody is served")
    for role in stage.lab.clients:
        for host in _addresses(stage):
            _expect_served(stage, "0", role, host)


@dataclass(frozen=True, slots=True)
class Ban:
    """A ban that has to end.

    Attributes:
        address: Of whom.
        prober: Sees it.
        expires_ns: When it has to end by its decision, wall clock; 0 when there was no such decision.
    """

    address: probe.Address
    prober: probe.Prober
    expires_ns: int


def attack_sshd(stage: Stage, prober: probe.Prober) -> Ban:
    """Wrong passwords against sshd from two addresses, one of them allow-listed."""
    lab, report, keeper = stage.lab, stage.report, stage.keeper
    report.say(f"a) {lab.attacker.v4} and the allow-listed {lab.allowed.v4} guess passwords at sshd")
    # One user name is written to look, in the log, like a failure of the bystander.
    framing = f"admin from {lab.bystander.v4} port 22 ssh2"
    logins = [sshd.start_login(lab.allowed, lab.host.v4, user=user) for user in ("admin", "root")]
    try:
        forger = sshd.start_login(lab.attacker, lab.host.v4, user=framing)
        logins.append(forger)
        # Three wrong passwords are no brute force yet: the forged lines are in the log before the ban.
        forger.wait(REACTION_SECONDS)
        dropped = _guess_passwords(stage, prober, lab.attacker.v4, lab.host.v4, ("admin", "root"))
        allowed_done = probe.wait_until(
            lambda: len(keeper.failures_from(lab.allowed.v4)) >= 2 * sshd.PASSWORDS_PER_LOGIN, REACTION_SECONDS
        )
    finally:
        sshd.end_logins(logins)
    report.expect("a", "attacker: ping and connect fail", dropped and _is_cut_off(lab.attacker, lab.host.v4))
    _expect_served(stage, "a", "bystander", lab.host.v4)
    report.expect("a", "allow-listed attacker made as many wrong guesses", allowed_done)
    _expect_served(stage, "a", "allowed", lab.host.v4)

    told = stage.daemon.told()
    forged = [line for line in keeper.failures_from(lab.attacker.v4) if framing in line.text]
    framed = told.alerts_by_entity("ssh_brute_force").get(str(lab.bystander.v4), [])
    claim = "a user name forged to look like the bystander's address framed nobody"
    report.expect("a", claim, bool(forged) and not framed, f"{len(forged)} forged line(s), {len(framed)} alert(s)")
    spared = told.decisions_on(lab.allowed.v4)
    unharmed = not {decision["state"] for decision in spared} & {"pending", "active", "expired", "failed"}
    report.expect("a", "no ban of the allow-listed attacker", unharmed, _states(spared))
    return Ban(lab.attacker.v4, prober, _expect_ban(stage, "a", "ssh_brute_force", lab.attacker.v4, told))


def attack_over_v6(stage: Stage, prober: probe.Prober) -> Ban:
    """The banned attacker comes back with its other address family."""
    lab, report = stage.lab, stage.report
    report.say(f"a) the attacker comes back as {lab.attacker.v6}")
    dropped = _guess_passwords(stage, prober, lab.attacker.v6, lab.host.v6, ("admin", "root"))
    report.expect("a", "attacker: ping and connect fail over IPv6", dropped and _is_cut_off(lab.attacker, lab.host.v6))
    _expect_served(stage, "a", "bystander", lab.host.v6)
    told = stage.daemon.told()
    return Ban(lab.attacker.v6, prober, _expect_ban(stage, "a", "ssh_brute_force", lab.attacker.v6, told))


def _guess_passwords(
    stage: Stage, prober: probe.Prober, source: probe.Address, target: probe.Address, users: Sequence[str]
) -> bool:
    """Logs in with wrong passwords until nothing is answered any more; whether that came in time."""
    report = stage.report
    logins = [sshd.start_login(prober.client, target, user=user) for user in users]
    try:
        dropped_ns = prober.wait_for_silence(REACTION_SECONDS)
    finally:
        sshd.end_logins(logins)
    failures = stage.keeper.failures_from(source)
    if failures:
        report.moment(failures[0].written_ns, "a", Kind.ATTACK, "auth.log", failures[0].text)
    if len(failures) >= DECIDING_FAILURE:
        deciding = failures[DECIDING_FAILURE - 1]
        report.moment(deciding.written_ns, "a", Kind.SEEN, "auth.log", deciding.text)
        report.figure(
            f"deciding auth.log line about {source} written → its packets dropped", deciding.written_ns, dropped_ns
        )
    if dropped_ns:
        report.moment(dropped_ns, "a", Kind.DONE, "packets", f"{source} gets no answer any more")
    return dropped_ns is not None


def _expect_ban(stage: Stage, step: str, rule_id: str, address: probe.Address, told: Told) -> int:
    """One alert about an address and one ban from it, on one trace; returns when the ban has to end."""
    report = stage.report
    found = told.alerts_by_entity(rule_id).get(str(address), [])
    report.expect(step, f"one alert {rule_id} names {address}", len(found) == 1, f"{len(found)} alert(s)")
    about = told.decisions_on(address)
    # On a slow machine the ban may have ended before we ask.
    done = [
        one for one in about if one["verb"] == "ban" and one["state"] in {"active", "expired"} and one["expires_at"]
    ]
    report.expect(step, "one decision, a ban with an expiry", len(about) == len(done) == 1, _states(about))
    if not found or not done:
        return 0
    same = found[0]["trace_id"] == done[0]["trace_id"] and done[0]["id"] in found[0]["decisions"]
    report.expect(step, "alert and decision carry one trace", same, found[0]["trace_id"])
    _note_decision(stage, step, done[0])
    return times.from_text(done[0]["expires_at"])


def _addresses(stage: Stage) -> list[probe.Address]:
    host = stage.lab.host
    return [host.v4, host.v6] if IPV6 else [host.v4]


def _is_cut_off(client: Namespace, host: probe.Address) -> bool:
    return not probe.ping(client, host) and not probe.connects(client, host, sshd.SSH_PORT)


def _states(decisions: list[dict[str, Any]]) -> str:
    said = [f"{decision['verb']} {decision['state']} {decision.get('reason') or ''}".strip() for decision in decisions]
    return ", ".join(said) or "no decision"


def _expect_served(stage: Stage, step: str, role: str, host: probe.Address) -> None:
    client = stage.lab.clients[role]
    served = probe.ping(client, host) and probe.connects(client, host, sshd.SSH_PORT)
    stage.report.expect(step, f"{role}: ping and connect succeed (IPv{host.version})", served)


def _note_decision(stage: Stage, step: str, decision: dict[str, Any]) -> None:
    until = f" until {decision['expires_at']}" if decision["expires_at"] else ""
    text = f"{decision['verb']} {decision['target']}{until} by policy {decision['policy_id']}"
    stage.report.moment(times.from_text(decision["created_at"]), step, Kind.DECIDED, "daemon", text)


def scan_ports(stage: Stage, prober: probe.Prober) -> None:
    """One SYN to each of many ports."""
    lab, report = stage.lab, stage.report
    report.say(f"b) {lab.scanner.v4} tries {len(SCANNED_PORTS)} ports")
    started_ns = time.time_ns()
    count = probe.scan(lab.scanner, lab.host.v4, SCANNED_PORTS)
    ended_ns = time.time_ns()
    report.moment(started_ns, "b", Kind.ATTACK, "packets", f"{lab.scanner.v4} sends {count} SYN to as many ports")
    dropped_ns = prober.wait_for_silence(REACTION_SECONDS)
    if dropped_ns:
        report.moment(dropped_ns, "b", Kind.DONE, "packets", f"{lab.scanner.v4} gets no answer any more")
    report.figure(f"last of {count} SYN sent → packets dropped", ended_ns, dropped_ns)
    cut_off = dropped_ns is not None and _is_cut_off(lab.scanner, lab.host.v4)
    report.expect("b", "scanner: ping and connect fail", cut_off)
    _expect_served(stage, "b", "bystander", lab.host.v4)
    told = stage.daemon.told()
    _expect_ban(stage, "b", "port_scan", lab.scanner.v4, told)
    others = sorted(set(told.alerts_by_entity("port_scan")) - {str(lab.scanner.v4)})
    report.expect("b", "nobody else is called a scanner", not others, ", ".join(others))


def inject(stage: Stage) -> None:
    """An SQL injection against one of two identical web containers."""
    lab, report, daemon = stage.lab, stage.report, stage.daemon
    target, neighbour = stage.web["shop-a"], stage.web["shop-b"]

    def serves(web: docker_lab.WebContainer) -> bool:
        return probe.http_status(lab.bystander, lab.host.v4, web.port, "/") == 200

    report.say(f"c) {lab.visitor.v4} sends an SQL injection to the web container shop-a")
    report.expect("c", "both web containers serve", serves(target) and serves(neighbour))
    sent_ns = time.time_ns()
    status = probe.http_status(lab.visitor, lab.host.v4, target.port, INJECTION)
    report.moment(sent_ns, "c", Kind.ATTACK, "packets", f"GET {INJECTION} to shop-a, answered with {status}")
    paused = probe.wait_until(lambda: target.state() == "paused", REACTION_SECONDS)
    paused_ns = time.time_ns()
    if paused:
        report.moment(paused_ns, "c", Kind.DONE, "engine", f"shop-a {target.id[:12]} is paused")
        report.figure("injection sent → container paused", sent_ns, paused_ns)
    logged = [line for line in target.log_file.read_text(errors="replace").splitlines() if "UNION SELECT" in line]
    report.expect("c", "the container's own log has the request", len(logged) == 1, f"{len(logged)} line(s)")
    report.expect("c", "shop-a is paused, says the engine", paused, target.state())
    report.expect("c", "shop-a does not answer any more", not serves(target))
    report.expect("c", "shop-b runs, says the engine", neighbour.state() == "running", neighbour.state())
    report.expect("c", "shop-b serves", serves(neighbour))
    told = daemon.told()
    alerts = [alert for alert in told.alerts if alert["rule_id"] == "sql_injection"]
    named = [(alert.get("container") or {}).get("id") for alert in alerts]
    claim = "one alert sql_injection, and it names that container"
    report.expect("c", claim, named == [target.id], f"{len(alerts)} alert(s)")
    about = told.decisions_on(target.id, neighbour.id)
    pauses = [decision for decision in about if decision["verb"] == "pause" and decision["target"] == target.id]
    claim = "one decision about containers: to pause that one"
    report.expect("c", claim, len(about) == len(pauses) == 1, _states(about))
    for decision in pauses:
        _note_decision(stage, "c", decision)
    if not pauses:
        return
    undone_ns = time.time_ns()
    daemon.ask("undo", pauses[0]["id"])
    report.moment(undone_ns, "c", Kind.DECIDED, "operator", f"ironpost undo {pauses[0]['id']}")
    resumed = probe.wait_until(lambda: target.state() == "running", REACTION_SECONDS)
    if resumed:
        report.moment(time.time_ns(), "c", Kind.DONE, "engine", f"shop-a {target.id[:12]} runs again")
    report.expect("c", "after undo shop-a runs, says the engine", resumed, target.state())
    report.expect("c", "after undo shop-a serves", probe.wait_until(lambda: serves(target), REACTION_SECONDS))


def see_expiry(stage: Stage, ban: Ban) -> None:
    """The ban ends by itself, on time."""
    lab, report, prober = stage.lab, stage.report, ban.prober
    if not ban.expires_ns:
        report.expect("a", f"the ban of {ban.address} ends by itself", holds=False, observed="there was none")
        return
    report.say(f"a) waiting for the ban of {ban.address} to end by itself")
    # Half a duration before its end it was certainly in force.
    during_ns = ban.expires_ns - BAN_SECONDS * 500_000_000
    left_seconds = max(0.0, (ban.expires_ns - time.time_ns()) / 1e9)
    answer_ns = prober.wait_for_answer(during_ns, left_seconds + REACTION_SECONDS)
    if answer_ns is None:
        report.expect("a", f"the ban of {ban.address} ends by itself", holds=False, observed="still no answer")
        return
    late_seconds = (answer_ns - ban.expires_ns) / 1e9
    report.moment(answer_ns, "a", Kind.DONE, "packets", f"{ban.address} gets answers again")
    on_time = abs(late_seconds) < EXPIRY_TOLERANCE_SECONDS
    report.expect("a", f"the ban of {ban.address} ends by itself, on time", on_time, f"{late_seconds * 1000:+.0f} ms")
    _expect_served(stage, "a", "attacker", lab.host.v4 if ban.address.version == 4 else lab.host.v6)
