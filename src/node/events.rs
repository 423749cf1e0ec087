//! What happens to a node besides messages, and queues of it that may lose some.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use mischief_actors::connection::reason::DisconnectReason;
use mischief_actors::discovery::Source;
use mischief_actors::identity::PeerId;
use mischief_actors::mdns::MdnsEvent;
use mischief_actors::peers::{Direction, Notice};
use mischief_reactor::WaitError;
use parking_lot::Mutex;

use super::dispatch::Hub;
use super::pending::block_on;

/// Events that a queue made by [`Node::events`](super::Node::events) holds.
pub const EVENTS_QUEUE_DEFAULT: usize = 1024;

/// Something that happened to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeEvent {
    /// A peer is connected and authenticated.
    PeerConnected {
        /// Who.
        peer: PeerId,
        /// The other end of the connection.
        addr: SocketAddr,
        /// Who dialled.
        direction: Direction,
        /// How the connection is encrypted.
        suite: &'static str,
        /// The name that the peer gives itself: at most 64 bytes, and no proof of anything.
        name: Option<Arc<str>>,
    },
    /// A peer is not connected any more.
    PeerDisconnected {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: DisconnectReason,
    },
    /// A peer is waited for or given up, banned, seen twice: what else happens to the network around the node.
    Network(Notice),
    /// The DHT can be used: the first lookup of the node's own id in it has ended, and there are nodes.
    DhtReady {
        /// How many.
        nodes: usize,
    },
    /// The DHT knows of a node with the same protocol at this address. It is not known whether it is there.
    DhtPeer {
        /// Where.
        addr: SocketAddr,
    },
    /// Somebody was found who may be a peer, by a source for the first time or at an address that was not known. The node
    /// connects by itself if it wants more peers.
    PeerFound {
        /// Who, if the source knows. Not verified.
        peer: Option<PeerId>,
        /// Where.
        addr: SocketAddr,
        /// By whom.
        source: Source,
    },
    /// Something happened on the local network ([`Node::mdns`](super::Node::mdns)).
    Mdns(MdnsEvent),
    /// Something went wrong that no call asked for.
    Error {
        /// What, for people.
        message: Arc<str>,
    },
    /// Events are missing here, because whoever listens was too slow. Messages are never lost that way.
    Lost {
        /// How many.
        count: usize,
    },
    /// The node has stopped. The last event.
    Stopped,
}

/// State changes of a node, in order, through a bounded queue: when it is full the oldest are lost, and
/// [`NodeEvent::Lost`] stands in their place.
///
/// As an iterator it waits for the next event and ends after [`NodeEvent::Stopped`].
pub struct Events {
    queue: Arc<EventQueue>,
    hub: Arc<Hub>,
}

impl Events {
    pub(crate) fn subscribe(hub: &Arc<Hub>, capacity: usize) -> Events {
        let queue = Arc::new(EventQueue {
            capacity: capacity.max(1),
            state: Mutex::default(),
        });
        hub.subscribers.add(queue.clone());
        Events {
            queue,
            hub: hub.clone(),
        }
    }

    /// Waits for the next event. `None` after the last, or on a core thread, which must not wait.
    #[expect(
        clippy::should_implement_trait,
        reason = "it is the iterator's own, for those who do not import the trait"
    )]
    pub fn next(&mut self) -> Option<NodeEvent> {
        self.wait(None).ok().flatten()
    }

    /// Waits at most `timeout` for the next event. `Ok(None)` after the last.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<NodeEvent>, WaitError> {
        self.wait(Some(timeout))
    }

    /// The next event if it is there already.
    pub fn try_next(&mut self) -> Option<NodeEvent> {
        match self.queue.take(None) {
            Poll::Ready(event) => event,
            Poll::Pending => None,
        }
    }

    /// The next event, as a future of any executor. `None` after the last. Dropping the future loses nothing.
    pub fn next_async(&mut self) -> impl Future<Output = Option<NodeEvent>> + '_ {
        poll_fn(|task| self.poll_next(task))
    }

    /// The same to build a stream of.
    pub fn poll_next(&mut self, task: &mut TaskContext<'_>) -> Poll<Option<NodeEvent>> {
        self.queue.take(Some(task.waker()))
    }

    fn wait(&mut self, timeout: Option<Duration>) -> Result<Option<NodeEvent>, WaitError> {
        let queue = &self.queue;
        block_on(&self.hub, timeout, &mut |task| {
            queue.take(Some(task.waker()))
        })
    }
}

impl Iterator for Events {
    type Item = NodeEvent;

    fn next(&mut self) -> Option<NodeEvent> {
        Events::next(self)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.hub.subscribers.remove(&self.queue);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Events({} waiting)",
            self.queue.state.lock().events.len()
        )
    }
}

pub(crate) struct EventQueue {
    capacity: usize,
    state: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    events: VecDeque<NodeEvent>,
    /// Lost ones, all of them older than those that wait.
    lost: usize,
    is_closed: bool,
    waker: Option<Waker>,
}

impl EventQueue {
    fn put(&self, event: NodeEvent) {
        let mut state = self.state.lock();
        if state.events.len() >= self.capacity {
            state.events.pop_front();
            state.lost += 1;
        }
        state.events.push_back(event);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn take(&self, waker: Option<&Waker>) -> Poll<Option<NodeEvent>> {
        let mut state = self.state.lock();
        if state.lost > 0 {
            let count = std::mem::take(&mut state.lost);
            return Poll::Ready(Some(NodeEvent::Lost { count }));
        }
        if let Some(event) = state.events.pop_front() {
            return Poll::Ready(Some(event));
        }
        if state.is_closed {
            return Poll::Ready(None);
        }
        if let Some(waker) = waker {
            state.waker = Some(waker.clone());
        }
        Poll::Pending
    }
}

/// All queues of one node.
#[derive(Default)]
pub(crate) struct Subscribers(Mutex<SubscribersState>);

#[derive(Default)]
struct SubscribersState {
    queues: Vec<Arc<EventQueue>>,
    is_closed: bool,
}

impl Subscribers {
    fn add(&self, queue: Arc<EventQueue>) {
        let mut state = self.0.lock();
        if state.is_closed {
            drop(state);
            queue.close();
        } else {
            state.queues.push(queue);
        }
    }

    fn remove(&self, queue: &Arc<EventQueue>) {
        self.0
            .lock()
            .queues
            .retain(|other| !Arc::ptr_eq(other, queue));
    }

    pub(crate) fn publish(&self, event: &NodeEvent) {
        // A waker is foreign code: it may come back here, so the list must not be locked meanwhile.
        let queues = self.0.lock().queues.clone();
        for queue in queues {
            queue.put(event.clone());
        }
    }

    pub(crate) fn close(&self) {
        let queues = {
            let mut state = self.0.lock();
            state.is_closed = true;
            std::mem::take(&mut state.queues)
        };
        for queue in queues {
            queue.close();
        }
    }
}
