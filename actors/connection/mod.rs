//! One encrypted connection between two nodes, from the first address tried to the last byte sent.
//!
//! - `admission`: which inbound sockets may wait and which may run a handshake, shared by all cores.
//! - `dial`: happy-eyeballs dialling of one node over several addresses.
//! - `dial_error`: why a dial failed, address by address.
//! - `endpoint`: what a user types as an address.
//! - `reason`: why a handshake was refused and why a connection ended.
//! - `link`: the piece of locked memory that a connection shares with the threads outside.

pub mod actor;
pub mod admission;
mod bulk;
mod cipher;
mod config;
pub mod dial;
pub mod dial_error;
pub mod endpoint;
mod error;
mod frame;
mod handshake;
mod hello;
mod link;
mod liveness;
mod machine;
mod noise;
mod observe;
mod preface;
mod queue;
pub mod reason;
mod reassembly;
mod receive;
mod record;
mod stream;
#[cfg(test)]
mod tests;
mod transmit;
mod verdict;

pub use bulk::*;
pub use cipher::*;
pub use config::*;
pub use error::*;
pub use frame::*;
pub use handshake::*;
pub use hello::*;
pub use link::{Deliver, LINK_QUEUE_HIGH, Link, ROOM_WAITERS_MAX, SendError, Sent, Taken};
pub use liveness::*;
pub use machine::{Accepted, CONTROL_QUEUE_MAX, Connection, Event, SendError as QueueError, Sink};
pub use noise::*;
pub use preface::*;
pub use record::*;
pub use stream::*;
