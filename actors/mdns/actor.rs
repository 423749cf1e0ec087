//! The shell around [`Mdns`]: a socket for each interface and family, who asks and who is told.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mischief_reactor::io::driver::{Interface, UdpOptions};
use mischief_reactor::{
    Actor, Address, Answer, Child, Context, Datagram, Drain, Event, Failure, Handle, Message,
    Reply, SocketId, SpawnError, StopReason, TimerId, Transmit,
};

use super::limits::{ADDRS_MAX, GROUP_V4, GROUP_V6, PORT};
use super::map::{Map, sorted};
use super::{
    Arrival, Found, InterestId, LinkInfo, Mdns, MdnsError, MdnsEvent, MdnsFailure, MdnsStats,
    Service, ServiceId, ServiceType, Txt,
};

/// How late a deadline may be: far below every interval of the protocol.
const SLACK: Duration = Duration::from_millis(2);
/// How often interfaces are looked at where the system does not tell of changes; also the first wait when one could not be
/// used.
const RESCAN_INTERVAL: Duration = Duration::from_secs(5);
/// The longest wait until one that could not be used is tried again.
const RETRY_MAX: Duration = Duration::from_secs(600);
/// How long the actor may take for what it answers by itself.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Multicast DNS does not leave the link, which every receiver may check by this (RFC 6762 §11).
const HOP_LIMIT: u8 = 255;

/// Who is told what is found: on the core thread.
pub trait Observer: Send + Sync {
    /// Something was found, changed or lost, or a name was taken.
    fn event(&self, event: &MdnsEvent);
}

/// Orders to the actor.
pub enum MdnsMessage {
    /// Register a service.
    Register {
        /// The service.
        service: Service,
        /// Its id.
        reply: Reply<Result<ServiceId, MdnsFailure>>,
    },
    /// Change what a service says about itself.
    Update {
        /// Which.
        id: ServiceId,
        /// What it says now.
        txt: Txt,
        /// Whether it is there.
        reply: Reply<Result<(), MdnsFailure>>,
    },
    /// Take a service back.
    Unregister {
        /// Which.
        id: ServiceId,
        /// The service as it was, under the name that it had last.
        reply: Reply<Result<Service, MdnsFailure>>,
    },
    /// Look for instances of a type.
    Browse {
        /// The type.
        service_type: ServiceType,
        /// What ends it.
        reply: Reply<Result<InterestId, MdnsFailure>>,
    },
    /// Look for types.
    BrowseTypes {
        /// What ends it.
        reply: Reply<Result<InterestId, MdnsFailure>>,
    },
    /// Follow one instance.
    Resolve {
        /// Its name.
        instance: String,
        /// Its type.
        service_type: ServiceType,
        /// What ends it.
        reply: Reply<Result<InterestId, MdnsFailure>>,
    },
    /// End a browse or a resolution.
    StopInterest {
        /// Which.
        id: InterestId,
        /// Whether it was there.
        reply: Reply<Result<(), MdnsFailure>>,
    },
    /// End every browse of a type.
    StopBrowses {
        /// The type.
        service_type: ServiceType,
        /// Whether there was one.
        reply: Reply<Result<(), MdnsFailure>>,
    },
    /// Find out whether an instance still answers.
    Verify {
        /// Its name.
        instance: String,
        /// Its type.
        service_type: ServiceType,
        /// Whether it is known at all.
        reply: Reply<Result<(), MdnsFailure>>,
    },
    /// Tell everything.
    Report {
        /// The report.
        reply: Reply<Result<MdnsReport, MdnsFailure>>,
    },
}

impl Message for MdnsMessage {}

fn answer<T: Send + 'static>(reply: Reply<Result<T, MdnsFailure>>, result: Result<T, MdnsError>) {
    reply.send(result.map_err(MdnsFailure::Refused));
}

/// The way to a running actor, for threads outside. Everything is made here once, and small, instead of by each caller.
#[derive(Clone)]
pub struct MdnsHandle {
    handle: Handle,
    actor: Address<MdnsActor>,
}

impl MdnsHandle {
    /// Starts an actor on the first core.
    pub fn spawn(
        handle: &Handle,
        machine: Mdns,
        observer: Arc<dyn Observer>,
    ) -> Result<MdnsHandle, SpawnError> {
        let make = move || Child::once(MdnsActor::new(machine, observer)).name("mdns");
        let actor = handle.spawn(0, make)?;
        let handle = handle.clone();
        Ok(MdnsHandle { handle, actor })
    }

    /// Ends the actor, which takes everything back.
    pub fn stop(&self) {
        self.handle.stop(self.actor.id());
    }

    /// [`MdnsMessage::Register`].
    pub fn register(&self, service: Service) -> Asked<ServiceId> {
        self.ask(|reply| MdnsMessage::Register { service, reply })
    }

    /// [`MdnsMessage::Update`].
    pub fn update(&self, id: ServiceId, txt: Txt) -> Asked<()> {
        self.ask(|reply| MdnsMessage::Update { id, txt, reply })
    }

    /// [`MdnsMessage::Unregister`].
    pub fn unregister(&self, id: ServiceId) -> Asked<Service> {
        self.ask(|reply| MdnsMessage::Unregister { id, reply })
    }

    /// [`MdnsMessage::Browse`].
    pub fn browse(&self, service_type: ServiceType) -> Asked<InterestId> {
        self.ask(|reply| MdnsMessage::Browse {
            service_type,
            reply,
        })
    }

    /// [`MdnsMessage::BrowseTypes`].
    pub fn browse_types(&self) -> Asked<InterestId> {
        self.ask(|reply| MdnsMessage::BrowseTypes { reply })
    }

    /// [`MdnsMessage::Resolve`].
    pub fn resolve(&self, instance: String, service_type: ServiceType) -> Asked<InterestId> {
        self.ask(|reply| MdnsMessage::Resolve {
            instance,
            service_type,
            reply,
        })
    }

    /// [`MdnsMessage::StopInterest`].
    pub fn stop_interest(&self, id: InterestId) -> Asked<()> {
        self.ask(|reply| MdnsMessage::StopInterest { id, reply })
    }

    /// [`MdnsMessage::StopBrowses`].
    pub fn stop_browses(&self, service_type: ServiceType) -> Asked<()> {
        self.ask(|reply| MdnsMessage::StopBrowses {
            service_type,
            reply,
        })
    }

    /// [`MdnsMessage::Verify`].
    pub fn verify(&self, instance: String, service_type: ServiceType) -> Asked<()> {
        self.ask(|reply| MdnsMessage::Verify {
            instance,
            service_type,
            reply,
        })
    }

    /// [`MdnsMessage::Report`].
    pub fn report(&self) -> Asked<MdnsReport> {
        self.ask(|reply| MdnsMessage::Report { reply })
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(Reply<Result<T, MdnsFailure>>) -> MdnsMessage,
    ) -> Asked<T> {
        self.handle.ask(&self.actor, question, ANSWER_DEADLINE)
    }
}

/// An answer that comes later.
pub type Asked<T> = Answer<Result<T, MdnsFailure>>;

/// How things stand.
#[derive(Clone, Debug)]
pub struct MdnsReport {
    /// The name of this host: `name.local`.
    pub host: String,
    /// What is registered here, under its names of now.
    pub registered: Vec<(ServiceId, Service)>,
    /// What is found.
    pub found: Vec<Found>,
    /// Interfaces that are used.
    pub interfaces: Vec<u32>,
    /// What has been counted.
    pub stats: MdnsStats,
}

/// Interface and family of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    interface: u32,
    is_v6: bool,
}

/// Multicast DNS for one node.
pub struct MdnsActor {
    machine: Mdns,
    observer: Arc<dyn Observer>,
    sockets: Map<Place, SocketId>,
    /// The system tells of changed interfaces.
    is_told: bool,
    /// Whether it was said that there is nothing to work on.
    has_warned: bool,
    rescan: Option<TimerId>,
    /// How long to wait when an interface cannot be used; doubled each time.
    retry: Duration,
    unsent: u32,
}

impl MdnsActor {
    /// An actor around a machine without interfaces; it finds those of its host.
    pub fn new(machine: Mdns, observer: Arc<dyn Observer>) -> MdnsActor {
        MdnsActor {
            machine,
            observer,
            sockets: Map::new(),
            is_told: false,
            has_warned: false,
            rescan: None,
            retry: RESCAN_INTERVAL,
            unsent: 0,
        }
    }

    /// Opens sockets where there are none yet, closes those of interfaces that are gone, and tells the machine.
    fn scan(&mut self, cx: &mut Context<'_, Self>) {
        let interfaces = match cx.interfaces() {
            Ok(interfaces) => interfaces,
            Err(error) => {
                log::debug!("mdns: the interfaces cannot be listed: {error}");
                Vec::new()
            }
        };
        let usable: Vec<&Interface> = interfaces.iter().filter(|one| is_usable(one)).collect();
        let is_wanted = |place: &Place| {
            let on = usable.iter().find(|one| one.index == place.interface);
            on.is_some_and(|one| has_family(one, place.is_v6))
        };
        let gone: Vec<Place> = self
            .sockets
            .keys()
            .filter(|place| !is_wanted(place))
            .copied()
            .collect();
        for place in gone {
            if let Some(socket) = self.sockets.remove(&place) {
                cx.close(socket, false);
            }
        }
        let mut failure = None;
        for one in &usable {
            for is_v6 in [false, true] {
                let place = Place {
                    interface: one.index,
                    is_v6,
                };
                if !has_family(one, is_v6) || self.sockets.contains_key(&place) {
                    continue;
                }
                match open(place, cx) {
                    Ok(socket) => {
                        self.sockets.insert(place, socket);
                    }
                    Err(error) => {
                        log::debug!("mdns: {} cannot be used (v6: {is_v6}): {error}", one.name);
                        failure.get_or_insert(error);
                    }
                }
            }
        }
        let links: Vec<LinkInfo> = usable.iter().map(|one| self.link_info(one)).collect();
        self.machine.handle_links(cx.now(), &links);
        if self.sockets.is_empty() && !std::mem::replace(&mut self.has_warned, true) {
            match &failure {
                Some(error) => log::warn!("mdns finds nobody: port {PORT} cannot be used: {error}"),
                None => log::warn!("mdns finds nobody: no interface can multicast"),
            }
        }
        let wait = match (&failure, self.is_told) {
            (_, false) => RESCAN_INTERVAL,
            (Some(_), true) => {
                let longer = (self.retry * 2).min(RETRY_MAX);
                std::mem::replace(&mut self.retry, longer)
            }
            (None, true) => {
                self.retry = RESCAN_INTERVAL;
                return;
            }
        };
        if let Some(timer) = self.rescan.take() {
            cx.cancel(timer);
        }
        self.rescan = Some(cx.arm(cx.now() + wait, wait / 4, 0));
    }

    fn link_info(&self, interface: &Interface) -> LinkInfo {
        let has = |is_v6| {
            let interface = interface.index;
            self.sockets.contains_key(&Place { interface, is_v6 })
        };
        let (has_ipv4, has_ipv6) = (has(false), has(true));
        let usable = interface
            .addrs
            .iter()
            .filter(|(ip, _)| !ip.is_loopback() && if ip.is_ipv4() { has_ipv4 } else { has_ipv6 });
        let mut addrs = sorted(usable.copied());
        addrs.truncate(ADDRS_MAX);
        LinkInfo {
            index: interface.index,
            addrs,
            has_ipv4,
            has_ipv6,
        }
    }

    fn on_datagram(
        &mut self,
        socket: SocketId,
        datagram: &Datagram<'_>,
        cx: &mut Context<'_, Self>,
    ) {
        let place = self.sockets.iter().find(|(_, other)| **other == socket);
        let Some((place, _)) = place else {
            return;
        };
        let interface = datagram.interface.unwrap_or(place.interface);
        // Some systems give what came to a group to every socket that has joined it anywhere.
        let is_multicast = datagram.to.is_some_and(|to| to.is_multicast());
        if is_multicast && interface != place.interface {
            return;
        }
        let arrival = Arrival {
            interface,
            from: datagram.from,
            to: datagram.to,
            data: datagram.data,
        };
        self.machine.handle_datagram(cx.now(), arrival);
    }

    fn drain(&mut self, cx: &mut Context<'_, Self>) {
        while let Some(transmit) = self.machine.poll_transmit() {
            let place = Place {
                interface: transmit.interface,
                is_v6: transmit.to.is_ipv6(),
            };
            let Some(socket) = self.sockets.get(&place) else {
                continue;
            };
            let datagram = Transmit::new(transmit.to, &transmit.data);
            if let Err(error) = cx.udp_send(*socket, &[datagram]) {
                // Lost as on the way: everything of importance is said twice.
                self.unsent = self.unsent.wrapping_add(1);
                log::debug!("mdns: a packet could not be sent: {error}");
            }
        }
        while let Some(event) = self.machine.poll_event() {
            self.observer.event(&event);
        }
        cx.wake_at(self.machine.poll_timeout(), SLACK);
    }
}

/// An interface on which others can be.
fn is_usable(interface: &Interface) -> bool {
    interface.is_up && interface.is_multicast && !interface.is_loopback
}

fn has_family(interface: &Interface, is_v6: bool) -> bool {
    interface.addrs.iter().any(|(ip, _)| ip.is_ipv6() == is_v6)
}

fn wildcard(is_v6: bool) -> SocketAddr {
    let ip: IpAddr = if is_v6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(ip, PORT)
}

/// Opens the socket of an interface and a family. Other programs use the port as well.
fn open(place: Place, cx: &mut Context<'_, MdnsActor>) -> io::Result<SocketId> {
    let options = UdpOptions {
        share_port: true,
        ..UdpOptions::default()
    };
    let socket = cx.udp_bind(wildcard(place.is_v6), options)?;
    let group: IpAddr = if place.is_v6 {
        GROUP_V6.into()
    } else {
        GROUP_V4.into()
    };
    let joined = cx
        .udp_multicast(socket, HOP_LIMIT, true, Some(place.interface))
        .and_then(|()| cx.udp_membership(socket, group, place.interface, true));
    if let Err(error) = joined {
        cx.close(socket, false);
        return Err(error);
    }
    Ok(socket)
}

/// Whether no other program has the port: whoever was there first gets what is sent to us alone (RFC 6762 §15.1).
fn is_alone(cx: &mut Context<'_, MdnsActor>) -> bool {
    match cx.udp_bind(wildcard(false), UdpOptions::default()) {
        Ok(socket) => {
            cx.close(socket, false);
            true
        }
        Err(_) => false,
    }
}

impl Actor for MdnsActor {
    type Message = MdnsMessage;

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let is_alone = is_alone(cx);
        self.machine.set_takes_unicast(is_alone);
        self.is_told = cx.watch_interfaces().is_ok();
        self.scan(cx);
        self.drain(cx);
        Ok(())
    }

    fn handle(&mut self, message: MdnsMessage, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let now = cx.now();
        match message {
            MdnsMessage::Register { service, reply } => {
                answer(reply, self.machine.register(now, service));
            }
            MdnsMessage::Update { id, txt, reply } => {
                answer(reply, self.machine.update(now, id, txt))
            }
            MdnsMessage::Unregister { id, reply } => {
                answer(reply, self.machine.unregister(now, id))
            }
            MdnsMessage::Browse {
                service_type,
                reply,
            } => answer(reply, self.machine.browse(now, service_type)),
            MdnsMessage::BrowseTypes { reply } => answer(reply, self.machine.browse_types(now)),
            MdnsMessage::Resolve {
                instance,
                service_type,
                reply,
            } => answer(reply, self.machine.resolve(now, &instance, &service_type)),
            MdnsMessage::StopBrowses {
                service_type,
                reply,
            } => answer(reply, self.machine.stop_browses(&service_type)),
            MdnsMessage::StopInterest { id, reply } => {
                answer(reply, self.machine.stop_interest(id))
            }
            MdnsMessage::Verify {
                instance,
                service_type,
                reply,
            } => answer(reply, self.machine.verify(now, &instance, &service_type)),
            MdnsMessage::Report { reply } => {
                let mut interfaces: Vec<u32> =
                    self.sockets.keys().map(|place| place.interface).collect();
                interfaces.dedup();
                let registered = self.machine.registered();
                reply.send(Ok(MdnsReport {
                    host: self.machine.host(),
                    registered: registered
                        .map(|(id, service)| (id, service.clone()))
                        .collect(),
                    found: self.machine.found(),
                    interfaces,
                    stats: self.machine.stats(),
                }));
            }
        }
        self.drain(cx);
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match event {
            Event::Datagram { socket, datagram } => self.on_datagram(socket, &datagram, cx),
            Event::Wake => self.machine.handle_timeout(cx.now()),
            Event::InterfacesChanged | Event::Timer { .. } => self.scan(cx),
            Event::Resumed => {
                self.scan(cx);
                self.machine.handle_resumed(cx.now());
            }
            Event::Closed { socket, .. } => {
                self.sockets.retain(|_, other| *other != socket);
                self.scan(cx);
            }
            _ => {}
        }
        self.drain(cx);
        Ok(())
    }

    /// Everything is taken back; the kernel has it when this returns.
    fn stopping(&mut self, _: &StopReason, cx: &mut Context<'_, Self>) -> Drain {
        self.machine.stop(cx.now());
        self.drain(cx);
        Drain::Done
    }

    fn heap_bytes(&self) -> usize {
        self.machine.heap_bytes()
    }
}
