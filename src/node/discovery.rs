//! What sources find, on its way to the actor that decides whom to dial.

use std::fmt;
use std::sync::Arc;

use mischief_actors::discovery::actor::{DiscoveryActor, DiscoveryMessage, Observer};
use mischief_actors::discovery::{Candidate, Discovery, Find, Source, WANTED_DEFAULT};
use mischief_actors::identity::PeerId;
use mischief_actors::peers::actor::PeersActor;
use mischief_reactor::{Address, Child};
use parking_lot::Mutex;

use super::dispatch::Hub;
use super::error::NodeError;
use super::events::NodeEvent;
use super::pending::Pending;

/// How long the actor may take for what it answers by itself.
const ANSWER_DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

/// The way to a node's discovery. Its actor is made when a source starts: a node that looks for nobody pays nothing.
pub(crate) struct Finder {
    own: PeerId,
    /// How many peers the node wants.
    wanted: u32,
    hub: Arc<Hub>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    peers: Option<Address<PeersActor>>,
    actor: Option<Address<DiscoveryActor>>,
}

impl Finder {
    /// For a node that may have so many peers.
    pub(crate) fn new(own: PeerId, peers_max: u32, hub: Arc<Hub>) -> Finder {
        Finder {
            own,
            wanted: peers_max.min(WANTED_DEFAULT),
            hub,
            state: Mutex::default(),
        }
    }

    /// Who dials.
    pub(crate) fn set_peers(&self, peers: Address<PeersActor>) {
        self.state.lock().peers = Some(peers);
    }

    /// A source has found somebody.
    pub(crate) fn find(&self, find: Find) {
        self.tell_if_there(|| DiscoveryMessage::Find(find));
    }

    /// A source does not see a peer any more.
    pub(crate) fn gone(&self, peer: PeerId, source: Source) {
        self.tell_if_there(|| DiscoveryMessage::Gone(peer, source));
    }

    /// A peer is connected.
    pub(crate) fn connected(&self, peer: PeerId) {
        self.tell_if_there(|| DiscoveryMessage::Connected(peer));
    }

    /// A peer is not connected any more.
    pub(crate) fn disconnected(&self, peer: PeerId) {
        self.tell_if_there(|| DiscoveryMessage::Disconnected(peer));
    }

    /// Everybody who was found.
    pub(crate) fn candidates(&self) -> Pending<Vec<Candidate>, NodeError> {
        let Some(actor) = self.state.lock().actor else {
            return Pending::known(&self.hub, Ok(Vec::new()));
        };
        let question = |reply: mischief_reactor::Reply<Result<Vec<Candidate>, NodeError>>| {
            DiscoveryMessage::Report {
                reply: reply.map(Ok),
            }
        };
        let asked = self.hub.handle.ask(&actor, question, ANSWER_DEADLINE);
        Pending::asked(&self.hub, asked)
    }

    /// Nobody is dialled any more.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        state.peers = None;
        if let Some(actor) = state.actor.take() {
            self.hub.handle.stop(actor.id());
        }
    }

    /// Makes the actor if there is none yet. To be called before the first find of a source, and not on a core thread.
    pub(crate) fn start(&self) -> Result<(), NodeError> {
        let mut state = self.state.lock();
        if state.actor.is_some() {
            return Ok(());
        }
        let peers = state.peers.ok_or(NodeError::Stopped)?;
        let (own, wanted, ear) = (self.own, self.wanted, Ear(self.hub.clone()));
        let roster = self.hub.roster.clone();
        let make = move || {
            let machine = Discovery::new(own, wanted);
            Child::once(DiscoveryActor::new(machine, peers, roster, Arc::new(ear)))
                .name("discovery")
        };
        let actor = self.hub.handle.spawn(0, make).map_err(|error| {
            log::warn!("nobody who is found will be dialled: {error}");
            NodeError::Stopped
        })?;
        state.actor = Some(actor);
        Ok(())
    }

    fn tell_if_there(&self, message: impl FnOnce() -> DiscoveryMessage) {
        let actor = self.state.lock().actor;
        if let Some(actor) = actor {
            self.tell(actor, message());
        }
    }

    fn tell(&self, actor: Address<DiscoveryActor>, message: DiscoveryMessage) {
        // A find that is dropped comes again: every source repeats itself.
        if self.hub.handle.try_send(&actor, message).is_err() {
            log::debug!("discovery has too much to do");
        }
    }
}

impl fmt::Debug for Finder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Finder")
    }
}

struct Ear(Arc<Hub>);

impl Observer for Ear {
    fn found(&self, find: &Find) {
        self.0.announce(NodeEvent::PeerFound {
            peer: find.peer_id,
            addr: find.addr,
            source: find.source,
        });
    }
}
