//! The filter on Linux.

mod attach;
mod counters;
mod filter;
mod index;
mod interface;
mod lists;
mod pages;
mod pins;
mod ring;
mod sys;

pub use filter::Filter;
pub use ring::{RingReader, boot_ns};
