//! The Mainline DHT of a node: [`Node::dht`](super::Node::dht).

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use mischief_actors::dht::actor::{
    Ask, DhtActor, DhtMessage, DhtSettings, Finds, Observer, everywhere,
};
use mischief_actors::dht::{
    Announcement, Bloom, Contact, DhtConfig, DhtEvent, Item, ItemKey, MutablePut, NodeId, Order,
    OrderError, Outcome, Standing, Stats, Stored, item,
};
use mischief_actors::discovery::{Find, Source};
use mischief_reactor::{Address, Answer, AskError, Child, Reply, WaitError};
use parking_lot::Mutex;

use super::discovery::Finder;
use super::dispatch::Hub;
use super::error::{NodeError, StartError};
use super::events::NodeEvent;
use super::pending::{Pending, block_on};

/// An order of the DHT takes at most this long, unless its call says otherwise.
pub const DHT_DEADLINE: Duration = Duration::from_secs(30);

/// Beyond an order's own deadline, for what is stored at its end and for the way of the answer.
const GRACE: Duration = Duration::from_secs(10);

/// Finds that wait for whoever looks for them; further ones are dropped.
const FINDS_MAX: usize = 1024;

/// A discovered address is not told again for this long.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Discovered addresses that are remembered.
const TOLD_MAX: usize = 256;

/// How a node takes part in the DHT; see [`NodeBuilder::dht`](super::NodeBuilder::dht).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DhtOptions {
    /// Where to begin, as `host:port`. If there is any, the public routers are not asked.
    pub bootstrap: Vec<String>,
    /// The UDP port; without one the number of the listening port, or another if that is taken.
    pub port: Option<u16>,
    /// Whether to announce this node under its protocol's name and to connect to others that do.
    pub discovery: bool,
    /// Settings and bounds of the DHT itself.
    pub config: DhtConfig,
}

impl Default for DhtOptions {
    fn default() -> DhtOptions {
        DhtOptions {
            bootstrap: Vec::new(),
            port: None,
            discovery: true,
            config: DhtConfig::default(),
        }
    }
}

/// Why the DHT did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DhtError {
    /// The node does not use it.
    #[error("this node does not use the DHT")]
    Off,
    /// The order was not taken.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// No answer of the node itself.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl DhtError {
    /// The stable name of this error in the machine interface.
    pub fn kind(&self) -> &'static str {
        match self {
            DhtError::Off => "unreachable",
            DhtError::Order(OrderError::Busy) => "busy",
            DhtError::Order(OrderError::Item(_)) => "too_large",
            DhtError::Order(_) => "unreachable",
            DhtError::Node(error) => error.kind(),
        }
    }
}

impl From<AskError> for DhtError {
    fn from(error: AskError) -> DhtError {
        DhtError::Node(NodeError::from(error))
    }
}

/// What was put, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DhtPut {
    /// Where it can be got.
    pub target: NodeId,
    /// The sequence number of a mutable item.
    pub seq: Option<i64>,
    /// How many nodes have stored it, refused it, or not answered.
    pub stored: Stored,
}

/// How large a swarm is, about.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct DhtScrape {
    /// Peers that have everything.
    pub seeds: f64,
    /// Other peers.
    pub peers: f64,
    /// Nodes that count.
    pub nodes: usize,
}

/// Info hashes that nodes near a place know of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DhtSample {
    /// The info hashes.
    pub samples: Vec<NodeId>,
    /// Nodes that answered.
    pub nodes: usize,
    /// How many info hashes they have in all.
    pub total: u64,
}

/// A key pair for a mutable item, and what tells it apart.
#[derive(Debug)]
#[non_exhaustive]
pub struct DhtMutable {
    /// The 32 bytes that the key pair is made from.
    pub secret_key: [u8; 32],
    /// Tells several items of one key apart; at most 64 bytes.
    pub salt: Vec<u8>,
    /// The sequence number; without one it is one more than the greatest that is found.
    pub seq: Option<i64>,
    /// Replace only the value that has this sequence number.
    pub cas: Option<i64>,
}

impl DhtMutable {
    /// An item of this key without a salt.
    pub fn new(secret_key: [u8; 32]) -> DhtMutable {
        DhtMutable {
            secret_key,
            salt: Vec::new(),
            seq: None,
            cas: None,
        }
    }

    /// The public key, by which others get the item.
    pub fn public_key(&self) -> [u8; 32] {
        ItemKey::from_seed(&self.secret_key).public()
    }
}

/// The DHT of a node.
#[derive(Clone)]
pub struct Dht {
    hub: Arc<Hub>,
    address: Option<Address<DhtActor>>,
}

impl Dht {
    pub(crate) fn new(hub: &Arc<Hub>, address: Option<Address<DhtActor>>) -> Dht {
        Dht {
            hub: hub.clone(),
            address,
        }
    }

    /// The info hash that a name stands for: its SHA-1.
    pub fn hash_of(name: &str) -> NodeId {
        NodeId::sha1(&[name.as_bytes()])
    }

    /// Whether the node uses the DHT.
    pub fn is_on(&self) -> bool {
        self.address.is_some()
    }

    /// Looks for peers of an info hash for at most `deadline`. They come one by one; dropping the stream ends the search.
    pub fn find_peers(&self, info_hash: NodeId, deadline: Duration) -> Finding {
        let shared = Arc::new(Shared::default());
        let sink = shared.clone();
        let finds: Finds = Arc::new(move |peers| sink.put(peers));
        let ended = shared.clone();
        let order = Order::FindPeers { info_hash };
        let asked = self.ask_with(order, Some(deadline), false, Some(finds), move |outcome| {
            ended.end();
            match outcome {
                Outcome::Peers { found } => found,
                _ => 0,
            }
        });
        if self.address.is_none() {
            shared.end();
        }
        Finding {
            hub: self.hub.clone(),
            shared,
            asked,
        }
    }

    /// Announces that a peer of an info hash is at `port` of this machine, or at the port of the DHT itself if there is none,
    /// and goes on to do so every 15 minutes.
    pub fn announce(&self, info_hash: NodeId, port: Option<u16>) -> Pending<Stored, DhtError> {
        let order = Order::Announce(Announcement {
            info_hash,
            port,
            seed: false,
        });
        self.ask_with(order, None, true, None, |outcome| match outcome {
            Outcome::Announced(stored) => stored,
            _ => Stored::default(),
        })
    }

    /// Announces it no longer. What others have stored expires within 45 minutes.
    pub fn stop_announcing(&self, info_hash: NodeId) {
        if let Some(address) = &self.address {
            let stop = DhtMessage::StopAnnouncing(Box::new(info_hash));
            if self.hub.handle.try_send(address, stop).is_err() {
                log::debug!("the DHT has ended or is busy");
            }
        }
    }

    /// The item at a target: an immutable one, or a mutable one without a salt.
    pub fn get(&self, target: NodeId) -> Pending<Option<Item>, DhtError> {
        self.get_at(target, Vec::new())
    }

    /// The newest item of a public key.
    pub fn get_mutable(
        &self,
        public_key: &[u8; 32],
        salt: &[u8],
    ) -> Pending<Option<Item>, DhtError> {
        self.get_at(item::mutable_target(public_key, salt), salt.to_vec())
    }

    fn get_at(&self, target: NodeId, salt: Vec<u8>) -> Pending<Option<Item>, DhtError> {
        let order = Order::Get { target, salt };
        self.ask_with(order, None, false, None, |outcome| match outcome {
            Outcome::Item(item) => item,
            _ => None,
        })
    }

    /// Stores bytes, as a bencoded string, where their hash says.
    pub fn put(&self, value: &[u8]) -> Pending<DhtPut, DhtError> {
        self.put_value(item::string_value(value), None)
    }

    /// Stores bytes, as a bencoded string, where the public key of `mutable` says.
    pub fn put_mutable(&self, value: &[u8], mutable: DhtMutable) -> Pending<DhtPut, DhtError> {
        self.put_value(item::string_value(value), Some(mutable))
    }

    /// Stores a value that is bencoded already.
    pub fn put_value(
        &self,
        value: Vec<u8>,
        mutable: Option<DhtMutable>,
    ) -> Pending<DhtPut, DhtError> {
        let mutable = mutable.map(|mutable| MutablePut {
            key: ItemKey::from_seed(&mutable.secret_key),
            salt: mutable.salt,
            seq: mutable.seq,
            cas: mutable.cas,
        });
        let order = Order::Put { value, mutable };
        self.ask_with(order, None, false, None, |outcome| match outcome {
            Outcome::Put {
                target,
                seq,
                stored,
            } => DhtPut {
                target,
                seq,
                stored,
            },
            _ => DhtPut {
                target: NodeId::default(),
                seq: None,
                stored: Stored::default(),
            },
        })
    }

    /// Counts the peers of an info hash.
    pub fn scrape(&self, info_hash: NodeId) -> Pending<DhtScrape, DhtError> {
        let order = Order::Scrape { info_hash };
        self.ask_with(order, None, false, None, |outcome| match outcome {
            Outcome::Scraped {
                seeds,
                peers,
                nodes,
            } => DhtScrape {
                seeds: Bloom::estimate(&seeds),
                peers: Bloom::estimate(&peers),
                nodes,
            },
            _ => DhtScrape {
                seeds: 0.0,
                peers: 0.0,
                nodes: 0,
            },
        })
    }

    /// Collects info hashes from the nodes near a place.
    pub fn sample(&self, target: NodeId) -> Pending<DhtSample, DhtError> {
        self.ask_with(
            Order::Sample { target },
            None,
            false,
            None,
            |outcome| match outcome {
                Outcome::Samples {
                    samples,
                    nodes,
                    total,
                } => DhtSample {
                    samples,
                    nodes,
                    total,
                },
                _ => DhtSample {
                    samples: Vec::new(),
                    nodes: 0,
                    total: 0,
                },
            },
        )
    }

    /// Whether a node is at an address: its id and how long its answer took.
    pub fn ping(
        &self,
        addr: SocketAddr,
        deadline: Duration,
    ) -> Pending<Option<(NodeId, Duration)>, DhtError> {
        let order = Order::Ping { addr };
        self.ask_with(
            order,
            Some(deadline),
            false,
            None,
            |outcome| match outcome {
                Outcome::Pong(pong) => pong,
                _ => None,
            },
        )
    }

    /// The nodes nearest to a place.
    pub fn find_nodes(&self, target: NodeId) -> Pending<Vec<Contact>, DhtError> {
        self.ask_with(
            Order::FindNodes { target },
            None,
            false,
            None,
            |outcome| match outcome {
                Outcome::Nodes(nodes) => nodes,
                _ => Vec::new(),
            },
        )
    }

    /// Figures.
    pub fn stats(&self) -> Pending<Stats, DhtError> {
        self.tell(|reply| DhtMessage::Stats(reply.map(|stats: Box<Stats>| Ok(*stats))))
    }

    /// The nodes of the routing tables.
    pub fn nodes(&self) -> Pending<Vec<(Contact, Standing)>, DhtError> {
        self.tell(|reply| DhtMessage::Nodes(reply.map(Ok)))
    }

    /// Where the sockets of the DHT are.
    pub fn addrs(&self) -> Pending<Vec<SocketAddr>, DhtError> {
        self.tell(|reply| DhtMessage::Addrs(reply.map(Ok)))
    }

    fn tell<T: Send + 'static>(
        &self,
        question: impl FnOnce(Reply<Result<T, DhtError>>) -> DhtMessage,
    ) -> Pending<T, DhtError> {
        match &self.address {
            None => Pending::known(&self.hub, Err(DhtError::Off)),
            Some(address) => {
                let answer: Answer<Result<T, DhtError>> =
                    self.hub.handle.ask(address, question, GRACE);
                Pending::asked(&self.hub, answer)
            }
        }
    }

    fn ask_with<T: Send + 'static>(
        &self,
        order: Order,
        deadline: Option<Duration>,
        keep: bool,
        finds: Option<Finds>,
        read: impl FnOnce(Outcome) -> T + Send + 'static,
    ) -> Pending<T, DhtError> {
        let Some(address) = &self.address else {
            return Pending::known(&self.hub, Err(DhtError::Off));
        };
        let question = |reply: Reply<Result<T, DhtError>>| {
            DhtMessage::Ask(Box::new(Ask {
                order,
                deadline,
                keep,
                finds,
                reply: reply.map(|result: Result<Outcome, OrderError>| Ok(read(result?))),
            }))
        };
        let patience = deadline.unwrap_or(DHT_DEADLINE) + GRACE;
        let answer = self.hub.handle.ask(address, question, patience);
        Pending::asked(&self.hub, answer)
    }
}

impl std::fmt::Debug for Dht {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dht")
            .field("is_on", &self.is_on())
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<FindState>,
    is_dropped: AtomicBool,
}

#[derive(Default)]
struct FindState {
    peers: VecDeque<SocketAddr>,
    has_ended: bool,
    waker: Option<Waker>,
}

impl Shared {
    fn put(&self, peers: &[SocketAddr]) -> bool {
        let mut state = self.state.lock();
        let room = FINDS_MAX - state.peers.len();
        state.peers.extend(peers.iter().take(room));
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        !self.is_dropped.load(Ordering::Acquire)
    }

    fn end(&self) {
        let mut state = self.state.lock();
        state.has_ended = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Peers that a search finds, as it finds them. As an iterator it waits for the next and ends with the search.
pub struct Finding {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    asked: Pending<usize, DhtError>,
}

impl Finding {
    /// The next peer, as a future's poll. `None` when the search has ended.
    pub fn poll_next(&mut self, task: &mut TaskContext<'_>) -> Poll<Option<SocketAddr>> {
        let mut state = self.shared.state.lock();
        if let Some(peer) = state.peers.pop_front() {
            return Poll::Ready(Some(peer));
        }
        if state.has_ended {
            return Poll::Ready(None);
        }
        state.waker = Some(task.waker().clone());
        drop(state);
        // An order that was not taken, or whose node has ended, ends the search as well.
        match std::pin::Pin::new(&mut self.asked).poll(task) {
            Poll::Ready(_) => {
                self.shared.end();
                Poll::Ready(self.shared.state.lock().peers.pop_front())
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// The next peer, as a future of any executor. `None` when the search has ended.
    pub fn next_async(&mut self) -> impl Future<Output = Option<SocketAddr>> + '_ {
        std::future::poll_fn(|task| self.poll_next(task))
    }

    /// Waits at most `timeout` for the next peer. `Ok(None)` when the search has ended.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<SocketAddr>, WaitError> {
        let hub = self.hub.clone();
        block_on(&hub, Some(timeout), &mut |task| self.poll_next(task))
    }
}

impl Iterator for Finding {
    type Item = SocketAddr;

    fn next(&mut self) -> Option<SocketAddr> {
        let hub = self.hub.clone();
        block_on(&hub, None, &mut |task| self.poll_next(task))
            .ok()
            .flatten()
    }
}

impl Drop for Finding {
    fn drop(&mut self) {
        self.shared.is_dropped.store(true, Ordering::Release);
    }
}

impl std::fmt::Debug for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Finding")
    }
}

/// The info hash under which nodes with the same protocol and version find each other.
pub fn discovery_hash(name: &str, version: &str) -> NodeId {
    NodeId::sha1(&[format!("{name}_peer_discovery_v{version}").as_bytes()])
}

/// Spawns the actor.
pub(crate) fn launch(
    options: &DhtOptions,
    protocol: &(String, String),
    directory: Option<String>,
    listen: &[SocketAddr],
    hub: &Arc<Hub>,
    finder: Arc<Finder>,
) -> Result<Address<DhtActor>, StartError> {
    let port = |addr: &SocketAddr| options.port.unwrap_or(addr.port());
    let mut addrs: Vec<SocketAddr> = Vec::new();
    for is_v4 in [true, false] {
        let mut family: Vec<_> = listen
            .iter()
            .filter(|addr| addr.is_ipv4() == is_v4)
            .collect();
        // The widest serves best: any address, else one that others reach.
        family.sort_by_key(|addr| (!addr.ip().is_unspecified(), addr.ip().is_loopback()));
        let widest = family.first();
        addrs.extend(widest.map(|addr| SocketAddr::new(addr.ip(), port(addr))));
    }
    if listen.is_empty() {
        addrs = everywhere(options.port.unwrap_or(0));
    }
    let announced = listen.first().map(SocketAddr::port);
    let settings = DhtSettings {
        config: options.config,
        listen: addrs,
        may_move: options.port.is_none(),
        bootstrap: options.bootstrap.clone(),
        directory,
        discovery: options
            .discovery
            .then(|| (discovery_hash(&protocol.0, &protocol.1), announced)),
    };
    let face: Arc<dyn Observer> = Arc::new(Face {
        hub: hub.clone(),
        finder,
        listen: listen.to_vec(),
        state: Mutex::default(),
    });
    let actor = move || DhtActor::new(settings.clone(), face.clone());
    Ok(hub.handle.spawn(0, move || Child::new(actor).name("dht"))?)
}

/// Passes on what the DHT tells, and what it finds to whoever decides about dialling.
struct Face {
    hub: Arc<Hub>,
    finder: Arc<Finder>,
    listen: Vec<SocketAddr>,
    state: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    /// When each was told last.
    at: BTreeMap<SocketAddr, Duration>,
    external: Vec<IpAddr>,
}

impl Face {
    fn on_discovered(&self, addr: SocketAddr) {
        let is_own = |own: &SocketAddr| {
            let state = self.state.lock();
            own.port() == addr.port()
                && (own.ip() == addr.ip() || state.external.contains(&addr.ip()))
        };
        if self.listen.iter().any(is_own) {
            return;
        }
        let clock = self.hub.handle.clock();
        {
            let mut state = self.state.lock();
            let last = state.at.get(&addr);
            if last.is_some_and(|last| clock.saturating_sub(*last) < TOLD_AGAIN_AFTER) {
                return;
            }
            state.at.insert(addr, clock);
            if state.at.len() > TOLD_MAX {
                let oldest = state
                    .at
                    .iter()
                    .min_by_key(|(_, at)| **at)
                    .map(|(addr, _)| *addr);
                oldest.map(|oldest| state.at.remove(&oldest));
            }
        }
        self.hub.announce(NodeEvent::DhtPeer { addr });
        self.finder.find(Find {
            addr,
            peer_id: None,
            source: Source::Dht,
        });
    }
}

impl Observer for Face {
    fn event(&self, event: &DhtEvent) {
        match event {
            DhtEvent::Ready { nodes } => self.hub.announce(NodeEvent::DhtReady { nodes: *nodes }),
            DhtEvent::Discovered(peers) => peers.iter().for_each(|peer| self.on_discovered(*peer)),
            DhtEvent::ExternalAddress(ip) => {
                let mut state = self.state.lock();
                state
                    .external
                    .retain(|known| known.is_ipv4() != ip.is_ipv4());
                state.external.push(*ip);
            }
            _ => {}
        }
    }
}
