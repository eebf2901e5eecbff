//! The engine as its owner sees it: lines in, batches of detections with their checkpoints out.

mod support;

use ironpost_engine::{Engine, Settings};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use support::{
    Directory, Store, append, assert_balanced, counters, extractors, failed, rules, rules_with_title,
};

#[test]
fn five_failed_logins_in_a_file_are_one_detection() {
    let directory = Directory::new("five");
    let log = directory.join("auth.log");
    append(&log, "before the start MARK\n");
    let mut store = Store::default();
    let engine = store.start(&json!({"files": [{"path": log}]}));
    for second in 0..5 {
        append(&log, failed("198.51.100.7", second));
    }
    store.until(&engine, "a detection", |store| !store.of("brute").is_empty());
    store.finish(&engine);
    assert_eq!(store.detections.len(), 1, "{:?}", store.detections);
    let detection = store.of("brute")[0];
    assert_eq!(detection["group"], json!([["source.ip", "198.51.100.7"]]));
    assert_eq!(detection["trust"], "host");
    assert_eq!(detection["evidence"].as_array().unwrap().len(), 5);
    assert_balanced(&engine);
}

#[test]
fn a_window_half_full_at_a_kill_is_completed_after_the_restart() {
    let directory = Directory::new("window");
    let log = directory.join("auth.log");
    append(&log, "");
    let settings = json!({"files": [{"path": log}]});
    let mut store = Store::default();
    let engine = store.start(&settings);
    for second in 0..3 {
        append(&log, failed("198.51.100.7", second));
    }
    store.until(&engine, "a stored window", |store| !store.windows.is_empty());
    // As after a kill: what the engine still finds is not stored.
    drop(engine);
    let engine = store.start(&settings);
    for second in 3..5 {
        append(&log, failed("198.51.100.7", second));
    }
    store.until(&engine, "the detection", |store| !store.of("brute").is_empty());
    assert_eq!(store.of("brute")[0]["count"], 5);
}

#[test]
fn reading_again_after_a_kill_gives_the_same_ids() {
    let directory = Directory::new("again");
    let log = directory.join("app.log");
    append(&log, "");
    let settings = json!({"files": [{"path": log, "start": "beginning"}]});
    let mut text = String::new();
    for number in 0..20_000 {
        text.push_str(&format!("line {number} {}\n", if number % 10 == 0 { "MARK" } else { "" }));
    }
    append(&log, &text);
    let mut store = Store::default();
    let mut runs = 0;
    // Every run is killed after one batch; what it found beyond is lost with it.
    while store.detections.len() < 2000 {
        runs += 1;
        assert!(runs < 500, "{} of 2000", store.detections.len());
        let engine = store.start(&settings);
        let before = store.inserts;
        store.until(&engine, "a batch", |store| store.inserts > before || store.detections.len() == 2000);
    }
    assert_eq!(store.inserts, 2000, "nothing is found twice");
}

#[test]
fn udp_and_tcp_messages_are_detected_and_counted() {
    let mut store = Store::default();
    let engine = store.start(&json!({"udp": [{"bind": "127.0.0.1:0"}], "tcp": [{"bind": "127.0.0.1:0"}]}));
    let addresses = engine.addresses();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(&addresses["udp:127.0.0.1:0"]).unwrap();
    for number in 0..500 {
        udp.send(format!("<13>1 2026-11-20T10:00:00Z h app - - - MARK {number}\nsecond line").as_bytes())
            .unwrap();
    }
    let mut tcp = TcpStream::connect(&addresses["tcp:127.0.0.1:0"]).unwrap();
    for number in 0..500 {
        let message = format!("<13>1 2026-11-20T10:00:00Z h app - - - MARK {number} \u{e9}");
        if number % 3 == 0 {
            write!(tcp, "{} {message}", message.len()).unwrap();
        } else {
            writeln!(tcp, "{message}").unwrap();
        }
    }
    tcp.write_all(b"<13>1 2026-11-20T10:00:00Z h app - - - MARK \xff\xfe the last one has no newline")
        .unwrap();
    drop(tcp);
    store.until(&engine, "all messages", |store| store.detections.len() == 1001);
    store.finish(&engine);
    assert_balanced(&engine);
    let all = counters(&engine);
    assert_eq!(all["sources"]["udp:127.0.0.1:0"]["received"], 500);
    assert_eq!(all["sources"]["tcp:127.0.0.1:0"]["received"], 501);
    assert!(store.detections.values().all(|detection| detection["trust"] == "unauthenticated"));
}

#[test]
fn ids_of_socket_messages_never_repeat_after_a_restart() {
    let mut store = Store::default();
    let settings = json!({"udp": [{"bind": "127.0.0.1:0"}]});
    for _ in 0..3 {
        let engine = store.start(&settings);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.connect(&engine.addresses()["udp:127.0.0.1:0"]).unwrap();
        let wanted = store.inserts + 1;
        udp.send(b"the same MARK").unwrap();
        store.until(&engine, "a detection", |store| store.inserts == wanted);
        store.finish(&engine);
    }
    assert_eq!(store.detections.len(), 3);
}

#[test]
fn a_taken_port_is_a_problem_and_the_other_sources_run() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let bind = taken.local_addr().unwrap().to_string();
    let directory = Directory::new("taken");
    let log = directory.join("app.log");
    append(&log, "");
    let mut store = Store::default();
    let engine = store.start(&json!({"udp": [{"bind": bind}], "files": [{"path": log}]}));
    let problems = engine.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].source, format!("udp:{bind}"));
    assert!(problems[0].remedy.contains("stop the program"), "{problems:?}");
    append(&log, "MARK\n");
    store.until(&engine, "a detection", |store| store.detections.len() == 1);
}

#[test]
fn nothing_that_works_is_an_error() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let settings = json!({"udp": [{"bind": taken.local_addr().unwrap().to_string()}]});
    let settings = Settings::from_json(settings.to_string().as_bytes()).unwrap();
    let engine = Engine::new(settings, rules(), extractors(), None).unwrap();
    let error = engine.start(&BTreeMap::new(), Vec::new()).unwrap_err();
    assert!(error.to_string().contains("cannot listen"), "{error}");
}

#[test]
fn swapping_rules_keeps_the_windows_of_unchanged_correlations() {
    let directory = Directory::new("swap");
    let log = directory.join("auth.log");
    append(&log, "");
    let mut store = Store::default();
    let engine = store.start(&json!({"files": [{"path": log}]}));
    for second in 0..4 {
        append(&log, failed("198.51.100.7", second));
    }
    append(&log, "MARK\n");
    store.until(&engine, "the first four", |store| store.of("mark").len() == 1);
    engine.swap_rules(rules_with_title("Renamed"));
    append(&log, format!("{}MARK\n", failed("198.51.100.7", 4)));
    store.until(&engine, "both detections", |store| store.detections.len() == 3);
    assert_eq!(store.of("brute")[0]["count"], 5);
    assert!(store.of("mark").iter().any(|detection| detection["rule_title"] == "Renamed"));
}

#[test]
fn what_docker_cut_into_pieces_is_seen_as_one_line_also_across_a_restart() {
    let directory = Directory::new("pieces");
    let log = directory.join("x-json.log");
    let piece = |log: &str, stream: &str| {
        format!("{}\n", json!({"log": log, "stream": stream, "time": "2026-11-20T10:00:00Z"}))
    };
    let settings =
        json!({"files": [{"path": log, "format": "docker", "start": "beginning"}], "recheck_ms": 50});
    let mut store = Store::default();
    support::append(&log, piece("whole\n", "stdout") + &piece("an injection at the border: MA", "stdout"));
    support::append(&log, piece("MARK of the other stream\n", "stderr"));
    let engine = store.start(&settings);
    store.until(&engine, "the other stream", |store| store.of("mark").len() == 1);
    store.finish(&engine);
    assert_balanced(&engine);
    assert!(
        store.checkpoints.values().any(|checkpoint| checkpoint.contains("held")),
        "{:?}",
        store.checkpoints
    );

    support::append(&log, piece("RK\n", "stdout"));
    let engine = store.start(&settings);
    store.until(&engine, "the joined line", |store| store.of("mark").len() == 2);
    store.finish(&engine);
    assert_balanced(&engine);
    let whole = piece("whole\n", "stdout").len() as u64;
    let positions: Vec<_> = store.of("mark").iter().map(|one| one["position"].as_u64().unwrap()).collect();
    assert!(positions.contains(&whole), "{positions:?}");
    assert!(store.checkpoints.values().all(|checkpoint| !checkpoint.contains("held")));
}

#[test]
fn a_last_piece_without_newline_is_not_waited_for_for_ever() {
    let directory = Directory::new("last-piece");
    let log = directory.join("x-json.log");
    support::append(&log, "{\"log\":\"MARK\",\"stream\":\"stdout\",\"time\":\"2026-11-20T10:00:00Z\"}\n");
    let mut store = Store::default();
    let engine = store.start(
        &json!({"files": [{"path": log, "format": "docker", "start": "beginning"}], "recheck_ms": 50}),
    );
    store.until(&engine, "the last piece", |store| store.of("mark").len() == 1);
    store.finish(&engine);
    assert_balanced(&engine);
}

#[test]
fn one_worker_and_four_find_the_same() {
    // Many groups interleaved, each crossing at another line, so that the order of lines decides every detection.
    let mut text = String::new();
    for number in 0..30_000u32 {
        let address = format!("198.51.{}.{}", number % 7, number * 31 % 199);
        text.push_str(&failed(&address, number / 600));
        if number % 97 == 0 {
            text.push_str(&format!("<13>1 2026-11-20T10:00:00Z host app - - - MARK {number}\n"));
        }
    }
    let directory = Directory::new("workers");
    let log = directory.join("auth.log");
    append(&log, &text);
    let found = |workers: usize| {
        let mut store = Store::default();
        let engine =
            store.start(&json!({"workers": workers, "files": [{"path": log, "start": "beginning"}]}));
        store.until(&engine, "every line", |store| store.of("mark").len() == 310);
        store.finish(&engine);
        assert_balanced(&engine);
        assert_eq!(counters(&engine)["received"], 30_310);
        store.detections
    };
    let (one, four) = (found(1), found(4));
    let crossings = |found: &BTreeMap<String, serde_json::Value>| {
        let first = |one: &&serde_json::Value| one["rule_id"] == "brute" && one["ongoing"] == false;
        found.values().filter(first).count()
    };
    assert_eq!(crossings(&one), 7 * 199, "each address is reported once");
    for (id, detection) in &one {
        // What goes on is also reported by the clock, in pieces; everything else is the same to the letter.
        if detection["ongoing"] == false {
            let mut other = four[id].clone();
            other["row"] = detection["row"].clone(); // rows are numbered by batch
            assert_eq!(detection, &other);
        }
    }
    assert_eq!(crossings(&one), crossings(&four));
}
