//! Why a dial failed, address by address.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use super::reason::RefusedReason;

/// Why one address did not lead to the peer.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptFailure {
    /// The machine is there, but nothing listens on the port.
    ConnectionRefused,
    /// No answer within the deadline.
    TimedOut,
    /// There is no way to that address from here.
    Unreachable,
    /// A firewall or a permission of this machine forbids it.
    NotAllowed,
    /// Any other failure of the system.
    Io {
        /// Its kind.
        kind: io::ErrorKind,
        /// The system's own number for it, where there is one.
        code: Option<i32>,
    },
    /// The connection opened, but the handshake was not done in time.
    HandshakeTimedOut,
    /// The other side closed the connection within the handshake, without a reason.
    ClosedEarly,
    /// The other side's bytes were no valid handshake.
    BadHandshake,
    /// One of the two nodes did not want the connection.
    Refused(RefusedReason),
}

impl AttemptFailure {
    /// What an error of `connect`, `read` or `write` means.
    pub fn from_io(error: &io::Error) -> AttemptFailure {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => AttemptFailure::ConnectionRefused,
            io::ErrorKind::TimedOut => AttemptFailure::TimedOut,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable => AttemptFailure::Unreachable,
            io::ErrorKind::PermissionDenied => AttemptFailure::NotAllowed,
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => AttemptFailure::ClosedEarly,
            kind => AttemptFailure::Io {
                kind,
                code: error.raw_os_error(),
            },
        }
    }

    /// The stable name for programs: part of the JSON interface.
    pub const fn kind(&self) -> &'static str {
        match self {
            AttemptFailure::ConnectionRefused
            | AttemptFailure::Unreachable
            | AttemptFailure::NotAllowed
            | AttemptFailure::Io { .. } => "unreachable",
            AttemptFailure::TimedOut | AttemptFailure::HandshakeTimedOut => "timeout",
            AttemptFailure::ClosedEarly | AttemptFailure::BadHandshake => "handshake_failed",
            AttemptFailure::Refused(reason) => reason.kind(),
        }
    }

    /// Whether another address of the same peer may do better. Only a refusal by the peer itself is final.
    pub const fn may_be_cured_elsewhere(&self) -> bool {
        match self {
            AttemptFailure::Refused(reason) => !reason.is_by_the_peer(),
            _ => true,
        }
    }

    /// How much the failure tells about the peer: of several attempts the most telling one names the error.
    const fn weight(&self) -> u8 {
        match self {
            AttemptFailure::Refused(reason) if reason.is_by_the_peer() => 5,
            AttemptFailure::Refused(_) => 4,
            AttemptFailure::BadHandshake | AttemptFailure::ClosedEarly => 3,
            AttemptFailure::HandshakeTimedOut => 2,
            AttemptFailure::TimedOut => 0,
            _ => 1,
        }
    }
}

impl fmt::Display for AttemptFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AttemptFailure::ConnectionRefused => "connection refused, nothing listens there",
            AttemptFailure::TimedOut => "no answer",
            AttemptFailure::Unreachable => "no route to that address",
            AttemptFailure::NotAllowed => "not allowed by this machine",
            AttemptFailure::Io {
                code: Some(code), ..
            } => {
                return io::Error::from_raw_os_error(*code).fmt(f);
            }
            AttemptFailure::Io { kind, code: None } => return kind.fmt(f),
            AttemptFailure::HandshakeTimedOut => "the handshake was not done in time",
            AttemptFailure::ClosedEarly => "closed by the other side within the handshake",
            AttemptFailure::BadHandshake => {
                "what answers there is no mischief node, or its bytes were changed on the way"
            }
            AttemptFailure::Refused(reason) => return reason.fmt(f),
        })
    }
}

/// An address that was tried, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedAttempt {
    /// The address.
    pub addr: SocketAddr,
    /// What came of it.
    pub failure: AttemptFailure,
}

/// Why a name has no addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolveFailure {
    /// The resolver's error; `None` if it answered, with no address.
    pub error: Option<io::ErrorKind>,
}

/// Why a dial failed, with the reason of each attempt.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialError {
    /// There was no address to try.
    NoAddress(ResolveFailure),
    /// Every address was tried.
    AllFailed {
        /// Each attempt, in the order in which they ended; never empty.
        attempts: Box<[FailedAttempt]>,
        /// Whether there were more addresses than a dial tries.
        is_cut: bool,
    },
    /// The total deadline came first.
    TimedOut {
        /// The attempts that had ended until then, and those that had not, as timed out. Empty if name resolution took all
        /// the time.
        attempts: Box<[FailedAttempt]>,
    },
}

impl DialError {
    /// The stable name for programs: part of the JSON interface.
    pub fn kind(&self) -> &'static str {
        match self {
            DialError::NoAddress(_) => "unreachable",
            DialError::TimedOut { attempts } if attempts.is_empty() => "timeout",
            DialError::AllFailed { attempts, .. } | DialError::TimedOut { attempts } => {
                most_telling(attempts).map_or("unreachable", |failure| failure.kind())
            }
        }
    }

    /// The refusal that ended the dial, if it was one.
    pub fn refused(&self) -> Option<RefusedReason> {
        match self {
            DialError::AllFailed { attempts, .. } | DialError::TimedOut { attempts } => {
                match most_telling(attempts) {
                    Some(AttemptFailure::Refused(reason)) => Some(reason),
                    _ => None,
                }
            }
            DialError::NoAddress(_) => None,
        }
    }
}

fn most_telling(attempts: &[FailedAttempt]) -> Option<AttemptFailure> {
    attempts
        .iter()
        .map(|attempt| attempt.failure)
        .max_by_key(AttemptFailure::weight)
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (attempts, is_cut) = match self {
            DialError::NoAddress(ResolveFailure { error: None }) => {
                return f.write_str("the name has no address");
            }
            DialError::NoAddress(ResolveFailure { error: Some(error) }) => {
                return write!(f, "the name could not be looked up: {error}");
            }
            DialError::TimedOut { attempts } if attempts.is_empty() => {
                return f.write_str("the name could not be looked up in time");
            }
            DialError::AllFailed { attempts, is_cut } => (attempts, *is_cut),
            DialError::TimedOut { attempts } => (attempts, false),
        };
        for (index, attempt) in attempts.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", attempt.addr, attempt.failure)?;
        }
        if is_cut {
            f.write_str("; further addresses were not tried")?;
        }
        Ok(())
    }
}

impl std::error::Error for DialError {}
