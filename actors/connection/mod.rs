//! Encrypted connections between two peers: the wire format of docs/wire.md, as a machine without input or output.
//!
//! A connection begins with a preface in clear and a Noise handshake (`XX_25519_ChaChaPoly_SHA256`, in private networks
//! `XXpsk0`), in which both sides prove their Ed25519 identities. Then it carries frames, which are Noise messages, and
//! in them records of several streams: control, the application's messages, gossip, and bulk data. Each stream but
//! control has a window, so that a slow reader holds up nothing but its own stream.
//!
//! Begin with [`Connection`], which is the whole machine, [`Config`], which all connections of a node share, and
//! [`Sink`], which takes what is received.
//!
//! # Driving a connection
//!
//! The owner reads bytes from a transport and hands them to [`Connection::handle_bytes`]. Once a turn it calls
//! [`Connection::poll_transmit`] and writes what that appends; [`Connection::poll_event`] until `None`; and it arranges
//! to be woken at [`Connection::poll_timeout`], to call [`Connection::handle_timeout`]. [`Event::Authenticated`] is to be
//! answered with [`Connection::accept`] or [`Connection::close`]. [`Event::Finished`] is the end.
//!
//! # What it leaves out
//!
//! Sockets, dialling, admission, and the choice between two connections to one peer: those are of the actors around it.
//! Who is connected to whom: that is `actors/peers`. Meaning of messages: a JSON body is not parsed here. Identities are
//! not stored, static keys not rotated: both come with the configuration.
//!
//! # Files
//!
//! - `machine.rs`: [`Connection`], its phases, what may be asked of it; `state.rs`: what it consists of; `receive.rs` and
//!   `transmit.rs`: its halves; `send.rs`: what it is given to send; `observe.rs`: what can be seen of it.
//! - `preface.rs`, `noise.rs`, `dh.rs`, `hello.rs`, `handshake.rs`: how it begins.
//! - `cipher.rs`, `frame.rs`, `record.rs`: frames from the outside in.
//! - `stream.rs`, `queue.rs`, `reassembly.rs`, `bulk.rs`: windows and what waits in either direction.
//! - `liveness.rs`: pings and round-trip times.
//! - `config.rs`, `error.rs`: what is set, and what goes wrong.
//! - `dial.rs`, `endpoint.rs`: happy-eyeballs dialling of one node over several addresses, as a user types them.
//! - `admission.rs`: which inbound sockets may wait and which may run a handshake, shared by all cores.
//! - `dial_error.rs`, `reason.rs`, `verdict.rs`: why a dial failed, a peer was refused, a connection ended.
//! - `link.rs`: the piece of locked memory that a connection shares with the threads outside.
//! - `actor.rs`, `actor/`: the shells: connection, listener, dialler.

pub mod actor;
pub mod admission;
mod bulk;
mod cipher;
mod config;
mod dh;
pub mod dial;
pub mod dial_error;
pub mod endpoint;
mod error;
mod frame;
mod handshake;
mod hello;
mod link;
mod liveness;
mod machine;
mod noise;
mod observe;
mod preface;
mod queue;
pub mod reason;
mod reassembly;
mod receive;
mod record;
mod send;
mod state;
mod stream;
#[cfg(test)]
mod tests;
mod transmit;
mod verdict;

pub use actor::{
    Common, ConnectionActor, ConnectionMessage, DialOutcome, Dialler, DiallerMessage, Figures,
    Identified, Report,
};
pub use bulk::BulkEvent;
pub use cipher::{KEY_BYTES, Suite, TAG_BYTES};
pub use config::{
    Config, ConnectionLimits, ConnectionTiming, MESSAGE_MAX_TRUSTED, REASSEMBLY_BYTES_MAX,
    WINDOW_MAX, WINDOW_MIN,
};
pub use dial::{ADDRESSES_MAX, Dial, DialConfig};
pub use dial_error::{AttemptFailure, DialError, FailedAttempt, ResolveFailure};
pub use endpoint::{AddrError, Endpoint, parse_addr, parse_listen_addr};
pub use error::{
    CLOSE_REASON_MAX, CloseCode, Error, Fault, HelloFault, Incompatible, RejectCode, Stage,
};
pub use frame::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FRAME_PLAINTEXT_TARGET};
pub use handshake::Authenticated;
pub use hello::{About, HELLO_MAX, Hello, LISTEN_MAX, NAME_MAX};
pub use link::{Deliver, LINK_QUEUE_HIGH, Link, Links, ROOM_WAITERS_MAX, SendError, Sent, Taken};
pub use liveness::Rtt;
pub use machine::{Connection, Event, Sink};
pub use noise::{
    DH_BYTES, HASH_BYTES, MESSAGE_1_BYTES, MESSAGE_1_PSK_BYTES, MESSAGE_2_BYTES, MESSAGE_3_BYTES,
    NetworkKey, Role, StaticKey,
};
pub use preface::{
    MAGIC, PREFACE_BYTES, PROTOCOL_TEXT_MAX, Preface, PrefaceError, ProtocolHash, WIRE_VERSIONS,
};
pub use reason::{DisconnectReason, RefusedReason};
pub use record::{
    BULK_HEADER_MAX, CHANNEL_HEADER_MAX, CONTROL_BODY_MAX, ChannelMessage, Class, EncodeError,
    Encoded, Kind, LargeMessage, Message, PART_MIN, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, Records,
    TYPE_NAME_MAX,
};
pub use send::{CONTROL_QUEUE_MAX, QueueError};
pub use state::Tally;
pub use stream::StreamId;
