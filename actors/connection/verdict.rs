//! The end of a connection in the words of those who dial and of those who count peers.

use std::io;

use super::dial_error::AttemptFailure;
use super::error::{CloseCode, Error, Fault, Incompatible, RejectCode, Stage};
use super::reason::{DisconnectReason, RefusedReason};

impl RefusedReason {
    /// What the peer is told.
    pub fn close_code(self) -> CloseCode {
        match self {
            RefusedReason::Full => CloseCode::Full,
            RefusedReason::Banned => CloseCode::Banned,
            RefusedReason::Duplicate => CloseCode::Duplicate,
            RefusedReason::SelfDial => CloseCode::SelfDial,
            RefusedReason::Stopping => CloseCode::ShuttingDown,
            _ => CloseCode::Unwanted,
        }
    }

    /// What a `Close` instead of an `Accept` means; `None` when it is no refusal.
    fn from_close(code: CloseCode) -> Option<RefusedReason> {
        Some(match code {
            CloseCode::Full | CloseCode::Overloaded => RefusedReason::Full,
            CloseCode::Banned => RefusedReason::Banned,
            CloseCode::Duplicate => RefusedReason::Duplicate,
            CloseCode::SelfDial => RefusedReason::SelfDial,
            CloseCode::ShuttingDown => RefusedReason::Stopping,
            CloseCode::Unwanted | CloseCode::Trimmed => RefusedReason::CalledOff,
            _ => return None,
        })
    }
}

impl AttemptFailure {
    /// What the end of a connection means that was never announced. `lost`: how its transport broke, if it did.
    pub fn from_end(error: &Error, lost: Option<io::ErrorKind>) -> AttemptFailure {
        match error {
            Error::PeerIncompatible(incompatible) => from_incompatible(incompatible),
            Error::PeerMisbehaved(_) | Error::Exhausted => AttemptFailure::BadHandshake,
            Error::Refused(code) => from_reject(*code),
            Error::ClosedByPeer { code, .. } => RefusedReason::from_close(*code)
                .map_or(AttemptFailure::ClosedEarly, AttemptFailure::Refused),
            Error::ClosedHere { .. } => AttemptFailure::Refused(RefusedReason::CalledOff),
            Error::WrongPeer { expected, found } => {
                let (expected, found) = (*expected, *found);
                AttemptFailure::Refused(RefusedReason::WrongPeer { expected, found })
            }
            Error::SelfDial => AttemptFailure::Refused(RefusedReason::SelfDial),
            Error::TimedOut(_) => AttemptFailure::HandshakeTimedOut,
            Error::Lost => lost.map_or(AttemptFailure::ClosedEarly, |kind| {
                AttemptFailure::from_io(&kind.into())
            }),
        }
    }
}

fn from_incompatible(incompatible: &Incompatible) -> AttemptFailure {
    AttemptFailure::Refused(match incompatible {
        Incompatible::NotMischief => return AttemptFailure::BadHandshake,
        Incompatible::WireVersion { ours, theirs } => RefusedReason::WrongVersion {
            ours: u16::from(*ours.end()),
            theirs: u16::from(*theirs.end()),
        },
        Incompatible::NetworkKey => RefusedReason::WrongNetworkKey,
        _ => RefusedReason::WrongProtocol,
    })
}

fn from_reject(code: RejectCode) -> AttemptFailure {
    AttemptFailure::Refused(match code {
        RejectCode::Protocol => RefusedReason::WrongProtocol,
        RejectCode::NetworkKey => RefusedReason::WrongNetworkKey,
        RejectCode::Full | RejectCode::Busy => RefusedReason::Full,
        RejectCode::ShuttingDown => RefusedReason::Stopping,
        RejectCode::Unwanted => RefusedReason::CalledOff,
        RejectCode::Banned => RefusedReason::Banned,
        RejectCode::TimedOut => return AttemptFailure::HandshakeTimedOut,
        RejectCode::WireVersion => {
            let ours = u16::from(*super::preface::WIRE_VERSIONS.end());
            RefusedReason::WrongVersion { ours, theirs: 0 }
        }
        _ => return AttemptFailure::BadHandshake,
    })
}

impl DisconnectReason {
    /// What the end of an announced connection means. `lost`: how its transport broke, if it did.
    pub fn from_end(error: &Error, lost: Option<io::ErrorKind>) -> DisconnectReason {
        match error {
            Error::ClosedByPeer { code, .. } => RefusedReason::from_close(*code)
                .map_or(DisconnectReason::ByPeer, DisconnectReason::Refused),
            Error::ClosedHere {
                code: CloseCode::ShuttingDown,
                ..
            } => DisconnectReason::Stopping,
            Error::ClosedHere { .. } => DisconnectReason::Requested,
            Error::TimedOut(Stage::KeepAlive | Stage::Handshake) => DisconnectReason::TimedOut,
            Error::TimedOut(_) | Error::PeerMisbehaved(Fault::MessageTooLarge { .. }) => {
                DisconnectReason::PeerMisbehaved
            }
            Error::Lost => DisconnectReason::Lost(lost.unwrap_or(io::ErrorKind::UnexpectedEof)),
            Error::Exhausted => DisconnectReason::Internal,
            _ => DisconnectReason::PeerMisbehaved,
        }
    }
}
