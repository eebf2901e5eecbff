//! One followed path: the file that stands there, the files that stood there and are not read to their end yet.

use crate::files::join::{HeldPiece, Join, Placed, joiner};
use crate::files::reader::{Place, Read, Reader, Refusal, inspect};
use crate::files::siblings;
use crate::intake::{Chunk, Closed, Frames, Kind, Lane};
use crate::source::{Note, Source, Sources};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Chunks of one file read before the others get their turn.
const CHUNKS_PER_TURN: usize = 16;

/// The generation of a file is kept above this bit of a position, its offset below (16 TiB).
pub(crate) const GENERATION_SHIFT: u32 = 44;

/// Where a path was read to, as stored with the detections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileCheckpoint {
    pub(crate) version: u32,
    /// Generation of the newest file.
    pub(crate) generation: u64,
    /// The file at the path; absent while nothing stands there.
    pub(crate) current: Option<Place>,
    /// Rotated files not yet read to their end, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) earlier: Vec<Place>,
    /// Pieces of lines that were read and wait for the next piece.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) held: Vec<HeldPiece>,
}

/// How a path is followed.
#[derive(Debug, Clone)]
pub(crate) struct Habits {
    pub(crate) max_line: usize,
    pub(crate) rotate_wait: Duration,
    /// Found by a glob: forgotten when the file is gone for good.
    pub(crate) from_glob: bool,
    /// Without a checkpoint, skip what is there already.
    pub(crate) from_end: bool,
}

/// A rotated file being read to its end.
#[derive(Debug)]
struct Leaving {
    reader: Reader,
    last_growth: Instant,
}

/// What a turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing left to read now.
    Idle,
    /// Something was read and more is waiting.
    More,
    /// The path of a glob is gone and read to its end.
    Gone,
}

/// One followed path.
#[derive(Debug)]
pub(crate) struct Follow {
    pub(crate) path: PathBuf,
    source: Arc<Source>,
    habits: Habits,
    current: Option<Reader>,
    leaving: Vec<Leaving>,
    generation: u64,
    missing_since: Option<Instant>,
    /// The path leads nowhere at all.
    absent: bool,
    complained: bool,
    /// (device, inode, size) of a file that stood there at the start and could not be opened: begin at that size.
    begin_at: Option<(u64, u64, u64)>,
    stored: String,
    /// For a format that spreads a record over several lines.
    joiner: Option<Box<dyn Join>>,
}

impl Follow {
    /// Begins to follow a path, from its checkpoint when there is one.
    pub(crate) fn new(
        path: PathBuf,
        source: Arc<Source>,
        habits: Habits,
        checkpoint: Option<&str>,
        sources: &Sources,
    ) -> Self {
        let mut follow = Self {
            path,
            source,
            habits,
            current: None,
            leaving: Vec::new(),
            generation: 0,
            missing_since: None,
            absent: false,
            complained: false,
            begin_at: None,
            stored: checkpoint.unwrap_or_default().to_owned(),
            joiner: None,
        };
        follow.joiner = joiner(&follow.source.format);
        let stored = checkpoint.filter(|text| !text.is_empty()).and_then(|text| {
            serde_json::from_str::<FileCheckpoint>(text).ok().filter(|checkpoint| checkpoint.version == 1)
        });
        match stored {
            Some(stored) => follow.resume(stored, sources),
            None => follow.begin(sources),
        }
        follow
    }

    /// After an accident: goes back to what was handed over last, so that lines read and not handed over are read again.
    pub(crate) fn recover(&mut self, sources: &Sources) {
        if self.stored.is_empty() {
            return; // nothing was handed over yet
        }
        *self = Self::new(
            self.path.clone(),
            Arc::clone(&self.source),
            self.habits.clone(),
            Some(&self.stored),
            sources,
        );
    }

    fn begin(&mut self, sources: &Sources) {
        // The size is taken before opening: a file that cannot be opened yet still begins where it ends now.
        let stands = inspect(&self.path).ok();
        let end = stands.filter(|_| self.habits.from_end);
        self.begin_at = end.map(|metadata| (metadata.dev(), metadata.ino(), metadata.size()));
        if let Some(reader) = self.open(0, sources) {
            self.current = Some(self.at_begin(reader));
        }
    }

    /// Places a file read for the first time.
    fn at_begin(&mut self, mut reader: Reader) -> Reader {
        if let Some((device, inode, size)) = self.begin_at.take()
            && reader.device == device
            && reader.inode == inode
        {
            // When reading fails here it fails in the next turn too, and is said there.
            let _ = reader.skip_to_end(size, self.habits.max_line);
        }
        reader
    }

    fn open(&mut self, generation: u64, sources: &Sources) -> Option<Reader> {
        match inspect(&self.path).and_then(|_| Reader::open(&self.path, generation)) {
            Ok(reader) => {
                self.content(sources);
                Some(reader)
            }
            Err(refusal) => {
                self.complain(&refusal, sources);
                None
            }
        }
    }

    fn complain(&mut self, refusal: &Refusal, sources: &Sources) {
        if matches!(refusal, Refusal::Missing) && (self.habits.from_glob || self.current.is_some()) {
            return;
        }
        self.complained = true;
        sources.problem(&self.source.id, format!("{} {refusal}", self.path.display()), refusal.remedy());
    }

    fn content(&mut self, sources: &Sources) {
        if self.complained {
            self.complained = false;
            sources.clear_problem(&self.source.id);
        }
    }

    /// Finds again, after a restart, every file the checkpoint names.
    fn resume(&mut self, stored: FileCheckpoint, sources: &Sources) {
        self.generation = stored.generation;
        let mut at_path = self.open(0, sources);
        let mut at_path_resumed = false;
        let mut newer = Vec::new();
        let held = stored.held.clone();
        for place in stored.earlier.iter().chain(&stored.current) {
            let is_here = at_path.as_ref().is_some_and(|reader| {
                reader.device == place.device && reader.inode == place.inode && reader.fits(place)
            });
            if is_here {
                at_path = at_path.map(|reader| reader.resume(place));
                at_path_resumed = true;
                continue;
            }
            match siblings::find(&self.path, place) {
                Some(found) => {
                    self.leave(found.reader);
                    if Some(place) == stored.current.as_ref() {
                        newer = found.newer;
                    }
                }
                None => {
                    self.source.counters.note(Note::Unfound);
                    self.tell_unfound(place, sources);
                    if Some(place) == stored.current.as_ref() {
                        newer = siblings::changed_after(&self.path, place.modified);
                    }
                }
            }
        }
        // What stood at the path a moment ago may have been rotated since: it is read once, as the current one.
        newer.retain(|reader: &Reader| {
            at_path.as_ref().is_none_or(|here| (here.device, here.inode) != (reader.device, reader.inode))
        });
        self.leave_unread(newer);
        if let Some(mut reader) = at_path {
            if !at_path_resumed {
                self.generation += 1;
                reader.generation = self.generation;
                self.source.counters.note(Note::Rotations);
            }
            self.current = Some(reader);
        }
        self.resume_held(held);
    }

    /// Reads again the pieces that waited for the next one.
    fn resume_held(&mut self, held: Vec<HeldPiece>) {
        for piece in held {
            let readers = self.current.iter().chain(self.leaving.iter().map(|leaving| &leaving.reader));
            let record = readers
                .filter(|reader| reader.generation == piece.generation)
                .find_map(|reader| reader.read_piece(piece.offset, piece.length));
            match (record, &mut self.joiner) {
                (Some(record), Some(joiner)) => {
                    joiner.restore(&record, &piece);
                }
                _ => self.source.counters.note(Note::Unfound),
            }
        }
    }

    /// Reads rotated files that never were seen at the path: they came and went between two looks, or while nothing ran.
    fn leave_unread(&mut self, readers: Vec<Reader>) {
        for mut reader in readers {
            if self.owns(reader.device, reader.inode) {
                continue;
            }
            self.generation += 1;
            reader.generation = self.generation;
            self.source.counters.note(Note::Rotations);
            self.leave(reader);
        }
    }

    fn tell_unfound(&self, place: &Place, sources: &Sources) {
        sources.problem(
            &self.source.id,
            format!(
                "the file read up to byte {} before the restart is not found any more; lines behind may be unread",
                place.offset
            ),
            "let log rotation keep the last file uncompressed (delaycompress)",
        );
    }

    fn leave(&mut self, reader: Reader) {
        self.leaving.push(Leaving { reader, last_growth: Instant::now() });
    }

    /// True when an open reader of this path reads that file.
    pub(crate) fn owns(&self, device: u64, inode: u64) -> bool {
        let is = |reader: &Reader| reader.device == device && reader.inode == inode;
        self.current.as_ref().is_some_and(is) || self.leaving.iter().any(|leaving| is(&leaving.reader))
    }

    /// Looks at the path, then reads what is there.
    pub(crate) fn turn(&mut self, lane: &Lane, sources: &Sources) -> Result<Turn, Closed> {
        self.examine(sources);
        let mut more = false;
        let mut index = 0;
        while index < self.leaving.len() {
            let (done, waiting) = self.read_leaving(index, lane, sources)?;
            more |= waiting;
            if done {
                self.leaving.remove(index);
            } else {
                index += 1;
            }
        }
        more |= self.read_current(lane, sources)?;
        self.hand_over_overdue(lane)?;
        self.store_checkpoint(lane)?;
        if self.habits.from_glob && self.absent && self.current.is_none() && self.leaving.is_empty() {
            return Ok(Turn::Gone);
        }
        Ok(if more { Turn::More } else { Turn::Idle })
    }

    /// Compares the path with the file being read.
    fn examine(&mut self, sources: &Sources) {
        let metadata = match inspect(&self.path) {
            Ok(metadata) => metadata,
            Err(refusal) => {
                self.absent = matches!(refusal, Refusal::Missing);
                self.complain(&refusal, sources);
                self.examine_missing();
                return;
            }
        };
        self.absent = false;
        let is_here = |reader: &Reader| reader.device == metadata.dev() && reader.inode == metadata.ino();
        if self.current.as_ref().is_some_and(is_here) {
            self.missing_since = None;
            self.content(sources);
            return;
        }
        // Moved back to its name before it was read to its end.
        let back = self.leaving.iter().position(|leaving| is_here(&leaving.reader));
        let next = match back {
            Some(index) => Some(self.leaving.remove(index).reader),
            None => self.open(self.generation, sources).map(|reader| self.number(reader)),
        };
        if let Some(next) = next {
            self.missing_since = None;
            if let Some(old) = self.current.replace(next) {
                let newer = siblings::newer_than_file(&self.path, old.device, old.inode);
                self.leave(old);
                self.leave_unread(newer);
            }
        }
    }

    /// Gives a newly opened file its generation.
    fn number(&mut self, reader: Reader) -> Reader {
        let mut reader = self.at_begin(reader);
        if self.current.is_some() || !self.stored.is_empty() {
            self.generation += 1;
            self.source.counters.note(Note::Rotations);
        }
        reader.generation = self.generation;
        reader
    }

    /// A deleted file is let go when nobody can write to it by name and it stopped growing.
    fn examine_missing(&mut self) {
        let Some(current) = &self.current else { return };
        if !current.unlinked() {
            self.missing_since = None;
            return;
        }
        let since = *self.missing_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.habits.rotate_wait {
            if let Some(reader) = self.current.take() {
                self.leaving.push(Leaving { reader, last_growth: since });
            }
            self.missing_since = None;
        }
    }

    /// Reads a rotated file on; (finished, more is waiting).
    fn read_leaving(&mut self, index: usize, lane: &Lane, sources: &Sources) -> Result<(bool, bool), Closed> {
        for _ in 0..CHUNKS_PER_TURN {
            let leaving = &mut self.leaving[index];
            match leaving.reader.read(lane.buffer(), self.habits.max_line) {
                Ok(Read::Nothing(buffer)) => {
                    if leaving.last_growth.elapsed() < self.habits.rotate_wait {
                        lane.recycle(buffer);
                        return Ok((false, false));
                    }
                    let rest = leaving.reader.read_rest(buffer, self.habits.max_line);
                    let generation = leaving.reader.generation;
                    if let Ok(rest) = rest {
                        self.hand_over(rest, generation, lane)?;
                    }
                    return Ok((true, false));
                }
                Ok(Read::Rewritten(buffer)) => {
                    // Truncated in place and then rotated away before it was looked at.
                    lane.recycle(buffer);
                    self.source.counters.note(Note::Truncations);
                    let place = leaving.reader.place();
                    self.generation += 1;
                    leaving.reader.restart(self.generation);
                    if let Some(copy) = siblings::find(&self.path, &place) {
                        self.leave(copy.reader);
                    }
                    return Ok((false, true));
                }
                Ok(read) => {
                    leaving.last_growth = Instant::now();
                    let generation = leaving.reader.generation;
                    self.hand_over(read, generation, lane)?;
                }
                Err(error) => {
                    self.complain(&Refusal::Io(error), sources);
                    return Ok((false, false));
                }
            }
        }
        Ok((false, true))
    }

    /// Reads the file at the path on; true when more is waiting.
    fn read_current(&mut self, lane: &Lane, sources: &Sources) -> Result<bool, Closed> {
        for _ in 0..CHUNKS_PER_TURN {
            let Some(reader) = &mut self.current else { return Ok(false) };
            let generation = reader.generation;
            match reader.read(lane.buffer(), self.habits.max_line) {
                Ok(Read::Nothing(buffer)) => {
                    lane.recycle(buffer);
                    return Ok(false);
                }
                Ok(Read::Rewritten(buffer)) => {
                    lane.recycle(buffer);
                    self.rewritten();
                    return Ok(true);
                }
                Ok(read) => self.hand_over(read, generation, lane)?,
                Err(error) => {
                    self.complain(&Refusal::Io(error), sources);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The file was truncated in place: its unread rest may live in a copy (logrotate's `copytruncate`).
    fn rewritten(&mut self) {
        let Some(reader) = &mut self.current else { return };
        self.source.counters.note(Note::Truncations);
        // The open file is read on, whatever stands at the path by now: that is found out by the next look at it.
        let place = reader.place();
        self.generation += 1;
        reader.restart(self.generation);
        if let Some(copy) = siblings::find(&self.path, &place) {
            self.leave(copy.reader);
            self.leave_unread(copy.newer);
        }
    }

    fn hand_over(&mut self, read: Read, generation: u64, lane: &Lane) -> Result<(), Closed> {
        let (buffer, filled, start, records, truncated) = match read {
            Read::Lines { buffer, filled, start, lines } => (buffer, filled, start, lines, false),
            Read::Cut { buffer, filled, start } => (buffer, filled, start, 1, true),
            Read::Nothing(buffer) | Read::Rewritten(buffer) => {
                lane.recycle(buffer);
                return Ok(());
            }
        };
        let mut buffer = buffer;
        #[cfg(test)]
        crate::receive::panic_where_asked(&buffer[..filled]);
        let joined = match &mut self.joiner {
            Some(joiner) if !truncated => joiner.join(&mut buffer, filled, generation, start),
            _ => None,
        };
        if let Some(placed) = joined {
            return self.push_placed(buffer, filled, placed, lane);
        }
        self.source.counters.received(records, filled as u64);
        if truncated {
            self.source.counters.note(Note::Truncated);
        }
        self.stored = self.checkpoint();
        lane.push(Chunk {
            source: Arc::clone(&self.source),
            buffer,
            filled,
            frames: Frames::Lines,
            base: (generation << GENERATION_SHIFT) | start,
            records,
            kind: if truncated { Kind::Cut } else { Kind::Whole },
            origins: Vec::new(),
            checkpoint: Some(self.stored.clone()),
        })
    }

    /// Hands over lines whose next piece does not come.
    fn hand_over_overdue(&mut self, lane: &Lane) -> Result<(), Closed> {
        let Some(joiner) = self.joiner.as_mut().filter(|joiner| !joiner.is_empty()) else { return Ok(()) };
        let readers = self.current.iter().chain(self.leaving.iter().map(|leaving| &leaving.reader));
        let open: Vec<u64> = readers.map(|reader| reader.generation).collect();
        match joiner.overdue(&|generation| !open.contains(&generation)) {
            Some((buffer, placed)) => self.push_placed(buffer, 0, placed, lane),
            None => Ok(()),
        }
    }

    fn push_placed(
        &mut self,
        buffer: Vec<u8>,
        bytes: usize,
        placed: Vec<Placed>,
        lane: &Lane,
    ) -> Result<(), Closed> {
        let records = placed.len() as u64;
        self.source.counters.received(records, bytes as u64);
        if let Some(joiner) = &mut self.joiner {
            self.source.counters.note_many(Note::Truncated, joiner.take_too_long());
            self.source.counters.note_many(Note::Incomplete, joiner.take_incomplete());
        }
        self.stored = self.checkpoint();
        lane.push(Chunk {
            filled: buffer.len(),
            buffer,
            frames: Frames::Placed(placed),
            records,
            ..Chunk::checkpoint_only(Arc::clone(&self.source), self.stored.clone())
        })
    }

    /// Stores a place that changed without a line, such as the begin of a new file.
    fn store_checkpoint(&mut self, lane: &Lane) -> Result<(), Closed> {
        let now = self.checkpoint();
        if now == self.stored {
            return Ok(());
        }
        self.stored.clone_from(&now);
        lane.push(Chunk::checkpoint_only(Arc::clone(&self.source), now))
    }

    fn checkpoint(&self) -> String {
        if self.begin_at.is_some() {
            // It stands there and cannot be opened: the next start decides anew where it begins.
            return self.stored.clone();
        }
        let checkpoint = FileCheckpoint {
            version: 1,
            generation: self.generation,
            current: self.current.as_ref().map(Reader::place),
            earlier: self.leaving.iter().map(|leaving| leaving.reader.place()).collect(),
            held: self.joiner.as_ref().map(|joiner| joiner.held()).unwrap_or_default(),
        };
        serde_json::to_string(&checkpoint).unwrap_or_default()
    }

    /// The source's id.
    pub(crate) fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// The directory whose changes matter.
    pub(crate) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
}
