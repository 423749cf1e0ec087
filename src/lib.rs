//! Peer-to-peer networking for machines with little memory.
//!
//! Read first: [`Node`], a handle to a running node; [`NodeBuilder`], how it is to be; [`Outgoing`], the fast way to one
//! peer.
//!
//! ```
//! use mischief::Node;
//! use serde_json::json;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // One node that listens and answers every "chat" with another.
//! let server = Node::builder().listen("127.0.0.1:0").protocol("chat", "1.0").start()?;
//! let answering = server.downgrade();
//! server.on("chat", move |peer, body| {
//!     println!("{}: {}", peer.short(), body["text"]);
//!     if let Some(node) = answering.upgrade() {
//!         // Not waiting for it: nobody is told whether it was sent.
//!         drop(node.send(peer, "chat", &json!({"text": "hello to you"})));
//!     }
//! });
//!
//! // Another that connects to it; it need not listen.
//! let client = Node::builder().protocol("chat", "1.0").start()?;
//! let (answered, answer) = std::sync::mpsc::channel();
//! client.on("chat", move |_, body| answered.send(body.clone()).unwrap_or(()));
//! let addr = server.listen_addrs()[0].to_string();
//! let peer = client.connect(&addr).wait()?; // or `.await`, in any executor
//! client.send(&peer, "chat", &json!({"text": "hello"})).wait()?;
//! assert_eq!(answer.recv()?["text"], "hello to you");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod data_dir;
pub mod identity_file;
pub mod json;
#[cfg(test)]
mod memory_disk;
pub mod network_key;
mod node;
pub mod terminal;

/// The examples of the README are run with those of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use mischief_actors as actors;
pub use mischief_actors::connection::endpoint::{parse_addr, parse_listen_addr};
pub use mischief_actors::connection::reason::DisconnectReason;
pub use mischief_actors::connection::{EncodeError, Kind, SendError};
pub use mischief_actors::identity::{Identity, ParsePeerIdError, PeerId, PeerIdPrefix};
pub use mischief_reactor as reactor;
pub use node::*;
