//! Sends the lines of a file as UDP datagrams at a given rate, many with one system call.
//!
//! `udp_load ADDRESS FILE COUNT RATE`: prints how many were sent and in how many seconds.

#![allow(clippy::print_stdout, reason = "a program for the benches")]

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};
use std::error::Error;
use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const AT_ONCE: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, file, count, rate] = arguments.as_slice() else {
        return Err("usage: udp_load ADDRESS FILE COUNT RATE".into());
    };
    let (count, rate): (usize, f64) = (count.parse()?, rate.parse()?);
    let text = std::fs::read(file)?;
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(address)?;
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(AT_ONCE, None);
    let begin = Instant::now();
    let mut sent = 0;
    while sent < count {
        let due = Duration::from_secs_f64(sent as f64 / rate);
        let ahead = due.saturating_sub(begin.elapsed());
        if ahead > Duration::from_micros(500) {
            std::thread::sleep(ahead);
        }
        let slices: Vec<[IoSlice<'_>; 1]> = (0..AT_ONCE.min(count - sent))
            .map(|at| [IoSlice::new(lines[(sent + at) % lines.len()])])
            .collect();
        let none: Vec<Option<SockaddrIn>> = vec![None; slices.len()];
        sent += sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &none, [], MsgFlags::empty())?.count();
    }
    println!("{sent} {}", begin.elapsed().as_secs_f64());
    Ok(())
}
