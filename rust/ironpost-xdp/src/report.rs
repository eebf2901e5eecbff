//! The plain values that go in and out of the filter.

use crate::target::Prefix;
use ironpost_ebpf_common::mode;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum XdpMode {
    /// Native, generic where the driver refuses; which one it became is reported.
    Auto,
    /// In the driver.
    Native,
    /// Generic: in the network stack, after the packet became a socket buffer.
    Skb,
}

impl FromStr for XdpMode {
    type Err = crate::FilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Native),
            "skb" => Ok(Self::Skb),
            _ => Err(crate::FilterError::Setting {
                name: "mode",
                value: format!("{text:?}"),
                reason: "expected auto, native or skb".to_owned(),
            }),
        }
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Skb => "skb",
        })
    }
}

/// What [`Filter::open`](crate::Filter::open) is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory for pins, on the BPF file system. `/sys/fs/bpf/ironpost` unless there is a reason.
    pub pin_dir: PathBuf,
    /// Interfaces to attach to; pins of others are detached. None loads the program without attaching it.
    pub interfaces: Vec<String>,
    /// How to attach.
    pub mode: XdpMode,
    /// Bytes of the ring buffer: a power of two and a multiple of the page size.
    pub ring_buffer_size: u32,
    /// Room for this many single addresses and, separately, this many networks.
    pub blocklist_max_entries: u32,
    /// One record for this many drops on a CPU; 0 for none.
    pub sample_every: u32,
}

/// What a block entry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryMode {
    /// Packets are dropped.
    Drop,
    /// Packets pass and are counted as `monitored`.
    Monitor,
}

impl EntryMode {
    pub(crate) const fn code(self) -> u16 {
        match self {
            Self::Drop => mode::DROP,
            Self::Monitor => mode::MONITOR,
        }
    }

    pub(crate) const fn from_code(code: u16) -> Self {
        if code == mode::DROP { Self::Drop } else { Self::Monitor }
    }
}

/// One block to be set. Setting a target again replaces its entry.
#[derive(Clone, Debug)]
pub struct BlockRequest {
    /// Address or network.
    pub target: String,
    /// Boot clock after which it has no effect, 0 never.
    pub expires_boot_ns: u64,
    /// Number reported in records.
    pub rule_id: u32,
    /// Drop or monitor.
    pub mode: EntryMode,
}

/// A target that was not written, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The target as it was given.
    pub target: String,
    /// Why it was refused.
    pub reason: String,
}

/// What a change did. Refused targets are not among the written ones and changed nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Entries written or removed.
    pub written: u64,
    /// Targets that were refused.
    pub refused: Vec<Refused>,
}

/// An entry of the block or allow list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Address or network; IPv4-mapped is written as IPv4.
    #[serde(serialize_with = "as_text")]
    pub target: Prefix,
    /// Boot clock after which it has no effect, 0 never.
    pub expires_boot_ns: u64,
    /// Number reported in records.
    pub rule_id: u32,
    /// What it does; `None` on the allow list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<EntryMode>,
    /// Whether it has run out and waits for the sweeper.
    pub expired: bool,
}

fn as_text<S: Serializer>(value: &Prefix, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// An interface and how the program runs there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attachment {
    /// The interface.
    pub interface: String,
    /// Native or generic; `None` when our program does not run there.
    pub mode: Option<XdpMode>,
    /// Why it is not what was asked for, `""` when it is.
    pub note: String,
}

/// Counts of one protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProtocolCount {
    /// Frames.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Frames dropped.
    pub drops: u64,
}

/// The counters since the maps were made; restarts of the daemon do not reset them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Frames seen; always `packets_passed + packets_dropped`.
    pub packets_total: u64,
    /// Frames passed.
    pub packets_passed: u64,
    /// Frames dropped.
    pub packets_dropped: u64,
    /// Records written to the ring buffer.
    pub events_emitted: u64,
    /// Records lost: ring buffer full or rate limit.
    pub events_lost: u64,
    /// Of those, by cause; `ports_capped` are new ports that were not reported because their source had many.
    pub events: BTreeMap<&'static str, u64>,
    /// By protocol slot.
    pub protocols: BTreeMap<&'static str, ProtocolCount>,
    /// By reason; they add up to `packets_total`.
    pub reasons: BTreeMap<&'static str, u64>,
}

/// Why a packet was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketKind {
    /// It was dropped.
    Drop,
    /// It would have been dropped.
    Monitor,
    /// Its source touched a destination port for the first time in its window.
    NewPort,
}

impl PacketKind {
    /// The value of `event.action`.
    #[must_use]
    pub const fn action(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Monitor => "packet",
            Self::NewPort => "new_port",
        }
    }

    /// The value of `ironpost.verdict`.
    #[must_use]
    pub const fn verdict(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Monitor => "monitor",
            Self::NewPort => "pass",
        }
    }
}

/// A record of the ring buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketRecord {
    /// Id of the record: its place in the ring buffer's endless stream, rising as long as the map is pinned.
    pub position: u64,
    /// What to commit once this record and all before it are done with.
    pub next_position: u64,
    /// Boot clock when the packet was seen.
    pub boot_ns: u64,
    /// The same moment as nanoseconds since 1970.
    pub unix_ns: i64,
    /// Why it was reported.
    pub kind: PacketKind,
    /// Source address; IPv4-mapped is IPv4.
    pub source: IpAddr,
    /// Destination address; IPv4-mapped is IPv4.
    pub destination: IpAddr,
    /// Source and destination port, when there are any and they may be read (never in fragments).
    pub ports: Option<(u16, u16)>,
    /// IP protocol number.
    pub protocol: u8,
    /// Flag byte of TCP.
    pub tcp_flags: u8,
    /// Whether it is a fragment.
    pub fragment: bool,
    /// Outer VLAN id.
    pub vlan: Option<u16>,
    /// Bytes of the frame.
    pub length: u32,
    /// Rule of the entry that matched, 0 for none.
    pub rule_id: u32,
    /// Index of the interface.
    pub interface: u32,
    /// How many packets this record stands for.
    pub stands_for: u32,
}

impl PacketRecord {
    /// The record as a JSON object: ECS names, dotted, as events have them, beside `position` and `next_position`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let mut object = serde_json::json!({
            "position": self.position,
            "next_position": self.next_position,
            "boot_ns": self.boot_ns,
            "unix_ns": self.unix_ns,
            "event.kind": "event",
            "event.category": "network",
            "event.action": self.kind.action(),
            "source.ip": self.source.to_string(),
            "destination.ip": self.destination.to_string(),
            "network.transport": self.transport(),
            "network.bytes": self.length,
            "ironpost.verdict": self.kind.verdict(),
            "ironpost.rule_id": self.rule_id,
            "ironpost.interface": self.interface,
            "ironpost.stands_for": self.stands_for,
            "ironpost.fragment": self.fragment,
            "ironpost.trust": "spoofable",
        });
        if let serde_json::Value::Object(fields) = &mut object {
            if let Some((source, destination)) = self.ports {
                fields.insert("source.port".to_owned(), source.into());
                fields.insert("destination.port".to_owned(), destination.into());
                if self.protocol == 6 {
                    fields.insert("tcp.flags".to_owned(), self.tcp_flags.into());
                }
            }
            if let Some(vlan) = self.vlan {
                fields.insert("network.vlan.id".to_owned(), vlan.into());
            }
        }
        object
    }

    /// The value of `network.transport`: a name where there is a common one, else the number.
    #[must_use]
    pub fn transport(&self) -> std::borrow::Cow<'static, str> {
        match self.protocol {
            1 => "icmp".into(),
            6 => "tcp".into(),
            17 => "udp".into(),
            47 => "gre".into(),
            50 => "esp".into(),
            51 => "ah".into(),
            58 => "ipv6-icmp".into(),
            132 => "sctp".into(),
            number => number.to_string().into(),
        }
    }
}
