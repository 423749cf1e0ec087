//! The driver of a real machine, over any [`Selector`].

use std::io::{self, Read};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use socket2::Socket;

use super::disk::SystemDisk;
use super::driver::{
    Datagram, DetachedSocket, Disk, Driver, Interface, Job, ListenOptions, Ready, Resolver,
    SocketId, Transmit, UdpOptions, Wake, Woken,
};
use super::memory::reserve_one;
use super::offload::OffloadPool;
use super::os::{self, Datagrams, Watch};
use super::resolver::SystemResolver;
use super::select::{Direction, Event, Interest, Selector, WAKER, WATCH_CLOCK, WATCH_INTERFACES};
use super::{socket, udp};
use crate::time::{Instant, WallTime};

/// A deadline missed by more than this while nothing kept the core busy means that the process stood still.
const STANDSTILL: Duration = Duration::from_secs(5);
/// Suspends shorter than this are not told; reading two clocks one after the other has an error too.
const SUSPEND_MIN: Duration = Duration::from_secs(1);
/// Memory that only bursts need is given back before a wait that may last this long.
const LONG_WAIT: Duration = Duration::from_secs(1);

/// What the drivers of one runtime's cores share.
#[derive(Clone)]
pub struct Shared {
    /// The threads for blocking work.
    pub offload: Arc<OffloadPool>,
    /// The files.
    pub disk: Arc<dyn Disk>,
    /// Name resolution.
    pub resolver: Arc<dyn Resolver>,
}

impl Shared {
    /// The machine's own files and names, and a pool of the default size.
    pub fn new() -> Shared {
        Shared {
            offload: Arc::new(OffloadPool::default()),
            disk: Arc::new(SystemDisk),
            resolver: Arc::new(SystemResolver),
        }
    }
}

impl Default for Shared {
    fn default() -> Shared {
        Shared::new()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("offload", &self.offload)
            .finish_non_exhaustive()
    }
}

/// The driver of one core on a real machine. It can be made on one thread and moved to the core's.
pub struct SystemDriver<S: Selector> {
    selector: S,
    slots: Vec<Slot<S::Source>>,
    free: u32,
    shared: Shared,
    /// Made with the first UDP socket.
    datagrams: Option<Box<Datagrams>>,
    clock_watch: Option<Watch>,
    interface_watch: Option<Watch>,
    suspended: u64,
}

/// The place of a socket: 12 bytes on Unix, where a source is the bare descriptor.
struct Slot<Source> {
    generation: u32,
    state: State<Source>,
}

enum State<Source> {
    Open { source: Source, kind: Kind },
    Free { following: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Stream,
    Listener,
    /// `segments`: the kernel segments for us. `is_blocked`: a send found no room, and the socket is watched for it.
    Datagram {
        is_v6: bool,
        segments: bool,
        is_blocked: bool,
    },
}

const NIL: u32 = u32::MAX;

impl<S: Selector> SystemDriver<S> {
    /// A driver over any selector, for one core.
    pub fn with_selector(mut selector: S, shared: &Shared) -> io::Result<SystemDriver<S>> {
        let clock_watch = Watch::clock();
        let clock_watch = clock_watch.filter(|watch| selector.watch(watch, WATCH_CLOCK).is_ok());
        Ok(SystemDriver {
            selector,
            slots: Vec::new(),
            free: NIL,
            shared: shared.clone(),
            datagrams: None,
            clock_watch,
            interface_watch: None,
            suspended: os::suspended_nanos(),
        })
    }

    /// How many sockets are open.
    pub fn open_sockets(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| matches!(slot.state, State::Open { .. }))
            .count()
    }

    fn insert(&mut self, socket: Socket, kind: Kind) -> io::Result<SocketId> {
        let index = match self.free {
            NIL => u32::try_from(self.slots.len()).expect("fewer sockets than descriptors"),
            free => free,
        };
        // A UDP socket that is watched for writing makes an edge with every datagram that leaves it.
        let interest = if kind == Kind::Stream {
            Interest::BOTH
        } else {
            Interest::READ
        };
        let source = self.selector.add(socket, index as usize, interest)?;
        let state = State::Open { source, kind };
        if index as usize == self.slots.len() {
            reserve_one(&mut self.slots);
            self.slots.push(Slot {
                generation: 0,
                state,
            });
        } else {
            let slot = &mut self.slots[index as usize];
            if let State::Free { following } = slot.state {
                self.free = following;
            }
            slot.state = state;
        }
        Ok(SocketId {
            index,
            generation: self.slots[index as usize].generation,
        })
    }

    fn take(&mut self, id: SocketId) -> Option<(Socket, Kind)> {
        let slot = self
            .slots
            .get_mut(id.index as usize)
            .filter(|slot| slot.generation == id.generation)?;
        if let State::Free { .. } = slot.state {
            return None;
        }
        slot.generation = slot.generation.wrapping_add(1);
        let state = std::mem::replace(
            &mut slot.state,
            State::Free {
                following: self.free,
            },
        );
        self.free = id.index;
        match state {
            State::Open { source, kind } => Some((self.selector.remove(source), kind)),
            State::Free { .. } => None,
        }
    }

    fn perform<R>(
        &mut self,
        id: SocketId,
        direction: Direction,
        operation: impl FnMut(&Socket) -> io::Result<R>,
    ) -> io::Result<R> {
        match open_state(&mut self.slots, id) {
            Some(State::Open { source, .. }) => {
                self.selector
                    .perform(source, id.index as usize, direction, operation)
            }
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Runs something that never blocks on the UDP socket `id`.
    fn with_datagram_socket(
        &self,
        id: SocketId,
        operation: impl FnOnce(&Socket, bool) -> io::Result<()>,
    ) -> io::Result<()> {
        let slot = self
            .slots
            .get(id.index as usize)
            .filter(|slot| slot.generation == id.generation);
        match slot.map(|slot| &slot.state) {
            Some(State::Open {
                source,
                kind: Kind::Datagram { is_v6, .. },
            }) => operation(&self.selector.socket(source), *is_v6),
            Some(State::Open { .. }) => Err(io::ErrorKind::InvalidInput.into()),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Waits once and translates what happened.
    fn select(
        &mut self,
        timeout: Option<Duration>,
        ready: &mut Vec<Ready>,
        woken: &mut Woken,
    ) -> io::Result<()> {
        let (mut is_clock, mut is_interfaces) = (false, false);
        let before = ready.len();
        let slots = &self.slots;
        let outcome = self
            .selector
            .select(timeout, &mut |event| match event.token {
                WAKER => woken.by_waker = true,
                WATCH_CLOCK => is_clock = true,
                WATCH_INTERFACES => is_interfaces = true,
                token => ready.extend(slots.get(token).and_then(|slot| slot.ready(token, event))),
            });
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => outcome?,
        }
        for ready in &ready[before..] {
            self.delivered(ready)?;
        }
        if is_interfaces {
            woken.interfaces_changed |= self
                .interface_watch
                .as_ref()
                .is_some_and(Watch::drain_interfaces);
        }
        if let (true, Some(watch)) = (is_clock, &self.clock_watch) {
            watch.drain_clock();
        }
        // Where the clock is watched, a suspend cannot have passed without an event.
        if is_clock || (self.clock_watch.is_none() && timeout != Some(Duration::ZERO)) {
            woken.resumed |= self.has_been_suspended();
        }
        Ok(())
    }

    /// Lets the selector know, and stops watching a UDP socket for the room that it now has.
    fn delivered(&mut self, ready: &Ready) -> io::Result<()> {
        let Some(State::Open { source, kind }) = open_state(&mut self.slots, ready.socket) else {
            return Ok(());
        };
        let token = ready.socket.index as usize;
        if let (Kind::Datagram { is_blocked, .. }, true) = (kind, ready.writable)
            && std::mem::take(is_blocked)
        {
            self.selector.modify(source, token, Interest::READ)?;
        }
        let Ready {
            readable,
            writable,
            read_closed,
            error,
            ..
        } = *ready;
        self.selector.delivered(
            source,
            Event {
                token,
                readable,
                writable,
                read_closed,
                error,
            },
        )
    }

    fn has_been_suspended(&mut self) -> bool {
        let suspended = os::suspended_nanos();
        let before = std::mem::replace(&mut self.suspended, suspended);
        Duration::from_nanos(suspended.saturating_sub(before)) >= SUSPEND_MIN
    }
}

fn open_state<Source>(slots: &mut [Slot<Source>], id: SocketId) -> Option<&mut State<Source>> {
    let slot = slots
        .get_mut(id.index as usize)
        .filter(|slot| slot.generation == id.generation)?;
    Some(&mut slot.state)
}

impl<Source> Slot<Source> {
    fn ready(&self, token: usize, event: Event) -> Option<Ready> {
        let State::Open { .. } = self.state else {
            return None;
        };
        // The token of an open socket is its index.
        let socket = SocketId {
            index: token as u32,
            generation: self.generation,
        };
        let Event {
            readable,
            writable,
            read_closed,
            error,
            ..
        } = event;
        Some(Ready {
            socket,
            readable,
            writable,
            read_closed,
            error,
        })
    }
}

/// The time until `deadline`, rounded up to the selector's millisecond, so that it never wakes before it.
fn timeout(now: Instant, deadline: Instant) -> Duration {
    let nanos = deadline.saturating_duration_since(now).as_nanos();
    let millis = nanos.div_ceil(1_000_000);
    // A longer wait than a day is begun anew; selectors have limits of their own.
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
        .min(Duration::from_secs(24 * 3600))
}

/// Whether a wait that began at `start` for `deadline` ended so late that the process must have stood still.
fn has_stood_still(start: Instant, deadline: Instant, now: Instant) -> bool {
    now.saturating_duration_since(deadline.max(start)) >= STANDSTILL
}

impl<S: Selector> SystemDriver<S> {
    fn open_socket(&self, socket: SocketId) -> io::Result<socket2::SockRef<'_>> {
        let slot = self
            .slots
            .get(socket.index as usize)
            .filter(|slot| slot.generation == socket.generation);
        let Some(State::Open { source, .. }) = slot.map(|slot| &slot.state) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        Ok(self.selector.socket(source))
    }
}

impl<S: Selector> Driver for SystemDriver<S> {
    fn now(&mut self) -> Instant {
        Instant::from_nanos(os::clock_nanos())
    }

    fn wall(&mut self) -> WallTime {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        WallTime::from_unix_nanos(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
    }

    fn random(&mut self, bytes: &mut [u8]) {
        getrandom::fill(bytes)
            .expect("the system's random source answers; nothing is safe without it");
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.selector.waker()
    }

    fn release_code(&mut self) {
        os::release_code();
    }

    fn disk(&self) -> Arc<dyn Disk> {
        self.shared.disk.clone()
    }

    fn resolver(&self) -> Arc<dyn Resolver> {
        self.shared.resolver.clone()
    }

    fn offload(&mut self, job: Job) -> Result<(), Job> {
        self.shared.offload.submit(job)
    }

    fn tcp_listen(&mut self, addr: SocketAddr, options: ListenOptions) -> io::Result<SocketId> {
        self.insert(socket::listen(addr, options)?, Kind::Listener)
    }

    fn tcp_accept(&mut self, listener: SocketId) -> io::Result<(SocketId, SocketAddr)> {
        let (socket, addr) = self.perform(listener, Direction::Read, socket::accept)?;
        Ok((self.insert(socket, Kind::Stream)?, addr))
    }

    fn tcp_connect(
        &mut self,
        remote: SocketAddr,
        local: Option<SocketAddr>,
    ) -> io::Result<SocketId> {
        self.insert(socket::connect(remote, local)?, Kind::Stream)
    }

    fn read(&mut self, socket: SocketId, bytes: &mut [u8]) -> io::Result<usize> {
        self.perform(socket, Direction::Read, |mut socket| {
            retry(|| socket.read(bytes))
        })
    }

    fn write(&mut self, socket: SocketId, bytes: &[u8]) -> io::Result<usize> {
        self.perform(socket, Direction::Write, |socket| {
            retry(|| socket.send_with_flags(bytes, os::SEND_FLAGS))
        })
    }

    fn short_read_drains(&self) -> bool {
        S::SHORT_READ_DRAINS
    }

    fn shutdown_write(&mut self, socket: SocketId) -> io::Result<()> {
        self.perform(socket, Direction::Write, |socket| {
            socket.shutdown(Shutdown::Write)
        })
    }

    fn take_error(&mut self, socket: SocketId) -> Option<io::Error> {
        match self.perform(socket, Direction::Write, |socket| socket.take_error()) {
            Ok(error) => error,
            Err(error) => Some(error),
        }
    }

    fn close(&mut self, socket: SocketId, abort: bool) {
        let Some((socket, kind)) = self.take(socket) else {
            return;
        };
        if let (Kind::Datagram { .. }, Some(datagrams)) = (kind, &mut self.datagrams) {
            datagrams.forget(&socket);
        }
        if abort && kind == Kind::Stream {
            // One that fails is gone already.
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }

    fn detach(&mut self, socket: SocketId) -> Option<DetachedSocket> {
        match open_state(&mut self.slots, socket) {
            Some(State::Open {
                kind: Kind::Stream, ..
            }) => {}
            _ => return None,
        }
        let (socket, _) = self.take(socket)?;
        Some(DetachedSocket(Box::new(socket)))
    }

    fn attach(&mut self, socket: DetachedSocket) -> io::Result<SocketId> {
        let socket = socket.0.downcast::<Socket>().map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "the socket was detached from another kind of driver",
            )
        })?;
        self.insert(*socket, Kind::Stream)
    }

    fn peer_addr(&self, socket: SocketId) -> io::Result<SocketAddr> {
        let addr = self.open_socket(socket)?.peer_addr()?;
        let addr = addr.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        Ok(udp::canonical(addr))
    }

    fn local_addr(&self, socket: SocketId) -> io::Result<SocketAddr> {
        let addr = self.open_socket(socket)?.local_addr()?;
        let addr = addr.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        Ok(udp::canonical(addr))
    }

    fn udp_bind(&mut self, addr: SocketAddr, options: UdpOptions) -> io::Result<SocketId> {
        let addr = udp::canonical(addr);
        let (socket, segments) = udp::bind(addr, options)?;
        self.insert(
            socket,
            Kind::Datagram {
                is_v6: addr.is_ipv6(),
                segments,
                is_blocked: false,
            },
        )
    }

    fn udp_receive(
        &mut self,
        socket: SocketId,
        buffer: &mut [u8],
        each: &mut dyn FnMut(Datagram<'_>),
    ) -> io::Result<usize> {
        let datagrams = self.datagrams.get_or_insert_with(Datagrams::new);
        match open_state(&mut self.slots, socket) {
            Some(State::Open {
                source,
                kind: Kind::Datagram { .. },
            }) => self
                .selector
                .perform(source, socket.index as usize, Direction::Read, |socket| {
                    datagrams.receive(socket, buffer, each)
                }),
            Some(State::Open { .. }) => Err(io::ErrorKind::InvalidInput.into()),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn udp_send(&mut self, socket: SocketId, transmits: &[Transmit<'_>]) -> io::Result<usize> {
        let datagrams = self.datagrams.get_or_insert_with(Datagrams::new);
        let token = socket.index as usize;
        let (source, is_v6, segments, is_blocked) = match open_state(&mut self.slots, socket) {
            Some(State::Open {
                source,
                kind:
                    Kind::Datagram {
                        is_v6,
                        segments,
                        is_blocked,
                    },
            }) => (source, *is_v6, segments, is_blocked),
            Some(State::Open { .. }) => return Err(io::ErrorKind::InvalidInput.into()),
            _ => return Err(io::ErrorKind::NotConnected.into()),
        };
        let outcome = self
            .selector
            .perform(source, token, Direction::Write, |socket| {
                datagrams.send(socket, is_v6, segments, transmits)
            });
        let is_short = match &outcome {
            Ok(sent) => *sent < transmits.len(),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        if is_short && !*is_blocked {
            self.selector.modify(source, token, Interest::BOTH)?;
            *is_blocked = true;
        }
        outcome
    }

    fn udp_membership(
        &mut self,
        socket: SocketId,
        group: IpAddr,
        interface: u32,
        join: bool,
    ) -> io::Result<()> {
        self.with_datagram_socket(socket, |socket, _| {
            udp::membership(socket, group, interface, join)
        })
    }

    fn udp_multicast(
        &mut self,
        socket: SocketId,
        ttl: u8,
        loopback: bool,
        interface: Option<u32>,
    ) -> io::Result<()> {
        self.with_datagram_socket(socket, |socket, is_v6| {
            udp::multicast(socket, is_v6, ttl, loopback, interface)
        })
    }

    fn interfaces(&mut self) -> io::Result<Vec<Interface>> {
        os::interfaces()
    }

    fn watch_interfaces(&mut self) -> io::Result<()> {
        if self.interface_watch.is_none() {
            let watch = Watch::interfaces()?;
            self.selector.watch(&watch, WATCH_INTERFACES)?;
            self.interface_watch = Some(watch);
        }
        Ok(())
    }

    fn wait(&mut self, deadline: Option<Instant>, ready: &mut Vec<Ready>) -> io::Result<Woken> {
        let before = ready.len();
        let mut woken = Woken::default();
        let mut now = self.now();
        let start = now;
        if let Some(datagrams) = &mut self.datagrams
            && deadline.is_none_or(|deadline| deadline > now + LONG_WAIT)
        {
            datagrams.release();
        }
        loop {
            let timeout = deadline.map(|deadline| timeout(now, deadline));
            self.select(timeout, ready, &mut woken)?;
            if timeout != Some(Duration::ZERO) {
                now = self.now();
            }
            if let Some(deadline) = deadline {
                woken.resumed |= has_stood_still(start, deadline, now);
            }
            // A selector may return early: after a signal, or a clock that was set by a little.
            let is_due = deadline.is_some_and(|deadline| now >= deadline);
            if is_due || woken != Woken::default() || ready.len() > before {
                return Ok(woken);
            }
        }
    }
}

/// Repeats what a signal interrupted.
fn retry<R>(mut operation: impl FnMut() -> io::Result<R>) -> io::Result<R> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

impl<S: Selector> Drop for SystemDriver<S> {
    /// Wakers may keep the selector alive, so all registrations are ended.
    fn drop(&mut self) {
        for slot in self.slots.drain(..) {
            if let State::Open { source, .. } = slot.state {
                drop(self.selector.remove(source));
            }
        }
        for watch in [&self.clock_watch, &self.interface_watch]
            .into_iter()
            .flatten()
        {
            self.selector.unwatch(watch);
        }
    }
}

impl<S: Selector> std::fmt::Debug for SystemDriver<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SystemDriver")
            .field("sockets", &self.open_sockets())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "system_tests.rs"]
mod tests;
