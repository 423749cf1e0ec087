//! Encrypted connections.

mod cipher;
mod config;
mod error;
mod handshake;
mod hello;
mod link;
mod noise;
mod preface;
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
