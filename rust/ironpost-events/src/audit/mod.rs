//! Records of the Linux audit system as `auditd` writes them to `audit.log`.
//!
//! Sources: the audit documentation project's `audit-events` and field dictionary, `auditd.conf(5)` (`log_format`),
//! `ausearch(8)`, and for the end of an event and for which fields are hexadecimal `auparse(3)`.
//!
//! A record is `[node=NAME ]type=TYPE msg=audit(SECONDS.MILLIS:SERIAL): key=value …`; records of one node, time and
//! serial are one event. Text that a process chose stands in double quotes when it has no blank, quote, control or
//! 8-bit character, and else is written as upper-case hexadecimal digits, so it cannot look like a field or a record.

mod join;
mod syscalls;
mod values;

pub use join::{AuditEvent, AuditJoiner};
pub(crate) use syscalls::syscall;
pub(crate) use values::{Socket, is_escaped_field, normalised, socket, unhex};

/// Longest name of a record type and of a node that is believed.
const MAX_NAME: usize = 256;

/// What stands between the record and what auditd knows to add (`log_format = ENRICHED`).
const ENRICHED: u8 = 0x1d;

/// Node, time and serial: what the records of one event have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id<'a> {
    pub(crate) node: &'a [u8],
    /// Milliseconds since the Unix epoch.
    pub(crate) millis: i64,
    pub(crate) serial: u64,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) id: Id<'a>,
    pub(crate) kind: &'a [u8],
    pub(crate) body: &'a [u8],
    /// What auditd added: names of users and system calls.
    pub(crate) enriched: &'a [u8],
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len());
    // 18 digits fit whatever they are.
    if end == 0 || end > 18 {
        return None;
    }
    let value = bytes[..end].iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some((value, &bytes[end..]))
}

/// Reads a line; `None` when it is no record.
pub(crate) fn record(line: &[u8]) -> Option<Record<'_>> {
    let (node, rest) = match line.strip_prefix(b"node=") {
        Some(rest) => {
            let end = memchr::memchr(b' ', &rest[..rest.len().min(MAX_NAME + 1)])?;
            (&rest[..end], &rest[end + 1..])
        }
        None => (&line[..0], line),
    };
    let rest = rest.strip_prefix(b"type=")?;
    let end = memchr::memchr(b' ', &rest[..rest.len().min(MAX_NAME + 1)])?;
    let kind = &rest[..end];
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'[' | b']');
    if kind.is_empty() || !kind.iter().all(is_name) {
        return None;
    }
    let (seconds, rest) = number(rest[end..].strip_prefix(b" msg=audit(")?)?;
    let (millis, rest) = number(rest.strip_prefix(b".")?)?;
    let (serial, rest) = number(rest.strip_prefix(b":")?)?;
    let body = rest.strip_prefix(b"):")?;
    let millis = i64::try_from(seconds).ok()?.checked_mul(1000)?.checked_add(i64::try_from(millis).ok()?)?;
    // Messages of programs may hold any byte between their quotes: what auditd adds follows the last one.
    let message = memchr::memmem::find(body, b"msg='").is_some();
    let split = if message {
        memchr::memmem::rfind(body, &[b'\'', ENRICHED]).map(|at| at + 1)
    } else {
        memchr::memchr(ENRICHED, body)
    };
    let (body, enriched) = split.map_or((body, &body[..0]), |at| (&body[..at], &body[at + 1..]));
    Some(Record { id: Id { node, millis, serial }, kind, body, enriched })
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quote {
    Bare,
    /// `"…"`: text, taken as it is.
    Double,
    /// `'…'`: the fields of a program's message.
    Single,
}

/// A `key=value`; the key is empty for a bare word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) quote: Quote,
}

/// The fields of a body, in order.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        // Messages of PAM before 2.8 of the audit tools put brackets and commas around fields.
        let start = self.0.iter().position(|&byte| !matches!(byte, b' ' | b'(' | b',' | ENRICHED))?;
        let rest = &self.0[start..];
        let end = rest.iter().position(|byte| matches!(byte, b' ' | b'=')).unwrap_or(rest.len());
        if rest.get(end) != Some(&b'=') {
            self.0 = &rest[end..];
            return Some(Field { key: b"", value: &rest[..end], quote: Quote::Bare });
        }
        let (key, value) = (&rest[..end], &rest[end + 1..]);
        let (quote, close) = match value.first() {
            Some(b'"') => (Quote::Double, memchr::memchr(b'"', &value[1..])),
            // The text within may hold quotes of its own.
            Some(b'\'') => (Quote::Single, memchr::memrchr(b'\'', &value[1..])),
            _ => (Quote::Bare, None),
        };
        if let Some(close) = close {
            self.0 = &value[close + 2..];
            return Some(Field { key, value: &value[1..=close], quote });
        }
        let end = memchr::memchr(b' ', value).unwrap_or(value.len());
        self.0 = &value[end..];
        let mut value = &value[..end];
        while let Some((b',', shorter)) = value.split_last() {
            value = shorter;
        }
        if value.ends_with(b")") && !value.contains(&b'(') {
            value = &value[..value.len() - 1];
        }
        Some(Field { key, value, quote: Quote::Bare })
    }
}

/// True for the record that is the last one of its event: the command's title, the mark of the end, and every message
/// of a program, which is an event by itself.
pub(crate) fn ends_event(kind: &[u8]) -> bool {
    /// Kinds with a program's prefix that the kernel sends as a part of an event.
    const PARTS: [&[u8]; 4] = [b"ANOM_PROMISCUOUS", b"ANOM_ABEND", b"ANOM_LINK", b"ANOM_CREAT"];
    const WHOLE: [&[u8]; 17] = [
        b"USER_",
        b"CRED_",
        b"SERVICE_",
        b"SYSTEM_",
        b"DAEMON_",
        b"ADD_",
        b"DEL_",
        b"ACCT_",
        b"GRP_",
        b"CHGRP_",
        b"CHUSER_",
        b"ROLE_",
        b"CRYPTO_",
        b"VIRT_",
        b"RESP_",
        b"ANOM_",
        b"USYS_",
    ];
    match kind {
        b"PROCTITLE" | b"EOE" | b"SOFTWARE_UPDATE" | b"TRUSTED_APP" | b"TEST" | b"KERNEL" => true,
        _ => WHOLE.iter().any(|prefix| kind.starts_with(prefix)) && !PARTS.contains(&kind),
    }
}

/// True when records of a joined event are missing: the system call names more paths or arguments than are there, or is
/// missing itself.
pub(crate) fn lacks_records(text: &[u8]) -> bool {
    let (mut call, mut parts, mut items, mut paths) = (false, false, 0, 0);
    let (mut announced, mut arguments) = (None, 0);
    let whole = |value: &[u8]| number(value).map_or(0, |(number, _)| number);
    for record in text.split(|byte| *byte == b'\n').filter_map(record) {
        match record.kind {
            b"SYSCALL" | b"URINGOP" => {
                call = true;
                items = Fields(record.body)
                    .find(|field| field.key == b"items")
                    .map_or(0, |field| whole(field.value));
            }
            b"PATH" => paths += 1,
            b"EXECVE" => {
                parts = true;
                for field in Fields(record.body) {
                    if field.key == b"argc" {
                        announced = Some(whole(field.value));
                    } else if let Some((index, 0)) = values::argument(field.key) {
                        arguments = arguments.max(u64::from(index) + 1);
                    }
                }
            }
            b"CWD" | b"PROCTITLE" | b"SOCKADDR" => parts = true,
            _ => {}
        }
    }
    (!call && (parts || paths > 0)) || paths < items || announced.is_some_and(|count| arguments < count)
}

pub(crate) use values::argument;

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: &str) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Fields(body.as_bytes()).map(|field| (text(field.key), text(field.value))).collect()
    }

    #[test]
    fn a_record_has_node_kind_time_serial_and_what_auditd_added() {
        let found =
            record(b"node=web type=SYSCALL msg=audit(1364481363.243:24287): a=1 b=\"x\"\x1dUID=\"root\"")
                .unwrap();
        assert_eq!(found.id, Id { node: b"web", millis: 1_364_481_363_243, serial: 24287 });
        assert_eq!((found.kind, found.body), (&b"SYSCALL"[..], &b" a=1 b=\"x\""[..]));
        assert_eq!(found.enriched, b"UID=\"root\"");
        for line in [
            "",
            "type=",
            "type=X",
            "type=X msg=audit(1.2:3)",
            "type=X msg=audit(.2:3):",
            "type=x y msg=audit(1.2:3):",
            "node=",
            "type=\u{e9} msg=audit(1.2:3):",
            " type=X msg=audit(1.2:3):",
            "type=X msg=audit(99999999999999999999.2:3):",
        ] {
            assert_eq!(record(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn values_end_where_their_quote_ends() {
        assert_eq!(
            fields("avc:  denied  { read } for comm=\"a b\" x= name=(null) msg='op=x acct=\"it's\" res=1'"),
            [
                ("", "avc:"),
                ("", "denied"),
                ("", "{"),
                ("", "read"),
                ("", "}"),
                ("", "for"),
                ("comm", "a b"),
                ("x", ""),
                ("name", "(null)"),
                ("msg", "op=x acct=\"it's\" res=1"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
        assert_eq!(
            fields("PAM: auth (hostname=192.0.2.1, addr=192.0.2.1, res=failed)")[2..],
            [("hostname", "192.0.2.1"), ("addr", "192.0.2.1"), ("res", "failed")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn a_separator_within_a_program_s_message_adds_nothing() {
        let line =
            b"type=USER_CMD msg=audit(1.002:3): uid=0 msg='op=a\x1dAUID=\"root\" res=1'\x1dUID=\"bob\"";
        assert_eq!(record(line).unwrap().enriched, b"UID=\"bob\"");
        let line = b"type=USER_CMD msg=audit(1.002:3): uid=0 msg='op=a\x1dAUID=\"root\" res=1'";
        assert_eq!(record(line).unwrap().enriched, b"");
    }

    #[test]
    fn what_is_missing_is_seen() {
        let event = |lines: &[&str]| {
            let lines: Vec<String> = lines
                .iter()
                .map(|line| line.split_once(' ').unwrap())
                .map(|(kind, body)| format!("type={kind} msg=audit(1.000:1): {body}"))
                .collect();
            lacks_records(lines.join("\n").as_bytes())
        };
        assert!(!event(&["SYSCALL items=1", "PATH item=0"]));
        assert!(event(&["SYSCALL items=2", "PATH item=0"]));
        assert!(event(&["SYSCALL items=0", "EXECVE argc=2 a0=\"x\""]));
        assert!(!event(&["SYSCALL items=0", "EXECVE argc=2 a0=\"x\" a1_len=4 a1[0]=61", "EXECVE a1[1]=62"]));
        assert!(event(&["CWD cwd=\"/\""]));
        assert!(!event(&["AVC avc: denied"]));
    }
}
