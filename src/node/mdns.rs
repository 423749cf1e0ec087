//! A node on its local network: [`Mdns`], what it says of itself there, and what becomes of what it finds.

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV6};
use std::sync::Arc;

use mischief_actors::connection::{ProtocolHash, WIRE_VERSIONS};
use mischief_actors::discovery::{Find, Source};
use mischief_actors::identity::PeerId;
use mischief_actors::mdns::actor::{Asked, MdnsHandle, MdnsReport, Observer};
use mischief_actors::mdns::{
    self, Config, Found, InterestId, MdnsError, MdnsEvent, MdnsFailure, Service, ServiceId,
    ServiceType, Txt,
};
use mischief_reactor::AskError;
use parking_lot::Mutex;

use super::builder::Settings;
use super::discovery::Finder;
use super::dispatch::Hub;
use super::error::StartError;
use super::events::NodeEvent;
use super::pending::Pending;

/// The type under which nodes announce themselves.
pub const MDNS_TYPE_DEFAULT: &str = "_rats._tcp";

/// Hexadecimal digits of a hash that stand in a TXT record: enough to tell protocols apart, not to prove anything.
const HASH_DIGITS: usize = 16;

/// Services on the local network, of this node and of others. Made by [`Node::mdns`](super::Node::mdns).
///
/// What is found comes as [`NodeEvent::Mdns`]. It is a hint: anybody on the network can say anything. Who a peer is turns
/// out when it is connected.
#[derive(Clone)]
pub struct Mdns(pub(crate) Arc<Subsystem>);

impl Mdns {
    /// Announces this node, if others can reach it, and connects to those of the same protocol that are found, as long as
    /// the node wants more peers. Of no effect when it does so already.
    pub fn start(&self) -> Result<(), MdnsFailure> {
        self.0.start()
    }

    /// Takes everything back and looks for nobody any more. Registrations and browses of the program end too.
    pub fn stop(&self) {
        self.0.stop();
    }

    /// Whether anything of it runs.
    pub fn is_running(&self) -> bool {
        self.0.state.lock().actor.is_some()
    }

    /// Registers a service beside the node itself. When it has been announced, [`MdnsEvent::Registered`] comes.
    pub fn register(&self, service: Service) -> Pending<ServiceId, MdnsFailure> {
        self.0.ask(|actor| actor.register(service))
    }

    /// Changes what a service says about itself.
    pub fn update(&self, id: ServiceId, txt: Txt) -> Pending<(), MdnsFailure> {
        self.0.ask(|actor| actor.update(id, txt))
    }

    /// Takes a service back. The answer is the service as it was, under the name that it had last.
    pub fn unregister(&self, id: ServiceId) -> Pending<Service, MdnsFailure> {
        self.0.ask(|actor| actor.unregister(id))
    }

    /// Looks for instances of a type, which come as events, until [`Mdns::stop_browse`].
    pub fn browse(&self, service_type: ServiceType) -> Pending<InterestId, MdnsFailure> {
        self.0.ask(|actor| actor.browse(service_type))
    }

    /// Looks for types of services.
    pub fn browse_types(&self) -> Pending<InterestId, MdnsFailure> {
        self.0.ask(|actor| actor.browse_types())
    }

    /// Follows one instance: its address and port are kept fresh, until [`Mdns::stop_browse`].
    pub fn resolve(
        &self,
        instance: &str,
        service_type: ServiceType,
    ) -> Pending<InterestId, MdnsFailure> {
        self.0
            .ask(|actor| actor.resolve(instance.to_owned(), service_type))
    }

    /// Ends a browse or a resolution.
    pub fn stop_browse(&self, id: InterestId) -> Pending<(), MdnsFailure> {
        self.0.ask(|actor| actor.stop_interest(id))
    }

    /// Ends all browses of a type, that of the node itself as well.
    pub fn stop_browses(&self, service_type: ServiceType) -> Pending<(), MdnsFailure> {
        self.0.ask(|actor| actor.stop_browses(service_type))
    }

    /// Finds out whether an instance still answers. If it does not within ten seconds, it is lost.
    pub fn verify(&self, instance: &str, service_type: ServiceType) -> Pending<(), MdnsFailure> {
        self.0
            .ask(|actor| actor.verify(instance.to_owned(), service_type))
    }

    /// What is registered and found.
    pub fn report(&self) -> Pending<MdnsReport, MdnsFailure> {
        self.0.ask(|actor| actor.report())
    }
}

impl std::fmt::Debug for Mdns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mdns")
    }
}

/// What a node says of itself, and by which it knows others of its kind.
#[derive(Clone)]
struct About {
    own: PeerId,
    service_type: ServiceType,
    instance: String,
    protocol: String,
    protocol_hash: String,
    /// A hash of the network key: nodes of other networks are not dialled, and strangers learn no more than that there is one.
    network_hash: Option<String>,
}

/// Everything about a node on its local network.
pub(crate) struct Subsystem {
    hub: Arc<Hub>,
    ear: Arc<Ear>,
    about: About,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    actor: Option<MdnsHandle>,
    /// Where the node listens; known at the end of its start.
    listen: Vec<SocketAddr>,
    is_announced: bool,
    has_ended: bool,
}

impl Subsystem {
    pub(crate) fn new(
        settings: &Settings,
        own: PeerId,
        hub: &Arc<Hub>,
        finder: Arc<Finder>,
    ) -> Result<Subsystem, StartError> {
        let (name, version) = &settings.protocol;
        let hash = ProtocolHash::new(name, version).ok_or(StartError::BadProtocol)?;
        let network_hash = settings.network_key.as_ref().and_then(|key| {
            // 256 random bits lie behind it, so nobody finds the key by trying.
            let label = "mischief network on mdns";
            ProtocolHash::new(label, &hex(key.as_bytes(), 64))
                .map(|hash| hex(hash.as_bytes(), HASH_DIGITS))
        });
        let service_type = settings.mdns_type.parse();
        let about = About {
            own,
            service_type: service_type.map_err(StartError::BadMdns)?,
            instance: settings
                .mdns_instance
                .clone()
                .unwrap_or_else(|| own.short().to_string()),
            protocol: name.clone(),
            protocol_hash: hex(hash.as_bytes(), HASH_DIGITS),
            network_hash,
        };
        let ear = Ear {
            hub: hub.clone(),
            finder,
            about: about.clone(),
            known: Mutex::default(),
        };
        Ok(Subsystem {
            hub: hub.clone(),
            ear: Arc::new(ear),
            about,
            state: Mutex::default(),
        })
    }

    /// Where the node listens.
    pub(crate) fn set_listen_addrs(&self, addrs: &[SocketAddr]) {
        self.state.lock().listen = addrs.to_vec();
    }

    fn start(&self) -> Result<(), MdnsFailure> {
        let listen = {
            let mut state = self.state.lock();
            if std::mem::replace(&mut state.is_announced, true) {
                return Ok(());
            }
            state.listen.clone()
        };
        let is_local = !listen.is_empty() && listen.iter().all(|addr| addr.ip().is_loopback());
        if is_local {
            // It can be reached from this machine alone, and whoever set it up so wants nobody from elsewhere.
            log::info!("mdns is off: the node listens on loopback alone");
            return Ok(());
        }
        self.ear.finder.start().map_err(|_| AskError::NoReply)?;
        let actor = self.actor()?;
        if let Some(addr) = listen.iter().find(|addr| !addr.ip().is_loopback()) {
            let service = self.service(addr.port())?;
            // What becomes of it comes as an event.
            drop(actor.register(service));
        }
        drop(actor.browse(self.about.service_type.clone()));
        Ok(())
    }

    /// What the node says of itself: enough for others to decide whether it is for them, and nothing about its user.
    fn service(&self, port: u16) -> Result<Service, MdnsError> {
        let about = &self.about;
        let id = about.own.to_string();
        let version = WIRE_VERSIONS.end().to_string();
        let mut entries: Vec<(&str, Option<&[u8]>)> = vec![
            ("id", Some(id.as_bytes())),
            ("v", Some(version.as_bytes())),
            ("proto", Some(about.protocol.as_bytes())),
            ("hash", Some(about.protocol_hash.as_bytes())),
            // None so far; a number in hexadecimal digits, as in the handshake.
            ("f", Some(b"0")),
        ];
        if let Some(hash) = &about.network_hash {
            entries.push(("net", Some(hash.as_bytes())));
        }
        Ok(Service {
            instance: about.instance.clone(),
            service_type: about.service_type.clone(),
            port,
            txt: Txt::new(entries)?,
        })
    }

    pub(crate) fn stop(&self) {
        let actor = {
            let mut state = self.state.lock();
            state.is_announced = false;
            state.actor.take()
        };
        if let Some(actor) = actor {
            actor.stop();
        }
        for (_, peer) in std::mem::take(&mut *self.ear.known.lock()) {
            self.ear.finder.gone(peer, Source::Mdns);
        }
    }

    /// The same for good: the node ends.
    pub(crate) fn end(&self) {
        self.state.lock().has_ended = true;
        self.stop();
    }

    fn actor(&self) -> Result<MdnsHandle, MdnsFailure> {
        let mut state = self.state.lock();
        if state.has_ended {
            return Err(AskError::NoReply.into());
        }
        if let Some(actor) = &state.actor {
            return Ok(actor.clone());
        }
        let mut seed = [0; 8];
        self.hub.handle.random(&mut seed)?;
        let config = Config {
            host: self.about.own.short().to_string(),
            takes_unicast: false,
            seed: u64::from_le_bytes(seed),
        };
        let machine = mdns::Mdns::new(config)?;
        let spawned = MdnsHandle::spawn(&self.hub.handle, machine, self.ear.clone());
        let actor = spawned.map_err(|error| {
            log::warn!("mdns cannot be started: {error}");
            AskError::NoReply
        })?;
        state.actor = Some(actor.clone());
        Ok(actor)
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&MdnsHandle) -> Asked<T>,
    ) -> Pending<T, MdnsFailure> {
        match self.actor() {
            Ok(actor) => Pending::asked(&self.hub, question(&actor)),
            Err(error) => Pending::known(&self.hub, Err(error)),
        }
    }
}

/// Who a found service says it is, if it says so in the way of nodes.
pub(crate) fn peer_id_of(found: &Found) -> Option<PeerId> {
    std::str::from_utf8(found.txt.get("id")?).ok()?.parse().ok()
}

/// Hears what the actor finds, on its core.
struct Ear {
    hub: Arc<Hub>,
    finder: Arc<Finder>,
    about: About,
    /// Nodes that are there, by interface and instance. No more than the actor keeps.
    known: Mutex<BTreeMap<(u32, String), PeerId>>,
}

impl Ear {
    /// Who a found node is, if this node can connect to it at all.
    fn kindred(&self, found: &Found) -> Option<PeerId> {
        let is = |key: &str, wanted: &str| found.txt.get(key) == Some(wanted.as_bytes());
        let same_network = match &self.about.network_hash {
            Some(hash) => is("net", hash),
            None => found.txt.get("net").is_none(),
        };
        let peer = peer_id_of(found)?;
        let fits = found.service_type == self.about.service_type
            && is("hash", &self.about.protocol_hash)
            && same_network
            && peer != self.about.own;
        fits.then_some(peer)
    }

    fn found(&self, found: &Found) {
        let key = (found.interface, found.instance.clone());
        let Some(peer) = self.kindred(found) else {
            self.lost(found.interface, &found.instance);
            return;
        };
        if let Some(other) = self
            .known
            .lock()
            .insert(key, peer)
            .filter(|other| *other != peer)
        {
            self.finder.gone(other, Source::Mdns);
        }
        for ip in &found.addrs {
            let addr = match ip {
                std::net::IpAddr::V6(ip) if ip.is_unicast_link_local() => {
                    SocketAddrV6::new(*ip, found.port, 0, found.interface).into()
                }
                ip => SocketAddr::new(*ip, found.port),
            };
            self.finder.find(Find {
                addr,
                peer_id: Some(peer),
                source: Source::Mdns,
            });
        }
    }

    fn lost(&self, interface: u32, instance: &str) {
        let mut known = self.known.lock();
        let Some(peer) = known.remove(&(interface, instance.to_owned())) else {
            return;
        };
        // It may still be seen on another interface.
        let is_seen = known.values().any(|other| *other == peer);
        drop(known);
        if !is_seen {
            self.finder.gone(peer, Source::Mdns);
        }
    }
}

impl Observer for Ear {
    fn event(&self, event: &MdnsEvent) {
        match event {
            MdnsEvent::Found(found) | MdnsEvent::Updated(found) => self.found(found),
            MdnsEvent::Lost {
                instance,
                service_type,
                interface,
            } if *service_type == self.about.service_type => self.lost(*interface, instance),
            _ => {}
        }
        self.hub.announce(NodeEvent::Mdns(event.clone()));
    }
}

fn hex(bytes: &[u8], digits: usize) -> String {
    let all: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    all.chars().take(digits).collect()
}
