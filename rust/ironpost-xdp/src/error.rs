//! What can go wrong, with thing, place and remedy.

use std::path::PathBuf;

/// An error of the packet filter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// This system has no XDP.
    #[error("the packet filter needs Linux with XDP, {system} has none")]
    UnsupportedPlatform {
        /// Name of the system.
        system: &'static str,
    },
    /// A capability is missing.
    #[error("{action} needs {capability}")]
    PrivilegeMissing {
        /// For example `CAP_BPF`.
        capability: &'static str,
        /// What was tried.
        action: String,
    },
    /// No such network interface.
    #[error("network interface {interface:?} does not exist")]
    InterfaceNotFound {
        /// The name that was asked for.
        interface: String,
        /// The interfaces there are.
        known: Vec<String>,
    },
    /// Another XDP program is attached.
    #[error("{interface} already runs the XDP program {program}, which is not ours")]
    ForeignProgram {
        /// The interface.
        interface: String,
        /// Name (when we may read it) and id of the program.
        program: String,
    },
    /// A setting that cannot be used.
    #[error("{name} = {value}: {reason}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What was expected.
        reason: String,
    },
    /// The pin directory cannot be used.
    #[error("pin directory {}: {reason}", path.display())]
    PinDirectory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The pins were written by a version with other maps.
    #[error("pins under {} have schema version {found}, this version reads {expected}", path.display())]
    SchemaMismatch {
        /// The pin directory.
        path: PathBuf,
        /// Version found there, 0 when none can be read.
        found: u32,
        /// Version of this build.
        expected: u32,
    },
    /// The kernel refused the program.
    #[error("loading the XDP program: {reason}")]
    Load {
        /// The kernel's words.
        reason: String,
    },
    /// The interface refused the program.
    #[error("attaching to {interface}: {reason}")]
    Attach {
        /// The interface.
        interface: String,
        /// The kernel's words.
        reason: String,
    },
    /// An operation on a map or on the kernel failed.
    #[error("{action}: {source}")]
    System {
        /// What was tried, with the map or object it was tried on.
        action: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

impl FilterError {
    /// The remedy in one sentence, `""` when there is none.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::UnsupportedPlatform { .. } => "the rest of Ironpost works without the filter".to_owned(),
            Self::PrivilegeMissing { .. } => {
                "run as root, or with the capabilities CAP_BPF and CAP_NET_ADMIN (both are needed)".to_owned()
            }
            Self::InterfaceNotFound { known, .. } => format!("interfaces here: {}", known.join(", ")),
            Self::ForeignProgram { interface, .. } => {
                format!("detach it first: ip link set dev {interface} xdp off (or its owner's own command)")
            }
            Self::PinDirectory { .. } => {
                "mount the BPF file system: mount -t bpf bpf /sys/fs/bpf, and use a directory below it without dots"
                    .to_owned()
            }
            Self::SchemaMismatch { path, .. } => format!(
                "detach the other version first, or remove its pins: rm -r {} (this stops its filtering)",
                path.display()
            ),
            Self::Load { .. } => "the filter needs Linux 5.18 or newer".to_owned(),
            Self::Setting { .. } | Self::Attach { .. } | Self::System { .. } => String::new(),
        }
    }

    /// An operation that the operating system refused; missing privilege is told apart.
    pub(crate) fn system(action: impl Into<String>, source: std::io::Error) -> Self {
        let action = action.into();
        match source.kind() {
            std::io::ErrorKind::PermissionDenied => Self::PrivilegeMissing { capability: "CAP_BPF", action },
            _ => Self::System { action, source },
        }
    }
}
