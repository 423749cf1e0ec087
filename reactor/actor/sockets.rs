//! The sockets of a core: who owns them, reading, accepting, and what waits to be written.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use slab::Slab;

use super::cell::{NONE, State};
use super::core::{Core, MEMORY_RETRY, TimerKind};
use super::shared::System;
use super::{ActorId, Event};
use crate::io::driver::{
    Datagram, DetachedSocket, Driver, Ecn, ListenOptions, Ready, SocketId, Transmit, UdpOptions,
};
use crate::io::memory::{MemoryKind, reserve_one};
use crate::io::{BUFFER_BYTES_MAX, Buffer};
use crate::sabotage::{self, Mutation};

/// How long a listener that ran out of descriptors rests (connection resources come back by others' closing).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Free,
    Listener,
    Connecting,
    Stream,
    Udp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteHalf {
    Open,
    /// To be shut down once the unsent bytes are gone.
    Closing,
    Shut,
}

/// What a core knows of one of its driver's sockets.
pub(crate) struct SocketState {
    generation: u32,
    owner: u32,
    next: u32,
    previous: u32,
    /// Place of its extras, `NONE` if it has none.
    extras: u32,
    kind: Kind,
    write_half: WriteHalf,
    flags: Flags,
}

/// A bit for each of what follows.
#[derive(Clone, Copy, Default)]
struct Flags(u8);

impl Flags {
    /// The owner does not want to read now.
    const PAUSED: u8 = 1;
    /// There may be something to read for which no new edge will come.
    const READABLE: u8 = 1 << 1;
    /// It stands in `requeued` or `starved`.
    const QUEUED: u8 = 1 << 2;
    /// The peer closed or an error is pending: a short read does not mean that all was read.
    const CLOSING: u8 = 1 << 3;
    /// The end of the stream has been reported.
    const READ_CLOSED: u8 = 1 << 4;
    /// A send was refused: the owner waits for `Event::Writable`.
    const WANTS_WRITABLE: u8 = 1 << 5;

    #[inline]
    fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    /// Sets or clears it, and says whether it was set.
    #[inline]
    fn set(&mut self, flag: u8, is_set: bool) -> bool {
        let was_set = self.has(flag);
        self.0 = if is_set {
            self.0 | flag
        } else {
            self.0 & !flag
        };
        was_set
    }
}

/// What only a socket needs whose kernel buffer is full, or whose datagrams have several recipients.
#[derive(Default)]
pub(crate) struct SocketExtras {
    /// Bytes that the kernel has not taken.
    tail: Option<Buffer>,
    /// Ranges of first bytes of datagrams and who gets them.
    routes: Vec<(u8, u8, ActorId)>,
}

/// Places for extras that a core keeps when no socket has any.
const EXTRAS_KEPT: usize = 64;

/// Routes of one UDP socket.
const ROUTES_MAX: usize = 8;

/// Where a datagram lies in the read buffer.
struct Arrived {
    from: SocketAddr,
    to: Option<IpAddr>,
    interface: Option<u32>,
    ttl: Option<u8>,
    ecn: Ecn,
    start: usize,
    len: usize,
}

fn gone() -> io::Error {
    io::Error::new(
        ErrorKind::NotConnected,
        "the socket is closed or belongs to another actor",
    )
}

impl Core {
    fn socket(&self, socket: SocketId) -> Option<&SocketState> {
        self.sockets
            .get(socket.index as usize)
            .filter(|state| state.generation == socket.generation && state.kind != Kind::Free)
    }

    fn socket_mut(&mut self, socket: SocketId) -> Option<&mut SocketState> {
        self.sockets
            .get_mut(socket.index as usize)
            .filter(|state| state.generation == socket.generation && state.kind != Kind::Free)
    }

    /// The state of a socket that `owner` owns.
    fn owned(&mut self, socket: SocketId, owner: ActorId) -> io::Result<&mut SocketState> {
        self.socket_mut(socket)
            .filter(|state| state.owner as usize == owner.index())
            .ok_or_else(gone)
    }

    fn owner_of(&self, socket: SocketId) -> Option<ActorId> {
        self.id_at(self.socket(socket)?.owner)
    }

    fn add_socket(&mut self, socket: SocketId, owner: u32, kind: Kind, is_paused: bool) {
        let index = socket.index as usize;
        while self.sockets.len() <= index {
            reserve_one(&mut self.sockets);
            self.sockets.push(SocketState::free());
        }
        let mut flags = Flags::default();
        flags.set(Flags::PAUSED, is_paused);
        self.sockets[index] = SocketState {
            generation: socket.generation,
            kind,
            flags,
            ..SocketState::free()
        };
        self.sockets_open += 1;
        self.link_socket(socket.index, owner);
    }

    fn link_socket(&mut self, index: u32, owner: u32) {
        let next = std::mem::replace(&mut self.cells[owner as usize].first_socket, index);
        let state = &mut self.sockets[index as usize];
        (state.owner, state.next, state.previous) = (owner, next, NONE);
        if next != NONE {
            self.sockets[next as usize].previous = index;
        }
    }

    fn unlink_socket(&mut self, index: u32) {
        let state = &self.sockets[index as usize];
        let (owner, next, previous) = (state.owner, state.next, state.previous);
        if next != NONE {
            self.sockets[next as usize].previous = previous;
        }
        if previous != NONE {
            self.sockets[previous as usize].next = next;
        } else {
            self.cells[owner as usize].first_socket = next;
        }
    }

    fn forget_socket(&mut self, socket: SocketId) {
        self.unlink_socket(socket.index);
        self.drop_extras(socket.index);
        self.sockets[socket.index as usize] = SocketState::free();
        self.sockets_open -= 1;
    }

    fn socket_extras(&self, state: &SocketState) -> Option<&SocketExtras> {
        self.socket_extras.get(state.extras as usize)
    }

    /// The extras of an open socket, made if it has none.
    fn make_extras(&mut self, index: u32) -> &mut SocketExtras {
        let place = &mut self.sockets[index as usize].extras;
        if *place == NONE {
            *place = self.socket_extras.insert(SocketExtras::default()) as u32;
        }
        &mut self.socket_extras[*place as usize]
    }

    fn drop_extras(&mut self, index: u32) {
        let place = std::mem::replace(&mut self.sockets[index as usize].extras, NONE);
        self.socket_extras.try_remove(place as usize);
        if self.socket_extras.is_empty() && self.socket_extras.capacity() > EXTRAS_KEPT {
            self.socket_extras = Slab::new();
        }
    }

    pub(crate) fn close_socket(&mut self, socket: SocketId, owner: ActorId, abort: bool) {
        if self.owned(socket, owner).is_ok() {
            self.forget_socket(socket);
            self.driver.close(socket, abort);
        }
    }

    pub(crate) fn close_sockets_of(&mut self, id: ActorId) {
        while let Some(index) = self
            .cell(id)
            .map(|cell| cell.first_socket)
            .filter(|index| *index != NONE)
        {
            let generation = self.sockets[index as usize].generation;
            let socket = SocketId { index, generation };
            self.forget_socket(socket);
            self.driver.close(socket, false);
        }
    }

    /// The socket that an actor came by last.
    pub(crate) fn first_socket_of(&self, id: ActorId) -> Option<SocketId> {
        let index = self.cell(id)?.first_socket;
        let state = self.sockets.get(index as usize)?;
        Some(SocketId {
            index,
            generation: state.generation,
        })
    }

    /// Sockets of an actor, for statistics.
    pub(crate) fn count_sockets(&self, first: u32) -> u32 {
        let mut count = 0;
        let mut index = first;
        while index != NONE {
            count += 1;
            index = self.sockets[index as usize].next;
        }
        count
    }

    pub(crate) fn tcp_listen(
        &mut self,
        owner: ActorId,
        addr: SocketAddr,
        options: ListenOptions,
    ) -> io::Result<SocketId> {
        let socket = self.driver.tcp_listen(addr, options)?;
        self.add_socket(socket, owner.index() as u32, Kind::Listener, false);
        Ok(socket)
    }

    pub(crate) fn tcp_connect(
        &mut self,
        owner: ActorId,
        remote: SocketAddr,
        local: Option<SocketAddr>,
    ) -> io::Result<SocketId> {
        let socket = self.driver.tcp_connect(remote, local)?;
        self.add_socket(socket, owner.index() as u32, Kind::Connecting, false);
        Ok(socket)
    }

    pub(crate) fn udp_bind(
        &mut self,
        owner: ActorId,
        addr: SocketAddr,
        options: UdpOptions,
    ) -> io::Result<SocketId> {
        let socket = self.driver.udp_bind(addr, options)?;
        self.add_socket(socket, owner.index() as u32, Kind::Udp, false);
        Ok(socket)
    }

    /// What the driver reports of a socket.
    pub(crate) fn socket_ready(&mut self, ready: Ready) {
        let socket = ready.socket;
        let Some(state) = self.socket_mut(socket) else {
            return;
        };
        if ready.read_closed || ready.error {
            state.flags.set(Flags::CLOSING, true);
        }
        if ready.readable || ready.read_closed || ready.error {
            state.flags.set(Flags::READABLE, true);
        }
        match state.kind {
            Kind::Free => {}
            Kind::Connecting => {
                if ready.writable || ready.error || ready.read_closed {
                    self.connect_ended(socket);
                }
            }
            Kind::Listener | Kind::Stream | Kind::Udp => {
                if ready.writable {
                    self.write_tail(socket);
                }
                if ready.error {
                    self.check_broken(socket);
                }
                self.read_on(socket);
            }
        }
    }

    /// A socket whose budget was spent, or whose reading resumes.
    pub(crate) fn socket_requeued(&mut self, socket: SocketId) {
        if let Some(state) = self.socket_mut(socket) {
            state.flags.set(Flags::QUEUED, false);
            self.read_on(socket);
        }
    }

    fn requeue(&mut self, socket: SocketId) {
        if let Some(state) = self.socket_mut(socket)
            && !state.flags.set(Flags::QUEUED, true)
        {
            self.requeued.push_back(socket);
        }
    }

    /// Reading reports what breaks a connection. Once its stream has ended nobody reads any more.
    fn check_broken(&mut self, socket: SocketId) {
        let is_at_end = |state: &&SocketState| {
            state.kind == Kind::Stream && state.flags.has(Flags::READ_CLOSED)
        };
        if self.socket(socket).filter(is_at_end).is_some()
            && let Some(error) = self.driver.take_error(socket)
        {
            self.broken(socket, error);
        }
    }

    /// A socket is of no use any more: its owner is told.
    fn broken(&mut self, socket: SocketId, error: io::Error) {
        let owner = self.owner_of(socket);
        self.forget_socket(socket);
        self.driver.close(socket, true);
        if let Some(owner) = owner {
            self.invoke(owner, Event::Closed { socket, error });
        }
    }

    fn connect_ended(&mut self, socket: SocketId) {
        let Some(owner) = self.owner_of(socket) else {
            return;
        };
        if let Some(error) = self.driver.take_error(socket) {
            if error.kind() == ErrorKind::WouldBlock {
                return;
            }
            self.forget_socket(socket);
            self.driver.close(socket, true);
            return self.invoke(owner, Event::ConnectFailed { socket, error });
        }
        if let Some(state) = self.socket_mut(socket) {
            state.kind = Kind::Stream;
            self.invoke(owner, Event::Connected { socket });
            // What was written meanwhile.
            self.write_tail(socket);
            self.read_on(socket);
        }
    }

    /// Reads, receives or accepts as far as budget, memory and the owner allow.
    fn read_on(&mut self, socket: SocketId) {
        let Some(state) = self.socket_mut(socket) else {
            return;
        };
        if !state.flags.has(Flags::READABLE)
            || state.flags.has(Flags::PAUSED)
            || state.flags.has(Flags::QUEUED)
        {
            return;
        }
        let kind = state.kind;
        if kind == Kind::Stream && self.shared.memory.is_deaf() {
            return self.starve(socket);
        }
        match kind {
            Kind::Listener => self.accept_on(socket),
            Kind::Stream => self.read_stream(socket),
            Kind::Udp => self.receive_on(socket),
            Kind::Free | Kind::Connecting => {}
        }
    }

    /// Puts off reading until memory has come back.
    fn starve(&mut self, socket: SocketId) {
        if self.starved.is_empty() {
            let owner = TimerKind::MemoryRetry.owner(0);
            self.wheel
                .arm(self.now + MEMORY_RETRY, Duration::ZERO, owner, 0);
        }
        self.sockets[socket.index as usize]
            .flags
            .set(Flags::QUEUED, true);
        self.starved.push_back(socket);
    }

    fn accept_on(&mut self, listener: SocketId) {
        for _ in 0..self.shared.limits.accept_budget {
            let Some(owner) = self.owner_of(listener) else {
                return;
            };
            match self.driver.tcp_accept(listener) {
                Ok((socket, from)) => {
                    self.add_socket(socket, owner.index() as u32, Kind::Stream, true);
                    // A connection may have brought its first bytes along; their edge belongs to it all the same,
                    // but a driver that registers late reports none.
                    self.sockets[socket.index as usize]
                        .flags
                        .set(Flags::READABLE, true);
                    self.invoke(
                        owner,
                        Event::Accepted {
                            listener,
                            socket,
                            from,
                        },
                    );
                    if self
                        .socket(listener)
                        .is_none_or(|state| state.flags.has(Flags::PAUSED))
                    {
                        return;
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return self.set_drained(listener),
                    // The peer gave up before it was accepted.
                    ErrorKind::Interrupted
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::ConnectionReset => {}
                    _ => {
                        self.sockets[listener.index as usize]
                            .flags
                            .set(Flags::QUEUED, true);
                        let owner_kind = TimerKind::AcceptRetry.owner(listener.index);
                        let at = self.now + ACCEPT_RETRY;
                        self.wheel
                            .arm(at, Duration::ZERO, owner_kind, listener.generation);
                        return self.invoke(owner, Event::AcceptFailed { listener, error });
                    }
                },
            }
        }
        self.requeue(listener);
    }

    pub(crate) fn accept_again(&mut self, index: u32, generation: u32) {
        self.socket_requeued(SocketId { index, generation });
    }

    fn set_drained(&mut self, socket: SocketId) {
        if let Some(state) = self.socket_mut(socket) {
            state.flags.set(Flags::READABLE, false);
        }
    }

    fn read_stream(&mut self, socket: SocketId) {
        let mut buffer = self.take_read_buffer();
        let mut left = self.shared.limits.read_budget;
        while let Some(owner) = self.owner_of(socket) {
            let state = &self.sockets[socket.index as usize];
            if state.flags.has(Flags::PAUSED) || state.flags.has(Flags::READ_CLOSED) {
                break;
            }
            if left == 0 {
                self.requeue(socket);
                break;
            }
            let want = buffer.len().min(left);
            match self.driver.read(socket, &mut buffer[..want]) {
                Ok(0) => {
                    let state = &mut self.sockets[socket.index as usize];
                    state.flags.set(Flags::READABLE, false);
                    state.flags.set(Flags::READ_CLOSED, true);
                    self.invoke(owner, Event::ReadClosed { socket });
                    break;
                }
                Ok(count) => {
                    left -= count;
                    let is_closing = self.sockets[socket.index as usize]
                        .flags
                        .has(Flags::CLOSING);
                    if count < want && !is_closing && self.driver.short_read_drains() {
                        self.set_drained(socket);
                    }
                    self.invoke(
                        owner,
                        Event::Data {
                            socket,
                            bytes: &mut buffer[..count],
                        },
                    );
                    if self
                        .socket(socket)
                        .is_none_or(|state| !state.flags.has(Flags::READABLE))
                    {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.set_drained(socket);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.broken(socket, error);
                    break;
                }
            }
        }
        self.read_buffer = buffer;
    }

    fn receive_on(&mut self, socket: SocketId) {
        let mut buffer = self.take_read_buffer();
        let mut left = self.shared.limits.read_budget;
        let mut arrived: Vec<Arrived> = Vec::new();
        while self
            .socket(socket)
            .is_some_and(|state| !state.flags.has(Flags::PAUSED))
        {
            if left == 0 {
                self.requeue(socket);
                break;
            }
            let base = buffer.as_ptr() as usize;
            let result = self
                .driver
                .udp_receive(socket, &mut buffer, &mut |datagram| {
                    arrived.push(Arrived {
                        from: datagram.from,
                        to: datagram.to,
                        interface: datagram.interface,
                        ttl: datagram.ttl,
                        ecn: datagram.ecn,
                        start: (datagram.data.as_ptr() as usize).wrapping_sub(base),
                        len: datagram.data.len(),
                    });
                });
            match result {
                Ok(_) => {
                    for one in arrived.drain(..) {
                        left = left.saturating_sub(one.len.max(1));
                        self.dispatch(socket, one, &mut buffer);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.set_drained(socket);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.broken(socket, error);
                    break;
                }
            }
        }
        self.read_buffer = buffer;
    }

    fn dispatch(&mut self, socket: SocketId, arrived: Arrived, buffer: &mut [u8]) {
        let Some(data) = buffer.get_mut(arrived.start..arrived.start.wrapping_add(arrived.len))
        else {
            debug_assert!(
                false,
                "drivers put datagrams into the buffer they are given"
            );
            return;
        };
        let routed = data
            .first()
            .and_then(|first| self.routed(socket, *first))
            .or_else(|| self.owner_of(socket));
        let Some(to) = routed else {
            return;
        };
        let datagram = Datagram {
            from: arrived.from,
            to: arrived.to,
            interface: arrived.interface,
            ttl: arrived.ttl,
            ecn: arrived.ecn,
            data,
        };
        self.invoke(to, Event::Datagram { socket, datagram });
    }

    /// Whom a route leads to. One to an actor that has ended leads nowhere.
    fn routed(&self, socket: SocketId, first: u8) -> Option<ActorId> {
        let extras = self.socket_extras(self.socket(socket)?)?;
        let mut routes = extras.routes.iter();
        let (_, _, to) = routes.find(|(low, high, _)| (*low..=*high).contains(&first))?;
        self.cell(*to).map(|_| *to)
    }

    /// Has datagrams whose first byte lies in `first` go to `to` instead of the owner.
    pub(crate) fn route(
        &mut self,
        owner: ActorId,
        socket: SocketId,
        first: std::ops::RangeInclusive<u8>,
        to: ActorId,
    ) -> io::Result<()> {
        if to.core() != self.index {
            let text = "a route leads to an actor of the same core";
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        self.owned(socket, owner)?;
        if self.sockets[socket.index as usize].kind != Kind::Udp {
            let text = "only datagrams have routes";
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        let range = (*first.start(), *first.end());
        self.make_extras(socket.index);
        let cells = &self.cells;
        let is_alive = |id: ActorId| {
            let cell = cells.get(id.index());
            cell.is_some_and(|cell| cell.generation == id.generation() && cell.is_alive())
        };
        let extras = self.sockets[socket.index as usize].extras;
        let routes = &mut self.socket_extras[extras as usize].routes;
        routes.retain(|route| (route.0, route.1) != range && is_alive(route.2));
        if routes.len() == ROUTES_MAX {
            return Err(io::Error::new(
                ErrorKind::QuotaExceeded,
                "too many routes on one socket",
            ));
        }
        routes.push((range.0, range.1, to));
        Ok(())
    }

    pub(crate) fn pause_reading(&mut self, owner: ActorId, socket: SocketId) {
        if let Ok(state) = self.owned(socket, owner) {
            state.flags.set(Flags::PAUSED, true);
        }
    }

    pub(crate) fn resume_reading(&mut self, owner: ActorId, socket: SocketId) {
        if let Ok(state) = self.owned(socket, owner) {
            state.flags.set(Flags::PAUSED, false);
            if state.flags.has(Flags::READABLE) && !sabotage::is_on(Mutation::ForgetRequeue) {
                self.requeue(socket);
            }
        }
    }

    /// Bytes of a connection that the kernel has not taken.
    pub(crate) fn unsent(&self, socket: SocketId) -> usize {
        self.socket(socket)
            .and_then(|state| self.socket_extras(state))
            .and_then(|extras| extras.tail.as_deref())
            .map_or(0, <[u8]>::len)
    }

    /// Writes as much as the kernel takes and keeps the rest. Returns how much is kept.
    pub(crate) fn write(
        &mut self,
        owner: ActorId,
        socket: SocketId,
        bytes: &[u8],
    ) -> io::Result<usize> {
        let state = self.owned(socket, owner)?;
        let kind = state.kind;
        if !matches!(kind, Kind::Stream | Kind::Connecting) || state.write_half != WriteHalf::Open {
            let text = "only the open writing half of a connection can be written to";
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        let mut bytes = bytes;
        let before = self.unsent(socket);
        if bytes.len() > BUFFER_BYTES_MAX - before {
            let text = "no more than 1 GiB of a connection can wait";
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        if before == 0 && kind == Kind::Stream {
            match self.write_some(socket, bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) => {
                    self.forget_socket(socket);
                    self.driver.close(socket, true);
                    return Err(error);
                }
            }
        }
        if bytes.is_empty() {
            return Ok(before);
        }
        if before > 0 && before + bytes.len() > self.shared.limits.unsent_max {
            return Err(io::Error::new(
                ErrorKind::WouldBlock,
                "too many bytes are unsent",
            ));
        }
        let mut tail = self.make_extras(socket.index).tail.take();
        // What cannot be refused any more is kept whether it fits into the memory bound or not.
        match &mut tail {
            Some(tail) => self.buffers.extend(tail, bytes),
            None => tail = Some(self.buffers.hold(MemoryKind::SendBuffers, bytes)),
        }
        self.make_extras(socket.index).tail = tail;
        Ok(before + bytes.len())
    }

    /// Writes until the kernel takes no more.
    fn write_some(&mut self, socket: SocketId, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            match self.driver.write(socket, &bytes[written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Room has come: the unsent bytes first, then the owner.
    fn write_tail(&mut self, socket: SocketId) {
        let Some(owner) = self.owner_of(socket) else {
            return;
        };
        let state = &mut self.sockets[socket.index as usize];
        let is_wanted = state.flags.set(Flags::WANTS_WRITABLE, false);
        let shuts_down = state.write_half == WriteHalf::Closing;
        let extras = self.socket_extras.get_mut(state.extras as usize);
        if let Some(mut tail) = extras.and_then(|extras| extras.tail.take()) {
            match self.write_some(socket, &tail) {
                Ok(written) => tail.consume(written),
                Err(error) => return self.broken(socket, error),
            }
            if !tail.is_empty() {
                self.make_extras(socket.index).tail = Some(tail);
                return;
            }
            self.drop_extras(socket.index);
        } else if !is_wanted && !shuts_down {
            return;
        }
        if shuts_down {
            // If the connection is broken, reading or writing tells.
            let _ = self.driver.shutdown_write(socket);
            self.sockets[socket.index as usize].write_half = WriteHalf::Shut;
        }
        self.invoke(owner, Event::Writable { socket });
    }

    pub(crate) fn shutdown_write(&mut self, owner: ActorId, socket: SocketId) -> io::Result<()> {
        let is_connecting = self.owned(socket, owner)?.kind == Kind::Connecting;
        let waits = is_connecting || self.unsent(socket) > 0;
        if !waits {
            self.driver.shutdown_write(socket)?;
        }
        let state = &mut self.sockets[socket.index as usize];
        state.write_half = if waits {
            WriteHalf::Closing
        } else {
            WriteHalf::Shut
        };
        Ok(())
    }

    /// The driver, for what `owner` does to its own UDP socket.
    pub(crate) fn udp_driver(
        &mut self,
        owner: ActorId,
        socket: SocketId,
    ) -> io::Result<&mut dyn Driver> {
        self.owned(socket, owner)?;
        Ok(&mut *self.driver)
    }

    pub(crate) fn udp_send(
        &mut self,
        owner: ActorId,
        socket: SocketId,
        transmits: &[Transmit<'_>],
    ) -> io::Result<usize> {
        // A routed recipient sends through the owner's socket too.
        let state = self.socket(socket).ok_or_else(gone)?;
        let routes = self
            .socket_extras(state)
            .map_or(&[][..], |extras| &extras.routes);
        if state.owner as usize != owner.index() && !routes.iter().any(|route| route.2 == owner) {
            return Err(gone());
        }
        let result = self.driver.udp_send(socket, transmits);
        let is_short = match &result {
            Ok(count) => *count < transmits.len(),
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        if is_short {
            let state = &mut self.sockets[socket.index as usize];
            state.flags.set(Flags::WANTS_WRITABLE, true);
        }
        result
    }

    /// Passes a connection on, to another core if need be. It arrives as `Event::Given`.
    pub(crate) fn give_socket(
        &mut self,
        owner: ActorId,
        socket: SocketId,
        to: ActorId,
    ) -> io::Result<()> {
        let state = self.owned(socket, owner)?;
        if state.kind != Kind::Stream {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "only connections can be given away",
            ));
        }
        if to.core() == self.index {
            if self.cell(to).is_none() {
                return Err(io::Error::new(
                    ErrorKind::NotFound,
                    "the receiver has ended",
                ));
            }
            self.sockets[socket.index as usize]
                .flags
                .set(Flags::PAUSED, true);
            self.unlink_socket(socket.index);
            self.link_socket(socket.index, to.index() as u32);
            self.system.push_back(System::Given { to, socket });
            return Ok(());
        }
        if self.unsent(socket) > 0 {
            return Err(io::Error::new(ErrorKind::ResourceBusy, "bytes are unsent"));
        }
        if self.shared.core_of(to).is_none() {
            return Err(io::Error::new(ErrorKind::NotFound, "there is no such core"));
        }
        self.forget_socket(socket);
        let socket = self.driver.detach(socket).ok_or_else(gone)?;
        // On a core that has just ended nobody would take it: it closes.
        let _ = self
            .shared
            .push_system(to.core(), System::Give { to, socket });
        Ok(())
    }

    /// A connection from another core.
    pub(crate) fn take_given(&mut self, to: ActorId, socket: DetachedSocket) {
        if !self.takes_sockets(to) {
            return;
        }
        match self.driver.attach(socket) {
            Ok(socket) => {
                self.add_socket(socket, to.index() as u32, Kind::Stream, true);
                self.sockets[socket.index as usize]
                    .flags
                    .set(Flags::READABLE, true);
                self.invoke(to, Event::Given { socket });
            }
            Err(error) => log::warn!("core {}: a given connection was lost: {error}", self.index),
        }
    }

    /// A connection of this core.
    pub(crate) fn given(&mut self, to: ActorId, socket: SocketId) {
        let is_its = |state: &&SocketState| state.owner as usize == to.index();
        if self.socket(socket).filter(is_its).is_none() {
            return;
        }
        if self.takes_sockets(to) {
            self.invoke(to, Event::Given { socket });
        } else {
            self.close_socket(socket, to, false);
        }
    }

    /// Whether an actor can be given a connection. One that is being made anew would not hear of it, and loses it as it
    /// lost those that it had.
    fn takes_sockets(&self, to: ActorId) -> bool {
        let cell = self.cell(to);
        cell.is_some_and(|cell| cell.state != State::Restarting)
    }
}

impl SocketState {
    fn free() -> SocketState {
        SocketState {
            generation: 0,
            owner: NONE,
            next: NONE,
            previous: NONE,
            extras: NONE,
            kind: Kind::Free,
            write_half: WriteHalf::Open,
            flags: Flags::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_socket_is_small() {
        assert_eq!(size_of::<SocketState>(), 24);
    }
}
