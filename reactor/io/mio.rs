//! The driver over `mio`: epoll, kqueue, IOCP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use socket2::{SockRef, Socket};

use super::driver::Wake;
use super::os::Watch;
use super::select::{Direction, Event, Interest, Selector, WAKER};
use super::system::{Shared, SystemDriver};
use source::Source;

/// Events a wait takes from the kernel at once; the rest comes with the next one.
const EVENTS_MAX: usize = 256;

/// The default driver.
pub type MioDriver = SystemDriver<MioSelector>;

impl MioDriver {
    /// A driver for one core.
    ///
    /// # Errors
    ///
    /// When the system has no file descriptors left.
    pub fn new(shared: &Shared) -> io::Result<MioDriver> {
        SystemDriver::with_selector(MioSelector::new()?, shared)
    }
}

/// `mio`'s selector.
#[derive(Debug)]
pub struct MioSelector {
    poll: Poll,
    events: Events,
    waker: Arc<MioWaker>,
}

impl MioSelector {
    fn new() -> io::Result<MioSelector> {
        let poll = Poll::new()?;
        let waker = Arc::new(MioWaker(Waker::new(poll.registry(), Token(WAKER))?));
        Ok(MioSelector {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            waker,
        })
    }
}

#[derive(Debug)]
struct MioWaker(Waker);

impl Wake for MioWaker {
    fn wake(&self) {
        if let Err(error) = self.0.wake() {
            log::error!("cannot wake a core: {error}");
        }
    }
}

impl From<Interest> for mio::Interest {
    fn from(interest: Interest) -> mio::Interest {
        match interest {
            Interest {
                readable: true,
                writable: true,
            } => mio::Interest::READABLE | mio::Interest::WRITABLE,
            Interest { writable: true, .. } => mio::Interest::WRITABLE,
            Interest { .. } => mio::Interest::READABLE,
        }
    }
}

impl Selector for MioSelector {
    type Source = Source;

    /// On epoll. kqueue counts what is to read, but has not been tried; IOCP makes no edge before `WouldBlock`.
    const SHORT_READ_DRAINS: bool = cfg!(any(target_os = "linux", target_os = "android"));

    fn add(&mut self, socket: Socket, token: usize, interest: Interest) -> io::Result<Source> {
        let mut source = Source::new(socket);
        source.register(self.poll.registry(), Token(token), interest.into())?;
        Ok(source)
    }

    fn modify(&mut self, source: &mut Source, token: usize, interest: Interest) -> io::Result<()> {
        source.reregister(self.poll.registry(), Token(token), interest.into())
    }

    fn remove(&mut self, mut source: Source) -> Socket {
        if let Err(error) = source.deregister(self.poll.registry()) {
            log::debug!("a socket was not registered: {error}");
        }
        source.into_socket()
    }

    fn socket<'a>(&self, source: &'a Source) -> SockRef<'a> {
        source.socket()
    }

    fn perform<R>(
        &mut self,
        source: &mut Source,
        _token: usize,
        _direction: Direction,
        operation: impl FnMut(&Socket) -> io::Result<R>,
    ) -> io::Result<R> {
        source.perform(operation)
    }

    fn delivered(&mut self, _source: &mut Source, _event: Event) -> io::Result<()> {
        Ok(())
    }

    #[cfg(unix)]
    fn watch(&mut self, source: &Watch, token: usize) -> io::Result<()> {
        use std::os::fd::{AsFd, AsRawFd};
        let fd = source.as_fd().as_raw_fd();
        self.poll.registry().register(
            &mut mio::unix::SourceFd(&fd),
            Token(token),
            mio::Interest::READABLE,
        )
    }

    #[cfg(not(unix))]
    fn watch(&mut self, source: &Watch, _token: usize) -> io::Result<()> {
        match *source {}
    }

    fn unwatch(&mut self, _source: &Watch) {
        // Closing it is enough.
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn select(&mut self, timeout: Option<Duration>, each: &mut dyn FnMut(Event)) -> io::Result<()> {
        self.poll.poll(&mut self.events, timeout)?;
        for event in &self.events {
            let read_closed = event.is_read_closed();
            each(Event {
                token: event.token().0,
                readable: event.is_readable() || read_closed,
                writable: event.is_writable() || event.is_write_closed() || event.is_error(),
                read_closed,
                error: event.is_error(),
            });
        }
        Ok(())
    }
}

/// On Unix the registration is all in the kernel, so a source is the bare descriptor.
#[cfg(unix)]
mod source {
    use std::io;
    use std::os::fd::AsRawFd;

    use mio::event::Source as _;
    use mio::unix::SourceFd;
    use mio::{Interest, Registry, Token};
    use socket2::{SockRef, Socket};

    /// A registered socket.
    #[derive(Debug)]
    pub struct Source(Socket);

    impl Source {
        pub(super) fn new(socket: Socket) -> Source {
            Source(socket)
        }

        pub(super) fn register(
            &mut self,
            registry: &Registry,
            token: Token,
            interest: Interest,
        ) -> io::Result<()> {
            SourceFd(&self.0.as_raw_fd()).register(registry, token, interest)
        }

        pub(super) fn reregister(
            &mut self,
            registry: &Registry,
            token: Token,
            interest: Interest,
        ) -> io::Result<()> {
            SourceFd(&self.0.as_raw_fd()).reregister(registry, token, interest)
        }

        pub(super) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
            SourceFd(&self.0.as_raw_fd()).deregister(registry)
        }

        pub(super) fn socket(&self) -> SockRef<'_> {
            SockRef::from(&self.0)
        }

        pub(super) fn into_socket(self) -> Socket {
            self.0
        }

        pub(super) fn perform<R>(
            &self,
            mut operation: impl FnMut(&Socket) -> io::Result<R>,
        ) -> io::Result<R> {
            operation(&self.0)
        }
    }
}

/// On Windows `mio` keeps the state of its emulation of edges in its own socket types. They are alike below, so one
/// holds sockets of every kind; only `TcpStream` and `UdpSocket` offer `try_io`.
#[cfg(windows)]
mod source {
    use std::io;
    use std::os::windows::io::{FromRawSocket, IntoRawSocket};

    use mio::event::Source as _;
    use mio::net::TcpStream;
    use mio::{Interest, Registry, Token};
    use socket2::{SockRef, Socket};

    /// A registered socket.
    #[derive(Debug)]
    pub struct Source(TcpStream);

    impl Source {
        pub(super) fn new(socket: Socket) -> Source {
            Source(TcpStream::from_std(socket.into()))
        }

        pub(super) fn register(
            &mut self,
            registry: &Registry,
            token: Token,
            interest: Interest,
        ) -> io::Result<()> {
            self.0.register(registry, token, interest)
        }

        pub(super) fn reregister(
            &mut self,
            registry: &Registry,
            token: Token,
            interest: Interest,
        ) -> io::Result<()> {
            self.0.reregister(registry, token, interest)
        }

        pub(super) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
            self.0.deregister(registry)
        }

        pub(super) fn socket(&self) -> SockRef<'_> {
            SockRef::from(&self.0)
        }

        pub(super) fn into_socket(self) -> Socket {
            // SAFETY: `into_raw_socket` has given up this open socket, so it has one owner again.
            unsafe { Socket::from_raw_socket(self.0.into_raw_socket()) }
        }

        pub(super) fn perform<R>(
            &self,
            mut operation: impl FnMut(&Socket) -> io::Result<R>,
        ) -> io::Result<R> {
            self.0.try_io(|| operation(&self.socket()))
        }
    }
}
