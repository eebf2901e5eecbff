//! Syslog over UDP: one datagram is one message; what the kernel had to drop is counted.

use crate::intake::{CHUNK_BYTES, Chunk, Frames, Kind, Lane};
use crate::origin::{Origin, PeerCounts, Runs, canonical, mark, ranges};
use crate::receive::Receiver;
use crate::settings::UdpSettings;
use crate::source::{Loss, Source};
use crate::stop::Stop;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, getsockopt, recvmmsg, recvmsg, setsockopt,
    sockopt,
};
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Datagrams taken by one call.
const DATAGRAMS: usize = 256;

/// Largest datagram.
const DATAGRAM_BYTES: usize = 65_535;

/// Messages collected before the workers get them, unless the time is over first.
const CHUNK_AGE: Duration = Duration::from_millis(5);

/// Pause between two looks at a quiet socket: many datagrams per call cost a third of one per call.
const PAUSE: Duration = Duration::from_millis(1);

/// Messages in one chunk; empty ones take no bytes and must not make a chunk endless.
const CHUNK_MESSAGES: usize = 4096;

/// How often the kernel's drop counter is asked for.
const DROPS_EVERY: Duration = Duration::from_millis(100);

/// Longest time spent on what is in the socket when the engine stops.
const DRAIN: Duration = Duration::from_secs(2);

/// A bound socket.
#[derive(Debug)]
pub(crate) struct UdpReceiver {
    socket: UdpSocket,
    source: Arc<Source>,
    lane: Lane,
    stop: Arc<Stop>,
    position: u64,
    /// Drops the kernel reported up to now, as its 32-bit counter counts.
    drops: u32,
    receive_buffer: usize,
    open: Open,
}

impl UdpReceiver {
    /// Binds and asks for a large receive buffer.
    pub(crate) fn bind(
        settings: &UdpSettings,
        address: SocketAddr,
        source: Arc<Source>,
        position: u64,
        lane: Lane,
        stop: Arc<Stop>,
    ) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        // Past the system limit with privilege, up to it without; what it became is reported.
        if setsockopt(&socket, sockopt::RcvBufForce, &settings.receive_buffer).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &settings.receive_buffer)?;
        }
        setsockopt(&socket, sockopt::RxqOvfl, &1)?;
        let receive_buffer = getsockopt(&socket, sockopt::RcvBuf)?;
        let open = Open::new(&lane);
        Ok(Self { socket, source, lane, stop, position, drops: 0, receive_buffer, open })
    }

    /// Address and port in use.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Bytes the kernel gave for waiting datagrams.
    pub(crate) fn receive_buffer(&self) -> usize {
        self.receive_buffer
    }

    fn receive_all(&mut self) {
        let mut slots = vec![0_u8; DATAGRAMS * DATAGRAM_BYTES];
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(DATAGRAMS, None);
        let mut readable = Vec::new();
        let mut next_drops = Instant::now();
        let mut deadline = None;
        loop {
            if self.stop.given() && *deadline.get_or_insert_with(|| Instant::now() + DRAIN) <= Instant::now()
            {
                break;
            }
            if next_drops <= Instant::now() {
                next_drops = Instant::now() + DROPS_EVERY;
                self.receive_with_drops(&mut slots[..DATAGRAM_BYTES]);
            }
            let received = self.receive(&mut headers, &mut slots);
            if received < DATAGRAMS
                && (self.open.age() >= CHUNK_AGE || received == 0)
                && self.open.has_messages()
            {
                let hurry = received == 0 || !self.lane.is_backlogged();
                if hurry {
                    self.hand_over();
                }
            }
            if received > 0 {
                if received < DATAGRAMS / 2 {
                    self.stop.sleep(PAUSE);
                }
                continue;
            }
            if self.stop.given() {
                break;
            }
            self.stop.wait(&[self.socket.as_fd()], Duration::from_secs(1), &mut readable);
            if readable.first() == Some(&true) {
                std::thread::sleep(PAUSE);
            } else {
                self.count_drops_of_system();
            }
        }
        self.hand_over();
        self.count_drops_of_system();
    }

    /// Takes many datagrams with one call; how many.
    fn receive(&mut self, headers: &mut MultiHeaders<SockaddrStorage>, slots: &mut [u8]) -> usize {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            slots.chunks_exact_mut(DATAGRAM_BYTES).map(|slot| [IoSliceMut::new(slot)]).collect();
        let descriptor = self.socket.as_raw_fd();
        let received: Vec<(usize, Option<SocketAddr>)> =
            match recvmmsg(descriptor, headers, &mut slices, MsgFlags::MSG_DONTWAIT, None) {
                Ok(messages) => {
                    messages.map(|message| (message.bytes, message.address.and_then(address))).collect()
                }
                // Nothing waiting, or an error a datagram before caused; both pass.
                Err(_) => return 0,
            };
        for (slot, (length, peer)) in slots.chunks_exact(DATAGRAM_BYTES).zip(&received) {
            self.append(&slot[..*length], *peer);
        }
        received.len()
    }

    /// Takes one datagram together with the kernel's count of drops before it.
    fn receive_with_drops(&mut self, slot: &mut [u8]) {
        let mut control = cmsg_space!(u32);
        let mut slices = [IoSliceMut::new(slot)];
        let descriptor = self.socket.as_raw_fd();
        let received =
            recvmsg::<SockaddrStorage>(descriptor, &mut slices, Some(&mut control), MsgFlags::MSG_DONTWAIT);
        let Ok(message) = received else { return };
        let (length, peer) = (message.bytes, message.address.and_then(address));
        let drops = message.cmsgs().ok().and_then(|mut all| {
            all.find_map(|control| match control {
                ControlMessageOwned::RxqOvfl(drops) => Some(drops),
                _ => None,
            })
        });
        if let Some(drops) = drops {
            self.dropped(drops);
        }
        self.append(&slot[..length], peer);
    }

    fn append(&mut self, datagram: &[u8], peer: Option<SocketAddr>) {
        #[cfg(test)]
        crate::receive::panic_where_asked(datagram);
        let is_full = self.open.filled + datagram.len() > self.open.buffer.len();
        if is_full || self.open.spans.len() >= CHUNK_MESSAGES {
            self.hand_over();
        }
        let open = &mut self.open;
        if open.spans.is_empty() {
            open.since = Instant::now();
        }
        if let Some(peer) = peer {
            mark(&mut open.origins, open.spans.len(), &Origin::Peer(peer));
        }
        let start = open.filled;
        open.buffer[start..start + datagram.len()].copy_from_slice(datagram);
        open.spans.push((start as u32, datagram.len() as u32));
        // A datagram without bytes still takes a position of its own.
        open.filled += datagram.len();
    }

    fn hand_over(&mut self) {
        let open = &mut self.open;
        if !open.has_messages() {
            return;
        }
        let spans = std::mem::take(&mut open.spans);
        let origins = std::mem::take(&mut open.origins);
        let (buffer, filled) = self.lane.fitted(&mut open.buffer, open.filled);
        open.filled = 0;
        let records = spans.len() as u64;
        self.source.counters.received(records, filled as u64);
        let mut senders = senders(&origins, &spans);
        let base = self.position;
        self.position += filled as u64 + 1;
        let refused = self.lane.try_push(Chunk {
            source: Arc::clone(&self.source),
            buffer,
            filled,
            frames: Frames::Records(spans),
            base,
            records,
            kind: Kind::Whole,
            origins,
            checkpoint: Some(socket_checkpoint(self.position)),
        });
        if let Err(chunk) = refused {
            self.source.counters.lost(Loss::Shed, records);
            senders.iter_mut().for_each(|(_, counts)| counts.shed = counts.messages);
            self.lane.recycle(chunk.buffer);
        }
        self.source.counters.peers(senders);
    }

    /// The kernel's counter stands at `now`; it wraps.
    fn dropped(&mut self, now: u32) {
        let more = now.wrapping_sub(self.drops);
        // A smaller number is an older reading.
        if more > 0 && more < u32::MAX / 2 {
            self.drops = now;
            self.source.counters.received(u64::from(more), 0);
            self.source.counters.lost(Loss::Kernel, u64::from(more));
        }
    }

    /// Drops after the last datagram received are only in the system's table.
    fn count_drops_of_system(&mut self) {
        let Ok(inode) = std::fs::metadata(format!("/proc/self/fd/{}", self.socket.as_raw_fd())) else {
            return;
        };
        let inode = inode.ino().to_string();
        for table in ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"] {
            let Ok(text) = std::fs::read_to_string(table) else { continue };
            for line in text.lines().skip(1) {
                let columns: Vec<&str> = line.split_ascii_whitespace().collect();
                if columns.get(9) == Some(&inode.as_str())
                    && let Some(drops) = columns.last().and_then(|drops| drops.parse().ok())
                {
                    self.dropped(drops);
                }
            }
        }
    }
}

impl Receiver for UdpReceiver {
    /// Receives until the signal to stop, then what is in the socket.
    fn run(&mut self) {
        self.receive_all();
    }

    fn recover(&mut self) {
        let lost = self.open.spans.len() as u64;
        self.source.counters.received(lost, self.open.filled as u64);
        self.source.counters.lost(Loss::Panic, lost);
        self.open = Open::new(&self.lane);
    }
}

/// An address as the kernel gave it.
fn address(storage: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|found| SocketAddr::V4(SocketAddrV4::from(*found)));
    let v6 = || storage.as_sockaddr_in6().map(|found| SocketAddr::V6(SocketAddrV6::from(*found)));
    v4.or_else(v6).map(canonical)
}

/// What each run of datagrams counts for its sender.
fn senders(origins: &Runs, spans: &[(u32, u32)]) -> Vec<(std::net::IpAddr, PeerCounts)> {
    let counted = ranges(origins, spans.len()).filter_map(|(records, origin)| {
        let Origin::Peer(peer) = origin else { return None };
        let bytes = spans[records.clone()].iter().map(|(_, length)| u64::from(*length)).sum();
        Some((peer.ip(), PeerCounts { messages: records.len() as u64, bytes, ..PeerCounts::default() }))
    });
    counted.collect()
}

/// Where a socket's source continues: its next position, so that ids of detections never repeat.
pub(crate) fn socket_checkpoint(position: u64) -> String {
    format!(r#"{{"version":1,"position":{position}}}"#)
}

/// The position a stored checkpoint names; 0 without one.
pub(crate) fn socket_position(checkpoint: Option<&str>) -> u64 {
    checkpoint
        .and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok())
        .and_then(|value| value.get("position").and_then(serde_json::Value::as_u64))
        .unwrap_or(0)
}

/// The chunk being filled.
#[derive(Debug)]
struct Open {
    buffer: Vec<u8>,
    filled: usize,
    spans: Vec<(u32, u32)>,
    origins: Runs,
    since: Instant,
}

impl Open {
    fn new(lane: &Lane) -> Self {
        Self {
            buffer: lane.buffer(),
            filled: 0,
            spans: Vec::new(),
            origins: Runs::new(),
            since: Instant::now(),
        }
    }

    fn has_messages(&self) -> bool {
        !self.spans.is_empty()
    }

    fn age(&self) -> Duration {
        self.since.elapsed()
    }
}

/// What a bind error means for the operator.
pub(crate) fn bind_problem(address: &str, error: &io::Error) -> (String, String) {
    let errno = error.raw_os_error().map(Errno::from_raw);
    let remedy = match errno {
        Some(Errno::EADDRINUSE) => "stop the program that uses the port, or bind another one",
        Some(Errno::EACCES) => "bind a port above 1023, or give the daemon CAP_NET_BIND_SERVICE",
        Some(Errno::EADDRNOTAVAIL) => "bind an address this host has",
        _ => "check the address; it has the form 127.0.0.1:5514 or [::1]:5514",
    };
    (format!("cannot listen on {address}: {error}"), remedy.to_owned())
}

const _: () = assert!(CHUNK_BYTES >= DATAGRAM_BYTES);
