//! What the engine is told at start: one JSON document, checked before anything is opened.

use crate::intake::CHUNK_BYTES;
use ironpost_events::Logsource;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Largest record kept whole; a longer one is cut here and counted as truncated.
const DEFAULT_MAX_MESSAGE: usize = 1 << 20;

/// Bytes that may wait between receivers and workers, all receivers together.
const DEFAULT_QUEUE_BYTES: usize = 48 << 20;

/// The settings document is not usable.
#[derive(Debug, thiserror::Error)]
#[error("engine settings: {0}")]
pub struct SettingsError(pub String);

/// Everything the engine is told at start.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Parse and match threads; 0 means one per core.
    #[serde(default)]
    pub workers: usize,
    /// Files and globs to follow.
    #[serde(default)]
    pub files: Vec<FileSettings>,
    /// Syslog over UDP.
    #[serde(default)]
    pub udp: Vec<UdpSettings>,
    /// Syslog over TCP.
    #[serde(default)]
    pub tcp: Vec<TcpSettings>,
    /// Sockets of programs on this host, such as `/dev/log`.
    #[serde(default)]
    pub unix: Vec<UnixSettings>,
    /// Follow the systemd journal.
    #[serde(default)]
    pub journal: bool,
    /// The program that reads the journal.
    #[serde(default = "default_journal_program")]
    pub journal_program: PathBuf,
    /// Read packet events of the filter.
    #[serde(default)]
    pub packets: bool,
    /// `UTC`, `local`, or an IANA name: the zone of lines that name none.
    #[serde(default = "default_timezone")]
    pub timezone: String,
    /// Year of lines that name none; inferred from the clock when absent.
    #[serde(default)]
    pub year: Option<i16>,
    /// Bytes that may wait between receivers and workers.
    #[serde(default = "default_queue_bytes")]
    pub queue_bytes: usize,
    /// A file line longer than this is cut and counted.
    #[serde(default = "default_max_message")]
    pub max_line: usize,
    /// How long a rotated file is still read after its last growth, milliseconds.
    #[serde(default = "default_rotate_wait")]
    pub rotate_wait_ms: u64,
    /// The slow look at every file, beside change notification, milliseconds.
    #[serde(default = "default_recheck")]
    pub recheck_ms: u64,
}

fn default_journal_program() -> PathBuf {
    PathBuf::from("/usr/bin/journalctl")
}
fn default_timezone() -> String {
    "UTC".to_owned()
}
fn default_queue_bytes() -> usize {
    DEFAULT_QUEUE_BYTES
}
fn default_max_message() -> usize {
    DEFAULT_MAX_MESSAGE
}
fn default_rotate_wait() -> u64 {
    5_000
}
fn default_recheck() -> u64 {
    1_000
}

/// Where a file without a checkpoint begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Only what is written from now on.
    #[default]
    End,
    /// Everything the file holds.
    Beginning,
}

/// Facts every event of a source carries, and how its bytes are read.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Described {
    /// Parser name as in `ironpost.parse`, `auto` when empty.
    #[serde(default)]
    pub format: String,
    /// Constant fields: ECS name → value.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
    /// Sigma log source of the events, where the operator knows it.
    #[serde(default)]
    pub logsource: LogsourceSettings,
}

/// Sigma log source in the settings.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsourceSettings {
    /// For example `linux`.
    #[serde(default)]
    pub product: Option<String>,
    /// For example `webserver`.
    #[serde(default)]
    pub category: Option<String>,
    /// For example `sshd`.
    #[serde(default)]
    pub service: Option<String>,
}

impl From<&LogsourceSettings> for Logsource {
    fn from(settings: &LogsourceSettings) -> Self {
        let part = |text: &Option<String>| text.as_deref().map(Box::from);
        Self {
            product: part(&settings.product),
            category: part(&settings.category),
            service: part(&settings.service),
        }
    }
}

/// A file, or the files a pattern names.
#[derive(Debug, Clone, Deserialize)]
pub struct FileSettings {
    /// One file.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// Many files: `*`, `?` and `[…]` inside path components.
    #[serde(default)]
    pub glob: Option<String>,
    /// Where to begin without a checkpoint.
    #[serde(default)]
    pub start: Start,
    /// Format, facts, log source.
    #[serde(flatten)]
    pub described: Described,
}

/// A UDP listener.
#[derive(Debug, Clone, Deserialize)]
pub struct UdpSettings {
    /// Address and port.
    pub bind: String,
    /// Receive buffer asked of the kernel, bytes.
    #[serde(default = "default_receive_buffer")]
    pub receive_buffer: usize,
    /// Format, facts, log source.
    #[serde(flatten)]
    pub described: Described,
}

fn default_receive_buffer() -> usize {
    16 << 20
}

/// A TCP listener.
#[derive(Debug, Clone, Deserialize)]
pub struct TcpSettings {
    /// Address and port.
    pub bind: String,
    /// Connections at one time; further ones are closed and counted.
    #[serde(default = "default_connections")]
    pub max_connections: usize,
    /// Connections of one address at one time; further ones are closed and counted.
    #[serde(default = "default_peer_connections")]
    pub max_connections_per_peer: usize,
    /// A longer message is cut here and counted.
    #[serde(default = "default_max_message")]
    pub max_message: usize,
    /// A connection silent for so long is closed and counted.
    #[serde(default = "default_idle")]
    pub idle_secs: u64,
    /// Format, facts, log source.
    #[serde(flatten)]
    pub described: Described,
}

fn default_connections() -> usize {
    256
}
fn default_peer_connections() -> usize {
    32
}
fn default_idle() -> u64 {
    300
}

/// A socket of programs on this host.
#[derive(Debug, Clone, Deserialize)]
pub struct UnixSettings {
    /// Where it is made.
    pub path: PathBuf,
    /// Its permissions.
    #[serde(default = "default_socket_mode")]
    pub mode: u32,
    /// Format, facts, log source.
    #[serde(flatten)]
    pub described: Described,
}

fn default_socket_mode() -> u32 {
    0o666
}

impl Settings {
    /// Reads and checks the document.
    ///
    /// # Errors
    /// When it is not JSON of this shape, or a value cannot work; the text names the key and the remedy.
    pub fn from_json(json: &[u8]) -> Result<Self, SettingsError> {
        let settings: Self =
            serde_json::from_slice(json).map_err(|error| SettingsError(error.to_string()))?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        let refuse = |text: String| Err(SettingsError(text));
        for file in &self.files {
            match (&file.path, &file.glob) {
                (Some(path), None) if path.is_absolute() => {}
                (None, Some(glob)) if Path::new(glob).is_absolute() => {}
                (Some(path), None) => {
                    return refuse(format!(
                        "files.path {} is relative; give an absolute path",
                        path.display()
                    ));
                }
                (None, Some(glob)) => {
                    return refuse(format!("files.glob {glob} is relative; give an absolute pattern"));
                }
                _ => return refuse("an entry of files needs exactly one of path and glob".to_owned()),
            }
        }
        if self.max_line < CHUNK_BYTES || self.tcp.iter().any(|tcp| tcp.max_message < CHUNK_BYTES) {
            return refuse(format!("max_line and max_message must be at least {CHUNK_BYTES} bytes"));
        }
        if self.max_line > 1 << 30 || self.tcp.iter().any(|tcp| tcp.max_message > 1 << 30) {
            return refuse("max_line and max_message must be at most 1 GiB".to_owned());
        }
        if let Some(unix) = self.unix.iter().find(|unix| !unix.path.is_absolute()) {
            return refuse(format!("unix.path {} is relative; give an absolute path", unix.path.display()));
        }
        if let Some(unix) = self.unix.iter().find(|unix| unix.mode > 0o777) {
            return refuse(format!("unix.mode {:o} is no permission; give one up to 777", unix.mode));
        }
        if self.tcp.iter().any(|tcp| tcp.max_connections_per_peer == 0 || tcp.max_connections == 0) {
            return refuse("tcp.max_connections and max_connections_per_peer must be at least 1".to_owned());
        }
        if self.queue_bytes < 1 << 20 {
            return refuse("queue_bytes must be at least 1048576".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_fill_what_is_not_said() {
        let settings = Settings::from_json(br#"{"files":[{"path":"/var/log/auth.log"}]}"#).unwrap();
        assert_eq!(settings.max_line, 1 << 20);
        assert_eq!(settings.files[0].start, Start::End);
        assert!(!settings.journal);
    }

    #[test]
    fn relative_paths_are_refused_with_the_remedy() {
        let error = Settings::from_json(br#"{"files":[{"path":"auth.log"}]}"#).unwrap_err();
        assert!(error.to_string().contains("absolute"), "{error}");
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(Settings::from_json(br#"{"worker":2}"#).is_err());
    }
}
