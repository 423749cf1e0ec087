//! A node without one of its actors is no node: it would answer nobody and look well. So it ends when one has failed for
//! good, and whoever runs it can start it again.

use std::thread;
use std::time::Duration;

use mischief_actors::connection::Deliver;
use mischief_reactor::{
    Actor, ActorId, Child, Context, Event, Failure, Handle, SpawnError, StopReason,
};

use super::WeakNode;

/// How long the rest of the node has to end in good order.
const DEADLINE: Duration = Duration::from_secs(5);

/// Stops the node when one of `actors` has failed, after a [`NodeEvent::Error`](super::NodeEvent::Error) that says so.
pub(crate) fn watch(
    handle: &Handle,
    node: WeakNode,
    actors: Vec<ActorId>,
) -> Result<ActorId, SpawnError> {
    let warden = handle.spawn(0, move || Child::once(Warden { node, actors }))?;
    Ok(warden.id())
}

struct Warden {
    node: WeakNode,
    actors: Vec<ActorId>,
}

impl Actor for Warden {
    type Message = ();

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        for actor in std::mem::take(&mut self.actors) {
            cx.watch(actor);
        }
        Ok(())
    }

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let Event::Stopped { actor, reason } = event else {
            return Ok(());
        };
        // One that is unknown had failed before it could be watched.
        let has_failed = |reason: &StopReason| {
            use StopReason::{Failed, Panicked, Unknown};
            matches!(reason, Failed(_) | Panicked(_) | Unknown)
        };
        if !has_failed(&reason) {
            return Ok(());
        }
        let Some(node) = self.node.upgrade() else {
            return Ok(());
        };
        let told = format!("the node ends, because a part of it has failed: {actor} {reason}");
        log::error!("{told}");
        node.hub().failed(&told);
        if node.hub().handle.is_simulated() {
            // There are no threads in a simulation, which looks at failed actors itself.
            return Ok(());
        }
        // A core cannot wait for itself to end.
        let stop = move || node.stop(DEADLINE);
        if let Err(error) = thread::Builder::new()
            .name("mischief-end".into())
            .spawn(stop)
        {
            log::error!("there is no thread that could end the node: {error}");
        }
        cx.stop();
        Ok(())
    }
}
