//! Who sent a record: addresses of network senders, processes of this host by the kernel's word.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail tests")]

mod support;

use ironpost_engine::Engine;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::unistd::geteuid;
use serde_json::{Value, json};
use std::fs;
use std::io::{IoSlice, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{DEADLINE, Directory, Store, assert_balanced, counters};

/// `nobody`: an account of people's numbers, with no rights.
const STRANGER: u32 = 65_534;

/// `daemon`: a service's account on every Linux.
const SERVICE: u32 = 1;

fn until(engine: &Engine, what: &str, done: impl Fn(&Value) -> bool) {
    let begin = Instant::now();
    while !done(&counters(engine)) {
        assert!(begin.elapsed() < DEADLINE, "{what}: {}", counters(engine));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs the real `logger` as another user and returns its process id.
fn logger(path: &Path, uid: u32, tag: &str, message: &str) -> u32 {
    let mut command = Command::new("logger");
    command.arg("-u").arg(path).args(["-p", "auth.info", "-t", tag, message]);
    if geteuid().is_root() {
        command.uid(uid).gid(uid);
    }
    let mut child = command.spawn().unwrap();
    assert!(child.wait().unwrap().success());
    child.id()
}

#[test]
fn the_kernel_says_who_wrote_to_the_socket_and_strangers_are_not_believed() {
    let directory = Directory::new("devlog");
    let path = directory.join("log");
    let mut store = Store::default();
    let engine = store.start(&json!({"unix": [{"path": path}]}));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    // Who runs this without being root can only be himself, and nobody else believes him.
    let is_root = geteuid().is_root();
    let own = |uid: u32| if is_root { uid } else { geteuid().as_raw() };
    let expect = |trust: &'static str| if is_root { trust } else { "unauthenticated" };
    let cases = [
        (0, "sshd", expect("host")),
        (STRANGER, "sshd", "unauthenticated"),
        (STRANGER, "nobody", "unauthenticated"),
        (SERVICE, "daemon", expect("host")),
        (SERVICE, "sshd", "unauthenticated"),
        (SERVICE, "sshd: daemon", "unauthenticated"),
    ];
    for (number, (uid, tag, trust)) in cases.into_iter().enumerate() {
        let pid = logger(&path, uid, tag, &format!("MARK {number}."));
        store.until(&engine, tag, |store| store.of("mark").len() == number + 1);
        let found = store.of("mark").into_iter().cloned().collect::<Vec<_>>();
        let mark = format!("MARK {number}.");
        let detection =
            found.iter().find(|one| one["fields"]["message"].as_str().unwrap().contains(&mark)).unwrap();
        assert_eq!(detection["trust"], trust, "{uid} {tag}: {detection}");
        assert_eq!(detection["fields"]["process.user.id"], own(uid).to_string(), "{detection}");
        assert_eq!(detection["fields"]["process.pid"], pid.to_string(), "{detection}");
    }
    store.finish(&engine);
    assert_balanced(&engine);
    assert!(!path.exists(), "the socket goes with its daemon");
}

#[test]
fn a_local_users_forged_logins_are_an_alert_that_nothing_vouches_for() {
    let directory = Directory::new("forged");
    let path = directory.join("log");
    let mut store = Store::default();
    let engine = store.start(&json!({"unix": [{"path": path, "facts": {"ironpost.trust": "host"}}]}));
    let forged = "Failed password for root from 203.0.113.9 port 4242 ssh2";
    for _ in 0..5 {
        logger(&path, STRANGER, "sshd[1]", forged);
    }
    store.until(&engine, "the forged attack", |store| store.of("brute").len() == 1);
    assert_eq!(store.of("brute")[0]["trust"], "unauthenticated");
    for _ in 0..5 {
        logger(&path, 0, "sshd[1]", &forged.replace("203.0.113.9", "203.0.113.10"));
    }
    store.until(&engine, "the real attack", |store| store.of("brute").len() == 2);
    let trusted = store.of("brute").iter().any(|one| one["trust"] == "host");
    assert_eq!(trusted, geteuid().is_root(), "without root nobody here can write as the host");
}

#[test]
fn descriptors_sent_along_do_not_stay_open_and_a_long_message_is_cut() {
    let directory = Directory::new("rights");
    let path = directory.join("log");
    let mut store = Store::default();
    let engine = store.start(&json!({"unix": [{"path": path}]}));
    let id = format!("unix:{}", path.display());
    let sender = UnixDatagram::unbound().unwrap();
    let target = UnixAddr::new(&path).unwrap();
    let gift = fs::File::open("/dev/zero").unwrap();
    let zeroes = || {
        let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
        open.filter(|entry| fs::read_link(entry.path()).is_ok_and(|link| link == Path::new("/dev/zero")))
            .count()
    };
    let before = zeroes();
    for _ in 0..10 {
        let descriptors = [gift.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&descriptors)];
        let message = [IoSlice::new(b"<38>app: MARK with a gift")];
        sendmsg(sender.as_raw_fd(), &message, &control, MsgFlags::empty(), Some(&target)).unwrap();
    }
    sender.send_to(format!("<38>app: MARK {}", "x".repeat(100_000)).as_bytes(), &path).unwrap();
    store.until(&engine, "all of them", |store| store.of("mark").len() == 11);
    assert_eq!(zeroes(), before);
    assert_eq!(counters(&engine)["sources"][&id]["truncated"], 1);
    assert!(store.of("mark").iter().any(|one| one["fields"]["log.flags"] == "truncated"));
    store.finish(&engine);
    assert_balanced(&engine);
}

#[test]
fn only_a_stale_socket_of_our_own_is_replaced() {
    let directory = Directory::new("stale");
    let path = directory.join("log");
    let settings = json!({"unix": [{"path": path, "mode": 0o600}], "udp": [{"bind": "127.0.0.1:0"}]});
    let problem = || Store::default().start(&settings).problems().into_iter().next();
    fs::write(&path, "a file").unwrap();
    assert!(problem().unwrap().reason.contains("something else"));
    assert_eq!(fs::read(&path).unwrap(), b"a file");
    fs::remove_file(&path).unwrap();
    let living = UnixDatagram::bind(&path).unwrap();
    assert!(problem().unwrap().reason.contains("a program listens there"));
    drop(living);
    // Another test that starts a program holds a copy of the descriptor between fork and exec.
    let begin = std::time::Instant::now();
    while problem().is_some() && begin.elapsed() < std::time::Duration::from_secs(5) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let engine = Store::default().start(&settings);
    assert!(engine.problems().is_empty(), "{:?}", engine.problems());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // What somebody else puts into its place meanwhile is not ours to remove.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "a file").unwrap();
    engine.stop();
    drop(engine);
    assert_eq!(fs::read(&path).unwrap(), b"a file");
}

#[test]
fn events_carry_the_address_of_their_sender_and_each_sender_is_counted() {
    let mut store = Store::default();
    let engine = store.start(&json!({"udp": [{"bind": "127.0.0.1:0"}], "tcp": [{"bind": "127.0.0.1:0"}]}));
    let (udp_id, tcp_id) = ("udp:127.0.0.1:0", "tcp:127.0.0.1:0");
    let mut expected = Vec::new();
    for host in ["127.0.0.2:0", "127.0.0.3:0"] {
        let udp = UdpSocket::bind(host).unwrap();
        for number in 0..50 {
            udp.send_to(format!("<13>MARK {number}").as_bytes(), &engine.addresses()[udp_id]).unwrap();
            expected.push(udp.local_addr().unwrap().to_string());
        }
    }
    let mut streams: Vec<_> =
        (0..3).map(|_| TcpStream::connect(&engine.addresses()[tcp_id]).unwrap()).collect();
    // Small pieces share a chunk, large ones do not.
    for number in 0..40 {
        for tcp in &mut streams {
            let filler = "x".repeat(if number == 20 { 100_000 } else { 10 });
            writeln!(tcp, "<13>MARK {number} {filler}").unwrap();
            expected.push(tcp.local_addr().unwrap().to_string());
        }
    }
    // A name in the text is a claim, not an address.
    let claim = br#"{"message":"MARK","log.source.address":"198.51.100.1:1","log":{"source":{"address":"198.51.100.2"}}}"#;
    streams[0].write_all(&[claim.as_slice(), b"\n"].concat()).unwrap();
    expected.push(streams[0].local_addr().unwrap().to_string());
    store.until(&engine, "all", |store| store.of("mark").len() == expected.len());
    let mut found: Vec<String> = store
        .of("mark")
        .iter()
        .map(|one| one["fields"]["log.source.address"].as_str().unwrap().to_owned())
        .collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let all = counters(&engine);
    assert_eq!(all["sources"][udp_id]["peers"]["127.0.0.2"]["messages"], 50);
    assert_eq!(all["sources"][udp_id]["peers"]["127.0.0.3"]["messages"], 50);
    assert_eq!(all["sources"][udp_id]["peers"]["127.0.0.3"]["bytes"], 10 * 10 + 40 * 11);
    let tcp = &all["sources"][tcp_id]["peers"]["127.0.0.1"];
    assert_eq!((&tcp["messages"], &tcp["connections"]), (&json!(121), &json!(3)));
    assert_eq!(tcp["bytes"], all["sources"][tcp_id]["bytes"]);
}

#[test]
fn one_peer_cannot_take_every_connection() {
    let mut store = Store::default();
    let engine = store.start(
        &json!({"tcp": [{"bind": "127.0.0.1:0", "max_connections": 8, "max_connections_per_peer": 3}]}),
    );
    let id = "tcp:127.0.0.1:0";
    let address = engine.addresses()[id].clone();
    let mut greedy: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(&address).unwrap()).collect();
    until(&engine, "17 refused", |all| all["sources"][id]["connections_refused_peer"] == 17);
    for tcp in &mut greedy[3..] {
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(tcp.read(&mut [0]).unwrap_or(0), 0, "closed");
    }
    // Another address of this host still gets in.
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::empty(),
        None,
    )
    .unwrap();
    let from: nix::sys::socket::SockaddrIn = "127.0.0.2:0".parse::<std::net::SocketAddrV4>().unwrap().into();
    let to: nix::sys::socket::SockaddrIn = address.parse::<std::net::SocketAddrV4>().unwrap().into();
    nix::sys::socket::bind(socket.as_raw_fd(), &from).unwrap();
    nix::sys::socket::connect(socket.as_raw_fd(), &to).unwrap();
    TcpStream::from(socket).write_all(b"<13>MARK from the other\n").unwrap();
    store.until(&engine, "the other's message", |store| store.of("mark").len() == 1);
    let peers = &counters(&engine)["sources"][id]["peers"];
    assert_eq!(peers["127.0.0.1"]["connections_refused"], 17);
    assert_eq!(peers["127.0.0.2"]["messages"], 1);
}
