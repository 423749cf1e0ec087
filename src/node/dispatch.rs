//! Messages and events on their way to the callbacks.
//!
//! The connections put what they have received into one ordered queue: a run of bytes for each row of messages from one
//! peer, so that nothing is allocated for a message. The dispatcher takes the whole queue at once and leaves an empty one
//! with its memory. What waits holds stream credit and is given back as it is handled, so the queue is bounded by the
//! windows: at most two for each peer, one being handled and one behind it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;
use std::thread::ThreadId;
use std::time::Duration;

use mischief_actors::connection::{ChannelMessage, Deliver, Kind, LargeMessage, Link, Records};
use mischief_actors::messages::actor::{Desk, Incoming};
use mischief_actors::messages::{self, FailureCode, RequestId, RequestLimits};
use mischief_actors::peers::Roster;
use mischief_reactor::io::doorbell::Doorbell;
use mischief_reactor::io::memory::MemoryKind;
use mischief_reactor::{ActorId, Handle, Signal};
use parking_lot::Mutex;

use super::events::{NodeEvent, Subscribers};
use super::handlers::Handlers;
use super::run::Run;

/// Credit is given back after this many bytes of messages, so that in a long run a slow handler lets the sender go on.
pub(super) const CREDIT_STEP: usize = 32 << 10;

/// Events that wait for a callback. Further ones are lost and counted.
const EVENTS_QUEUED_MAX: usize = 1024;

/// Memory of the queue that an idle node keeps.
const IDLE_CAPACITY: usize = 64 << 10;

/// How long the dispatcher's thread sleeps before it frees what an idle node need not hold.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// Where callbacks run. Never more than one at a time but for [`Callbacks::Inline`] on several cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Callbacks {
    /// On a thread of the node's own, started when it is first needed. They may block, and hold up only each other.
    #[default]
    Thread,
    /// In the caller's own loop: see [`Node::pump`](super::Node::pump). While a thread waits for an answer of the node,
    /// it pumps as well.
    Pump,
    /// On the core that received the message, at once: the lowest latency. They must not block, because everything on
    /// their core waits for them; on several cores they run at the same time. A simulated node always does this.
    Inline,
}

/// What callbacks have done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) handled: u64,
    pub(crate) unhandled: u64,
    pub(crate) malformed: u64,
    pub(crate) panics: u64,
    pub(crate) events_lost: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Tally) {
        self.handled += other.handled;
        self.unhandled += other.unhandled;
        self.malformed += other.malformed;
        self.panics += other.panics;
        self.events_lost += other.events_lost;
    }
}

enum Item {
    /// Messages of one peer: the bytes from the end of the run before it.
    Run {
        link: Arc<Link>,
        end: usize,
    },
    Large(Arc<Link>, Box<LargeMessage>),
    Request(Box<Waiting>),
    Event(Box<NodeEvent>),
}

/// A peer's request that waits for its handler.
struct Waiting {
    link: Arc<Link>,
    id: RequestId,
    kind: Kind,
    name_bytes: usize,
    /// Name and body.
    bytes: Vec<u8>,
    /// Bytes to give back to the peer.
    credit: usize,
}

impl Waiting {
    fn new(link: &Arc<Link>, incoming: &Incoming<'_>, credit: usize) -> Waiting {
        Waiting {
            link: link.clone(),
            id: incoming.id,
            kind: incoming.kind,
            name_bytes: incoming.name.len(),
            bytes: [incoming.name.as_bytes(), incoming.body].concat(),
            credit,
        }
    }

    fn incoming(&self) -> Incoming<'_> {
        let (name, body) = self.bytes.split_at(self.name_bytes);
        Incoming {
            id: self.id,
            kind: self.kind,
            name: std::str::from_utf8(name).expect("checked when the request came"),
            body,
        }
    }
}

#[derive(Default)]
struct Batch {
    items: Vec<Item>,
    bytes: Vec<u8>,
    large_bytes: usize,
    events: usize,
    events_lost: usize,
}

impl Batch {
    fn push_run(&mut self, link: &Arc<Link>, records: &[u8]) {
        self.bytes.extend_from_slice(records);
        let new_end = self.bytes.len();
        match self.items.last_mut() {
            Some(Item::Run { link: last, end }) if Arc::ptr_eq(last, link) => *end = new_end,
            _ => self.items.push(Item::Run {
                link: link.clone(),
                end: new_end,
            }),
        }
    }

    fn push_large(&mut self, link: &Arc<Link>, message: LargeMessage) {
        self.large_bytes += message.message().body.len();
        self.items
            .push(Item::Large(link.clone(), Box::new(message)));
    }

    fn push_request(&mut self, request: Waiting) {
        self.large_bytes += request.bytes.len();
        self.items.push(Item::Request(Box::new(request)));
    }

    fn push_event(&mut self, event: NodeEvent) {
        if self.events >= EVENTS_QUEUED_MAX {
            self.events_lost += 1;
            return;
        }
        self.events += 1;
        self.items.push(Item::Event(Box::new(event)));
    }

    /// Empties it; the memory stays.
    fn clear(&mut self) {
        self.items.clear();
        self.bytes.clear();
        self.large_bytes = 0;
        self.events = 0;
        self.events_lost = 0;
    }

    fn shrink(&mut self) {
        self.bytes.shrink_to(IDLE_CAPACITY);
        self.items.shrink_to(IDLE_CAPACITY / size_of::<Item>());
    }
}

#[derive(Default)]
struct Queue {
    filling: Batch,
    /// An empty batch with memory.
    spare: Batch,
    /// Somebody sleeps until something is queued.
    is_waiting: bool,
    /// Tasks and pumping waits that want to know of it.
    wakers: Vec<Waker>,
    has_thread: bool,
    dispatching: Option<ThreadId>,
    /// Nothing is queued any more.
    is_closed: bool,
}

/// What a node's handles and its actors share: where received messages and events go in, and callbacks are called.
pub(crate) struct Hub {
    this: Weak<Hub>,
    pub(crate) handle: Handle,
    pub(crate) callbacks: Callbacks,
    pub(crate) handlers: Handlers,
    pub(crate) roster: Roster<ActorId>,
    pub(crate) desk: Arc<Desk>,
    pub(crate) subscribers: Subscribers,
    queue: Mutex<Queue>,
    /// Notified when something is queued, and when the thread has ended.
    signal: Signal,
    doorbell: OnceLock<Doorbell>,
    pub(super) tally: Mutex<Tally>,
    has_ended: AtomicBool,
}

impl Hub {
    pub(crate) fn new(handle: Handle, callbacks: Callbacks, requests: RequestLimits) -> Arc<Hub> {
        let callbacks = match handle.is_simulated() {
            true => Callbacks::Inline,
            false => callbacks,
        };
        let desk = Arc::new(Desk::new(handle.clone(), requests));
        Arc::new_cyclic(|this| Hub {
            this: this.clone(),
            desk,
            handle,
            callbacks,
            handlers: Handlers::default(),
            roster: Roster::default(),
            subscribers: Subscribers::default(),
            queue: Mutex::default(),
            signal: Signal::default(),
            doorbell: OnceLock::new(),
            tally: Mutex::default(),
            has_ended: AtomicBool::new(false),
        })
    }

    pub(crate) fn weak(&self) -> Weak<Hub> {
        self.this.clone()
    }

    pub(crate) fn tally(&self) -> Tally {
        *self.tally.lock()
    }

    /// Bytes of messages that wait for the dispatcher to take them.
    pub(crate) fn queued_bytes(&self) -> usize {
        let queue = self.queue.lock();
        queue.filling.bytes.len() + queue.filling.large_bytes
    }

    /// Tells everybody who listens what has happened.
    pub(crate) fn announce(&self, event: NodeEvent) {
        self.subscribers.publish(&event);
        if !self.handlers.has_event_handlers() {
            return;
        }
        match self.callbacks {
            Callbacks::Inline => {
                let mut run = Run::new(self);
                run.event(&event);
            }
            _ => drop(self.push(None, |batch| batch.push_event(event))),
        }
    }

    /// Queues the last event; nothing is queued after it.
    pub(crate) fn close(&self) {
        self.desk.close();
        self.announce(NodeEvent::Stopped);
        self.subscribers.close();
        let mut queue = self.queue.lock();
        queue.is_closed = true;
        let is_over = !queue.has_thread && queue.filling.items.is_empty();
        self.wake(queue, false);
        if is_over {
            self.end();
        }
    }

    /// Waits until the callbacks of what was queued before [`Hub::close`] are over. `false` if they were not in time.
    /// Called from within one of them it does not wait.
    pub(crate) fn wait_for_end(&self, timeout: Duration) -> bool {
        let mut ended = || self.has_ended.load(Ordering::Acquire);
        if self.is_dispatching_here() || self.callbacks == Callbacks::Pump {
            return ended();
        }
        self.handle
            .wait(&self.signal, &mut ended, Some(timeout))
            .is_ok()
    }

    /// Handlers often hold on to things that hold on to the node.
    fn end(&self) {
        self.handlers.clear();
        self.has_ended.store(true, Ordering::Release);
        self.signal.notify();
    }

    /// Whether this thread is inside of a callback of this node.
    pub(crate) fn is_dispatching_here(&self) -> bool {
        self.queue.lock().dispatching == Some(std::thread::current().id())
    }

    /// Whether a wait on this thread has to pump.
    pub(crate) fn pumps_here(&self) -> bool {
        self.callbacks == Callbacks::Pump && !self.is_dispatching_here()
    }

    /// The doorbell that is rung while something waits for [`Hub::pump`].
    pub(crate) fn doorbell(&self) -> std::io::Result<&Doorbell> {
        if self.doorbell.get().is_none() {
            let bell = Doorbell::new()?;
            // Another thread may have been faster, then this one's is dropped.
            let _ = self.doorbell.set(bell);
        }
        let bell = self.doorbell.get().expect("it was set just now");
        if !self.queue.lock().filling.items.is_empty() {
            bell.ring();
        }
        Ok(bell)
    }

    /// Handles everything that waits, after waiting up to `timeout` for something. How many messages and events.
    pub(crate) fn pump(&self, timeout: Duration) -> usize {
        if self.callbacks != Callbacks::Pump {
            return 0;
        }
        {
            let mut queue = self.queue.lock();
            if queue.dispatching.is_some() {
                return 0;
            }
            if queue.filling.items.is_empty() && !queue.is_closed && !timeout.is_zero() {
                queue.is_waiting = true;
                drop(queue);
                let mut ready = || {
                    let queue = self.queue.lock();
                    !queue.filling.items.is_empty() || queue.is_closed
                };
                if self
                    .handle
                    .wait(&self.signal, &mut ready, Some(timeout))
                    .is_err()
                {
                    let mut queue = self.queue.lock();
                    queue.spare.shrink();
                    return 0;
                }
            }
        }
        self.pump_waiting()
    }

    /// Handles what waits. 0 also if another thread is just handling it.
    pub(crate) fn pump_waiting(&self) -> usize {
        let Some(mut batch) = self.take_batch() else {
            return 0;
        };
        let count = self.dispatch(&mut batch);
        let mut queue = self.queue.lock();
        queue.spare = batch;
        queue.dispatching = None;
        let is_empty = queue.filling.items.is_empty();
        let is_closed = queue.is_closed;
        // A wait that could not pump because this thread did goes on with what has come meanwhile.
        let wakers = match is_empty {
            true => Vec::new(),
            false => std::mem::take(&mut queue.wakers),
        };
        drop(queue);
        wakers.into_iter().for_each(Waker::wake);
        if is_closed && is_empty {
            self.end();
        }
        count
    }

    /// Has `waker` woken when something is queued; at once if something is.
    pub(crate) fn wake_when_queued(&self, waker: &Waker) {
        let mut queue = self.queue.lock();
        if queue.filling.items.is_empty() || queue.dispatching.is_some() {
            queue.wakers.retain(|other| !other.will_wake(waker));
            queue.wakers.push(waker.clone());
            return;
        }
        drop(queue);
        waker.wake_by_ref();
    }

    fn take_batch(&self) -> Option<Batch> {
        let mut queue = self.queue.lock();
        if queue.dispatching.is_some() || queue.filling.items.is_empty() {
            return None;
        }
        queue.dispatching = Some(std::thread::current().id());
        let spare = std::mem::take(&mut queue.spare);
        let batch = std::mem::replace(&mut queue.filling, spare);
        if let Some(bell) = self.doorbell.get() {
            bell.silence();
        }
        Some(batch)
    }

    /// Puts something into the queue and wakes whoever takes it out. `false`: it is not wanted any more.
    ///
    /// Nothing of a peer comes after the event that it is gone: `link` was muted before that event took the same lock.
    fn push(&self, link: Option<&Link>, add: impl FnOnce(&mut Batch)) -> bool {
        let mut queue = self.queue.lock();
        if queue.is_closed || link.is_some_and(Link::is_muted) {
            return false;
        }
        add(&mut queue.filling);
        if self.callbacks == Callbacks::Thread && !queue.has_thread {
            queue.has_thread = self.start_thread();
        }
        self.wake(queue, true);
        true
    }

    fn wake(&self, mut queue: parking_lot::MutexGuard<'_, Queue>, ring: bool) {
        let is_waiting = std::mem::take(&mut queue.is_waiting);
        let wakers = std::mem::take(&mut queue.wakers);
        if ring && let Some(bell) = self.doorbell.get() {
            bell.ring();
        }
        drop(queue);
        if is_waiting {
            self.signal.notify();
        }
        for waker in wakers {
            waker.wake();
        }
    }

    fn start_thread(&self) -> bool {
        let Some(hub) = self.this.upgrade() else {
            return false;
        };
        let thread = std::thread::Builder::new().name("mischief-calls".to_owned());
        match thread.spawn(move || hub.run_thread()) {
            Ok(_) => true,
            Err(error) => {
                // What waits holds credit, so it does not grow; the next message tries again.
                log::error!("the thread for callbacks does not start: {error}");
                false
            }
        }
    }

    fn run_thread(&self) {
        let mut batch = Batch::default();
        loop {
            {
                let mut queue = self.queue.lock();
                queue.dispatching = None;
                if queue.filling.items.is_empty() {
                    if queue.is_closed {
                        break;
                    }
                    queue.is_waiting = true;
                    drop(queue);
                    self.sleep(&mut batch);
                    continue;
                }
                std::mem::swap(&mut queue.filling, &mut batch);
                queue.dispatching = Some(std::thread::current().id());
            }
            self.dispatch(&mut batch);
        }
        self.end();
    }

    fn sleep(&self, batch: &mut Batch) {
        let mut ready = || !self.queue.lock().is_waiting;
        if self
            .handle
            .wait(&self.signal, &mut ready, Some(IDLE_AFTER))
            .is_ok()
        {
            return;
        }
        batch.shrink();
        self.queue.lock().filling.shrink();
        if let Err(error) = self.handle.wait(&self.signal, &mut ready, None) {
            log::error!("the thread for callbacks cannot sleep: {error}");
        }
    }

    /// Handles a batch and empties it. How many messages and events.
    fn dispatch(&self, batch: &mut Batch) -> usize {
        let mut run = Run::new(self);
        let mut start = 0;
        for item in batch.items.drain(..) {
            match item {
                Item::Run { link, end } => {
                    run.records(&link, &batch.bytes[start..end], true);
                    start = end;
                }
                Item::Large(link, message) => {
                    run.large(&link, *message, true);
                }
                Item::Request(request) => {
                    run.request(&request.link, &request.incoming());
                    self.handle
                        .memory()
                        .give(MemoryKind::Payloads, request.bytes.len());
                    request.link.consumed(&self.handle, request.credit);
                }
                Item::Event(event) => run.event(&event),
            }
        }
        if batch.events_lost > 0 {
            run.tally.events_lost += batch.events_lost as u64;
            run.event(&NodeEvent::Lost {
                count: batch.events_lost,
            });
        }
        batch.clear();
        run.count
    }

    /// Messages that nobody wants are counted where they come in.
    fn pass_over(&self, link: &Link, messages: usize, credit: usize) {
        self.tally.lock().unhandled += messages as u64;
        link.consumed(&self.handle, credit);
    }
}

impl Deliver for Hub {
    fn records(&self, link: &Arc<Link>, records: Records<'_>) {
        if !self.handlers.has_message_handlers() {
            return self.pass_over(link, records.count_messages(), records.len());
        }
        if self.callbacks == Callbacks::Inline {
            if !link.is_muted() {
                Run::new(self).records(link, records.as_bytes(), false);
            }
            return;
        }
        // Before it can be handled, and taken off again.
        let memory = self.handle.memory();
        memory.adjust(MemoryKind::Payloads, 0, records.len());
        if !self.push(Some(link), |batch| batch.push_run(link, records.as_bytes())) {
            memory.give(MemoryKind::Payloads, records.len());
        }
    }

    fn failed(&self, message: &str) {
        self.announce(NodeEvent::Error {
            message: Arc::from(message),
        });
    }

    fn large(&self, link: &Arc<Link>, message: LargeMessage) {
        let bytes = message.message().body.len();
        if !self.handlers.has_message_handlers() {
            self.tally.lock().unhandled += 1;
            return link.consumed_large(&self.handle, message);
        }
        if self.callbacks == Callbacks::Inline {
            if !link.is_muted() {
                Run::new(self).large(link, message, false);
            }
            return;
        }
        let memory = self.handle.memory();
        memory.adjust(MemoryKind::Payloads, 0, bytes);
        if !self.push(Some(link), |batch| batch.push_large(link, message)) {
            memory.give(MemoryKind::Payloads, bytes);
        }
    }

    fn channel(&self, link: &Arc<Link>, message: ChannelMessage<'_>) {
        let credit = message.credit as usize;
        let Some(request) = self.on_channel(link, message) else {
            return link.consumed(&self.handle, credit);
        };
        let (memory, bytes) = (self.handle.memory(), request.bytes.len());
        memory.adjust(MemoryKind::Payloads, 0, bytes);
        if !self.push(Some(link), |batch| batch.push_request(request)) {
            memory.give(MemoryKind::Payloads, bytes);
        }
    }
}

impl Hub {
    /// A message of a subsystem, of which one has a channel on the application's stream. A request to be handled comes back.
    fn on_channel(&self, link: &Arc<Link>, message: ChannelMessage<'_>) -> Option<Waiting> {
        if message.channel != messages::CHANNEL {
            let bytes = message.body.len();
            log::trace!("{bytes} bytes on unknown channel {}", message.channel);
            return None;
        }
        let incoming = self.desk.receive(link, message.body)?;
        if !self.handlers.has_request_handlers() {
            self.tally.lock().unhandled += 1;
            self.desk
                .fail(link, incoming.id, FailureCode::NoHandler, "");
            return None;
        }
        if self.callbacks == Callbacks::Inline {
            if !link.is_muted() {
                Run::new(self).request(link, &incoming);
            }
            return None;
        }
        Some(Waiting::new(link, &incoming, message.credit as usize))
    }
}
