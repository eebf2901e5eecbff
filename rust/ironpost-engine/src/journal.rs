//! The systemd journal, read through `journalctl` as a child process: no C library in the package, and the cursor of the
//! last stored entry is where the next start continues.

use crate::intake::{Chunk, Closed, Frames, Kind, Lane};
use crate::origin::FIRST_PERSON;
use crate::receive::Receiver;
use crate::source::{Note, Source, Sources};
use crate::stop::Stop;
use memchr::{memchr, memchr_iter, memrchr};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait before a child that ended is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Follows the journal; runs on its own thread.
#[derive(Debug)]
pub(crate) struct JournalReceiver {
    program: PathBuf,
    cursor: Option<String>,
    position: u64,
    source: Arc<Source>,
    sources: Arc<Sources>,
    lane: Lane,
    stop: Arc<Stop>,
    max_entry: usize,
    /// Started and not read yet.
    child: Option<Journalctl>,
}

/// The child process; ends with its owner, however that ends.
#[derive(Debug)]
struct Journalctl(Child);

impl Drop for Journalctl {
    fn drop(&mut self) {
        // Ending it twice is no error; the status is not needed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The stored place in the journal.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct JournalCheckpoint {
    version: u32,
    cursor: Option<String>,
    position: u64,
}

impl JournalReceiver {
    /// Prepares to read from behind the stored cursor, or from now.
    pub(crate) fn new(
        program: &Path,
        checkpoint: Option<&str>,
        source: Arc<Source>,
        sources: Arc<Sources>,
        lane: Lane,
        stop: Arc<Stop>,
        max_entry: usize,
    ) -> Self {
        let stored: JournalCheckpoint =
            checkpoint.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        Self {
            program: program.to_owned(),
            cursor: stored.cursor,
            position: stored.position,
            source,
            sources,
            lane,
            stop,
            max_entry,
            child: None,
        }
    }

    /// Starts the child, so that nothing written from now on is missed; an error says why there is no journal here.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        self.child = Some(self.spawn()?);
        Ok(())
    }

    fn spawn(&self) -> io::Result<Journalctl> {
        let mut command = Command::new(&self.program);
        // Without --no-tail the follow mode would begin with the last ten entries only.
        command.args(["--follow", "--output=json", "--no-pager", "--quiet", "--all", "--no-tail"]);
        match &self.cursor {
            Some(cursor) => command.arg(format!("--after-cursor={cursor}")),
            None => command.arg("--since=now"),
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("LC_ALL", "C");
        command.spawn().map(Journalctl)
    }

    /// Reports why the journal cannot be read.
    pub(crate) fn complain(&self, reason: &str) {
        self.sources.problem(
            &self.source.id,
            format!("the journal cannot be read through {}: {reason}", self.program.display()),
            "install systemd's journalctl and run as root or in group systemd-journal, or take journal out of the sources",
        );
    }

    /// Reads until the signal to stop; a child that ends is started again, later each time.
    fn read(&mut self) {
        let begun = self.child.take().map_or_else(|| self.spawn(), Ok);
        let mut child = match begun {
            Ok(child) => child,
            Err(error) => return self.complain(&error.to_string()),
        };
        let mut pause = Duration::from_millis(500);
        loop {
            let read = self.follow(&mut child.0);
            let _ = child.0.kill();
            let said = child.0.stderr.take().map(|stderr| {
                let mut said = String::new();
                let _ = stderr.take(4096).read_to_string(&mut said);
                said
            });
            let _ = child.0.wait();
            let bytes = match read {
                Ok(bytes) if !self.stop.given() => bytes,
                _ => return,
            };
            let said = said.unwrap_or_default();
            let said = said.lines().next().unwrap_or("it ended");
            self.complain(said.trim());
            pause = if bytes > 0 { Duration::from_millis(500) } else { (pause * 2).min(LONGEST_PAUSE) };
            loop {
                self.stop.sleep(pause);
                if self.stop.given() {
                    return;
                }
                self.source.counters.note(Note::Restarts);
                match self.spawn() {
                    Ok(again) => {
                        child = again;
                        break;
                    }
                    Err(error) => self.complain(&error.to_string()),
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Reads a child's output to its end or to the signal; how many bytes came.
    fn follow(&mut self, child: &mut Child) -> Result<u64, Closed> {
        let Some(mut output) = child.stdout.take() else { return Ok(0) };
        let mut buffer = self.lane.buffer();
        let (mut filled, mut total, mut readable, mut skipping) = (0, 0_u64, Vec::new(), false);
        while !self.stop.given() {
            self.stop.wait(&[output.as_fd()], Duration::from_secs(1), &mut readable);
            if readable.first() != Some(&true) {
                continue;
            }
            if filled == buffer.len() {
                if buffer.len() > self.max_entry {
                    // An entry this long is no log line; it is counted and passed over.
                    self.source.counters.note(Note::Truncated);
                    skipping = true;
                    filled = 0;
                } else {
                    buffer.resize(buffer.len() * 2, 0);
                }
            }
            let read = match output.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            if total == 0 {
                self.sources.clear_problem(&self.source.id);
            }
            total += read as u64;
            filled += read;
            if skipping {
                match memchr(b'\n', &buffer[..filled]) {
                    Some(newline) => {
                        buffer.copy_within(newline + 1..filled, 0);
                        filled -= newline + 1;
                        skipping = false;
                    }
                    None => {
                        filled = 0;
                        continue;
                    }
                }
            }
            if let Some(newline) = memrchr(b'\n', &buffer[..filled]) {
                let end = newline + 1;
                self.hand_over(&buffer[..end])?;
                buffer.copy_within(end..filled, 0);
                filled -= end;
            }
        }
        self.lane.recycle(buffer);
        Ok(total)
    }

    /// Hands entries over in runs of equal trust, each with the cursor of its last entry.
    fn hand_over(&mut self, entries: &[u8]) -> Result<(), Closed> {
        let mut run = Run::default();
        let mut start = 0;
        for newline in memchr_iter(b'\n', entries) {
            let entry = Entry::read(&entries[start..newline]);
            start = newline + 1;
            if run.entries > 0 && run.kind != Some(entry.kind) {
                self.push(std::mem::take(&mut run))?;
            }
            run.kind = Some(entry.kind);
            run.entries += 1;
            run.bytes.extend_from_slice(&entry.text);
            run.bytes.push(b'\n');
            if entry.cursor.is_some() {
                run.cursor = entry.cursor;
            }
        }
        if run.entries > 0 {
            self.push(run)?;
        }
        Ok(())
    }

    fn push(&mut self, run: Run) -> Result<(), Closed> {
        if run.cursor.is_some() {
            self.cursor = run.cursor;
        }
        let base = self.position;
        self.position += run.bytes.len() as u64;
        self.source.counters.received(run.entries, run.bytes.len() as u64);
        let checkpoint =
            JournalCheckpoint { version: 1, cursor: self.cursor.clone(), position: self.position };
        self.lane.push(Chunk {
            source: Arc::clone(&self.source),
            filled: run.bytes.len(),
            buffer: run.bytes,
            frames: Frames::Lines,
            base,
            records: run.entries,
            kind: run.kind.unwrap_or(Kind::Doubtful),
            origins: Vec::new(),
            checkpoint: serde_json::to_string(&checkpoint).ok(),
        })
    }
}

impl Receiver for JournalReceiver {
    fn run(&mut self) {
        self.read();
    }

    /// Nothing to make good: the next child begins behind the last entry handed over.
    fn recover(&mut self) {}
}

/// Entries that follow one another and are believed alike.
#[derive(Debug, Default)]
struct Run {
    bytes: Vec<u8>,
    entries: u64,
    kind: Option<Kind>,
    cursor: Option<String>,
}

/// One entry of the journal.
#[derive(Debug)]
struct Entry<'a> {
    text: Cow<'a, [u8]>,
    kind: Kind,
    cursor: Option<String>,
}

impl<'a> Entry<'a> {
    fn read(text: &'a [u8]) -> Self {
        let Ok(Value::Object(fields)) = serde_json::from_slice(text) else {
            return Self { text: Cow::Borrowed(text), kind: Kind::Doubtful, cursor: None };
        };
        let cursor = fields.get("__CURSOR").and_then(Value::as_str).map(str::to_owned);
        let kind = if is_of_host(&fields) { Kind::Whole } else { Kind::Doubtful };
        Self { text: with_readable_message(text, fields), kind, cursor }
    }
}

/// Whether the journal vouches for the writer. The fields with an underscore are set by the journal, not the client:
/// the kernel, a process of root, or a program of the system that writes under its own name. Anybody can run
/// `logger -t sshd`, and anybody can start a program of the system with code of his own loaded into it (`LD_PRELOAD`): of
/// what people start, only programs that change to root are believed, because the loader refuses it there.
fn is_of_host(fields: &Map<String, Value>) -> bool {
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    if matches!(text("_TRANSPORT"), Some("kernel" | "audit" | "driver")) || text("_UID") == Some("0") {
        return true;
    }
    let Some(program) = text("_EXE").map(Path::new) else { return false };
    let of_system = ["/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec", "/bin", "/sbin", "/lib"]
        .iter()
        .any(|directory| program.starts_with(directory));
    let of_service =
        text("_UID").and_then(|user| user.parse().ok()).is_some_and(|user: u32| user < FIRST_PERSON);
    of_system
        && text("SYSLOG_IDENTIFIER").is_some_and(|name| program.file_name().is_some_and(|own| own == name))
        && (of_service || runs_as_root(program))
}

/// Whether the program changes to root when anybody starts it, such as `sudo` and `su`.
fn runs_as_root(program: &Path) -> bool {
    std::fs::metadata(program)
        .is_ok_and(|metadata| metadata.uid() == 0 && metadata.mode() & nix::libc::S_ISUID != 0)
}

/// A message with bytes that are no text comes as a list of numbers; it becomes text again, so that a hostile byte does
/// not hide it from rules.
fn with_readable_message(text: &[u8], mut fields: Map<String, Value>) -> Cow<'_, [u8]> {
    let Some(Value::Array(numbers)) = fields.get("MESSAGE") else { return Cow::Borrowed(text) };
    let bytes: Option<Vec<u8>> =
        numbers.iter().map(|number| number.as_u64().and_then(|number| u8::try_from(number).ok())).collect();
    let Some(bytes) = bytes else { return Cow::Borrowed(text) };
    fields.insert("MESSAGE".to_owned(), Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    serde_json::to_vec(&fields).map_or(Cow::Borrowed(text), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(entry: &str) -> Kind {
        Entry::read(entry.as_bytes()).kind
    }

    #[test]
    fn entries_of_root_the_kernel_and_system_programs_are_believed_and_forged_ones_are_not() {
        assert_eq!(kind(r#"{"_UID":"0","SYSLOG_IDENTIFIER":"sshd","MESSAGE":"x"}"#), Kind::Whole);
        assert_eq!(kind(r#"{"_TRANSPORT":"kernel","MESSAGE":"x"}"#), Kind::Whole);
        assert_eq!(
            kind(r#"{"_UID":"33","_EXE":"/usr/sbin/nginx","SYSLOG_IDENTIFIER":"nginx","MESSAGE":"x"}"#),
            Kind::Whole
        );
        assert_eq!(
            kind(r#"{"_UID":"1000","_EXE":"/usr/bin/logger","SYSLOG_IDENTIFIER":"sshd","MESSAGE":"x"}"#),
            Kind::Doubtful
        );
        assert_eq!(
            kind(r#"{"_UID":"1000","_EXE":"/usr/sbin/sshd","SYSLOG_IDENTIFIER":"sshd","MESSAGE":"x"}"#),
            Kind::Doubtful,
            "anybody can preload a library into it"
        );
        assert_eq!(
            kind(r#"{"_UID":"1000","_EXE":"/usr/bin/su","SYSLOG_IDENTIFIER":"su","MESSAGE":"x"}"#),
            Kind::Whole
        );
        assert_eq!(
            kind(r#"{"_UID":"1000","_EXE":"/home/u/sshd","SYSLOG_IDENTIFIER":"sshd","MESSAGE":"x"}"#),
            Kind::Doubtful
        );
        assert_eq!(kind("no json"), Kind::Doubtful);
    }

    #[test]
    fn a_message_of_bytes_becomes_text() {
        let entry = Entry::read(br#"{"MESSAGE":[70,97,255,105,108],"__CURSOR":"s=1"}"#);
        let value: Value = serde_json::from_slice(&entry.text).unwrap();
        assert_eq!(value["MESSAGE"], "Fa\u{fffd}il");
        assert_eq!(entry.cursor.as_deref(), Some("s=1"));
    }
}
