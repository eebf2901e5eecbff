//! An event of the Linux audit system as a row: its records' own fields, and what they mean in ECS.

use super::{Parser, Row, TEXT_CELL, within};
use crate::audit::{
    Field, Fields, Quote, Record, Socket, argument, is_escaped_field, normalised, record, socket, syscall,
    unhex,
};
use crate::batch::{BatchError, Cell, Span, ValueKind};
use crate::fields::ecs;

/// Arguments that have a name of their own (`a0` …); `process.args` has them all.
const MAX_NAMED_ARGUMENTS: u32 = 64;

/// `O_WRONLY | O_RDWR`: opened to be written.
const WRITING: u64 = 3;

/// An id that is not set, as the kernel writes it.
const UNSET: [&[u8]; 3] = [b"4294967295", b"-1", b"unset"];

/// What the records say together.
#[derive(Default)]
struct Seen<'a> {
    arch: &'a [u8],
    call: &'a [u8],
    name: Option<Span>,
    registers: [&'a [u8]; 4],
    success: Option<bool>,
    has_call: bool,
    /// Index, piece, text of the command's arguments.
    arguments: Vec<(u32, u32, Span)>,
    cwd: Option<Span>,
    /// Name and kind of use of the paths.
    paths: Vec<(Option<Span>, &'a [u8])>,
    sockets: Vec<Socket>,
    /// The account and the id a program's message is about.
    account: Option<Span>,
    subject: Option<Span>,
    /// The first record is a program's message.
    message: bool,
    command: Option<Span>,
}

struct Text<'a> {
    bytes: &'a [u8],
    base: u32,
}

impl Parser {
    /// Reads the records of one event, a line each; false when they are none, or not of one event.
    pub(super) fn audit(&self, text: &[u8], base: u32, row: &mut Row<'_>) -> Result<bool, BatchError> {
        let mut records = Vec::new();
        for line in text.split(|byte| *byte == b'\n') {
            let Some(found) = record(line) else { return Ok(false) };
            records.push(found);
        }
        let Some(first) = records.first().copied() else { return Ok(false) };
        if records.iter().any(|record| record.id != first.id) {
            return Ok(false);
        }
        let text = Text { bytes: text, base };
        row.format = "auditd";
        row.timestamp = first.id.millis.checked_mul(1_000_000);
        row.push(ecs::MESSAGE, ValueKind::Text, Span { start: base, len: text.bytes.len() as u32 });
        self.constant("event.module", b"auditd", row)?;
        if !first.id.node.is_empty() {
            row.push(ecs::HOST_HOSTNAME, ValueKind::Text, text.span(first.id.node));
        }
        let mut seen =
            Seen { message: first.body.windows(5).any(|bytes| bytes == b"msg='"), ..Seen::default() };
        let mut kinds: Vec<&[u8]> = Vec::new();
        for record in &records {
            if !kinds.contains(&record.kind) {
                kinds.push(record.kind);
                let kind = text.span(record.kind);
                self.push_named(b"type", ValueKind::Text, kind, row)?;
                self.push_named(b"auditd.type", ValueKind::Text, kind, row)?;
            }
            self.audit_record(*record, &text, &mut seen, row)?;
        }
        self.audit_meaning(first.kind, seen, row)?;
        Ok(true)
    }

    fn constant(&self, name: &str, value: &[u8], row: &mut Row<'_>) -> Result<(), BatchError> {
        let value = row.batch.append(value)?;
        self.push_named(name.as_bytes(), ValueKind::Text, value, row)
    }

    fn audit_record<'a>(
        &self,
        record: Record<'a>,
        text: &Text<'a>,
        seen: &mut Seen<'a>,
        row: &mut Row<'_>,
    ) -> Result<(), BatchError> {
        match record.kind {
            b"SYSCALL" => seen.has_call = true,
            b"PATH" => seen.paths.push((None, b"")),
            b"AVC" | b"USER_AVC" => self.access_vector(record.body, text, row)?,
            _ => {}
        }
        for field in Fields(record.body) {
            if field.quote == Quote::Single {
                for inner in Fields(field.value) {
                    self.audit_field(record.kind, inner, text, seen, row)?;
                }
            } else {
                self.audit_field(record.kind, field, text, seen, row)?;
            }
        }
        for field in Fields(record.enriched) {
            if field.key.is_empty() || UNSET.contains(&field.value) {
                continue;
            }
            let span = text.span(field.value);
            self.push_named(field.key, ValueKind::Text, span, row)?;
            match field.key {
                b"SYSCALL" => seen.name = Some(span),
                b"AUID" => self.push_named(b"user.audit.name", ValueKind::Text, span, row)?,
                b"UID" if !seen.message => row.push(ecs::USER_NAME, ValueKind::Text, span),
                b"EUID" => row.push(ecs::USER_EFFECTIVE_NAME, ValueKind::Text, span),
                b"ID" => seen.subject = Some(span),
                _ => {}
            }
        }
        Ok(())
    }

    /// `avc:  denied  { read write } for …`.
    fn access_vector<'a>(
        &self,
        body: &'a [u8],
        text: &Text<'a>,
        row: &mut Row<'_>,
    ) -> Result<(), BatchError> {
        let mut inside = false;
        for word in body.split(|byte| *byte == b' ').take_while(|word| !word.contains(&b'=')) {
            match word {
                b"granted" | b"denied" => {
                    self.push_named(b"seresult", ValueKind::Text, text.span(word), row)?
                }
                b"{" => inside = true,
                b"}" => inside = false,
                word if inside && !word.is_empty() => {
                    self.push_named(b"seperms", ValueKind::Text, text.span(word), row)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn audit_field<'a>(
        &self,
        kind: &[u8],
        field: Field<'a>,
        text: &Text<'a>,
        seen: &mut Seen<'a>,
        row: &mut Row<'_>,
    ) -> Result<(), BatchError> {
        let Field { key, value, quote } = field;
        let bare = quote == Quote::Bare;
        if key.is_empty() || (bare && matches!(value, b"" | b"?" | b"(null)" | b"(none)")) {
            return Ok(());
        }
        if kind == b"EXECVE" {
            if let Some((index, piece)) = argument(key) {
                let decoded = if bare { unhex(value) } else { None };
                seen.arguments.push((index, piece, text.keep(value, decoded, row)?));
                return Ok(());
            }
            if key != b"argc" {
                return Ok(()); // the lengths of arguments in pieces
            }
        }
        if kind == b"SYSCALL" {
            if let Some((index @ 0..4, 0)) = argument(key) {
                seen.registers[index as usize] = value;
                return Ok(());
            }
            match key {
                b"arch" => seen.arch = value,
                b"syscall" => seen.call = value,
                _ => {}
            }
        }
        let escaped = is_escaped_field(key);
        let decoded = if bare && escaped { unhex(value) } else { None };
        if key == b"key"
            && let Some(keys) = &decoded
        {
            // Several keys of one rule are joined by this byte.
            for one in keys.split(|byte| *byte == 1).filter(|one| !one.is_empty()) {
                self.constant("key", one, row)?;
            }
            return Ok(());
        }
        let decoded = decoded.map(|mut bytes| {
            if key == b"proctitle" {
                while bytes.last() == Some(&0) {
                    bytes.pop();
                }
                bytes.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
            }
            bytes
        });
        let span = text.keep(value, decoded, row)?;
        let is_number = bare && !escaped && is_integer(value);
        let kind_of = if is_number { ValueKind::Integer } else { ValueKind::Text };
        if kind == b"PATH" && key == b"name" {
            // Named when the directory it is relative to is known.
            if let Some(path) = seen.paths.last_mut() {
                path.0 = Some(span);
            }
            return Ok(());
        }
        self.push_named(key, kind_of, span, row)?;
        match key {
            b"nametype" => {
                if let Some(path) = seen.paths.last_mut() {
                    path.1 = value;
                }
            }
            b"success" => seen.success = Some(value == b"yes"),
            b"res" | b"result" if seen.success.is_none() => {
                seen.success = match value {
                    b"success" | b"1" | b"yes" => Some(true),
                    b"failed" | b"0" | b"no" => Some(false),
                    _ => None,
                };
            }
            b"saddr" => seen.sockets.extend(socket(value)),
            b"acct" => seen.account = Some(span),
            b"cmd" => seen.command = Some(span),
            b"cwd" => {
                seen.cwd = Some(span);
                row.push(ecs::PROCESS_WORKING_DIRECTORY, ValueKind::Text, span);
            }
            b"exe" => self.push_named(b"process.executable", ValueKind::Text, span, row)?,
            b"comm" => row.push(ecs::PROCESS_NAME, ValueKind::Text, span),
            b"proctitle" => self.push_named(b"process.title", ValueKind::Text, span, row)?,
            b"pid" if is_number => row.push(ecs::PROCESS_PID, ValueKind::Integer, span),
            b"ppid" if is_number => self.push_named(b"process.parent.pid", ValueKind::Integer, span, row)?,
            b"uid" => self.push_named(b"user.id", ValueKind::Text, span, row)?,
            b"euid" => self.push_named(b"user.effective.id", ValueKind::Text, span, row)?,
            b"auid" if !UNSET.contains(&value) => {
                self.push_named(b"user.audit.id", ValueKind::Text, span, row)?;
            }
            b"addr" => {
                row.push(ecs::SOURCE_ADDRESS, ValueKind::Text, span);
                row.push_address(Cell { field: ecs::SOURCE_IP, ..TEXT_CELL }, span)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// What only all records together tell.
    fn audit_meaning(&self, first: &[u8], mut seen: Seen<'_>, row: &mut Row<'_>) -> Result<(), BatchError> {
        if seen.has_call
            && seen.name.is_none()
            && let Some(name) = syscall(seen.arch, seen.call)
        {
            let span = row.batch.append(name.as_bytes())?;
            self.push_named(b"SYSCALL", ValueKind::Text, span, row)?;
            seen.name = Some(span);
        }
        let call = seen.name.map(|span| row.batch.slice(span).to_vec()).unwrap_or_default();
        self.audit_arguments(&mut seen, row)?;
        let mut created = false;
        for (name, nametype) in std::mem::take(&mut seen.paths) {
            created |= nametype == b"CREATE";
            let Some(name) = name else { continue };
            self.push_named(b"name", ValueKind::Text, name, row)?;
            let directory = seen.cwd.map_or(&b""[..], |span| row.batch.slice(span));
            let path = normalised(directory, row.batch.slice(name));
            let path = match path {
                Some(path) if path != row.batch.slice(name) => {
                    let span = row.batch.append(&path)?;
                    self.push_named(b"name", ValueKind::Text, span, row)?;
                    span
                }
                _ => name,
            };
            if nametype != b"PARENT" {
                self.push_named(b"file.path", ValueKind::Text, path, row)?;
            }
        }
        for peer in &seen.sockets {
            self.audit_socket(peer, &call, row)?;
        }
        if seen.message {
            if let Some(account) = seen.account.or(seen.subject) {
                row.push(ecs::USER_NAME, ValueKind::Text, account);
            }
            if let Some(command) = seen.command {
                row.push(ecs::PROCESS_COMMAND_LINE, ValueKind::Text, command);
            }
        }
        let (action, category) = action(&call, &seen, created);
        let action = match action {
            "" if call.is_empty() => first.to_ascii_lowercase(),
            "" => call,
            action => action.as_bytes().to_vec(),
        };
        let action = row.batch.append(&action)?;
        row.push(ecs::EVENT_ACTION, ValueKind::Text, action);
        let category = match first {
            b"USER_LOGIN" | b"USER_AUTH" | b"USER_START" | b"USER_END" | b"USER_LOGOUT" | b"USER_ERR"
            | b"LOGIN" => "authentication",
            _ => category,
        };
        if !category.is_empty() {
            let category = row.batch.append(category.as_bytes())?;
            row.push(ecs::EVENT_CATEGORY, ValueKind::Text, category);
        }
        if let Some(success) = seen.success {
            let outcome = row.batch.append(if success { b"success" } else { b"failure" })?;
            row.push(ecs::EVENT_OUTCOME, ValueKind::Text, outcome);
        }
        Ok(())
    }

    /// The command's arguments; of a system call that starts none, its registers.
    fn audit_arguments(&self, seen: &mut Seen<'_>, row: &mut Row<'_>) -> Result<(), BatchError> {
        if seen.arguments.is_empty() {
            for (index, register) in
                seen.registers.iter().enumerate().filter(|(_, register)| !register.is_empty())
            {
                self.constant(&format!("a{index}"), register, row)?;
            }
            return Ok(());
        }
        seen.arguments.sort_by_key(|(index, piece, _)| (*index, *piece));
        let mut line = Vec::new();
        for (number, pieces) in seen.arguments.chunk_by(|one, next| one.0 == next.0).enumerate() {
            let (index, _, mut whole) = pieces[0];
            if pieces.len() > 1 {
                let joined: Vec<u8> =
                    pieces.iter().flat_map(|(_, _, piece)| row.batch.slice(*piece).iter().copied()).collect();
                whole = row.batch.append(&joined)?;
            }
            if number > 0 {
                line.push(b' ');
            }
            line.extend_from_slice(row.batch.slice(whole));
            if index < MAX_NAMED_ARGUMENTS {
                self.push_named(format!("a{index}").as_bytes(), ValueKind::Text, whole, row)?;
            }
            self.push_named(b"process.args", ValueKind::Text, whole, row)?;
        }
        let line = row.batch.append(&line)?;
        row.push(ecs::PROCESS_COMMAND_LINE, ValueKind::Text, line);
        Ok(())
    }

    fn audit_socket(&self, peer: &Socket, call: &[u8], row: &mut Row<'_>) -> Result<(), BatchError> {
        match peer {
            Socket::Unix(path) => {
                self.constant("auditd.socket.family", b"unix", row)?;
                self.constant("auditd.socket.path", path, row)
            }
            Socket::Inet { address, port, family } => {
                self.constant("auditd.socket.family", family.as_bytes(), row)?;
                let address = row.batch.append(address.as_bytes())?;
                let port = row.batch.append(port.to_string().as_bytes())?;
                self.push_named(b"auditd.socket.addr", ValueKind::Text, address, row)?;
                self.push_named(b"auditd.socket.port", ValueKind::Integer, port, row)?;
                let (ip, number) = match call {
                    b"connect" | b"sendto" | b"sendmsg" | b"sendmmsg" => {
                        (ecs::DESTINATION_IP, ecs::DESTINATION_PORT)
                    }
                    b"accept" | b"accept4" | b"recvfrom" | b"recvmsg" => (ecs::SOURCE_IP, ecs::SOURCE_PORT),
                    _ => return Ok(()),
                };
                row.push(ip, ValueKind::Text, address);
                row.push(number, ValueKind::Integer, port);
                Ok(())
            }
        }
    }
}

impl<'a> Text<'a> {
    fn span(&self, part: &[u8]) -> Span {
        within(self.bytes, part, self.base)
    }

    /// Where a value stands: in the text, or decoded at the batch's end.
    fn keep(&self, value: &'a [u8], decoded: Option<Vec<u8>>, row: &mut Row<'_>) -> Result<Span, BatchError> {
        decoded.map_or_else(|| Ok(self.span(value)), |decoded| row.batch.append(&decoded))
    }
}

fn is_integer(value: &[u8]) -> bool {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    (1..=18).contains(&digits.len())
        && digits.iter().all(u8::is_ascii_digit)
        && (digits[0] != b'0' || digits.len() == 1)
}

/// Action and category of a system call, in the words of the reference; an empty action stands for the call's own name.
fn action(call: &[u8], seen: &Seen<'_>, created: bool) -> (&'static str, &'static str) {
    let succeeded = seen.success != Some(false);
    let register = |index: usize| {
        let text = std::str::from_utf8(seen.registers[index]).unwrap_or_default();
        u64::from_str_radix(text, 16).unwrap_or(0)
    };
    let opened = |flags: u64| match (created, flags & WRITING) {
        (true, _) => "created-file",
        (false, 0) => "opened-file",
        (false, _) => "wrote-to-file",
    };
    match call {
        // A shell tries every directory of its path: only what ran is an execution.
        b"execve" | b"execveat" if succeeded => ("executed", "process"),
        b"execve" | b"execveat" => ("", "process"),
        b"open" => (opened(register(1)), "file"),
        b"openat" => (opened(register(2)), "file"),
        // Its flags stand in memory.
        b"openat2" => (opened(0), "file"),
        b"creat" => (opened(WRITING), "file"),
        b"mknod" | b"mknodat" if created => ("created-file", "file"),
        b"mkdir" | b"mkdirat" => ("created-directory", "file"),
        b"truncate" | b"ftruncate" | b"truncate64" | b"ftruncate64" => ("wrote-to-file", "file"),
        b"rename" | b"renameat" | b"renameat2" => ("renamed", "file"),
        b"link" | b"linkat" => ("linked", "file"),
        b"symlink" | b"symlinkat" => ("symlinked", "file"),
        b"unlink" | b"unlinkat" | b"rmdir" => ("deleted", "file"),
        b"connect" => ("connected-to", "network"),
        b"accept" | b"accept4" => ("accepted-connection-from", "network"),
        b"bind" => ("bound-socket", "network"),
        _ => ("", ""),
    }
}
