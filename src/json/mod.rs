//! The line protocol of `mischief node --json`, without any IO: lines to commands, and answers and events to lines.
//!
//! `docs/json.md` is its public description; a test compares the two both ways. [`LineReader`] cuts input into lines and
//! never holds more than [`LINE_SIZE_MAX`] of it, [`parse`] makes a [`Request`] of a line, and [`to_line`] makes a line
//! of a [`Reply`] or an [`Event`]. Carrying commands out is the program's business.
//!
//! The parser is strict. A member that a command does not know is refused instead of passed over: a misspelt `peer` of
//! `send` would reach everybody, and a misspelt `peer_id` of `connect` would trust anybody.

mod command;
pub mod dht;
mod error;
mod line;
mod mdns;
mod output;
mod peers;
pub mod requests;

pub use command::{COMMANDS, Command, CommandShape, Receivers, Request, RequestId, parse};
pub use error::{DISCONNECT_REASONS, ErrorKind, RequestError};
pub use line::{LINE_SIZE_MAX, Line, LineReader};
pub use mdns::{FoundService, MdnsCommand, MdnsLine, MdnsServices, RegisteredService, TxtEntries};
pub use output::{Answer, EVENTS, Event, EventShape, PeerEntry, Reply, SendFailure, to_line};
pub use peers::{
    BanTarget, NetworkCommand, PeerName, bans_answer, book_answer, cleared_answer, peer_answer,
    queue_answer, with_notice_event,
};
