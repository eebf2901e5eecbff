//! What the kernel says about network interfaces: their indices, and which XDP program runs on them (rtnetlink).

use crate::error::FilterError;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use nix::sys::time::TimeVal;
use std::io;
use std::os::fd::AsRawFd;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const ATTRIBUTE_TYPE: u16 = 0x3fff;
const MESSAGE_HEADER: usize = 16;
const LINK_HEADER: usize = 16;

/// How a program runs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attached {
    Nothing,
    Native(u32),
    Generic(u32),
    /// Offloaded, or several modes at once.
    Other(u32),
}

impl Attached {
    /// Id of the program, 0 for none.
    pub(crate) const fn program(self) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::Native(id) | Self::Generic(id) | Self::Other(id) => id,
        }
    }
}

/// Index of an interface.
pub(crate) fn index(name: &str) -> Result<u32, FilterError> {
    match nix::net::if_::if_nametoindex(name) {
        Ok(index) => Ok(index),
        Err(_) => Err(FilterError::InterfaceNotFound { interface: name.to_owned(), known: known() }),
    }
}

/// Names of all interfaces.
fn known() -> Vec<String> {
    nix::net::if_::if_nameindex().map_or_else(
        |_| Vec::new(),
        |interfaces| interfaces.iter().map(|one| one.name().to_string_lossy().into_owned()).collect(),
    )
}

/// Which XDP program runs on the interface.
pub(crate) fn attached(index: u32) -> io::Result<Attached> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    // The kernel answers at once; the limit only turns a defect into an error instead of a hang.
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::ReceiveTimeout, &TimeVal::new(2, 0))?;

    let mut request = Vec::with_capacity(MESSAGE_HEADER + LINK_HEADER);
    request.extend(((MESSAGE_HEADER + LINK_HEADER) as u32).to_ne_bytes());
    request.extend(RTM_GETLINK.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0_u8; 8]); // sequence, port
    request.extend([0_u8; 4]); // family, padding, device type
    request.extend(index.to_ne_bytes());
    request.extend([0_u8; 8]); // flags, change mask
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;

    let mut answer = vec![0_u8; 64 * 1024];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    parse_answer(answer.get(..length).unwrap_or_default())
}

fn parse_answer(answer: &[u8]) -> io::Result<Attached> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = number_u16(answer, 4).ok_or_else(malformed)?;
    if kind == NLMSG_ERROR {
        let code = number_u32(answer, MESSAGE_HEADER).ok_or_else(malformed)?.cast_signed();
        return Err(io::Error::from_raw_os_error(-code));
    }
    if kind != RTM_NEWLINK {
        return Err(malformed());
    }
    let attributes = answer.get(MESSAGE_HEADER + LINK_HEADER..).ok_or_else(malformed)?;
    let Some(xdp) = Attributes(attributes).find(|(kind, _)| *kind == IFLA_XDP) else {
        return Ok(Attached::Nothing);
    };
    let number = |wanted| {
        Attributes(xdp.1)
            .find(|(kind, _)| *kind == wanted)
            .and_then(|(_, value)| number_u32(value, 0))
            .unwrap_or(0)
    };
    let mode = Attributes(xdp.1)
        .find(|(kind, _)| *kind == IFLA_XDP_ATTACHED)
        .and_then(|(_, value)| value.first().copied())
        .unwrap_or(0);
    let any = [IFLA_XDP_PROG_ID, IFLA_XDP_DRV_PROG_ID, IFLA_XDP_SKB_PROG_ID]
        .into_iter()
        .map(number)
        .find(|id| *id != 0)
        .unwrap_or(0);
    Ok(match mode {
        0 => Attached::Nothing,
        1 => Attached::Native(any),
        2 => Attached::Generic(any),
        _ => Attached::Other(any),
    })
}

fn number_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn number_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Walks netlink attributes: length, type, value, padded to four bytes.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(number_u16(self.0, 0)?);
        let kind = number_u16(self.0, 2)? & ATTRIBUTE_TYPE;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_exists_and_runs_no_program_here() {
        let index = index("lo").unwrap();
        assert_eq!(attached(index).unwrap(), Attached::Nothing);
    }

    #[test]
    fn unknown_interface_is_named_together_with_the_known_ones() {
        let Err(FilterError::InterfaceNotFound { interface, known }) = index("nosuch0") else {
            panic!("found nosuch0")
        };
        assert_eq!(interface, "nosuch0");
        assert!(known.contains(&"lo".to_owned()));
    }

    #[test]
    fn answers_cut_short_are_errors_or_nothing_but_never_a_panic() {
        let mut answer = vec![0_u8; 32];
        answer.splice(4..6, RTM_NEWLINK.to_ne_bytes());
        let nested = [5, 0, 2, 0, 1, 0, 0, 0, 8, 0, 4, 0, 7, 0, 0, 0];
        answer.extend((nested.len() as u16 + 4).to_ne_bytes());
        answer.extend(IFLA_XDP.to_ne_bytes());
        answer.extend(nested);
        assert_eq!(parse_answer(&answer).unwrap(), Attached::Native(7));
        for length in 0..answer.len() {
            let _ = parse_answer(&answer[..length]);
        }
    }
}
