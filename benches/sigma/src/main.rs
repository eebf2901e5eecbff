//! Both engines on the same events in turns; prints one JSON object per lane. `run.py` makes the input and the table.
//!
//! usage: `ironpost-bench-sigma speed PLAN RULES LANE.ndjson routed|plain ROUNDS [ours|peer]`
//!        `ironpost-bench-sigma threads PLAN LANE.ndjson ROUNDS`
//!        `ironpost-bench-sigma load PLAN` and `load-peer RULES`

mod lane;
mod ours;
mod peer;

use lane::Lane;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

type Outcome = Result<Value, Box<dyn std::error::Error>>;

/// CPU seconds of this process.
fn cpu_seconds() -> f64 {
    let clock = nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID;
    nix::time::clock_gettime(clock).map_or(0.0, |time| time.tv_sec() as f64 + time.tv_nsec() as f64 * 1e-9)
}

/// CPU seconds, wall seconds and the answer of one call.
fn timed<T>(work: impl FnOnce() -> T) -> (f64, f64, T) {
    let (cpu, wall) = (cpu_seconds(), Instant::now());
    let answer = work();
    (cpu_seconds() - cpu, wall.elapsed().as_secs_f64(), answer)
}

/// Minimum and median.
fn summary(mut seconds: Vec<f64>) -> Value {
    seconds.sort_by(f64::total_cmp);
    json!({"min": seconds.first(), "median": seconds.get(seconds.len() / 2)})
}

/// Most peak memory of this process so far, bytes.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10
}

/// The engines take turns on a lane, and who begins alternates too.
fn speed(plan: &Path, rules: &Path, lane: &Path, routed: bool, rounds: usize, only: Option<&str>) -> Outcome {
    let lane = Lane::read(lane)?;
    let mut ours = ours::Engine::load(plan)?;
    let known: BTreeSet<String> = ours.rule_ids().map(str::to_owned).collect();
    let mut peer = (only != Some("ours")).then(|| peer::Engine::load(rules, &known)).transpose()?;
    // Not timed: programs are built and caches filled, and the answers are compared once.
    let our_matches = ours.matches(&lane, routed);
    let peer_matches = peer.as_mut().map(|peer| peer.matches(&lane, routed)).unwrap_or_default();
    // What we tell of an event ourselves must find what we find when told.
    let told = if routed { BTreeSet::new() } else { ours.matches(&lane, true) };
    let (mut our_seconds, mut peer_seconds) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                if only != Some("peer") {
                    our_seconds.push(timed(|| ours.run(&lane, routed)).0);
                }
            } else if let Some(peer) = &mut peer {
                peer_seconds.push(timed(|| peer.run(&lane, routed)).0);
            }
        }
    }
    let named = |pairs: Vec<&(u32, String)>| {
        let mut rules: std::collections::BTreeMap<&str, (usize, u32)> = Default::default();
        for (event, rule) in pairs {
            rules.entry(rule).or_insert((0, *event)).0 += 1;
        }
        rules.into_iter().map(|(rule, (count, first))| json!([rule, count, first])).collect::<Vec<_>>()
    };
    Ok(json!({
        "events": lane.len(), "bytes": lane.bytes(),
        "ours": summary(our_seconds), "peer": summary(peer_seconds),
        "our_matches": our_matches.len(), "peer_matches": peer_matches.len(),
        "only_ours": our_matches.difference(&peer_matches).count(),
        "only_peer": peer_matches.difference(&our_matches).count(),
        "only_ours_rules": named(our_matches.difference(&peer_matches).collect()),
        "only_peer_rules": named(peer_matches.difference(&our_matches).collect()),
        "not_found_untold": told.difference(&our_matches).count(),
        "found_untold_only": if routed { 0 } else { our_matches.difference(&told).count() },
        "not_found_untold_rules": named(told.difference(&our_matches).collect()),
        "rules": known.len(), "peer_rules": peer.as_ref().map(peer::Engine::rules),
    }))
}

/// Our engine with one and with two threads on the same events, by wall clock, in turns.
fn threads(plan: &Path, lane: &Path, rounds: usize) -> Outcome {
    let lane = Lane::read(lane)?;
    let ours = ours::Engine::load(plan)?;
    let (mut one, mut two, mut cpu_one, mut cpu_two) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    ours.run_on(&lane, 2);
    for _ in 0..rounds {
        let (cpu, wall, _) = timed(|| ours.run_on(&lane, 1));
        one.push(wall);
        cpu_one.push(cpu);
        let (cpu, wall, _) = timed(|| ours.run_on(&lane, 2));
        two.push(wall);
        cpu_two.push(cpu);
    }
    Ok(json!({
        "events": lane.len(), "one_wall": summary(one), "two_wall": summary(two),
        "one_cpu": summary(cpu_one), "two_cpu": summary(cpu_two),
    }))
}

fn load(plan: &Path) -> Outcome {
    let (seconds, _, engine) = timed(|| ours::Engine::load(plan));
    let engine = engine?;
    Ok(json!({"cpu": seconds, "rules": engine.rule_ids().count(), "peak_bytes": peak_bytes()}))
}

fn load_peer(rules: &Path) -> Outcome {
    let (seconds, _, engine) = timed(|| peer::Engine::load(rules, &BTreeSet::new()));
    let engine = engine?;
    Ok(json!({"cpu": seconds, "rules": engine.rules(), "peak_bytes": peak_bytes()}))
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["speed", plan, rules, lane, told, rounds, only @ ..] => speed(
            Path::new(plan),
            Path::new(rules),
            Path::new(lane),
            *told == "routed",
            rounds.parse().unwrap_or(3),
            only.first().copied(),
        ),
        ["threads", plan, lane, rounds] => {
            threads(Path::new(plan), Path::new(lane), rounds.parse().unwrap_or(3))
        }
        ["load", plan] => load(Path::new(plan)),
        ["load-peer", rules] => load_peer(Path::new(rules)),
        _ => Err("usage: see the head of src/main.rs; `make bench-sigma` calls it".into()),
    };
    match outcome {
        Ok(value) => {
            println!("{value}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
