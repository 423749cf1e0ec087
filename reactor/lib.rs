//! Actors on a thread-per-core reactor, for programs that hold many connections in little memory.
//!
//! Three types to read first:
//!
//! - [`Actor`]: state with a mailbox. You write its message type and its handlers.
//! - [`Context`]: what a handler is given, and all that it may do: send, ask, spawn, watch, open sockets, arm timers.
//! - [`Runtime`]: starts the cores; its [`Handle`] is how the rest of the program spawns, sends and asks.
//!
//! Then [`Child`] says how an actor is made, bounded and restarted, [`Event`] what the outside world brings, and
//! [`Limits`] what nothing grows beyond. The examples of the repository show servers, supervision and back-pressure.
//!
//! # The rules
//!
//! - A core is one thread. An actor lives on the core that spawned it and is only touched there: handlers never run at the
//!   same time on one core, and none may wait or take long ([`Context::offload`] is for that).
//! - Messages from one sender to one receiver arrive in the order sent. A message that was taken is handled once, or counted
//!   as undeliverable if its actor has ended, or as dropped if handling it failed.
//! - Nothing grows without a bound: a [`TrySendError::Full`] gives the message back.
//! - Stops, deaths, timers, replies and offloaded results never wait behind messages, and are never dropped.
//! - Time, randomness, sockets and files come from the [`Driver`] alone, so that a run on the simulated one (`sim`, a feature
//!   that is on by default) is repeated by its seed.
//!
//! # Map
//!
//! [`actor`](mod@actor) is the framework, [`io`] what is below it, [`mod@sim`] the simulator. Protocols are not here.
#![warn(clippy::undocumented_unsafe_blocks)]
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod actor;
mod budget;
pub mod io;
mod random;
#[doc(hidden)]
pub mod sabotage;
#[cfg(feature = "sim")]
pub mod sim;
mod time;

pub use actor::*;
pub use budget::ByteBudget;
pub use io::driver::{Datagram, Driver, SocketId, Transmit};
pub use io::wheel::TimerId;
pub use random::Random;
pub use time::{Instant, WallTime};

/// The examples in the README are compiled and run.
#[cfg(doctest)]
#[doc = include_str!("README.md")]
struct Readme;
