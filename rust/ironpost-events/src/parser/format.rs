//! Names of log formats.

use std::str::FromStr;

/// A log format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Told from each line.
    #[default]
    Auto,
    /// RFC 5424, RFC 3164, and lines of `/var/log` without a priority.
    Syslog,
    /// RFC 5424 to the letter.
    Rfc5424,
    /// RFC 3164, with or without a priority.
    Rfc3164,
    /// One JSON object per line.
    Json,
    /// Apache common or combined access log.
    Apache,
    /// nginx access log (combined).
    Nginx,
    /// Docker's `json-file` driver; what the container wrote is read as `Auto`.
    Docker,
    /// Records of the Linux audit system; those of one event are joined.
    Auditd,
}

impl Format {
    /// Its name in configuration and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Syslog => "syslog",
            Self::Rfc5424 => "rfc5424",
            Self::Rfc3164 => "rfc3164",
            Self::Json => "json",
            Self::Apache => "apache",
            Self::Nginx => "nginx",
            Self::Docker => "docker",
            Self::Auditd => "auditd",
        }
    }

    /// All formats that can be parsed.
    pub const ALL: [Self; 9] = [
        Self::Auto,
        Self::Syslog,
        Self::Rfc5424,
        Self::Rfc3164,
        Self::Json,
        Self::Apache,
        Self::Nginx,
        Self::Docker,
        Self::Auditd,
    ];
}

/// A format name that can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "log format `{name}` is {problem}; formats are auto, syslog, rfc5424, rfc3164, json, apache, nginx, docker, auditd"
)]
pub struct FormatError {
    /// The name as given.
    pub name: String,
    /// Unknown, or known and not read by this version.
    pub problem: &'static str,
}

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(name: &str) -> Result<Self, FormatError> {
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| {
            let known = matches!(name, "cef" | "leef" | "logfmt" | "cri");
            let problem = if known { "not read by this version" } else { "not known" };
            FormatError { name: name.to_owned(), problem }
        })
    }
}
