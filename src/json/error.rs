//! What can go wrong with a command, by a name that programs can rely on.

use std::fmt;

use serde::{Serialize, Serializer};

/// The kind of an error; `docs/json.md` says what each means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The line is no command, or one of its members is missing, of the wrong type or out of range.
    BadRequest,
    /// The line, or the message, is too long.
    TooLarge,
    /// No connection could be made to the address.
    Unreachable,
    /// The deadline has passed.
    Timeout,
    /// The other node runs another protocol, or another version of it.
    WrongProtocol,
    /// The other node speaks another version of the wire format.
    WrongVersion,
    /// One side is in a private network in which the other is not.
    WrongNetworkKey,
    /// The other node is not the one that was expected.
    WrongPeer,
    /// The address is the node's own.
    SelfDial,
    /// The other side did not complete the handshake as agreed.
    HandshakeFailed,
    /// There is no room: for one more peer here or there, or in the queue to the peer.
    Full,
    /// The other node does not want this one.
    Banned,
    /// The two nodes are connected already, or are just being connected in another way.
    Duplicate,
    /// The other node closed the connection, with no reason that has a kind of its own.
    Refused,
    /// The connection was called off before it was made.
    Cancelled,
    /// There is no such peer, or not any more.
    Gone,
    /// The node is shutting down.
    Stopping,
    /// A fault of the program itself.
    Internal,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [ErrorKind; 18] = [
        ErrorKind::BadRequest,
        ErrorKind::TooLarge,
        ErrorKind::Unreachable,
        ErrorKind::Timeout,
        ErrorKind::WrongProtocol,
        ErrorKind::WrongVersion,
        ErrorKind::WrongNetworkKey,
        ErrorKind::WrongPeer,
        ErrorKind::SelfDial,
        ErrorKind::HandshakeFailed,
        ErrorKind::Full,
        ErrorKind::Banned,
        ErrorKind::Duplicate,
        ErrorKind::Refused,
        ErrorKind::Cancelled,
        ErrorKind::Gone,
        ErrorKind::Stopping,
        ErrorKind::Internal,
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::BadRequest => "bad_request",
            ErrorKind::TooLarge => "too_large",
            ErrorKind::Unreachable => "unreachable",
            ErrorKind::Timeout => "timeout",
            ErrorKind::WrongProtocol => "wrong_protocol",
            ErrorKind::WrongVersion => "wrong_version",
            ErrorKind::WrongNetworkKey => "wrong_network_key",
            ErrorKind::WrongPeer => "wrong_peer",
            ErrorKind::SelfDial => "self_dial",
            ErrorKind::HandshakeFailed => "handshake_failed",
            ErrorKind::Full => "full",
            ErrorKind::Banned => "banned",
            ErrorKind::Duplicate => "duplicate",
            ErrorKind::Refused => "refused",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Gone => "gone",
            ErrorKind::Stopping => "stopping",
            ErrorKind::Internal => "internal",
        }
    }
}

impl Serialize for ErrorKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestError {
    /// For programs.
    pub kind: ErrorKind,
    /// For people. It may change from version to version.
    pub message: String,
}

impl RequestError {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> RequestError {
        RequestError {
            kind,
            message: message.into(),
        }
    }

    /// An error by the name of its kind, as the errors of the library give it. A name that is not one of
    /// [`ErrorKind::ALL`] becomes [`ErrorKind::Internal`].
    pub fn of_kind(name: &str, error: impl fmt::Display) -> RequestError {
        let kind = ErrorKind::ALL.into_iter().find(|kind| kind.name() == name);
        RequestError::new(kind.unwrap_or(ErrorKind::Internal), error.to_string())
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> RequestError {
        RequestError::new(ErrorKind::BadRequest, message)
    }
}
