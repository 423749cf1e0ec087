//! Why a request was not answered.

use std::sync::Arc;

use mischief_reactor::AskError;

use crate::connection::{EncodeError, SendError};

/// What the handler's side says instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureCode {
    /// Nobody answers requests of this name there.
    NoHandler,
    /// The handler refuses.
    Refused,
    /// The handler failed.
    HandlerFailed,
    /// Too many requests are open there, or its queue to the asker is full.
    Busy,
    /// The answer is larger than the asker takes.
    TooLarge,
    /// A code of a later version.
    Other(u8),
}

impl FailureCode {
    /// The number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            FailureCode::NoHandler => 1,
            FailureCode::Refused => 2,
            FailureCode::HandlerFailed => 3,
            FailureCode::Busy => 4,
            FailureCode::TooLarge => 5,
            FailureCode::Other(number) => number,
        }
    }

    /// The code with this number.
    pub const fn from_number(number: u8) -> FailureCode {
        match number {
            1 => FailureCode::NoHandler,
            2 => FailureCode::Refused,
            3 => FailureCode::HandlerFailed,
            4 => FailureCode::Busy,
            5 => FailureCode::TooLarge,
            number => FailureCode::Other(number),
        }
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The peer has nobody who answers requests of this name.
    #[error("the peer has no handler for such requests")]
    NoHandler,
    /// The peer's handler refused. The reason is the peer's, and for people.
    #[error("the peer refused: {0}")]
    Refused(Arc<str>),
    /// The peer's handler failed.
    #[error("the peer's handler failed")]
    HandlerFailed,
    /// No answer came in time.
    #[error("no answer in time")]
    TimedOut,
    /// The peer is not connected, or its connection ended before the answer came.
    #[error("the peer is gone: {0}")]
    Gone(Arc<str>),
    /// The request is larger than the peer accepts.
    #[error("a request of {size} bytes is larger than the {max} that the peer accepts")]
    TooLarge {
        /// Bytes of the body.
        size: usize,
        /// Bytes accepted.
        max: usize,
    },
    /// The answer is larger than this node accepts from the peer.
    #[error("the answer is larger than this node accepts")]
    ReplyTooLarge,
    /// The peer has too many open requests, or too much to send to this node.
    #[error("the peer is busy")]
    Busy,
    /// This node has too many open requests, to this peer or in all, or its queue to the peer is full.
    #[error("too many open requests, or the queue to the peer is full")]
    Full,
    /// The request cannot be put on the wire, whoever the peer is.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The body is not what it was taken for: no JSON, of another type, or no text.
    #[error("{0}")]
    BadBody(Arc<str>),
    /// A core thread must not wait.
    #[error("a core thread must not wait")]
    OnCoreThread,
}

impl RequestError {
    /// The stable name of this error in the machine interface.
    pub fn kind(&self) -> &'static str {
        match self {
            RequestError::NoHandler => "no_handler",
            RequestError::Refused(_) => "refused",
            RequestError::HandlerFailed => "handler_failed",
            RequestError::TimedOut => "timeout",
            RequestError::Gone(_) => "gone",
            RequestError::TooLarge { .. }
            | RequestError::ReplyTooLarge
            | RequestError::Encode(EncodeError::Body(_)) => "too_large",
            RequestError::Busy => "busy",
            RequestError::Full => "full",
            RequestError::Encode(_) | RequestError::BadBody(_) => "bad_request",
            RequestError::OnCoreThread => "internal",
        }
    }

    /// What a peer's failure means to the asker.
    pub(super) fn from_failure(code: FailureCode, reason: &str) -> RequestError {
        match code {
            FailureCode::NoHandler => RequestError::NoHandler,
            FailureCode::HandlerFailed => RequestError::HandlerFailed,
            FailureCode::Busy => RequestError::Busy,
            FailureCode::TooLarge => RequestError::ReplyTooLarge,
            FailureCode::Refused | FailureCode::Other(_) => {
                RequestError::Refused(Arc::from(reason))
            }
        }
    }
}

impl From<SendError> for RequestError {
    fn from(error: SendError) -> RequestError {
        match error {
            SendError::Gone(reason) => RequestError::Gone(reason),
            SendError::TooLarge { size, max } => RequestError::TooLarge { size, max },
            SendError::Encode(error) => RequestError::Encode(error),
            SendError::BadValue(reason) => RequestError::BadBody(reason),
            SendError::OnCoreThread => RequestError::OnCoreThread,
            SendError::TimedOut => RequestError::TimedOut,
            SendError::Full => RequestError::Full,
        }
    }
}

impl From<AskError> for RequestError {
    fn from(error: AskError) -> RequestError {
        match error {
            AskError::OnCoreThread => RequestError::OnCoreThread,
            AskError::TimedOut { .. } => RequestError::TimedOut,
            error => RequestError::Gone(Arc::from(error.to_string())),
        }
    }
}
