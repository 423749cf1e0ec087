//! Peer-to-peer networking for machines with little memory.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod data_dir;
pub mod identity_file;
pub mod json;
#[cfg(test)]
mod memory_disk;
pub mod network_key;
pub mod terminal;

pub use mischief_actors::connection::endpoint::{parse_addr, parse_listen_addr};
pub use mischief_actors::identity::{ParsePeerIdError, PeerId, PeerIdPrefix};
