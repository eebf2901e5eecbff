//! Attaching to interfaces by pinned links.

use super::interface::{self, Attached};
use super::pins::{self, Pins};
use super::sys;
use crate::error::FilterError;
use crate::report::{Attachment, XdpMode};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the kernel may take to let go of our own link.
const RELEASE: Duration = Duration::from_secs(2);

/// Attaches `program` to `name`, or updates the link that is there. Returns a note when the mode is not the one
/// asked for first.
pub(crate) fn attach(
    pins: &Pins,
    name: &str,
    mode: XdpMode,
    program: BorrowedFd<'_>,
) -> Result<String, FilterError> {
    let index = interface::index(name)?;
    let path = pins.link_path(index);
    let program_id = facts(program)?.0;
    if let Some(link) = pins::get(&path)? {
        let info = sys::link_info(link.as_fd())
            .map_err(|error| FilterError::system("reading a pinned link", error))?;
        let running = running(name, index)?;
        let wanted = matches!(
            (mode, running),
            (XdpMode::Auto, _)
                | (XdpMode::Native, Attached::Native(_))
                | (XdpMode::Skb, Attached::Generic(_))
        );
        // A link whose device is gone has index 0; one whose program does not run here is of another network
        // namespace or was detached by force.
        if info.interface == index && running.program() == info.program_id && wanted {
            if info.program_id != program_id {
                sys::link_update(link.as_fd(), program).map_err(|error| {
                    FilterError::system(format!("replacing the program on {name}"), error)
                })?;
            }
            return Ok(match running {
                Attached::Generic(_) if mode == XdpMode::Auto => {
                    "generic mode, as attached earlier; detach to try native mode again".to_owned()
                }
                _ => String::new(),
            });
        }
        // The kernel cannot change the mode of a link, so the old one goes first.
        Pins::remove(&path)?;
    }
    // The kernel lets go of a link whose pin was removed a moment later.
    let patience = Instant::now() + RELEASE;
    let mut found = running(name, index)?;
    while found.program() == program_id && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
        found = running(name, index)?;
    }
    if found.program() != 0 {
        return Err(foreign(name, found.program()));
    }
    let (link, note) = create(name, index, mode, program)?;
    sys::pin(&path, link.as_fd())
        .map_err(|error| FilterError::system(format!("pinning the link of {name}"), error))?;
    Ok(note)
}

fn create(
    name: &str,
    index: u32,
    mode: XdpMode,
    program: BorrowedFd<'_>,
) -> Result<(OwnedFd, String), FilterError> {
    let refused =
        |error: io::Error, mode: XdpMode| match error.raw_os_error().map(nix::errno::Errno::from_raw) {
            // Somebody else attached between our question and our request.
            Some(nix::errno::Errno::EBUSY | nix::errno::Errno::EEXIST) => {
                foreign(name, running(name, index).map_or(0, Attached::program))
            }
            Some(nix::errno::Errno::EPERM) => FilterError::PrivilegeMissing {
                capability: "CAP_NET_ADMIN",
                action: format!("attaching to {name}"),
            },
            _ => FilterError::Attach { interface: name.to_owned(), reason: format!("{mode} mode: {error}") },
        };
    if mode == XdpMode::Skb {
        let link =
            sys::link_create(program, index, sys::FLAG_SKB).map_err(|error| refused(error, XdpMode::Skb))?;
        return Ok((link, String::new()));
    }
    match sys::link_create(program, index, sys::FLAG_NATIVE) {
        Ok(link) => Ok((link, String::new())),
        Err(error) if mode == XdpMode::Native => Err(refused(error, XdpMode::Native)),
        Err(native) => {
            let link = sys::link_create(program, index, sys::FLAG_SKB)
                .map_err(|error| refused(error, XdpMode::Skb))?;
            Ok((link, format!("generic mode, slower: {name} refused native mode ({native})")))
        }
    }
}

/// Where the program runs now, for every interface of `names`.
pub(crate) fn report(
    directory: &Path,
    names: &[(String, String)],
    program: BorrowedFd<'_>,
) -> Result<Vec<Attachment>, FilterError> {
    let program_id = facts(program)?.0;
    let mut list = Vec::new();
    for (name, note) in names {
        let absent = |note: String| Attachment { interface: name.clone(), mode: None, note };
        let Ok(index) = interface::index(name) else {
            list.push(absent("the interface is gone".to_owned()));
            continue;
        };
        let pinned = directory.join(format!("link_{index}")).exists();
        list.push(match running(name, index)? {
            found if found.program() != program_id => absent(match found.program() {
                0 => "not attached: the link was removed from outside".to_owned(),
                id => format!("not attached: the XDP program {} runs there", describe(id)),
            }),
            found => Attachment {
                interface: name.clone(),
                mode: Some(if matches!(found, Attached::Generic(_)) {
                    XdpMode::Skb
                } else {
                    XdpMode::Native
                }),
                note: if pinned {
                    note.clone()
                } else {
                    "attached, but the pin of the link was removed from outside".to_owned()
                },
            },
        });
    }
    Ok(list)
}

fn running(name: &str, index: u32) -> Result<Attached, FilterError> {
    interface::attached(index)
        .map_err(|error| FilterError::system(format!("asking which XDP program runs on {name}"), error))
}

fn foreign(name: &str, program: u32) -> FilterError {
    FilterError::ForeignProgram { interface: name.to_owned(), program: describe(program) }
}

/// Name and id of a program; only the id when we may not read the name (that takes `CAP_SYS_ADMIN`).
fn describe(id: u32) -> String {
    match sys::program_by_id(id).and_then(|program| sys::program_facts(program.as_fd())) {
        Ok((_, name)) if !name.is_empty() => format!("{name:?} (id {id})"),
        _ => format!("with id {id}"),
    }
}

/// Id and name of our program.
pub(crate) fn facts(program: BorrowedFd<'_>) -> Result<(u32, String), FilterError> {
    sys::program_facts(program)
        .map_err(|error| FilterError::system("reading the facts of the program", error))
}
