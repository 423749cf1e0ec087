//! Where a connection and the threads outside meet: one small piece of locked memory for each announced peer with which
//! something has been exchanged of late. [`Links`] makes them when they are needed and takes them back.
//!
//! A message to a connection costs a mailbox slot and an allocation; at millions of small messages a second that is most
//! of the work. So outside threads encode their records straight into the link, under its lock, and the connection takes
//! the whole buffer at once; the same for the credit of consumed messages. One poke is under way at a time.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use mischief_reactor::io::memory::{MemoryBudget, MemoryKind, MemoryShare};
use mischief_reactor::{ActorId, Answer, AskError, Handle, OneShot, Reply};
use parking_lot::Mutex;

use super::reassembly::SPARE_BYTES_MAX;
use super::record::{
    ChannelMessage, EncodeError, Encoded, Kind, LargeMessage, RECORD_BYTES_MAX, Records,
    counted_bytes,
};
use crate::identity::PeerId;

/// Bytes of encoded records that may wait in a link: [`Link::queue`] takes a message whole while fewer wait.
pub const LINK_QUEUE_HIGH: usize = 1 << 20;

/// Senders that wait for room on one link. One more is told [`SendError::Full`] at once.
pub const ROOM_WAITERS_MAX: usize = 1024;

/// Why a message was not handed to the socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The peer is not connected, or its connection ended before the message was handed to the socket.
    #[error("the peer is gone: {0}")]
    Gone(Arc<str>),
    /// The queue to the peer is above its high mark, or the node's memory is tight. Wait for room and send again.
    #[error("the queue to the peer is full")]
    Full,
    /// The body is larger than the peer accepts.
    #[error("a message of {size} bytes is larger than the {max} that the peer accepts")]
    TooLarge {
        /// Bytes of the body.
        size: usize,
        /// Bytes accepted.
        max: usize,
    },
    /// The message cannot be put on the wire, whoever the peer is.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The value cannot be written as JSON.
    #[error("the value is no JSON: {0}")]
    BadValue(Arc<str>),
    /// A core thread must not wait.
    #[error("a core thread must not wait")]
    OnCoreThread,
    /// The time allowed for waiting was over.
    #[error("timed out waiting for the socket to take the message")]
    TimedOut,
}

impl SendError {
    /// The stable name of this error in the machine interface.
    pub fn kind(&self) -> &'static str {
        match self {
            SendError::Gone(_) => "gone",
            SendError::Full => "full",
            SendError::TooLarge { .. } => "too_large",
            SendError::Encode(EncodeError::Body(_)) => "too_large",
            SendError::Encode(_) | SendError::BadValue(_) => "bad_request",
            SendError::OnCoreThread => "internal",
            SendError::TimedOut => "timeout",
        }
    }
}

/// What a handle and a connection share of one announced peer.
pub struct Link {
    peer: PeerId,
    connection: ActorId,
    is_muted: AtomicBool,
    /// Largest body that may be sent. Apart from the rest so that the connection can look at it without the lock.
    message_max: AtomicU32,
    state: Mutex<State>,
}

struct State {
    is_poked: bool,
    /// Why nothing more is taken, once that is so.
    closed: Option<Arc<str>>,
    /// Nothing more is written either.
    is_over: bool,
    /// Credit of consumed messages that the connection has not taken yet.
    consumed: u32,
    buffer: Option<Box<Buffer>>,
}

struct Buffer {
    records: Encoded,
    /// The memory of the records, and of what is spare.
    share: MemoryShare,
    /// Bytes of records ever queued, and how many of them the socket has taken.
    queued: u64,
    sent: u64,
    /// In rising order: who wants to know when the socket has taken how many bytes.
    waiting: std::collections::VecDeque<(u64, Reply<Result<(), SendError>>)>,
    room: Vec<Reply<Result<(), SendError>>>,
    /// Of a large message that was received and is done with; empty, or for the next one.
    spare: Vec<u8>,
}

impl Buffer {
    fn new(memory: &Arc<MemoryBudget>) -> Box<Buffer> {
        Box::new(Buffer {
            records: Encoded::new(),
            share: MemoryShare::new(memory, MemoryKind::Sending),
            queued: 0,
            sent: 0,
            waiting: std::collections::VecDeque::new(),
            room: Vec::new(),
            spare: Vec::new(),
        })
    }

    /// Has the node's accounting know of the memory that is held.
    #[inline]
    fn count(&mut self) {
        self.share
            .set(self.records.heap_bytes() + self.spare.capacity());
    }

    /// Whether nothing would be lost with it.
    fn is_unused(&self) -> bool {
        self.queued == 0 && self.waiting.is_empty() && self.room.is_empty()
    }
}

/// What a message takes.
struct Size {
    /// Bytes of its body.
    size: usize,
    /// How many of them are copied into memory of the node.
    copied: usize,
    /// It is taken while fewer bytes than this wait.
    high: usize,
}

impl Size {
    /// A message whose whole body is copied.
    #[inline]
    fn copied(size: usize) -> Size {
        Size {
            size,
            copied: size,
            high: LINK_QUEUE_HIGH,
        }
    }
}

impl Link {
    /// The link of a connection that is about to be announced.
    pub fn new(peer: PeerId, connection: ActorId, message_max: u32) -> Arc<Link> {
        Arc::new(Link {
            peer,
            connection,
            is_muted: AtomicBool::new(false),
            message_max: AtomicU32::new(message_max),
            state: Mutex::new(State {
                is_poked: false,
                closed: None,
                is_over: false,
                consumed: 0,
                buffer: None,
            }),
        })
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// The connection actor.
    pub fn connection(&self) -> ActorId {
        self.connection
    }

    /// The peer has been announced as gone: what its connection still delivers is to be dropped.
    pub fn mute(&self) {
        self.is_muted.store(true, Ordering::Release);
    }

    /// Whether [`Link::mute`] was called.
    pub fn is_muted(&self) -> bool {
        self.is_muted.load(Ordering::Acquire)
    }

    /// Why the connection ended, if it has.
    pub fn closed(&self) -> Option<Arc<str>> {
        self.state.lock().closed.clone()
    }

    /// Queues a message, whole or not at all, and gives the place after it, for [`Sent`].
    #[inline]
    pub fn queue(
        &self,
        handle: &Handle,
        kind: Kind,
        name: &str,
        body: &[u8],
    ) -> Result<u64, SendError> {
        let size = Size::copied(body.len());
        self.push(handle, size, |records| records.push(kind, name, body))
    }

    /// Queues a message as [`Link::queue`] does. A large body is not copied: the connection holds it until all of it is
    /// packed into frames.
    pub fn queue_shared(
        &self,
        handle: &Handle,
        kind: Kind,
        name: &str,
        body: &Arc<[u8]>,
    ) -> Result<u64, SendError> {
        let size = Size {
            copied: body.len().min(RECORD_BYTES_MAX),
            ..Size::copied(body.len())
        };
        self.push(handle, size, |records| {
            records.push_shared(kind, name, body)
        })
    }

    /// Queues a subsystem's message in order with the application's. `above`: bytes beyond [`LINK_QUEUE_HIGH`] up to which
    /// it is taken, for what has to come through behind a full queue.
    pub fn queue_channel(
        &self,
        handle: &Handle,
        channel: u8,
        body: &[u8],
        above: usize,
    ) -> Result<u64, SendError> {
        let size = Size {
            high: LINK_QUEUE_HIGH + above,
            ..Size::copied(counted_bytes(body.len()))
        };
        self.push(handle, size, |records| records.push_channel(channel, body))
    }

    #[inline]
    fn push(
        &self,
        handle: &Handle,
        size: Size,
        push: impl FnOnce(&mut Encoded) -> Result<(), EncodeError>,
    ) -> Result<u64, SendError> {
        let Size { size, copied, high } = size;
        let mut state = self.state.lock();
        if let Some(reason) = &state.closed {
            return Err(SendError::Gone(reason.clone()));
        }
        let (max, memory) = (self.message_max() as usize, handle.memory());
        if size > max || copied > memory.tight_from() {
            let max = max.min(memory.tight_from());
            return Err(SendError::TooLarge { size, max });
        }
        let buffer = state.buffer.get_or_insert_with(|| Buffer::new(memory));
        let before = buffer.records.len();
        if before >= high || memory.is_tight() {
            return Err(SendError::Full);
        }
        push(&mut buffer.records)?;
        buffer.queued += (buffer.records.len() - before) as u64;
        buffer.count();
        let end = buffer.queued;
        self.poke(handle, &mut state);
        Ok(end)
    }

    /// Gives credit back for `bytes` of consumed messages.
    pub fn consumed(&self, handle: &Handle, bytes: usize) {
        let mut state = self.state.lock();
        state.consumed = state
            .consumed
            .saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.poke(handle, &mut state);
    }

    /// Gives credit back for a large message that is done with, and its memory for the next one.
    pub fn consumed_large(&self, handle: &Handle, message: LargeMessage) {
        let mut state = self.state.lock();
        state.consumed = state.consumed.saturating_add(message.credit);
        if !state.is_over && message.bytes.capacity() <= SPARE_BYTES_MAX {
            let buffer = state
                .buffer
                .get_or_insert_with(|| Buffer::new(handle.memory()));
            buffer.spare = message.bytes;
            buffer.count();
        }
        self.poke(handle, &mut state);
    }

    fn poke(&self, handle: &Handle, state: &mut State) {
        if !std::mem::replace(&mut state.is_poked, true) {
            handle.poke(self.connection);
        }
    }

    /// The place after everything that was queued so far, for [`Sent`].
    pub fn end(&self) -> Result<u64, SendError> {
        let state = self.state.lock();
        match &state.closed {
            Some(reason) => Err(SendError::Gone(reason.clone())),
            None => Ok(state.buffer.as_ref().map_or(0, |buffer| buffer.queued)),
        }
    }

    /// Bytes of records that wait for the connection to take them.
    pub fn waiting(&self) -> usize {
        let state = self.state.lock();
        state
            .buffer
            .as_ref()
            .map_or(0, |buffer| buffer.records.len())
    }

    /// Tells when there is room in the queue, which does not promise that nobody else takes it. `None`: there is now.
    pub fn when_room(
        &self,
        handle: &Handle,
    ) -> Result<Option<Answer<Result<(), SendError>>>, SendError> {
        let mut state = self.state.lock();
        if let Some(reason) = &state.closed {
            return Err(SendError::Gone(reason.clone()));
        }
        let full = |buffer: &&mut Box<Buffer>| buffer.records.len() >= LINK_QUEUE_HIGH;
        if let Some(buffer) = state.buffer.as_mut().filter(full) {
            if buffer.room.len() >= ROOM_WAITERS_MAX {
                return Err(SendError::Full);
            }
            let (reply, answer) = OneShot::pair(handle);
            buffer.room.push(reply);
            return Ok(Some(answer));
        }
        drop(state);
        if !handle.memory().is_tight() {
            return Ok(None);
        }
        let (reply, answer) = OneShot::pair(handle);
        handle.memory().when_loose(|| reply.send(Ok(())));
        Ok(Some(answer))
    }

    /// Waits until there is room in the queue, which does not promise that nobody else takes it.
    pub fn wait_for_room(&self, handle: &Handle, timeout: Duration) -> Result<(), SendError> {
        match self.when_room(handle)? {
            None => Ok(()),
            Some(answer) => answer
                .wait_for(timeout)
                .unwrap_or_else(|error| Err(SendError::from(error))),
        }
    }

    // ---- the connection's side

    /// What outside threads have left: credit, and if `with_records` the queued records in exchange for `spare`,
    /// an empty buffer.
    pub fn take(&self, with_records: bool, spare: &mut Encoded) -> Taken {
        let mut state = self.state.lock();
        state.is_poked = false;
        let consumed = std::mem::take(&mut state.consumed);
        let mut is_left = false;
        let mut room = Vec::new();
        let mut memory = Vec::new();
        if let Some(buffer) = &mut state.buffer {
            memory = std::mem::take(&mut buffer.spare);
            if with_records {
                std::mem::swap(&mut buffer.records, spare);
                room = std::mem::take(&mut buffer.room);
            }
            is_left = !buffer.records.is_empty();
            buffer.count();
        }
        if state
            .buffer
            .as_ref()
            .is_some_and(|buffer| buffer.is_unused())
        {
            state.buffer = None;
        }
        drop(state);
        for reply in room {
            reply.send(Ok(()));
        }
        Taken {
            consumed,
            is_left,
            memory,
        }
    }

    /// Notes that the socket has taken all but the last `unsent` bytes of what the connection took.
    pub fn mark_sent(&self, unsent: usize) {
        let mut state = self.state.lock();
        if state.is_over {
            return;
        }
        let Some(buffer) = &mut state.buffer else {
            return;
        };
        buffer.sent = buffer.queued - (buffer.records.len() + unsent) as u64;
        let mut done = smallvec::SmallVec::<[_; 4]>::new();
        while buffer
            .waiting
            .front()
            .is_some_and(|(end, _)| *end <= buffer.sent)
        {
            done.extend(buffer.waiting.pop_front());
        }
        drop(state);
        for (_, reply) in done {
            reply.send(Ok(()));
        }
    }

    /// Frees what an idle link need not hold. Call it now and then, not per message.
    pub fn release(&self) {
        let mut state = self.state.lock();
        if let Some(buffer) = &mut state.buffer
            && buffer.records.is_empty()
        {
            buffer.records = Encoded::new();
            buffer.count();
        }
    }

    /// Whether nothing waits in it, of messages or of credit, and nobody for it.
    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        let buffer = state.buffer.as_ref();
        !state.is_poked
            && state.consumed == 0
            && buffer.is_none_or(|buffer| {
                buffer.records.is_empty() && buffer.waiting.is_empty() && buffer.room.is_empty()
            })
    }

    /// The largest body that may be sent.
    pub fn message_max(&self) -> u32 {
        self.message_max.load(Ordering::Relaxed)
    }

    /// Sets the largest body that may be sent.
    pub fn set_message_max(&self, max: u32) {
        self.message_max.store(max, Ordering::Relaxed);
    }

    /// The connection takes nothing more, but goes on to write what it has: only whoever waits for room is told.
    pub fn shut(&self, reason: Arc<str>) {
        let mut state = self.state.lock();
        let reason = state.closed.get_or_insert(reason).clone();
        let room = match &mut state.buffer {
            Some(buffer) => std::mem::take(&mut buffer.room),
            None => Vec::new(),
        };
        drop(state);
        for reply in room {
            reply.send(Err(SendError::Gone(reason.clone())));
        }
    }

    /// The connection has ended: whoever waits is told why. What has been sent stays sent.
    pub fn close(&self, reason: Arc<str>) {
        self.shut(reason);
        let mut state = self.state.lock();
        state.is_over = true;
        let reason = state.gone();
        let waiting = match &mut state.buffer {
            Some(buffer) => {
                buffer.records = Encoded::new();
                buffer.spare = Vec::new();
                buffer.count();
                std::mem::take(&mut buffer.waiting)
            }
            None => return,
        };
        drop(state);
        for (_, reply) in waiting {
            reply.send(Err(reason.clone()));
        }
    }

    fn is_sent(&self, end: u64) -> Option<Result<(), SendError>> {
        self.state.lock().fate(end)
    }

    fn when_sent(&self, handle: &Handle, end: u64) -> Answer<Result<(), SendError>> {
        let (reply, answer) = OneShot::pair(handle);
        let mut state = self.state.lock();
        match (state.fate(end), &mut state.buffer) {
            (None, Some(buffer)) => {
                let place = buffer.waiting.partition_point(|(other, _)| *other <= end);
                buffer.waiting.insert(place, (end, reply));
            }
            (fate, _) => reply.send(fate.unwrap_or(Ok(()))),
        }
        answer
    }
}

impl State {
    /// What has become of everything up to `end`; `None` while that is open.
    fn fate(&self, end: u64) -> Option<Result<(), SendError>> {
        let sent = self.buffer.as_ref().map_or(0, |buffer| buffer.sent);
        if sent >= end {
            return Some(Ok(()));
        }
        self.is_over.then(|| Err(self.gone()))
    }

    fn gone(&self) -> SendError {
        let reason = self.closed.clone();
        SendError::Gone(reason.unwrap_or_else(|| Arc::from("closed")))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({} by {})", self.peer.short(), self.connection)
    }
}

/// What [`Link::take`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// Bytes of credit.
    pub consumed: u32,
    /// Records are waiting that were not taken.
    pub is_left: bool,
    /// Memory of a large message that is done with, for [`Connection::recycle`](super::Connection::recycle). Often none.
    pub memory: Vec<u8>,
}

impl From<AskError> for SendError {
    fn from(error: AskError) -> SendError {
        match error {
            AskError::OnCoreThread => SendError::OnCoreThread,
            AskError::TimedOut { .. } => SendError::TimedOut,
            error => SendError::Gone(Arc::from(error.to_string())),
        }
    }
}

/// The fate of one message: done when it has been handed to the socket. A future of any executor that can also be
/// waited for; dropping it changes nothing.
#[must_use = "the message is on its way, but whether it was sent only this tells"]
pub struct Sent(Progress);

enum Progress {
    Over(Option<Result<(), SendError>>),
    Queued {
        link: Arc<Link>,
        handle: Handle,
        end: u64,
    },
    Waiting(Answer<Result<(), SendError>>),
}

impl Sent {
    /// The fate of a message queued up to `end`.
    pub fn queued(link: Arc<Link>, handle: Handle, end: u64) -> Sent {
        Sent(Progress::Queued { link, handle, end })
    }

    /// A message whose fate is known already.
    pub fn over(result: Result<(), SendError>) -> Sent {
        Sent(Progress::Over(Some(result)))
    }

    /// Waits until the socket has taken the message.
    pub fn wait(self) -> Result<(), SendError> {
        self.wait_at_most(None)
    }

    /// Waits until the socket has taken the message, at most for `timeout`.
    pub fn wait_for(self, timeout: Duration) -> Result<(), SendError> {
        self.wait_at_most(Some(timeout))
    }

    fn wait_at_most(self, timeout: Option<Duration>) -> Result<(), SendError> {
        let answer = match self.0 {
            Progress::Over(result) => return result.unwrap_or(Ok(())),
            Progress::Queued { link, handle, end } => {
                if let Some(result) = link.is_sent(end) {
                    return result;
                }
                link.when_sent(&handle, end)
            }
            Progress::Waiting(answer) => answer,
        };
        let answer = match timeout {
            Some(timeout) => answer.wait_for(timeout),
            None => answer.wait(),
        };
        answer.unwrap_or_else(|error| Err(SendError::from(error)))
    }

    /// Whether the fate is known, and which it is.
    pub fn try_result(&self) -> Option<Result<(), SendError>> {
        match &self.0 {
            Progress::Over(result) => result.clone(),
            Progress::Queued { link, end, .. } => link.is_sent(*end),
            Progress::Waiting(_) => None,
        }
    }
}

impl Future for Sent {
    type Output = Result<(), SendError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.0 {
                Progress::Over(result) => return Poll::Ready(result.take().unwrap_or(Ok(()))),
                Progress::Queued { link, handle, end } => {
                    let answer = link.when_sent(handle, *end);
                    self.0 = Progress::Waiting(answer);
                }
                Progress::Waiting(answer) => {
                    return Pin::new(answer)
                        .poll(task)
                        .map(|answer| answer.unwrap_or_else(|error| Err(SendError::from(error))));
                }
            }
        }
    }
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sent({:?})", self.try_result())
    }
}

/// Where the links of a node's connections stand. One is made only when there is something to say.
pub trait Links: Send + Sync {
    /// The link of an announced connection, made if there is none. `None`: the connection is no peer's, or no longer.
    fn open(&self, connection: ActorId) -> Option<Arc<Link>>;

    /// The link of a connection, if one was made.
    fn find(&self, connection: ActorId) -> Option<Arc<Link>>;

    /// Makes no link for a connection any more. The one that was made is for the caller to [`shut`](Link::shut) or
    /// [`close`](Link::close).
    fn close(&self, connection: ActorId) -> Option<Arc<Link>>;

    /// Takes a link back that is idle and that nobody else holds; gives it back if that is not so.
    fn release(&self, link: Arc<Link>) -> Option<Arc<Link>>;

    /// Sets the largest body that may be sent on a connection.
    fn set_message_max(&self, connection: ActorId, max: u32);
}

/// Where a connection puts the messages it has received: called on a core thread, so it must not wait.
pub trait Deliver: Send + Sync {
    /// A run of whole messages. Their bytes hold credit until [`Link::consumed`].
    fn records(&self, link: &Arc<Link>, records: Records<'_>);

    /// Something went wrong that nobody asked for, in words for people.
    fn failed(&self, message: &str);

    /// A message that came in several records. It is to be given to [`Link::consumed_large`].
    fn large(&self, link: &Arc<Link>, message: LargeMessage);

    /// A subsystem's message. Its credit is to be given back with [`Link::consumed`].
    fn channel(&self, link: &Arc<Link>, message: ChannelMessage<'_>);
}
