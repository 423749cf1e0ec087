//! How the program ends when it does not end well.

use std::fmt;

/// Something failed.
pub(crate) const FAILED: u8 = 1;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;
/// The peer could not be reached.
pub(crate) const UNREACHABLE: u8 = 3;
/// The deadline passed.
pub(crate) const TIMED_OUT: u8 = 4;
/// The peer refused: identity, protocol, network key, ban.
pub(crate) const REFUSED: u8 = 5;

/// Why the program ends, with the exit code that says so to scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// The same for programs that read the JSON interface.
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(error: impl fmt::Display) -> Failure {
        Failure {
            code: FAILED,
            kind: "internal",
            message: error.to_string(),
        }
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Failure {
        Failure {
            code: USAGE,
            kind: "bad_request",
            message: message.to_string(),
        }
    }

    /// The failure to connect to `addr`, by the kind that the JSON interface has for it too.
    pub(crate) fn to_connect(addr: &str, kind: &'static str, error: impl fmt::Display) -> Failure {
        let code = match kind {
            "bad_request" => USAGE,
            "unreachable" => UNREACHABLE,
            "timeout" => TIMED_OUT,
            "stopping" | "cancelled" | "internal" => FAILED,
            _ => REFUSED,
        };
        Failure {
            code,
            kind,
            message: format!("no connection to {addr}: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_their_exit_codes() {
        for (kind, code) in [
            ("unreachable", 3),
            ("timeout", 4),
            ("wrong_protocol", 5),
            ("wrong_network_key", 5),
            ("wrong_peer", 5),
            ("full", 5),
            ("internal", 1),
            ("bad_request", 2),
        ] {
            assert_eq!(Failure::to_connect("a:1", kind, "why").code, code, "{kind}");
        }
    }
}
