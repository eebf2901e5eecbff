//! Who handed a record over, as far as the system itself vouches for it. The text of a record has no say in this.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value, json};

/// Below it are the accounts of services, from it on those of people.
pub(crate) const FIRST_PERSON: u32 = 1000;

/// Senders counted one by one; what further ones send is counted together.
const MOST_PEERS: usize = 256;

/// Who handed a record over.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    /// A socket address; over UDP anybody can write any.
    Peer(SocketAddr),
    /// A process of this host, by the kernel's word.
    Process(Process),
}

/// The sender of a datagram on a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Name of the account where it is a service's.
    pub(crate) account: Option<Arc<str>>,
}

impl Origin {
    /// What the events carry because of it.
    pub(crate) fn fields(&self) -> Vec<(String, String)> {
        let text = |name: &str, value: String| (name.to_owned(), value);
        match self {
            Self::Peer(address) => vec![text("log.source.address", address.to_string())],
            Self::Process(process) => {
                // A process in another process namespace has no number here.
                let pid = (process.pid > 0).then(|| text("process.pid", process.pid.to_string()));
                let user = text("process.user.id", process.uid.to_string());
                let group = text("process.group.id", process.gid.to_string());
                let name = process.account.as_ref().map(|name| text("process.user.name", name.to_string()));
                pid.into_iter().chain([user, group]).chain(name).collect()
            }
        }
    }

    /// How far its records are believed, where that is not a matter of the source alone.
    pub(crate) fn trust(&self) -> Option<&'static str> {
        match self {
            Self::Process(process) if process.uid == 0 => Some("host"),
            Self::Process(_) => Some("unauthenticated"),
            Self::Peer(_) => None,
        }
    }

    /// The service account that is believed about itself.
    pub(crate) fn account(&self) -> Option<&Arc<str>> {
        match self {
            Self::Process(process) => process.account.as_ref(),
            Self::Peer(_) => None,
        }
    }
}

/// Whether a program speaks for an account of its own: `postfix` and `postfix/smtpd` for `postfix`, `chronyd` for
/// `_chrony`. What the process runs is not asked for: it may have changed since it sent the record.
pub(crate) fn is_program_of(account: &str, program: &[u8]) -> bool {
    let account = account.strip_prefix('_').unwrap_or(account).as_bytes();
    let Some(rest) = program.strip_prefix(account) else { return false };
    !account.is_empty() && (rest.is_empty() || rest == b"d" || rest.first() == Some(&b'/'))
}

/// Origins of consecutive records: the number of the first record of each run.
pub(crate) type Runs = Vec<(u32, Origin)>;

/// Adds the origin of record number `record`.
pub(crate) fn mark(runs: &mut Runs, record: usize, origin: &Origin) {
    if runs.last().is_none_or(|(_, last)| last != origin) {
        runs.push((record as u32, origin.clone()));
    }
}

/// The origin of a record.
pub(crate) fn origin_of(runs: &Runs, record: usize) -> Option<&Origin> {
    let behind = runs.partition_point(|(first, _)| *first as usize <= record);
    behind.checked_sub(1).and_then(|index| runs.get(index)).map(|(_, origin)| origin)
}

/// The records of each run.
pub(crate) fn ranges<T>(runs: &[(u32, T)], records: usize) -> impl Iterator<Item = (Range<usize>, &T)> {
    runs.iter().enumerate().map(move |(index, (first, value))| {
        let end = runs.get(index + 1).map_or(records, |(next, _)| *next as usize);
        (*first as usize..end.max(*first as usize), value)
    })
}

/// What is counted about one sender.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct PeerCounts {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) shed: u64,
    pub(crate) truncated: u64,
    pub(crate) connections: u64,
    pub(crate) refused: u64,
    pub(crate) idle: u64,
}

impl PeerCounts {
    fn add(&mut self, more: Self) {
        self.messages += more.messages;
        self.bytes += more.bytes;
        self.shed += more.shed;
        self.truncated += more.truncated;
        self.connections += more.connections;
        self.refused += more.refused;
        self.idle += more.idle;
    }

    fn to_json(self) -> Value {
        let mut object = json!({"messages": self.messages, "bytes": self.bytes});
        let rare = [
            ("shed", self.shed),
            ("truncated", self.truncated),
            ("connections", self.connections),
            ("connections_refused", self.refused),
            ("connections_idle", self.idle),
        ];
        for (name, value) in rare.into_iter().filter(|(_, value)| *value > 0) {
            object[name] = value.into();
        }
        object
    }
}

/// The senders of one source: the first of them each, the further ones together, so that forged addresses cost nothing.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    known: HashMap<IpAddr, PeerCounts>,
    others: PeerCounts,
}

impl Peers {
    pub(crate) fn add(&mut self, peer: IpAddr, more: PeerCounts) {
        if let Some(counts) = self.known.get_mut(&peer) {
            counts.add(more);
        } else if self.known.len() < MOST_PEERS {
            self.known.insert(peer, more);
        } else {
            self.others.add(more);
        }
    }

    /// By address; `others` only when there were too many.
    pub(crate) fn to_json(&self) -> Option<Value> {
        if self.known.is_empty() {
            return None;
        }
        let mut all: Map<String, Value> =
            self.known.iter().map(|(peer, counts)| (peer.to_string(), counts.to_json())).collect();
        if self.known.len() >= MOST_PEERS {
            all.insert("others".to_owned(), self.others.to_json());
        }
        Some(Value::Object(all))
    }
}

/// An address as people write it: one of IPv4 that came through an IPv6 socket is one of IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_speaks_for_its_own_programs_only() {
        for (account, program) in
            [("postfix", "postfix"), ("postfix", "postfix/smtpd"), ("_chrony", "chronyd"), ("sshd", "sshd")]
        {
            assert!(is_program_of(account, program.as_bytes()), "{account} {program}");
        }
        for (account, program) in [
            ("www-data", "sshd"),
            ("postfix", "postfixed"),
            ("ssh", "sshguard"),
            ("s", "sshd"),
            ("_", "d"),
            ("postfix", ""),
        ] {
            assert!(!is_program_of(account, program.as_bytes()), "{account} {program}");
        }
    }

    #[test]
    fn runs_give_each_record_its_origin() {
        let peer = |port| Origin::Peer(SocketAddr::from(([192, 0, 2, 1], port)));
        let mut runs = Runs::new();
        for (record, port) in [1, 1, 2, 2, 2, 1].into_iter().enumerate() {
            mark(&mut runs, record, &peer(port));
        }
        assert_eq!(runs.len(), 3);
        let found: Vec<_> = (0..6).map(|record| origin_of(&runs, record).unwrap().clone()).collect();
        assert_eq!(found, [1, 1, 2, 2, 2, 1].map(peer));
        let spread: Vec<_> = ranges(&runs, 6).map(|(range, _)| range).collect();
        assert_eq!(spread, [0..2, 2..5, 5..6]);
    }

    #[test]
    fn senders_beyond_the_table_are_counted_together_and_none_is_lost() {
        let mut peers = Peers::default();
        for number in 0..1000_u32 {
            let more = PeerCounts { messages: 1, bytes: 10, ..PeerCounts::default() };
            peers.add(IpAddr::from(number.to_be_bytes()), more);
        }
        let all = peers.to_json().unwrap();
        let all = all.as_object().unwrap();
        assert_eq!(all.len(), MOST_PEERS + 1);
        assert_eq!(all.values().map(|counts| counts["messages"].as_u64().unwrap()).sum::<u64>(), 1000);
        assert_eq!(all["others"]["bytes"], 7440);
    }
}
