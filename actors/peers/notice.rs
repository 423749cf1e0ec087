//! What [`Network`](super::Network) tells, and what it is told of a peer besides its introduction.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::PeerId;
use super::bans::Target;
use super::reconnect::GaveUp;
use crate::connection::Endpoint;

/// How a peer came to be connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Found {
    /// It dialled us.
    Inbound,
    /// A user asked for it.
    Asked,
    /// It had been connected before.
    Reconnected,
    /// From the address book.
    Book,
}

impl Found {
    /// The stable name for programs: part of the JSON interface.
    pub const fn name(self) -> &'static str {
        match self {
            Found::Inbound => "inbound",
            Found::Asked => "asked",
            Found::Reconnected => "reconnected",
            Found::Book => "book",
        }
    }
}

/// Something that happened to the network around a node, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A peer is lost and will be dialled again.
    Reconnecting {
        /// Who.
        peer: PeerId,
        /// Where.
        endpoint: Endpoint,
        /// At the latest after this time.
        within: Duration,
    },
    /// A lost peer is not dialled any more.
    GaveUp {
        /// Who.
        peer: PeerId,
        /// Why.
        why: GaveUp,
    },
    /// Somebody is banned, here and now.
    Banned {
        /// Who.
        target: Target,
        /// For how long; `None`: until it is lifted.
        lasts: Option<Duration>,
    },
    /// A ban is over.
    Unbanned {
        /// Who.
        target: Target,
        /// Its time has come; otherwise it was lifted.
        is_expired: bool,
    },
    /// Two machines have one identity. One of them is refused while the other is connected.
    SeenTwice {
        /// The identity; it may be this node's own.
        peer: PeerId,
        /// Where the one that stays is.
        addr: SocketAddr,
        /// Where the other one is, if it is not this node.
        other: Option<SocketAddr>,
    },
    /// Others see this node at this address.
    ExternalAddr {
        /// The address, with the port that this node listens on.
        addr: SocketAddr,
    },
}

impl Notice {
    /// The stable name for programs: part of the JSON interface.
    pub const fn kind(&self) -> &'static str {
        match self {
            Notice::Reconnecting { .. } => "peer_reconnecting",
            Notice::GaveUp { .. } => "peer_given_up",
            Notice::Banned { .. } => "banned",
            Notice::Unbanned { .. } => "unbanned",
            Notice::SeenTwice { .. } => "identity_conflict",
            Notice::ExternalAddr { .. } => "external_address",
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Reconnecting {
                peer,
                endpoint,
                within,
            } => write!(
                f,
                "{} will be dialled again at {endpoint} within {} s",
                peer.short(),
                within.as_secs().max(1)
            ),
            Notice::GaveUp { peer, why } => {
                write!(f, "{} will not be dialled again: {why}", peer.short())
            }
            Notice::Banned { target, lasts } => match lasts {
                Some(lasts) => write!(f, "{target} is banned for {} s", lasts.as_secs()),
                None => write!(f, "{target} is banned"),
            },
            Notice::Unbanned { target, is_expired } => match is_expired {
                true => write!(f, "the ban of {target} has ended"),
                false => write!(f, "the ban of {target} was lifted"),
            },
            Notice::SeenTwice { peer, addr, other } => match other {
                Some(other) => write!(
                    f,
                    "two machines have the identity of {}: the one at {addr} stays, the one at {other} is refused",
                    peer.short()
                ),
                None => write!(
                    f,
                    "another machine has this node's identity and is connected to {addr}, which therefore refuses this one"
                ),
            },
            Notice::ExternalAddr { addr } => write!(f, "others see this node at {addr}"),
        }
    }
}

/// What a peer says in its hello about addresses. Claims.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Where it sees us.
    pub observed: Option<SocketAddr>,
    /// What it runs.
    pub program: Program,
}

/// What a peer runs, as it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Its program and the version of it.
    pub agent: Box<str>,
    /// Its feature bits.
    pub features: u64,
}

/// What this node knows of a peer besides its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// How it came to be connected.
    pub found: Found,
    /// It is never trimmed, and never given up when lost.
    pub is_protected: bool,
    /// Where it can be dialled, as far as is known.
    pub dialable: Option<Endpoint>,
    /// What it runs.
    pub program: Program,
}
