//! The whole machine: what goes in and comes out. `naming.rs`, `responder.rs` and `browser.rs` are its parts.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mischief_reactor::Instant;

use super::error::MdnsError;
use super::jitter::Jitter;
use super::limits::{
    ADDRS_MAX, CONFLICTS_MAX, ECHO_WINDOW, ECHOES_MAX, INTERESTS_MAX, LINKS_MAX, PORT,
    SERVICES_MAX, SOURCE_BURST, SOURCE_RATE, SOURCES_MAX,
};
use super::link::{Entity, Families, Link, LinkInfo, Phase};
use super::map::Map;
use super::name::Name;
use super::record::Packet;
use super::service::{Found, Service, ServiceType, Txt};
use super::wire;

/// A registered service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u64);

/// A browse, or a resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterestId(pub u64);

/// How the machine is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// The first label of the host's name, 1 to 63 bytes; names that are taken get a number.
    pub host: String,
    /// Whether answers by unicast can reach us: only if no other program has the port (RFC 6762 §15.1).
    pub takes_unicast: bool,
    /// What fixes every choice by chance.
    pub seed: u64,
}

/// A datagram as it came in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// On which interface.
    pub interface: u32,
    /// Who sent it.
    pub from: SocketAddr,
    /// Where it was sent to: a group or one of our addresses. `None` if the system does not tell.
    pub to: Option<IpAddr>,
    /// What it says.
    pub data: &'a [u8],
}

/// A datagram to send.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// Through which interface.
    pub interface: u32,
    /// To whom: a group or a querier.
    pub to: SocketAddr,
    /// The bytes; the same for both families.
    pub data: Arc<[u8]>,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MdnsEvent {
    /// A service has been announced on a first interface, under this name.
    Registered {
        /// Which.
        id: ServiceId,
        /// Its instance name.
        instance: String,
    },
    /// Somebody else has the name of our service, so it has another one now.
    Renamed {
        /// Which.
        id: ServiceId,
        /// The name that is taken.
        old: String,
        /// The name that it has now.
        new: String,
    },
    /// Somebody else has the name of our host, so it has another one now.
    HostRenamed {
        /// The new name, with `.local`.
        host: String,
    },
    /// An instance of a browsed type, with everything that is needed to reach it.
    Found(Found),
    /// Something about it has changed.
    Updated(Found),
    /// It is gone.
    Lost {
        /// Its name.
        instance: String,
        /// Its type.
        service_type: ServiceType,
        /// Where it was.
        interface: u32,
    },
    /// Somebody offers services of this type (after [`Mdns::browse_types`]).
    TypeFound {
        /// The type.
        service_type: ServiceType,
        /// Where.
        interface: u32,
    },
}

/// What has been counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MdnsStats {
    /// Packets that were read.
    pub packets_in: u32,
    /// Packets that were sent, each family counted.
    pub packets_out: u32,
    /// Packets that are no multicast DNS, or damaged.
    pub malformed: u32,
    /// Responses and unicast queries from where none may come (RFC 6762 §6, §11).
    pub foreign: u32,
    /// Records for which there was no room, or of which a source had too many.
    pub refused: u32,
    /// Records that are kept.
    pub cached: u32,
}

pub(crate) struct Own {
    pub(crate) service: Service,
    pub(crate) name: Name,
    pub(crate) is_announced: bool,
}

/// What somebody wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Type(ServiceType),
    Instance(Name),
    Types,
}

/// How much a source may still bring.
struct Source {
    tokens: u32,
    /// When tokens were last added.
    filled: Instant,
    heard: Instant,
}

/// A responder and a browser for multicast DNS and DNS-SD on any number of interfaces.
///
/// After every call that changes it, take [`Mdns::poll_transmit`] and [`Mdns::poll_event`] until they give `None`, and call
/// [`Mdns::handle_timeout`] at [`Mdns::poll_timeout`].
pub struct Mdns {
    pub(crate) host: Name,
    pub(crate) links: Map<u32, Link>,
    pub(crate) services: Map<ServiceId, Own>,
    pub(crate) interests: Map<InterestId, Interest>,
    pub(crate) all_types: Name,
    pub(crate) jitter: Jitter,
    pub(crate) takes_unicast: bool,
    /// When names turned out to be taken, the last ones.
    pub(crate) conflicts: VecDeque<Instant>,
    pub(crate) stats: MdnsStats,
    pub(crate) events: VecDeque<MdnsEvent>,
    transmits: VecDeque<Transmit>,
    sources: Map<IpAddr, Source>,
    /// Packets of ours that will come back: when they were sent, their hash, how many times they are expected.
    echoes: VecDeque<(Instant, u64, u8)>,
    next_id: u64,
    is_stopped: bool,
}

impl Mdns {
    /// A machine without interfaces, services and interests.
    pub fn new(config: Config) -> Result<Mdns, MdnsError> {
        let host = Name::from_labels([config.host.as_bytes(), b"local"]);
        let all_types = Name::plain("_services._dns-sd._udp.local");
        Ok(Mdns {
            host: host.map_err(|_| MdnsError::Instance)?,
            links: Map::new(),
            services: Map::new(),
            interests: Map::new(),
            all_types: all_types.map_err(|_| MdnsError::ServiceType)?,
            jitter: Jitter::new(config.seed),
            takes_unicast: config.takes_unicast,
            conflicts: VecDeque::with_capacity(CONFLICTS_MAX),
            stats: MdnsStats::default(),
            events: VecDeque::new(),
            transmits: VecDeque::new(),
            sources: Map::new(),
            echoes: VecDeque::new(),
            next_id: 0,
            is_stopped: false,
        })
    }

    // What goes in.

    /// The interfaces as they are now. What is new or has changed is probed and announced on (RFC 6762 §8); what is gone
    /// takes with it what was found on it.
    pub fn handle_links(&mut self, now: Instant, links: &[LinkInfo]) {
        let usable = links
            .iter()
            .filter(|link| (link.has_ipv4 || link.has_ipv6) && !link.addrs.is_empty());
        let mut wanted: Vec<LinkInfo> = Vec::new();
        for link in usable {
            let at = wanted.partition_point(|other| other.index < link.index);
            wanted.insert(at, link.clone());
        }
        wanted.truncate(LINKS_MAX);
        for link in &mut wanted {
            link.addrs.truncate(ADDRS_MAX);
        }
        let gone: Vec<u32> = self
            .links
            .keys()
            .filter(|index| !wanted.iter().any(|link| link.index == **index))
            .copied()
            .collect();
        for index in gone {
            self.forget_link(index);
        }
        for info in wanted {
            match self.links.get_mut(&info.index) {
                Some(link) if link.info == info => continue,
                Some(link) => link.info = info.clone(),
                None => {
                    self.links.insert(info.index, Link::new(info.clone()));
                    self.add_instances(info.index);
                }
            }
            self.restart(now, info.index);
        }
    }

    /// The machine has slept: everything is probed, announced and asked anew (RFC 6762 §8, §5.2).
    pub fn handle_resumed(&mut self, now: Instant) {
        let all: Vec<u32> = self.links.keys().copied().collect();
        for index in all {
            self.restart(now, index);
        }
    }

    /// Whether answers by unicast can reach us; as in [`Config`].
    pub fn set_takes_unicast(&mut self, takes_unicast: bool) {
        self.takes_unicast = takes_unicast;
    }

    fn restart(&mut self, now: Instant, index: u32) {
        if self.is_stopped {
            return;
        }
        self.start_probing_all(now, index);
        self.start_asking_all(now, index);
    }

    /// A datagram. Nothing that it says can make this fail.
    pub fn handle_datagram(&mut self, now: Instant, arrival: Arrival<'_>) {
        if !self.links.contains_key(&arrival.interface) || self.is_echo(now, &arrival) {
            return;
        }
        self.stats.packets_in = self.stats.packets_in.wrapping_add(1);
        let from = arrival.from;
        let is_multicast = arrival.to.is_some_and(|to| to.is_multicast());
        // RFC 6762 §11: what was sent to the group comes from the link, whatever its source says; everything else has to
        // have a source on the link.
        let link = self.links.get(&arrival.interface);
        let is_near = is_multicast || link.is_some_and(|link| link.info.is_on_link(from.ip()));
        let packet = match wire::decode(arrival.data) {
            Ok(packet) => packet,
            Err(_) => {
                self.stats.malformed = self.stats.malformed.wrapping_add(1);
                return;
            }
        };
        // RFC 6762 §6: responses come from the port of multicast DNS and no other.
        if !is_near || (packet.is_response && from.port() != PORT) || self.is_stopped {
            self.stats.foreign = self.stats.foreign.wrapping_add(1);
            return;
        }
        if packet.is_response {
            self.handle_response(now, arrival.interface, from.ip(), packet);
        } else {
            self.handle_query(now, arrival.interface, from, is_multicast, packet);
        }
    }

    /// The deadline of [`Mdns::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let all: Vec<u32> = self.links.keys().copied().collect();
        for index in all {
            self.advance_phases(now, index);
            self.send_answers(now, index);
            self.send_replies(now, index);
            self.expire(now, index);
            self.send_questions(now, index);
        }
    }

    /// Registers a service: it is announced on every interface once nobody there has claimed its name. What became of it
    /// comes as [`MdnsEvent::Registered`].
    pub fn register(&mut self, now: Instant, service: Service) -> Result<ServiceId, MdnsError> {
        service.check()?;
        let name = service.service_type.instance(&service.instance)?;
        if self.services.values().any(|own| own.name == name) {
            return Err(MdnsError::Duplicate);
        }
        if self.services.len() >= SERVICES_MAX {
            return Err(MdnsError::TooMany {
                what: "registered services",
                max: SERVICES_MAX,
            });
        }
        let id = ServiceId(self.new_id());
        let own = Own {
            service,
            name,
            is_announced: false,
        };
        self.services.insert(id, own);
        self.start_probing(now, Entity::Service(id));
        Ok(id)
    }

    /// Changes what a service says about itself, and announces it (RFC 6762 §8.4).
    pub fn update(&mut self, now: Instant, id: ServiceId, txt: Txt) -> Result<(), MdnsError> {
        let own = self.services.get_mut(&id).ok_or(MdnsError::Unknown)?;
        own.service.txt = txt;
        for link in self.links.values_mut() {
            if let Some(phase) = link.phases.get_mut(&Entity::Service(id))
                && phase.is_ours()
            {
                *phase = Phase::Announcing { sent: 0, at: now };
            }
        }
        Ok(())
    }

    /// Takes a service back; everybody is told (RFC 6762 §10.1).
    pub fn unregister(&mut self, now: Instant, id: ServiceId) -> Result<Service, MdnsError> {
        self.say_goodbye(now, Entity::Service(id));
        let own = self.services.remove(&id).ok_or(MdnsError::Unknown)?;
        self.forget_entity(Entity::Service(id));
        Ok(own.service)
    }

    /// Takes everything back and says no more.
    pub fn stop(&mut self, now: Instant) {
        let all: Vec<Entity> = self
            .services
            .keys()
            .map(|id| Entity::Service(*id))
            .collect();
        for entity in all.into_iter().chain([Entity::Host]) {
            self.say_goodbye(now, entity);
        }
        self.is_stopped = true;
        for link in self.links.values_mut() {
            *link = Link::new(link.info.clone());
        }
        self.services.clear();
        self.interests.clear();
    }

    /// Looks for instances of a type until [`Mdns::stop_interest`]. Those that are known already are told at once.
    pub fn browse(
        &mut self,
        now: Instant,
        service_type: ServiceType,
    ) -> Result<InterestId, MdnsError> {
        self.add_interest(now, Interest::Type(service_type))
    }

    /// Looks for types of services (RFC 6763 §9).
    pub fn browse_types(&mut self, now: Instant) -> Result<InterestId, MdnsError> {
        self.add_interest(now, Interest::Types)
    }

    /// Follows one instance, whose type need not be browsed: its address and port are kept fresh.
    pub fn resolve(
        &mut self,
        now: Instant,
        instance: &str,
        service_type: &ServiceType,
    ) -> Result<InterestId, MdnsError> {
        let name = service_type.instance(instance)?;
        self.add_interest(now, Interest::Instance(name))
    }

    fn add_interest(&mut self, now: Instant, interest: Interest) -> Result<InterestId, MdnsError> {
        if self.interests.len() >= INTERESTS_MAX {
            return Err(MdnsError::TooMany {
                what: "browses",
                max: INTERESTS_MAX,
            });
        }
        let id = InterestId(self.new_id());
        let is_new = !self.interests.values().any(|other| *other == interest);
        self.interests.insert(id, interest.clone());
        if is_new {
            self.start_interest(now, &interest);
        }
        self.tell_known(&interest);
        Ok(id)
    }

    /// Ends a browse or a resolution; what was found by it alone is forgotten without a word.
    pub fn stop_interest(&mut self, id: InterestId) -> Result<(), MdnsError> {
        let interest = self.interests.remove(&id).ok_or(MdnsError::Unknown)?;
        if !self.interests.values().any(|other| *other == interest) {
            self.end_interest(&interest);
        }
        Ok(())
    }

    /// Ends every browse of a type.
    pub fn stop_browses(&mut self, service_type: &ServiceType) -> Result<(), MdnsError> {
        let is_it = |interest: &Interest| *interest == Interest::Type(service_type.clone());
        let all = self
            .interests
            .iter()
            .filter(|(_, interest)| is_it(interest));
        let ids: Vec<InterestId> = all.map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return Err(MdnsError::Unknown);
        }
        ids.into_iter().try_for_each(|id| self.stop_interest(id))
    }

    /// Somebody could not reach an instance: it is asked for, and lost if it does not answer within ten seconds (RFC 6762
    /// §10.4).
    pub fn verify(
        &mut self,
        now: Instant,
        instance: &str,
        service_type: &ServiceType,
    ) -> Result<(), MdnsError> {
        let name = service_type.instance(instance)?;
        if self.start_verify(now, &name) {
            Ok(())
        } else {
            Err(MdnsError::Unknown)
        }
    }

    // What comes out.

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<MdnsEvent> {
        self.events.pop_front()
    }

    /// When to call [`Mdns::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.links.values().filter_map(Link::poll_timeout).min()
    }

    /// Everything that is known of found services, in the order of interfaces and names.
    pub fn found(&self) -> Vec<Found> {
        let instances = self.links.values().flat_map(|link| link.instances.values());
        instances
            .filter_map(|instance| instance.found.clone())
            .collect()
    }

    /// The registered services under their names of now.
    pub fn registered(&self) -> impl Iterator<Item = (ServiceId, &Service)> {
        self.services.iter().map(|(id, own)| (*id, &own.service))
    }

    /// The name of this host: `name.local`.
    pub fn host(&self) -> String {
        self.host.to_host_text()
    }

    /// What has been counted.
    pub fn stats(&self) -> MdnsStats {
        let cached: usize = self.links.values().map(|link| link.cache.count()).sum();
        MdnsStats {
            cached: u32::try_from(cached).unwrap_or(u32::MAX),
            ..self.stats
        }
    }

    /// Bytes it owns outside of itself, roughly.
    pub fn heap_bytes(&self) -> usize {
        let links: usize = self.links.values().map(Link::heap_bytes).sum();
        let services: usize = self
            .services
            .values()
            .map(|own| own.service.txt.as_wire().len() + 200)
            .sum();
        links + services + self.sources.len() * size_of::<(IpAddr, Source)>()
    }

    // What the parts share.

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Multicasts a packet, in several if it is large, and remembers it so as to know its echo.
    pub(crate) fn multicast(
        &mut self,
        now: Instant,
        index: u32,
        families: Families,
        packet: Packet,
    ) {
        let mut packets = Vec::new();
        packet.encode_all(&mut packets);
        for bytes in packets {
            let data: Arc<[u8]> = bytes.into();
            let hash = hash(&data);
            for to in families.groups(index) {
                // A packet comes back on every interface of the same network, so on as many as there are at most.
                let has_family = |link: &&Link| {
                    let families = link.info.families();
                    if to.is_ipv4() {
                        families.v4
                    } else {
                        families.v6
                    }
                };
                let copies = self.links.values().filter(has_family).count();
                if self.echoes.len() >= ECHOES_MAX {
                    self.echoes.pop_front();
                }
                self.echoes.push_back((now, hash, copies as u8));
                self.transmit(index, to, data.clone());
            }
        }
    }

    /// Sends a packet to one querier.
    pub(crate) fn unicast(&mut self, index: u32, to: SocketAddr, packet: Packet) {
        let mut packets = Vec::new();
        packet.encode_all(&mut packets);
        for bytes in packets {
            self.transmit(index, to, bytes.into());
        }
    }

    fn transmit(&mut self, interface: u32, to: SocketAddr, data: Arc<[u8]>) {
        self.stats.packets_out = self.stats.packets_out.wrapping_add(1);
        self.transmits.push_back(Transmit {
            interface,
            to,
            data,
        });
    }

    /// Whether a datagram is one of ours that came back. Other programs of this machine have the same source address, so
    /// the bytes decide, and each packet is expected as often as it can come.
    fn is_echo(&mut self, now: Instant, arrival: &Arrival<'_>) -> bool {
        if arrival.from.port() != PORT || !self.is_own_address(arrival.from.ip()) {
            return false;
        }
        while let Some((sent, ..)) = self.echoes.front()
            && now.saturating_duration_since(*sent) > ECHO_WINDOW
        {
            self.echoes.pop_front();
        }
        let hash = hash(arrival.data);
        let mut echoes = self.echoes.iter_mut();
        match echoes.find(|(_, other, copies)| *other == hash && *copies > 0) {
            Some((_, _, copies)) => {
                *copies -= 1;
                true
            }
            None => false,
        }
    }

    pub(crate) fn is_own_address(&self, ip: IpAddr) -> bool {
        let mut links = self.links.values();
        links.any(|link| link.info.addrs.iter().any(|(own, _)| *own == ip))
    }

    /// Whether a source may bring one more record that is new.
    pub(crate) fn spend(&mut self, now: Instant, from: IpAddr) -> bool {
        if !self.sources.contains_key(&from) && self.sources.len() >= SOURCES_MAX {
            let oldest = self.sources.iter().min_by_key(|(_, source)| source.heard);
            if let Some(oldest) = oldest.map(|(ip, _)| *ip) {
                self.sources.remove(&oldest);
            }
        }
        let source = self.sources.get_or_insert_with(from, || Source {
            tokens: SOURCE_BURST,
            filled: now,
            heard: now,
        });
        source.heard = now;
        let seconds = now.saturating_duration_since(source.filled).as_secs();
        if seconds > 0 {
            let more = u32::try_from(seconds)
                .unwrap_or(u32::MAX)
                .saturating_mul(SOURCE_RATE);
            source.tokens = source.tokens.saturating_add(more).min(SOURCE_BURST);
            source.filled = now;
        }
        let may = source.tokens > 0;
        source.tokens = source.tokens.saturating_sub(1);
        if !may {
            self.stats.refused = self.stats.refused.wrapping_add(1);
        }
        may
    }
}

/// FNV-1a: tells our own packets from others, where a mistake costs one answer.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}
