//! Whom to dial of those that were found. Sources (mDNS, the DHT, anything else) say where somebody may be; this subsystem
//! asks [`peers`](crate::peers) to connect, as long as the node has fewer peers than it wants.
//!
//! A [`Find`] is a hint and no more: who really is there turns out in the handshake. Every candidate is dialled once at a time,
//! a few candidates at a time, and after failures at intervals that double. Two nodes that find each other at once do not both
//! dial: the one with the smaller id does, the other waits a little first.
//!
//! Left out: reconnection to peers that were connected (that is for `peers`), and any judgement of sources.
//!
//! | file | what |
//! |---|---|
//! | `machine.rs` | [`Discovery`]: finds in, dials out |
//! | `find.rs` | [`Find`], [`Source`] |
//! | `error.rs` | what a failed dial says about a candidate |
//! | `actor.rs` | the shell |

pub mod actor;
mod error;
mod find;
mod machine;
#[cfg(test)]
mod tests;

pub use error::Fault;
pub use find::{Find, Source};
pub use machine::{
    ADDRS_MAX, CANDIDATES_MAX, Candidate, DIALS_MAX, Dial, DialNumber, Discovery, DiscoveryEvent,
    WANTED_DEFAULT,
};
