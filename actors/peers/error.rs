//! Why a request about peers failed.

use crate::connection::{DialError, Endpoint, RefusedReason};

use super::PeerId;

/// Why no connection came about.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The peer asked for is this node.
    #[error("that is this node itself")]
    SelfDial,
    /// The addresses led nowhere, or whoever is there did not want the connection.
    #[error("cannot connect to {endpoint}: {error}")]
    Dial {
        /// The first of the endpoints.
        endpoint: Endpoint,
        /// Why.
        error: DialError,
    },
    /// Somebody else answered at the address.
    #[error("another peer answered: expected {expected}, found {found}")]
    WrongPeer {
        /// Who was asked for.
        expected: PeerId,
        /// Who answered.
        found: PeerId,
    },
    /// This node has banned the peer, or the address.
    #[error("this node has banned the peer or its address")]
    Banned,
    /// This node has as many peers as it takes.
    #[error("this node already has {max} peers, the most it takes")]
    Full {
        /// The limit.
        max: u32,
    },
    /// Too many connections are being made at this moment.
    #[error("{max} requests to connect are under way already, the most at a time")]
    Busy {
        /// The limit that was reached.
        max: u32,
    },
    /// Nothing came of it within the deadline of a dial.
    #[error("cannot connect to {endpoint}: not done within the deadline")]
    TimedOut {
        /// The first of the endpoints.
        endpoint: Endpoint,
    },
    /// The request, or the connection to the peer, was called off on this side.
    #[error("the connection was called off")]
    Cancelled,
    /// This node is shutting down.
    #[error("this node is shutting down")]
    Stopping,
}

impl ConnectError {
    /// The stable name for programs: part of the JSON interface.
    pub fn kind(&self) -> &'static str {
        match self {
            ConnectError::SelfDial => "self_dial",
            ConnectError::Dial { error, .. } => error.kind(),
            ConnectError::WrongPeer { .. } => "wrong_peer",
            ConnectError::Banned => "banned",
            ConnectError::Full { .. } => "full",
            ConnectError::Busy { .. } => "busy",
            ConnectError::TimedOut { .. } => "timeout",
            ConnectError::Cancelled => "cancelled",
            ConnectError::Stopping => "stopping",
        }
    }

    /// The refusal behind the error, if it was one.
    pub fn refused(&self) -> Option<RefusedReason> {
        match self {
            ConnectError::Dial { error, .. } => error.refused(),
            _ => None,
        }
    }
}

/// The peer is not connected, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer is not connected")]
pub struct NotConnected;

impl NotConnected {
    /// The stable name for programs: part of the JSON interface.
    pub const fn kind(&self) -> &'static str {
        "gone"
    }
}
