//! The shell around [`Discovery`]: who finds, who is told, and whom it asks to dial.

use std::sync::Arc;
use std::time::Duration;

use mischief_reactor::{Actor, ActorId, Address, Context, Event, Failure, Message, Reply};

use super::{Candidate, DialNumber, Discovery, DiscoveryEvent, Fault, Find, Source};
use crate::connection::Endpoint;
use crate::identity::PeerId;
use crate::peers::Roster;
use crate::peers::actor::{PeersActor, PeersMessage};

/// How late a dial may be.
const SLACK: Duration = Duration::from_millis(10);
/// Longer than the peers actor ever takes to answer; it has a deadline of its own.
const DIAL_DEADLINE: Duration = Duration::from_secs(120);

/// Who is told of finds: on the core thread.
pub trait Observer: Send + Sync {
    /// Somebody was found.
    fn found(&self, find: &Find);
}

/// What the actor is told.
pub enum DiscoveryMessage {
    /// A source has found somebody.
    Find(Find),
    /// A source has lost somebody.
    Gone(PeerId, Source),
    /// A peer is connected.
    Connected(PeerId),
    /// A peer is not connected any more.
    Disconnected(PeerId),
    /// How many peers are wanted.
    SetWanted(u32),
    /// Tell everything.
    Report {
        /// Everybody who was found.
        reply: Reply<Vec<Candidate>>,
    },
    /// From the peers actor.
    Dialled(DialNumber, Result<PeerId, Fault>),
}

impl Message for DiscoveryMessage {}

impl From<Find> for DiscoveryMessage {
    fn from(find: Find) -> DiscoveryMessage {
        DiscoveryMessage::Find(find)
    }
}

/// Whom a node dials of those that were found.
pub struct DiscoveryActor {
    machine: Discovery,
    peers: Address<PeersActor>,
    roster: Roster<ActorId>,
    observer: Arc<dyn Observer>,
}

impl DiscoveryActor {
    /// An actor that asks `peers` to connect, whose connected peers are in `roster`.
    pub fn new(
        machine: Discovery,
        peers: Address<PeersActor>,
        roster: Roster<ActorId>,
        observer: Arc<dyn Observer>,
    ) -> DiscoveryActor {
        DiscoveryActor {
            machine,
            peers,
            roster,
            observer,
        }
    }

    fn drain(&mut self, cx: &mut Context<'_, Self>) {
        while let Some(event) = self.machine.poll_event() {
            let DiscoveryEvent::Found(find) = event;
            self.observer.found(&find);
        }
        while let Some(dial) = self.machine.poll_dial() {
            let question = |reply| PeersMessage::Connect {
                endpoint: Endpoint::Address(dial.addr),
                expected: dial.expected,
                reply,
            };
            let peers = self.peers;
            cx.ask(&peers, question, DIAL_DEADLINE, move |result| {
                let result = match result {
                    Ok(Ok(peer)) => Ok(peer),
                    Ok(Err(error)) => Err(Fault::of(&error)),
                    Err(_) => Err(Fault::Transient),
                };
                DiscoveryMessage::Dialled(dial.number, result)
            });
        }
        cx.wake_at(self.machine.poll_timeout(), SLACK);
    }
}

impl Actor for DiscoveryActor {
    type Message = DiscoveryMessage;

    fn handle(
        &mut self,
        message: DiscoveryMessage,
        cx: &mut Context<'_, Self>,
    ) -> Result<(), Failure> {
        let now = cx.now();
        self.machine.set_connected(self.roster.len());
        match message {
            DiscoveryMessage::Find(find) => {
                let is_connected = find.peer_id.is_some_and(|peer| self.roster.contains(&peer));
                self.machine
                    .handle_find(now, find, is_connected, &mut cx.random());
            }
            DiscoveryMessage::Gone(peer, source) => self.machine.handle_gone(peer, source),
            DiscoveryMessage::Connected(peer) => self.machine.handle_connected(peer),
            DiscoveryMessage::Disconnected(peer) => {
                self.machine
                    .handle_disconnected(now, peer, &mut cx.random());
            }
            DiscoveryMessage::SetWanted(wanted) => self.machine.set_wanted(now, wanted),
            DiscoveryMessage::Report { reply } => reply.send(self.machine.candidates()),
            DiscoveryMessage::Dialled(number, result) => {
                self.machine.handle_dialled(now, number, result);
            }
        }
        self.drain(cx);
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        self.machine.set_connected(self.roster.len());
        if let Event::Wake = event {
            self.machine.handle_timeout(cx.now());
        }
        self.drain(cx);
        Ok(())
    }

    fn heap_bytes(&self) -> usize {
        self.machine.heap_bytes()
    }
}
