//! One encrypted connection between two nodes, from the first address tried to the last byte sent.
//!
//! - `admission`: which inbound sockets may wait and which may run a handshake, shared by all cores.
//! - `dial`: happy-eyeballs dialling of one node over several addresses.
//! - `dial_error`: why a dial failed, address by address.
//! - `endpoint`: what a user types as an address.
//! - `reason`: why a handshake was refused and why a connection ended.

pub mod admission;
pub mod dial;
pub mod dial_error;
pub mod endpoint;
pub mod reason;
