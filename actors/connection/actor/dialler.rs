//! The shell around the dials of one core.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mischief_reactor::{
    Actor, Child, Context, Event, Failure, Instant, Message, Recipient, SocketId,
};

use super::{Common, ConnectionActor, ConnectionMessage, HandshakeOutcome, Origin};
use crate::connection::Connection;
use crate::connection::dial::{AttemptId, Dial, DialAction, DialConfig, DialEvent, Families};
use crate::connection::dial_error::{AttemptFailure, DialError};
use crate::connection::endpoint::Endpoint;
use crate::connection::reason::RefusedReason;

/// How late a dial's deadline may be.
const SLACK: Duration = Duration::from_millis(5);

/// Orders to a dialler.
#[derive(Debug)]
pub enum DiallerMessage {
    /// Connect to an endpoint.
    Dial {
        /// The number by which its outcome is told.
        dial: u32,
        /// Where to.
        endpoint: Endpoint,
    },
    /// Try this endpoint as well.
    DialAlso {
        /// The dial.
        dial: u32,
        /// Where to.
        endpoint: Endpoint,
    },
    /// Give a dial up.
    Cancel {
        /// The dial.
        dial: u32,
    },
    /// A name's addresses.
    Resolved {
        /// The dial.
        dial: u32,
        /// What came of it.
        result: Result<Vec<SocketAddr>, io::ErrorKind>,
    },
    /// How a winner's handshake went.
    Handshake(HandshakeOutcome),
}

impl Message for DiallerMessage {}

impl From<HandshakeOutcome> for DiallerMessage {
    fn from(outcome: HandshakeOutcome) -> DiallerMessage {
        DiallerMessage::Handshake(outcome)
    }
}

/// A dial that has failed.
#[derive(Debug)]
pub struct DialOutcome {
    /// The dial.
    pub dial: u32,
    /// Why.
    pub error: DialError,
}

impl Message for DialOutcome {}

/// The dials of one core, and the connections that they led to as children.
pub struct Dialler {
    common: Arc<Common>,
    judge: Recipient<DialOutcome>,
    config: DialConfig,
    dials: BTreeMap<u32, Dialling>,
    /// Sockets that are connecting.
    sockets: BTreeMap<SocketId, (u32, AttemptId)>,
    /// Failures that the judge had no room for. There are never more than dials.
    untold: Vec<DialOutcome>,
}

struct Dialling {
    machine: Dial,
    attempts: Vec<(AttemptId, SocketId, SocketAddr)>,
    /// The connection whose handshake runs.
    winner: Option<mischief_reactor::Address<ConnectionActor>>,
}

impl Dialler {
    /// A dialler that reports to `judge`.
    pub fn new(common: Arc<Common>, judge: Recipient<DialOutcome>, config: DialConfig) -> Dialler {
        Dialler {
            common,
            judge,
            config,
            dials: BTreeMap::new(),
            sockets: BTreeMap::new(),
            untold: Vec::new(),
        }
    }

    fn add_endpoint(&mut self, dial: u32, endpoint: &Endpoint, cx: &mut Context<'_, Self>) {
        let now = cx.now();
        let interfaces = match endpoint {
            Endpoint::Zoned { .. } => cx.interfaces().unwrap_or_default(),
            _ => Vec::new(),
        };
        let index_of = |name: &str| {
            interfaces
                .iter()
                .find(|interface| interface.name == name)
                .map(|interface| interface.index)
        };
        let Some(dialling) = self.dials.get_mut(&dial) else {
            return;
        };
        match endpoint.resolved(index_of) {
            Ok(Some(addr)) => dialling
                .machine
                .handle_addresses(now, Families::Both, &[addr]),
            Ok(None) => {
                let Endpoint::Name { host, port } = endpoint else {
                    return;
                };
                cx.resolve(host.to_string(), *port, move |result| {
                    DiallerMessage::Resolved {
                        dial,
                        result: result.map_err(|error| error.kind()),
                    }
                });
            }
            Err(error) => {
                log::debug!("{endpoint}: {error}");
                let kind = io::ErrorKind::AddrNotAvailable;
                dialling
                    .machine
                    .handle_resolve_failed(now, Families::Both, kind);
            }
        }
    }

    /// Does what the machines of `dial` want, and tells what has become of it.
    fn drain(&mut self, dial: u32, cx: &mut Context<'_, Self>) {
        let now = cx.now();
        while let Some(dialling) = self.dials.get_mut(&dial) {
            if let Some(action) = dialling.machine.poll_action() {
                match action {
                    DialAction::Connect { attempt, addr } => {
                        self.connect(dial, attempt, addr, now, cx)
                    }
                    DialAction::Cancel { attempt } => self.cancel_attempt(dial, attempt, cx),
                }
                continue;
            }
            match dialling.machine.poll_event() {
                Some(DialEvent::Won { attempt, addr }) => self.on_won(dial, attempt, addr, cx),
                Some(DialEvent::Failed(error)) => {
                    self.dials.remove(&dial);
                    self.tell(DialOutcome { dial, error }, cx);
                }
                None => break,
            }
        }
        if self
            .dials
            .get(&dial)
            .is_some_and(|dialling| dialling.machine.is_over())
        {
            self.dials.remove(&dial);
        }
        self.set_deadline(cx);
    }

    fn set_deadline(&self, cx: &mut Context<'_, Self>) {
        let deadlines = self
            .dials
            .values()
            .filter_map(|dialling| dialling.machine.poll_timeout());
        cx.wake_at(deadlines.min(), SLACK);
    }

    fn connect(
        &mut self,
        dial: u32,
        attempt: AttemptId,
        addr: SocketAddr,
        now: Instant,
        cx: &mut Context<'_, Self>,
    ) {
        let Some(dialling) = self.dials.get_mut(&dial) else {
            return;
        };
        match cx.tcp_connect(addr, None) {
            Ok(socket) => {
                dialling.attempts.push((attempt, socket, addr));
                self.sockets.insert(socket, (dial, attempt));
            }
            Err(error) => {
                dialling
                    .machine
                    .handle_failed(now, attempt, AttemptFailure::from_io(&error));
            }
        }
    }

    fn cancel_attempt(&mut self, dial: u32, attempt: AttemptId, cx: &mut Context<'_, Self>) {
        let Some(dialling) = self.dials.get_mut(&dial) else {
            return;
        };
        match dialling.attempts.iter().position(|(id, ..)| *id == attempt) {
            Some(place) => {
                let (_, socket, _) = dialling.attempts.swap_remove(place);
                self.sockets.remove(&socket);
                cx.close(socket, true);
            }
            // Its socket belongs to the connection by now.
            None => call_off(dialling, cx),
        }
    }

    /// An attempt's socket is open: a connection takes it over.
    fn on_won(
        &mut self,
        dial: u32,
        attempt: AttemptId,
        addr: SocketAddr,
        cx: &mut Context<'_, Self>,
    ) {
        let Some(dialling) = self.dials.get_mut(&dial) else {
            return;
        };
        let Some(place) = dialling.attempts.iter().position(|(id, ..)| *id == attempt) else {
            return;
        };
        let (_, socket, _) = dialling.attempts.swap_remove(place);
        self.sockets.remove(&socket);
        let config = self.common.config.lock().clone();
        let machine = Connection::dialler(&config, cx.now(), &mut cx.random(), None, Some(addr));
        let dialler = cx.address();
        let origin = Origin::Outbound {
            dial,
            attempt: attempt.0,
            dialler,
        };
        let actor = ConnectionActor::new(self.common.clone(), machine, addr, origin);
        let given = cx
            .spawn(Child::once(actor))
            .map_err(io::Error::other)
            .and_then(|connection| {
                dialling.winner = Some(connection);
                cx.give_socket(socket, connection.id())
            });
        if let Err(error) = given {
            cx.close(socket, true);
            if let Some(connection) = dialling.winner.take() {
                cx.stop_actor(connection.id());
            }
            let failure = AttemptFailure::from_io(&error);
            dialling
                .machine
                .handle_handshake_failed(cx.now(), attempt, failure);
        }
    }

    fn on_handshake(&mut self, outcome: HandshakeOutcome, cx: &mut Context<'_, Self>) {
        let Some(dialling) = self.dials.get_mut(&outcome.dial) else {
            return;
        };
        dialling.winner = None;
        match outcome.result {
            Ok(()) => dialling.machine.handle_handshake_done(),
            Err(failure) => {
                let attempt = AttemptId(outcome.attempt);
                dialling
                    .machine
                    .handle_handshake_failed(cx.now(), attempt, failure);
            }
        }
        self.drain(outcome.dial, cx);
    }

    fn tell(&mut self, outcome: DialOutcome, cx: &mut Context<'_, Self>) {
        if let Err(refused) = cx.send_to(&self.judge, outcome)
            && refused.is_full()
        {
            cx.notify_ready(self.judge.id());
            self.untold.push(refused.into_message());
        }
    }
}

fn call_off(dialling: &mut Dialling, cx: &mut Context<'_, Dialler>) {
    let Some(connection) = dialling.winner.take() else {
        return;
    };
    let refuse = ConnectionMessage::Refuse(RefusedReason::CalledOff);
    if cx.send(&connection, refuse).is_err() {
        cx.stop_actor(connection.id());
    }
}

impl Actor for Dialler {
    type Message = DiallerMessage;

    fn handle(
        &mut self,
        message: DiallerMessage,
        cx: &mut Context<'_, Self>,
    ) -> Result<(), Failure> {
        let now = cx.now();
        match message {
            DiallerMessage::Dial { dial, endpoint } => {
                let machine = Dial::new(now, self.config);
                let dialling = Dialling {
                    machine,
                    attempts: Vec::new(),
                    winner: None,
                };
                self.dials.insert(dial, dialling);
                self.add_endpoint(dial, &endpoint, cx);
                self.drain(dial, cx);
            }
            DiallerMessage::DialAlso { dial, endpoint } => {
                if let Some(dialling) = self.dials.get_mut(&dial) {
                    dialling.machine.handle_lookup();
                }
                self.add_endpoint(dial, &endpoint, cx);
                self.drain(dial, cx);
            }
            DiallerMessage::Cancel { dial } => {
                if let Some(dialling) = self.dials.get_mut(&dial) {
                    dialling.machine.cancel();
                    self.drain(dial, cx);
                }
            }
            DiallerMessage::Resolved { dial, result } => {
                if let Some(dialling) = self.dials.get_mut(&dial) {
                    match result {
                        Ok(addrs) => dialling
                            .machine
                            .handle_addresses(now, Families::Both, &addrs),
                        Err(kind) => {
                            dialling
                                .machine
                                .handle_resolve_failed(now, Families::Both, kind)
                        }
                    }
                    self.drain(dial, cx);
                }
            }
            DiallerMessage::Handshake(outcome) => self.on_handshake(outcome, cx),
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let now = cx.now();
        match event {
            Event::Connected { socket } => {
                let Some(&(dial, attempt)) = self.sockets.get(&socket) else {
                    return Ok(());
                };
                if let Some(dialling) = self.dials.get_mut(&dial) {
                    // What the other side says at once is for the connection to read.
                    cx.pause_reading(socket);
                    dialling.machine.handle_connected(now, attempt);
                    self.drain(dial, cx);
                }
            }
            Event::ConnectFailed { socket, error } | Event::Closed { socket, error } => {
                let Some((dial, attempt)) = self.sockets.remove(&socket) else {
                    return Ok(());
                };
                if let Some(dialling) = self.dials.get_mut(&dial) {
                    dialling.attempts.retain(|(id, ..)| *id != attempt);
                    dialling
                        .machine
                        .handle_failed(now, attempt, AttemptFailure::from_io(&error));
                    self.drain(dial, cx);
                }
            }
            Event::Wake => {
                let due: Vec<u32> = self.dials.keys().copied().collect();
                for dial in due {
                    if let Some(dialling) = self.dials.get_mut(&dial) {
                        dialling.machine.handle_timeout(now);
                        self.drain(dial, cx);
                    }
                }
            }
            Event::Ready(_) => {
                for outcome in std::mem::take(&mut self.untold) {
                    self.tell(outcome, cx);
                }
            }
            _ => {}
        }
        self.set_deadline(cx);
        Ok(())
    }
}
