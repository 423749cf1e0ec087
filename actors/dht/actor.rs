//! The shell around [`Dht`]: sockets, names, the file of the table, and who waits for what.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mischief_reactor::io::driver::{Disk, Interface, OpenOptions, UdpOptions};
use mischief_reactor::{
    Actor, Context, Drain, Event, Failure, Instant, Message, Random, Reply, SocketId, StopReason,
    Transmit,
};

use super::{
    Announcement, Contact, Dht, DhtConfig, DhtEvent, Family, NodeId, OperationId, Order,
    OrderError, Outcome, SAVED_BYTES_MAX, Saved, Standing, Stats,
};

/// Routers that anybody may begin at. They are asked only when nobody else is known, and their names resolved only then.
pub const ROUTERS: [&str; 4] = [
    "router.bittorrent.com:6881",
    "dht.transmissionbt.com:6881",
    "router.utorrent.com:6881",
    "dht.libtorrent.org:25401",
];

/// The file in the data directory.
pub const FILE: &str = "dht.nodes";

/// How late a deadline may be.
const SLACK: Duration = Duration::from_millis(20);

/// How often the table is saved.
const SAVE_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// How long saving may take at the end.
const SAVE_DEADLINE: Duration = Duration::from_secs(2);

/// Addresses that one name stands for, at most.
const ADDRS_PER_NAME_MAX: usize = 8;

const SAVE: u32 = 1;

/// Who is told what happens: on the core thread.
pub trait Observer: Send + Sync {
    /// Something that no order asked for: ready, discovered, an address, a role.
    fn event(&self, event: &DhtEvent);
}

/// Takes the peers that an order finds, as it finds them, on the core thread. `false` means that nobody wants more of them.
pub type Finds = Arc<dyn Fn(&[SocketAddr]) -> bool + Send + Sync>;

/// How the actor is to be.
#[derive(Clone, Debug)]
pub struct DhtSettings {
    /// Of the machine.
    pub config: DhtConfig,
    /// Where to listen, one address for each family.
    pub listen: Vec<SocketAddr>,
    /// Whether another port is taken if one of these is in use.
    pub may_move: bool,
    /// Where to begin, as `host:port`, instead of at the public routers.
    pub bootstrap: Vec<String>,
    /// The directory of the node's files.
    pub directory: Option<String>,
    /// What to announce and to look for all the time, and at which port a peer is.
    pub discovery: Option<(NodeId, Option<u16>)>,
}

/// An order and who waits for it.
pub struct Ask {
    /// The order.
    pub order: Order,
    /// How long it may take; `None` is the usual.
    pub deadline: Option<Duration>,
    /// An announcement is repeated.
    pub keep: bool,
    /// Who wants the finds as they come.
    pub finds: Option<Finds>,
    /// Who wants the outcome.
    pub reply: Reply<Result<Outcome, OrderError>>,
}

/// What the actor is told.
pub enum DhtMessage {
    /// Carry this out.
    Ask(Box<Ask>),
    /// Repeat an announcement no longer.
    StopAnnouncing(Box<NodeId>),
    /// Tell figures.
    Stats(Reply<Box<Stats>>),
    /// Tell the nodes of the tables.
    Nodes(Reply<Vec<(Contact, Standing)>>),
    /// Tell where the sockets are.
    Addrs(Reply<Vec<SocketAddr>>),
    /// What a name stands for.
    Resolved(Box<str>, io::Result<Vec<SocketAddr>>),
    /// The saved table.
    Loaded(Option<Box<Saved>>),
    /// The table has been saved, or not.
    Written(io::Result<()>),
}

impl Message for DhtMessage {
    fn heap_bytes(&self) -> usize {
        match self {
            DhtMessage::Ask(_) => size_of::<Ask>() + super::VALUE_BYTES_MAX,
            _ => 0,
        }
    }
}

struct Waiting {
    finds: Option<Finds>,
    reply: Reply<Result<Outcome, OrderError>>,
}

/// A node of the Mainline DHT on the sockets of a core.
pub struct DhtActor {
    settings: DhtSettings,
    observer: Arc<dyn Observer>,
    dht: Option<Dht>,
    sockets: [Option<SocketId>; 2],
    waiting: BTreeMap<OperationId, Waiting>,
    interfaces: Vec<Interface>,
    is_ending: bool,
}

impl DhtActor {
    /// An actor that opens its sockets when it starts.
    pub fn new(settings: DhtSettings, observer: Arc<dyn Observer>) -> DhtActor {
        DhtActor {
            settings,
            observer,
            dht: None,
            sockets: [None, None],
            waiting: BTreeMap::new(),
            interfaces: Vec::new(),
            is_ending: false,
        }
    }

    /// A system may lack a family; without any there is no DHT, and every order is told so.
    fn open(&mut self, dht: &mut Dht, cx: &mut Context<'_, Self>) {
        for addr in self.settings.listen.clone() {
            let mut bound = cx.udp_bind(addr, UdpOptions::default());
            let is_taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
            if self.settings.may_move && bound.as_ref().is_err_and(is_taken) {
                bound = cx.udp_bind(SocketAddr::new(addr.ip(), 0), UdpOptions::default());
            }
            match bound.and_then(|socket| Ok((socket, cx.local_addr(socket)?))) {
                Ok((socket, local)) => {
                    self.sockets[Family::of(local) as usize] = Some(socket);
                    dht.open(cx.now(), local);
                }
                Err(error) => log::info!("the DHT does not use {addr}: {error}"),
            }
        }
    }

    /// Asks for the addresses of names, each in the form `host:port`.
    fn resolve(&self, names: &[&str], cx: &mut Context<'_, Self>) {
        for name in names {
            let Some((host, port)) = name.rsplit_once(':') else {
                continue;
            };
            let Ok(port) = port.parse() else { continue };
            let host = host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned();
            let about: Box<str> = (*name).into();
            cx.resolve(host, port, move |result| {
                DhtMessage::Resolved(about, result)
            });
        }
    }

    /// A node that is on loopback alone keeps to it.
    fn may_use_routers(&self) -> bool {
        self.settings.bootstrap.is_empty()
            && self
                .settings
                .listen
                .iter()
                .any(|addr| !addr.ip().is_loopback())
    }

    fn load(&self, directory: &str, cx: &mut Context<'_, Self>) {
        let path = format!("{directory}/{FILE}");
        cx.offload(
            move |outside| load(&*outside.disk, &path),
            |result| DhtMessage::Loaded(result.ok().flatten().map(Box::new)),
        );
    }

    fn save(&self, now: Instant, cx: &mut Context<'_, Self>) -> bool {
        let (Some(dht), Some(directory)) = (&self.dht, &self.settings.directory) else {
            return false;
        };
        let saved = dht.save(now);
        if saved.nodes.iter().all(Vec::is_empty) {
            return false;
        }
        let (bytes, directory) = (saved.encode(), directory.clone());
        cx.offload(
            move |outside| replace(&*outside.disk, &directory, &bytes),
            |result| {
                DhtMessage::Written(result.unwrap_or_else(|error| Err(io::Error::other(error))))
            },
        );
        true
    }

    fn ask(&mut self, ask: Ask, cx: &mut Context<'_, Self>) {
        let now = cx.now();
        let Some(dht) = &mut self.dht else {
            return ask.reply.send(Err(OrderError::NoSocket));
        };
        if let (true, Order::Announce(announcement)) = (ask.keep, &ask.order) {
            let announcement: Announcement = *announcement;
            dht.keep_announcing(now, announcement);
        }
        match dht.handle_order(now, ask.order, ask.deadline) {
            Ok(operation) => {
                let waiting = Waiting {
                    finds: ask.finds,
                    reply: ask.reply,
                };
                self.waiting.insert(operation, waiting);
            }
            Err(error) => ask.reply.send(Err(error)),
        }
    }

    fn drain(&mut self, cx: &mut Context<'_, Self>) {
        let Some(mut dht) = self.dht.take() else {
            return;
        };
        while let Some(packet) = dht.poll_transmit() {
            if let Some(socket) = self.sockets[Family::of(packet.to) as usize] {
                // What a full socket or an absent network does not take is lost, as datagrams are; it is asked again.
                if let Err(error) = cx.udp_send(socket, &[Transmit::new(packet.to, &packet.data)]) {
                    log::debug!("nothing can be sent to {}: {error}", packet.to);
                }
            }
        }
        while let Some(event) = dht.poll_event() {
            self.publish(event, &mut dht, cx);
        }
        cx.wake_at(dht.poll_timeout(), SLACK);
        self.dht = Some(dht);
    }

    fn publish(&mut self, event: DhtEvent, dht: &mut Dht, cx: &mut Context<'_, Self>) {
        match event {
            DhtEvent::Found { operation, peers } => {
                let finds = self
                    .waiting
                    .get(&operation)
                    .and_then(|waiting| waiting.finds.as_ref());
                if finds.is_some_and(|finds| !finds(&peers)) {
                    dht.handle_cancel(operation);
                }
            }
            DhtEvent::Ended { operation, outcome } => {
                if let Some(waiting) = self.waiting.remove(&operation) {
                    waiting.reply.send(Ok(outcome));
                }
            }
            DhtEvent::NeedRouters => {
                if self.may_use_routers() {
                    self.resolve(&ROUTERS, cx);
                } else if !self.settings.bootstrap.is_empty() {
                    let names = self.settings.bootstrap.clone();
                    self.resolve(&names.iter().map(String::as_str).collect::<Vec<_>>(), cx);
                }
            }
            event => self.observer.event(&event),
        }
    }

    fn on_interfaces(&mut self, cx: &mut Context<'_, Self>) {
        let interfaces = cx.interfaces().unwrap_or_default();
        // Much of what changes there means nothing to us, such as counters and states of other interfaces.
        if interfaces != self.interfaces {
            self.interfaces = interfaces;
            if let Some(dht) = &mut self.dht {
                dht.handle_network_change(cx.now());
            }
        }
    }
}

impl Actor for DhtActor {
    type Message = DhtMessage;

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let mut seed = [0; 32];
        cx.random().fill(&mut seed);
        let now = cx.now();
        let mut dht = Dht::new(now, self.settings.config, &seed);
        self.open(&mut dht, cx);
        if self.sockets.iter().all(Option::is_none) {
            return Ok(());
        }
        if let Some((info_hash, port)) = self.settings.discovery {
            dht.discover(now, info_hash, port);
        }
        self.dht = Some(dht);
        let names = self.settings.bootstrap.clone();
        self.resolve(&names.iter().map(String::as_str).collect::<Vec<_>>(), cx);
        match self.settings.directory.clone() {
            Some(directory) => {
                self.load(&directory, cx);
                cx.arm(now + SAVE_INTERVAL, SAVE_INTERVAL / 10, SAVE);
            }
            None => {
                if let Some(dht) = &mut self.dht {
                    dht.begin(now);
                }
            }
        }
        self.interfaces = cx.interfaces().unwrap_or_default();
        if let Err(error) = cx.watch_interfaces() {
            log::info!("changes of the network are not noticed by the DHT: {error}");
        }
        self.drain(cx);
        Ok(())
    }

    fn handle(&mut self, message: DhtMessage, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let now = cx.now();
        match message {
            DhtMessage::Ask(ask) => self.ask(*ask, cx),
            DhtMessage::StopAnnouncing(info_hash) => {
                if let Some(dht) = &mut self.dht {
                    dht.stop_announcing(&info_hash);
                }
            }
            DhtMessage::Stats(reply) => {
                let stats = self.dht.as_ref().map(|dht| dht.stats(now));
                reply.send(Box::new(stats.unwrap_or_default()));
            }
            DhtMessage::Nodes(reply) => {
                let nodes = self.dht.as_ref().map(|dht| dht.nodes(now));
                reply.send(nodes.unwrap_or_default());
            }
            DhtMessage::Addrs(reply) => {
                let sockets = self.sockets.iter().flatten();
                reply.send(
                    sockets
                        .filter_map(|socket| cx.local_addr(*socket).ok())
                        .collect(),
                );
            }
            DhtMessage::Resolved(_, Ok(addrs)) => {
                if let Some(dht) = &mut self.dht {
                    dht.handle_contacts(now, addrs.into_iter().take(ADDRS_PER_NAME_MAX));
                }
            }
            // Without a network no name is known; that is nothing to alarm anybody with.
            DhtMessage::Resolved(name, Err(error)) => log::debug!("{name} is not known: {error}"),
            DhtMessage::Loaded(saved) => {
                if let Some(dht) = &mut self.dht {
                    if let Some(saved) = saved {
                        dht.restore(&saved);
                    }
                    dht.begin(now);
                }
            }
            DhtMessage::Written(result) => {
                if let Err(error) = result {
                    log::warn!("the routing table of the DHT is not saved: {error}");
                }
                if self.is_ending {
                    cx.stop();
                    return Ok(());
                }
            }
        }
        self.drain(cx);
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let now = cx.now();
        match event {
            Event::Datagram { datagram, .. } => {
                if let Some(dht) = &mut self.dht {
                    dht.handle_datagram(now, datagram.from, datagram.data);
                }
            }
            Event::Wake => {
                if let Some(dht) = &mut self.dht {
                    dht.handle_timeout(now);
                }
            }
            Event::Timer { tag: SAVE, .. } => {
                self.save(now, cx);
                cx.arm(now + SAVE_INTERVAL, SAVE_INTERVAL / 10, SAVE);
            }
            Event::InterfacesChanged => self.on_interfaces(cx),
            Event::Resumed => {
                if let Some(dht) = &mut self.dht {
                    dht.handle_network_change(now);
                }
            }
            _ => {}
        }
        self.drain(cx);
        Ok(())
    }

    fn stopping(&mut self, _: &StopReason, cx: &mut Context<'_, Self>) -> Drain {
        let now = cx.now();
        self.is_ending = true;
        match self.save(now, cx) {
            true => Drain::Until(now + SAVE_DEADLINE),
            false => Drain::Done,
        }
    }

    fn heap_bytes(&self) -> usize {
        self.dht.as_ref().map_or(0, Dht::heap_bytes)
    }
}

/// Addresses on every interface.
pub fn everywhere(port: u16) -> Vec<SocketAddr> {
    vec![
        (Ipv4Addr::UNSPECIFIED, port).into(),
        (Ipv6Addr::UNSPECIFIED, port).into(),
    ]
}

/// The saved table, if there is one that can be read. A damaged one is set aside.
fn load(disk: &dyn Disk, path: &str) -> Option<Saved> {
    let bytes = match read(disk, path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            log::warn!("{path} cannot be read, the DHT begins anew: {error}");
            return None;
        }
    };
    match Saved::decode(&bytes) {
        Ok(saved) => Some(saved),
        Err(error) => {
            let aside = format!("{path}.damaged");
            log::warn!("{path}: {error}; it is set aside as {aside}, and the DHT begins anew");
            if let Err(error) = disk.rename(path, &aside) {
                log::warn!("{path} cannot be set aside: {error}");
            }
            None
        }
    }
}

fn read(disk: &dyn Disk, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenOptions::default())?;
    let len = usize::try_from(file.len()?)
        .unwrap_or(usize::MAX)
        .min(SAVED_BYTES_MAX + 1);
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(filled as u64, &mut bytes[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Writes the file so that after a crash it is wholly the old or wholly the new one.
fn replace(disk: &dyn Disk, directory: &str, bytes: &[u8]) -> io::Result<()> {
    let target = format!("{directory}/{FILE}");
    let fresh = format!("{target}.new");
    let options = OpenOptions {
        write: true,
        create: true,
        truncate: true,
        ..OpenOptions::default()
    };
    let file = disk.open(&fresh, options)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    drop(file);
    disk.rename(&fresh, &target)?;
    disk.sync_dir(directory)
}
