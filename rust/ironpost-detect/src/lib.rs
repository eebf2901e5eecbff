//! Executes compiled Sigma rules over event batches.
//!
//! Python lowers rule text to a *plan* (plain JSON, see [`RuleSet::from_plan`]); this crate checks the plan, binds it to
//! a field table and evaluates it. Matching is stateless and runs on any thread ([`Compiled::evaluate`]); counting over
//! time is done by one [`Correlator`], which also turns matches into [`Detection`]s.
//!
//! Speed comes from five habits: rules are routed by log source; the texts asked of a field are found in one pass over its
//! value; what was found is bits in a small set; a rule is looked at only when one of its *witnesses* (bits without which it
//! cannot hold) was set, as a row of jumps over these bits; and what is slow to test is tested last.

mod atom;
mod compile;
mod correlate;
mod correlation;
mod derive;
mod detection;
mod evaluate;
mod event;
mod explain;
mod explainer;
mod judge;
mod lookup;
mod lru;
mod needles;
mod order;
mod plan;
mod program;
mod ranks;
mod regex_literals;
mod tally;
mod text;
mod window;

pub use atom::check_regex;
pub use compile::{Compiled, RuleSet};
pub use correlate::{Correlator, SourcePosition, WindowChange};
pub use detection::{Detection, DetectionKind, Entity, Matched};
pub use evaluate::{Match, Scratch};
pub use explainer::{Explainer, Wanted};
pub use plan::{MAX_FIELDS, PlanError};
pub use regex_literals::needles as regex_needles;
pub use window::Counts;
