//! One encrypted connection between two nodes, from the first address tried to the last byte sent.
//!
//! - `admission`: which inbound sockets may wait and which may run a handshake, shared by all cores.
//! - `dial`: happy-eyeballs dialling of one node over several addresses.
//! - `dial_error`: why a dial failed, address by address.
//! - `endpoint`: what a user types as an address.
//! - `reason`: why a handshake was refused and why a connection ended.
//! - `link`: the piece of locked memory that a connection shares with the threads outside.

pub mod admission;
mod cipher;
mod config;
pub mod dial;
pub mod dial_error;
pub mod endpoint;
mod error;
mod handshake;
mod hello;
mod link;
mod noise;
mod preface;
pub mod reason;
#[cfg(test)]
mod tests;

pub use cipher::*;
pub use config::*;
pub use error::*;
pub use hello::*;
pub use link::{Deliver, LINK_QUEUE_HIGH, Link, ROOM_WAITERS_MAX, SendError, Sent, Taken};
pub use noise::*;
pub use preface::*;

/// What the body of an application message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// A JSON value.
    Json,
    /// UTF-8 text.
    Text,
    /// Bytes.
    Bytes,
}
