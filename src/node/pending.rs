//! Calls whose answer comes later: futures of any executor that can also be waited for.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::time::Duration;

use mischief_actors::connection::{self, SendError};
use mischief_actors::identity::PeerId;
use mischief_reactor::{Answer, AskError, Signal, WaitError};

use super::dispatch::{Callbacks, Hub};
use super::error::ConnectError;

/// The answer to a call: await it in any executor, wait for it, or look whether it is there. Dropping it changes nothing
/// about what was asked for.
#[must_use = "whether the call succeeded only its answer tells"]
pub struct Pending<T: Send + 'static, E: Send + 'static> {
    hub: Arc<Hub>,
    progress: Progress<T, E>,
}

enum Progress<T: Send + 'static, E: Send + 'static> {
    Known(Option<Result<T, E>>),
    Asked(Answer<Result<T, E>>),
}

// The result is moved out and never pinned.
impl<T: Send + 'static, E: Send + 'static> Unpin for Pending<T, E> {}

/// The peer that a dial led to.
pub type Connecting = Pending<PeerId, ConnectError>;

impl<T, E> Pending<T, E>
where
    T: Send + 'static,
    E: From<AskError> + Send + 'static,
{
    pub(crate) fn asked(hub: &Arc<Hub>, answer: Answer<Result<T, E>>) -> Pending<T, E> {
        Pending {
            hub: hub.clone(),
            progress: Progress::Asked(answer),
        }
    }

    pub(crate) fn known(hub: &Arc<Hub>, result: Result<T, E>) -> Pending<T, E> {
        Pending {
            hub: hub.clone(),
            progress: Progress::Known(Some(result)),
        }
    }

    /// Waits for the answer, at most until the deadline that the call itself has.
    pub fn wait(self) -> Result<T, E> {
        self.wait_at_most(None)
    }

    /// Waits for the answer at most for `timeout`.
    pub fn wait_for(self, timeout: Duration) -> Result<T, E> {
        self.wait_at_most(Some(timeout))
    }

    fn wait_at_most(mut self, timeout: Option<Duration>) -> Result<T, E> {
        if self.hub.pumps_here() {
            let hub = self.hub.clone();
            let waited = block_on(&hub, timeout, &mut |task| Pin::new(&mut self).poll(task));
            return waited.unwrap_or_else(|error| Err(E::from(as_ask_error(error, timeout))));
        }
        let answer = match self.progress {
            Progress::Known(result) => return result.unwrap_or(Err(E::from(AskError::NoReply))),
            Progress::Asked(answer) => answer,
        };
        let answer = match timeout {
            Some(timeout) => answer.wait_for(timeout),
            None => answer.wait(),
        };
        answer.unwrap_or_else(|error| Err(E::from(error)))
    }

    /// The answer if it is there already; it is given out once.
    pub fn try_take(&mut self) -> Option<Result<T, E>> {
        match &mut self.progress {
            Progress::Known(result) => result.take(),
            Progress::Asked(answer) => answer
                .try_take()
                .map(|answer| answer.unwrap_or_else(|error| Err(E::from(error)))),
        }
    }
}

impl<T, E> Future for Pending<T, E>
where
    T: Send + 'static,
    E: From<AskError> + Send + 'static,
{
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Result<T, E>> {
        match &mut self.progress {
            Progress::Known(result) => {
                Poll::Ready(result.take().unwrap_or(Err(E::from(AskError::NoReply))))
            }
            Progress::Asked(answer) => Pin::new(answer)
                .poll(task)
                .map(|answer| answer.unwrap_or_else(|error| Err(E::from(error)))),
        }
    }
}

impl<T: Send + 'static, E: Send + 'static> fmt::Debug for Pending<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pending<{}>", std::any::type_name::<T>())
    }
}

fn as_ask_error(error: WaitError, timeout: Option<Duration>) -> AskError {
    match error {
        WaitError::OnCoreThread => AskError::OnCoreThread,
        WaitError::TimedOut => AskError::TimedOut {
            actor: "the node".to_owned(),
            message: "a call",
            deadline: timeout.unwrap_or_default(),
            queued: 0,
        },
    }
}

/// The fate of one message: done when it has been handed to the socket, or with the reason why it was not. Dropping it
/// changes nothing.
#[must_use = "the message is on its way, but whether it was sent only this tells"]
pub struct Sent {
    fate: connection::Sent,
    /// The node, if waiting for it has to pump.
    pumped: Option<Arc<Hub>>,
}

impl Sent {
    pub(crate) fn new(hub: &Arc<Hub>, fate: connection::Sent) -> Sent {
        let is_pumped = hub.callbacks == Callbacks::Pump;
        Sent {
            fate,
            pumped: is_pumped.then(|| hub.clone()),
        }
    }

    /// Waits until the socket has taken the message.
    pub fn wait(self) -> Result<(), SendError> {
        self.wait_at_most(None)
    }

    /// Waits until the socket has taken the message, at most for `timeout`.
    pub fn wait_for(self, timeout: Duration) -> Result<(), SendError> {
        self.wait_at_most(Some(timeout))
    }

    fn wait_at_most(mut self, timeout: Option<Duration>) -> Result<(), SendError> {
        if let Some(hub) = self.pumped.take_if(|hub| hub.pumps_here()) {
            let fate = &mut self.fate;
            let waited = block_on(&hub, timeout, &mut |task| Pin::new(&mut *fate).poll(task));
            return waited.unwrap_or_else(|error| Err(as_send_error(error)));
        }
        match timeout {
            Some(timeout) => self.fate.wait_for(timeout),
            None => self.fate.wait(),
        }
    }

    /// Whether the fate is known, and which it is.
    pub fn try_result(&self) -> Option<Result<(), SendError>> {
        self.fate.try_result()
    }
}

impl Future for Sent {
    type Output = Result<(), SendError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Result<(), SendError>> {
        Pin::new(&mut self.fate).poll(task)
    }
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fate.fmt(f)
    }
}

fn as_send_error(error: WaitError) -> SendError {
    match error {
        WaitError::OnCoreThread => SendError::OnCoreThread,
        WaitError::TimedOut => SendError::TimedOut,
    }
}

/// To how many peers a message was handed, and for how many it was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Peers whose socket has taken the message.
    pub sent: usize,
    /// Peers that it did not reach: gone, with a full queue, or because it is too large for them.
    pub failed: usize,
}

/// The fate of a message to several peers: done when it is known for each of them.
#[must_use = "the messages are on their way, but whether they were sent only this tells"]
pub struct Broadcast {
    hub: Arc<Hub>,
    fates: Vec<(PeerId, Fate)>,
    /// So many of them, from the front, are known.
    known: usize,
    /// The message itself was refused: no peer was tried.
    refused: Option<SendError>,
}

enum Fate {
    Open(connection::Sent),
    Known(Result<(), SendError>),
}

impl Fate {
    fn poll(&mut self, task: &mut TaskContext<'_>) -> Poll<()> {
        if let Fate::Open(sent) = self {
            let Poll::Ready(result) = Pin::new(sent).poll(task) else {
                return Poll::Pending;
            };
            *self = Fate::Known(result);
        }
        Poll::Ready(())
    }
}

/// What has become of a message for each of the peers that it was for, in their order.
pub type EachResult = Vec<(PeerId, Result<(), SendError>)>;

impl Broadcast {
    pub(crate) fn new(hub: &Arc<Hub>, fates: Vec<(PeerId, connection::Sent)>) -> Broadcast {
        let fate = |sent: connection::Sent| match sent.try_result() {
            Some(result) => Fate::Known(result),
            None => Fate::Open(sent),
        };
        let fates = fates.into_iter().map(|(peer, sent)| (peer, fate(sent)));
        Broadcast {
            hub: hub.clone(),
            fates: fates.collect(),
            known: 0,
            refused: None,
        }
    }

    pub(crate) fn refused(hub: &Arc<Hub>, error: SendError) -> Broadcast {
        let mut broadcast = Broadcast::new(hub, Vec::new());
        broadcast.refused = Some(error);
        broadcast
    }

    /// The fate for each peer instead of how many it reached.
    pub fn each(self) -> Each {
        Each(self)
    }

    /// Waits until the fate is known for every peer. An error: the message itself is none that can be sent.
    pub fn wait(mut self) -> Result<Delivered, SendError> {
        self.wait_at_most(None)?;
        Ok(self.count())
    }

    /// Waits at most for `timeout`; those not known by then count as failed.
    pub fn wait_for(mut self, timeout: Duration) -> Result<Delivered, SendError> {
        self.wait_at_most(Some(timeout))?;
        Ok(self.count())
    }

    fn wait_at_most(&mut self, timeout: Option<Duration>) -> Result<(), SendError> {
        let hub = self.hub.clone();
        match block_on(&hub, timeout, &mut |task| self.poll_all(task)) {
            Ok(result) => result,
            Err(WaitError::TimedOut) => {
                self.look_once();
                Ok(())
            }
            Err(error) => Err(as_send_error(error)),
        }
    }

    /// Some behind one that is not known may be known.
    fn look_once(&mut self) {
        let mut task = TaskContext::from_waker(Waker::noop());
        for (_, fate) in &mut self.fates {
            let _ = fate.poll(&mut task);
        }
    }

    /// What is known; the rest counts as failed.
    fn count(&self) -> Delivered {
        let is_sent = |(_, fate): &&(PeerId, Fate)| matches!(fate, Fate::Known(Ok(())));
        let sent = self.fates.iter().filter(is_sent).count();
        Delivered {
            sent,
            failed: self.fates.len() - sent,
        }
    }

    fn take_each(&mut self) -> EachResult {
        let result = |fate| match fate {
            Fate::Known(result) => result,
            Fate::Open(_) => Err(SendError::TimedOut),
        };
        let fates = std::mem::take(&mut self.fates).into_iter();
        fates.map(|(peer, fate)| (peer, result(fate))).collect()
    }

    fn poll_all(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<(), SendError>> {
        if let Some(error) = self.refused.take() {
            return Poll::Ready(Err(error));
        }
        while let Some((_, fate)) = self.fates.get_mut(self.known) {
            if fate.poll(task).is_pending() {
                return Poll::Pending;
            }
            self.known += 1;
        }
        Poll::Ready(Ok(()))
    }
}

impl Future for Broadcast {
    type Output = Result<Delivered, SendError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let all = self.poll_all(task);
        all.map(|result| result.map(|()| self.count()))
    }
}

impl fmt::Debug for Broadcast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peers = self.fates.len();
        write!(f, "Broadcast({} of {peers} peers known)", self.known)
    }
}

/// The fate of a message to several peers, for each of them; made by [`Broadcast::each`].
#[must_use = "the messages are on their way, but whether they were sent only this tells"]
#[derive(Debug)]
pub struct Each(Broadcast);

impl Each {
    /// Waits until the fate is known for every peer. An error: the message itself is none that can be sent.
    pub fn wait(mut self) -> Result<EachResult, SendError> {
        self.0.wait_at_most(None)?;
        Ok(self.0.take_each())
    }

    /// Waits at most for `timeout`; those not known by then have [`SendError::TimedOut`].
    pub fn wait_for(mut self, timeout: Duration) -> Result<EachResult, SendError> {
        self.0.wait_at_most(Some(timeout))?;
        Ok(self.0.take_each())
    }
}

impl Future for Each {
    type Output = Result<EachResult, SendError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let all = self.0.poll_all(task);
        all.map(|result| result.map(|()| self.0.take_each()))
    }
}

/// Wakes a thread that waits for a future.
struct Bell {
    is_rung: AtomicBool,
    signal: Signal,
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Bell>) {
        self.is_rung.store(true, Ordering::Release);
        self.signal.notify();
    }
}

/// Waits for a future in the way of the node's runtime. A node whose callbacks run in the caller's loop is pumped
/// meanwhile, or the answer might wait for a message that nobody takes.
pub(crate) fn block_on<T>(
    hub: &Hub,
    timeout: Option<Duration>,
    poll: &mut dyn FnMut(&mut TaskContext<'_>) -> Poll<T>,
) -> Result<T, WaitError> {
    let bell = Arc::new(Bell {
        is_rung: AtomicBool::new(false),
        signal: Signal::default(),
    });
    let waker = Waker::from(bell.clone());
    let deadline = timeout.map(|timeout| hub.handle.clock().saturating_add(timeout));
    let pumps = hub.pumps_here();
    loop {
        bell.is_rung.store(false, Ordering::Release);
        if let Poll::Ready(value) = poll(&mut TaskContext::from_waker(&waker)) {
            return Ok(value);
        }
        if pumps {
            if hub.pump_waiting() > 0 {
                continue;
            }
            hub.wake_when_queued(&waker);
        }
        let rest = deadline.map(|deadline| deadline.saturating_sub(hub.handle.clock()));
        let mut ready = || bell.is_rung.load(Ordering::Acquire);
        hub.handle.wait(&bell.signal, &mut ready, rest)?;
    }
}
