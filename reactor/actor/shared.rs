//! What the cores of one runtime and its handles share: inboxes, remote gauges, the registry.
//!
//! Nothing here is touched on the path of a local message.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError as ChannelError};
use parking_lot::Mutex;

use super::core::Core;
use super::reply::{AskId, Signal, Waiter};
use super::slot::Slot;
use super::{ActorId, MailboxLimits, StopReason};
use crate::io::driver::{DetachedSocket, SocketId, Wake};
use crate::io::memory::MemoryBudget;

/// Every bound of a runtime that is not an actor's own. All of them may be set before the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bounds of a mailbox whose [`Child`](super::Child) names none.
    pub mailbox: MailboxLimits,
    /// Messages that may wait on one core, over all its actors.
    pub run_queue_max: usize,
    /// Messages on the way from one core to another, and from all outside threads to one core.
    pub outbox_max: usize,
    /// Questions in flight that the actors of one core have asked.
    pub asks_max: usize,
    /// Actors on one core.
    pub actors_max: usize,
    /// User messages handled in one turn before sockets and timers are looked at again.
    pub turn_messages: u32,
    /// Bytes read from one socket in one turn before the others have theirs.
    pub read_budget: usize,
    /// Connections accepted from one listener in one turn.
    pub accept_budget: u32,
    /// Bytes of one connection that may wait for the kernel in user memory.
    pub unsent_max: usize,
    /// Bytes over all pools, queues and reassembly of the runtime. When it is reached nobody new is let in, and nothing is
    /// read while a quarter of it holds something else than what waits to be sent. From three quarters on nothing more
    /// is to be sent. How it is counted: [`MemoryBudget`].
    pub memory_max: usize,
    /// A handler that runs longer is reported as a [`Stall`](super::Stall).
    pub stall: Duration,
    /// How long a core looks for new work before it sleeps. Zero, the default, sleeps at once.
    pub spin: Duration,
    /// A core that goes to sleep gives back the memory of the program's code that has been run, at most this often; it
    /// never wakes for it. The pages stay in the system's cache, and the next run of the code maps them again, for some
    /// microseconds. For programs that are idle most of the time on machines with little memory; `None`, the default:
    /// never. Probes that the kernel has put into the code (uprobes) are lost; while a debugger is attached nothing is
    /// given back. Linux only.
    pub code_release: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            mailbox: MailboxLimits::default(),
            run_queue_max: 1 << 20,
            outbox_max: 1 << 16,
            asks_max: 1 << 16,
            actors_max: ActorId::PER_CORE_MAX as usize,
            turn_messages: 4096,
            read_budget: 128 << 10,
            accept_budget: 64,
            unsent_max: 1 << 20,
            memory_max: 256 << 20,
            stall: Duration::from_millis(100),
            spin: Duration::ZERO,
            code_release: None,
        }
    }
}

/// One of several nodes that share a runtime: the scope of registered names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

/// Why a message was not taken. The message comes back.
#[derive(PartialEq, Eq)]
pub enum TrySendError<M> {
    /// The mailbox or the way to it has no room now; see [`Context::notify_ready`](super::Context::notify_ready).
    Full(M),
    /// The actor has ended.
    Stopped(M),
}

impl<M> TrySendError<M> {
    /// The message.
    pub fn into_message(self) -> M {
        match self {
            TrySendError::Full(message) | TrySendError::Stopped(message) => message,
        }
    }

    /// Whether it may be taken later.
    pub fn is_full(&self) -> bool {
        matches!(self, TrySendError::Full(_))
    }
}

impl<M> fmt::Debug for TrySendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_full() {
            "Full(..)"
        } else {
            "Stopped(..)"
        })
    }
}

impl<M> fmt::Display for TrySendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_full() {
            "the mailbox is full"
        } else {
            "the actor has ended"
        })
    }
}

impl<M> std::error::Error for TrySendError<M> {}

/// Why a blocking send from outside gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There was no room until the deadline.
    #[error("the mailbox stayed full until the deadline")]
    TimedOut,
    /// The actor has ended.
    #[error("the actor has ended")]
    Stopped,
    /// A core thread must not block.
    #[error("a core thread must not block in send")]
    OnCoreThread,
}

/// What never waits behind user messages and is never dropped.
pub(crate) enum System {
    Run(Box<dyn FnOnce(&mut Core) + Send>),
    Deliver(Slot),
    Restart(ActorId),
    /// The last child of an actor that waits for its children is gone.
    Childless(ActorId),
    Poke(ActorId),
    Reply {
        ask: AskId,
        value: Option<Box<dyn Any + Send>>,
    },
    Stop {
        actor: ActorId,
        reason: StopReason,
    },
    Watch {
        watcher: ActorId,
        target: ActorId,
    },
    Unwatch {
        watcher: ActorId,
        target: ActorId,
    },
    Stopped {
        watcher: ActorId,
        actor: ActorId,
        reason: StopReason,
    },
    NotifyReady {
        asker: ActorId,
        target: ActorId,
    },
    Ready {
        asker: ActorId,
        target: ActorId,
    },
    /// A sender was refused and gave back what it had counted: who waits for room must look again.
    LookAgain {
        index: u32,
    },
    Give {
        to: ActorId,
        socket: DetachedSocket,
    },
    Given {
        to: ActorId,
        socket: SocketId,
    },
}

/// Messages in flight from other cores and from outside to one actor.
#[derive(Default)]
pub(crate) struct Gauge {
    /// How many, and [`Gauge::AWAITED`].
    messages: AtomicU32,
    bytes: AtomicU32,
}

impl Gauge {
    /// An actor of another core waits for room.
    const AWAITED: u32 = 1 << 31;

    /// Counts a message if there is room. A refused one is counted for a moment, too.
    fn take(&self, bytes: u32, limits: MailboxLimits) -> bool {
        let before = self.messages.fetch_add(1, Ordering::Relaxed);
        if before & !Gauge::AWAITED >= limits.messages {
            self.messages.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        if bytes > 0 {
            let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
            // One message larger than the bound passes when nothing else waits, or it could never be sent.
            if before > 0 && before.saturating_add(bytes) > limits.bytes {
                self.give(1, bytes);
                return false;
            }
        }
        true
    }

    pub(crate) fn give(&self, messages: u32, bytes: u32) {
        self.messages.fetch_sub(messages, Ordering::Relaxed);
        if bytes > 0 {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Whether at least half of it is free.
    pub(crate) fn has_room(&self, limits: MailboxLimits) -> bool {
        self.messages() <= limits.messages / 2
            && self.bytes.load(Ordering::Relaxed) <= limits.bytes / 2
    }

    fn messages(&self) -> u32 {
        self.messages.load(Ordering::Relaxed) & !Gauge::AWAITED
    }

    /// Says that somebody waits for room. To be called before [`Gauge::has_room`] is asked.
    pub(crate) fn await_room(&self) {
        self.messages.fetch_or(Gauge::AWAITED, Ordering::Relaxed);
        // Pairs with the fence of `Remote::take_gauge`: either it sees the mark, or `has_room` sees what it gave back.
        fence(Ordering::SeqCst);
    }

    /// Whether somebody waits for room who has not been told to look again. Clears the mark.
    fn take_await(&self) -> bool {
        let is_awaited = |messages| messages & Gauge::AWAITED != 0;
        is_awaited(self.messages.load(Ordering::Relaxed))
            && is_awaited(self.messages.fetch_and(!Gauge::AWAITED, Ordering::Relaxed))
    }
}

/// Bounds of an actor that are not the runtime's; 0 where it has none.
#[derive(Default)]
struct OwnLimits {
    messages: AtomicU32,
    bytes: AtomicU32,
}

const LEAF: usize = 256;

struct Leaf {
    gauges: [Gauge; LEAF],
    /// Made where an actor with bounds of its own is first.
    own: OnceLock<Box<[OwnLimits]>>,
}

type Branch = Box<[OnceLock<Box<Leaf>>]>;

/// A gauge for every place of a core, made where one is first needed.
pub(crate) struct Gauges(Box<[OnceLock<Branch>]>);

impl Gauges {
    fn new() -> Gauges {
        Gauges((0..LEAF).map(|_| OnceLock::new()).collect())
    }

    pub(crate) fn get(&self, index: usize) -> &Gauge {
        &self.leaf(index).gauges[index % LEAF]
    }

    fn leaf(&self, index: usize) -> &Leaf {
        let branch = self.0[index / (LEAF * LEAF)]
            .get_or_init(|| (0..LEAF).map(|_| OnceLock::new()).collect());
        branch[index / LEAF % LEAF].get_or_init(|| {
            Box::new(Leaf {
                gauges: std::array::from_fn(|_| Gauge::default()),
                own: OnceLock::new(),
            })
        })
    }

    /// The gauge of a place and its bounds, where `usual` are the runtime's.
    pub(crate) fn with_limits(
        &self,
        index: usize,
        usual: MailboxLimits,
    ) -> (&Gauge, MailboxLimits) {
        let leaf = self.leaf(index);
        let mut limits = usual.at_least_one();
        if let Some(own) = leaf.own.get() {
            let own = &own[index % LEAF];
            let messages = own.messages.load(Ordering::Relaxed);
            if messages > 0 {
                limits = MailboxLimits {
                    messages,
                    bytes: own.bytes.load(Ordering::Relaxed),
                };
            }
        }
        // The mark above the count is out of reach: so many messages do not fit into memory.
        limits.messages = limits.messages.min(Gauge::AWAITED / 2);
        (&leaf.gauges[index % LEAF], limits)
    }

    /// Sets the bounds of a place; `None`: the runtime's.
    pub(crate) fn set_limits(&self, index: usize, limits: Option<MailboxLimits>) {
        let leaf = self.leaf(index);
        let own = leaf
            .own
            .get_or_init(|| (0..LEAF).map(|_| OwnLimits::default()).collect());
        let (messages, bytes) = limits.map_or((0, 0), |limits| {
            let limits = limits.at_least_one();
            (limits.messages, limits.bytes)
        });
        own[index % LEAF].bytes.store(bytes, Ordering::Relaxed);
        own[index % LEAF]
            .messages
            .store(messages, Ordering::Relaxed);
    }

    /// Messages counted for a place, without making its gauge.
    pub(crate) fn messages(&self, index: usize) -> u32 {
        let branch = self.0.get(index / (LEAF * LEAF)).and_then(OnceLock::get);
        let leaf = branch.and_then(|branch| branch[index / LEAF % LEAF].get());
        leaf.map_or(0, |leaf| leaf.gauges[index % LEAF].messages())
    }
}

/// What other threads reach of a core.
pub(crate) struct Remote {
    wake: Arc<dyn Wake>,
    /// The core is about to wait or waits: whoever posts something has to wake it.
    sleeping: AtomicBool,
    /// Something was posted since the core last looked.
    has_mail: AtomicBool,
    /// Outside threads that block in `send` because of a full mailbox on this core.
    blocked: AtomicU32,
    pub(crate) room: Arc<Signal>,
    batches: (Sender<Vec<Slot>>, Receiver<Vec<Slot>>),
    /// A core sleeps with a batch that `batches` had no room for.
    wants_batch_room: AtomicBool,
    post: Mutex<Vec<Slot>>,
    system: Mutex<Vec<System>>,
    pub(crate) gauges: Gauges,
    /// The core has ended. Set with `system` and `post` locked, so that nothing is put there afterwards.
    is_gone: AtomicBool,
}

/// Batches of messages that may wait between two looks of a core at its inbox.
const BATCHES_MAX: usize = 256;

impl Remote {
    pub(crate) fn new(wake: Arc<dyn Wake>) -> Remote {
        Remote {
            wake,
            sleeping: AtomicBool::new(false),
            has_mail: AtomicBool::new(false),
            blocked: AtomicU32::new(0),
            room: Arc::new(Signal::default()),
            batches: crossbeam_channel::bounded(BATCHES_MAX),
            wants_batch_room: AtomicBool::new(false),
            post: Mutex::new(Vec::new()),
            system: Mutex::new(Vec::new()),
            gauges: Gauges::new(),
            is_gone: AtomicBool::new(false),
        }
    }

    pub(crate) fn notify(&self) {
        self.has_mail.store(true, Ordering::Release);
        // Pairs with the fence in `prepare_sleep`: either this thread sees `sleeping`, or the core sees `has_mail`.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            self.wake.wake();
        }
    }

    /// A thread is going to look for room and to wait until `room` says that there is some.
    pub(crate) fn begin_blocking(&self) {
        self.blocked.fetch_add(1, Ordering::Relaxed);
        // Pairs with the fence of `has_blocked`: either the core sees this thread, or it sees the room that the core made.
        fence(Ordering::SeqCst);
    }

    pub(crate) fn end_blocking(&self) {
        self.blocked.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a thread waits for room. To be asked after room was made.
    pub(crate) fn has_blocked(&self) -> bool {
        fence(Ordering::SeqCst);
        self.blocked.load(Ordering::Relaxed) > 0
    }

    /// Whether something was posted since [`Remote::take_mail_mark`].
    pub(crate) fn has_mail(&self) -> bool {
        self.has_mail.load(Ordering::Relaxed)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Acquire)
    }

    /// Nothing more is taken; what is there already has to be collected once more.
    pub(crate) fn close(&self) {
        let (_system, _post) = (self.system.lock(), self.post.lock());
        self.is_gone.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Puts something on the system lane. It comes back when the core has ended.
    pub(crate) fn push_system(&self, item: System) -> Result<(), System> {
        let mut system = self.system.lock();
        if self.is_gone() {
            return Err(item);
        }
        system.push(item);
        drop(system);
        self.notify();
        Ok(())
    }

    /// A batch from another core; it comes back when the inbox is full or the core has ended.
    pub(crate) fn push_batch(&self, batch: Vec<Slot>) -> Result<(), Vec<Slot>> {
        if self.is_gone() {
            return Err(batch);
        }
        match self.batches.0.try_send(batch) {
            Ok(()) => self.notify(),
            Err(ChannelError::Full(batch) | ChannelError::Disconnected(batch)) => {
                return Err(batch);
            }
        }
        // The fence in `notify` pairs with the one in `close`: either the core's last look finds the batch, or this one.
        match self.is_gone().then(|| self.take_batch()).flatten() {
            Some(batch) => Err(batch),
            None => Ok(()),
        }
    }

    /// Has the core wake all others once it has taken a batch. To be called before one more attempt to push one.
    pub(crate) fn await_batch_room(&self) {
        self.wants_batch_room.store(true, Ordering::Relaxed);
        // Pairs with the fence in `take_batch_wish`: either the core sees the wish, or the attempt sees its room.
        fence(Ordering::SeqCst);
    }

    /// Whether another core waits for room. To be called after taking batches.
    pub(crate) fn take_batch_wish(&self) -> bool {
        fence(Ordering::SeqCst);
        self.wants_batch_room.load(Ordering::Relaxed)
            && self.wants_batch_room.swap(false, Ordering::Relaxed)
    }

    /// A message from an outside thread; it comes back when there is no room.
    pub(crate) fn push_post(&self, slot: Slot, limits: &Limits) -> Result<(), PostError> {
        let mut post = self.post.lock();
        if self.is_gone() {
            return Err(PostError::Stopped(slot));
        }
        if post.len() >= limits.outbox_max {
            return Err(PostError::Full(slot));
        }
        post.push(slot);
        drop(post);
        // Another thread may have posted first and not have come to say so.
        if !self.has_mail.load(Ordering::Relaxed) {
            self.notify();
        }
        Ok(())
    }

    /// Counts a message against its receiver's bounds.
    pub(crate) fn take_gauge(&self, to: ActorId, bytes: u32, limits: &Limits) -> bool {
        let (gauge, limits) = self.gauges.with_limits(to.index(), limits.mailbox);
        if gauge.take(bytes, limits) {
            return true;
        }
        // For a moment the refused message was counted, and the core may have seen no room because of it.
        fence(Ordering::SeqCst);
        if gauge.take_await() {
            let index = to.index() as u32;
            // A core that has ended has told everybody who waits.
            let _ = self.push_system(System::LookAgain { index });
        }
        false
    }

    /// Whether anything was posted since the last call. Clears the mark, so look into all inboxes after it.
    pub(crate) fn take_mail_mark(&self) -> bool {
        self.has_mail.load(Ordering::Relaxed) && self.has_mail.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn take_system(&self, into: &mut Vec<System>) {
        std::mem::swap(&mut *self.system.lock(), into);
    }

    pub(crate) fn take_post(&self, into: &mut Vec<Slot>) {
        std::mem::swap(&mut *self.post.lock(), into);
    }

    pub(crate) fn take_batch(&self) -> Option<Vec<Slot>> {
        self.batches.1.try_recv().ok()
    }

    /// Announces that the core is going to wait. `false`: something came meanwhile, so it must not.
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.has_mail.load(Ordering::Relaxed) {
            self.sleeping.store(false, Ordering::Relaxed);
            return false;
        }
        true
    }

    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }
}

/// Why a message from an outside thread was not taken.
pub(crate) enum PostError {
    Full(Slot),
    Stopped(Slot),
}

/// Who has which name in which node, and what it is.
type Registry<'a> = BTreeMap<(NodeId, &'a str), (ActorId, TypeId)>;

pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) memory: Arc<MemoryBudget>,
    pub(crate) cores: Vec<Remote>,
    pub(crate) waiter: Arc<dyn Waiter>,
    pub(crate) nodes: AtomicU32,
    pub(crate) undeliverable: AtomicUsize,
    registry: Mutex<Registry<'static>>,
}

impl Shared {
    pub(crate) fn new(
        limits: Limits,
        memory: Arc<MemoryBudget>,
        wakes: Vec<Arc<dyn Wake>>,
        waiter: Arc<dyn Waiter>,
    ) -> Arc<Shared> {
        Arc::new(Shared {
            limits,
            memory,
            cores: wakes.into_iter().map(Remote::new).collect(),
            waiter,
            nodes: AtomicU32::new(1),
            undeliverable: AtomicUsize::new(0),
            registry: Mutex::new(BTreeMap::new()),
        })
    }

    /// The core an actor lives on; `None` for an id of a runtime with more cores than this one.
    pub(crate) fn core_of(&self, actor: ActorId) -> Option<&Remote> {
        self.cores.get(usize::from(actor.core()))
    }

    /// Puts something on a core's system lane. It comes back when there is no such core or it has ended.
    pub(crate) fn push_system(&self, core: u8, item: System) -> Result<(), System> {
        match self.cores.get(usize::from(core)) {
            Some(remote) => remote.push_system(item),
            None => Err(item),
        }
    }

    /// Registers a name; `false` if another living actor has it.
    pub(crate) fn register(
        &self,
        node: NodeId,
        name: &'static str,
        id: ActorId,
        of: TypeId,
    ) -> bool {
        let mut registry = self.registry.lock();
        match registry.get(&(node, name)) {
            Some((holder, _)) if *holder != id => false,
            _ => {
                registry.insert((node, name), (id, of));
                true
            }
        }
    }

    pub(crate) fn unregister(&self, node: NodeId, id: ActorId) {
        self.registry
            .lock()
            .retain(|key, (holder, _)| key.0 != node || *holder != id);
    }

    pub(crate) fn lookup(&self, node: NodeId, name: &str, of: TypeId) -> Option<ActorId> {
        let guard = self.registry.lock();
        // For looking up, the names need not live for ever.
        let registry: &Registry<'_> = &guard;
        let (id, held) = registry.get(&(node, name))?;
        (*held == of).then_some(*id)
    }
}
