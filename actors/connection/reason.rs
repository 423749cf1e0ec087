//! Why a handshake was refused and why a connection ended: for people as text, for programs as a stable `kind`.

use std::io;

use crate::identity::PeerId;

/// Why one of two nodes that could talk to each other did not want the connection.
///
/// Until message 3 of the handshake a refusal comes in clear and is not authenticated: whoever can forge TCP segments can
/// forge it. [`RefusedReason::is_by_the_peer`] tells the two apart.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum RefusedReason {
    /// The node runs another application, or another version of the application's protocol.
    #[error("the node there speaks another application protocol")]
    WrongProtocol,
    /// The two nodes have no wire version in common.
    #[error("{}", versions_text(*ours, *theirs))]
    WrongVersion {
        /// The newest wire version of this node.
        ours: u16,
        /// The newest wire version of the other node; 0 if it did not say.
        theirs: u16,
    },
    /// One node has a network key, or another one than the other node.
    #[error("the network keys differ: both nodes need the same network key, or none")]
    WrongNetworkKey,
    /// Another node answered than the one that was asked for.
    #[error("another node answered: expected {expected}, found {found}")]
    WrongPeer {
        /// Who was asked for.
        expected: PeerId,
        /// Who answered, proven by its signature.
        found: PeerId,
    },
    /// The node has as many peers as it takes.
    #[error("the node has no room for another peer")]
    Full,
    /// The node does not want this peer.
    #[error("the node has banned this peer")]
    Banned,
    /// The two nodes are, or are just being, connected in another way.
    #[error("the two nodes are already connected")]
    Duplicate,
    /// A node reached itself.
    #[error("that address leads back to this node itself")]
    SelfDial,
    /// The node's user closed the connection before it was made.
    #[error("the connection was called off")]
    CalledOff,
    /// The node is shutting down.
    #[error("the node is shutting down")]
    Stopping,
}

impl RefusedReason {
    /// The stable name for programs: part of the JSON interface.
    pub const fn kind(&self) -> &'static str {
        match self {
            RefusedReason::WrongProtocol => "wrong_protocol",
            RefusedReason::WrongVersion { .. } => "wrong_version",
            RefusedReason::WrongNetworkKey => "wrong_network_key",
            RefusedReason::WrongPeer { .. } => "wrong_peer",
            RefusedReason::Full => "full",
            RefusedReason::Banned => "banned",
            RefusedReason::Duplicate => "duplicate",
            RefusedReason::SelfDial => "self_dial",
            RefusedReason::CalledOff => "cancelled",
            RefusedReason::Stopping => "stopping",
        }
    }

    /// Whether the reason says something about the peer itself, so that another address of the same peer would give the
    /// same answer. The others may as well come from a stranger that now sits at an old address.
    pub const fn is_by_the_peer(&self) -> bool {
        matches!(
            self,
            RefusedReason::Full
                | RefusedReason::Banned
                | RefusedReason::Duplicate
                | RefusedReason::CalledOff
                | RefusedReason::Stopping
        )
    }
}

/// Why a connection that had been announced is gone.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DisconnectReason {
    /// This node's user asked for it.
    #[error("disconnected by this node")]
    Requested,
    /// The peer closed the connection in good order.
    #[error("the peer disconnected")]
    ByPeer,
    /// A newer connection to the same peer took its place, because the peer no longer answered on this one.
    #[error("replaced by a newer connection to the same peer")]
    Replaced,
    /// The peer no longer answered.
    #[error("the peer stopped answering")]
    TimedOut,
    /// The connection broke below us.
    #[error("the connection was lost: {}", lost_text(*.0))]
    Lost(io::ErrorKind),
    /// The peer broke the protocol, or its bytes were changed on the way.
    #[error("the peer broke the protocol")]
    PeerMisbehaved,
    /// The peer closed the connection and said why.
    #[error("closed by the peer: {0}")]
    Refused(RefusedReason),
    /// This node needed its place for another peer.
    #[error("disconnected to make room for another peer")]
    Trimmed,
    /// This node has banned it.
    #[error("banned by this node")]
    Banned,
    /// This node is shutting down.
    #[error("this node is shutting down")]
    Stopping,
    /// This node ran out of the memory it allows itself.
    #[error("this node has reached its memory limit")]
    OutOfMemory,
    /// The actor that held the connection failed.
    #[error("an internal failure closed the connection")]
    Internal,
}

impl DisconnectReason {
    /// The stable name for programs: part of the JSON interface.
    pub const fn kind(&self) -> &'static str {
        match self {
            DisconnectReason::Requested => "requested",
            DisconnectReason::ByPeer => "by_peer",
            DisconnectReason::Replaced => "replaced",
            DisconnectReason::TimedOut => "timeout",
            DisconnectReason::Lost(_) => "lost",
            DisconnectReason::PeerMisbehaved => "protocol_error",
            DisconnectReason::Refused(reason) => reason.kind(),
            DisconnectReason::Trimmed => "trimmed",
            DisconnectReason::Banned => "banned_here",
            DisconnectReason::Stopping => "stopping",
            DisconnectReason::OutOfMemory => "out_of_memory",
            DisconnectReason::Internal => "internal",
        }
    }
}

fn versions_text(ours: u16, theirs: u16) -> String {
    match theirs {
        0 => format!("the node there does not speak wire version {ours}; update the older one"),
        _ => format!(
            "the node there speaks wire version {theirs}, this node {ours}; update the older one"
        ),
    }
}

/// A few plain words for the ways in which TCP breaks; the system's own name for the rest.
fn lost_text(kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::UnexpectedEof => "the peer went away without a word".into(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset by the peer".into(),
        io::ErrorKind::ConnectionAborted => "aborted".into(),
        io::ErrorKind::TimedOut => "the network no longer reaches the peer".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_snake_case_and_texts_are_sentences() {
        let id = PeerId::from_bytes([7; 32]);
        let refused = [
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
        ];
        let mut kinds: Vec<&str> = refused.iter().map(RefusedReason::kind).collect();
        assert!(
            refused
                .iter()
                .all(|reason| reason.to_string().len() > 10 && !reason.to_string().ends_with('.'))
        );
        let gone = [
            DisconnectReason::Requested,
            DisconnectReason::ByPeer,
            DisconnectReason::Replaced,
            DisconnectReason::TimedOut,
            DisconnectReason::Lost(io::ErrorKind::ConnectionReset),
            DisconnectReason::PeerMisbehaved,
            DisconnectReason::OutOfMemory,
            DisconnectReason::Internal,
        ];
        kinds.extend(gone.iter().map(DisconnectReason::kind));
        for kind in &kinds {
            assert!(
                kind.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{kind}"
            );
        }
        let count = kinds.len();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), count, "two reasons share a kind");
        assert_eq!(
            DisconnectReason::Refused(RefusedReason::Full).kind(),
            "full"
        );
    }
}
