//! Following files: one thread for all paths and globs.
//!
//! Change notification only says *when* to look; what happened is found by comparing the path with the open file.
//! So nothing depends on the order or completeness of notifications, and a slow look at everything repairs a lost one.

mod audit;
mod follow;
mod glob;
mod join;
mod reader;
mod siblings;
#[cfg(test)]
mod tests;

use crate::intake::{Chunk, Lane};
use crate::receive::Receiver;
use crate::settings::{Described, FileSettings, Settings, Start};
use crate::source::Sources;
use crate::stop::Stop;
use follow::{Follow, Habits, Turn};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause after reading, so that a busy writer costs at most a thousand looks a second.
const PAUSE: Duration = Duration::from_millis(1);

/// Files followed at one time.
const MAX_FILES: usize = 4096;

/// Directories are scanned again for globs at most this often when only the clock asks.
const RESCAN_EVERY: u32 = 10;

/// A pattern in the settings.
#[derive(Debug)]
struct Pattern {
    glob: PathBuf,
    settings: FileSettings,
}

/// Follows every configured file; runs on its own thread.
pub(crate) struct Tailer {
    follows: BTreeMap<PathBuf, Follow>,
    patterns: Vec<Pattern>,
    checkpoints: BTreeMap<String, String>,
    inotify: Option<Inotify>,
    watched: HashMap<PathBuf, WatchDescriptor>,
    directories: HashMap<WatchDescriptor, PathBuf>,
    sources: Arc<Sources>,
    lane: Lane,
    stop: Arc<Stop>,
    max_line: usize,
    rotate_wait: Duration,
    recheck: Duration,
    /// The pattern's own first scan was done in an earlier run or in this one: what is new now began from nothing.
    settled: BTreeSet<PathBuf>,
}

impl Tailer {
    /// Opens what is there now, so that every line written after this call is read.
    pub(crate) fn open(
        settings: &Settings,
        checkpoints: &BTreeMap<String, String>,
        sources: Arc<Sources>,
        lane: Lane,
        stop: Arc<Stop>,
    ) -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC);
        if let Err(error) = &inotify {
            let reason =
                format!("change notification is not available: {error}; files are looked at on the clock");
            sources.problem("files", reason, "raise fs.inotify.max_user_instances");
        }
        let mut tailer = Self {
            follows: BTreeMap::new(),
            patterns: Vec::new(),
            checkpoints: checkpoints.clone(),
            inotify: inotify.ok(),
            watched: HashMap::new(),
            directories: HashMap::new(),
            sources,
            lane,
            stop,
            max_line: settings.max_line,
            rotate_wait: Duration::from_millis(settings.rotate_wait_ms),
            recheck: Duration::from_millis(settings.recheck_ms.max(1)),
            settled: BTreeSet::new(),
        };
        for file in &settings.files {
            if let Some(path) = &file.path {
                tailer.follow(path.clone(), file, false);
            } else if let Some(glob) = &file.glob {
                let glob = PathBuf::from(glob);
                if tailer.checkpoints.contains_key(&pattern_id(&glob)) {
                    tailer.settled.insert(glob.clone());
                }
                tailer.patterns.push(Pattern { glob, settings: file.clone() });
            }
        }
        tailer.scan();
        tailer.forget_stale();
        tailer
    }

    fn follow(&mut self, path: PathBuf, settings: &FileSettings, from_glob: bool) {
        let id = format!("file:{}", path.display());
        let described = describe(&path, &settings.described);
        let source = self.sources.add(
            &id,
            &described.format,
            described.facts.into_iter().collect(),
            (&described.logsource).into(),
        );
        let settled = settings.glob.as_ref().is_some_and(|glob| self.settled.contains(Path::new(glob)));
        let habits = Habits {
            max_line: self.max_line,
            rotate_wait: self.rotate_wait,
            from_glob,
            from_end: settings.start == Start::End && !settled,
        };
        let stored = self.checkpoints.get(&id).cloned();
        // The watch comes before the first look: what is written in between wakes the thread.
        self.watch(path.parent().unwrap_or(Path::new("/")));
        let follow = Follow::new(path.clone(), source, habits, stored.as_deref(), &self.sources);
        self.follows.insert(path, follow);
    }

    fn watch(&mut self, directory: &Path) {
        let Some(inotify) = &self.inotify else { return };
        if self.watched.contains_key(directory) {
            return;
        }
        let mask = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR;
        match inotify.add_watch(directory, mask) {
            Ok(descriptor) => {
                self.watched.insert(directory.to_owned(), descriptor);
                self.directories.insert(descriptor, directory.to_owned());
            }
            Err(Errno::ENOSPC) => {
                let reason = "no more directories can be watched; the others are looked at on the clock";
                self.sources.problem("files", reason, "raise fs.inotify.max_user_watches");
            }
            // Not there yet, or not ours to read: the clock looks again.
            Err(_) => {}
        }
    }

    /// Expands every pattern and follows what is new.
    fn scan(&mut self) {
        for index in 0..self.patterns.len() {
            let glob = self.patterns[index].glob.clone();
            let expansion = glob::expand(&glob);
            for directory in &expansion.directories {
                self.watch(directory);
            }
            for path in expansion.paths {
                self.consider(path, index);
            }
            if self.settled.insert(glob.clone()) {
                self.checkpoints.remove(&pattern_id(&glob));
                self.note_settled(&glob);
            }
        }
    }

    /// Stores that the pattern has been looked at once: a file that appears while nothing runs is then read whole.
    fn note_settled(&self, glob: &Path) {
        let source =
            self.sources.add(&pattern_id(glob), "", Vec::new(), ironpost_events::Logsource::default());
        // The queue is only closed after this thread has ended.
        let _ = self.lane.push(Chunk::checkpoint_only(source, r#"{"version":1,"settled":true}"#.to_owned()));
    }

    fn consider(&mut self, path: PathBuf, pattern: usize) {
        if self.follows.contains_key(&path) || path.file_name().is_some_and(siblings::is_rotated) {
            return;
        }
        // A rotated file of a followed path is read there, under its old name.
        let owned = std::fs::symlink_metadata(&path).is_ok_and(|metadata| {
            self.follows.values().any(|follow| follow.owns(metadata.dev(), metadata.ino()))
        });
        if owned {
            return;
        }
        if self.follows.len() >= MAX_FILES {
            let glob = self.patterns[pattern].glob.display().to_string();
            let reason = format!("more than {MAX_FILES} files are followed; {} is not read", path.display());
            self.sources.problem(&format!("file:{glob}"), reason, "narrow the pattern");
            return;
        }
        let settings = self.patterns[pattern].settings.clone();
        self.follow(path, &settings, true);
    }

    /// Files of a pattern that stood there in an earlier run and are gone: their rest is looked for, then they are
    /// forgotten, so that checkpoints do not pile up.
    fn forget_stale(&mut self) {
        let ids: Vec<String> = self.checkpoints.keys().cloned().collect();
        for id in ids {
            let Some(path) = id.strip_prefix("file:").map(PathBuf::from) else { continue };
            if self.follows.contains_key(&path) || self.patterns.iter().any(|pattern| pattern.glob == path) {
                continue;
            }
            let pattern = self.patterns.iter().find(|pattern| glob_names(&pattern.glob, &path));
            if let Some(settings) = pattern.map(|pattern| pattern.settings.clone()) {
                self.follow(path, &settings, true);
            }
        }
        self.checkpoints.clear();
    }

    /// Reads until the signal to stop.
    fn read(&mut self) {
        let mut dirty: BTreeSet<PathBuf> = self.follows.keys().cloned().collect();
        let mut next_look = Instant::now() + self.recheck;
        let mut looks = 0_u32;
        let mut readable = Vec::new();
        while !self.stop.given() {
            let wait = if dirty.is_empty() {
                next_look.saturating_duration_since(Instant::now())
            } else {
                Duration::ZERO
            };
            let descriptors: Vec<_> = self.inotify.iter().map(AsFd::as_fd).collect();
            self.stop.wait(&descriptors, wait, &mut readable);
            drop(descriptors);
            let mut rescan = false;
            if readable.first() == Some(&true) {
                rescan |= self.collect(&mut dirty);
            }
            if Instant::now() >= next_look {
                next_look = Instant::now() + self.recheck;
                looks = looks.wrapping_add(1);
                rescan |= looks.is_multiple_of(RESCAN_EVERY);
                self.rewatch();
                dirty.extend(self.follows.keys().cloned());
            }
            if rescan {
                let before = self.follows.len();
                self.scan();
                if self.follows.len() != before {
                    dirty.extend(self.follows.keys().cloned());
                }
            }
            if dirty.is_empty() {
                continue;
            }
            dirty = self.turn(dirty);
            if dirty.is_empty() {
                self.stop.sleep(PAUSE);
            }
        }
    }

    /// Watches again directories that were made (again) since.
    fn rewatch(&mut self) {
        let gone: Vec<PathBuf> =
            self.watched.keys().filter(|directory| !directory.exists()).cloned().collect();
        for directory in gone {
            if let Some(descriptor) = self.watched.remove(&directory) {
                self.directories.remove(&descriptor);
            }
        }
        let wanted: BTreeSet<PathBuf> =
            self.follows.values().map(|follow| follow.directory().to_owned()).collect();
        for directory in wanted {
            self.watch(&directory);
        }
    }

    /// Takes the notifications; true when a pattern may name something new.
    fn collect(&mut self, dirty: &mut BTreeSet<PathBuf>) -> bool {
        let mut rescan = false;
        while let Some(Ok(events)) = self.inotify.as_ref().map(Inotify::read_events) {
            for event in events {
                rescan |= self.take_event(&event, dirty);
            }
        }
        rescan
    }

    fn take_event(&mut self, event: &InotifyEvent, dirty: &mut BTreeSet<PathBuf>) -> bool {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            dirty.extend(self.follows.keys().cloned());
            return true;
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            if let Some(directory) = self.directories.remove(&event.wd) {
                self.watched.remove(&directory);
            }
            return true;
        }
        let Some(directory) = self.directories.get(&event.wd) else { return false };
        let Some(name) = &event.name else { return false };
        for follow in self.follows.values().filter(|follow| follow.directory() == directory) {
            // Rotated files keep the begin of the name and may still be written to.
            let ours = follow.path.file_name().is_some_and(|own| name.as_bytes().starts_with(own.as_bytes()));
            if ours {
                dirty.insert(follow.path.clone());
            }
        }
        let appeared = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE;
        !self.patterns.is_empty() && event.mask.intersects(appeared)
    }

    /// Gives each of `dirty` its turn; those with more to read come back.
    fn turn(&mut self, dirty: BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
        let mut again = BTreeSet::new();
        for path in dirty {
            if self.stop.given() {
                break;
            }
            let Some(follow) = self.follows.get_mut(&path) else { continue };
            match follow.turn(&self.lane, &self.sources) {
                Ok(Turn::Idle) => {}
                Ok(Turn::More) => {
                    again.insert(path);
                }
                Ok(Turn::Gone) => {
                    let source = Arc::clone(follow.source());
                    self.follows.remove(&path);
                    let id = source.id.clone();
                    // Refused only when the engine is going down; the next start forgets it then.
                    let _ = self.lane.push(Chunk::checkpoint_only(source, String::new()));
                    self.sources.retire(&id);
                }
                Err(crate::intake::Closed) => break,
            }
        }
        again
    }
}

impl Receiver for Tailer {
    fn run(&mut self) {
        self.read();
    }

    fn recover(&mut self) {
        for follow in self.follows.values_mut() {
            follow.recover(&self.sources);
        }
    }
}

fn pattern_id(glob: &Path) -> String {
    format!("file:{}", glob.display())
}

fn glob_names(pattern: &Path, path: &Path) -> bool {
    let (pattern, path): (Vec<_>, Vec<_>) = (pattern.iter().collect(), path.iter().collect());
    pattern.len() == path.len()
        && pattern.iter().zip(&path).all(|(pattern, name)| glob::matches(pattern.as_bytes(), name.as_bytes()))
}

/// Adds what the path itself says: its name, and the container a Docker log belongs to.
fn describe(path: &Path, described: &Described) -> Described {
    let mut described = described.clone();
    let facts = &mut described.facts;
    facts.entry("log.file.path".to_owned()).or_insert_with(|| path.display().to_string());
    let container = (described.format == "docker").then(|| container_id(path)).flatten();
    let trust = if described.format == "docker" { "container" } else { "host" };
    if let Some(container) = container {
        facts.insert("container.id".to_owned(), container);
    }
    facts.entry("ironpost.trust".to_owned()).or_insert_with(|| trust.to_owned());
    described
}

/// The 64 hex digits that name the directory of a container's log.
fn container_id(path: &Path) -> Option<String> {
    let directory = path.parent()?.file_name()?.to_str()?;
    let hex =
        directory.len() == 64 && directory.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    hex.then(|| directory.to_owned())
}
