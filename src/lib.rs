//! Peer-to-peer networking for machines with little memory.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used))]
