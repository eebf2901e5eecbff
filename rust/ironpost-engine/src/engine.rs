//! The engine: everything put together, started, stopped.

use crate::correlate::{Correlating, CorrelatorGauges, RingPositions, counters};
use crate::files::Tailer;
use crate::intake::Intake;
use crate::journal::JournalReceiver;
use crate::local::LocalReceiver;
use crate::outbox::{Batch, NextBatch, Outbox};
use crate::packets::{PacketReceiver, PacketSource};
use crate::plan::{PlanningError, Plans};
use crate::receive::{Accidents, Receiver, keep_running};
use crate::settings::{Described, Settings, SettingsError};
use crate::source::{Problem, Source, Sources, lock};
use crate::stop::Stop;
use crate::tcp::TcpReceiver;
use crate::udp::{UdpReceiver, bind_problem, socket_position};
use crate::work::{Reorder, Worker};
use ironpost_detect::{Correlator, RuleSet};
use ironpost_events::{ExtractorSet, Logsource};
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a lane of a source that can wait holds at most: more would only be older.
const WAITING_LANE_BYTES: usize = 4 << 20;

/// Chunks between worker and correlator, beside one per worker.
const MAX_TAKEN: usize = 8;

/// The engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The settings document.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A name in the settings.
    #[error(transparent)]
    Planning(#[from] PlanningError),
    /// Started before.
    #[error("the engine was started before; make a new one")]
    StartedBefore,
    /// The system gives no thread or descriptor.
    #[error("the engine cannot start: {0}")]
    System(#[from] io::Error),
    /// Not one source works.
    #[error("no source can be read: {}", .0.iter().map(|problem| format!("{}: {}", problem.source, problem.reason)).collect::<Vec<_>>().join("; "))]
    NoSource(Vec<Problem>),
}

/// Threads in the order they have to end.
#[derive(Debug, Default)]
struct Threads {
    receivers: Vec<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    correlator: Option<JoinHandle<()>>,
}

/// The data plane of one daemon.
pub struct Engine {
    settings: Settings,
    plans: Arc<Plans>,
    first_epoch: u64,
    intake: Arc<Intake>,
    reorder: Arc<Reorder>,
    outbox: Arc<Outbox>,
    sources: Arc<Sources>,
    gauges: Arc<CorrelatorGauges>,
    worker_panics: Arc<AtomicU64>,
    accidents: Arc<Accidents>,
    rings: Arc<RingPositions>,
    /// Position of the ring buffer up to which everything is stored.
    acknowledged: Arc<AtomicU64>,
    packets: Mutex<Option<Box<dyn PacketSource>>>,
    addresses: Mutex<BTreeMap<String, String>>,
    receive_buffers: Mutex<BTreeMap<String, usize>>,
    threads: Mutex<Option<Threads>>,
    stop: Arc<Stop>,
    workers: usize,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Engine").field("workers", &self.workers).finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine that has opened nothing and started nothing yet.
    ///
    /// # Errors
    /// When the settings name a format or time zone that is not known.
    pub fn new(
        settings: Settings,
        rules: Arc<RuleSet>,
        extractors: Arc<ExtractorSet>,
        packets: Option<Box<dyn PacketSource>>,
    ) -> Result<Self, EngineError> {
        let workers = match settings.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            some => some,
        };
        let plans = Plans::new(&settings, extractors)?;
        let first_epoch = plans.add(rules);
        Ok(Self {
            plans: Arc::new(plans),
            first_epoch,
            intake: Intake::new(workers + MAX_TAKEN),
            reorder: Arc::default(),
            outbox: Arc::default(),
            sources: Arc::default(),
            gauges: Arc::default(),
            worker_panics: Arc::default(),
            accidents: Arc::default(),
            rings: Arc::default(),
            acknowledged: Arc::default(),
            packets: Mutex::new(packets),
            addresses: Mutex::default(),
            receive_buffers: Mutex::default(),
            threads: Mutex::new(None),
            stop: Stop::new()?,
            settings,
            workers,
        })
    }

    /// Opens the sources and starts all threads. `checkpoints` and `windows` are those stored with the detections.
    ///
    /// A source that does not work is a [`Problem`]; the others run.
    ///
    /// # Errors
    /// When started before, or when sources are configured and not one of them works.
    pub fn start(
        &self,
        checkpoints: &BTreeMap<String, String>,
        windows: Vec<(String, Vec<u8>)>,
    ) -> Result<(), EngineError> {
        let mut slot = lock(&self.threads);
        if slot.is_some() || self.stop.given() {
            return Err(EngineError::StartedBefore);
        }
        let plan = self.plans.get(self.first_epoch).ok_or(EngineError::StartedBefore)?;
        let mut correlator = Correlator::new(Arc::clone(&plan.compiled)).with_updates();
        let useless = correlator.restore(windows);
        let mut threads = Threads::default();
        let receivers = self.open(checkpoints);
        let configured = self.settings.files.len()
            + self.settings.udp.len()
            + self.settings.tcp.len()
            + self.settings.unix.len()
            + usize::from(self.settings.journal)
            + usize::from(self.settings.packets);
        if receivers.is_empty() && configured > 0 {
            return Err(EngineError::NoSource(self.sources.problems()));
        }
        let launched = self.launch(correlator, useless, receivers, &mut threads);
        *slot = Some(threads);
        drop(slot);
        if launched.is_err() {
            self.stop();
        }
        Ok(launched?)
    }

    fn launch(
        &self,
        correlator: Correlator,
        useless: Vec<String>,
        receivers: Vec<(String, Box<dyn Receiver>)>,
        threads: &mut Threads,
    ) -> io::Result<()> {
        for number in 0..self.workers {
            let worker = Worker::new(
                Arc::clone(&self.intake),
                Arc::clone(&self.plans),
                Arc::clone(&self.reorder),
                Arc::clone(&self.worker_panics),
            );
            threads.workers.push(spawn(&format!("ip-work-{number}"), move || worker.run())?);
        }
        let correlating = Correlating {
            correlator,
            epoch: self.first_epoch,
            plans: Arc::clone(&self.plans),
            intake: Arc::clone(&self.intake),
            reorder: Arc::clone(&self.reorder),
            outbox: Arc::clone(&self.outbox),
            sources: Arc::clone(&self.sources),
            gauges: Arc::clone(&self.gauges),
            rings: Arc::clone(&self.rings),
            worker_panics: Arc::clone(&self.worker_panics),
            stop: Arc::clone(&self.stop),
            useless,
        };
        threads.correlator = Some(spawn("ip-correlate", move || correlating.run())?);
        for (name, receiver) in receivers {
            let (stop, sources) = (Arc::clone(&self.stop), Arc::clone(&self.sources));
            let accidents = Arc::clone(&self.accidents);
            let work = move || keep_running(&name, receiver, &stop, &sources, &accidents);
            threads.receivers.push(spawn("ip-receive", work)?);
        }
        Ok(())
    }

    /// Opens every source that works; the work of each, not started yet.
    fn open(&self, checkpoints: &BTreeMap<String, String>) -> Vec<(String, Box<dyn Receiver>)> {
        let mut receivers: Vec<(String, Box<dyn Receiver>)> = Vec::new();
        let udp_lane = (self.settings.queue_bytes / self.settings.udp.len().max(1)).max(1 << 20);
        let waiting_lane = WAITING_LANE_BYTES.min(self.settings.queue_bytes);
        if !self.settings.files.is_empty() {
            let lane = self.intake.lane("files", waiting_lane);
            let tailer = Tailer::open(
                &self.settings,
                checkpoints,
                Arc::clone(&self.sources),
                lane,
                Arc::clone(&self.stop),
            );
            receivers.push(("files".to_owned(), Box::new(tailer)));
        }
        for settings in &self.settings.udp {
            let (id, source) = self.network_source("udp", &settings.bind, &settings.described);
            let position = socket_position(checkpoints.get(&id).map(String::as_str));
            let lane = self.intake.lane(&id, udp_lane);
            let bound = resolve(&settings.bind).and_then(|address| {
                UdpReceiver::bind(settings, address, source, position, lane, Arc::clone(&self.stop))
            });
            match bound.and_then(|receiver| Ok((receiver.address()?, receiver))) {
                Ok((address, receiver)) => {
                    lock(&self.receive_buffers).insert(id.clone(), receiver.receive_buffer());
                    lock(&self.addresses).insert(id.clone(), address.to_string());
                    receivers.push((id, Box::new(receiver)));
                }
                Err(error) => self.bind_failed(&id, &settings.bind, &error),
            }
        }
        for settings in &self.settings.tcp {
            let (id, source) = self.network_source("tcp", &settings.bind, &settings.described);
            let position = socket_position(checkpoints.get(&id).map(String::as_str));
            let lane = self.intake.lane(&id, waiting_lane);
            let bound = resolve(&settings.bind).and_then(|address| {
                TcpReceiver::bind(settings, address, source, position, lane, Arc::clone(&self.stop))
            });
            match bound.and_then(|receiver| Ok((receiver.address()?, receiver))) {
                Ok((address, receiver)) => {
                    lock(&self.addresses).insert(id.clone(), address.to_string());
                    receivers.push((id, Box::new(receiver)));
                }
                Err(error) => self.bind_failed(&id, &settings.bind, &error),
            }
        }
        self.open_local(checkpoints, waiting_lane, &mut receivers);
        if self.settings.journal {
            self.open_journal(checkpoints, waiting_lane, &mut receivers);
        }
        if self.settings.packets {
            self.open_packets(checkpoints, waiting_lane, &mut receivers);
        }
        receivers
    }

    fn open_local(
        &self,
        checkpoints: &BTreeMap<String, String>,
        capacity: usize,
        receivers: &mut Vec<(String, Box<dyn Receiver>)>,
    ) {
        for settings in &self.settings.unix {
            let path = settings.path.to_string_lossy();
            let (id, source) = self.network_source("unix", &path, &settings.described);
            let position = socket_position(checkpoints.get(&id).map(String::as_str));
            let lane = self.intake.lane(&id, capacity);
            match LocalReceiver::bind(settings, source, position, lane, Arc::clone(&self.stop)) {
                Ok(receiver) => {
                    lock(&self.addresses).insert(id.clone(), path.into_owned());
                    receivers.push((id, Box::new(receiver)));
                }
                Err(refused) => self.sources.problem(&id, refused.reason, refused.remedy),
            }
        }
    }

    fn open_packets(
        &self,
        checkpoints: &BTreeMap<String, String>,
        capacity: usize,
        receivers: &mut Vec<(String, Box<dyn Receiver>)>,
    ) {
        let Some(reader) = lock(&self.packets).take() else {
            let reason = "packet events are asked for and there is no packet filter";
            self.sources.problem(
                "packets",
                reason,
                "enable the filter (ebpf.enabled) or take packets out of the sources",
            );
            return;
        };
        let receiver = PacketReceiver::new(
            reader,
            checkpoints.get("packets").map(String::as_str),
            self.sources.add("packets", "", Vec::new(), Logsource::default()),
            Arc::clone(&self.sources),
            self.intake.lane("packets", capacity),
            Arc::clone(&self.stop),
            Arc::clone(&self.acknowledged),
        );
        receivers.push(("packets".to_owned(), Box::new(receiver)));
    }

    fn open_journal(
        &self,
        checkpoints: &BTreeMap<String, String>,
        capacity: usize,
        receivers: &mut Vec<(String, Box<dyn Receiver>)>,
    ) {
        let facts = vec![("ironpost.trust".to_owned(), "host".to_owned())];
        let logsource = Logsource { product: Some("linux".into()), ..Logsource::default() };
        let source = self.sources.add("journal", "json", facts, logsource);
        let mut receiver = JournalReceiver::new(
            &self.settings.journal_program,
            checkpoints.get("journal").map(String::as_str),
            source,
            Arc::clone(&self.sources),
            self.intake.lane("journal", capacity),
            Arc::clone(&self.stop),
            self.settings.max_line,
        );
        match receiver.begin() {
            Ok(()) => receivers.push(("journal".to_owned(), Box::new(receiver))),
            Err(error) => receiver.complain(&error.to_string()),
        }
    }

    fn network_source(&self, kind: &str, bind: &str, described: &Described) -> (String, Arc<Source>) {
        let id = format!("{kind}:{bind}");
        let mut facts = described.facts.clone();
        facts.entry("ironpost.trust".to_owned()).or_insert_with(|| "unauthenticated".to_owned());
        let logsource = (&described.logsource).into();
        let source = self.sources.add(&id, &described.format, facts.into_iter().collect(), logsource);
        (id, source)
    }

    fn bind_failed(&self, id: &str, bind: &str, error: &io::Error) {
        let (reason, remedy) = bind_problem(bind, error);
        self.sources.problem(id, reason, remedy);
    }

    /// What does not work now, and what to do about it.
    pub fn problems(&self) -> Vec<Problem> {
        self.sources.problems()
    }

    /// The addresses sockets are bound to, by source id.
    pub fn addresses(&self) -> BTreeMap<String, String> {
        lock(&self.addresses).clone()
    }

    /// The next batch, waiting at most `timeout`.
    pub fn next_batch_blocking(&self, timeout: Duration) -> NextBatch {
        self.outbox.take(timeout)
    }

    /// The next batch; `None` when the engine has stopped and everything was taken.
    pub async fn next_batch(&self) -> Option<Batch> {
        self.outbox.next().await
    }

    /// True when the engine has stopped and everything was taken.
    pub fn ended(&self) -> bool {
        self.outbox.ended()
    }

    /// Everything up to this batch is stored: what the kernel kept for us may go.
    pub fn acknowledge(&self, sequence: u64) {
        let mut rings = lock(&self.rings);
        let later = rings.split_off(&sequence.saturating_add(1));
        if let Some((_, position)) = std::mem::replace(&mut *rings, later).pop_last() {
            self.acknowledged.fetch_max(position, Ordering::SeqCst);
        }
    }

    /// Puts another rule set in force for everything not yet parsed. Windows of unchanged correlations are kept.
    pub fn swap_rules(&self, rules: Arc<RuleSet>) {
        let epoch = self.plans.add(rules);
        self.intake.set_epoch(epoch);
    }

    /// Everything counted, as JSON.
    pub fn counters(&self) -> Vec<u8> {
        let mut all = counters(&self.sources, &self.intake, &self.outbox, &self.gauges, &self.worker_panics);
        all["panics"]["receivers"] = self.accidents.panics.load(Ordering::Relaxed).into();
        all["restarts"] = serde_json::json!({"receivers": self.accidents.restarts.load(Ordering::Relaxed)});
        for (id, bytes) in lock(&self.receive_buffers).iter() {
            all["sources"][id]["receive_buffer"] = (*bytes).into();
        }
        serde_json::to_vec(&all).unwrap_or_default()
    }

    /// Puts a batch back that did not reach its consumer; it comes first again.
    pub fn return_batch(&self, batch: Batch) {
        self.outbox.put_back(batch);
    }

    /// Stops receiving, works through everything received, and ends all threads. What was found can still be taken.
    pub fn stop(&self) {
        self.stop.give();
        let Some(threads) = lock(&self.threads).take() else {
            self.outbox.close();
            return;
        };
        join(threads.receivers);
        self.intake.close();
        join(threads.workers);
        self.reorder.close();
        join(threads.correlator.into_iter().collect());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // A thread that panicked has ended too; receivers report it themselves.
        let _ = thread.join();
    }
}

fn resolve(bind: &str) -> io::Result<SocketAddr> {
    let mut addresses = bind.to_socket_addrs()?;
    addresses.next().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no address"))
}
