//! Services on the same network, found without any infrastructure: multicast DNS (RFC 6762) and DNS-SD (RFC 6763).
//!
//! [`Mdns`] is the machine: a responder that claims names, defends them and answers for them, and a browser that asks,
//! remembers and forgets. It keeps every interface apart. What it tells of others is a hint and no more: anybody on the
//! network can say anything.
//!
//! Left out: domains other than `local`; other record types than those of DNS-SD; subtypes; reverse mapping of addresses;
//! proxying for machines that sleep (RFC 6762 §17 leaves these to whoever wants them). SRV records are not compressed, which
//! legacy queriers require and nobody forbids. What we register ourselves is not reported as found.
//!
//! | file | what |
//! |---|---|
//! | `machine.rs` | [`Mdns`]: what goes in and comes out |
//! | `naming.rs` | probing, tie-break, announcing, conflicts, goodbye |
//! | `responder.rs` | answers: which, when, to whom |
//! | `browser.rs` | questions, and what becomes of what others say |
//! | `link.rs` | the state of one interface |
//! | `cache.rs` | records of others, for their time |
//! | `wire.rs`, `record.rs`, `name.rs` | packets, records, names |
//! | `service.rs` | types, instances, TXT records |
//! | `limits.rs`, `error.rs`, `jitter.rs`, `map.rs` | numbers, errors, chance, a small map |
//! | `actor.rs` | the shell: a socket for each interface and family |
//!
//! # Questions
//!
//! **Why is one interface one link for both families?** Whoever has both gets everything twice otherwise, and would answer
//! twice. Announcements and questions go out over both, an answer over the family of the question.
//!
//! **Why are the addresses of an instance not kept fresh?** They live for two minutes, the pointer to the instance for 75.
//! Refreshing the addresses of everything that was ever found costs every machine a packet a minute for each other one. So a
//! browse keeps the pointer, and an instance that it vouches for keeps what was found last; [`Mdns::resolve`] keeps one
//! instance fresh, and [`Mdns::verify`] finds out about one that does not answer.
//!
//! **Why is a flush bit on a pointer passed over?** Pointers are shared. Some programs set the bit all the same, and each of
//! them would erase all others.
//!
//! **Why is a new record thrown out by chance when the cache is full?** Whoever floods it cannot choose what goes. A record
//! that was heard twice, a second apart, does not go; an honest service is announced twice.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod actor;
mod browser;
mod cache;
mod error;
mod jitter;
pub mod limits;
mod link;
mod machine;
mod map;
mod name;
mod naming;
mod record;
mod responder;
mod service;
#[cfg(test)]
mod tests;
mod wire;

pub use error::{MdnsError, MdnsFailure, NameError};
pub use link::LinkInfo;
pub use machine::{Arrival, Config, InterestId, Mdns, MdnsEvent, MdnsStats, ServiceId, Transmit};
pub use name::{LABEL_BYTES_MAX, NAME_BYTES_MAX, Name};
pub use service::{Found, SERVICE_NAME_BYTES_MAX, Service, ServiceType, TXT_BYTES_MAX, Txt};
