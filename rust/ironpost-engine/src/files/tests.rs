//! Rotation in every form, restarts in every state: every line exactly once.

use super::*;
use crate::intake::{Frames, Intake, Kind};
use proptest::prelude::*;
use serde_json::json;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

const DEADLINE: Duration = Duration::from_secs(20);

/// A directory with one log, and a reader of it that can be killed and started again.
struct Bench {
    directory: PathBuf,
    settings: serde_json::Value,
    checkpoints: BTreeMap<String, String>,
    lines: Vec<(u64, String)>,
    running: Option<Running>,
}

struct Running {
    intake: Arc<Intake>,
    stop: Arc<Stop>,
    sources: Arc<Sources>,
    threads: Vec<JoinHandle<()>>,
    read: Arc<Mutex<Vec<Piece>>>,
}

/// What one chunk brought: source, its lines with their positions, the checkpoint behind them.
#[derive(Clone)]
struct Piece {
    source: String,
    lines: Vec<(u64, String)>,
    kind: Kind,
    checkpoint: String,
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

impl Bench {
    fn new() -> Self {
        Self::with(|log| json!({"files": [{"path": log, "start": "beginning"}]}))
    }

    fn with(settings: impl FnOnce(&Path) -> serde_json::Value) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("ironpost-files-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let mut settings = settings(&directory.join("a.log"));
        for (key, value) in [("rotate_wait_ms", 150), ("recheck_ms", 20)] {
            if settings.get(key).is_none() {
                settings[key] = json!(value);
            }
        }
        Self { directory, settings, checkpoints: BTreeMap::new(), lines: Vec::new(), running: None }
    }

    fn log(&self) -> PathBuf {
        self.directory.join("a.log")
    }

    fn named(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn start(&mut self) {
        let settings = Settings::from_json(self.settings.to_string().as_bytes()).unwrap();
        let (intake, sources) = (Intake::new(64), Arc::new(Sources::default()));
        let stop = Stop::new().unwrap();
        let lane = intake.lane("files", 1 << 20);
        let mut tailer =
            Tailer::open(&settings, &self.checkpoints, Arc::clone(&sources), lane, Arc::clone(&stop));
        let read = Arc::new(Mutex::new(Vec::new()));
        let taker = {
            let (intake, read) = (Arc::clone(&intake), Arc::clone(&read));
            std::thread::spawn(move || {
                while let Some(ticket) = intake.take() {
                    read.lock().unwrap().push(piece(&ticket.chunk));
                    intake.done();
                }
            })
        };
        let threads = vec![std::thread::spawn(move || tailer.run()), taker];
        self.running = Some(Running { intake, stop, sources, threads, read });
    }

    /// Ends the reader as a kill would: of what it read, only the first `kept` pieces were stored.
    fn kill(&mut self, kept: usize) {
        let running = self.running.take().unwrap();
        running.stop.give();
        running.intake.close();
        for thread in running.threads {
            thread.join().unwrap();
        }
        for piece in running.read.lock().unwrap().iter().take(kept) {
            self.lines.extend(piece.lines.clone());
            if piece.checkpoint.is_empty() {
                self.checkpoints.remove(&piece.source);
            } else {
                self.checkpoints.insert(piece.source.clone(), piece.checkpoint.clone());
            }
        }
    }

    fn pieces(&self) -> Vec<Piece> {
        self.running.as_ref().map(|running| running.read.lock().unwrap().clone()).unwrap_or_default()
    }

    fn read_now(&self) -> Vec<String> {
        let pieces = self.pieces();
        let new = pieces.iter().flat_map(|piece| &piece.lines);
        self.lines.iter().chain(new).map(|(_, line)| line.clone()).collect()
    }

    fn until(&self, what: &str, done: impl Fn(&[String]) -> bool) {
        let begin = Instant::now();
        loop {
            let lines = self.read_now();
            if done(&lines) {
                return;
            }
            assert!(begin.elapsed() < DEADLINE, "{what}: {} lines: {:?}", lines.len(), tail(&lines));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until all of these lines were read, in any order, and nothing else.
    fn expect(&self, wanted: &[&str]) {
        let mut wanted: Vec<&str> = wanted.to_vec();
        wanted.sort_unstable();
        self.until(&format!("wanted {wanted:?}"), |lines| {
            let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            lines.sort_unstable();
            lines == wanted
        });
    }

    fn problem(&self, text: &str) {
        let sources = &self.running.as_ref().unwrap().sources;
        let begin = Instant::now();
        while !sources.problems().iter().any(|problem| problem.reason.contains(text)) {
            assert!(begin.elapsed() < DEADLINE, "no problem says {text}: {:?}", sources.problems());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn no_problem(&self) {
        let sources = &self.running.as_ref().unwrap().sources;
        let begin = Instant::now();
        while !sources.problems().is_empty() {
            assert!(begin.elapsed() < DEADLINE, "{:?}", sources.problems());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Stops after everything that was read is stored.
    fn restart_after(&mut self, change: impl FnOnce(&Self)) {
        self.kill(usize::MAX);
        change(self);
        self.start();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.kill(0);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn tail(lines: &[String]) -> &[String] {
    &lines[lines.len().saturating_sub(5)..]
}

fn piece(chunk: &Chunk) -> Piece {
    assert!(matches!(chunk.frames, Frames::Lines));
    let mut lines = Vec::new();
    let mut start = 0;
    let bytes = chunk.bytes();
    for end in memchr::memchr_iter(b'\n', bytes).chain((!bytes.ends_with(b"\n")).then_some(bytes.len())) {
        if end > start || end < bytes.len() {
            lines.push((chunk.base + start as u64, String::from_utf8_lossy(&bytes[start..end]).into_owned()));
        }
        start = end + 1;
    }
    assert_eq!(lines.len() as u64, chunk.records, "records are counted as they are");
    let checkpoint = chunk.checkpoint.clone().unwrap();
    Piece { source: chunk.source.id.clone(), lines, kind: chunk.kind, checkpoint }
}

fn write(path: &Path, text: &str) {
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn rename(bench: &Bench, from: &str, to: &str) {
    fs::rename(bench.named(from), bench.named(to)).unwrap();
}

/// As logrotate's `copytruncate`.
fn copy_truncate(bench: &Bench, to: &str) {
    fs::copy(bench.log(), bench.named(to)).unwrap();
    OpenOptions::new().write(true).open(bench.log()).unwrap().set_len(0).unwrap();
}

#[test]
fn a_file_is_read_from_its_end_or_its_beginning_and_onwards() {
    let mut bench = Bench::with(|log| json!({"files": [{"path": log}]}));
    write(&bench.log(), "old\nold par");
    bench.start();
    write(&bench.log(), "tial\nnew\n");
    bench.expect(&["old partial", "new"]);
    let mut bench = Bench::new();
    write(&bench.log(), "old\n");
    bench.start();
    write(&bench.log(), "new\n");
    bench.expect(&["old", "new"]);
}

#[test]
fn a_rotated_file_is_read_to_its_end_before_and_after_the_new_one_appears() {
    let mut bench = Bench::new();
    write(&bench.log(), "one\n");
    bench.start();
    bench.expect(&["one"]);
    let mut writer = OpenOptions::new().append(true).open(bench.log()).unwrap();
    rename(&bench, "a.log", "a.log.1");
    writer.write_all(b"two, after the rename\n").unwrap();
    bench.expect(&["one", "two, after the rename"]);
    write(&bench.log(), "three, in the new file\n");
    writer.write_all(b"four, still in the old file\n").unwrap();
    bench.expect(&["one", "two, after the rename", "three, in the new file", "four, still in the old file"]);
}

#[test]
fn the_last_line_of_a_rotated_file_needs_no_newline() {
    let mut bench = Bench::new();
    write(&bench.log(), "one\ntwo without end");
    bench.start();
    bench.expect(&["one"]);
    rename(&bench, "a.log", "a.log.1");
    write(&bench.log(), "three\n");
    bench.expect(&["one", "two without end", "three"]);
}

#[test]
fn copytruncate_finds_what_was_unread_in_the_copy() {
    let mut bench = Bench::new();
    write(&bench.log(), "the head of the file, long enough to be known\n");
    bench.start();
    bench.until("the head", |lines| lines.len() == 1);
    bench.restart_after(|bench| {
        write(&bench.log(), "unread when truncated\n");
        copy_truncate(bench, "a.log.1");
        write(&bench.log(), "new\n");
    });
    bench.expect(&["the head of the file, long enough to be known", "unread when truncated", "new"]);
    copy_truncate(&bench, "a.log.2");
    write(&bench.log(), "newer\n");
    bench.until("after the live truncation", |lines| lines.contains(&"newer".to_owned()));
}

#[test]
fn a_file_truncated_and_refilled_beyond_the_old_offset_is_seen() {
    let mut bench = Bench::new();
    write(&bench.log(), "first content of the file\n");
    bench.start();
    bench.until("the first line", |lines| lines.len() == 1);
    bench.restart_after(|bench| {
        fs::write(bench.log(), "second content, longer than the first one was\nand more\n").unwrap();
    });
    bench.until("all new lines", |lines| {
        lines[1..] == ["second content, longer than the first one was", "and more"]
    });
}

#[test]
fn a_deleted_and_recreated_file_is_read_whatever_its_inode() {
    let mut bench = Bench::new();
    write(&bench.log(), "one\n");
    bench.start();
    bench.expect(&["one"]);
    fs::remove_file(bench.log()).unwrap();
    write(&bench.log(), "two\n");
    bench.expect(&["one", "two"]);
    // While nothing holds the file open its inode is free, and most file systems give it out again at once.
    bench.restart_after(|bench| {
        fs::remove_file(bench.log()).unwrap();
        write(&bench.log(), "thr\nfour, in a file that may have the inode of the one before\n");
    });
    bench.expect(&["one", "two", "thr", "four, in a file that may have the inode of the one before"]);
}

#[test]
fn a_partial_line_waits_for_its_newline_and_survives_a_restart() {
    let mut bench = Bench::new();
    write(&bench.log(), "one\nhalf a");
    bench.start();
    bench.expect(&["one"]);
    bench.restart_after(|bench| write(&bench.log(), " line"));
    write(&bench.log(), " now whole\n");
    bench.expect(&["one", "half a line now whole"]);
}

#[test]
fn rotations_while_nothing_runs_are_caught_up_with() {
    let mut bench = Bench::new();
    write(&bench.log(), "one\n");
    bench.start();
    bench.expect(&["one"]);
    bench.restart_after(|bench| {
        write(&bench.log(), "two\n");
        rename(bench, "a.log", "a.log.1");
        write(&bench.log(), "three\n");
        rename(bench, "a.log.1", "a.log.2");
        rename(bench, "a.log", "a.log.1");
        write(&bench.log(), "four\n");
    });
    bench.expect(&["one", "two", "three", "four"]);
    let generations: BTreeSet<u64> =
        bench.pieces().iter().flat_map(|piece| &piece.lines).map(|(position, _)| position >> 44).collect();
    assert_eq!(generations, BTreeSet::from([0, 1, 2]), "each file has positions of its own");
}

#[test]
fn a_rest_compressed_away_is_said() {
    let mut bench = Bench::new();
    write(&bench.log(), "one\n");
    bench.start();
    bench.expect(&["one"]);
    bench.restart_after(|bench| {
        write(&bench.log(), "two\n");
        rename(bench, "a.log", "a.log.1.gz");
        fs::write(bench.named("a.log.1.gz"), "something else").unwrap();
        write(&bench.log(), "three\n");
    });
    bench.expect(&["one", "three"]);
    bench.problem("not found any more");
}

#[test]
fn a_symbolic_link_in_place_of_the_file_is_refused_and_the_file_is_read_on() {
    let mut bench = Bench::new();
    fs::write(bench.named("secret"), "secret\n").unwrap();
    write(&bench.log(), "one\n");
    bench.start();
    bench.expect(&["one"]);
    let mut writer = OpenOptions::new().append(true).open(bench.log()).unwrap();
    rename(&bench, "a.log", "moved");
    symlink(bench.named("secret"), bench.log()).unwrap();
    bench.problem("symbolic link");
    writer.write_all(b"two\n").unwrap();
    bench.expect(&["one", "two"]);
    fs::remove_file(bench.log()).unwrap();
    write(&bench.log(), "three\n");
    bench.expect(&["one", "two", "three"]);
    bench.no_problem();
}

#[test]
fn pipes_and_directories_are_refused_without_blocking() {
    let mut bench = Bench::with(
        |log| json!({"files": [{"path": log}, {"path": log.with_file_name("directory")}, {"path": log.with_file_name("b.log")}]}),
    );
    nix::unistd::mkfifo(&bench.log(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(bench.named("directory")).unwrap();
    bench.start();
    bench.problem("is a FIFO");
    bench.problem("is a directory");
    write(&bench.named("b.log"), "the others are read\n");
    bench.expect(&["the others are read"]);
}

#[test]
fn a_missing_file_is_a_problem_until_it_appears_and_is_then_read_whole() {
    let mut bench = Bench::with(|log| json!({"files": [{"path": log}]}));
    bench.start();
    bench.problem("does not exist");
    write(&bench.log(), "one\n");
    bench.expect(&["one"]);
    bench.no_problem();
}

#[test]
fn a_file_that_appears_while_nothing_runs_is_read_whole() {
    let mut bench = Bench::with(
        |log| json!({"files": [{"path": log}, {"glob": log.with_file_name("*.txt")}], "recheck_ms": 20}),
    );
    write(&bench.named("old.txt"), "old\n");
    bench.start();
    let begin = Instant::now();
    while bench.pieces().len() < 3 {
        assert!(
            begin.elapsed() < DEADLINE,
            "path, pattern and old.txt are stored before anything is written"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    bench.restart_after(|bench| {
        write(&bench.log(), "one\n");
        write(&bench.named("new.txt"), "two\n");
        write(&bench.named("old.txt"), "three\n");
    });
    bench.expect(&["one", "two", "three"]);
}

#[test]
fn an_unreadable_file_is_a_problem_and_read_when_it_becomes_readable() {
    if !nix::unistd::geteuid().is_root() {
        unreadable();
        return;
    }
    // Root reads everything; the thread gives up the power to, then the same holds for it as for anybody.
    let script = std::env::current_exe().unwrap();
    let status = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(script)
        .args(["--exact", "files::tests::an_unreadable_file_is_a_problem_and_read_when_it_becomes_readable"])
        .current_dir("/tmp")
        .env("TMPDIR", "/tmp")
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
}

fn unreadable() {
    let mut bench = Bench::with(|log| json!({"files": [{"path": log}]}));
    write(&bench.log(), "old\n");
    fs::set_permissions(bench.log(), fs::Permissions::from_mode(0o000)).unwrap();
    bench.start();
    bench.problem("Permission denied");
    fs::set_permissions(bench.log(), fs::Permissions::from_mode(0o600)).unwrap();
    write(&bench.log(), "new\n");
    bench.expect(&["new"]);
    bench.no_problem();
}

#[test]
fn a_line_longer_than_the_limit_is_cut_and_the_next_one_is_whole() {
    let mut bench =
        Bench::with(|log| json!({"files": [{"path": log, "start": "beginning"}], "max_line": 100_000}));
    let exact = "e".repeat(100_000);
    let long = "x".repeat(10_000_000);
    write(&bench.log(), &format!("one\n{exact}\n{long}\ntwo\n"));
    bench.start();
    bench.until("all", |lines| lines.last().is_some_and(|line| line == "two"));
    let lines = bench.read_now();
    assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [3, 100_000, 100_000, 3]);
    let kinds: Vec<Kind> =
        bench.pieces().iter().filter(|piece| !piece.lines.is_empty()).map(|piece| piece.kind).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == Kind::Cut).count(), 1, "{kinds:?}");
    assert!(bench.pieces().iter().all(|piece| piece.lines.iter().all(|(_, line)| line.len() <= 100_000)));
}

#[test]
fn a_restart_in_the_middle_of_a_cut_line_skips_the_rest_of_it() {
    let mut bench =
        Bench::with(|log| json!({"files": [{"path": log, "start": "beginning"}], "max_line": 100_000}));
    write(&bench.log(), &"x".repeat(300_000));
    bench.start();
    bench.until("the begin of the line", |lines| lines.len() == 1);
    bench.restart_after(|_| ());
    write(&bench.log(), &format!("{}\nnext\n", "y".repeat(50_000)));
    bench.until("the next line", |lines| lines.len() == 2 && lines[1] == "next");
}

#[test]
fn a_pattern_follows_files_and_directories_that_appear_later() {
    let mut bench = Bench::with(|log| {
        let glob = log.with_file_name("containers").join("*").join("*-json.log");
        json!({"files": [{"glob": glob, "format": "docker"}]})
    });
    fs::create_dir(bench.named("containers")).unwrap();
    bench.start();
    let id = "0123456789abcdef".repeat(4);
    let directory = bench.named("containers").join(&id);
    fs::create_dir(&directory).unwrap();
    let log = directory.join(format!("{id}-json.log"));
    write(&log, "one\n");
    bench.expect(&["one"]);
    let sources = Arc::clone(&bench.running.as_ref().unwrap().sources);
    let source =
        sources.add(&format!("file:{}", log.display()), "", vec![], ironpost_events::Logsource::default());
    assert!(source.facts.contains(&("container.id".to_owned(), id.clone())));
    assert!(source.facts.contains(&("ironpost.trust".to_owned(), "container".to_owned())));
    // Docker rotates to names that do not fit the pattern, users' patterns may fit them.
    fs::rename(&log, directory.join(format!("{id}-json.log.1"))).unwrap();
    write(&log, "two\n");
    bench.expect(&["one", "two"]);
    fs::remove_dir_all(&directory).unwrap();
    let begin = Instant::now();
    while bench.pieces().last().is_none_or(|piece| !piece.checkpoint.is_empty()) {
        assert!(begin.elapsed() < DEADLINE, "the removed container's log is forgotten");
        std::thread::sleep(Duration::from_millis(2));
    }
    bench.kill(usize::MAX);
    assert_eq!(bench.checkpoints.len(), 1, "only the pattern is left: {:?}", bench.checkpoints);
}

#[test]
fn a_pattern_that_fits_rotated_names_reads_no_line_twice() {
    let mut bench =
        Bench::with(|log| json!({"files": [{"glob": log.with_file_name("a.log*"), "start": "beginning"}]}));
    write(&bench.log(), "one\n");
    bench.start();
    bench.expect(&["one"]);
    rename(&bench, "a.log", "a.log.1");
    write(&bench.log(), "two\n");
    bench.expect(&["one", "two"]);
    bench.restart_after(|bench| {
        rename(bench, "a.log.1", "a.log.2");
        rename(bench, "a.log", "a.log.1");
        write(&bench.log(), "three\n");
    });
    bench.expect(&["one", "two", "three"]);
}

/// One thing that happens to a log.
#[derive(Debug, Clone)]
enum Happening {
    Append(usize),
    AppendPart,
    Rename,
    CopyTruncate,
    Recreate,
    /// Kill after so many stored pieces of those read since the start.
    Restart(usize),
    Settle,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1..40_usize).prop_map(Happening::Append),
        1 => Just(Happening::Append(3000)),
        2 => Just(Happening::AppendPart),
        2 => Just(Happening::Rename),
        1 => Just(Happening::CopyTruncate),
        1 => Just(Happening::Recreate),
        3 => (0..4_usize).prop_map(Happening::Restart),
        2 => Just(Happening::Settle),
    ]
}

/// Writes numbered lines and rotates as the happenings say; at the end every line was read exactly once.
fn every_line_once(happenings: &[Happening]) {
    // Rotated files stay open for long here: a line is never completed by giving up on it.
    let mut bench =
        Bench::with(|log| json!({"files": [{"path": log, "start": "beginning"}], "rotate_wait_ms": 600_000}));
    let mut written: Vec<String> = Vec::new();
    let mut partial: Option<String> = None;
    let mut rotated = 0;
    write(&bench.log(), "");
    bench.start();
    // A kill before the very first checkpoint is stored is a first start again: rotated files are then not known.
    let begin = Instant::now();
    while bench.pieces().is_empty() {
        assert!(begin.elapsed() < DEADLINE, "the begin is stored");
        std::thread::sleep(Duration::from_millis(1));
    }
    bench.restart_after(|_| ());
    let finish = |bench: &Bench, partial: &mut Option<String>, written: &mut Vec<String>| {
        if let Some(line) = partial.take() {
            write(&bench.log(), " end\n");
            written.push(format!("{line} end"));
        }
    };
    for happening in happenings {
        match happening {
            Happening::Append(count) => {
                finish(&bench, &mut partial, &mut written);
                let mut text = String::new();
                for _ in 0..*count {
                    let line =
                        format!("line {:06} of the log, {}", written.len(), "z".repeat(written.len() % 60));
                    text.push_str(&line);
                    text.push('\n');
                    written.push(line);
                }
                write(&bench.log(), &text);
            }
            Happening::AppendPart if partial.is_none() => {
                let line = format!("line {:06} in two parts:", written.len());
                write(&bench.log(), &line);
                partial = Some(line);
            }
            Happening::AppendPart => finish(&bench, &mut partial, &mut written),
            Happening::Rename => {
                finish(&bench, &mut partial, &mut written);
                for number in (1..=rotated).rev() {
                    rename(&bench, &format!("a.log.{number}"), &format!("a.log.{}", number + 1));
                }
                rotated += 1;
                rename(&bench, "a.log", "a.log.1");
                write(&bench.log(), "");
            }
            Happening::CopyTruncate => {
                // A copy is known by its head; what is shorter cannot be told from another file.
                finish(&bench, &mut partial, &mut written);
                let line = format!("line {:06} makes the head long enough", written.len());
                write(&bench.log(), &format!("{line}\n"));
                written.push(line);
                bench.until("all before the copy", |lines| lines.len() >= written.len());
                bench.restart_after(|_| ());
                let line = format!("line {:06} is perhaps only in the copy", written.len());
                write(&bench.log(), &format!("{line}\n"));
                written.push(line);
                for number in (1..=rotated).rev() {
                    rename(&bench, &format!("a.log.{number}"), &format!("a.log.{}", number + 1));
                }
                rotated += 1;
                copy_truncate(&bench, "a.log.1");
            }
            Happening::Recreate => {
                // What is deleted unread while nothing runs is gone for everybody: read it first.
                finish(&bench, &mut partial, &mut written);
                bench.until("all before the deletion", |lines| lines.len() >= written.len());
                bench.kill(usize::MAX);
                fs::remove_file(bench.log()).unwrap();
                // File times have the resolution of a clock tick, at most 10 ms: see `changed_after`.
                std::thread::sleep(Duration::from_millis(20));
                File::create(bench.log()).unwrap();
                bench.start();
            }
            Happening::Restart(kept) => {
                bench.kill(*kept);
                bench.start();
            }
            Happening::Settle => bench.until("all so far", |lines| lines.len() >= written.len()),
        }
    }
    finish(&bench, &mut partial, &mut written);
    bench.until("all lines", |lines| lines.len() >= written.len());
    let mut read = bench.read_now();
    read.sort_unstable();
    written.sort_unstable();
    assert_eq!(read, written);
    let mut positions: Vec<u64> = bench.lines.iter().map(|(position, _)| *position).collect();
    positions.extend(bench.pieces().iter().flat_map(|piece| &piece.lines).map(|(position, _)| *position));
    let count = positions.len();
    positions.sort_unstable();
    positions.dedup();
    assert_eq!(positions.len(), count, "no two lines share a position");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_to_a_log_every_line_is_read_exactly_once(happenings in prop::collection::vec(happening(), 1..14)) {
        every_line_once(&happenings);
    }
}
