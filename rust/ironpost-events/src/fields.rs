//! Field names interned to small integers.

use rustc_hash::FxHashMap;
use std::sync::Arc;

/// A field name's index in a [`FieldTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldId(pub u16);

impl FieldId {
    /// The id of a field whose name is kept in the cell because no rule and no extractor knows it.
    pub const UNREGISTERED: Self = Self(u16::MAX);
}

macro_rules! static_fields {
    ($($constant:ident = $name:literal),+ $(,)?) => {
        #[expect(non_camel_case_types, clippy::upper_case_acronyms, reason = "only numbers the constants below")]
        #[repr(u16)]
        enum Number { $($constant),+ }

        /// Ids of the names that every [`FieldTable`] begins with.
        pub mod ecs {
            use super::{FieldId, Number};
            $(
                #[doc = concat!("`", $name, "`")]
                pub const $constant: FieldId = FieldId(Number::$constant as u16);
            )+
        }

        /// The names that every [`FieldTable`] begins with, in id order.
        pub const STATIC_FIELDS: &[&str] = &[$($name),+];
    };
}

static_fields! {
    TIMESTAMP = "@timestamp",
    MESSAGE = "message",
    EVENT_ORIGINAL = "event.original",
    EVENT_KIND = "event.kind",
    EVENT_CATEGORY = "event.category",
    EVENT_TYPE = "event.type",
    EVENT_ACTION = "event.action",
    EVENT_OUTCOME = "event.outcome",
    EVENT_METHOD = "event.method",
    EVENT_REASON = "event.reason",
    ERROR_MESSAGE = "error.message",
    LOG_LEVEL = "log.level",
    LOG_FILE_PATH = "log.file.path",
    LOG_IOSTREAM = "log.iostream",
    LOG_SYSLOG_PRIORITY = "log.syslog.priority",
    LOG_SYSLOG_FACILITY = "log.syslog.facility.code",
    LOG_SYSLOG_SEVERITY = "log.syslog.severity.code",
    LOG_SYSLOG_VERSION = "log.syslog.version",
    LOG_SYSLOG_HOSTNAME = "log.syslog.hostname",
    LOG_SYSLOG_APPNAME = "log.syslog.appname",
    LOG_SYSLOG_PROCID = "log.syslog.procid",
    LOG_SYSLOG_MSGID = "log.syslog.msgid",
    LOG_SYSLOG_STRUCTURED_DATA = "log.syslog.structured_data",
    HOST_HOSTNAME = "host.hostname",
    PROCESS_NAME = "process.name",
    PROCESS_PID = "process.pid",
    PROCESS_COMMAND_LINE = "process.command_line",
    PROCESS_WORKING_DIRECTORY = "process.working_directory",
    USER_NAME = "user.name",
    USER_EFFECTIVE_NAME = "user.effective.name",
    SOURCE_IP = "source.ip",
    SOURCE_PORT = "source.port",
    SOURCE_ADDRESS = "source.address",
    DESTINATION_IP = "destination.ip",
    DESTINATION_PORT = "destination.port",
    NETWORK_TRANSPORT = "network.transport",
    NETWORK_BYTES = "network.bytes",
    TCP_FLAGS = "tcp.flags",
    CONTAINER_ID = "container.id",
    CONTAINER_NAME = "container.name",
    URL_ORIGINAL = "url.original",
    URL_PATH = "url.path",
    URL_QUERY = "url.query",
    URL_DOMAIN = "url.domain",
    HTTP_REQUEST_METHOD = "http.request.method",
    HTTP_REQUEST_REFERRER = "http.request.referrer",
    HTTP_RESPONSE_STATUS_CODE = "http.response.status_code",
    HTTP_RESPONSE_BODY_BYTES = "http.response.body.bytes",
    HTTP_VERSION = "http.version",
    USER_AGENT_ORIGINAL = "user_agent.original",
    IRONPOST_TRUST = "ironpost.trust",
    IRONPOST_VERDICT = "ironpost.verdict",
    IRONPOST_TRUNCATED = "ironpost.truncated",
    IRONPOST_URL_DECODED = "ironpost.url.decoded",
}

/// An immutable list of known field names (ECS dotted names and the names rules use).
///
/// Begins with [`STATIC_FIELDS`], whose ids are the constants of [`ecs`], and the keys that the parser of JSON knows. Built once when rules and
/// extractors are compiled; batches and rule sets that share the same `Arc` agree about ids. At most
/// 65,534 names; later ones stay unregistered.
#[derive(Debug)]
pub struct FieldTable {
    names: Vec<Box<str>>,
    ids: FxHashMap<Box<[u8]>, FieldId>,
}

impl Default for FieldTable {
    fn default() -> Self {
        let mut table = Self { names: Vec::new(), ids: FxHashMap::default() };
        table.extend(STATIC_FIELDS);
        table.extend(crate::parser::well_known_keys());
        table
    }
}

impl FieldTable {
    /// Builds a table from the static names and these; duplicates collapse onto the first.
    pub fn new<I, S>(names: I) -> Arc<Self>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        let mut table = Self::default();
        table.extend(names);
        Arc::new(table)
    }

    fn extend<I, S>(&mut self, names: I)
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        for name in names {
            let name = name.as_ref();
            if self.ids.contains_key(name.as_bytes()) || self.names.len() >= usize::from(u16::MAX) - 1 {
                continue;
            }
            let id = FieldId(self.names.len() as u16);
            self.names.push(name.into());
            self.ids.insert(name.as_bytes().into(), id);
        }
    }

    /// The id of a name, if the table knows it.
    pub fn id(&self, name: &str) -> Option<FieldId> {
        self.id_of(name.as_bytes())
    }

    /// The same for a name that need not be text.
    fn id_of(&self, name: &[u8]) -> Option<FieldId> {
        self.ids.get(name).copied()
    }

    /// The id of a name as an event spells it: with or without the blanks that rules leave out (`SAM User Account` is
    /// `SAMUserAccount` to them).
    pub fn find(&self, name: &[u8]) -> Option<FieldId> {
        self.id_of(name).or_else(|| {
            memchr::memchr(b' ', name)?;
            let close: Vec<u8> = name.iter().copied().filter(|&byte| byte != b' ').collect();
            self.id_of(&close)
        })
    }

    /// The name of an id; empty for [`FieldId::UNREGISTERED`] and ids of another table.
    pub fn name(&self, id: FieldId) -> &str {
        self.names.get(usize::from(id.0)).map_or("", |name| name)
    }

    /// Number of known names.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// True when no name is known.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// All names in id order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_names_have_their_constant_ids_in_every_table() {
        let table = FieldTable::new(["Image", "source.ip"]);
        assert_eq!(table.id("source.ip"), Some(ecs::SOURCE_IP));
        assert_eq!(table.name(ecs::IRONPOST_URL_DECODED), "ironpost.url.decoded");
        assert_eq!(table.id("Image"), Some(FieldId(table.len() as u16 - 1)));
        assert_eq!(table.len(), FieldTable::default().len() + 1);
    }
}
