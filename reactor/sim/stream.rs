//! TCP as the drivers and the network see it: listeners, ports, and whose endpoint a segment is for.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;

use super::arena::Key;
use super::node::{CoreId, MachineId, Node, accepts, canonical, overlaps, port_in_use, scoped};
use super::packet::{Body, Loss, Packet};
use super::prng::mix;
use super::segment::Segment;
use super::state::{Handle, State};
use super::tcp::{Endpoint, Origin, Owner, READ_CLOSED, READABLE, WRITABLE};
use super::trace::Kind;
use crate::io::driver::{Ecn, ListenOptions, ReusePort, SocketId};

/// A listening socket.
pub(super) struct Listener {
    node: MachineId,
    core: CoreId,
    socket: SocketId,
    local: SocketAddr,
    backlog: usize,
    reuse: ReusePort,
    /// Connections whose handshake is not over.
    half_open: BTreeSet<Key>,
    /// Connections to accept, oldest first.
    queue: VecDeque<Key>,
}

impl Listener {
    pub(super) fn level(&self) -> u8 {
        if self.queue.is_empty() { 0 } else { READABLE }
    }

    fn is_full(&self) -> bool {
        self.half_open.len() + self.queue.len() >= self.backlog
    }
}

impl State {
    // What a driver asks for.

    pub(super) fn tcp_listen(
        &mut self,
        core: CoreId,
        addr: SocketAddr,
        options: ListenOptions,
    ) -> io::Result<SocketId> {
        self.check_socket_limit(core)?;
        let node = self.core(core).node;
        let mut local = canonical(addr);
        self.node(node).check_local(local)?;
        if local.port() == 0 {
            local.set_port(self.free_tcp_port(node)?);
        } else if self.is_listened(node, local, options.reuse_port) {
            return Err(port_in_use(local));
        }
        let key = self.listeners.insert(Listener {
            node,
            core,
            socket: SocketId {
                index: 0,
                generation: 0,
            },
            local,
            backlog: options.backlog.max(1) as usize,
            reuse: options.reuse_port,
            half_open: BTreeSet::new(),
            queue: VecDeque::new(),
        });
        let socket = self.add_socket(core, Handle::Listener(key), 0);
        self.listeners.get_mut(key).expect("inserted above").socket = socket;
        self.node(node)
            .listeners
            .entry(local.port())
            .or_default()
            .push(key);
        Ok(socket)
    }

    pub(super) fn tcp_accept(
        &mut self,
        core: CoreId,
        socket: SocketId,
    ) -> io::Result<(SocketId, SocketAddr)> {
        let key = match self.handle(core, socket)? {
            Handle::Listener(key) => key,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let listener = self
            .listeners
            .get_mut(key)
            .expect("a socket's listener exists");
        if listener.queue.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // The connection stays in the queue if there is no socket for it.
        self.check_socket_limit(core)?;
        let listener = self
            .listeners
            .get_mut(key)
            .expect("a socket's listener exists");
        let stream = listener.queue.pop_front().expect("the queue is not empty");
        let accepted = self.adopt(core, stream);
        let remote = self
            .tcp
            .get(stream)
            .expect("a queued connection exists")
            .remote;
        Ok((accepted, scoped(remote)))
    }

    pub(super) fn tcp_connect(
        &mut self,
        core: CoreId,
        remote: SocketAddr,
        local: Option<SocketAddr>,
    ) -> io::Result<SocketId> {
        self.check_socket_limit(core)?;
        let node = self.core(core).node;
        let remote = canonical(remote);
        let local = self.local_for(node, remote, local.map(canonical))?;
        let origin = self.origin(node, local, remote, Owner::Detached);
        let key = self.tcp.insert(Endpoint::connect(origin, self.now));
        self.node(node).streams.insert((local, remote), key);
        let socket = self.adopt(core, key);
        self.flush(key);
        Ok(socket)
    }

    pub(super) fn read(
        &mut self,
        core: CoreId,
        socket: SocketId,
        bytes: &mut [u8],
    ) -> io::Result<usize> {
        let key = self.stream_of(core, socket)?;
        let endpoint = self.tcp.get_mut(key).expect("a socket's endpoint exists");
        let result = endpoint.read(bytes, &mut self.socket_prng);
        self.flush(key);
        result
    }

    pub(super) fn write(
        &mut self,
        core: CoreId,
        socket: SocketId,
        bytes: &[u8],
    ) -> io::Result<usize> {
        let key = self.stream_of(core, socket)?;
        let endpoint = self.tcp.get_mut(key).expect("a socket's endpoint exists");
        let result = endpoint.write(bytes, self.now, &mut self.socket_prng);
        self.flush(key);
        result
    }

    pub(super) fn shutdown_write(&mut self, core: CoreId, socket: SocketId) -> io::Result<()> {
        let key = self.stream_of(core, socket)?;
        let endpoint = self.tcp.get_mut(key).expect("a socket's endpoint exists");
        let result = endpoint.shutdown_write(self.now, &mut self.socket_prng);
        self.flush(key);
        result
    }

    pub(super) fn take_error(&mut self, core: CoreId, socket: SocketId) -> Option<io::Error> {
        match self.handle(core, socket) {
            Ok(Handle::Tcp(key)) => self.tcp.get_mut(key)?.take_error(),
            Ok(_) => None,
            Err(error) => Some(error),
        }
    }

    pub(super) fn close(&mut self, core: CoreId, socket: SocketId, abort: bool) {
        match self.remove_socket(core, socket) {
            Some(Handle::Tcp(key)) => self.close_stream(key, abort),
            Some(Handle::Listener(key)) => self.close_listener(key),
            Some(Handle::Udp(key)) => self.close_udp(key),
            None => {}
        }
    }

    /// Takes a connection out of a core's sockets.
    pub(super) fn detach(&mut self, core: CoreId, socket: SocketId) -> Option<Key> {
        let key = self.stream_of(core, socket).ok()?;
        self.remove_socket(core, socket);
        self.tcp.get_mut(key)?.owner = Owner::Detached;
        Some(key)
    }

    /// Gives a detached connection to a core of the same node; `None` if it is not there.
    pub(super) fn attach(&mut self, core: CoreId, key: Key) -> Option<SocketId> {
        let node = self.core(core).node;
        let endpoint = self.tcp.get(key)?;
        if endpoint.owner != Owner::Detached || endpoint.node != node {
            return None;
        }
        Some(self.adopt(core, key))
    }

    pub(super) fn peer_addr(&self, core: CoreId, socket: SocketId) -> io::Result<SocketAddr> {
        let addr = match self.handle(core, socket)? {
            Handle::Tcp(key) => self.tcp.get(key).map(|endpoint| endpoint.remote),
            Handle::Listener(_) | Handle::Udp(_) => None,
        };
        addr.map(scoped)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    pub(super) fn local_addr(&self, core: CoreId, socket: SocketId) -> io::Result<SocketAddr> {
        let addr = match self.handle(core, socket)? {
            Handle::Tcp(key) => self.tcp.get(key).map(|endpoint| endpoint.local),
            Handle::Listener(key) => self.listeners.get(key).map(|listener| listener.local),
            Handle::Udp(key) => self.udp.get(key).map(|socket| socket.local),
        };
        addr.map(scoped)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Closes the user's part of an endpoint that no socket leads to any more.
    pub(super) fn close_stream(&mut self, key: Key, abort: bool) {
        let Some(endpoint) = self.tcp.get_mut(key) else {
            return;
        };
        endpoint.close(abort, self.now, &mut self.socket_prng);
        self.flush(key);
    }

    fn close_listener(&mut self, key: Key) {
        let Some(listener) = self.listeners.remove(key) else {
            return;
        };
        let port = listener.local.port();
        let ports = &mut self.node(listener.node).listeners;
        if let Some(keys) = ports.get_mut(&port) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                ports.remove(&port);
            }
        }
        // Nobody will accept these.
        for stream in listener.half_open.into_iter().chain(listener.queue) {
            self.close_stream(stream, true);
        }
    }

    fn stream_of(&self, core: CoreId, socket: SocketId) -> io::Result<Key> {
        match self.handle(core, socket)? {
            Handle::Tcp(key) => Ok(key),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Makes a connection a socket of a core, and what holds already an edge, as registering with a selector does.
    fn adopt(&mut self, core: CoreId, key: Key) -> SocketId {
        let edges = READABLE | WRITABLE | READ_CLOSED | super::tcp::ERROR;
        let level = self.tcp.get(key).expect("the connection exists").level();
        let socket = self.add_socket(core, Handle::Tcp(key), edges & level);
        self.tcp.get_mut(key).expect("the connection exists").owner = Owner::Socket(core, socket);
        socket
    }

    // Ports.

    fn free_tcp_port(&mut self, node: MachineId) -> io::Result<u16> {
        let prng = &mut self.socket_prng;
        let is_free = |node: &Node, port| !node.listeners.contains_key(&port);
        let port = self.nodes[node.0 as usize].ephemeral_port(prng, is_free);
        port.ok_or_else(|| io::ErrorKind::AddrInUse.into())
    }

    /// Whether a listener is in the way of another at `local`.
    fn is_listened(&self, node: MachineId, local: SocketAddr, reuse: ReusePort) -> bool {
        let keys = self.nodes[node.0 as usize].listeners.get(&local.port());
        let mut others = keys
            .into_iter()
            .flatten()
            .filter_map(|key| self.listeners.get(*key));
        others.any(|other| {
            let shares = reuse == ReusePort::Join && other.reuse != ReusePort::No;
            overlaps(other.local, local) && !shares
        })
    }

    /// The local address of a new connection.
    fn local_for(
        &mut self,
        node: MachineId,
        remote: SocketAddr,
        wanted: Option<SocketAddr>,
    ) -> io::Result<SocketAddr> {
        let source = self.node(node).source_for(remote.ip())?;
        let mut local = wanted.unwrap_or(SocketAddr::new(source, 0));
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if local.ip().is_unspecified() {
            local.set_ip(source);
        }
        self.node(node).check_local(local)?;
        if local.port() == 0 {
            let ip = local.ip();
            let is_free = |node: &Node, port| {
                let local = SocketAddr::new(ip, port);
                !node.listeners.contains_key(&port) && !node.streams.contains_key(&(local, remote))
            };
            let prng = &mut self.socket_prng;
            let port = self.nodes[node.0 as usize].ephemeral_port(prng, is_free);
            local.set_port(port.ok_or(io::ErrorKind::AddrNotAvailable)?);
            return Ok(local);
        }
        if self.is_listened(node, local, ReusePort::Join) {
            return Err(port_in_use(local));
        }
        if let Some(key) = self.node(node).streams.get(&(local, remote)).copied()
            && !self.remove_if_in_time_wait(key)
        {
            return Err(port_in_use(local));
        }
        Ok(local)
    }

    fn remove_if_in_time_wait(&mut self, key: Key) -> bool {
        if !self.tcp.get(key).is_some_and(Endpoint::is_in_time_wait) {
            return false;
        }
        self.close_stream(key, true);
        self.unbind(key);
        self.tcp.remove(key);
        true
    }

    // What comes from the network and the clock.

    pub(super) fn deliver_segment(&mut self, packet: Packet) {
        if !self.node(packet.to).owns(packet.target.ip()) {
            return self.lose(&packet, Loss::NoSocket);
        }
        self.note_delivery(&packet);
        let (to, pair) = (packet.to, (packet.target, packet.source));
        let Some(key) = self.node(to).streams.get(&pair).copied() else {
            return self.deliver_unknown(packet);
        };
        let Body::Tcp(segment) = &packet.body else {
            return;
        };
        let is_first = segment.is_first();
        let endpoint = self.tcp.get_mut(key).expect("a bound endpoint exists");
        if endpoint.is_addressed_by(segment) {
            let Body::Tcp(segment) = packet.body else {
                return;
            };
            endpoint.handle_segment(segment, self.now, &mut self.socket_prng);
            self.flush(key);
        } else if is_first && self.remove_if_in_time_wait(key) {
            self.deliver_unknown(packet);
        } else if is_first {
            self.tcp
                .get_mut(key)
                .expect("a bound endpoint exists")
                .challenge();
            self.flush(key);
        } else if let Some(reset) = Segment::reset_for(segment) {
            self.transmit_segment(to, packet.target, packet.source, reset);
        }
    }

    /// Takes in a segment for which there is no connection.
    fn deliver_unknown(&mut self, packet: Packet) {
        let (to, source, target) = (packet.to, packet.source, packet.target);
        let Body::Tcp(segment) = &packet.body else {
            return;
        };
        let listener = if segment.is_first() {
            self.find_listener(to, source, target)
        } else {
            None
        };
        let Some(listener_key) = listener else {
            if let Some(reset) = Segment::reset_for(segment) {
                self.transmit_segment(to, target, source, reset);
            }
            return;
        };
        let listener = self
            .listeners
            .get(listener_key)
            .expect("a bound listener exists");
        if listener.is_full() {
            // As Linux does: no answer, so the peer tries again.
            return self.lose(&packet, Loss::BacklogFull);
        }
        let origin = self.origin(to, target, source, Owner::Listener(listener_key));
        let key = self.tcp.insert(Endpoint::answer(origin, segment, self.now));
        self.node(to).streams.insert((target, source), key);
        let listener = self
            .listeners
            .get_mut(listener_key)
            .expect("a bound listener exists");
        listener.half_open.insert(key);
        self.flush(key);
    }

    /// What a new endpoint begins with.
    fn origin(
        &mut self,
        node: MachineId,
        local: SocketAddr,
        remote: SocketAddr,
        owner: Owner,
    ) -> Origin {
        let realm = self.network.realm_of(node);
        let next = self.network.locate(node, realm, remote.ip());
        let mtu = self.network.mtu(node, next.unwrap_or(node));
        Origin {
            node,
            local,
            remote,
            owner,
            isn: self.socket_prng.next_u64() as u32,
            shape: self.node(node).tcp_shape,
            mss: mtu.saturating_sub(super::transit::headers(remote.ip()) as u32),
        }
    }

    /// Lets the connections of a machine fail whose local address it no longer has.
    pub(super) fn abort_stranded(&mut self, node: MachineId) -> usize {
        let entry = self.node(node);
        let is_stranded = |(local, _): &&(SocketAddr, SocketAddr)| !entry.owns(local.ip());
        let pairs: Vec<_> = entry.streams.keys().filter(is_stranded).copied().collect();
        for pair in &pairs {
            let key = self.node(node).streams[pair];
            if let Some(endpoint) = self.tcp.get_mut(key) {
                endpoint.strand();
                self.flush(key);
            }
        }
        pairs.len()
    }

    /// The listener for a new connection: one of those bound to the very address, else one of those bound to all. Among
    /// several the pair of addresses decides, as with `SO_REUSEPORT`.
    fn find_listener(&self, to: MachineId, source: SocketAddr, target: SocketAddr) -> Option<Key> {
        let keys = self.nodes[to.0 as usize].listeners.get(&target.port())?;
        let fitting = |key: &&Key| {
            self.listeners
                .get(**key)
                .is_some_and(|listener| accepts(listener.local, target))
        };
        let is_exact = |key: &Key| {
            self.listeners
                .get(*key)
                .is_some_and(|listener| listener.local.ip() == target.ip())
        };
        let (exact, wide): (Vec<Key>, Vec<Key>) =
            keys.iter().filter(fitting).copied().partition(is_exact);
        choose(
            if exact.is_empty() { &wide } else { &exact },
            self.seed,
            source,
            target,
        )
    }

    pub(super) fn handle_tcp_timer(&mut self, key: Key) {
        let Some(endpoint) = self.tcp.get_mut(key) else {
            return;
        };
        if endpoint.timer_queued.is_none_or(|at| at > self.now) {
            return;
        }
        endpoint.timer_queued = None;
        if endpoint.timer().is_some_and(|at| at <= self.now) {
            self.trace.note(Kind::Timer, &[u64::from(key.index)]);
            endpoint.handle_timeout(self.now, &mut self.socket_prng);
        }
        self.flush(key);
    }

    /// Passes on what an endpoint wants passed on, after each call of it.
    pub(super) fn flush(&mut self, key: Key) {
        let Some(endpoint) = self.tcp.get_mut(key) else {
            return;
        };
        let segments = std::mem::take(&mut endpoint.out);
        let edges = std::mem::take(&mut endpoint.edges);
        let is_newly_open = std::mem::take(&mut endpoint.is_newly_open);
        let (node, local, remote) = (endpoint.node, endpoint.local, endpoint.remote);
        let owner = endpoint.owner;
        let (is_dead, is_removable) = (endpoint.is_dead(), endpoint.is_removable());
        if let Some(at) = endpoint.timer()
            && endpoint.timer_queued.is_none_or(|queued| queued > at)
        {
            endpoint.timer_queued = Some(at);
            self.queue.push(at, super::queue::Event::TcpTimer(key));
        }
        for segment in segments {
            self.transmit_segment(node, local, remote, segment);
        }
        match owner {
            Owner::Socket(core, socket) => self.mark_ready(core, socket, edges),
            Owner::Listener(listener) => {
                if is_newly_open || is_removable {
                    self.settle_half_open(listener, key, is_newly_open);
                }
            }
            Owner::Detached | Owner::Closed => {}
        }
        if is_dead {
            self.unbind(key);
        }
        if is_removable {
            self.tcp.remove(key);
        }
    }

    /// Moves a connection whose handshake is over to the listener's queue, or forgets it.
    fn settle_half_open(&mut self, listener_key: Key, key: Key, is_open: bool) {
        let listener = self.listeners.get_mut(listener_key);
        let listener = listener.expect("a listener closes its connections before it goes");
        listener.half_open.remove(&key);
        if is_open {
            listener.queue.push_back(key);
            let (core, socket) = (listener.core, listener.socket);
            self.mark_ready(core, socket, READABLE);
        }
    }

    /// Frees the pair of addresses of an endpoint that is over.
    fn unbind(&mut self, key: Key) {
        let Some(endpoint) = self.tcp.get(key) else {
            return;
        };
        let (node, pair) = (endpoint.node, (endpoint.local, endpoint.remote));
        let streams = &mut self.node(node).streams;
        if streams.get(&pair) == Some(&key) {
            streams.remove(&pair);
        }
    }

    fn transmit_segment(
        &mut self,
        from: MachineId,
        source: SocketAddr,
        target: SocketAddr,
        segment: Segment,
    ) {
        self.route(from, source, target, Ecn::NotEct, Body::Tcp(segment));
    }
}

/// One of several sockets that share a port: always the same for the same pair of addresses.
pub(super) fn choose(
    keys: &[Key],
    seed: u64,
    source: SocketAddr,
    target: SocketAddr,
) -> Option<Key> {
    if keys.len() < 2 {
        return keys.first().copied();
    }
    let ip = match source.ip() {
        std::net::IpAddr::V4(v4) => u64::from(v4.to_bits()),
        std::net::IpAddr::V6(v6) => v6.to_bits() as u64 ^ (v6.to_bits() >> 64) as u64,
    };
    let ports = u64::from(source.port()) << 16 | u64::from(target.port());
    let place = mix(&[seed, ip, ports]) % keys.len() as u64;
    Some(keys[place as usize])
}
