//! What can be wrong with names, services and packets.

use mischief_reactor::AskError;

/// Why a name is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// A label that is empty or too long.
    #[error("a label has 1 to 63 bytes, this one has {bytes}")]
    Label {
        /// Its bytes.
        bytes: usize,
    },
    /// More than a name may have.
    #[error("a name has at most 255 bytes, this one has {bytes}")]
    TooLong {
        /// Its bytes on the wire.
        bytes: usize,
    },
}

/// Why a packet is thrown away. Nobody is told; a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum WireError {
    /// No DNS message, or a damaged one.
    #[error("the packet is malformed")]
    Malformed,
    /// An operation or an answer code other than 0 (RFC 6762 §18.3, §18.11).
    #[error("the packet is of a kind that multicast DNS does not have")]
    NotMulticastDns,
}

/// Why a service cannot be registered or browsed for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MdnsError {
    /// The type is none.
    #[error(
        "a service type is `_name._tcp` or `_name._udp` with a name of 1 to 15 letters, digits and single hyphens, a letter among them"
    )]
    ServiceType,
    /// The instance's name has no bytes, more than 63, or control characters (RFC 6763 §4.1.1).
    #[error("an instance name has 1 to 63 bytes and no control characters")]
    Instance,
    /// A port of 0.
    #[error("a service has a port from 1 to 65535")]
    Port,
    /// A key of the TXT record that is none (RFC 6763 §6.4).
    #[error("a TXT key has 1 to 64 printable ASCII characters and no `=`: {key:?}")]
    TxtKey {
        /// The key.
        key: String,
    },
    /// One string of the TXT record is longer than a string can be.
    #[error("a TXT entry has at most 255 bytes with its key, {key:?} has {bytes}")]
    TxtEntry {
        /// Its key.
        key: String,
        /// Its bytes.
        bytes: usize,
    },
    /// The TXT record is too large in all.
    #[error("a TXT record has at most 1300 bytes, this one has {bytes}")]
    TxtSize {
        /// Its bytes.
        bytes: usize,
    },
    /// The same instance of the same type is registered here already.
    #[error("this service is registered here already")]
    Duplicate,
    /// As many as there may be.
    #[error("there may be at most {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// There is no registration, browse or service like this.
    #[error("there is no such service")]
    Unknown,
}

impl MdnsError {
    /// The stable name for programs: part of the JSON interface.
    pub const fn kind(&self) -> &'static str {
        match self {
            MdnsError::Duplicate => "duplicate",
            MdnsError::TooMany { .. } => "full",
            MdnsError::Unknown => "gone",
            _ => "bad_request",
        }
    }
}

/// Why something about services on the local network failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MdnsFailure {
    /// It cannot be done as asked.
    #[error(transparent)]
    Refused(#[from] MdnsError),
    /// No answer of this node itself.
    #[error(transparent)]
    Unanswered(#[from] AskError),
}

impl MdnsFailure {
    /// The stable name of this error in the machine interface.
    pub const fn kind(&self) -> &'static str {
        match self {
            MdnsFailure::Refused(error) => error.kind(),
            MdnsFailure::Unanswered(AskError::NoReply) => "stopping",
            MdnsFailure::Unanswered(AskError::TimedOut { .. }) => "timeout",
            MdnsFailure::Unanswered(AskError::OnCoreThread) => "internal",
            MdnsFailure::Unanswered(_) => "busy",
        }
    }
}
