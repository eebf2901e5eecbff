//! Syslog over TCP: one thread for a listener and all its connections.

use crate::frame::Framer;
use crate::intake::{CHUNK_BYTES, Chunk, Closed, Frames, Kind, Lane};
use crate::origin::{Origin, PeerCounts, Runs, canonical, mark};
use crate::receive::Receiver;
use crate::settings::TcpSettings;
use crate::source::{Loss, Note, Source};
use crate::stop::Stop;
use crate::udp::socket_checkpoint;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Reads of one connection before the others get their turn.
const READS_PER_TURN: usize = 8;

/// From here on a connection's own buffer goes to the workers without a copy.
const DIRECT_BYTES: usize = 16 << 10;

/// Messages in the chunk small connections share.
const CHUNK_MESSAGES: usize = 4096;

/// Incomplete messages of all connections together; the one that would pass it is cut.
const HELD_BYTES: usize = 32 << 20;

/// A turn that brought less than this is followed by a pause, so that a busy port costs at most a thousand a second.
const QUIET_BYTES: usize = 64 << 10;
const PAUSE: Duration = Duration::from_millis(1);

/// Longest time spent on what is in the sockets when the engine stops; only a peer that never pauses makes it last.
const DRAIN: Duration = Duration::from_secs(10);

/// A listening socket and its connections.
#[derive(Debug)]
pub(crate) struct TcpReceiver {
    listener: TcpListener,
    connections: Vec<Connection>,
    settings: TcpSettings,
    source: Arc<Source>,
    lane: Lane,
    stop: Arc<Stop>,
    position: u64,
    shared: Shared,
    spans: Vec<(u32, u32)>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    origin: Origin,
    peer: IpAddr,
    framer: Framer,
    buffer: Vec<u8>,
    filled: usize,
    last: Instant,
}

/// The chunk that small pieces of several connections go into.
#[derive(Debug, Default)]
struct Shared {
    buffer: Vec<u8>,
    filled: usize,
    spans: Vec<(u32, u32)>,
    origins: Runs,
}

impl Receiver for TcpReceiver {
    /// Accepts and reads until the signal to stop, then what is in the sockets.
    fn run(&mut self) {
        // Refused only when the engine takes no more input at all.
        let _ = self.serve();
    }

    /// Closes the connections: their framing may be what failed, and senders connect again.
    fn recover(&mut self) {
        self.connections.clear();
        self.spans.clear();
        self.source.counters.lost(Loss::Panic, self.shared.spans.len() as u64);
        self.shared = Shared::default();
    }
}

/// What reading a connection brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// So many bytes; it stays open.
    Bytes(usize),
    /// The peer is done, or the connection is broken.
    Ended,
}

impl TcpReceiver {
    /// Binds and listens.
    pub(crate) fn bind(
        settings: &TcpSettings,
        address: SocketAddr,
        source: Arc<Source>,
        position: u64,
        lane: Lane,
        stop: Arc<Stop>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            connections: Vec::new(),
            settings: settings.clone(),
            source,
            lane,
            stop,
            position,
            shared: Shared::default(),
            spans: Vec::new(),
        })
    }

    /// Address and port in use.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    fn serve(&mut self) -> Result<(), Closed> {
        let mut readable = Vec::new();
        let mut next_idle_check = Instant::now() + Duration::from_secs(1);
        while !self.stop.given() {
            let mut descriptors = vec![self.listener.as_fd()];
            descriptors.extend(self.connections.iter().map(|connection| connection.stream.as_fd()));
            self.stop.wait(&descriptors, Duration::from_secs(1), &mut readable);
            drop(descriptors);
            let bytes = self.read_ready(&readable[1..])?;
            if readable.first() == Some(&true) {
                self.accept();
            }
            self.hand_over_shared()?;
            if Instant::now() >= next_idle_check {
                next_idle_check = Instant::now() + Duration::from_secs(1);
                self.close_idle()?;
            }
            if bytes > 0 && bytes < QUIET_BYTES {
                self.stop.sleep(PAUSE);
            }
        }
        self.drain()
    }

    fn accept(&mut self) {
        // The backlog is bounded, so is this.
        for _ in 0..1024 {
            let Ok((stream, address)) = self.listener.accept() else { return };
            let address = canonical(address);
            let peer = address.ip();
            let of_peer =
                self.connections.iter().filter(|connection| is_same_peer(connection.peer, peer)).count();
            let refused = if self.connections.len() >= self.settings.max_connections {
                Some(Note::Refused)
            } else {
                (of_peer >= self.settings.max_connections_per_peer).then_some(Note::PeerRefused)
            };
            if let Some(note) = refused {
                self.source.counters.note(note);
                self.source.counters.peer(peer, PeerCounts { refused: 1, ..PeerCounts::default() });
                continue;
            }
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            self.source.counters.note(Note::Connections);
            self.source.counters.peer(peer, PeerCounts { connections: 1, ..PeerCounts::default() });
            self.connections.push(Connection {
                stream,
                origin: Origin::Peer(address),
                peer,
                framer: Framer::new(self.settings.max_message),
                buffer: Vec::new(),
                filled: 0,
                last: Instant::now(),
            });
        }
    }

    /// Reads the connections marked in `ready`; how many bytes came.
    fn read_ready(&mut self, ready: &[bool]) -> Result<usize, Closed> {
        let mut total = 0;
        // From the back, so that a closed connection does not move one still to be read.
        for index in (0..self.connections.len().min(ready.len())).rev() {
            if !ready[index] {
                continue;
            }
            match self.read(index)? {
                Progress::Bytes(bytes) => total += bytes,
                Progress::Ended => {
                    let connection = self.connections.swap_remove(index);
                    self.finish(connection)?;
                }
            }
        }
        Ok(total)
    }

    fn read(&mut self, index: usize) -> Result<Progress, Closed> {
        let mut total = 0;
        for _ in 0..READS_PER_TURN {
            let connection = &mut self.connections[index];
            if connection.buffer.is_empty() {
                connection.buffer = self.lane.buffer();
            }
            if connection.filled == connection.buffer.len() {
                // One byte more than the limit and its length prefix, so that the end of a message of exactly the limit is seen.
                let wanted = (connection.buffer.len() * 2).min(self.settings.max_message + 16);
                connection.buffer.resize(wanted, 0);
            }
            let room = connection.buffer.len() - connection.filled;
            match connection.stream.read(&mut connection.buffer[connection.filled..]) {
                Ok(0) => return Ok(Progress::Ended),
                Ok(bytes) => {
                    connection.filled += bytes;
                    connection.last = Instant::now();
                    total += bytes;
                    self.split(index)?;
                    if bytes < room {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Ok(Progress::Ended),
            }
        }
        // A connection without half a message needs no buffer while it is quiet.
        let connection = &mut self.connections[index];
        if connection.filled == 0 {
            self.lane.recycle(std::mem::take(&mut connection.buffer));
        }
        Ok(Progress::Bytes(total))
    }

    /// Takes complete messages out of a connection's buffer.
    fn split(&mut self, index: usize) -> Result<(), Closed> {
        loop {
            let connection = &mut self.connections[index];
            let skipped = connection.framer.skip(&connection.buffer[..connection.filled]);
            connection.remove(skipped);
            self.spans.clear();
            let found = connection.framer.find(&connection.buffer[..connection.filled], &mut self.spans);
            if found.consumed > 0 {
                self.take(index, found.consumed, found.counted)?;
            }
            if let Some((start, length)) = found.cut {
                let start = start - found.consumed;
                self.take_cut(index, start, length)?;
                continue;
            }
            return self.limit_held(index);
        }
    }

    /// Hands over the first `consumed` bytes, whose messages are in `self.spans`.
    fn take(&mut self, index: usize, consumed: usize, counted: bool) -> Result<(), Closed> {
        #[cfg(test)]
        crate::receive::panic_where_asked(&self.connections[index].buffer[..consumed]);
        self.received(index, self.spans.len(), consumed, false);
        if consumed < DIRECT_BYTES {
            return self.take_shared(index, consumed);
        }
        self.hand_over_shared()?;
        let mut rest = self.lane.buffer();
        let connection = &mut self.connections[index];
        let left = connection.filled - consumed;
        if rest.len() < left {
            rest.resize(left, 0);
        }
        rest[..left].copy_from_slice(&connection.buffer[consumed..connection.filled]);
        let buffer = std::mem::replace(&mut connection.buffer, rest);
        connection.filled = left;
        let records = self.spans.len() as u64;
        let origins = vec![(0, connection.origin.clone())];
        let frames = if counted { Frames::Records(std::mem::take(&mut self.spans)) } else { Frames::Lines };
        self.push(buffer, consumed, frames, records, Kind::Whole, origins)
    }

    /// Counts what a connection brought.
    fn received(&self, index: usize, messages: usize, bytes: usize, truncated: bool) {
        let (messages, bytes) = (messages as u64, bytes as u64);
        self.source.counters.received(messages, bytes);
        let counts = PeerCounts { messages, bytes, truncated: truncated.into(), ..PeerCounts::default() };
        self.source.counters.peer(self.connections[index].peer, counts);
    }

    /// Copies messages into the chunk shared by all connections.
    fn take_shared(&mut self, index: usize, consumed: usize) -> Result<(), Closed> {
        let is_full = self.shared.filled + consumed > CHUNK_BYTES
            || self.shared.spans.len() + self.spans.len() > CHUNK_MESSAGES;
        if is_full {
            self.hand_over_shared()?;
        }
        if self.shared.buffer.is_empty() {
            self.shared.buffer = self.lane.buffer();
        }
        let connection = &mut self.connections[index];
        let at = self.shared.filled;
        self.shared.buffer[at..at + consumed].copy_from_slice(&connection.buffer[..consumed]);
        self.shared.filled += consumed;
        if !self.spans.is_empty() {
            mark(&mut self.shared.origins, self.shared.spans.len(), &connection.origin);
        }
        self.shared.spans.extend(self.spans.iter().map(|(start, length)| (start + at as u32, *length)));
        connection.remove(consumed);
        Ok(())
    }

    /// Hands over a message that was cut at the limit.
    fn take_cut(&mut self, index: usize, start: usize, length: usize) -> Result<(), Closed> {
        self.hand_over_shared()?;
        self.received(index, 1, length, true);
        self.source.counters.note(Note::Truncated);
        let connection = &mut self.connections[index];
        let message = connection.buffer[start..start + length].to_vec();
        connection.remove(start + length);
        let origins = vec![(0, connection.origin.clone())];
        self.push(message, length, Frames::Records(vec![(0, length as u32)]), 1, Kind::Cut, origins)
    }

    /// Cuts the half message of a connection when all of them together hold too much.
    fn limit_held(&mut self, index: usize) -> Result<(), Closed> {
        if self.connections[index].filled <= CHUNK_BYTES {
            return Ok(());
        }
        let held: usize = self.connections.iter().map(|connection| connection.filled).sum();
        if held <= HELD_BYTES {
            return Ok(());
        }
        let connection = &mut self.connections[index];
        let (start, length) = connection.framer.cut(&connection.buffer[..connection.filled]);
        self.take_cut(index, start, length)?;
        self.connections[index].buffer = self.lane.buffer();
        Ok(())
    }

    fn hand_over_shared(&mut self) -> Result<(), Closed> {
        if self.shared.spans.is_empty() {
            return Ok(());
        }
        let spans = std::mem::take(&mut self.shared.spans);
        let origins = std::mem::take(&mut self.shared.origins);
        let (buffer, filled) = self.lane.fitted(&mut self.shared.buffer, self.shared.filled);
        self.shared.filled = 0;
        let records = spans.len() as u64;
        self.push(buffer, filled, Frames::Records(spans), records, Kind::Whole, origins)
    }

    fn push(
        &mut self,
        buffer: Vec<u8>,
        filled: usize,
        frames: Frames,
        records: u64,
        kind: Kind,
        origins: Runs,
    ) -> Result<(), Closed> {
        let base = self.position;
        self.position += filled as u64 + 1;
        self.lane.push(Chunk {
            source: Arc::clone(&self.source),
            buffer,
            filled,
            frames,
            base,
            records,
            kind,
            origins,
            checkpoint: Some(socket_checkpoint(self.position)),
        })
    }

    /// A closed connection's last message needs no newline.
    fn finish(&mut self, mut connection: Connection) -> Result<(), Closed> {
        let skipped = connection.framer.skip(&connection.buffer[..connection.filled]);
        connection.remove(skipped);
        if connection.filled > 0 {
            self.hand_over_shared()?;
            let (start, length) = connection.framer.cut(&connection.buffer[..connection.filled]);
            let counts = PeerCounts { messages: 1, bytes: length as u64, ..PeerCounts::default() };
            self.source.counters.received(1, length as u64);
            self.source.counters.peer(connection.peer, counts);
            let message = connection.buffer[start..start + length].to_vec();
            let origins = vec![(0, connection.origin)];
            self.push(message, length, Frames::Records(vec![(0, length as u32)]), 1, Kind::Whole, origins)?;
        }
        self.lane.recycle(connection.buffer);
        Ok(())
    }

    fn close_idle(&mut self) -> Result<(), Closed> {
        let limit = Duration::from_secs(self.settings.idle_secs.max(1));
        for index in (0..self.connections.len()).rev() {
            if self.connections[index].last.elapsed() >= limit {
                self.source.counters.note(Note::Idle);
                let peer = self.connections[index].peer;
                self.source.counters.peer(peer, PeerCounts { idle: 1, ..PeerCounts::default() });
                let connection = self.connections.swap_remove(index);
                self.finish(connection)?;
            }
        }
        Ok(())
    }

    /// What clients had sent before the engine stopped still counts.
    fn drain(&mut self) -> Result<(), Closed> {
        let deadline = Instant::now() + DRAIN;
        self.accept();
        while Instant::now() < deadline {
            let ready = vec![true; self.connections.len()];
            if self.read_ready(&ready)? == 0 {
                break;
            }
        }
        for connection in std::mem::take(&mut self.connections) {
            self.finish(connection)?;
        }
        self.hand_over_shared()
    }
}

/// Whether two addresses are one peer's: in IPv6 everybody has a whole /64.
fn is_same_peer(left: IpAddr, right: IpAddr) -> bool {
    match (left, right) {
        (IpAddr::V6(left), IpAddr::V6(right)) => left.octets()[..8] == right.octets()[..8],
        _ => left == right,
    }
}

impl Connection {
    fn remove(&mut self, count: usize) {
        if count > 0 {
            self.buffer.copy_within(count..self.filled, 0);
            self.filled -= count;
        }
    }
}
