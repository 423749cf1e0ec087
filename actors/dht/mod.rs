//! The Mainline DHT of BitTorrent: peers and small items found through millions of nodes that nobody runs.
//!
//! [`Dht`] is the machine. It takes orders ([`Order`]), datagrams and the time; it gives datagrams, events and a deadline. It is
//! a client and, when it is proven that others reach it, a server.
//!
//! | BEP | what |
//! |---|---|
//! | 5 | the protocol |
//! | 32 | IPv6: a table of its own, `want` |
//! | 33 | scrape: counting a swarm by bloom filters |
//! | 42 | ids that fit addresses; our own address by vote |
//! | 43 | read-only nodes |
//! | 44 | immutable and mutable items |
//! | 51 | sampling info hashes |
//!
//! Left out: BEP 45 (several addresses of one node) and 46 (torrents behind mutable items), proxies, and everything that
//! happens between the peers that are found.
//!
//! | file | what |
//! |---|---|
//! | `bencode.rs`, `message.rs`, `address.rs`, `node_id.rs` | the wire: strict bencode with verbatim slices, KRPC, compact addresses, ids |
//! | `routing.rs` | [`RoutingTable`] |
//! | `lookup.rs` | one iterative lookup |
//! | `token.rs`, `storage.rs`, `item.rs`, `bloom.rs` | what others store with us, and who may |
//! | `limits.rs`, `votes.rs` | quotas; our address |
//! | `net.rs` | one family: table, address, role |
//! | `operation.rs` | orders and outcomes |
//! | `machine.rs`, `serve.rs`, `progress.rs`, `upkeep.rs` | [`Dht`]: in and out; answering; orders going on; keeping the table |
//! | `config.rs`, `saved.rs`, `error.rs`, `dice.rs` | settings, the table as a file, errors, randomness |
//! | `actor.rs` | the shell: sockets, names, the file |
//!
//! # Questions
//!
//! **What can somebody do who runs many nodes?** Answer lookups with lies, but only along the paths that lead through them; see
//! `lookup.rs`. Own a key, if they have enough addresses: ids follow from addresses, and nodes with other ids are neither
//! stored on nor do they end a lookup.
//!
//! **When are we a server?** When a query has come from an address that we have sent nothing to for minutes, or when our own
//! ping to the address that others see has come back to us. A server that no stranger asks for half an hour in a network that
//! is large enough becomes a client again.
//!
//! **Why are unsorted messages refused?** What has two readings is read in two ways by somebody. All large implementations sort.
//!
//! **Why does a flood not end lookups?** Answers leave a third of the quota alone, and queries that wait for room are sent when
//! there is some.

pub mod actor;
pub mod address;
pub mod bencode;
mod bloom;
mod config;
mod dice;
mod error;
pub mod item;
pub mod limits;
pub mod lookup;
pub mod machine;
pub mod message;
pub mod net;
pub mod node_id;
pub mod operation;
mod progress;
pub mod routing;
pub mod saved;
pub mod serve;
pub mod storage;
pub mod token;
pub mod upkeep;
pub mod votes;

#[cfg(test)]
mod tests;

pub use address::{Contact, Family};
pub use bloom::Bloom;
pub use config::{DhtConfig, Role};
pub use error::{OrderError, SavedError};
pub use item::{Item, ItemError, ItemKey, SALT_BYTES_MAX, Signature, VALUE_BYTES_MAX};
pub use machine::{ANNOUNCE_INTERVAL, Dht, DhtEvent, KEPT_MAX, Packet, Stats};
pub use node_id::{NodeId, ParseIdError};
pub use operation::{
    Announcement, MutablePut, OPERATIONS_MAX, OperationId, Order, Outcome, Stored,
};
pub use routing::{RoutingTable, Standing};
pub use saved::{SAVED_BYTES_MAX, Saved};
pub use storage::StorageLimits;
