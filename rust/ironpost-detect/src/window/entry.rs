//! Events as windows remember them.

use crate::judge::scaled;
use serde::{Deserialize, Serialize};

/// How far an event can be believed, from least to most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Trust {
    Spoofable,
    Unauthenticated,
    Container,
    Host,
    /// The source said nothing: a library call, not a receiver.
    #[default]
    Unstated,
}

impl Trust {
    pub(crate) const ALL: [Self; 5] =
        [Self::Spoofable, Self::Unauthenticated, Self::Container, Self::Host, Self::Unstated];
    pub(crate) const COUNT: usize = Self::ALL.len();

    pub(crate) fn parse(text: &[u8]) -> Self {
        match text {
            b"host" => Self::Host,
            b"container" => Self::Container,
            b"unauthenticated" => Self::Unauthenticated,
            // A trust this version does not know is not trusted.
            _ => Self::Spoofable,
        }
    }

    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::Spoofable => Some("spoofable"),
            Self::Unauthenticated => Some("unauthenticated"),
            Self::Container => Some("container"),
            Self::Host => Some("host"),
            Self::Unstated => None,
        }
    }

    /// Whose budget of memory an event uses: the host's, the containers', anybody's.
    pub(crate) fn class(self) -> usize {
        match self {
            Self::Host | Self::Unstated => 0,
            Self::Container => 1,
            Self::Unauthenticated | Self::Spoofable => 2,
        }
    }
}

/// One contributing event.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) time: i64,
    /// Hash of the counted value, the bits of the number, or which rule it was.
    pub(crate) value: u64,
    pub(crate) position: u64,
    /// How many events it stands for.
    pub(crate) weight: u32,
    /// Index of the source's name.
    pub(crate) source: u16,
    pub(crate) trust: Trust,
    /// The record is that of the entry before.
    pub(crate) same: bool,
}

impl Entry {
    pub(crate) fn record(&self) -> (u16, u64) {
        (self.source, self.position)
    }

    pub(crate) fn number(&self) -> f64 {
        f64::from_bits(self.value)
    }

    /// The number as often as the event counts, in units.
    pub(crate) fn amount(&self) -> i128 {
        scaled(self.number()) * i128::from(self.weight)
    }
}
