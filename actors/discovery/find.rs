//! What a source says.

use std::net::SocketAddr;

use crate::identity::PeerId;

/// Where a peer was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Source {
    /// Multicast DNS on a network of this machine.
    Mdns,
    /// The BitTorrent Mainline DHT.
    Dht,
}

impl Source {
    /// The stable name for programs: part of the JSON interface.
    pub const fn name(self) -> &'static str {
        match self {
            Source::Mdns => "mdns",
            Source::Dht => "dht",
        }
    }
}

/// Somebody may be at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Find {
    /// Where; with a scope if it is link-local.
    pub addr: SocketAddr,
    /// Who, if the source knows. Nobody else is accepted there then.
    pub peer_id: Option<PeerId>,
    /// Who says so.
    pub source: Source,
}
