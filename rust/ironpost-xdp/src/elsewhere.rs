//! The names of the filter on systems without XDP. Nothing can be constructed; opening says why.

use crate::error::FilterError;
use crate::report::{Attachment, BlockRequest, Counters, Listed, PacketRecord, Report, Settings};
use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

/// Cannot exist here.
#[derive(Debug)]
pub struct Filter(Infallible);

/// Cannot exist here.
#[derive(Debug)]
pub struct RingReader(Infallible);

#[allow(missing_docs, clippy::missing_errors_doc, reason = "documented on Linux; here only the names exist")]
impl Filter {
    pub fn open(_settings: &Settings) -> Result<Self, FilterError> {
        Err(unsupported())
    }

    pub fn detach_pins(_directory: &Path) -> Result<(), FilterError> {
        Err(unsupported())
    }

    pub fn attached(&self) -> Result<Vec<Attachment>, FilterError> {
        match self.0 {}
    }

    pub fn ring_reader(&self) -> Result<RingReader, FilterError> {
        match self.0 {}
    }

    pub fn detach(&self) -> Result<(), FilterError> {
        match self.0 {}
    }

    pub fn reattach(&self) -> Result<(), FilterError> {
        match self.0 {}
    }

    pub fn directory(&self) -> &Path {
        match self.0 {}
    }

    pub fn block(&self, _requests: &[BlockRequest]) -> Result<Report, FilterError> {
        match self.0 {}
    }

    pub fn allow(&self, _targets: &[String], _expires_boot_ns: u64) -> Result<Report, FilterError> {
        match self.0 {}
    }

    pub fn unblock(&self, _targets: &[String]) -> Result<Report, FilterError> {
        match self.0 {}
    }

    pub fn unallow(&self, _targets: &[String]) -> Result<Report, FilterError> {
        match self.0 {}
    }

    pub fn blocked(&self) -> Result<Vec<Listed>, FilterError> {
        match self.0 {}
    }

    pub fn allowed(&self) -> Result<Vec<Listed>, FilterError> {
        match self.0 {}
    }

    pub fn sweep(&self) -> Result<u64, FilterError> {
        match self.0 {}
    }

    pub fn counters(&self) -> Result<Counters, FilterError> {
        match self.0 {}
    }
}

#[allow(missing_docs, clippy::missing_errors_doc, reason = "documented on Linux; here only the names exist")]
impl RingReader {
    pub fn wait(&mut self, _timeout: Duration) -> Result<bool, FilterError> {
        match self.0 {}
    }

    pub fn read(&mut self, _into: &mut Vec<PacketRecord>, _limit: usize) -> usize {
        match self.0 {}
    }

    #[must_use]
    pub fn position(&self) -> u64 {
        match self.0 {}
    }

    pub fn commit(&mut self, _position: u64) {
        match self.0 {}
    }

    #[must_use]
    pub fn depth(&self) -> (u64, u64) {
        match self.0 {}
    }
}

/// There is no boot clock to expire entries by; nothing here has an expiry.
#[must_use]
pub const fn boot_ns() -> u64 {
    0
}

const fn unsupported() -> FilterError {
    FilterError::UnsupportedPlatform { system: std::env::consts::OS }
}
