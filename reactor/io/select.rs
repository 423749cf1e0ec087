//! What a driver asks of a selector: epoll, kqueue, event ports, IOCP, behind one small trait.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, Socket};

use super::driver::Wake;
use super::os::Watch;

/// What a socket is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Bytes, a datagram or a connection.
    pub readable: bool,
    /// Room to write.
    pub writable: bool,
}

impl Interest {
    /// Nothing.
    pub const NONE: Interest = Interest {
        readable: false,
        writable: false,
    };
    /// Reading alone.
    pub const READ: Interest = Interest {
        readable: true,
        writable: false,
    };
    /// Both directions.
    pub const BOTH: Interest = Interest {
        readable: true,
        writable: true,
    };
}

/// What a selector reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// As given to [`Selector::add`] or [`Selector::watch`], or [`WAKER`].
    pub token: usize,
    /// Reading may succeed.
    pub readable: bool,
    /// Writing may succeed.
    pub writable: bool,
    /// Nothing more will come to read, as far as the selector tells.
    pub read_closed: bool,
    /// There is an error to take.
    pub error: bool,
}

/// The token of the waker. Tokens of sockets are far below.
pub const WAKER: usize = usize::MAX - 1;
/// The token under which the clock is watched.
pub(crate) const WATCH_CLOCK: usize = usize::MAX - 2;
/// The token under which the interfaces are watched.
pub(crate) const WATCH_INTERFACES: usize = usize::MAX - 3;

/// A selector of the operating system. A socket's edge comes when it becomes ready after an operation on it gave
/// `WouldBlock`; more of them may come.
pub trait Selector: Sized {
    /// A registered socket. It owns the operating system's.
    type Source;

    /// Whether new bytes make an edge even if the last read gave fewer than asked for instead of `WouldBlock`, and
    /// [`Event::read_closed`] can be relied upon.
    const SHORT_READ_DRAINS: bool;

    /// Registers a non-blocking socket.
    fn add(&mut self, socket: Socket, token: usize, interest: Interest)
    -> io::Result<Self::Source>;
    /// Changes what a socket is watched for. What is ready already is reported again.
    fn modify(
        &mut self,
        source: &mut Self::Source,
        token: usize,
        interest: Interest,
    ) -> io::Result<()>;
    /// Ends the registration and gives the socket back.
    fn remove(&mut self, source: Self::Source) -> Socket;
    /// The socket, for settings and questions. What may block goes through [`Selector::perform`].
    fn socket<'a>(&self, source: &'a Self::Source) -> SockRef<'a>;
    /// Runs an operation, and sees to it that an edge follows when it gives `WouldBlock`.
    fn perform<R>(
        &mut self,
        source: &mut Self::Source,
        token: usize,
        direction: Direction,
        operation: impl FnMut(&Socket) -> io::Result<R>,
    ) -> io::Result<R>;
    /// Takes note that an event has been handed out.
    fn delivered(&mut self, source: &mut Self::Source, event: Event) -> io::Result<()>;
    /// Watches something else for reading, until [`Selector::unwatch`].
    fn watch(&mut self, source: &Watch, token: usize) -> io::Result<()>;
    /// Ends the watch.
    fn unwatch(&mut self, source: &Watch);
    /// A handle that ends [`Selector::select`].
    fn waker(&self) -> Arc<dyn Wake>;
    /// Waits for up to `timeout` (for ever without one) and calls `each` for what has happened. May return early.
    fn select(&mut self, timeout: Option<Duration>, each: &mut dyn FnMut(Event)) -> io::Result<()>;
}

/// Which way an operation moves bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards us.
    Read,
    /// Away from us.
    Write,
}
