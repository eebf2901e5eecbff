//! Receivers with real sockets and processes on loopback.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail tests")]

mod support;

use ironpost_detect::RuleSet;
use ironpost_engine::{Engine, NextBatch, PacketSource, Settings};
use ironpost_xdp::{FilterError, PacketKind, PacketRecord};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{DEADLINE, Directory, Store, assert_balanced, counters, extractors};

fn address(engine: &Engine, kind: &str) -> String {
    engine.addresses()[&format!("{kind}:127.0.0.1:0")].clone()
}

/// Waits for a value in the counters.
fn until(engine: &Engine, what: &str, done: impl Fn(&Value) -> bool) {
    let begin = Instant::now();
    while !done(&counters(engine)) {
        assert!(begin.elapsed() < DEADLINE, "{what}: {}", counters(engine));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Largest resident memory of this process, bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_line_of_64_mib_is_cut_memory_stays_bounded_and_the_connection_goes_on() {
    let mut store = Store::default();
    let engine = store.start(&json!({"tcp": [{"bind": "127.0.0.1:0"}]}));
    let mut tcp = TcpStream::connect(address(&engine, "tcp")).unwrap();
    let before = peak();
    for _ in 0..1024 {
        tcp.write_all(&[b'x'; 65536]).unwrap();
    }
    tcp.write_all(b"\n<13>1 2026-11-20T10:00:00Z h app - - - MARK after the garbage\n").unwrap();
    store.until(&engine, "the message behind it", |store| store.of("mark").len() == 1);
    assert!(peak() - before < 48 << 20, "{} MiB more", (peak() - before) >> 20);
    store.finish(&engine);
    assert_balanced(&engine);
    let all = counters(&engine);
    assert_eq!(all["sources"]["tcp:127.0.0.1:0"]["received"], 2);
    assert_eq!(all["sources"]["tcp:127.0.0.1:0"]["truncated"], 1);
}

#[test]
fn many_half_messages_together_stay_bounded() {
    let mut store = Store::default();
    let engine = store.start(
        &json!({"tcp": [{"bind": "127.0.0.1:0", "max_connections": 200, "max_connections_per_peer": 200}]}),
    );
    let before = peak();
    let mut all: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(address(&engine, "tcp")).unwrap()).collect();
    let piece = vec![b'y'; 900_000];
    for tcp in &mut all {
        tcp.write_all(&piece).unwrap();
    }
    until(&engine, "some are cut", |all| all["sources"]["tcp:127.0.0.1:0"]["truncated"].as_u64() > Some(0));
    for tcp in &mut all {
        tcp.write_all(b"\nMARK\n").unwrap();
    }
    store.until(&engine, "every connection goes on", |store| store.of("mark").len() == 100);
    // 32 MiB of half messages, as much again while buffers grow, and what is in the queues.
    assert!(peak() - before < 140 << 20, "{} MiB more", (peak() - before) >> 20);
}

#[test]
fn the_connection_limit_and_the_idle_limit_close_and_count() {
    let mut store = Store::default();
    let engine =
        store.start(&json!({"tcp": [{"bind": "127.0.0.1:0", "max_connections": 2, "idle_secs": 1}]}));
    let mut kept: Vec<TcpStream> = Vec::new();
    for _ in 0..2 {
        kept.push(TcpStream::connect(address(&engine, "tcp")).unwrap());
    }
    until(&engine, "two accepted", |all| all["sources"]["tcp:127.0.0.1:0"]["connections"] == 2);
    let mut third = TcpStream::connect(address(&engine, "tcp")).unwrap();
    assert_eq!(third.read(&mut [0]).unwrap_or(0), 0, "closed at once");
    kept[0].write_all(b"<13>1 2026-11-20T10:00:00Z h app - - - MARK half a message").unwrap();
    for tcp in &mut kept {
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(tcp.read(&mut [0]).unwrap_or(0), 0, "closed when idle");
    }
    store.until(&engine, "what was sent before counts", |store| store.of("mark").len() == 1);
    let all = counters(&engine);
    assert_eq!(all["sources"]["tcp:127.0.0.1:0"]["connections_refused"], 1);
    assert_eq!(all["sources"]["tcp:127.0.0.1:0"]["connections_idle"], 2);
}

#[test]
fn what_was_sent_before_a_stop_is_detected() {
    let mut store = Store::default();
    let engine = store.start(&json!({"udp": [{"bind": "127.0.0.1:0"}], "tcp": [{"bind": "127.0.0.1:0"}]}));
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(address(&engine, "udp")).unwrap();
    let mut tcp = TcpStream::connect(address(&engine, "tcp")).unwrap();
    for number in 0..2000 {
        // No more datagrams than the smallest usual socket buffer holds: nothing makes a sender of datagrams wait.
        if number < 200 {
            udp.send(format!("MARK {number}").as_bytes()).unwrap();
        }
        writeln!(tcp, "MARK {number}").unwrap();
    }
    store.finish(&engine);
    assert_eq!(store.of("mark").len(), 2200);
    assert_balanced(&engine);
}

#[test]
fn datagrams_the_kernel_dropped_are_counted() {
    let mut store = Store::default();
    // The smallest buffer the kernel gives: bursts do not fit.
    let engine = store.start(&json!({"udp": [{"bind": "127.0.0.1:0", "receive_buffer": 1}]}));
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(address(&engine, "udp")).unwrap();
    let sent = 20_000;
    for _ in 0..sent {
        udp.send(&[b'z'; 1000]).unwrap();
    }
    until(&engine, "all accounted for", |all| all["sources"]["udp:127.0.0.1:0"]["received"] == sent);
    store.finish(&engine);
    let all = counters(&engine);
    assert!(all["lost"]["kernel"].as_u64() > Some(0), "{all}");
    assert_balanced(&engine);
}

#[test]
fn a_consumer_that_does_not_come_makes_udp_shed_with_a_count_and_tcp_wait() {
    let settings = json!({"udp": [{"bind": "127.0.0.1:0"}], "tcp": [{"bind": "127.0.0.1:0"}], "queue_bytes": 1 << 20, "workers": 1});
    let mut store = Store::default();
    let engine = store.start(&settings);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(address(&engine, "udp")).unwrap();
    let mut tcp = TcpStream::connect(address(&engine, "tcp")).unwrap();
    tcp.set_nonblocking(true).unwrap();
    let line = format!("MARK {}\n", "w".repeat(1000));
    let begin = Instant::now();
    let (mut sent, mut written) = (0_u64, 0);
    // Nobody takes batches: UDP must begin to shed, TCP must stop taking.
    while counters(&engine)["lost"]["shed"] == 0
        || tcp.write(line.as_bytes()).map(|bytes| written += bytes).is_ok()
    {
        assert!(begin.elapsed() < DEADLINE, "{}", counters(&engine));
        for _ in 0..100 {
            udp.send(line.as_bytes()).unwrap();
            sent += 1;
        }
    }
    drop(tcp);
    store.finish(&engine);
    assert_balanced(&engine);
    let all = counters(&engine);
    assert_eq!(all["sources"]["udp:127.0.0.1:0"]["received"], sent);
    assert_eq!(all["sources"]["tcp:127.0.0.1:0"]["bytes"], written as u64);
    assert_eq!(all["sources"]["tcp:127.0.0.1:0"]["lost"]["shed"], 0);
}

/// A program that stands for `journalctl`: prints entries behind the cursor it is given, then waits.
fn fake_journal(directory: &Directory) -> std::path::PathBuf {
    let path = directory.join("journalctl");
    let script = r#"#!/bin/sh
after=0
for argument in "$@"; do case "$argument" in --after-cursor=*) after="${argument#--after-cursor=}";; esac; done
number=$after
while [ $number -lt 20 ]; do
  number=$((number + 1))
  uid=0; [ $((number % 2)) -eq 0 ] && uid=1000
  printf '{"__CURSOR":"%s","__REALTIME_TIMESTAMP":"1795168800000000","_UID":"%s","_HOSTNAME":"h","SYSLOG_IDENTIFIER":"sshd","_PID":"7","MESSAGE":"MARK %s"}\n' $number $uid $number
  [ $number -eq 10 ] && [ $after -lt 10 ] && exit 0
done
exec sleep 1000
"#;
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn the_journal_goes_on_behind_the_cursor_when_its_program_ends() {
    let directory = Directory::new("journal");
    let mut store = Store::default();
    let settings = json!({"journal": true, "journal_program": fake_journal(&directory)});
    let engine = store.start(&settings);
    store.until(&engine, "twenty entries", |store| store.of("mark").len() == 20);
    assert_eq!(store.inserts, 20);
    for detection in store.of("mark") {
        let number: u64 = detection["fields"]["message"].as_str().unwrap()[5..].parse().unwrap();
        let trust = if number.is_multiple_of(2) { "unauthenticated" } else { "host" };
        assert_eq!(detection["trust"], trust, "entry {number}");
        assert_eq!(detection["timestamp"], 1_795_168_800_000_000_000_i64);
    }
    store.finish(&engine);
    assert_balanced(&engine);
    let checkpoint: Value = serde_json::from_str(&store.checkpoints["journal"]).unwrap();
    assert_eq!(checkpoint["cursor"], "20");
}

#[test]
fn a_missing_journal_is_a_problem_with_a_remedy() {
    let directory = Directory::new("nojournal");
    let settings =
        json!({"journal": true, "journal_program": directory.join("none"), "udp": [{"bind": "127.0.0.1:0"}]});
    let engine = Store::default().start(&settings);
    let problems = engine.problems();
    assert_eq!(problems[0].source, "journal");
    assert!(problems[0].remedy.contains("journalctl"), "{problems:?}");
}

/// A ring buffer in memory.
#[derive(Clone, Default)]
struct Ring {
    records: Arc<Mutex<Vec<PacketRecord>>>,
    committed: Arc<AtomicU64>,
}

struct RingEnd {
    ring: Ring,
    position: u64,
}

impl PacketSource for RingEnd {
    fn wait(&mut self, timeout: Duration) -> Result<bool, FilterError> {
        let ready = self.ring.records.lock().unwrap().iter().any(|record| record.position >= self.position);
        if !ready {
            std::thread::sleep(timeout.min(Duration::from_millis(1)));
        }
        Ok(ready)
    }

    fn read(&mut self, into: &mut Vec<PacketRecord>, limit: usize) -> usize {
        let records = self.ring.records.lock().unwrap();
        let new: Vec<_> =
            records.iter().filter(|record| record.position >= self.position).take(limit).cloned().collect();
        self.position = new.last().map_or(self.position, |record| record.next_position);
        into.extend(new.iter().cloned());
        new.len()
    }

    fn commit(&mut self, position: u64) {
        self.ring.committed.fetch_max(position, Ordering::SeqCst);
    }
}

fn packet(number: u64, port: u16) -> PacketRecord {
    PacketRecord {
        position: number * 80,
        next_position: (number + 1) * 80,
        boot_ns: number * 1000,
        unix_ns: 1_795_168_800_000_000_000 + number as i64 * 1000,
        kind: PacketKind::NewPort,
        source: "203.0.113.5".parse().unwrap(),
        destination: "192.0.2.1".parse().unwrap(),
        ports: Some((40_000, port)),
        protocol: 6,
        tcp_flags: 2,
        fragment: false,
        vlan: None,
        length: 60,
        rule_id: 0,
        interface: 1,
        stands_for: 1,
    }
}

fn scan_rules() -> Arc<RuleSet> {
    let plan = json!({"version": 1,
        "rules": [{"id": "port", "title": "New port", "level": "low", "tags": [], "emit": false, "fields": [], "entity": [],
            "logsource": {"product": ["ironpost"], "category": ["firewall"], "service": null},
            "detections": {"s": {"atom": {"field": "event.action", "op": "equals", "value": "new_port", "cased": false}}},
            "condition": {"ref": "s"}}],
        "correlations": [{"id": "scan", "title": "Port scan", "level": "high", "tags": [], "type": "value_count", "rules": ["port"],
            "group_by": ["source.ip"], "field": ["destination.port"], "timespan_ns": 60_000_000_000_i64,
            "condition": {"gte": 20}, "aliases": {}, "emit": true, "entity": ["source.ip"], "fields": []}]});
    Arc::new(RuleSet::from_plan(plan.to_string().as_bytes()).unwrap())
}

fn start_packets(store: &Store, ring: &Ring) -> Engine {
    let settings = Settings::from_json(br#"{"packets": true}"#).unwrap();
    let position = ring.committed.load(Ordering::SeqCst);
    let source = Box::new(RingEnd { ring: ring.clone(), position });
    let engine = Engine::new(settings, scan_rules(), extractors(), Some(source)).unwrap();
    engine.start(&store.checkpoints, store.windows.clone().into_iter().collect()).unwrap();
    engine
}

#[test]
fn packet_records_are_given_back_only_after_they_are_stored_and_read_again_after_a_kill() {
    let ring = Ring::default();
    let mut store = Store::default();
    let engine = start_packets(&store, &ring);
    ring.records.lock().unwrap().extend((0..15).map(|number| packet(number, number as u16)));
    let NextBatch::Batch(batch) = engine.next_batch_blocking(DEADLINE) else {
        panic!("a batch with positions")
    };
    assert_eq!(ring.committed.load(Ordering::SeqCst), 0, "nothing is acknowledged yet");
    let sequence = batch.sequence;
    store.commit(*batch);
    engine.acknowledge(sequence);
    let begin = Instant::now();
    while ring.committed.load(Ordering::SeqCst) == 0 {
        assert!(begin.elapsed() < DEADLINE);
        std::thread::sleep(Duration::from_millis(1));
    }
    // Found and not stored: the kill loses it, the kernel still has it.
    ring.records.lock().unwrap().extend((15..25).map(|number| packet(number, number as u16)));
    until(&engine, "the scan is seen", |all| all["detections"] == 1);
    drop(engine);
    let engine = start_packets(&store, &ring);
    store.until(&engine, "the scan", |store| store.of("scan").len() == 1);
    store.finish(&engine);
    let first = store.of("scan")[0].clone();
    assert_eq!(first["trust"], "spoofable");
    assert_eq!(first["entity"]["value"], "203.0.113.5");
    // A new ring buffer counts from 0 again; positions do not.
    let ring = Ring::default();
    store.windows = BTreeMap::new();
    ring.records.lock().unwrap().extend((0..25).map(|number| PacketRecord {
        boot_ns: 1_000_000_000 + number * 1000,
        ..packet(number, number as u16)
    }));
    let engine = start_packets(&store, &ring);
    store.until(&engine, "a second scan", |store| store.of("scan").len() == 2);
}
