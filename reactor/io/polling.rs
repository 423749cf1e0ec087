//! The driver over `polling`: besides epoll, kqueue and IOCP also event ports and plain `poll`.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use polling::{Events, PollMode, Poller};
use socket2::{SockRef, Socket};

use super::driver::Wake;
use super::os::Watch;
use super::select::{Direction, Event, Interest, Selector, WAKER};
use super::system::{Shared, SystemDriver};

/// Events a wait takes from the kernel at once; the rest comes with the next one.
const EVENTS_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not 0");

/// The driver for systems that `mio` does not know.
pub type PollingDriver = SystemDriver<PollingSelector>;

impl PollingDriver {
    /// A driver for one core. It asks for edges where the system has them.
    ///
    /// # Errors
    ///
    /// When the system has no file descriptors left.
    pub fn new(shared: &Shared) -> io::Result<PollingDriver> {
        SystemDriver::with_selector(PollingSelector::new(false)?, shared)
    }

    /// A driver that makes its edges itself, as on systems that have none: a socket is watched from `WouldBlock` to
    /// the next event.
    ///
    /// # Errors
    ///
    /// As [`PollingDriver::new`].
    pub fn without_edges(shared: &Shared) -> io::Result<PollingDriver> {
        SystemDriver::with_selector(PollingSelector::new(true)?, shared)
    }
}

/// `polling`'s selector.
#[derive(Debug)]
pub struct PollingSelector {
    waker: Arc<PollingWaker>,
    events: Events,
    has_edges: bool,
}

/// A socket, and which of its directions an event is awaited for where the system has no edges.
#[derive(Debug)]
pub struct PollingSource {
    socket: Socket,
    armed: Interest,
}

#[derive(Debug)]
struct PollingWaker {
    poller: Poller,
    is_woken: AtomicBool,
}

impl Wake for PollingWaker {
    fn wake(&self) {
        // Set first: whoever sees the wait end early then sees why.
        self.is_woken.store(true, Ordering::SeqCst);
        if let Err(error) = self.poller.notify() {
            log::error!("cannot wake a core: {error}");
        }
    }
}

impl PollingSelector {
    fn new(never_edges: bool) -> io::Result<PollingSelector> {
        let poller = Poller::new()?;
        let has_edges = poller.supports_edge() && !never_edges;
        let waker = Arc::new(PollingWaker {
            poller,
            is_woken: AtomicBool::new(false),
        });
        Ok(PollingSelector {
            waker,
            events: Events::with_capacity(EVENTS_MAX),
            has_edges,
        })
    }

    fn poller(&self) -> &Poller {
        &self.waker.poller
    }

    fn mode(&self) -> PollMode {
        if self.has_edges {
            PollMode::Edge
        } else {
            PollMode::Oneshot
        }
    }

    /// Without edges: awaits events of `armed` and no others. A socket that nothing is awaited of is not registered,
    /// since `poll` would tell of its end again and again.
    fn set_armed(
        &self,
        source: &mut PollingSource,
        token: usize,
        armed: Interest,
    ) -> io::Result<()> {
        let was_armed = std::mem::replace(&mut source.armed, armed);
        match (was_armed == Interest::NONE, armed == Interest::NONE) {
            (true, true) => Ok(()),
            (false, true) => self.poller().delete(&source.socket),
            // SAFETY: the driver removes its sources before it drops them, also when it is dropped itself.
            (true, false) => unsafe {
                self.poller()
                    .add_with_mode(&source.socket, event(token, armed), PollMode::Oneshot)
            },
            (false, false) => self.poller().modify(&source.socket, event(token, armed)),
        }
    }
}

fn event(token: usize, interest: Interest) -> polling::Event {
    polling::Event::new(token, interest.readable, interest.writable)
}

impl Selector for PollingSelector {
    type Source = PollingSource;

    /// `polling` does not pass on that the peer has shut down its half.
    const SHORT_READ_DRAINS: bool = false;

    fn add(
        &mut self,
        socket: Socket,
        token: usize,
        interest: Interest,
    ) -> io::Result<PollingSource> {
        // SAFETY: the driver removes its sources before it drops them, also when it is dropped itself.
        unsafe {
            self.poller()
                .add_with_mode(&socket, event(token, interest), self.mode())
        }?;
        Ok(PollingSource {
            socket,
            armed: interest,
        })
    }

    fn modify(
        &mut self,
        source: &mut PollingSource,
        token: usize,
        interest: Interest,
    ) -> io::Result<()> {
        if self.has_edges {
            return self.poller().modify_with_mode(
                &source.socket,
                event(token, interest),
                PollMode::Edge,
            );
        }
        self.set_armed(source, token, interest)
    }

    fn remove(&mut self, source: PollingSource) -> Socket {
        if (self.has_edges || source.armed != Interest::NONE)
            && let Err(error) = self.poller().delete(&source.socket)
        {
            log::debug!("a socket was not registered: {error}");
        }
        source.socket
    }

    fn socket<'a>(&self, source: &'a PollingSource) -> SockRef<'a> {
        SockRef::from(&source.socket)
    }

    fn perform<R>(
        &mut self,
        source: &mut PollingSource,
        token: usize,
        direction: Direction,
        mut operation: impl FnMut(&Socket) -> io::Result<R>,
    ) -> io::Result<R> {
        let outcome = operation(&source.socket);
        if let Err(error) = &outcome
            && error.kind() == io::ErrorKind::WouldBlock
            && !self.has_edges
        {
            let mut armed = source.armed;
            match direction {
                Direction::Read => armed.readable = true,
                Direction::Write => armed.writable = true,
            }
            if armed != source.armed {
                self.set_armed(source, token, armed)?;
            }
        }
        outcome
    }

    fn delivered(&mut self, source: &mut PollingSource, event: Event) -> io::Result<()> {
        if self.has_edges {
            return Ok(());
        }
        let armed = Interest {
            readable: source.armed.readable && !event.readable,
            writable: source.armed.writable && !event.writable,
        };
        // One shot takes all directions, so what is still awaited is armed anew in any case.
        self.set_armed(source, event.token, armed)
    }

    fn watch(&mut self, source: &Watch, token: usize) -> io::Result<()> {
        #[cfg(unix)]
        {
            use std::os::fd::AsFd;
            // What is watched is drained with every event, so levels do where there are no edges. Where there are not
            // even levels, nothing is told after the first event.
            let mode = match (self.has_edges, self.poller().supports_level()) {
                (true, _) => PollMode::Edge,
                (false, true) => PollMode::Level,
                (false, false) => PollMode::Oneshot,
            };
            // SAFETY: the driver ends the watch before it drops its source.
            unsafe {
                self.poller()
                    .add_with_mode(&source.as_fd(), event(token, Interest::READ), mode)
            }
        }
        #[cfg(not(unix))]
        {
            let _ = token;
            match *source {}
        }
    }

    fn unwatch(&mut self, source: &Watch) {
        #[cfg(unix)]
        if let Err(error) = self.poller().delete(source) {
            log::debug!("a watch was not registered: {error}");
        }
        #[cfg(not(unix))]
        match *source {}
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn select(&mut self, timeout: Option<Duration>, each: &mut dyn FnMut(Event)) -> io::Result<()> {
        self.events.clear();
        self.waker.poller.wait(&mut self.events, timeout)?;
        if self.waker.is_woken.swap(false, Ordering::SeqCst) {
            each(Event {
                token: WAKER,
                readable: true,
                writable: false,
                read_closed: false,
                error: false,
            });
        }
        for event in self.events.iter() {
            let error = event.is_err().unwrap_or(false);
            let read_closed = event.is_interrupt();
            each(Event {
                token: event.key,
                readable: event.readable || read_closed,
                writable: event.writable || error,
                read_closed,
                error,
            });
        }
        Ok(())
    }
}
