//! Asking and answering, inside the runtime and from outside it.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::ActorId;
use super::core::Core;
use super::shared::{Shared, System};

/// Why a question got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The deadline came first.
    #[error("{actor} did not answer {message} in {deadline:?} ({queued} messages were waiting)")]
    TimedOut {
        /// Type of the actor asked, and its id.
        actor: String,
        /// Type of the message.
        message: &'static str,
        /// Time allowed.
        deadline: Duration,
        /// Messages that waited in its mailbox when the time was over.
        queued: u32,
    },
    /// The actor dropped the question without an answer, or has ended.
    #[error("the actor has ended or gave no answer")]
    NoReply,
    /// The mailbox had no room for the question.
    #[error("the mailbox is full")]
    Full,
    /// Too many questions are in flight on this core.
    #[error("too many questions in flight")]
    TooMany,
    /// A core thread must not wait.
    #[error("a core thread must not wait for an answer")]
    OnCoreThread,
}

/// Why a wait gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The time was over.
    #[error("timed out")]
    TimedOut,
    /// A core thread must not wait: everything on its core would stand still.
    #[error("a core thread must not wait")]
    OnCoreThread,
}

/// What a waiting thread sleeps on.
#[derive(Default)]
pub struct Signal {
    lock: Mutex<()>,
    changed: Condvar,
}

impl Signal {
    /// Has every waiter look again. Change what they look at first.
    pub fn notify(&self) {
        drop(self.lock.lock());
        self.changed.notify_all();
    }

    /// Parks this thread until `ready` says so. For [`Waiter`]s that really park.
    pub fn park(
        &self,
        ready: &mut dyn FnMut() -> bool,
        timeout: Option<Duration>,
    ) -> Result<(), WaitError> {
        let deadline = timeout.and_then(|timeout| std::time::Instant::now().checked_add(timeout));
        let mut guard = self.lock.lock();
        loop {
            if ready() {
                return Ok(());
            }
            match deadline {
                None => self.changed.wait(&mut guard),
                Some(deadline) => {
                    if self.changed.wait_until(&mut guard, deadline).timed_out() {
                        return if ready() {
                            Ok(())
                        } else {
                            Err(WaitError::TimedOut)
                        };
                    }
                }
            }
        }
    }
}

/// How a thread outside the cores waits: real runtimes park it, the simulator steps the world.
pub trait Waiter: Send + Sync {
    /// Returns when `ready` says so or the time is over. `signal` is notified whenever `ready` may have changed.
    fn wait(
        &self,
        signal: &Signal,
        ready: &mut dyn FnMut() -> bool,
        timeout: Option<Duration>,
    ) -> Result<(), WaitError>;

    /// Time since some start, for measuring how long waiting took; the simulator tells its virtual time. Not to be
    /// compared with any core's clock.
    fn clock(&self) -> Duration {
        static START: OnceLock<std::time::Instant> = OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    }

    /// Whether the runtime is simulated, so that all of it runs in one thread.
    fn is_simulated(&self) -> bool {
        false
    }
}

/// A question of an actor: place in its core's table and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AskId {
    pub(crate) core: u8,
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// The duty to answer a question. Dropped without [`Reply::send`], the asker learns of it at once.
pub struct Reply<R: Send + 'static> {
    to: Option<ReplyTo<R>>,
}

/// Takes an answer, or hears that there will be none.
type Call<R> = Box<dyn FnOnce(Option<R>) + Send>;

enum ReplyTo<R> {
    Actor {
        shared: Arc<Shared>,
        ask: AskId,
    },
    Outside(Arc<Cell<R>>),
    /// Never locked: it makes the reply `Sync`, and so the errors that bring back a message with a reply in it.
    Call(Box<Mutex<Call<R>>>),
}

impl<R: Send + 'static> Reply<R> {
    pub(crate) fn to_actor(shared: Arc<Shared>, ask: AskId) -> Reply<R> {
        Reply {
            to: Some(ReplyTo::Actor { shared, ask }),
        }
    }

    /// Whether the asker may still take an answer. `false` only when it is known to have given up.
    pub fn is_awaited(&self) -> bool {
        match &self.to {
            Some(ReplyTo::Outside(cell)) => Arc::strong_count(cell) > 1,
            Some(ReplyTo::Actor { .. } | ReplyTo::Call(_)) => true,
            None => false,
        }
    }

    /// The same duty for another type of value, which `change` turns into this one's.
    pub fn map<S: Send + 'static>(self, change: impl FnOnce(S) -> R + Send + 'static) -> Reply<S> {
        let call: Call<S> = Box::new(move |value| {
            // Without a value `self` is dropped here, which tells the asker.
            if let Some(value) = value {
                self.send(change(value));
            }
        });
        Reply {
            to: Some(ReplyTo::Call(Box::new(Mutex::new(call)))),
        }
    }

    /// Answers. Never fails: when the asker has given up, the value is dropped.
    pub fn send(mut self, value: R) {
        match self.to.take() {
            Some(ReplyTo::Actor { shared, ask }) => {
                let value: Option<Box<dyn Any + Send>> = Some(Box::new(value));
                // An asker whose core has ended needs no answer.
                let _ = shared.push_system(ask.core, System::Reply { ask, value });
            }
            Some(ReplyTo::Outside(cell)) => cell.set(Ok(value)),
            Some(ReplyTo::Call(call)) => call.into_inner()(Some(value)),
            None => {}
        }
    }
}

impl<R: Send + 'static> Drop for Reply<R> {
    fn drop(&mut self) {
        match self.to.take() {
            Some(ReplyTo::Actor { shared, ask }) => {
                let _ = shared.push_system(ask.core, System::Reply { ask, value: None });
            }
            Some(ReplyTo::Outside(cell)) => cell.set(Err(AskError::NoReply)),
            Some(ReplyTo::Call(call)) => call.into_inner()(None),
            None => {}
        }
    }
}

impl<R: Send + 'static> fmt::Debug for Reply<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply<{}>", std::any::type_name::<R>())
    }
}

/// A value that one thread hands to another once.
struct Cell<R> {
    state: Mutex<State<R>>,
    signal: Signal,
}

struct State<R> {
    value: Option<Result<R, AskError>>,
    is_set: bool,
    waker: Option<Waker>,
}

impl<R> Cell<R> {
    fn set(&self, value: Result<R, AskError>) {
        let mut state = self.state.lock();
        if state.is_set {
            return;
        }
        state.is_set = true;
        state.value = Some(value);
        let waker = state.waker.take();
        drop(state);
        self.signal.notify();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A pair of [`Reply`] and [`Answer`] without a question: for futures that a library's own handles give out.
pub struct OneShot;

impl OneShot {
    /// A reply whose value the answer yields. Waiting for it goes through `handle`'s runtime.
    pub fn pair<R: Send + 'static>(handle: &super::Handle) -> (Reply<R>, Answer<R>) {
        pair(handle.shared().clone(), None)
    }
}

/// What is told when an answer does not come.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) target: ActorId,
    pub(crate) actor: &'static str,
    pub(crate) message: &'static str,
    pub(crate) deadline: Duration,
}

impl Question {
    pub(crate) fn timed_out(&self, queued: u32) -> AskError {
        AskError::TimedOut {
            actor: format!("{} {}", self.actor, self.target),
            message: self.message,
            deadline: self.deadline,
            queued,
        }
    }
}

pub(crate) fn pair<R: Send + 'static>(
    shared: Arc<Shared>,
    question: Option<Question>,
) -> (Reply<R>, Answer<R>) {
    let cell = Arc::new(Cell {
        state: Mutex::new(State {
            value: None,
            is_set: false,
            waker: None,
        }),
        signal: Signal::default(),
    });
    let reply = Reply {
        to: Some(ReplyTo::Outside(cell.clone())),
    };
    (
        reply,
        Answer {
            cell,
            shared,
            question,
            deadline_armed: false,
            unpin: PhantomData,
        },
    )
}

/// The answer to a question from outside: a future of any executor, that can also be waited for or looked at.
#[must_use = "a question without a waiting asker is a send"]
pub struct Answer<R: Send + 'static> {
    cell: Arc<Cell<R>>,
    shared: Arc<Shared>,
    question: Option<Question>,
    deadline_armed: bool,
    unpin: PhantomData<fn() -> R>,
}

impl<R: Send + 'static> Answer<R> {
    /// Waits for the answer, at most until the question's deadline.
    pub fn wait(self) -> Result<R, AskError> {
        let deadline = self.question.as_ref().map(|question| question.deadline);
        self.wait_at_most(deadline)
    }

    /// Waits for the answer for `timeout` and not for the question's own deadline.
    pub fn wait_for(self, timeout: Duration) -> Result<R, AskError> {
        self.wait_at_most(Some(timeout))
    }

    fn wait_at_most(mut self, timeout: Option<Duration>) -> Result<R, AskError> {
        let cell = self.cell.clone();
        let mut ready = || cell.state.lock().is_set;
        match self.shared.waiter.wait(&cell.signal, &mut ready, timeout) {
            Ok(()) => self.try_take().unwrap_or(Err(AskError::NoReply)),
            Err(WaitError::OnCoreThread) => Err(AskError::OnCoreThread),
            Err(WaitError::TimedOut) => Err(self.timed_out(timeout.unwrap_or_default())),
        }
    }

    /// The answer, if it is there already. `None` after it was taken, too.
    pub fn try_take(&mut self) -> Option<Result<R, AskError>> {
        self.cell.state.lock().value.take()
    }

    /// An answer that is there already: the question was not taken.
    pub(crate) fn refused(self, error: AskError) -> Answer<R> {
        {
            let mut state = self.cell.state.lock();
            state.is_set = true;
            state.value = Some(Err(error));
        }
        self
    }

    fn timed_out(&self, deadline: Duration) -> AskError {
        match &self.question {
            Some(question) => {
                let remote = self.shared.core_of(question.target);
                let queued =
                    remote.map_or(0, |remote| remote.gauges.messages(question.target.index()));
                question.timed_out(queued)
            }
            None => AskError::TimedOut {
                actor: "the runtime".to_owned(),
                message: std::any::type_name::<R>(),
                deadline,
                queued: 0,
            },
        }
    }
}

impl<R: Send + 'static> Future for Answer<R> {
    type Output = Result<R, AskError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        {
            let mut state = self.cell.state.lock();
            if let Some(value) = state.value.take() {
                return Poll::Ready(value);
            }
            if state.is_set {
                return Poll::Ready(Err(AskError::NoReply));
            }
            state.waker = Some(task.waker().clone());
        }
        if let (Some(question), false) = (self.question.clone(), self.deadline_armed) {
            // Only a task that really waits costs a timer; a blocked thread brings its own.
            self.deadline_armed = true;
            let expiring = Arc::new(Expiring {
                cell: Arc::downgrade(&self.cell),
                question: question.clone(),
            });
            let cell = self.cell.clone();
            let arm = move |core: &mut Core| {
                if !cell.state.lock().is_set {
                    core.expire_later(question.deadline, expiring);
                }
            };
            let arm = System::Run(Box::new(arm));
            let target = question.target.core();
            if self.shared.push_system(target, arm).is_err() {
                self.cell.set(Err(AskError::NoReply));
            }
        }
        Poll::Pending
    }
}

impl<R: Send + 'static> fmt::Debug for Answer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer<{}>", std::any::type_name::<R>())
    }
}

/// Something with a deadline that a core keeps for a task outside.
pub(crate) trait Expire: Send + Sync {
    /// The time is over.
    fn expire(&self, queued: u32);
    /// Nobody will watch the time any more.
    fn give_up(&self);
    fn target(&self) -> ActorId;
    fn is_over(&self) -> bool;
}

struct Expiring<R> {
    cell: Weak<Cell<R>>,
    question: Question,
}

impl<R: Send> Expire for Expiring<R> {
    fn expire(&self, queued: u32) {
        if let Some(cell) = self.cell.upgrade() {
            cell.set(Err(self.question.timed_out(queued)));
        }
    }

    fn give_up(&self) {
        if let Some(cell) = self.cell.upgrade() {
            cell.set(Err(AskError::NoReply));
        }
    }

    fn target(&self) -> ActorId {
        self.question.target
    }

    fn is_over(&self) -> bool {
        self.cell
            .upgrade()
            .is_none_or(|cell| cell.state.lock().is_set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_a_reply_may_travel_inline() {
        fn is_sync<T: Sync>() {}
        is_sync::<Reply<Vec<u8>>>();
        // Of the 32 bytes that a message may have, 8 are left for the rest of it.
        assert!(size_of::<Reply<[u64; 9]>>() <= 24);
    }
}
