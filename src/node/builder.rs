//! How a node is to be, and its start.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use mischief_actors::connection::admission::AdmissionLimits;
use mischief_actors::connection::dial::DialConfig;
use mischief_actors::connection::endpoint::parse_listen_addr;
use mischief_actors::connection::{ConnectionLimits, ConnectionTiming, REASSEMBLY_BYTES_MAX};
use mischief_actors::identity::{Identity, PeerId};
use mischief_actors::messages::RequestLimits;
use mischief_actors::peers::PeersLimits;
use mischief_reactor::{AskError, DriverKind, Handle, Random, Runtime};

use super::dht::DhtOptions;
use super::dispatch::{Callbacks, Hub};
use super::error::StartError;
use super::launch;
use super::mdns::MDNS_TYPE_DEFAULT;
use super::network::{self, NetworkOptions, SharedDataDir};
use super::warden;
use super::wiring::Kept;
use super::{DROP_DEADLINE, Node, Parts};
use crate::data_dir::{DataDir, DataDirError};
use crate::identity_file;
use crate::network_key::NetworkKey;

/// The longest name of a node, of its protocol and of the protocol's version, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Every bound of a node. What a peer can make grow has one.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// Of the runtime: mailboxes, queues, memory in all. A runtime that is shared has its own.
    pub runtime: mischief_reactor::Limits,
    /// Bytes and counts of each connection.
    pub connection: ConnectionLimits,
    /// Times of each connection.
    pub timing: ConnectionTiming,
    /// How many peers, and how long deciding about them may take. [`NodeBuilder::max_peers`] goes before it.
    pub peers: PeersLimits,
    /// Of connections that are being accepted.
    pub admission: AdmissionLimits,
    /// Of connections that are being made.
    pub dial: DialConfig,
    /// Bytes over all connections for messages that are larger than their window.
    pub reassembly_bytes_max: usize,
    /// Open requests, ours and those of peers.
    pub requests: RequestLimits,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            runtime: mischief_reactor::Limits::default(),
            connection: ConnectionLimits::default(),
            timing: ConnectionTiming::default(),
            peers: PeersLimits::default(),
            admission: AdmissionLimits::default(),
            dial: DialConfig::default(),
            reassembly_bytes_max: REASSEMBLY_BYTES_MAX,
            requests: RequestLimits::default(),
        }
    }
}

/// What a [`NodeBuilder`] was told.
pub(crate) struct Settings {
    pub(crate) listen: Vec<String>,
    pub(crate) listens_everywhere: bool,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) identity: Option<Identity>,
    pub(crate) protocol: (String, String),
    pub(crate) name: Option<String>,
    pub(crate) max_peers: Option<u32>,
    pub(crate) max_inbound: Option<u32>,
    pub(crate) network: NetworkOptions,
    pub(crate) cores: usize,
    pub(crate) network_key: Option<NetworkKey>,
    pub(crate) aes_hardware: Option<bool>,
    pub(crate) limits: Limits,
    pub(crate) callbacks: Callbacks,
    pub(crate) runtime: Option<Handle>,
    pub(crate) driver: DriverKind,
    pub(crate) dht: Option<DhtOptions>,
    pub(crate) mdns: bool,
    pub(crate) mdns_type: String,
    pub(crate) mdns_instance: Option<String>,
}

impl Settings {
    /// The addresses to listen on.
    pub(crate) fn listen_addrs(&self) -> Result<Vec<SocketAddr>, StartError> {
        let read = |text: &String| {
            parse_listen_addr(text).map_err(|error| StartError::BadListenAddr {
                text: text.clone(),
                error,
            })
        };
        self.listen.iter().map(read).collect()
    }

    fn check(&self) -> Result<(), StartError> {
        self.listen_addrs()?;
        if !(is_name(&self.protocol.0) && is_name(&self.protocol.1)) {
            return Err(StartError::BadProtocol);
        }
        if !self.name.as_deref().is_none_or(is_name) {
            return Err(StartError::BadName);
        }
        Ok(())
    }
}

/// The settings of a node of which nothing has been said.
#[cfg(test)]
pub(super) fn default_settings() -> Settings {
    NodeBuilder::new().0
}

fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Collects how a [`Node`] is to be; made by [`Node::builder`].
#[must_use = "a node runs only after `start`"]
pub struct NodeBuilder(Settings, Vec<OnStart>);

/// What [`NodeBuilder::on_start`] was given.
type OnStart = Box<dyn FnOnce(&Node) + Send>;

impl NodeBuilder {
    pub(crate) fn new() -> NodeBuilder {
        let settings = Settings {
            listen: Vec::new(),
            listens_everywhere: false,
            data_dir: None,
            identity: None,
            protocol: ("mischief".to_owned(), "1.0".to_owned()),
            name: None,
            max_peers: None,
            max_inbound: None,
            network: NetworkOptions::default(),
            cores: 1,
            network_key: None,
            aes_hardware: None,
            limits: Limits::default(),
            callbacks: Callbacks::default(),
            runtime: None,
            driver: DriverKind::default(),
            dht: None,
            mdns: false,
            mdns_type: MDNS_TYPE_DEFAULT.to_owned(),
            mdns_instance: None,
        };
        NodeBuilder(settings, Vec::new())
    }

    pub(super) fn network(&mut self) -> &mut NetworkOptions {
        &mut self.0.network
    }

    /// Keeps the identity and all state in this directory, which is locked while the node runs. Without it the node
    /// keeps nothing and has a new identity at each start.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> NodeBuilder {
        self.0.data_dir = Some(path.into());
        self
    }

    /// Keeps nothing, as if no data directory had been named.
    pub fn ephemeral(mut self) -> NodeBuilder {
        self.0.data_dir = None;
        self
    }

    /// Uses this identity and not the data directory's.
    pub fn identity(mut self, identity: Identity) -> NodeBuilder {
        self.0.identity = Some(identity);
        self
    }

    /// Accepts peers on this address: `0.0.0.0:9000`, `[::]:9000`, `:9000` (every IPv4 address); port 0 is a free one.
    /// May be called several times. A node that listens nowhere can only dial.
    pub fn listen(mut self, addr: impl Into<String>) -> NodeBuilder {
        self.0.listen.push(addr.into());
        self
    }

    /// Accepts peers on this address.
    pub fn listen_addr(self, addr: SocketAddr) -> NodeBuilder {
        self.listen(addr.to_string())
    }

    /// Accepts peers on every address of the machine, over IPv4 and IPv6, on a free port: the same number for both
    /// where it is free for both. A system without one of the two has only the other.
    pub fn listen_everywhere(mut self) -> NodeBuilder {
        self.0.listens_everywhere = true;
        self
    }

    /// Calls `prepare` with the node before it listens: handlers that are added there miss no message. May be called
    /// several times.
    pub fn on_start(mut self, prepare: impl FnOnce(&Node) + Send + 'static) -> NodeBuilder {
        self.1.push(Box::new(prepare));
        self
    }

    /// The application's protocol and its version, each of 1 to 64 bytes. Only nodes with the same ones connect. Without
    /// it `mischief` and `1.0`.
    pub fn protocol(mut self, name: impl Into<String>, version: impl Into<String>) -> NodeBuilder {
        self.0.protocol = (name.into(), version.into());
        self
    }

    /// What this node calls itself towards its peers, 1 to 64 bytes.
    pub fn name(mut self, name: impl Into<String>) -> NodeBuilder {
        self.0.name = Some(name.into());
        self
    }

    /// At most this many peers, from either side. Without it 128, of which half may have dialled this node.
    pub fn max_peers(mut self, max: u32) -> NodeBuilder {
        self.0.max_peers = Some(max);
        self
    }

    /// At most this many peers that have dialled this node.
    pub fn max_inbound(mut self, max: u32) -> NodeBuilder {
        self.0.max_inbound = Some(max);
        self
    }

    /// Cores, each a thread; 1 without it. Of no effect on a shared runtime.
    pub fn cores(mut self, cores: usize) -> NodeBuilder {
        self.0.cores = cores;
        self
    }

    /// The key of a private network: only nodes with the same key connect.
    pub fn network_key(mut self, key: NetworkKey) -> NodeBuilder {
        self.0.network_key = Some(key);
        self
    }

    /// Whether to offer AES-256-GCM, which is used when both sides offer it and ChaCha20-Poly1305 otherwise. Without this a
    /// node offers it where the processor computes it in hardware, and in a simulation never.
    pub fn aes_hardware(mut self, is_offered: bool) -> NodeBuilder {
        self.0.aes_hardware = Some(is_offered);
        self
    }

    /// Bounds.
    pub fn limits(mut self, limits: Limits) -> NodeBuilder {
        self.0.limits = limits;
        self
    }

    /// Where callbacks run.
    pub fn callbacks(mut self, callbacks: Callbacks) -> NodeBuilder {
        self.0.callbacks = callbacks;
        self
    }

    /// Runs on a runtime that is there already, which may carry several nodes or be a simulated machine's. The runtime
    /// must outlive the node.
    pub fn runtime(mut self, runtime: &Handle) -> NodeBuilder {
        self.0.runtime = Some(runtime.new_node());
        self
    }

    /// Takes part in the BitTorrent Mainline DHT: others with the same protocol are found through it, and
    /// [`Node::dht`] can be used. Without this nothing is sent there.
    pub fn dht(mut self, options: DhtOptions) -> NodeBuilder {
        self.0.dht = Some(options);
        self
    }

    /// The selector of a runtime of the node's own.
    pub fn driver(mut self, driver: DriverKind) -> NodeBuilder {
        self.0.driver = driver;
        self
    }

    /// Whether to announce the node on the local network, and to connect to nodes of the same protocol that are found
    /// there; see [`Node::mdns`]. Without it not. A node that listens on loopback alone never does.
    pub fn mdns(mut self, is_on: bool) -> NodeBuilder {
        self.0.mdns = is_on;
        self
    }

    /// The service type under which nodes find each other on the local network. Without it `_rats._tcp`.
    pub fn mdns_type(mut self, service_type: impl Into<String>) -> NodeBuilder {
        self.0.mdns_type = service_type.into();
        self
    }

    /// What the node calls itself on the local network. Without it the short form of its id.
    pub fn mdns_instance(mut self, instance: impl Into<String>) -> NodeBuilder {
        self.0.mdns_instance = Some(instance.into());
        self
    }

    /// Starts the node. When this returns it listens.
    ///
    /// Reads and writes the data directory, so it blocks for as long as the disk takes. Not for core threads.
    pub fn start(self) -> Result<Node, StartError> {
        let NodeBuilder(mut settings, on_start) = self;
        settings.check()?;
        let (handle, runtime) = match settings.runtime.take() {
            Some(handle) => (handle, None),
            None => {
                let runtime = Runtime::builder()
                    .cores(settings.cores)
                    .limits(settings.limits.runtime)
                    .driver(settings.driver)
                    .start()?;
                (runtime.handle(), Some(runtime))
            }
        };
        let mut random = Seeds::draw(&handle)?;
        let (identity, directory) = open_identity(&mut settings, &handle, &mut random)?;
        let hub = Hub::new(handle, settings.callbacks, settings.limits.requests);
        let identity = Arc::new(identity);
        let id: PeerId = identity.peer_id();
        let kept = directory.as_ref().map(|directory| launch::Keeping {
            shelf: Arc::new(network::DataShelf(Arc::downgrade(directory))),
            stored: network::load(directory),
        });
        let launched = launch::launch(&settings, identity, &hub, kept)?;
        let kept: Kept = directory.map(|directory| Box::new(directory) as Box<_>);
        let node = Node::assemble(Parts {
            id,
            hub,
            backend: launched.backend.into(),
            finder: launched.finder,
            mdns: launched.mdns,
            runtime,
            kept,
        });
        for prepare in on_start {
            prepare(&node);
        }
        match warden::watch(&node.hub().handle, node.downgrade(), launched.vital) {
            Ok(warden) => node.backend().adopt(warden),
            Err(error) => {
                node.stop(DROP_DEADLINE);
                return Err(error.into());
            }
        }
        match launched.listening.start(&settings) {
            Ok(addrs) => {
                node.set_listen_addrs(addrs);
                if settings.mdns {
                    // Whoever cannot be found this way may be by others; a node never fails for it.
                    node.mdns()
                        .start()
                        .unwrap_or_else(|error| log::warn!("mdns cannot be started: {error}"));
                }
            }
            Err(error) => {
                // Handlers may hold the node, so that dropping it here would not be enough.
                node.stop(DROP_DEADLINE);
                return Err(error);
            }
        }
        if let Some(options) = &settings.dht {
            let directory = settings.data_dir.as_ref().and_then(|path| path.to_str());
            let directory = directory.map(str::to_owned);
            if let Err(error) = node.start_dht(options, &settings.protocol, directory) {
                node.stop(DROP_DEADLINE);
                return Err(error);
            }
        }
        Ok(node)
    }
}

/// The identity that was handed in, or the data directory's, or a new one; and the lock on the directory.
fn open_identity(
    settings: &mut Settings,
    handle: &Handle,
    random: &mut dyn Random,
) -> Result<(Identity, Option<SharedDataDir>), StartError> {
    let directory = match &settings.data_dir {
        None => None,
        Some(path) => {
            let path = path
                .to_str()
                .ok_or_else(|| DataDirError::NotUtf8(path.clone().into_os_string()))?;
            Some(DataDir::open(handle.disk()?, path)?)
        }
    };
    let identity = match (settings.identity.take(), &directory) {
        (Some(identity), _) => identity,
        (None, Some(directory)) => {
            Identity::from_seed(&*identity_file::load_or_create(directory, random)?)
        }
        (None, None) => Identity::generate(random),
    };
    let directory = directory.map(network::share);
    Ok((identity, directory))
}

/// Random bytes drawn from the runtime in one go.
struct Seeds(zeroize::Zeroizing<[u8; 32]>, usize);

impl Seeds {
    fn draw(handle: &Handle) -> Result<Seeds, AskError> {
        let mut seeds = Seeds(zeroize::Zeroizing::new([0; 32]), 0);
        handle.random(&mut *seeds.0)?;
        Ok(seeds)
    }
}

impl Random for Seeds {
    fn fill(&mut self, bytes: &mut [u8]) {
        let end = self.1 + bytes.len();
        assert!(end <= self.0.len(), "an identity was asked for");
        bytes.copy_from_slice(&self.0[self.1..end]);
        self.1 = end;
    }
}

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder")
            .field("listen", &self.0.listen)
            .field("data_dir", &self.0.data_dir)
            .field("protocol", &self.0.protocol)
            .field("name", &self.0.name)
            .field("cores", &self.0.cores)
            .field("callbacks", &self.0.callbacks)
            .finish_non_exhaustive()
    }
}
