//! Spawns a node's actors and speaks to them.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mischief_actors::connection::actor::{
    Common, ConnectionActor, ConnectionMessage, Dialler, Listener, ListenerMessage, Placement,
};
use mischief_actors::connection::admission::Admission;
use mischief_actors::connection::dial::Endpoint;
use mischief_actors::connection::{
    self, Config, Deliver, MESSAGE_MAX_TRUSTED, ProtocolHash, StaticKey,
};
use mischief_actors::identity::{Identity, PeerId};
use mischief_actors::messages::actor::MessagesActor;
use mischief_actors::peers::actor::{Observer, PeerList, PeersActor, PeersMessage, Shelf};
use mischief_actors::peers::{
    Network, NetworkSettings, NotConnected, Notice, PeerRecord, Peers, PeersEvent, PeersLimits,
    Program, Standing, Stored,
};
use mischief_reactor::io::driver::ReusePort;
use mischief_reactor::{
    Actor, ActorId, Address, Answer, ByteBudget, Child, Context, Event, Failure, Handle, Message,
    OneShot, Reply, WallTime,
};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::builder::Settings;
use super::discovery::Finder;
use super::dispatch::Hub;
use super::error::{ConnectError, NodeError, StartError};
use super::info::PeerInfo;
use super::mdns;
use super::reachable;
use super::wiring::{Announced, Backend};

/// Peers that [`Node::trust`](super::Node::trust) remembers.
const TRUSTED_MAX: usize = 4096;

/// How long the peers actor may take for what it answers by itself.
pub(super) const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// How long a dial may take, beyond the deadline that the peers actor sets for it.
const CONNECT_GRACE: Duration = Duration::from_secs(5);

/// What has come of [`launch`].
pub(crate) struct Launched {
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) finder: Arc<Finder>,
    pub(crate) mdns: Arc<mdns::Subsystem>,
    pub(crate) listening: Listening,
    /// The actors without which there is no node.
    pub(crate) vital: Vec<ActorId>,
}

/// What outlives the node.
pub(crate) struct Keeping {
    pub(crate) shelf: Arc<dyn Shelf>,
    /// What an earlier run has left.
    pub(crate) stored: Box<Stored>,
}

/// Spawns the actors on the hub's runtime. They listen only when they are told to.
pub(crate) fn launch(
    settings: &Settings,
    identity: Arc<Identity>,
    hub: &Arc<Hub>,
    keeping: Option<Keeping>,
) -> Result<Launched, StartError> {
    let handle = hub.handle.clone();
    let peers_limits = peers_limits(settings);
    let maker = ConfigMaker::new(settings, identity.clone(), &handle)?;
    let trusted = Arc::new(Mutex::new(BTreeSet::new()));
    let own = identity.peer_id();
    let finder = Arc::new(Finder::new(own, peers_limits.peers_max, hub.clone()));
    let mdns = mdns::Subsystem::new(settings, own, hub, finder.clone())?;
    let face = Face {
        hub: hub.clone(),
        finder: finder.clone(),
        trusted: trusted.clone(),
    };
    let machine = Peers::with_roster(identity.peer_id(), peers_limits, hub.roster.clone());
    let mut seed = [0; 32];
    handle.random(&mut seed)?;
    let mut network = network_settings(settings, keeping.is_some());
    let own = maker.make(settings, Vec::new());
    network.program = Program {
        agent: own.agent.as_str().into(),
        features: own.features,
    };
    let mut network = Network::new(machine, network, identity, seed);
    for denied in &settings.network.denied {
        // As many as there can be.
        if network.deny(*denied).is_err() {
            log::warn!("too many are banned: {denied} is not");
        }
    }
    let (shelf, stored) = match keeping {
        Some(Keeping { shelf, stored }) => (Some(shelf), Some(stored)),
        None => (None, None),
    };
    let peers = handle.spawn(0, move || {
        Child::once(PeersActor::new(network, Arc::new(face), shelf, stored)).name("peers")
    })?;
    finder.set_peers(peers);
    let common = Arc::new(Common {
        config: Mutex::new(Arc::new(maker.make(settings, Vec::new()))),
        deliver: hub.clone(),
        links: Arc::new(hub.roster.clone()),
        judge: peers.recipient(),
        admission: Admission::new(settings.limits.admission),
        handle: handle.clone(),
        fallen: Mutex::new(Vec::new()),
    });
    let mut diallers = Vec::new();
    let mut roots = Vec::new();
    let desk = hub.desk.clone();
    let messages = handle.spawn(0, move || {
        Child::new(move || MessagesActor::new(desk.clone())).name("messages")
    })?;
    roots.push(messages.id());
    for core in 0..handle.cores() {
        let (common, dial) = (common.clone(), settings.limits.dial);
        let judge = peers.recipient();
        let dialler = handle.spawn(core, move || Child::once(Dialler::new(common, judge, dial)))?;
        roots.push(dialler.id());
        diallers.push(dialler);
    }
    let start = PeersMessage::Start {
        common: common.clone(),
        diallers,
    };
    if handle.try_send(&peers, start).is_err() {
        return Err(StartError::NoAnswer(mischief_reactor::AskError::NoReply));
    }
    let vital = [&[peers.id()], &roots[..]].concat();
    let actors = Arc::new(Actors {
        handle,
        peers,
        roots: Mutex::new(roots),
        trusted,
        connect_deadline: peers_limits.dial_deadline + CONNECT_GRACE,
    });
    Ok(Launched {
        backend: Box::new(actors.clone()),
        finder,
        mdns: Arc::new(mdns),
        vital,
        listening: Listening {
            actors,
            common,
            maker,
        },
    })
}

/// The last step of a start.
pub(crate) struct Listening {
    actors: Arc<Actors>,
    common: Arc<Common>,
    maker: ConfigMaker,
}

impl Listening {
    /// Listens, and gives the addresses with the ports that the system chose.
    pub(crate) fn start(self, settings: &Settings) -> Result<Vec<SocketAddr>, StartError> {
        let mut addrs = Vec::new();
        for addr in settings.listen_addrs()? {
            addrs.push(self.actors.listen(addr, &self.common)?);
        }
        if settings.listens_everywhere {
            addrs.extend(self.listen_everywhere()?);
        }
        *self.common.config.lock() = Arc::new(self.maker.make(settings, addrs.clone()));
        self.tell_peers(&addrs);
        Ok(addrs)
    }

    /// The addresses of the interfaces stand for the unspecified ones. Only a node that tells others has use for them.
    fn tell_peers(&self, addrs: &[SocketAddr]) {
        let handle = &self.actors.handle;
        let interfaces = match handle.interfaces() {
            Ok(Ok(interfaces)) => interfaces,
            _ => Vec::new(),
        };
        let mut own = reachable::expand(addrs, &interfaces);
        // On one machine its own address is as good as any.
        let is_local = |addr: &&SocketAddr| addr.ip().is_loopback();
        own.extend(addrs.iter().filter(is_local));
        let listening = PeersMessage::Listening(own);
        if handle.try_send(&self.actors.peers, listening).is_err() {
            log::warn!("the node does not know where it listens, and will not tell others");
        }
    }

    /// A kernel may lack one of the two families; only if neither works that is an error, the one of IPv4.
    fn listen_everywhere(&self) -> Result<Vec<SocketAddr>, StartError> {
        let listen = |addr: SocketAddr| self.actors.listen(addr, &self.common);
        let ipv4 = listen((Ipv4Addr::UNSPECIFIED, 0).into());
        let port = ipv4.as_ref().map_or(0, SocketAddr::port);
        let mut ipv6 = listen((Ipv6Addr::UNSPECIFIED, port).into());
        if let Err(StartError::Listen { source, .. }) = &ipv6
            && source.kind() == io::ErrorKind::AddrInUse
        {
            ipv6 = listen((Ipv6Addr::UNSPECIFIED, 0).into());
        }
        match (ipv4, ipv6) {
            (Ok(ipv4), Ok(ipv6)) => Ok(vec![ipv4, ipv6]),
            (Ok(addr), Err(error)) | (Err(error), Ok(addr)) => {
                log::info!("{error}");
                Ok(vec![addr])
            }
            (Err(error), Err(_)) => Err(error),
        }
    }
}

fn peers_limits(settings: &Settings) -> PeersLimits {
    let mut limits = settings.limits.peers;
    if let Some(max) = settings.max_peers {
        limits.peers_max = max;
        limits.inbound_max = max;
        limits.outbound_max = max;
    }
    if let Some(max) = settings.max_inbound {
        limits.inbound_max = max;
    }
    if let Some(max) = settings.network.max_outbound {
        limits.outbound_max = max;
    }
    limits
}

fn network_settings(settings: &Settings, is_kept: bool) -> NetworkSettings {
    let options = &settings.network;
    NetworkSettings {
        reconnect: options.reconnect,
        allowed: options.allowed.clone(),
        exchanges: options.exchange,
        outbound_target: options.outbound_target(),
        keeps_book: options.exchange || options.outbound_target() > 0 || is_kept,
        is_kept,
        program: Program::default(),
    }
}

/// Makes the configuration of connections: once before it is known where the node listens, and once after.
struct ConfigMaker {
    identity: Arc<Identity>,
    static_secret: Zeroizing<[u8; 32]>,
    protocol: ProtocolHash,
    reassembly: ByteBudget,
    aes_hardware: bool,
}

impl ConfigMaker {
    fn new(
        settings: &Settings,
        identity: Arc<Identity>,
        handle: &Handle,
    ) -> Result<ConfigMaker, StartError> {
        let mut static_secret = Zeroizing::new([0; 32]);
        handle.random(&mut *static_secret)?;
        let (name, version) = &settings.protocol;
        Ok(ConfigMaker {
            identity,
            static_secret,
            protocol: ProtocolHash::new(name, version).ok_or(StartError::BadProtocol)?,
            reassembly: ByteBudget::within(handle.memory(), settings.limits.reassembly_bytes_max),
            // What a simulation does must not depend on the machine it runs on.
            aes_hardware: settings
                .aes_hardware
                .unwrap_or_else(|| !handle.is_simulated() && has_aes_hardware()),
        })
    }

    fn make(&self, settings: &Settings, listen: Vec<SocketAddr>) -> Config {
        let static_key = StaticKey::from_secret(&self.static_secret);
        let mut config = Config::new(self.identity.clone(), static_key, self.protocol);
        config.network_key = settings
            .network_key
            .as_ref()
            .map(|key| connection::NetworkKey::from_bytes(key.as_bytes()));
        config.aes_hardware = self.aes_hardware;
        config.listen = listen;
        config.name.clone_from(&settings.name);
        config.limits = settings.limits.connection;
        config.timing = settings.limits.timing;
        config.reassembly = self.reassembly.clone();
        config
    }
}

/// Whether this machine computes AES-GCM in hardware. Without it ChaCha20-Poly1305 is faster.
fn has_aes_hardware() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Passes on what the peers actor tells.
struct Face {
    hub: Arc<Hub>,
    finder: Arc<Finder>,
    trusted: Arc<Mutex<BTreeSet<PeerId>>>,
}

impl Observer for Face {
    fn connected(&self, event: &PeersEvent, connection: ActorId) {
        let PeersEvent::Connected {
            id,
            addr,
            direction,
            suite,
            name,
            ..
        } = event
        else {
            return;
        };
        if self.trusted.lock().contains(id) {
            let connection = Address::<ConnectionActor>::from_id(connection);
            let trust = ConnectionMessage::MessageMax(MESSAGE_MAX_TRUSTED);
            if self.hub.handle.try_send(&connection, trust).is_err() {
                self.hub.failed(&format!(
                    "the limit for trusted peers could not be set for {}",
                    id.short()
                ));
            }
        }
        self.finder.connected(*id);
        self.hub.connected(
            *id,
            Announced {
                addr: *addr,
                direction: *direction,
                suite: suite.name(),
                name: name.as_deref().map(Arc::from),
            },
        );
    }

    fn disconnected(&self, event: &PeersEvent) {
        let PeersEvent::Disconnected { id, reason, .. } = event else {
            return;
        };
        self.finder.disconnected(*id);
        self.hub.disconnected(*id, *reason);
    }

    fn noticed(&self, notice: &Notice) {
        self.hub.noticed(notice.clone());
    }
}

/// The actors of a running node.
struct Actors {
    handle: Handle,
    peers: Address<PeersActor>,
    /// Diallers and listeners, which have the connections as children, and who watches over requests.
    roots: Mutex<Vec<ActorId>>,
    trusted: Arc<Mutex<BTreeSet<PeerId>>>,
    connect_deadline: Duration,
}

impl Actors {
    /// Listens on an address with every core: by sharing the port where the system can, otherwise by handing accepted
    /// connections around.
    fn listen(&self, addr: SocketAddr, common: &Arc<Common>) -> Result<SocketAddr, StartError> {
        let cores = self.handle.cores();
        let mut listeners = Vec::new();
        for core in 0..cores {
            let common = common.clone();
            let listener = self
                .handle
                .spawn(core, move || Child::once(Listener::new(common)))?;
            self.roots.lock().push(listener.id());
            listeners.push(listener);
        }
        let first = if cores > 1 {
            ReusePort::First
        } else {
            ReusePort::No
        };
        let listened = match self.listen_with(&listeners[0], addr, first) {
            Err(StartError::Listen { source, .. })
                if source.kind() == io::ErrorKind::Unsupported =>
            {
                self.listen_with(&listeners[0], addr, ReusePort::No)
                    .inspect(|_| {
                        self.spread(&listeners);
                    })?
            }
            listened => {
                let listened = listened?;
                for listener in &listeners[1..] {
                    self.listen_with(listener, listened, ReusePort::Join)?;
                }
                listened
            }
        };
        Ok(listened)
    }

    fn spread(&self, listeners: &[Address<Listener>]) {
        let place = ListenerMessage::Place(Placement::Spread(listeners.to_vec()));
        if self.handle.try_send(&listeners[0], place).is_err() {
            log::warn!("all connections will live on the first core");
        }
    }

    fn listen_with(
        &self,
        listener: &Address<Listener>,
        addr: SocketAddr,
        reuse_port: ReusePort,
    ) -> Result<SocketAddr, StartError> {
        self.handle
            .ask(
                listener,
                |reply| ListenerMessage::Listen {
                    addr,
                    reuse_port,
                    reply,
                },
                ANSWER_DEADLINE,
            )
            .wait()?
            .map_err(|source| StartError::Listen { addr, source })
    }

    fn list_with<T: Send + 'static>(
        &self,
        pick: impl FnOnce(PeerList) -> T + Send + 'static,
    ) -> Answer<T> {
        let question = |reply: Reply<T>| PeersMessage::List {
            reply: reply.map(pick),
        };
        self.handle.ask(&self.peers, question, ANSWER_DEADLINE)
    }
}

impl Backend for Arc<Actors> {
    fn connect(
        &self,
        endpoint: Endpoint,
        expected: Option<PeerId>,
    ) -> Answer<Result<PeerId, ConnectError>> {
        let question = |reply: Reply<Result<PeerId, ConnectError>>| PeersMessage::Connect {
            endpoint,
            expected,
            reply: reply.map(|result: Result<_, _>| result.map_err(ConnectError::Failed)),
        };
        self.handle
            .ask(&self.peers, question, self.connect_deadline)
    }

    fn disconnect(&self, peer: PeerId) -> Answer<Result<(), NodeError>> {
        let question = |reply: Reply<Result<(), NodeError>>| PeersMessage::Disconnect {
            peer,
            reply: reply.map(not_connected),
        };
        self.handle.ask(&self.peers, question, ANSWER_DEADLINE)
    }

    fn list(&self) -> Answer<Result<Vec<PeerInfo>, NodeError>> {
        self.list_with(|list| {
            let PeerList {
                peers,
                standings,
                now,
                wall,
            } = list;
            let peers = peers.iter().zip(standings);
            Ok(peers
                .map(|(record, standing)| info(record, standing, record.since_wall(now, wall)))
                .collect())
        })
    }

    fn peer(&self, peer: PeerId) -> Answer<Result<PeerInfo, NodeError>> {
        self.list_with(move |list| {
            let PeerList {
                peers,
                standings,
                now,
                wall,
            } = list;
            let mut peers = peers.iter().zip(standings);
            let found = peers.find(|(record, _)| record.id == peer);
            let (record, standing) = found.ok_or(NodeError::NotConnected)?;
            Ok(info(record, standing, record.since_wall(now, wall)))
        })
    }

    fn trust(&self, peer: PeerId) -> Answer<Result<(), NodeError>> {
        let mut trusted = self.trusted.lock();
        if trusted.len() >= TRUSTED_MAX && !trusted.contains(&peer) {
            trusted.pop_first();
        }
        trusted.insert(peer);
        drop(trusted);
        // A peer that is not there now is trusted when it comes.
        let question = |reply: Reply<Result<(), NodeError>>| PeersMessage::MessageMax {
            peer,
            bytes: MESSAGE_MAX_TRUSTED,
            reply: reply.map(|_: Result<(), NotConnected>| Ok(())),
        };
        self.handle.ask(&self.peers, question, ANSWER_DEADLINE)
    }

    fn peers(&self) -> Option<Address<PeersActor>> {
        Some(self.peers)
    }

    fn adopt(&self, actor: ActorId) {
        self.roots.lock().push(actor);
    }

    fn stop(&self, deadline: Duration) -> Answer<Result<(), NodeError>> {
        let (reply, answer) = OneShot::pair(&self.handle);
        let closer = Closer {
            peers: self.peers,
            roots: std::mem::take(&mut *self.roots.lock()),
            deadline,
            reply: Some(reply),
        };
        if self.handle.spawn(0, move || Child::once(closer)).is_err() {
            log::debug!("the runtime has stopped before its node");
        }
        answer
    }
}

fn not_connected(result: Result<(), NotConnected>) -> Result<(), NodeError> {
    result.map_err(|NotConnected| NodeError::NotConnected)
}

fn info(record: &PeerRecord, standing: Standing, since: WallTime) -> PeerInfo {
    let mut info = PeerInfo::new(record.id, record.addr, record.direction);
    info.name = record.name.as_deref().map(str::to_owned);
    info.since = since;
    info.suite = record.suite.name();
    info.found = standing.found;
    info.agent = standing.program.agent.into();
    info.features = standing.program.features;
    info.is_protected = standing.is_protected;
    info.dialable = standing.dialable.map(|endpoint| endpoint.to_string());
    if let Some(traffic) = &record.traffic {
        info.rtt = traffic.rtt;
        info.rtt_jitter = traffic.rtt_jitter;
        info.queued = traffic.queued;
        info.window = traffic.credit;
        info.message_max = traffic.message_max;
        info.bytes_in = traffic.bytes_in;
        info.bytes_out = traffic.bytes_out;
        info.messages_in = traffic.messages_in;
        info.messages_out = traffic.messages_out;
    }
    info
}

/// Takes a node down in order: peers are told, connections drain, and last the peers actor goes.
struct Closer {
    peers: Address<PeersActor>,
    roots: Vec<ActorId>,
    deadline: Duration,
    reply: Option<Reply<Result<(), NodeError>>>,
}

enum CloserMessage {
    PeersClosed,
}

impl Message for CloserMessage {}

impl Closer {
    /// What is left by the deadline ends by itself, each within its own.
    fn finish(&mut self, cx: &mut Context<'_, Self>) {
        for root in self.roots.drain(..) {
            cx.stop_actor(root);
        }
        cx.stop_actor(self.peers.id());
        if let Some(reply) = self.reply.take() {
            reply.send(Ok(()));
        }
        cx.stop();
    }
}

impl Actor for Closer {
    type Message = CloserMessage;

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let deadline = cx.now() + self.deadline;
        cx.wake_at(Some(deadline), Duration::ZERO);
        let peers = self.peers;
        let closed = |_| CloserMessage::PeersClosed;
        cx.ask(
            &peers,
            |reply| PeersMessage::Close { reply },
            ANSWER_DEADLINE,
            closed,
        );
        Ok(())
    }

    fn handle(
        &mut self,
        message: CloserMessage,
        cx: &mut Context<'_, Self>,
    ) -> Result<(), Failure> {
        let CloserMessage::PeersClosed = message;
        for root in &self.roots {
            cx.watch(*root);
            cx.stop_actor(*root);
        }
        if self.roots.is_empty() {
            self.finish(cx);
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match event {
            Event::Stopped { actor, .. } => {
                self.roots.retain(|root| *root != actor);
                if self.roots.is_empty() {
                    self.finish(cx);
                }
            }
            Event::Wake => self.finish(cx),
            _ => {}
        }
        Ok(())
    }
}
