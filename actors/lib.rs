//! The subsystems of mischief. One folder is one subsystem is one actor: a sans-IO machine and a thin shell around it.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod connection;
pub mod dht;
pub mod discovery;
pub mod identity;
pub mod messages;
pub mod peers;

pub use mischief_mdns as mdns;
