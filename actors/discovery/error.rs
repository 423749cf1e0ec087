//! What a failed dial says about a candidate.

use std::time::Duration;

use crate::peers::ConnectError;

/// How bad a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It may work next time.
    #[error("it could not be reached")]
    Transient,
    /// It does not want us, or we not it, and that will hardly change soon.
    #[error("it is not for us")]
    Unfit,
    /// It is this node.
    #[error("it is this node itself")]
    Own,
}

impl Fault {
    /// What an error means.
    pub fn of(error: &ConnectError) -> Fault {
        match error.kind() {
            "self_dial" => Fault::Own,
            "wrong_protocol" | "wrong_version" | "wrong_network_key" | "wrong_peer" | "banned" => {
                Fault::Unfit
            }
            _ => Fault::Transient,
        }
    }

    /// How long a candidate waits after the first such failure.
    pub(crate) const fn first_wait(self) -> Duration {
        match self {
            Fault::Transient => Duration::from_secs(5),
            Fault::Unfit | Fault::Own => Duration::from_secs(600),
        }
    }
}
