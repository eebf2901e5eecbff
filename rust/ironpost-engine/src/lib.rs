//! The data plane without Python: receivers, bounded queues, parse and match workers, the correlator thread,
//! checkpoints. See ARCHITECTURE.md.

mod correlate;
mod engine;
mod files;
mod frame;
mod intake;
mod journal;
mod local;
mod origin;
mod outbox;
mod packets;
mod plan;
mod receive;
mod settings;
mod source;
mod stop;
mod tcp;
mod udp;
mod work;

pub use engine::{Engine, EngineError};
pub use outbox::{Batch, NextBatch};
pub use packets::PacketSource;
pub use plan::PlanningError;
pub use settings::{Settings, SettingsError};
pub use source::Problem;
