//! How a connection's end is told when it comes together with something else.

use std::sync::Arc;

use mischief_actors::connection::{
    About, Authenticated, DisconnectReason, Identified, Report, Role, Suite,
};
use mischief_actors::peers::actor::{PeersActor, PeersMessage};
use mischief_actors::peers::{Peers, PeersLimits};
use mischief_reactor::sim::SimWorld;
use mischief_reactor::{Actor, Address, Child, Context, Failure, Limits};

use crate::bare::Watcher;
use crate::net::{SECOND, identity, ip};

struct Nobody;

impl Actor for Nobody {
    type Message = ();

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }
}

/// The order to keep a connection found its actor gone, and that was taken for the news of its end: programs were told of
/// an internal failure, though the connection's own report was on its way. The scenario `mesh` found it with seed 1.
#[test]
fn a_connection_that_ended_meanwhile_is_told_by_its_own_reason() {
    let world = SimWorld::new(1);
    let runtime = world.node(&[ip("10.0.0.1")]).start(1, Limits::default());
    let runtime = runtime.expect("a machine starts");
    let handle = runtime.handle();
    let own = Arc::new(identity(1));
    let machine = Peers::new(own.peer_id(), PeersLimits::default());
    let seen = Arc::new(Watcher::default());
    let observer = seen.clone();
    let peers = handle.spawn(0, move || {
        Child::once(PeersActor::bare(machine, own, observer))
    });
    let peers = peers.expect("there is room for an actor");
    let gone = handle
        .spawn(0, || Child::once(Nobody))
        .expect("there is room");
    handle.stop(gone.id());
    world.run_for(SECOND);
    let connection = Address::from_id(gone.id());
    let about = About {
        features: 0,
        window: 1 << 18,
        message_max: 1 << 20,
        bulk_streams_max: 0,
        listen: Vec::new(),
        observed: None,
        name: None,
        agent: String::new(),
    };
    let authenticated = Authenticated {
        peer: identity(2).peer_id(),
        role: Role::Responder,
        suite: Suite::ChaChaPoly,
        version: 1,
        handshake_hash: [0; 32],
        about,
        rtt: None,
    };
    let identified = Identified {
        connection,
        dial: None,
        addr: ([10, 0, 0, 2], 50_000).into(),
        authenticated: Box::new(authenticated),
        message_max: 1 << 20,
    };
    let reports = [
        Report::Identified(Box::new(identified)),
        Report::Closed(connection, DisconnectReason::TimedOut),
    ];
    for report in reports {
        let sent = handle.try_send(&peers, PeersMessage::from(report));
        assert!(sent.is_ok(), "there is room in the mailbox");
    }
    world.run_for(SECOND);
    assert_eq!(seen.reasons(), ["timeout"]);
}
