//! The shell around [`Network`]: who asks, who is told, and which core dials.

mod upkeep;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mischief_reactor::{
    Actor, ActorId, Address, Context, Event, Failure, Instant, Message, Reply, TrySendError,
    WallTime,
};

use super::{
    Answer, Claims, ConnectError, DialId, EXCHANGE_CHANNEL, Introduction, Network, NetworkSettings,
    NotConnected, Notice, Order, PeerId, PeerRecord, Peers, PeersEvent, Program, ReconnectPolicy,
    RequestId, Standing, Stored, Traffic,
};
use crate::connection::{
    CloseCode, Common, ConnectionActor, ConnectionMessage, DialOutcome, Dialler, DiallerMessage,
    DisconnectReason, Endpoint, Figures, Identified, Report,
};
use crate::identity::Identity;

pub use upkeep::{Done, Saved, Shelf, Upkeep, UpkeepError};

use upkeep::MaybeShelf;

/// How late a deadline may be.
const SLACK: Duration = Duration::from_millis(10);

/// Orders that may wait for connections without room. Beyond it the connection an order is for is ended instead.
const UNSENT_MAX: usize = 4096;

/// Ends of connections that are remembered because they overtook the report that the connection is there. Of more, which
/// would have to fail within the same few turns, the oldest are forgotten.
const EARLY_ENDS_MAX: usize = 1024;

/// Who is told of peers that come and go: on the core thread, in order with the messages of their connections.
pub trait Observer: Send + Sync {
    /// A peer is connected, by this connection; its messages follow.
    fn connected(&self, event: &PeersEvent, connection: ActorId);
    /// A peer is no longer connected; its messages came before.
    fn disconnected(&self, event: &PeersEvent);
    /// Something else has happened.
    fn noticed(&self, notice: &Notice) {
        let _ = notice;
    }
}

/// Orders to the peers actor.
pub enum PeersMessage {
    /// Connect to an endpoint, to whoever is there or only to `expected`.
    Connect {
        /// Where to.
        endpoint: Endpoint,
        /// Who has to be there.
        expected: Option<PeerId>,
        /// The peer, once it is announced.
        reply: Reply<Result<PeerId, ConnectError>>,
    },
    /// Disconnect a peer.
    Disconnect {
        /// Whom.
        peer: PeerId,
        /// Whether it was there.
        reply: Reply<Result<(), NotConnected>>,
    },
    /// All peers, with what their connections have carried.
    List {
        /// The list.
        reply: Reply<PeerList>,
    },
    /// Take bodies of up to so many bytes from a peer.
    MessageMax {
        /// From whom.
        peer: PeerId,
        /// Bytes.
        bytes: u32,
        /// Whether it was there.
        reply: Reply<Result<(), NotConnected>>,
    },
    /// Disconnect everybody and take nobody new.
    Close {
        /// When the orders are given.
        reply: Reply<()>,
    },
    /// The rest of the node stands.
    Start {
        /// What its connections share.
        common: Arc<Common>,
        /// Who dials, one for each core.
        diallers: Vec<Address<Dialler>>,
    },
    /// The node listens at these addresses.
    Listening(Vec<SocketAddr>),
    /// About bans, lost peers and the address book.
    Upkeep(Box<Upkeep>),
    /// From the offload pool.
    Saved(Box<Saved>),
    /// From a connection.
    Report(Report),
    /// From a dialler.
    DialFailed(DialOutcome),
}

impl Message for PeersMessage {}

impl From<Report> for PeersMessage {
    fn from(report: Report) -> PeersMessage {
        PeersMessage::Report(report)
    }
}

impl From<DialOutcome> for PeersMessage {
    fn from(outcome: DialOutcome) -> PeersMessage {
        PeersMessage::DialFailed(outcome)
    }
}

/// All connected peers at one moment.
#[derive(Clone, Debug)]
pub struct PeerList {
    /// In the order of their ids.
    pub peers: Vec<PeerRecord>,
    /// What else is known of each, in the same order.
    pub standings: Vec<Standing>,
    /// The moment.
    pub now: Instant,
    /// The moment by the wall clock.
    pub wall: WallTime,
}

enum Waiting {
    Connect(Reply<Result<PeerId, ConnectError>>),
    List(Reply<PeerList>),
}

/// Who is connected to a node.
pub struct PeersActor {
    network: Network<ActorId>,
    /// What an earlier run has kept, until this one starts.
    stored: Option<Box<Stored>>,
    shelf: MaybeShelf,
    /// Changes that are not on the disk yet, and who waits for it.
    unsaved: Vec<(u64, Done)>,
    /// Who closes the node, while its last changes are written.
    closing: Option<Reply<()>>,
    is_last_save_over: bool,
    observer: Arc<dyn Observer>,
    /// Known once the connections' part of the node stands.
    common: Option<Arc<Common>>,
    diallers: Vec<Address<Dialler>>,
    waiting: BTreeMap<u64, Waiting>,
    requests: u64,
    unsent: VecDeque<(ActorId, ConnectionMessage)>,
    early_ends: BTreeSet<ActorId>,
}

impl PeersActor {
    /// Only who is connected: lost peers stay lost, and nothing is kept.
    pub fn bare(
        peers: Peers<ActorId>,
        identity: Arc<Identity>,
        observer: Arc<dyn Observer>,
    ) -> PeersActor {
        let settings = NetworkSettings {
            reconnect: ReconnectPolicy::off(),
            ..NetworkSettings::default()
        };
        let network = Network::new(peers, settings, identity, [0; 32]);
        PeersActor::new(network, observer, None, None)
    }

    /// A node without peers, with what an earlier run has kept.
    pub fn new(
        network: Network<ActorId>,
        observer: Arc<dyn Observer>,
        shelf: Option<Arc<dyn Shelf>>,
        stored: Option<Box<Stored>>,
    ) -> PeersActor {
        PeersActor {
            network,
            stored,
            shelf,
            unsaved: Vec::new(),
            closing: None,
            is_last_save_over: false,
            observer,
            common: None,
            diallers: Vec::new(),
            waiting: BTreeMap::new(),
            requests: 0,
            unsent: VecDeque::new(),
            early_ends: BTreeSet::new(),
        }
    }

    fn request(&mut self, waiting: Waiting) -> RequestId {
        self.requests += 1;
        self.waiting.insert(self.requests, waiting);
        RequestId(self.requests)
    }

    fn on_report(&mut self, report: Report, cx: &mut Context<'_, Self>) {
        let now = cx.now();
        match report {
            Report::Identified(identified) => self.on_identified(*identified, cx),
            Report::Opened(connection) => {
                self.network
                    .peers_mut()
                    .handle_accepted(now, connection.id());
            }
            Report::Channel(connection, bytes) => {
                self.network.handle_exchange(now, connection.id(), &bytes);
            }
            Report::Closed(connection, reason) => self.on_closed(connection.id(), reason, cx),
            Report::Alive(connection, token) => {
                self.network
                    .peers_mut()
                    .handle_alive(now, connection.id(), token);
            }
            Report::Figures(peer, figures) => {
                let traffic = traffic(&figures);
                self.network.peers_mut().handle_report(now, peer, traffic);
            }
        }
    }

    fn on_identified(&mut self, identified: Identified, cx: &mut Context<'_, Self>) {
        let Identified {
            connection,
            dial,
            addr,
            authenticated,
            message_max,
        } = identified;
        let connection = connection.id();
        if self.early_ends.remove(&connection) {
            return;
        }
        let claims = Claims {
            listen: authenticated.about.listen,
            observed: authenticated.about.observed,
            program: Program {
                agent: authenticated.about.agent.into(),
                features: authenticated.about.features,
            },
        };
        let introduction = Introduction {
            peer: authenticated.peer,
            message_max,
            addr,
            suite: authenticated.suite,
            name: authenticated.about.name.map(String::into_boxed_str),
        };
        match dial {
            Some(dial) => {
                let dial = DialId(dial);
                self.network
                    .handle_identified(cx.now(), dial, connection, introduction, claims);
            }
            None => self
                .network
                .handle_inbound(cx.now(), connection, introduction, claims),
        }
    }

    fn on_closed(
        &mut self,
        connection: ActorId,
        reason: DisconnectReason,
        cx: &mut Context<'_, Self>,
    ) {
        self.unsent.retain(|(to, _)| *to != connection);
        self.network.handle_closed(cx.now(), connection, reason);
    }

    /// Hands on what the machine has to say: facts before orders, so that a peer is announced before its messages.
    fn drain(&mut self, cx: &mut Context<'_, Self>) {
        let now = cx.now();
        self.network.advance(now);
        loop {
            if let Some(event) = self.network.poll_event() {
                self.publish(&event);
            } else if let Some(order) = self.network.poll_order() {
                self.obey(order, cx);
            } else if let Some(answer) = self.network.poll_answer() {
                self.answer(answer, cx);
            } else if let Some(notice) = self.network.poll_notice() {
                self.on_notice(&notice, cx);
            } else if let Some((connection, bytes)) = self.network.poll_transmit() {
                let message = ConnectionMessage::Channel(EXCHANGE_CHANNEL, bytes.into());
                self.order(connection, message, cx);
            } else {
                break;
            }
        }
        self.save(cx);
        self.finish_closing();
        cx.wake_at(self.network.poll_timeout(now), SLACK);
    }

    fn on_notice(&mut self, notice: &Notice, cx: &mut Context<'_, Self>) {
        if matches!(notice, Notice::ExternalAddr { .. }) {
            self.network.sign_own_record(cx.wall());
        }
        self.observer.noticed(notice);
    }

    fn publish(&mut self, event: &PeersEvent) {
        match event {
            PeersEvent::Connected { peer, .. } => {
                // It may be gone again already; then that is told next.
                if let Some(connection) = self.network.peers().connection(*peer) {
                    self.observer.connected(event, connection);
                }
            }
            PeersEvent::Disconnected { .. } => self.observer.disconnected(event),
            // Told as a notice once it has happened several times.
            PeersEvent::SeenTwice { .. } => {}
        }
    }

    fn obey(&mut self, order: Order<ActorId>, cx: &mut Context<'_, Self>) {
        match order {
            Order::Dial { dial, endpoint } => {
                self.order_dialler(
                    dial,
                    DiallerMessage::Dial {
                        dial: dial.0,
                        endpoint,
                    },
                    cx,
                );
            }
            Order::DialAlso { dial, endpoint } => {
                self.order_dialler(
                    dial,
                    DiallerMessage::DialAlso {
                        dial: dial.0,
                        endpoint,
                    },
                    cx,
                );
            }
            Order::CancelDial { dial } => {
                self.order_dialler(dial, DiallerMessage::Cancel { dial: dial.0 }, cx);
            }
            Order::Proceed { connection } => self.order(connection, ConnectionMessage::Proceed, cx),
            Order::Keep { connection, .. } => self.order(connection, ConnectionMessage::Keep, cx),
            Order::Refuse { connection, reason } => {
                self.order(connection, ConnectionMessage::Refuse(reason), cx);
            }
            Order::Probe { connection, token } => {
                self.order(connection, ConnectionMessage::Probe(token), cx);
            }
            Order::Report { connection, peer } => {
                self.order(connection, ConnectionMessage::Report(peer), cx);
            }
            Order::Close { connection, reason } => {
                let (code, text) = close_words(reason);
                self.order(connection, ConnectionMessage::Close(code, text), cx);
            }
        }
    }

    fn order_dialler(&mut self, dial: DialId, message: DiallerMessage, cx: &mut Context<'_, Self>) {
        let count = self.diallers.len().max(1);
        let Some(dialler) = self.diallers.get(dial.0 as usize % count) else {
            return log::error!("a node without diallers cannot dial");
        };
        // Dials are capped far below a mailbox; if it is full all the same, the dial's own deadline ends it.
        if let Err(error) = cx.send(dialler, message) {
            log::debug!("dial {} cannot be ordered: {error}", dial.0);
        }
    }

    fn order(
        &mut self,
        connection: ActorId,
        message: ConnectionMessage,
        cx: &mut Context<'_, Self>,
    ) {
        if self.unsent.iter().any(|(to, _)| *to == connection) {
            // Orders to one connection keep their order.
            return self.keep_unsent(connection, message, cx);
        }
        match cx.send(&Address::<ConnectionActor>::from_id(connection), message) {
            Ok(()) => {}
            // It has told its end before it ended, and why: that is on its way here.
            Err(TrySendError::Stopped(_)) => {}
            Err(TrySendError::Full(message)) => self.keep_unsent(connection, message, cx),
        }
    }

    fn keep_unsent(
        &mut self,
        connection: ActorId,
        message: ConnectionMessage,
        cx: &mut Context<'_, Self>,
    ) {
        if self.unsent.len() >= UNSENT_MAX {
            return cx.stop_actor(connection);
        }
        self.unsent.push_back((connection, message));
        cx.notify_ready(connection);
    }

    fn on_ready(&mut self, connection: ActorId, cx: &mut Context<'_, Self>) {
        let all = std::mem::take(&mut self.unsent);
        for (to, message) in all {
            if to == connection {
                self.order(to, message, cx);
            } else {
                self.unsent.push_back((to, message));
            }
        }
    }

    fn answer(&mut self, answer: Answer, cx: &mut Context<'_, Self>) {
        match answer {
            Answer::Connect { request, result } => {
                if let Some(Waiting::Connect(reply)) = self.waiting.remove(&request.0) {
                    reply.send(result.map(|(_, id)| id));
                }
            }
            Answer::List { request, peers } => {
                if let Some(Waiting::List(reply)) = self.waiting.remove(&request.0) {
                    let standing = |record: &PeerRecord| self.network.standing(record.peer);
                    let peers: Vec<(PeerRecord, Standing)> = peers
                        .into_iter()
                        .filter_map(|record| standing(&record).map(|standing| (record, standing)))
                        .collect();
                    let (peers, standings) = peers.into_iter().unzip();
                    reply.send(PeerList {
                        peers,
                        standings,
                        now: cx.now(),
                        wall: cx.wall(),
                    });
                }
            }
        }
    }

    /// Connections that could not report their end. The poke for it overtakes messages, so one of them may have to be
    /// introduced yet.
    fn bury(&mut self, cx: &mut Context<'_, Self>) {
        let Some(common) = &self.common else { return };
        let fallen = std::mem::take(&mut *common.fallen.lock());
        for (connection, reason) in fallen {
            if self.network.peers().knows(connection) {
                self.on_closed(connection, reason, cx);
                continue;
            }
            self.early_ends.insert(connection);
            if self.early_ends.len() > EARLY_ENDS_MAX {
                self.early_ends.pop_first();
            }
        }
    }
}

/// What a peer is told when a connection is closed.
fn close_words(reason: DisconnectReason) -> (CloseCode, &'static str) {
    match reason {
        DisconnectReason::Stopping => (CloseCode::ShuttingDown, ""),
        DisconnectReason::Replaced => (CloseCode::Duplicate, ""),
        DisconnectReason::Trimmed => (CloseCode::Trimmed, ""),
        DisconnectReason::Banned => (CloseCode::Banned, ""),
        DisconnectReason::OutOfMemory => (CloseCode::Overloaded, ""),
        DisconnectReason::TimedOut => (CloseCode::TooSlow, ""),
        DisconnectReason::Refused(reason) => (reason.close_code(), ""),
        _ => (CloseCode::Normal, ""),
    }
}

fn traffic(figures: &Figures) -> Traffic {
    Traffic {
        rtt: figures.rtt.map(|rtt| rtt.smoothed),
        rtt_jitter: figures.rtt.map(|rtt| rtt.jitter),
        queued: figures.queued,
        credit: figures.credit,
        message_max: figures.message_max,
        bytes_in: figures.bytes_in,
        bytes_out: figures.bytes_out,
        messages_in: figures.messages_in,
        messages_out: figures.messages_out,
    }
}

impl Actor for PeersActor {
    type Message = PeersMessage;

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        if self.network.watches_network()
            && let Err(error) = cx.watch_interfaces()
        {
            log::info!("changes of the network will not be noticed: {error}");
        }
        if let Some(stored) = self.stored.take() {
            let (now, wall) = (cx.now(), cx.wall());
            self.network.restore(now, wall, *stored);
            self.drain(cx);
        }
        Ok(())
    }

    fn handle(&mut self, message: PeersMessage, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let now = cx.now();
        match message {
            PeersMessage::Connect {
                endpoint,
                expected,
                reply,
            } => {
                let request = self.request(Waiting::Connect(reply));
                self.network
                    .handle_connect(now, request, endpoint, expected);
            }
            PeersMessage::Disconnect { peer, reply } => {
                reply.send(self.network.handle_disconnect(now, &peer));
            }
            PeersMessage::List { reply } => {
                let request = self.request(Waiting::List(reply));
                self.network.peers_mut().handle_list(now, request);
            }
            PeersMessage::MessageMax { peer, bytes, reply } => {
                let peers = self.network.peers();
                let connection = peers.find(&peer).and_then(|peer| peers.connection(peer));
                reply.send(connection.map(|_| ()).ok_or(NotConnected));
                if let Some(connection) = connection {
                    self.order(connection, ConnectionMessage::MessageMax(bytes), cx);
                }
            }
            PeersMessage::Close { reply } => {
                self.network.handle_stop(now);
                self.closing = Some(reply);
            }
            PeersMessage::Start { common, diallers } => {
                self.common = Some(common);
                self.diallers = diallers;
            }
            PeersMessage::Listening(addrs) => {
                let wall = cx.wall();
                self.network.handle_listening(now, wall, addrs);
            }
            PeersMessage::Upkeep(upkeep) => self.on_upkeep(*upkeep, cx),
            PeersMessage::Saved(saved) => self.on_saved(*saved, cx),
            PeersMessage::Report(report) => self.on_report(report, cx),
            PeersMessage::DialFailed(DialOutcome { dial, error }) => {
                self.network
                    .peers_mut()
                    .handle_dial_failed(DialId(dial), error);
            }
        }
        self.drain(cx);
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match event {
            Event::Wake => self.network.handle_timeout(cx.now()),
            Event::InterfacesChanged | Event::Resumed => {
                self.network.handle_network_change(cx.now());
            }
            Event::Ready(connection) => self.on_ready(connection, cx),
            Event::Poke => self.bury(cx),
            _ => {}
        }
        self.drain(cx);
        Ok(())
    }

    fn heap_bytes(&self) -> usize {
        self.network.peers().heap_bytes()
    }
}
