//! What the engine's tests share: rules, a store as the control plane keeps it, directories.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "test support; every test file uses a part")]

use ironpost_detect::RuleSet;
use ironpost_engine::{Batch, Engine, NextBatch, Settings};
use ironpost_events::ExtractorSet;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A directory of its own, removed afterwards.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ironpost-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn extractors() -> Arc<ExtractorSet> {
    let plan = json!({"version": 1, "extractors": [{
        "name": "sshd", "programs": ["sshd"], "logsource": {"product": "linux", "service": "sshd"},
        "patterns": [{
            "id": "failed",
            "pattern": "Failed {event.method:word} for[ invalid user] {user.name:text} from {source.ip:ip} port {source.port:port}[ ssh2]",
            "set": {"event.action": "ssh_login", "event.outcome": "failure"},
        }],
    }]});
    Arc::new(ExtractorSet::from_plan(plan.to_string().as_bytes()).unwrap())
}

/// A rule for every line with MARK, and a count of failed logins by address.
pub(crate) fn rules() -> Arc<RuleSet> {
    rules_with_title("Mark")
}

pub(crate) fn rules_with_title(title: &str) -> Arc<RuleSet> {
    let any = json!({"product": null, "category": null, "service": null});
    let plan = json!({"version": 1,
    "rules": [
        {"id": "mark", "title": title, "level": "high", "status": "stable", "tags": [], "path": "", "line": 1,
         "emit": true, "logsource": any, "fields": ["message", "log.flags", "ironpost.trust", "log.source.address", "process.pid",
            "process.user.id", "process.user.name"], "entity": [],
         "detections": {"selection": {"atom": {"field": "message", "op": "contains", "value": "MARK", "cased": true}}},
         "condition": {"ref": "selection"}},
        {"id": "failed", "title": "Failed", "level": "low", "status": "stable", "tags": [], "path": "", "line": 1,
         "emit": false, "logsource": {"product": null, "category": null, "service": ["sshd"]}, "fields": [],
         "entity": ["source.ip"],
         "detections": {"selection": {"atom": {"field": "event.outcome", "op": "equals", "value": "failure", "cased": false}}},
         "condition": {"ref": "selection"}},
    ],
    "correlations": [
        {"id": "brute", "title": "Brute force", "level": "high", "tags": [], "type": "event_count",
         "rules": ["failed"], "group_by": ["source.ip"], "field": [], "timespan_ns": 600_000_000_000_i64,
         "condition": {"gte": 5}, "aliases": {}, "emit": true, "entity": ["source.ip"], "fields": []},
    ]});
    Arc::new(RuleSet::from_plan(plan.to_string().as_bytes()).unwrap())
}

pub(crate) fn failed(address: &str, second: u32) -> String {
    format!(
        "<38>1 2026-11-20T10:00:{second:02}Z host sshd 77 - - Failed password for root from {address} port 4242 ssh2\n"
    )
}

pub(crate) fn append(path: &Path, text: impl AsRef<[u8]>) {
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_ref()).unwrap();
}

/// What the owner of an engine keeps: detections by id, checkpoints, windows.
#[derive(Default, Clone)]
pub(crate) struct Store {
    pub(crate) detections: BTreeMap<String, Value>,
    pub(crate) inserts: usize,
    pub(crate) checkpoints: BTreeMap<String, String>,
    pub(crate) windows: BTreeMap<String, Vec<u8>>,
}

impl Store {
    pub(crate) fn commit(&mut self, batch: Batch) {
        let detections: Vec<Value> = serde_json::from_slice(&batch.detections).unwrap();
        assert_eq!(detections.len() as u64, batch.detection_count);
        for detection in detections {
            self.inserts += 1;
            self.detections.insert(detection["id"].as_str().unwrap().to_owned(), detection);
        }
        for (source, checkpoint) in batch.checkpoints {
            if checkpoint.is_empty() {
                self.checkpoints.remove(&source);
            } else {
                self.checkpoints.insert(source, checkpoint);
            }
        }
        for change in batch.windows {
            match change.state {
                Some(state) => self.windows.insert(change.key, state),
                None => self.windows.remove(&change.key),
            };
        }
    }

    pub(crate) fn of(&self, rule: &str) -> Vec<&Value> {
        self.detections.values().filter(|detection| detection["rule_id"] == rule).collect()
    }

    pub(crate) fn start(&self, settings: &Value) -> Engine {
        let settings = Settings::from_json(settings.to_string().as_bytes()).unwrap();
        let engine = Engine::new(settings, rules(), extractors(), None).unwrap();
        engine.start(&self.checkpoints, self.windows.clone().into_iter().collect()).unwrap();
        engine
    }

    /// Takes and commits batches until the condition holds.
    pub(crate) fn until(&mut self, engine: &Engine, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            assert!(begin.elapsed() < DEADLINE, "{what}: {}", String::from_utf8_lossy(&engine.counters()));
            if let NextBatch::Batch(batch) = engine.next_batch_blocking(Duration::from_millis(100)) {
                let sequence = batch.sequence;
                self.commit(*batch);
                engine.acknowledge(sequence);
            }
        }
    }

    /// Stops the engine and commits everything that is left.
    pub(crate) fn finish(&mut self, engine: &Engine) {
        engine.stop();
        loop {
            match engine.next_batch_blocking(DEADLINE) {
                NextBatch::Batch(batch) => self.commit(*batch),
                NextBatch::Ended => return,
                NextBatch::Late => panic!("a stopped engine ends"),
            }
        }
    }
}

pub(crate) fn counters(engine: &Engine) -> Value {
    serde_json::from_slice(&engine.counters()).unwrap()
}

/// received = parsed + unparsed + empty + lost, for every source.
pub(crate) fn assert_balanced(engine: &Engine) {
    let all = counters(engine);
    for (id, source) in all["sources"].as_object().unwrap() {
        let number = |key: &str| source[key].as_u64().unwrap();
        let lost: u64 =
            source["lost"].as_object().unwrap().values().map(|value| value.as_u64().unwrap()).sum();
        assert_eq!(
            number("received"),
            number("parsed") + number("unparsed") + number("empty") + lost,
            "{id}: {source}"
        );
    }
}
