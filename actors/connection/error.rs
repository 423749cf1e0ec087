//! Why a connection did not come about or came to its end, and the codes that say so on the wire.

use std::fmt;
use std::ops::RangeInclusive;

use crate::identity::PeerId;

/// The longest reason that travels with a [`CloseCode`], in bytes; longer ones are cut.
pub const CLOSE_REASON_MAX: usize = 256;

/// Why a connection ended. Each variant says whose doing it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer is no enemy, but the two nodes cannot talk.
    #[error(transparent)]
    PeerIncompatible(#[from] Incompatible),
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    PeerMisbehaved(#[from] Fault),
    /// The other side refused before the handshake was complete. It said so in clear, so anybody on the way may have.
    #[error("refused (not authenticated): {0}")]
    Refused(RejectCode),
    /// The peer closed the connection.
    #[error("the peer closed the connection: {code}{}", Suffix(reason))]
    ClosedByPeer {
        /// Its code.
        code: CloseCode,
        /// Its words; may be empty. Up to 256 bytes from the peer, control characters taken out.
        reason: String,
    },
    /// This side closed the connection.
    #[error("closed: {code}{}", Suffix(reason))]
    ClosedHere {
        /// The code that the peer was told.
        code: CloseCode,
        /// The words that went with it.
        reason: String,
    },
    /// Another peer than the one that was asked for answered.
    #[error("expected peer {expected}, found {found}")]
    WrongPeer {
        /// Who was asked for.
        expected: PeerId,
        /// Who answered.
        found: PeerId,
    },
    /// The peer is this very node.
    #[error("this node dialled itself")]
    SelfDial,
    /// Something took longer than it may.
    #[error("timed out: {0}")]
    TimedOut(Stage),
    /// The transport ended without a goodbye.
    #[error("the connection was lost")]
    Lost,
    /// One direction has sealed 2^64 - 1 frames.
    #[error("the cipher's counter is exhausted")]
    Exhausted,
}

/// Appends a reason if there is one.
struct Suffix<'a>(&'a str);

impl fmt::Display for Suffix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.0)
    }
}

impl Error {
    /// A short word for programs, as in the JSON interface.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::PeerIncompatible(incompatible) => incompatible.kind(),
            Error::PeerMisbehaved(_) => "protocol_error",
            Error::Refused(code) => code.kind(),
            Error::ClosedByPeer { code, .. } | Error::ClosedHere { code, .. } => code.kind(),
            Error::WrongPeer { .. } => "wrong_peer",
            Error::SelfDial => "self_dial",
            Error::TimedOut(_) => "timeout",
            Error::Lost => "lost",
            Error::Exhausted => "internal",
        }
    }

    /// What to tell the peer in a `Close` when this error ends an authenticated connection.
    pub(crate) fn close_code(&self) -> CloseCode {
        match self {
            Error::PeerMisbehaved(Fault::MessageTooLarge { .. }) => CloseCode::TooLarge,
            Error::PeerMisbehaved(_) | Error::PeerIncompatible(_) => CloseCode::Protocol,
            Error::TimedOut(_) => CloseCode::TooSlow,
            Error::SelfDial => CloseCode::SelfDial,
            Error::ClosedHere { code, .. } => *code,
            _ => CloseCode::Normal,
        }
    }
}

/// Why two honest nodes cannot talk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Incompatible {
    /// The other end speaks something else altogether.
    #[error("the other end is no mischief node")]
    NotMischief,
    /// No wire version in common.
    #[error("no common wire version: ours {}-{}, theirs {}-{}", ours.start(), ours.end(), theirs.start(), theirs.end())]
    WireVersion {
        /// What this node speaks.
        ours: RangeInclusive<u8>,
        /// What the peer speaks.
        theirs: RangeInclusive<u8>,
    },
    /// Another application protocol, or another version of it.
    #[error("the peer speaks another application protocol or version")]
    Protocol,
    /// Another network key, or one side has none.
    #[error("the network keys differ")]
    NetworkKey,
    /// No cipher suite in common.
    #[error("no common cipher suite")]
    Suite,
}

impl Incompatible {
    fn kind(&self) -> &'static str {
        match self {
            Incompatible::NotMischief => "handshake_failed",
            Incompatible::Protocol | Incompatible::Suite => "wrong_protocol",
            Incompatible::WireVersion { .. } => "wrong_version",
            Incompatible::NetworkKey => "wrong_network_key",
        }
    }
}

/// How a peer broke the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A preface whose lowest version is above its highest.
    #[error("malformed preface")]
    Preface,
    /// A handshake message of an impossible length.
    #[error("a handshake message of {0} bytes")]
    HandshakeLength(usize),
    /// A handshake message that does not authenticate.
    #[error("a handshake message did not authenticate")]
    Handshake,
    /// Our own handshake message came back.
    #[error("the handshake was reflected")]
    Reflected,
    /// A public key for which every Diffie-Hellman gives zero.
    #[error("a public key of small order")]
    SmallOrderPoint,
    /// The peer shows our own static key under another identity.
    #[error("the peer uses our own static key")]
    OwnStaticKey,
    /// The encrypted hello cannot be read.
    #[error("malformed hello: {0}")]
    Hello(HelloFault),
    /// The identity's signature does not hold.
    #[error("the identity's signature does not hold")]
    Signature,
    /// The preface in the hello is not the one that was received: somebody changed it on the way.
    #[error("the preface was changed on the way")]
    PrefaceChanged,
    /// Bytes where the protocol has none.
    #[error("bytes before their turn")]
    OutOfTurn,
    /// A frame shorter than its tag.
    #[error("a frame of {0} bytes")]
    FrameLength(usize),
    /// A frame that does not authenticate.
    #[error("a frame did not authenticate")]
    Frame,
    /// A record that goes on beyond the end of its frame, or whose inside does not fit.
    #[error("a malformed record of type {0:#04x}")]
    Record(u8),
    /// A type of record below 0x80 that this node does not know.
    #[error("unknown record type {0:#04x}")]
    RecordType(u8),
    /// A record that may not come now.
    #[error("a record of type {0:#04x} before its turn")]
    RecordOutOfTurn(u8),
    /// More bytes on a stream than its window allows.
    #[error("stream {0} overran its window")]
    Window(u32),
    /// A grant that lifts a window above 2^31.
    #[error("a window was granted beyond its limit")]
    Grant,
    /// A message above the limit that was announced.
    #[error("a message of {size} bytes, {max} are allowed")]
    MessageTooLarge {
        /// Claimed bytes.
        size: u64,
        /// Allowed bytes.
        max: u32,
    },
    /// A bulk stream that cannot be: wrong id, unknown, or too many at once.
    #[error("bulk stream {0} may not be used like this")]
    Stream(u32),
}

/// What is wrong with a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloFault {
    /// Longer than 4 KiB.
    #[error("too long")]
    TooLong,
    /// No MessagePack map, or a field missing, twice or of another type.
    #[error("encoding")]
    Encoding,
    /// The display name or agent is longer than 64 bytes or has control characters.
    #[error("display name or agent")]
    Text,
    /// A window below 64 KiB or above 16 MiB.
    #[error("limits")]
    Limits,
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Stage {
    /// The whole handshake, up to `Accept`.
    #[error("the handshake")]
    Handshake,
    /// A frame or a large message that came in too slowly.
    #[error("the peer sends too slowly")]
    Progress,
    /// No answer to keep-alive pings.
    #[error("the peer does not answer")]
    KeepAlive,
}

macro_rules! codes {
    (
        $(#[$outer:meta])* $name:ident: $number:ty;
        $($(#[$inner:meta])* $variant:ident = $value:literal, $kind:literal, $text:literal;)*
    ) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$inner])* $variant,)*
            /// A number that this build has no name for.
            Other($number),
        }

        impl $name {
            /// All codes that have a name.
            pub const NAMED: &'static [$name] = &[$($name::$variant),*];

            /// The number on the wire.
            pub const fn number(self) -> $number {
                match self {
                    $($name::$variant => $value,)*
                    $name::Other(number) => number,
                }
            }

            /// The code with a number.
            pub const fn from_number(number: $number) -> $name {
                match number {
                    $($value => $name::$variant,)*
                    _ => $name::Other(number),
                }
            }

            /// A short word for programs, as in the JSON interface.
            pub const fn kind(self) -> &'static str {
                match self {
                    $($name::$variant => $kind,)*
                    $name::Other(_) => "refused",
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $($name::$variant => f.write_str($text),)*
                    $name::Other(number) => write!(f, "code {number}"),
                }
            }
        }
    };
}

codes! {
    /// Why a handshake was refused, sent in clear.
    RejectCode: u8;
    /// No wire version in common.
    WireVersion = 1, "wrong_version", "no common wire version";
    /// Another application protocol.
    Protocol = 2, "wrong_protocol", "another application protocol";
    /// Another network key, or one side has none.
    NetworkKey = 3, "wrong_network_key", "another network key";
    /// No room for more peers.
    Full = 4, "full", "no room for more peers";
    /// Too many handshakes at the moment.
    Busy = 5, "full", "too busy, try again later";
    /// The node is going down.
    ShuttingDown = 6, "stopping", "the node is shutting down";
    /// A handshake message that cannot be read or does not authenticate.
    Handshake = 7, "handshake_failed", "the handshake failed";
    /// The dialler has found another peer than it looked for, or needs this connection no longer.
    Unwanted = 8, "cancelled", "not wanted";
    /// The handshake took too long.
    TimedOut = 9, "timeout", "the handshake took too long";
    /// The address is banned.
    Banned = 10, "banned", "banned";
}

codes! {
    /// Why an authenticated connection is closed. Codes from 0x8000 on are the application's.
    CloseCode: u16;
    /// Nothing is wrong.
    Normal = 0, "by_peer", "done";
    /// The node is going down.
    ShuttingDown = 1, "stopping", "the node is shutting down";
    /// No room for more peers.
    Full = 2, "full", "no room for more peers";
    /// The peer is banned.
    Banned = 3, "banned", "banned";
    /// Another connection to the same peer is kept.
    Duplicate = 4, "duplicate", "another connection is kept";
    /// The node has dialled itself.
    SelfDial = 5, "self_dial", "the node dialled itself";
    /// The peer broke the protocol.
    Protocol = 6, "protocol_error", "protocol error";
    /// The peer is too slow or does not answer.
    TooSlow = 7, "timeout", "too slow";
    /// A message above the limit.
    TooLarge = 8, "too_large", "message too large";
    /// This node failed.
    Internal = 9, "internal", "internal error";
    /// The connection was given up to make room for others.
    Trimmed = 10, "cancelled", "making room for other peers";
    /// This node has no memory to spare.
    Overloaded = 11, "full", "overloaded";
    /// The peer is not wanted any longer.
    Unwanted = 12, "cancelled", "not wanted";
}

impl CloseCode {
    /// What a dialler says in clear that must refuse before the handshake is complete.
    pub(crate) fn as_reject(self) -> RejectCode {
        match self {
            CloseCode::Full => RejectCode::Full,
            CloseCode::Overloaded => RejectCode::Busy,
            CloseCode::Banned => RejectCode::Banned,
            CloseCode::ShuttingDown => RejectCode::ShuttingDown,
            _ => RejectCode::Unwanted,
        }
    }
}

/// Cuts a reason for `Close` to what may be sent, at a character's boundary.
pub(crate) fn cut_reason(reason: &str) -> &str {
    let mut end = reason.len().min(CLOSE_REASON_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

/// A peer's reason as it is shown to people: no control characters that would move a terminal's cursor.
pub(crate) fn shown_reason(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(CLOSE_REASON_MAX)]);
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_numbers_belong_together() {
        for number in 0..=u8::MAX {
            assert_eq!(RejectCode::from_number(number).number(), number);
        }
        for number in 0..=u16::MAX {
            assert_eq!(CloseCode::from_number(number).number(), number);
        }
        assert_eq!(RejectCode::from_number(3), RejectCode::NetworkKey);
        assert_eq!(CloseCode::from_number(999), CloseCode::Other(999));
        assert_eq!(RejectCode::NAMED.len(), 10);
        assert_eq!(CloseCode::NAMED.len(), 13);
    }

    #[test]
    fn reasons_are_cut_and_cleaned() {
        let long = "ä".repeat(200);
        assert_eq!(cut_reason(&long).len(), CLOSE_REASON_MAX);
        assert_eq!(cut_reason("x"), "x");
        assert_eq!(shown_reason(b"a\x1b[31m\nb\xff"), "a[31mb\u{fffd}");
        assert!(shown_reason(&[b'a'; 1000]).len() == CLOSE_REASON_MAX);
    }

    #[test]
    fn errors_read_well() {
        let error = Error::ClosedByPeer {
            code: CloseCode::Banned,
            reason: "spam".into(),
        };
        assert_eq!(
            error.to_string(),
            "the peer closed the connection: banned (spam)"
        );
        let error = Error::from(Incompatible::WireVersion {
            ours: 1..=1,
            theirs: 2..=3,
        });
        assert_eq!(
            error.to_string(),
            "no common wire version: ours 1-1, theirs 2-3"
        );
        assert_eq!(error.kind(), "wrong_version");
    }
}
