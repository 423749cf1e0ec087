//! Encrypted connections.

mod link;

pub use link::{Deliver, LINK_QUEUE_HIGH, Link, ROOM_WAITERS_MAX, SendError, Sent, Taken};

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
