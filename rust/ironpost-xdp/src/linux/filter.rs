//! Opening the filter: take over what is pinned, load what is not, replace what has changed.

use super::index::Index;
use super::pins::{self, Pins};
use super::ring::{self, RingReader};
use super::sys::Map;
use super::{attach, interface, lists};
use crate::OBJECT_DESCRIPTION;
use crate::error::FilterError;
use crate::report::{Attachment, Settings, XdpMode};
use aya::programs::Xdp;
use aya::{EbpfLoader, include_bytes_aligned};
use ironpost_ebpf_common::{
    Config, Counters, CpuState, Entry, Ipv4Key, Ipv6Key, PrefixKey, SCHEMA_VERSION, SOURCE_ENTRIES,
    SourceState, index, names,
};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use zerocopy::{FromBytes, IntoBytes};

/// The kernel program. Built by `ebpf/build.sh`, which CI repeats and compares.
static OBJECT: &[u8] = include_bytes_aligned!("../../../../ebpf/prebuilt/ironpost.bpfel.o");

/// Where the kernel says which ports it gives to our own connections.
const EPHEMERAL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// First ephemeral port of an unchanged kernel.
const EPHEMERAL_DEFAULT: u32 = 32_768;

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// A map of the treaty.
struct Shape {
    name: &'static str,
    key: usize,
    value: usize,
    /// Elements it must have.
    entries: u32,
    /// Whether another number of elements in the pinned one is a changed setting and not another schema.
    resizable: bool,
}

/// The loaded and attached filter. Dropping it detaches nothing: the pins keep it filtering.
#[derive(Debug)]
pub struct Filter {
    pub(super) directory: PathBuf,
    program: OwnedFd,
    mode: XdpMode,
    /// Interfaces with the note of their attachment.
    interfaces: Mutex<Vec<(String, String)>>,
    pub(super) config: Map,
    pub(super) allow: Map,
    pub(super) block_ipv4: Map,
    pub(super) block_ipv6: Map,
    pub(super) index: Index,
    pub(super) stats: Map,
    pub(super) cpu_state: Map,
    events: OwnedFd,
    ring_bytes: u32,
    /// Changes of the lists and of `CONFIG.flags` happen one after another.
    pub(super) writing: Mutex<()>,
}

impl Filter {
    /// Loads, attaches and pins the filter, or takes over the pinned one with its entries and counters.
    ///
    /// A pinned program of another build is replaced on its links without letting a packet through. Changed sizes make
    /// new maps; entries are carried over, records waiting in a ring buffer of another size are given up.
    ///
    /// # Errors
    /// [`FilterError`]: missing privilege, interface, BPF file system; a foreign XDP program; a setting or pins that
    /// cannot be used. Nothing is attached then that was not before.
    pub fn open(settings: &Settings) -> Result<Self, FilterError> {
        check_settings(settings)?;
        check_privilege()?;
        for name in &settings.interfaces {
            interface::index(name)?;
        }
        let pins = Pins::open(&settings.pin_dir)?;
        let first = pins::get(&pins.path(names::PROGRAM))?.is_none();
        let opened = Self::open_pins(&pins, settings);
        if opened.is_err() && first {
            // Nothing was filtering before, so nothing half-made may stay. What went wrong first is what matters.
            let _ = pins.clear();
        }
        opened
    }

    fn open_pins(pins: &Pins, settings: &Settings) -> Result<Self, FilterError> {
        let cpus = possible_cpus()?;
        let shapes = shapes(settings);
        let ephemeral_low = ephemeral_low();
        let hash = object_hash();
        let wanted = |config: Config| Config {
            schema_version: SCHEMA_VERSION,
            sample_every: settings.sample_every,
            ephemeral_low,
            program_hash: hash,
            ..config
        };

        let old_config = read_config(pins)?;
        let replaced = prepare(pins, &shapes)?;
        let pinned = pins::get(&pins.path(names::PROGRAM))?;
        let (program, fresh) = match pinned {
            Some(program) if replaced.is_empty() && old_config == wanted(old_config) => (program, false),
            _ => (load(pins, &shapes, &replaced, &wanted(old_config))?, true),
        };

        let place =
            |name: &str| if replaced.contains(&name) { pins.next_path(name) } else { pins.path(name) };
        let open = |name: &'static str, cpus: usize| {
            Map::open(&place(name), name, cpus)
                .map_err(|error| FilterError::system(format!("opening the map {name}"), error))
        };
        let events = open(names::EVENTS, 0)?;
        let filter = Self {
            directory: pins.directory().to_owned(),
            program,
            mode: settings.mode,
            interfaces: Mutex::default(),
            config: open(names::CONFIG, 0)?,
            allow: open(names::ALLOW, 0)?,
            block_ipv4: open(names::BLOCK_IPV4, 0)?,
            block_ipv6: open(names::BLOCK_IPV6, 0)?,
            index: Index::open(open(names::INDEX_IPV4, 0)?.fd(), open(names::INDEX_IPV6, 0)?.fd())
                .map_err(|error| FilterError::system("mapping the index arrays", error))?,
            stats: open(names::STATS, cpus)?,
            cpu_state: open(names::CPU_STATE, cpus)?,
            ring_bytes: events.max_entries,
            events: pins::get(&place(names::EVENTS))?.ok_or_else(|| FilterError::PinDirectory {
                path: pins.directory().to_owned(),
                reason: "the pin EVENTS vanished while it was opened".to_owned(),
            })?,
            writing: Mutex::new(()),
        };
        for map in [&filter.block_ipv4, &filter.block_ipv6, &filter.allow] {
            if replaced.contains(&map.name) {
                let old = Map::open(&pins.path(map.name), map.name, 0).map_err(|error| {
                    FilterError::system(format!("opening the old map {}", map.name), error)
                })?;
                lists::copy(&old, map)?;
            }
        }
        // The hash of the old program stays until the new one is attached: a crash before that replaces it once more.
        filter.write_config(&Config { schema_version: SCHEMA_VERSION, ..old_config })?;
        filter.rebuild_index()?;

        filter.attach_all(pins, settings)?;
        for name in &replaced {
            pins.promote(name)?;
        }
        if fresh {
            Pins::remove(&pins.next_path(names::PROGRAM))?;
            super::sys::pin(&pins.next_path(names::PROGRAM), filter.program.as_fd())
                .map_err(|error| FilterError::system("pinning the program", error))?;
            pins.promote(names::PROGRAM)?;
            filter.update_config(|config| *config = wanted(*config))?;
        }
        Ok(filter)
    }

    fn attach_all(&self, pins: &Pins, settings: &Settings) -> Result<(), FilterError> {
        let mut kept = Vec::new();
        let mut interfaces = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &settings.interfaces {
            let note = attach::attach(pins, name, settings.mode, self.program.as_fd())?;
            interfaces.push((name.clone(), note));
            kept.push(interface::index(name)?);
        }
        for (index, path) in pins.links()? {
            if !kept.contains(&index) {
                Pins::remove(&path)?;
            }
        }
        Ok(())
    }

    /// Where the program runs now, one entry per interface, with a note when that is not what was asked for.
    ///
    /// # Errors
    /// [`FilterError::System`] when the kernel does not answer.
    pub fn attached(&self) -> Result<Vec<Attachment>, FilterError> {
        let interfaces = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        attach::report(&self.directory, &interfaces, self.program.as_fd())
    }

    /// Attaches again where this program was attached and is not any more, because somebody removed or detached its
    /// link. What is attached stays untouched, and so does a program of somebody else. Pins of the lists and counters
    /// that were removed too are set again, so that the next start finds them.
    ///
    /// # Errors
    /// The first [`FilterError`]; the other interfaces were tried all the same.
    pub fn reattach(&self) -> Result<(), FilterError> {
        let pins = Pins::open(&self.directory)?;
        let mut interfaces = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failed = self.pin_again(&pins).err();
        let now = attach::report(&self.directory, &interfaces, self.program.as_fd())?;
        for ((name, note), found) in interfaces.iter_mut().zip(now) {
            if found.mode.is_some() && found.note == *note {
                continue;
            }
            match attach::attach(&pins, name, self.mode, self.program.as_fd()) {
                Ok(attached) => *note = attached,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Not the program: without its pin the next start loads it anew on these maps, as after a new build.
    fn pin_again(&self, pins: &Pins) -> Result<(), FilterError> {
        let maps =
            [&self.config, &self.allow, &self.block_ipv4, &self.block_ipv6, &self.stats, &self.cpu_state];
        let named =
            maps.map(|map| (map.name, map.fd())).into_iter().chain([(names::EVENTS, self.events.as_fd())]);
        for (name, map) in named {
            let path = pins.path(name);
            if !path.exists() {
                super::sys::pin(&path, map)
                    .map_err(|error| FilterError::system(format!("pinning the map {name}"), error))?;
            }
        }
        Ok(())
    }

    /// A reader of the records, starting at the first one that was not committed. Use one at a time.
    ///
    /// # Errors
    /// [`FilterError::System`] when the ring buffer cannot be mapped.
    pub fn ring_reader(&self) -> Result<RingReader, FilterError> {
        let map = self
            .events
            .try_clone()
            .map_err(|error| FilterError::system("opening the ring buffer EVENTS", error))?;
        RingReader::new(map, self.ring_bytes)
    }

    /// Detaches from all interfaces and removes all pins, entries and counters. The filter is of no use afterwards.
    ///
    /// # Errors
    /// [`FilterError::System`] when a pin cannot be removed.
    pub fn detach(&self) -> Result<(), FilterError> {
        Self::detach_pins(&self.directory)
    }

    /// As [`Filter::detach`], for a directory nobody has open.
    ///
    /// # Errors
    /// As [`Filter::detach`].
    pub fn detach_pins(directory: &std::path::Path) -> Result<(), FilterError> {
        if directory.exists() { Pins::open(directory)?.clear() } else { Ok(()) }
    }

    /// The pin directory.
    #[must_use]
    pub fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    pub(super) fn write_config(&self, config: &Config) -> Result<(), FilterError> {
        self.config
            .update(&0_u32.to_ne_bytes(), config.as_bytes())
            .map_err(|error| FilterError::system("writing the map CONFIG", error))
    }

    pub(super) fn update_config(&self, change: impl FnOnce(&mut Config)) -> Result<(), FilterError> {
        let failed = |error| FilterError::system("reading the map CONFIG", error);
        let bytes = self.config.lookup(&0_u32.to_ne_bytes()).map_err(failed)?.unwrap_or_default();
        let mut config = Config::read_from_bytes(&bytes).unwrap_or_default();
        change(&mut config);
        self.write_config(&config)
    }
}

fn check_settings(settings: &Settings) -> Result<(), FilterError> {
    let page = ring::page_size() as u32;
    let size = settings.ring_buffer_size;
    if !size.is_power_of_two() || size < page {
        return Err(FilterError::Setting {
            name: "ring_buffer_size",
            value: size.to_string(),
            reason: format!("expected a power of two that is a multiple of the page size {page}"),
        });
    }
    if settings.blocklist_max_entries == 0 {
        return Err(FilterError::Setting {
            name: "blocklist_max_entries",
            value: "0".to_owned(),
            reason: "expected at least 1".to_owned(),
        });
    }
    Ok(())
}

/// Both capabilities are needed; `CAP_SYS_ADMIN` includes `CAP_BPF`.
fn check_privilege() -> Result<(), FilterError> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let Some(effective) = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
    else {
        return Ok(()); // without /proc the kernel itself will say it
    };
    let has = |capability: u32| effective & (1 << capability) != 0;
    let missing =
        |capability| FilterError::PrivilegeMissing { capability, action: "the packet filter".to_owned() };
    if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
        return Err(missing("CAP_BPF"));
    }
    if !has(CAP_NET_ADMIN) {
        return Err(missing("CAP_NET_ADMIN"));
    }
    Ok(())
}

fn possible_cpus() -> Result<usize, FilterError> {
    aya::util::nr_cpus().map_err(|(path, error)| FilterError::system(format!("reading {path}"), error))
}

/// Lowest port that this host gives to its own connections.
fn ephemeral_low() -> u32 {
    fs::read_to_string(EPHEMERAL_RANGE)
        .ok()
        .and_then(|text| text.split_whitespace().next().and_then(|low| low.parse().ok()))
        .unwrap_or(EPHEMERAL_DEFAULT)
}

/// Hash of the embedded object.
fn object_hash() -> [u8; 32] {
    let mut hash = [0; 32];
    let description: serde_json::Value = serde_json::from_str(OBJECT_DESCRIPTION).unwrap_or_default();
    let text = description.get("object_sha256").and_then(serde_json::Value::as_str).unwrap_or_default();
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .unwrap_or(0);
    }
    hash
}

fn shapes(settings: &Settings) -> [Shape; 10] {
    let shape = |name, key, value, entries: usize| Shape {
        name,
        key,
        value,
        entries: entries as u32,
        resizable: false,
    };
    let list = |name, key| Shape {
        name,
        key,
        value: size_of::<Entry>(),
        entries: settings.blocklist_max_entries,
        resizable: true,
    };
    [
        shape(names::CONFIG, 4, size_of::<Config>(), 1),
        list(names::ALLOW, size_of::<PrefixKey>()),
        list(names::BLOCK_IPV4, size_of::<Ipv4Key>()),
        list(names::BLOCK_IPV6, size_of::<Ipv6Key>()),
        shape(names::INDEX_IPV4, 4, 8, index::CELLS),
        shape(names::INDEX_IPV6, 4, 16, index::CELLS),
        shape(names::SOURCES, 16, size_of::<SourceState>(), SOURCE_ENTRIES),
        Shape { name: names::EVENTS, key: 0, value: 0, entries: settings.ring_buffer_size, resizable: true },
        shape(names::STATS, 4, size_of::<Counters>(), 1),
        shape(names::CPU_STATE, 4, size_of::<CpuState>(), 1),
    ]
}

/// The pinned configuration, empty when nothing is pinned.
fn read_config(pins: &Pins) -> Result<Config, FilterError> {
    let path = pins.path(names::CONFIG);
    let mismatch = |found| FilterError::SchemaMismatch {
        path: pins.directory().to_owned(),
        found,
        expected: SCHEMA_VERSION,
    };
    if pins::get(&path)?.is_none() {
        return Ok(Config::default());
    }
    let bytes = Map::open(&path, names::CONFIG, 0)
        .and_then(|map| map.lookup(&0_u32.to_ne_bytes()))
        .map_err(|error| FilterError::system("reading the map CONFIG", error))?
        .unwrap_or_default();
    // The version is the first field of every schema.
    let found = bytes.first_chunk().map_or(0, |first| u32::from_ne_bytes(*first));
    match Config::read_from_bytes(&bytes) {
        // A map that was pinned but never written: its maker was killed in between.
        Ok(config) if found == SCHEMA_VERSION || found == 0 => Ok(config),
        _ => Err(mismatch(found)),
    }
}

/// Looks at the pinned maps: removes left-overs, refuses foreign shapes and names those that need another size.
fn prepare(pins: &Pins, shapes: &[Shape]) -> Result<Vec<&'static str>, FilterError> {
    let mut replaced = Vec::new();
    for shape in shapes {
        Pins::remove(&pins.next_path(shape.name))?;
        let Some(fd) = pins::get(&pins.path(shape.name))? else { continue };
        let found = super::sys::map_info(fd.as_fd()).map_err(|error| {
            FilterError::system(format!("reading the facts of the map {}", shape.name), error)
        })?;
        let same_records = found.key_size as usize == shape.key && found.value_size as usize == shape.value;
        match (same_records, found.max_entries == shape.entries) {
            (true, true) => {}
            (true, false) if shape.resizable => replaced.push(shape.name),
            _ => {
                return Err(FilterError::SchemaMismatch {
                    path: pins.directory().to_owned(),
                    found: 0,
                    expected: SCHEMA_VERSION,
                });
            }
        }
    }
    Ok(replaced)
}

/// Loads the embedded object on the pinned maps; missing and resized ones are made and pinned.
fn load(
    pins: &Pins,
    shapes: &[Shape],
    replaced: &[&'static str],
    config: &Config,
) -> Result<OwnedFd, FilterError> {
    let refused = |error: &dyn std::error::Error| {
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
            cause = inner.source();
        }
        FilterError::Load { reason: shorten(&reason) }
    };
    let mut loader = EbpfLoader::new();
    for shape in shapes {
        let path =
            if replaced.contains(&shape.name) { pins.next_path(shape.name) } else { pins.path(shape.name) };
        loader.map_pin_path(shape.name, path);
        loader.map_max_entries(shape.name, shape.entries);
    }
    loader.override_global("SAMPLE_EVERY", &config.sample_every, true);
    loader.override_global("EPHEMERAL_LOW", &config.ephemeral_low, true);
    let mut object = loader.load(OBJECT).map_err(|error| refused(&error))?;
    let program: &mut Xdp = object
        .program_mut(names::PROGRAM)
        .ok_or_else(|| FilterError::Load {
            reason: format!("the object holds no program {}", names::PROGRAM),
        })?
        .try_into()
        .map_err(|error| refused(&error))?;
    program.load().map_err(|error| refused(&error))?;
    let fd = program.fd().map_err(|error| refused(&error))?;
    fd.as_fd().try_clone_to_owned().map_err(|error| FilterError::system("keeping the program", error))
}

/// First and last lines of a long text: the verifier explains itself in thousands.
fn shorten(text: &str) -> String {
    const KEPT: usize = 4;
    let lines: Vec<&str> = text.lines().collect();
    match (lines.get(..KEPT), lines.len().checked_sub(KEPT).and_then(|from| lines.get(from..))) {
        (Some(first), Some(last)) if lines.len() > 2 * KEPT => {
            format!("{} … {}", first.join(" | "), last.join(" | "))
        }
        _ => lines.join(" | "),
    }
}
