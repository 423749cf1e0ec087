//! Requests: messages that want an answer. One side asks for something by a name, the other answers, refuses, or lets the
//! time pass; whatever happens, the asker learns of exactly one outcome.
//!
//! Everything travels in messages of channel [`CHANNEL`] on the stream of the application's messages, so a request keeps its
//! place among the messages sent before and after it; docs/wire.md describes them. [`Requests`] is the machine: which
//! requests are open in either direction, until when, and how many there may be. [`Desk`](actor::Desk) is what the threads
//! of a program and the connections share of it, and [`MessagesActor`](actor::MessagesActor) watches the time.
//!
//! What this deliberately leaves out: the messages that want no answer, which go straight from a program's threads to a
//! connection and back (`actors/connection`); handlers and their types, which are the program's (`src/node`); queues of
//! requests that wait for a peer that is away.
//!
//! | file | what |
//! |---|---|
//! | `message.rs` | what is said about requests, and its bytes |
//! | `machine.rs` | [`Requests`]: what goes in and comes out |
//! | `ledger.rs` | the open requests of one direction, with their deadlines and bounds |
//! | `error.rs` | why there is no answer |
//! | `actor.rs`, `actor/desk.rs` | the shell |
//!
//! # Questions
//!
//! **Why does each open request have an end of its own on both sides?** The asker's deadline travels with the request, so a
//! handler's side forgets a request whose asker has stopped waiting even if no word of it arrives. A side that keeps state
//! only because the other promises to say when it is over can be made to keep it for ever.
//!
//! **Why is a reply to an unknown request ignored, and not an error?** It is what an honest peer sends when its answer and our
//! cancellation cross on the way.
//!
//! **Why are ids counted over the whole node?** A peer without an open request then costs nothing: there is no counter to
//! keep for it, and a late reply still never meets a newer request of the same number.

pub mod actor;
mod error;
mod ledger;
mod machine;
mod message;
#[cfg(test)]
mod tests;

pub use error::{FailureCode, RequestError};
pub use machine::{
    Event, OPEN_MAX, OPEN_PER_PEER_MAX, Received, RequestLimits, RequestStats, Requests,
    TIMEOUT_MAX, TIMEOUT_MIN,
};
pub use message::{CHANNEL, DecodeError, HEADER_MAX, REASON_MAX, RequestId, RequestMessage};
