//! Receiver threads: one that panics or ends before its time is started again, later each time, and counted.

use crate::source::Sources;
use crate::stop::Stop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Pause before the first restart; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Longest pause, and how long a receiver has to run for the next accident to count as the first.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What brings bytes in.
pub(crate) trait Receiver: Send {
    /// Receives until the signal to stop, then what is waiting. Called again after an accident.
    fn run(&mut self);

    /// Makes good after an accident what must not stay as it is: what was received and not handed over is received
    /// again, or counted as lost where the source has no memory.
    fn recover(&mut self);
}

/// Accidents of all receivers.
#[derive(Debug, Default)]
pub(crate) struct Accidents {
    pub(crate) panics: AtomicU64,
    pub(crate) restarts: AtomicU64,
}

/// Runs a receiver until the signal to stop.
pub(crate) fn keep_running(
    name: &str,
    mut receiver: Box<dyn Receiver>,
    stop: &Arc<Stop>,
    sources: &Arc<Sources>,
    accidents: &Accidents,
) {
    let place = format!("receiver {name}");
    let mut pause = FIRST_PAUSE;
    loop {
        let begin = Instant::now();
        let last = stop.given();
        let ended = catch_unwind(AssertUnwindSafe(|| receiver.run()));
        if ended.is_err() {
            accidents.panics.fetch_add(1, Ordering::Relaxed);
        } else if stop.given() {
            return;
        }
        if begin.elapsed() >= LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        let how = if ended.is_err() { "ended by a defect" } else { "ended" };
        sources.problem(
            &place,
            format!("the receiver of {name} {how}; it is started again after {} ms", pause.as_millis()),
            "it is tried again by itself; report it when it happens again",
        );
        if catch_unwind(AssertUnwindSafe(|| receiver.recover())).is_err() {
            accidents.panics.fetch_add(1, Ordering::Relaxed);
        }
        if last {
            return;
        }
        stop.sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
        accidents.restarts.fetch_add(1, Ordering::Relaxed);
        // Whether it is well again shows only while it runs; the next accident says so again.
        sources.clear_problem(&place);
    }
}

/// In tests, a record that stands for a passing defect of the receiver itself: it panics when it sees it first.
#[cfg(test)]
pub(crate) fn panic_where_asked(record: &[u8]) {
    static SEEN: std::sync::Mutex<std::collections::BTreeSet<Vec<u8>>> =
        std::sync::Mutex::new(std::collections::BTreeSet::new());
    let asked = memchr::memmem::find(record, b"RECEIVER-DEFECT").is_some();
    let first = asked && crate::source::lock(&SEEN).insert(record.to_vec());
    assert!(!first, "a record asked for it");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Engine, NextBatch, Settings};
    use ironpost_detect::RuleSet;
    use ironpost_events::ExtractorSet;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use std::io::Write;
    use std::net::{TcpStream, UdpSocket};
    use std::sync::Mutex;

    const DEADLINE: Duration = Duration::from_secs(30);

    fn rules() -> Arc<RuleSet> {
        let plan = json!({"version": 1, "correlations": [], "rules": [{
            "id": "mark", "title": "Mark", "level": "high", "tags": [], "emit": true, "fields": [], "entity": [],
            "logsource": {"product": null, "category": null, "service": null},
            "detections": {"s": {"atom": {"field": "message", "op": "contains", "value": "MARK", "cased": true}}},
            "condition": {"ref": "s"}}]});
        Arc::new(RuleSet::from_plan(plan.to_string().as_bytes()).unwrap())
    }

    fn started(settings: &Value) -> Engine {
        let settings = Settings::from_json(settings.to_string().as_bytes()).unwrap();
        let engine = Engine::new(settings, rules(), Arc::new(ExtractorSet::default()), None).unwrap();
        engine.start(&BTreeMap::new(), Vec::new()).unwrap();
        engine
    }

    fn counters(engine: &Engine) -> Value {
        serde_json::from_slice(&engine.counters()).unwrap()
    }

    /// Takes batches until there was one detection.
    fn one_detection(engine: &Engine) {
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < DEADLINE, "{}", counters(engine));
            match engine.next_batch_blocking(Duration::from_millis(50)) {
                NextBatch::Batch(batch) if batch.detection_count == 1 => return,
                _ => {}
            }
        }
    }

    fn until_restarted(engine: &Engine) {
        let begin = Instant::now();
        let mut shown = false;
        while counters(engine)["restarts"]["receivers"] == 0 {
            assert!(begin.elapsed() < DEADLINE, "{}", counters(engine));
            shown |= engine.problems().iter().any(|problem| problem.source.starts_with("receiver "));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(shown, "the accident was never shown as a problem");
    }

    #[test]
    fn a_udp_receiver_that_panics_is_started_again_on_its_socket_and_counted() {
        let engine = started(&json!({"udp": [{"bind": "127.0.0.1:0"}]}));
        let address = engine.addresses().into_values().next().unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"<13>RECEIVER-DEFECT", &address).unwrap();
        until_restarted(&engine);
        sender.send_to(b"<13>MARK after it", &address).unwrap();
        one_detection(&engine);
        assert!(engine.problems().is_empty());
        assert_eq!(counters(&engine)["panics"]["receivers"], 1);
        engine.stop();
    }

    #[test]
    fn a_tcp_receiver_that_panics_listens_again() {
        let engine = started(&json!({"tcp": [{"bind": "127.0.0.1:0"}]}));
        let address = engine.addresses().into_values().next().unwrap();
        TcpStream::connect(&address).unwrap().write_all(b"<13>RECEIVER-DEFECT\n").unwrap();
        until_restarted(&engine);
        TcpStream::connect(&address).unwrap().write_all(b"<13>MARK after it\n").unwrap();
        one_detection(&engine);
        engine.stop();
    }

    #[test]
    fn a_file_receiver_that_panics_reads_again_what_it_had_not_handed_over() {
        let directory = std::env::temp_dir().join(format!("ironpost-receiver-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let log = directory.join("a.log");
        std::fs::write(&log, "MARK one\n").unwrap();
        let engine = started(&json!({"files": [{"path": log, "start": "beginning"}], "recheck_ms": 50}));
        one_detection(&engine);
        let mut file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
        file.write_all(b"MARK two RECEIVER-DEFECT\n").unwrap();
        until_restarted(&engine);
        one_detection(&engine);
        engine.stop();
        assert_eq!(counters(&engine)["detections"], 2);
        let _ = std::fs::remove_dir_all(&directory);
    }

    /// Ends at once, again and again.
    struct Dying(Arc<Mutex<Vec<Instant>>>, Arc<Stop>);

    impl Receiver for Dying {
        fn run(&mut self) {
            let mut starts = self.0.lock().unwrap();
            starts.push(Instant::now());
            if starts.len() == 4 {
                self.1.give();
            }
        }

        fn recover(&mut self) {}
    }

    #[test]
    fn one_that_ends_again_and_again_is_started_later_each_time() {
        let starts = Arc::new(Mutex::new(Vec::new()));
        let stop = Stop::new().unwrap();
        let accidents = Accidents::default();
        let dying = Box::new(Dying(Arc::clone(&starts), Arc::clone(&stop)));
        keep_running("x", dying, &stop, &Arc::default(), &accidents);
        let starts = starts.lock().unwrap();
        assert_eq!(accidents.restarts.load(Ordering::Relaxed), 3);
        let waits: Vec<Duration> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (index, wait) in waits.iter().enumerate() {
            assert!(*wait >= FIRST_PAUSE * (1 << index), "{waits:?}");
        }
    }
}
