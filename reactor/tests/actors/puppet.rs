//! An actor that does what it is told, and notes what happens to it.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mischief_reactor::{
    Actor, ActorId, Address, Child, Context, Drain, Event, Failure, Handle, Instant, Message,
    Reply, StopReason,
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

impl From<u32> for Order {
    fn from(number: u32) -> Order {
        Order::Number(number)
    }
}

/// Reacts to an event before it is noted. `true`: it need not be noted.
pub type React = Box<dyn FnMut(&Event<'_>, &mut Context<'_, Puppet>) -> bool + Send>;

/// How long and until when it drains.
type Drains = Box<dyn FnMut(&StopReason, &mut Context<'_, Puppet>) -> Drain + Send>;

pub struct Puppet {
    pub log: Log,
    /// Fails on start when true.
    pub start: Option<Box<dyn FnMut(&mut Context<'_, Puppet>) -> Result<(), Failure> + Send>>,
    pub react: Option<React>,
    pub drain: Option<Drains>,
    /// Questions kept without an answer.
    pub kept: Vec<Reply<u32>>,
    pub peer: Option<Address<Puppet>>,
}

impl Puppet {
    pub fn new(log: &Log) -> Puppet {
        Puppet {
            log: log.clone(),
            start: None,
            react: None,
            drain: None,
            kept: Vec::new(),
            peer: None,
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
        .try_send(puppet, Order::Do(Box::new(deed)))
        .expect("there is room");
}

/// A gate that holds an actor: it waits in its handler, with its whole core, until the gate is opened. Only for real
/// threads.
#[derive(Clone)]
pub struct Gate(Arc<(Mutex<bool>, std::sync::Condvar)>);

impl Gate {
    pub fn new() -> Gate {
        Gate(Arc::default())
    }

    pub fn open(&self) {
        *self.0.0.lock().expect("nobody panics with it") = true;
        self.0.1.notify_all();
    }

    pub fn pass(&self) {
        let guard = self.0.0.lock().expect("nobody panics with it");
        let waited = self
            .0
            .1
            .wait_timeout_while(guard, PATIENCE, |is_open| !*is_open);
        assert!(
            !waited.expect("nobody panics with it").1.timed_out(),
            "the gate stayed shut"
        );
    }
}

pub const SECOND: Duration = Duration::from_secs(1);
