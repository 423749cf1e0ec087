//! An actor framework on a thread-per-core reactor.
#![warn(clippy::undocumented_unsafe_blocks)]
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

mod budget;
pub mod io;
mod random;
mod time;

pub use budget::ByteBudget;
pub use random::Random;
pub use time::{Instant, WallTime};
