"""`make bench-sigma`: our engine beside rsigma on the public rules: a table of ratios, then threads, Python and load.

usage: run.py [--quick] [--rounds N] [--rules DIR|ARCHIVE] [--json FILE] [PART …]
A part is a lane (win_mixed, win_attack, win_benign, linux, flood) or load, threads, python; without one, all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import lanes

from ironpost.detections import RuleSet

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = Path(os.environ.get("IRONPOST_CACHE") or ROOT / ".cache").resolve()
PARTS = (*lanes.LANES, "flood", "load", "threads", "python")
#: The peer's newest release needs this compiler; Debian's is used beside the project's own.
RUSTC = Path("/usr/bin/rustc")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--quick", action="store_true", help="one round, a tenth of win_mixed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rules", type=Path, default=ROOT.parent / "shared/data/sigmahq-rules.tar.xz")
    parser.add_argument("--json", type=Path, help="write every figure here too")
    parser.add_argument("--only", choices=("ours",), help="leave the peer out")
    given = parser.parse_args()
    parts = given.parts or list(PARTS)
    rounds = 1 if given.quick else given.rounds
    if not given.rules.exists():
        print(
            f"error: {given.rules}: there are no rules\nhint: --rules DIR, or an archive of SigmaHQ's", file=sys.stderr
        )
        return 2
    work = CACHE / "bench-sigma"
    rules = unpacked(given.rules, work)
    binary = built()
    plan = compiled(rules, work)
    folder = made(plan, work)
    described(rules)
    figures: dict[str, Any] = {}
    chosen = [name for name in lanes.LANES if name in parts]
    if chosen:
        figures["speed"] = speed(binary, plan, rules, folder, chosen, rounds, given)
    if "flood" in parts:
        figures["flood"] = flood(binary, plan, rules, folder, rounds, given)
    if "threads" in parts:
        figures["threads"] = threads(binary, plan, folder, rounds)
    if "python" in parts:
        figures["python"] = python_facing(binary, plan, rules, folder, rounds)
    if "load" in parts:
        figures["load"] = loading(binary, plan, rules, rounds)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


# --- input ---


def unpacked(given: Path, work: Path) -> Path:
    """The folder of rules; an archive is unpacked once per content."""
    if given.is_dir():
        return given
    target = work / f"rules-{sha256(given.read_bytes()).hexdigest()[:16]}"
    if not target.exists():
        half = target.with_suffix(".part")
        with tarfile.open(given) as archive:
            archive.extractall(half, filter="data")
        half.rename(target)
    return target


def built() -> Path:
    """The bench binary: both engines, one compiler, one profile."""
    environment = {**os.environ, "RUSTC": str(RUSTC), "CARGO_TARGET_DIR": str(CACHE / "target-sigma")}
    environment.pop("RUSTUP_TOOLCHAIN", None)
    command = [str(RUSTC.with_name("cargo")), "build", "--release", "--quiet"]
    subprocess.run(command, cwd=HERE, env=environment, check=True)
    return CACHE / "target-sigma/release/ironpost-bench-sigma"


def compiled(rules: Path, work: Path) -> Path:
    """The plan our engine executes."""
    loaded = RuleSet.load(rules)
    plan = work / "plan.json"
    plan.write_bytes(loaded.plan)
    return plan


def made(plan: Path, work: Path) -> Path:
    """The lanes; made again when the rules or the makers change."""
    maker = (HERE / "lanes.py").read_bytes()
    folder = work / f"lanes-{sha256(plan.read_bytes() + maker).hexdigest()[:16]}"
    if not (folder / "done").exists():
        lanes.make_lanes(folder, json.loads(plan.read_bytes()))
        (folder / "done").touch()
    return folder


def described(rules: Path) -> None:
    model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    commit = run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]).strip()
    system = f"kernel {os.uname().release}, load {os.getloadavg()[0]:.1f}"
    print(f"machine: {os.cpu_count()} CPUs,{model.partition(':')[2]}, {system}")
    print(
        f"commit {commit}; {run([str(RUSTC), '--version']).strip()}; rsigma-eval {peer_version()}; rules {rules.name}"
    )
    print("no value cache in either engine: there is nothing to switch off")


def peer_version() -> str:
    lines = (HERE / "Cargo.lock").read_text().splitlines()
    return lines[lines.index('name = "rsigma-eval"') + 1].partition('"')[2].rstrip('"')


def run(command: list[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


# --- figures ---


def rate(count: float, seconds: dict[str, float] | None, kind: str) -> float:
    return count / seconds[kind] if seconds and seconds[kind] else 0.0


def speed(
    binary: Path, plan: Path, rules: Path, folder: Path, chosen: list[str], rounds: int, given: argparse.Namespace
) -> dict[str, Any]:
    """Engines in turns; one core each, CPU seconds of the process."""
    print(f"\nevents per CPU second, JSON text in, matches out; {rounds} rounds in turns, from the minimum (median)")
    heads = (
        "lane",
        "told",
        "events",
        "ours",
        "rsigma",
        "ratio",
        "our matches",
        "rsigma's",
        "only ours",
        "only rsigma's",
    )
    widths = (11, 7, 8, 19, 19, 13, 12, 11, 10, 13)
    print("".join(f"{head:<{width}}" for head, width in zip(heads, widths, strict=True)))
    figures: dict[str, Any] = {}
    for lane in chosen:
        path = quick_lane(folder, lane) if given.quick else folder / f"{lane}.ndjson"
        for told in ("routed", "plain"):
            command = [str(binary), "speed", str(plan), str(rules), str(path), told, str(rounds)]
            found = json.loads(run(command + ([given.only] if given.only else [])))
            figures[f"{lane} {told}"] = found
            count = found["events"]
            ours = [rate(count, found["ours"], kind) for kind in ("min", "median")]
            peer = [rate(count, found["peer"], kind) for kind in ("min", "median")] if not given.only else [0.0, 0.0]
            ratios = [mine / theirs if theirs else 0.0 for mine, theirs in zip(ours, peer, strict=True)]
            cells = (
                lane, told, f"{count:,}", f"{ours[0]:,.0f} ({ours[1]:,.0f})", f"{peer[0]:,.0f} ({peer[1]:,.0f})",
                f"{ratios[0]:.2f} ({ratios[1]:.2f})", f"{found['our_matches']:,}", f"{found['peer_matches']:,}",
                f"{found['only_ours']:,}", f"{found['only_peer']:,}",
            )  # fmt: skip
            print("".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)), flush=True)
    print("plain: ours tells the log source from the event and asks the rules for it, rsigma asks every rule")
    for lane in chosen:
        found = figures[f"{lane} plain"]
        missed, more = found["not_found_untold"], found["found_untold_only"]
        print(f"  {lane}: of what ours finds when told, {missed:,} not found untold; {more:,} found untold only")
    return figures


def quick_lane(folder: Path, lane: str) -> Path:
    """The first tenth of a lane."""
    target = folder / f"{lane}_quick.ndjson"
    for suffix in (".ndjson", ".sources"):
        lines = (folder / f"{lane}{suffix}").read_bytes().splitlines(keepends=True)
        target.with_suffix(suffix).write_bytes(b"".join(lines[: max(2_000, len(lines) // 10)]))
    return target


def flood(
    binary: Path, plan: Path, rules: Path, folder: Path, rounds: int, given: argparse.Namespace
) -> dict[str, Any]:
    """Linear means: the same megabytes per second whatever the length of a value."""
    print("\nlong values against every rule (plain): MB per CPU second by length of the value")
    print(f"{'length':<12}{'ours':<12}{'rsigma':<12}matches ours/rsigma")
    figures = {}
    for lane, length in lanes.FLOODS.items():
        command = [str(binary), "speed", str(plan), str(rules), str(folder / f"{lane}.ndjson"), "plain", str(rounds)]
        found = json.loads(run(command + ([given.only] if given.only else [])))
        figures[lane] = found
        megabytes = found["bytes"] / 1e6
        ours, peer = (
            rate(megabytes, found["ours"], "min"),
            rate(megabytes, found["peer"], "min") if not given.only else 0.0,
        )
        print(f"{length:<12,}{ours:<12.2f}{peer:<12.2f}{found['our_matches']}/{found['peer_matches']}", flush=True)
    return figures


def threads(binary: Path, plan: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Wall clock; on a busy machine the two threads do not have two cores."""
    found: dict[str, Any] = json.loads(
        run([str(binary), "threads", str(plan), str(folder / "win_mixed.ndjson"), str(rounds)])
    )
    one, two = (rate(found["events"], found[key], "min") for key in ("one_wall", "two_wall"))
    extra = found["two_cpu"]["min"] / found["one_cpu"]["min"]
    print(f"\nthreads, win_mixed routed, wall clock: one {one:,.0f} events/s, two {two:,.0f}, ratio {two / one:.2f}")
    print(f"  CPU an event with two threads: {extra:.2f} of one thread's, so {2 / extra:.2f} with two free cores")
    print(f"  load average {os.getloadavg()[0]:.1f}")
    return found


def python_facing(binary: Path, plan: Path, rules: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """The same events through Session.feed and RuleSet.detect, 10,000 a call, as a share of the pure Rust figure."""
    loaded = RuleSet.load(rules)
    _ = loaded.native
    figures: dict[str, Any] = {}
    print("\nfrom Python, 10,000 events a call, as a share of the pure Rust figure (plain, CPU seconds, minimum)")
    for lane in ("win_benign", "win_mixed"):
        path = folder / f"{lane}.ndjson"
        lines = path.read_bytes().splitlines(keepends=True)
        batches = [b"".join(lines[start : start + 10_000]) for start in range(0, len(lines), 10_000)]
        best: dict[str, float] = {"feed": 1e9, "detect": 1e9, "rust": 1e9}
        session = loaded.native.session()
        session.feed(batches[0])  # makes the program; not timed
        for _ in range(rounds):
            start = time.process_time()
            for batch in batches:
                session.feed(batch)
            best["feed"] = min(best["feed"], time.process_time() - start)
            start = time.process_time()
            for batch in batches:
                for found in loaded.detect(batch):
                    _ = (found.rule_id, found.level, found.event_index)
            best["detect"] = min(best["detect"], time.process_time() - start)
            rust = json.loads(run([str(binary), "speed", str(plan), str(rules), str(path), "plain", "1", "ours"]))
            best["rust"] = min(best["rust"], rust["ours"]["min"])
        figures[lane] = best
        shown = ", ".join(
            f"{name} {len(lines) / best[key]:,.0f} events/s ({100 * best['rust'] / best[key]:.0f} %)"
            for name, key in (("Session.feed", "feed"), ("RuleSet.detect", "detect"))
        )
        print(f"  {lane}: {shown}; Rust {len(lines) / best['rust']:,.0f}", flush=True)
    return figures


_LOAD = """
import json, sys, time
from pathlib import Path
from ironpost.detections import RuleSet
start = time.process_time()
rules = RuleSet.load(sys.argv[1], cache=Path(sys.argv[2]) if sys.argv[2] else None)
rules.native
done = time.process_time()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"cpu": done - start, "rules": len(rules.rules), "refused": len(rules.refused), "pack": rules.pack,
    "peak_bytes": int(status["VmHWM"].split()[0]) * 1024}))
"""


def loading(binary: Path, plan: Path, rules: Path, rounds: int) -> dict[str, Any]:
    """Each in a process of its own, so that the peak is that of loading; the interpreter's own memory is in it."""

    def best(command: list[str]) -> dict[str, Any]:
        return min((json.loads(run(command)) for _ in range(rounds)), key=lambda found: found["cpu"])

    with tempfile.TemporaryDirectory() as packs:
        python = [sys.executable, "-c", _LOAD, str(rules)]
        run([*python, packs])
        figures = {
            "cold": best([*python, ""]),
            "packed": best([*python, packs]),
            "plan to engine": best([str(binary), "load", str(plan)]),
            "rsigma": best([str(binary), "load-peer", str(rules)]),
        }
    if figures["packed"]["pack"] != "used":
        raise SystemExit(f"error: the pack was not used: {figures['packed']['pack']}")
    print("\nload until events can be fed, CPU seconds (minimum), each in its own process")
    for name, found in figures.items():
        memory = f"peak {found['peak_bytes'] / 1e6:.0f} MB"
        print(f"  {name:<16}{found['cpu']:>7.3f} s, {found['rules']:,} rules, {memory}")
    return figures


if __name__ == "__main__":
    sys.exit(main())
