//! Who is connected.

pub mod actor;
mod contest;
mod decide;
mod dials;
mod error;
mod gather;
mod limits;
mod machine;
mod message;
mod table;

pub use crate::connection::Suite;
pub use crate::identity::PeerId;
pub use error::{ConnectError, NotConnected};
pub use limits::PeersLimits;
pub use machine::{NAME_BYTES_MAX, Peers};
pub use message::{
    Answer, DialId, Direction, Introduction, Order, PeerRecord, PeerRef, PeersEvent, ProbeToken,
    RequestId, Traffic,
};
pub use table::PEER_BYTES_MAX;
