//! An actor framework on a thread-per-core reactor.
#![warn(clippy::undocumented_unsafe_blocks)]
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod actor;
mod budget;
pub mod io;
mod random;
#[cfg(feature = "sim")]
pub mod sim;
mod time;

pub use actor::*;
pub use budget::ByteBudget;
pub use io::driver::{Datagram, Driver, SocketId, Transmit};
pub use io::wheel::TimerId;
pub use random::Random;
pub use time::{Instant, WallTime};
