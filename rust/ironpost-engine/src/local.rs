//! Syslog of programs on this host: a datagram socket such as `/dev/log`, whose senders the kernel names.

use crate::intake::{CHUNK_BYTES, Chunk, Frames, Kind, Lane};
use crate::origin::{FIRST_PERSON, Origin, Process, Runs, mark};
use crate::receive::Receiver;
use crate::settings::UnixSettings;
use crate::source::{Loss, Note, Source};
use crate::stop::Stop;
use crate::udp::socket_checkpoint;
use nix::cmsg_space;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, UnixCredentials, recvmsg, setsockopt, sockopt,
};
use nix::sys::stat::Mode;
use nix::unistd::{Uid, User, close, geteuid};
use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A longer message is cut here and counted; the kernel lets a sender write up to three times as much.
const MESSAGE_BYTES: usize = CHUNK_BYTES;

/// Messages in one chunk; empty ones take no bytes and must not make a chunk endless.
const CHUNK_MESSAGES: usize = 4096;

/// Names of service accounts kept; there are never more such accounts than [`FIRST_PERSON`].
const MOST_ACCOUNTS: usize = FIRST_PERSON as usize;

/// Longest time spent on what is in the socket when the engine stops.
const DRAIN: Duration = Duration::from_secs(2);

/// Why a socket could not be made, and what to do.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) reason: String,
    pub(crate) remedy: String,
}

/// A bound socket; its file goes with it.
#[derive(Debug)]
pub(crate) struct LocalReceiver {
    socket: UnixDatagram,
    _place: Place,
    source: Arc<Source>,
    lane: Lane,
    stop: Arc<Stop>,
    position: u64,
    accounts: HashMap<u32, Option<Arc<str>>>,
    buffer: Vec<u8>,
    filled: usize,
    spans: Vec<(u32, u32)>,
    origins: Runs,
}

/// The socket's file, told from one that another program put into its place.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let ours = |found: &fs::Metadata| (found.dev(), found.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).as_ref().is_ok_and(ours) {
            // Left behind it would only be replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl LocalReceiver {
    /// Makes the socket; a stale one of our own is replaced, anything else stays.
    pub(crate) fn bind(
        settings: &UnixSettings,
        source: Arc<Source>,
        position: u64,
        lane: Lane,
        stop: Arc<Stop>,
    ) -> Result<Self, Refused> {
        let path = settings.path.as_path();
        remove_stale(path)?;
        let refused = |error: io::Error| Refused {
            reason: format!("cannot make the socket {}: {error}", path.display()),
            remedy: "choose a path of at most 107 bytes in an existing directory that this user can write"
                .to_owned(),
        };
        let socket = UnixDatagram::bind(path).map_err(refused)?;
        let place = own(path, settings.mode).map_err(refused)?;
        socket.set_nonblocking(true).map_err(refused)?;
        setsockopt(&socket, sockopt::PassCred, &true).map_err(|error| refused(error.into()))?;
        Ok(Self {
            socket,
            _place: place,
            source,
            stop,
            position,
            accounts: HashMap::new(),
            buffer: lane.buffer(),
            lane,
            filled: 0,
            spans: Vec::new(),
            origins: Runs::new(),
        })
    }

    fn receive_all(&mut self) {
        let mut slot = vec![0_u8; MESSAGE_BYTES];
        let mut readable = Vec::new();
        let mut deadline = None;
        loop {
            if self.stop.given() && *deadline.get_or_insert_with(|| Instant::now() + DRAIN) <= Instant::now()
            {
                break;
            }
            if self.receive(&mut slot) {
                continue;
            }
            self.hand_over();
            if self.stop.given() {
                break;
            }
            self.stop.wait(&[self.socket.as_fd()], Duration::from_secs(1), &mut readable);
        }
        self.hand_over();
    }

    /// Takes one message; whether there was one.
    fn receive(&mut self, slot: &mut [u8]) -> bool {
        // Room for the sender and for nothing else: descriptors that somebody sends along are closed by the kernel.
        let mut control = cmsg_space!(UnixCredentials);
        let mut slices = [IoSliceMut::new(slot)];
        let received = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
        );
        let Ok(message) = received else { return false };
        let (length, cut) = (message.bytes, message.flags.contains(MsgFlags::MSG_TRUNC));
        let mut sender = None;
        for item in message.cmsgs().into_iter().flatten() {
            match item {
                ControlMessageOwned::ScmCredentials(credentials) => sender = Some(credentials),
                ControlMessageOwned::ScmRights(descriptors) => {
                    for descriptor in descriptors {
                        let _ = close(descriptor);
                    }
                }
                _ => {}
            }
        }
        let origin = sender.map(|sender| self.origin(&sender));
        self.append(&slot[..length], origin, cut);
        true
    }

    fn origin(&mut self, sender: &UnixCredentials) -> Origin {
        let uid = sender.uid();
        let account = if uid > 0 && uid < FIRST_PERSON { self.account(uid) } else { None };
        Origin::Process(Process { pid: sender.pid(), uid, gid: sender.gid(), account })
    }

    fn account(&mut self, uid: u32) -> Option<Arc<str>> {
        if let Some(known) = self.accounts.get(&uid) {
            return known.clone();
        }
        let found = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let account: Option<Arc<str>> = found.map(|user| user.name.into());
        if self.accounts.len() < MOST_ACCOUNTS {
            self.accounts.insert(uid, account.clone());
        }
        account
    }

    fn append(&mut self, message: &[u8], origin: Option<Origin>, cut: bool) {
        #[cfg(test)]
        crate::receive::panic_where_asked(message);
        if cut || self.filled + message.len() > self.buffer.len() || self.spans.len() >= CHUNK_MESSAGES {
            self.hand_over();
        }
        if let Some(origin) = origin {
            mark(&mut self.origins, self.spans.len(), &origin);
        }
        self.buffer[self.filled..self.filled + message.len()].copy_from_slice(message);
        self.spans.push((self.filled as u32, message.len() as u32));
        self.filled += message.len();
        if cut {
            self.source.counters.note(Note::Truncated);
            self.push(Kind::Cut);
        }
    }

    fn hand_over(&mut self) {
        self.push(Kind::Whole);
    }

    /// Sheds when the queue is full: every program that logs would wait for us otherwise, logins among them.
    fn push(&mut self, kind: Kind) {
        if self.spans.is_empty() {
            return;
        }
        let spans = std::mem::take(&mut self.spans);
        let (buffer, filled) = self.lane.fitted(&mut self.buffer, self.filled);
        self.filled = 0;
        let records = spans.len() as u64;
        self.source.counters.received(records, filled as u64);
        let base = self.position;
        self.position += filled as u64 + 1;
        let refused = self.lane.try_push(Chunk {
            source: Arc::clone(&self.source),
            buffer,
            filled,
            frames: Frames::Records(spans),
            base,
            records,
            kind,
            origins: std::mem::take(&mut self.origins),
            checkpoint: Some(socket_checkpoint(self.position)),
        });
        if let Err(chunk) = refused {
            self.source.counters.lost(Loss::Shed, records);
            self.lane.recycle(chunk.buffer);
        }
    }
}

impl Receiver for LocalReceiver {
    /// Receives until the signal to stop, then what is in the socket.
    fn run(&mut self) {
        self.receive_all();
    }

    fn recover(&mut self) {
        let lost = self.spans.len() as u64;
        self.source.counters.received(lost, self.filled as u64);
        self.source.counters.lost(Loss::Panic, lost);
        self.spans.clear();
        self.origins.clear();
        self.filled = 0;
        self.buffer = self.lane.buffer();
    }
}

/// Removes a socket that a daemon of this user left behind, and only that.
fn remove_stale(path: &Path) -> Result<(), Refused> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let refused = |what: &str, remedy: &str| {
        let reason = format!("cannot make the socket {}: {what}", path.display());
        Err(Refused { reason, remedy: remedy.to_owned() })
    };
    if !found.file_type().is_socket() {
        return refused("something else is there", "choose another path, or remove what is there");
    }
    if found.uid() != geteuid().as_raw() {
        return refused(
            "a socket of another user is there",
            "stop the program that made it, or choose another path",
        );
    }
    let probe = UnixDatagram::unbound().and_then(|probe| probe.connect(path));
    match probe {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).or_else(|error| {
                refused(&format!("the stale one stays: {error}"), "remove it, or choose another path")
            })
        }
        _ => refused(
            "a program listens there",
            "stop it (often systemd-journald or rsyslogd), or choose another path",
        ),
    }
}

/// Gives our socket its permissions without following what somebody may have put into its place.
fn own(path: &Path, mode: u32) -> io::Result<Place> {
    let handle = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    let itself = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
    let found = fs::metadata(&itself)?;
    if !found.file_type().is_socket() || found.uid() != geteuid().as_raw() {
        return Err(io::Error::from_raw_os_error(libc::EEXIST));
    }
    fs::set_permissions(&itself, fs::Permissions::from_mode(mode))?;
    Ok(Place { path: path.to_owned(), device: found.dev(), inode: found.ino() })
}
