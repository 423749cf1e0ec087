//! Actors: state, a mailbox and a place on one core.
//!
//! An [`Actor`] lives on the core that spawned it and is only ever touched there, so it holds no lock. It is given
//! messages ([`Actor::handle`]) and events of the outside world ([`Actor::on_event`]), one at a time, together with a
//! [`Context`] through which it does everything else: send, spawn, watch, open sockets, arm timers.
//!
//! What this deliberately leaves out: messages that are not owned (no borrowing across actors), unbounded sends,
//! sending that waits on a core thread, and moving a living actor to another core.
//!
//! | file | what |
//! |---|---|
//! | `address.rs` | [`ActorId`], [`Address`], [`Recipient`] |
//! | `child.rs` | [`Child`]: how an actor is made, bounded and restarted |
//! | `context.rs` | [`Context`]: what an actor may do |
//! | `cell.rs`, `slot.rs`, `queue.rs` | the erased forms of actors and messages, and the run-queue |
//! | `core.rs`, `schedule.rs`, `lifecycle.rs`, `sockets.rs` | one core: its turn, its run-queue, birth and death, sockets |
//! | `reply.rs`, `shared.rs`, `runtime.rs` | asking, what cores share, threads and handles |

mod address;
mod cell;
mod child;
mod context;
mod core;
mod lifecycle;
mod queue;
mod reply;
mod runtime;
mod schedule;
mod shared;
mod slot;
mod sockets;
mod stats;

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::io::driver::{Datagram, SocketId};
use crate::io::wheel::TimerId;
use crate::time::Instant;

pub use address::{ActorId, Address, Recipient};
pub use child::{Backoff, Child, MailboxLimits, Restart};
pub use context::{Context, OffloadError, Outside};
pub use core::{Core, Turn};
pub use lifecycle::SpawnError;
pub use reply::{Answer, AskError, OneShot, Reply, Signal, WaitError, Waiter};
pub use runtime::{DriverKind, Handle, Runtime, RuntimeBuilder, StartError, assemble};
pub use shared::{Limits, NodeId, SendError, TrySendError};
pub use stats::{ActorStats, CoreStats, STALLS_KEPT, Snapshot, Stall};

/// What may be sent to an actor. A message of at most 32 bytes travels inline in the run-queue, a larger one is boxed.
pub trait Message: Send + 'static {
    /// Bytes this message owns outside of itself, for the byte bound of the mailbox. Must not change while the
    /// message is queued.
    fn heap_bytes(&self) -> usize {
        0
    }
}

impl Message for () {}

/// State with a mailbox. See the [module](self).
pub trait Actor: Sized + 'static {
    /// What it can be sent; usually an enum.
    type Message: Message;

    /// Runs once before the first message, and again after each restart.
    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let _ = cx;
        Ok(())
    }

    /// Handles one message. An error or a panic fails the actor; its [`Restart`] rule decides what follows.
    fn handle(&mut self, message: Self::Message, cx: &mut Context<'_, Self>)
    -> Result<(), Failure>;

    /// Handles one event of a socket, a timer or another actor's life.
    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let _ = (event, cx);
        Ok(())
    }

    /// Runs when the actor is asked to stop, after its children have gone. It may ask for time to drain, during which
    /// it goes on to receive messages and events, and ends it early by [`Context::stop`].
    fn stopping(&mut self, reason: &StopReason, cx: &mut Context<'_, Self>) -> Drain {
        let _ = (reason, cx);
        Drain::Done
    }

    /// Bytes the actor owns outside of itself, for [`ActorStats`].
    fn heap_bytes(&self) -> usize {
        0
    }
}

/// What an actor needs to end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Nothing: it can go now.
    Done,
    /// It wants to go on until it calls [`Context::stop`], at the latest at this instant.
    Until(Instant),
}

/// Why a handler could not go on. Any error converts into it with `?`.
pub struct Failure(Box<dyn Error + Send + Sync>);

impl Failure {
    /// A failure that carries `error`, which may be a plain string.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure(error.into())
    }

    /// The error inside.
    pub fn error(&self) -> &(dyn Error + Send + Sync) {
        &*self.0
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(Box::new(error))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({})", self.0)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why an actor ended or is about to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// It asked for it itself with [`Context::stop`].
    Finished,
    /// Another actor or a handle asked for it.
    Requested,
    /// Its parent stopped.
    ParentStopped,
    /// The runtime shuts down.
    Shutdown,
    /// A handler returned an error and no restart was left.
    Failed(Arc<str>),
    /// A handler panicked and no restart was left.
    Panicked(Arc<str>),
    /// There was no such actor any more when it was watched.
    Unknown,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopReason::Finished => f.write_str("finished"),
            StopReason::Requested => f.write_str("asked to stop"),
            StopReason::ParentStopped => f.write_str("its parent stopped"),
            StopReason::Shutdown => f.write_str("the runtime shuts down"),
            StopReason::Failed(error) => write!(f, "failed: {error}"),
            StopReason::Panicked(message) => write!(f, "panicked: {message}"),
            StopReason::Unknown => f.write_str("no such actor"),
        }
    }
}

/// What the outside world, the clock or another actor's life brings.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A connection attempt of [`Context::tcp_connect`] succeeded.
    Connected {
        /// The connection.
        socket: SocketId,
    },
    /// A connection attempt failed; the socket is gone.
    ConnectFailed {
        /// The id the attempt had.
        socket: SocketId,
        /// Why.
        error: io::Error,
    },
    /// A listener took a connection. It belongs to this actor until given away or closed.
    Accepted {
        /// The listener.
        listener: SocketId,
        /// The new connection, its reading paused until [`Context::resume_reading`] or [`Context::give_socket`].
        socket: SocketId,
        /// The other end.
        from: SocketAddr,
    },
    /// A listener could not accept (out of file descriptors or memory). It is tried again by itself after a pause.
    AcceptFailed {
        /// The listener.
        listener: SocketId,
        /// Why.
        error: io::Error,
    },
    /// Another core or actor gave this actor a connection.
    Given {
        /// The connection, its reading paused until [`Context::resume_reading`].
        socket: SocketId,
    },
    /// Bytes of a TCP connection, in the core's read buffer. Mutable so that they can be decrypted in place.
    Data {
        /// The connection.
        socket: SocketId,
        /// The bytes.
        bytes: &'a mut [u8],
    },
    /// All bytes kept back by [`Context::write`] have gone to the kernel.
    Writable {
        /// The connection or UDP socket.
        socket: SocketId,
    },
    /// The peer shut down its writing half; what we write may still arrive.
    ReadClosed {
        /// The connection.
        socket: SocketId,
    },
    /// A connection or a UDP socket broke and is gone.
    Closed {
        /// The id it had.
        socket: SocketId,
        /// Why.
        error: io::Error,
    },
    /// A datagram.
    Datagram {
        /// The UDP socket.
        socket: SocketId,
        /// The datagram.
        datagram: Datagram<'a>,
    },
    /// The deadline set by [`Context::wake_at`] has come.
    Wake,
    /// A timer armed by [`Context::arm`] has come.
    Timer {
        /// Its id.
        timer: TimerId,
        /// The tag it was armed with.
        tag: u32,
    },
    /// The end of the turn in which [`Context::flush_later`] was called: time to seal and write.
    Flush,
    /// Somebody outside has work for the actor in memory that they share ([`Handle::poke`]).
    Poke,
    /// The actor asked about by [`Context::notify_ready`] has room again.
    Ready(ActorId),
    /// A watched actor has ended.
    Stopped {
        /// The actor.
        actor: ActorId,
        /// Why it ended.
        reason: StopReason,
    },
    /// The interfaces or their addresses changed (after [`Context::watch_interfaces`]).
    InterfacesChanged,
    /// The machine slept or the process was stopped (after [`Context::watch_interfaces`]).
    Resumed,
}
