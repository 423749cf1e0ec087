//! An actor that does what it is told, and notes what happens to it.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use mischief_reactor::{
    Actor, ActorId, Address, Child, Context, Drain, Event, Failure, Handle, Instant, Limits,
    MailboxLimits, Message, Reply, StopReason, TrySendError,
};

use super::fixture::{Fixture, PATIENCE, changed};

/// What happened to puppets, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Started,
    Number(u32),
    Bytes(usize),
    Wake(Instant),
    Timer(u32, Instant),
    Flush,
    Ready(ActorId),
    Stopped(ActorId, StopReason),
    Poke,
    Stopping(StopReason),
    Dropped,
    Note(String),
}

/// A shared list. What is put in is seen by whoever waits with [`Fixture::until`].
pub struct Log<T = Seen>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Log(self.0.clone())
    }
}

impl<T> Log<T> {
    pub fn new() -> Log<T> {
        Log(Arc::default())
    }

    pub fn add(&self, item: T) {
        self.0.lock().expect("nobody panics with it").push(item);
        changed();
    }

    pub fn len(&self) -> usize {
        self.0.lock().expect("nobody panics with it").len()
    }

    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock().expect("nobody panics with it"))
    }
}

impl<T: Clone + PartialEq> Log<T> {
    pub fn all(&self) -> Vec<T> {
        self.0.lock().expect("nobody panics with it").clone()
    }

    pub fn has(&self, item: &T) -> bool {
        self.0.lock().expect("nobody panics with it").contains(item)
    }

    pub fn count(&self, item: &T) -> usize {
        let items = self.0.lock().expect("nobody panics with it");
        items.iter().filter(|other| *other == item).count()
    }
}

impl Log<Seen> {
    pub fn numbers(&self) -> Vec<u32> {
        let seen = self.all().into_iter();
        seen.filter_map(|seen| match seen {
            Seen::Number(number) => Some(number),
            _ => None,
        })
        .collect()
    }
}

type Deed = Box<dyn FnOnce(&mut Puppet, &mut Context<'_, Puppet>) -> Result<(), Failure> + Send>;

pub enum Order {
    Do(Deed),
    Number(u32),
    Bytes(Vec<u8>),
    Ask(Reply<u32>),
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Order::Do(_) => f.write_str("Do"),
            Order::Number(number) => write!(f, "Number({number})"),
            Order::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Order::Ask(_) => f.write_str("Ask"),
        }
    }
}

impl Message for Order {
    fn heap_bytes(&self) -> usize {
        match self {
            Order::Bytes(bytes) => bytes.len(),
            _ => 0,
        }
    }
}

/// What somebody who knows nothing of puppets may tell them.
#[derive(Debug, PartialEq, Eq)]
pub struct Fact(pub u32);

impl Message for Fact {}

impl From<Fact> for Order {
    fn from(fact: Fact) -> Order {
        Order::Number(fact.0)
    }
}

pub type Starts = Box<dyn FnMut(&mut Context<'_, Puppet>) -> Result<(), Failure> + Send>;

/// Reacts to an event before it is noted. `true`: it need not be noted.
pub type Reacts = Box<dyn FnMut(&Event<'_>, &mut Context<'_, Puppet>) -> bool + Send>;

pub type Drains = Box<dyn FnMut(&StopReason, &mut Context<'_, Puppet>) -> Drain + Send>;

pub struct Puppet {
    pub log: Log,
    pub start: Option<Starts>,
    pub react: Option<Reacts>,
    pub drain: Option<Drains>,
    /// Questions kept without an answer.
    pub kept: Vec<Reply<u32>>,
}

impl Puppet {
    pub fn new(log: &Log) -> Puppet {
        Puppet {
            log: log.clone(),
            start: None,
            react: None,
            drain: None,
            kept: Vec::new(),
        }
    }

    pub fn starting(
        mut self,
        start: impl FnMut(&mut Context<'_, Puppet>) -> Result<(), Failure> + Send + 'static,
    ) -> Puppet {
        self.start = Some(Box::new(start));
        self
    }

    pub fn reacting(
        mut self,
        react: impl FnMut(&Event<'_>, &mut Context<'_, Puppet>) -> bool + Send + 'static,
    ) -> Puppet {
        self.react = Some(Box::new(react));
        self
    }

    pub fn draining(
        mut self,
        drain: impl FnMut(&StopReason, &mut Context<'_, Puppet>) -> Drain + Send + 'static,
    ) -> Puppet {
        self.drain = Some(Box::new(drain));
        self
    }
}

impl Actor for Puppet {
    type Message = Order;

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        self.log.add(Seen::Started);
        match &mut self.start {
            Some(start) => start(cx),
            None => Ok(()),
        }
    }

    fn handle(&mut self, order: Order, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match order {
            Order::Do(deed) => return deed(self, cx),
            Order::Number(number) => self.log.add(Seen::Number(number)),
            Order::Bytes(bytes) => self.log.add(Seen::Bytes(bytes.len())),
            Order::Ask(reply) => reply.send(7),
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        if self.react.as_mut().is_some_and(|react| react(&event, cx)) {
            return Ok(());
        }
        self.log.add(match event {
            Event::Wake => Seen::Wake(cx.now()),
            Event::Timer { tag, .. } => Seen::Timer(tag, cx.now()),
            Event::Flush => Seen::Flush,
            Event::Ready(actor) => Seen::Ready(actor),
            Event::Stopped { actor, reason } => Seen::Stopped(actor, reason),
            Event::Poke => Seen::Poke,
            other => Seen::Note(format!("{other:?}")),
        });
        Ok(())
    }

    fn stopping(&mut self, reason: &StopReason, cx: &mut Context<'_, Self>) -> Drain {
        self.log.add(Seen::Stopping(reason.clone()));
        match &mut self.drain {
            Some(drain) => drain(reason, cx),
            None => Drain::Done,
        }
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.log.add(Seen::Dropped);
    }
}

/// A puppet on a core, with its log.
pub fn puppet<F: Fixture>(fixture: &F, core: usize) -> (Address<Puppet>, Log) {
    puppet_with(fixture, core, |puppet| puppet)
}

pub fn puppet_with<F: Fixture>(
    fixture: &F,
    core: usize,
    shape: impl FnOnce(Puppet) -> Puppet + Send + 'static,
) -> (Address<Puppet>, Log) {
    let log = Log::new();
    let made = log.clone();
    let address = fixture
        .handle()
        .spawn(core, move || Child::once(shape(Puppet::new(&made))))
        .expect("spawned");
    (address, log)
}

/// Has a puppet do something, and returns what came of it.
#[track_caller]
pub fn order<R: Send + 'static>(
    handle: &Handle,
    puppet: &Address<Puppet>,
    deed: impl FnOnce(&mut Puppet, &mut Context<'_, Puppet>) -> R + Send + 'static,
) -> R {
    let answer = handle.ask(
        puppet,
        |reply| {
            Order::Do(Box::new(move |puppet, cx| {
                reply.send(deed(puppet, cx));
                Ok(())
            }))
        },
        PATIENCE,
    );
    answer.wait().expect("a puppet obeys")
}

/// Has a puppet do something that nobody waits for, and that may fail it.
#[track_caller]
pub fn tell(
    handle: &Handle,
    puppet: &Address<Puppet>,
    deed: impl FnOnce(&mut Puppet, &mut Context<'_, Puppet>) -> Result<(), Failure> + Send + 'static,
) {
    handle
        .send(puppet, Order::Do(Box::new(deed)), PATIENCE)
        .expect("there is room in the end");
}

/// A core that stands still: on real threads in a handler that waits, in a simulation because nobody steps the world.
/// Until it goes on a test must not wait for anything of that core.
pub struct Frozen(Option<Arc<(Mutex<bool>, Condvar)>>);

impl Frozen {
    pub fn core<F: Fixture>(fixture: &F, core: usize) -> Frozen {
        if F::IS_SIMULATED {
            return Frozen(None);
        }
        let gate: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let (holder, log) = puppet(fixture, core);
        let held = gate.clone();
        tell(&fixture.handle(), &holder, move |me, cx| {
            me.log.add(Seen::Poke);
            let guard = held.0.lock().expect("nobody panics with it");
            let waited = held
                .1
                .wait_timeout_while(guard, PATIENCE, |is_open| !*is_open);
            assert!(
                !waited.expect("nobody panics with it").1.timed_out(),
                "it thaws"
            );
            cx.stop();
            Ok(())
        });
        fixture.until(|| log.has(&Seen::Poke));
        Frozen(Some(gate))
    }

    pub fn thaw(self) {}
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Some(gate) = &self.0 {
            *gate.0.lock().expect("nobody panics with it") = true;
            gate.1.notify_all();
        }
    }
}

pub const SECOND: Duration = Duration::from_secs(1);

/// Limits with another bound for all mailboxes.
pub fn mailboxes_of(messages: u32, bytes: u32) -> Limits {
    let mut limits = Limits::default();
    limits.mailbox = MailboxLimits { messages, bytes };
    limits
}

/// Lets an actor send numbers below `count` to another as fast as there is room, and ask to be told when there is
/// some. The answer is the number that is sent next.
pub fn flood(cx: &mut Context<'_, Puppet>, to: Address<Puppet>, next: &mut u32, count: u32) {
    while *next < count {
        match cx.send(&to, Order::Number(*next)) {
            Ok(()) => *next += 1,
            Err(TrySendError::Full(Order::Number(back))) => {
                assert_eq!(back, *next, "the message comes back as it was");
                return cx.notify_ready(to.id());
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Has `from` flood `to`, whenever it is told that there is room.
pub fn begin_flood(handle: &Handle, from: &Address<Puppet>, to: Address<Puppet>, count: u32) {
    tell(handle, from, move |me, cx| {
        let mut next = 0;
        flood(cx, to, &mut next, count);
        me.react = Some(Box::new(move |event, cx| {
            let is_ready = matches!(event, Event::Ready(id) if *id == to.id());
            if is_ready {
                flood(cx, to, &mut next, count);
            }
            is_ready
        }));
        Ok(())
    });
}
