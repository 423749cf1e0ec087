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
    /// The other node closed the connection, with no reason that has a kind of its own, or refused a request.
    Refused,
    /// The connection was called off before it was made.
    Cancelled,
    /// There is no such peer or request, or not any more.
    Gone,
    /// The peer has nobody who answers such requests.
    NoHandler,
    /// The peer's handler of such requests failed.
    HandlerFailed,
    /// This node, or the peer, has too much to do at the moment.
    Busy,
    /// The node is shutting down.
    Stopping,
    /// A fault of the program itself.
    Internal,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [ErrorKind; 21] = [
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
        ErrorKind::NoHandler,
        ErrorKind::HandlerFailed,
        ErrorKind::Busy,
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
            ErrorKind::NoHandler => "no_handler",
            ErrorKind::HandlerFailed => "handler_failed",
            ErrorKind::Busy => "busy",
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

/// What `reason` of a `peer_disconnected` event may be, with what `docs/json.md` says about it. When the peer said why it
/// closed, the reason is one of [`ErrorKind::ALL`] instead: `full`, `banned`, `duplicate`, `self_dial`, `cancelled` or
/// `stopping`.
pub const DISCONNECT_REASONS: [&str; 11] = [
    "requested",
    "by_peer",
    "replaced",
    "timeout",
    "lost",
    "protocol_error",
    "trimmed",
    "banned_here",
    "stopping",
    "out_of_memory",
    "internal",
];

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use mischief_actors::connection::SendError;
    use mischief_actors::connection::dial::{AttemptFailure, DialError, ResolveFailure};
    use mischief_actors::connection::reason::{DisconnectReason, RefusedReason};
    use mischief_actors::identity::PeerId;
    use mischief_reactor::AskError;

    use super::*;
    use crate::{ConnectError, NodeError};

    fn refusals() -> [RefusedReason; 10] {
        let id = PeerId::from_bytes([7; 32]);
        [
            RefusedReason::WrongProtocol,
            RefusedReason::WrongVersion { ours: 1, theirs: 2 },
            RefusedReason::WrongNetworkKey,
            RefusedReason::WrongPeer {
                expected: id,
                found: id,
            },
            RefusedReason::Full,
            RefusedReason::Banned,
            RefusedReason::Duplicate,
            RefusedReason::SelfDial,
            RefusedReason::CalledOff,
            RefusedReason::Stopping,
        ]
    }

    /// The library gives its errors names and this interface documents them: nothing else makes the two agree.
    #[test]
    fn every_name_that_the_library_gives_an_error_is_a_kind() {
        let mut names: Vec<&str> = refusals().iter().map(RefusedReason::kind).collect();
        let io_error = AttemptFailure::Io {
            kind: io::ErrorKind::Other,
            code: None,
        };
        let attempts = [
            AttemptFailure::ConnectionRefused,
            AttemptFailure::TimedOut,
            AttemptFailure::Unreachable,
            AttemptFailure::NotAllowed,
            io_error,
            AttemptFailure::HandshakeTimedOut,
            AttemptFailure::ClosedEarly,
            AttemptFailure::BadHandshake,
        ];
        names.extend(attempts.iter().map(AttemptFailure::kind));
        names.push(DialError::NoAddress(ResolveFailure { error: None }).kind());
        let attempts = Box::default();
        names.push(DialError::TimedOut { attempts }.kind());
        let sent = [
            SendError::Gone(Arc::from("")),
            SendError::Full,
            SendError::TooLarge { size: 2, max: 1 },
            SendError::BadValue(Arc::from("")),
            SendError::OnCoreThread,
            SendError::TimedOut,
        ];
        names.extend(sent.iter().map(SendError::kind));
        for asked in [AskError::NoReply, AskError::Full, AskError::OnCoreThread] {
            names.push(ConnectError::Node(NodeError::from(asked)).kind());
        }
        names.push(NodeError::NotConnected.kind());
        for name in names {
            let error = RequestError::of_kind(name, "");
            assert_eq!(error.kind.name(), name);
        }
    }

    #[test]
    fn every_reason_of_a_disconnect_is_listed() {
        let reasons = [
            DisconnectReason::Requested,
            DisconnectReason::ByPeer,
            DisconnectReason::Replaced,
            DisconnectReason::TimedOut,
            DisconnectReason::Lost(io::ErrorKind::ConnectionReset),
            DisconnectReason::PeerMisbehaved,
            DisconnectReason::Trimmed,
            DisconnectReason::Banned,
            DisconnectReason::Stopping,
            DisconnectReason::OutOfMemory,
            DisconnectReason::Internal,
        ];
        assert_eq!(
            reasons.map(|reason| reason.kind()),
            DISCONNECT_REASONS,
            "in this order"
        );
        for refusal in refusals() {
            let reason = DisconnectReason::Refused(refusal).kind();
            assert_eq!(RequestError::of_kind(reason, "").kind.name(), reason);
        }
    }
}
