//! Where a program's threads and its connections meet over requests.
//!
//! Asking and answering take no detour through an actor: a thread opens its request here and writes it into the link of
//! the connection; a connection closes it here and hands the reply to the thread. So a request costs what two messages cost.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mischief_reactor::{ActorId, Answer, Handle, Instant, OneShot};
use parking_lot::Mutex;

use super::super::error::{FailureCode, RequestError};
use super::super::machine::{Event, Received, RequestLimits, RequestStats, Requests};
use super::super::message::{
    self, CHANNEL, HEADER_MAX, RequestId, RequestMessage, put_reply_head, put_request_head,
};
use crate::connection::{EncodeError, Kind, LINK_QUEUE_HIGH, Link, SendError, TYPE_NAME_MAX};
use crate::identity::PeerId;

/// Replies are taken while no more than this waits above the mark up to which messages and requests are. Whoever sends
/// messages can wait for room, but the answer is there when it is there, and an honest asker may have asked for much at once.
const REPLY_ABOVE: usize = 4 * LINK_QUEUE_HIGH;
/// Failures and cancellations are small, so they are taken even behind a reply of the usual limit that was taken whole just
/// below its mark. Who does not read those either learns of its requests by their deadlines.
const NOTICE_ABOVE: usize = REPLY_ABOVE + LINK_QUEUE_HIGH + LINK_QUEUE_HIGH / 2;

/// Bytes before the name of a request, and before the body of a reply.
const REQUEST_HEAD: usize = HEADER_MAX - TYPE_NAME_MAX;
const REPLY_HEAD: usize = 6;

/// A body and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What the body is.
    pub kind: Kind,
    /// The body.
    pub body: Vec<u8>,
}

/// What has become of a request.
pub type Outcome = Result<Reply, RequestError>;

/// A connection: of whom, and which.
type Way = (PeerId, ActorId);

type Asker = mischief_reactor::Reply<Outcome>;
type Watcher = Box<dyn FnOnce() + Send>;

/// Names a request that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    way: Way,
    id: RequestId,
}

/// A request from a peer that wants an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming<'a> {
    /// What the peer calls it.
    pub id: RequestId,
    /// What the body is.
    pub kind: Kind,
    /// What is asked for.
    pub name: &'a str,
    /// The body.
    pub body: &'a [u8],
}

/// The requests of one node, shared by all its threads.
pub struct Desk {
    handle: Handle,
    state: Mutex<State>,
}

struct State {
    machine: Requests<Way, Asker, Watcher>,
    /// The ways to those with an open request, which keeps a link from being made anew meanwhile.
    links: BTreeMap<Way, Arc<Link>>,
    /// The actor that watches the time, and until when it sleeps.
    watch: Option<ActorId>,
    wakes_at: Option<Instant>,
    is_poked: bool,
    /// Nothing is asked any more.
    is_closed: bool,
}

impl State {
    fn forget_idle(&mut self, way: Way) {
        if self.machine.is_idle(way) {
            self.links.remove(&way);
        }
    }
}

/// Appends what comes before the body of a request; [`Desk::ask`] completes it. Names have 1 to 128 bytes.
pub fn begin_request(out: &mut Vec<u8>, kind: Kind, name: &str) -> Result<(), EncodeError> {
    if !(1..=TYPE_NAME_MAX).contains(&name.len()) {
        return Err(EncodeError::Name(name.len()));
    }
    put_request_head(out, kind, name);
    Ok(())
}

/// Appends what comes before the body of a reply, for [`Desk::answer`].
pub fn begin_reply(out: &mut Vec<u8>, id: RequestId, kind: Kind) {
    put_reply_head(out, id, kind);
}

impl Desk {
    /// A desk without requests.
    pub fn new(handle: Handle, limits: RequestLimits) -> Desk {
        Desk {
            handle,
            state: Mutex::new(State {
                machine: Requests::new(limits),
                links: BTreeMap::new(),
                watch: None,
                wakes_at: None,
                is_poked: false,
                is_closed: false,
            }),
        }
    }

    /// The clock of the deadlines, which is the same for all threads.
    fn now(&self) -> Instant {
        Instant::ZERO + self.handle.clock()
    }

    // ---- asking

    /// Sends a request, encoded by [`begin_request`] and with its body behind, and gives its number and its outcome.
    pub fn ask(
        &self,
        link: &Arc<Link>,
        timeout: Duration,
        request: &mut [u8],
    ) -> Result<(OpenRequest, Answer<Outcome>), RequestError> {
        let name_bytes = usize::from(request[10]);
        check_size(link, request.len() - REQUEST_HEAD - name_bytes)?;
        let way = way_of(link);
        let (asker, answer) = OneShot::pair(&self.handle);
        let id = {
            let mut state = self.state.lock();
            // Seen with the desk locked: whoever says that the peer is gone takes the lock afterwards.
            if state.is_closed || link.is_muted() {
                return Err(RequestError::Gone(Arc::from("not connected")));
            }
            let asked = state.machine.ask(self.now(), way, timeout, asker);
            let (id, timeout_ms) = asked.map_err(|_| RequestError::Full)?;
            state.links.entry(way).or_insert_with(|| link.clone());
            message::set_request_id(request, id, timeout_ms);
            self.mind_deadline(&mut state);
            id
        };
        if let Err(error) = link.queue_channel(&self.handle, CHANNEL, request, 0) {
            self.forget(way, id);
            return Err(RequestError::from(error));
        }
        Ok((OpenRequest { way, id }, answer))
    }

    /// Nobody waits for this request any more: if it has no outcome yet, the peer is told.
    pub fn give_up(&self, request: OpenRequest) {
        let OpenRequest { way, id } = request;
        if let Some(link) = self.forget(way, id) {
            self.notify(&link, &RequestMessage::Cancel { id });
        }
    }

    /// Closes a request, and gives the way to its peer if it was open.
    fn forget(&self, way: Way, id: RequestId) -> Option<Arc<Link>> {
        let mut state = self.state.lock();
        let asker = state.machine.give_up(way, id)?;
        let link = state.links.get(&way).cloned();
        state.forget_idle(way);
        drop(state);
        // Only now: it may wake a task, which is foreign code and may itself ask.
        drop(asker);
        link
    }

    /// Has the actor look if it would sleep too long.
    fn mind_deadline(&self, state: &mut State) {
        let Some(deadline) = state.machine.poll_timeout() else {
            return;
        };
        let sleeps_on = state.wakes_at.is_none_or(|at| at > deadline);
        if let (Some(watch), true, false) = (state.watch, sleeps_on, state.is_poked) {
            state.is_poked = true;
            self.handle.poke(watch);
        }
    }

    // ---- answering

    /// Takes a message that came on [`CHANNEL`]. A request comes back, to be handled.
    pub fn receive<'a>(&self, link: &Arc<Link>, bytes: &'a [u8]) -> Option<Incoming<'a>> {
        let message = match RequestMessage::decode(bytes) {
            Ok(message) => message,
            Err(error) => {
                log::debug!("{}: {error}", link.peer().short());
                return None;
            }
        };
        let way = way_of(link);
        let received = {
            let mut state = self.state.lock();
            // What comes after the peer was announced as gone must not open anything.
            if state.is_closed || link.is_muted() {
                return None;
            }
            let received = state.machine.handle_message(self.now(), way, &message);
            if matches!(received, Received::Request) {
                state.links.entry(way).or_insert_with(|| link.clone());
                self.mind_deadline(&mut state);
            } else {
                state.forget_idle(way);
            }
            received
        };
        match (received, message) {
            (
                Received::Request,
                RequestMessage::Request {
                    id,
                    kind,
                    name,
                    body,
                    ..
                },
            ) => {
                return Some(Incoming {
                    id,
                    kind,
                    name,
                    body,
                });
            }
            (Received::Busy, RequestMessage::Request { id, .. }) => {
                // Whoever floods and does not read is not told.
                self.send_failure(link, id, FailureCode::Busy, "", 0);
            }
            (Received::Outcome(asker), RequestMessage::Reply { kind, body, .. }) => {
                let body = body.to_vec();
                asker.send(Ok(Reply { kind, body }));
            }
            (Received::Outcome(asker), RequestMessage::Failure { code, reason, .. }) => {
                asker.send(Err(RequestError::from_failure(code, reason)));
            }
            (Received::Cancelled(Some(watcher)), _) => watcher(),
            _ => {}
        }
        None
    }

    /// Answers a peer's request with what [`begin_reply`] began, and the body behind. An error: the answer was not sent, and
    /// the peer was told so. Nothing happens if nobody waits for it any more.
    pub fn answer(&self, link: &Arc<Link>, id: RequestId, reply: &[u8]) -> Result<(), SendError> {
        if !self.finish(link, id) {
            return Ok(());
        }
        let checked = check_size(link, reply.len().saturating_sub(REPLY_HEAD));
        let sent = checked.and_then(|()| {
            let queued = link.queue_channel(&self.handle, CHANNEL, reply, REPLY_ABOVE);
            queued.map(drop)
        });
        let code = match &sent {
            Ok(()) | Err(SendError::Gone(_)) => return sent,
            Err(SendError::Full) => FailureCode::Busy,
            Err(_) => FailureCode::TooLarge,
        };
        self.send_failure(link, id, code, "", NOTICE_ABOVE);
        sent
    }

    /// Answers as [`Desk::answer`] does while there is room for a message. With [`SendError::Full`] nothing was done, and the
    /// answer may be tried again.
    pub fn answer_if_room(
        &self,
        link: &Arc<Link>,
        id: RequestId,
        reply: &[u8],
    ) -> Result<(), SendError> {
        if !self.is_wanted(link, id) {
            return Ok(());
        }
        if check_size(link, reply.len().saturating_sub(REPLY_HEAD)).is_err() {
            // It never fits: the peer is told.
            return self.answer(link, id, reply);
        }
        // If the request is cancelled at this moment, its asker does not look at the answer.
        link.queue_channel(&self.handle, CHANNEL, reply, 0)?;
        self.finish(link, id);
        Ok(())
    }

    /// Tells a peer that its request gets no answer. Nothing happens if it does not wait for one any more.
    pub fn fail(&self, link: &Arc<Link>, id: RequestId, code: FailureCode, reason: &str) {
        if self.finish(link, id) {
            self.send_failure(link, id, code, reason, NOTICE_ABOVE);
        }
    }

    /// Whether a peer's request still wants an answer.
    pub fn is_wanted(&self, link: &Arc<Link>, id: RequestId) -> bool {
        self.state.lock().machine.is_wanted(way_of(link), id)
    }

    /// Calls `watcher` when a peer's request is wanted no more without having been answered; at once if that is so.
    pub fn watch(&self, link: &Arc<Link>, id: RequestId, watcher: impl FnOnce() + Send + 'static) {
        let watcher: Watcher = Box::new(watcher);
        let watched = self.state.lock().machine.watch(way_of(link), id, watcher);
        match watched {
            Ok(earlier) => drop(earlier),
            Err(watcher) => watcher(),
        }
    }

    fn finish(&self, link: &Arc<Link>, id: RequestId) -> bool {
        let way = way_of(link);
        let mut state = self.state.lock();
        let finished = state.machine.finish(way, id);
        state.forget_idle(way);
        drop(state);
        // Only now: what a watcher holds on to may itself be a responder.
        finished.map(drop).is_some()
    }

    fn send_failure(
        &self,
        link: &Link,
        id: RequestId,
        code: FailureCode,
        reason: &str,
        above: usize,
    ) {
        let mut bytes = Vec::new();
        RequestMessage::Failure { id, code, reason }.encode(&mut bytes);
        self.queue_notice(link, &bytes, above);
    }

    fn notify(&self, link: &Link, message: &RequestMessage<'_>) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.queue_notice(link, &bytes, NOTICE_ABOVE);
    }

    fn queue_notice(&self, link: &Link, bytes: &[u8], above: usize) {
        if let Err(error) = link.queue_channel(&self.handle, CHANNEL, bytes, above) {
            // The deadline tells the other side the same.
            log::debug!(
                "{} is not told about a request: {error}",
                link.peer().short()
            );
        }
    }

    // ---- what happens by itself

    /// A peer was announced as gone: what is open on its connections that are over gets no answer.
    pub fn peer_gone(&self, peer: PeerId) {
        let mut state = self.state.lock();
        let of_peer = state.links.range((peer, ActorId::NOBODY)..);
        let gone: Vec<Way> = of_peer
            .take_while(|((other, _), _)| *other == peer)
            .filter(|(_, link)| link.is_muted())
            .map(|(way, _)| *way)
            .collect();
        for way in gone {
            state.machine.handle_gone(way);
            state.links.remove(&way);
        }
        self.settle(state);
    }

    /// The node has stopped: nothing is answered any more.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        for way in std::mem::take(&mut state.links).into_keys() {
            state.machine.handle_gone(way);
        }
        self.settle(state);
    }

    pub(super) fn set_watch(&self, actor: ActorId) {
        self.state.lock().watch = Some(actor);
    }

    /// Ends what is over, and tells after what time to look again.
    pub(super) fn look_around(&self) -> Option<Duration> {
        let now = self.now();
        let mut state = self.state.lock();
        state.is_poked = false;
        state.machine.handle_timeout(now);
        let next = state.machine.poll_timeout();
        state.wakes_at = next;
        self.settle(state);
        next.map(|at| at.saturating_duration_since(now))
    }

    /// Tells everybody what has happened, with the desk free for what they do then.
    fn settle(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        let (mut ended, mut overdue, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(event) = state.machine.poll_event() {
            match event {
                Event::TimedOut { peer, id, asker } => {
                    ended.push((asker, RequestError::TimedOut));
                    overdue.extend(state.links.get(&peer).map(|link| (link.clone(), id)));
                }
                Event::Gone { asker } => {
                    let reason = match state.is_closed {
                        true => "the node has stopped",
                        false => "its connection ended",
                    };
                    ended.push((asker, RequestError::Gone(Arc::from(reason))));
                }
                Event::Dropped { watcher } => dropped.extend(watcher),
            }
        }
        let mut idle: Vec<Way> = state.links.keys().copied().collect();
        idle.retain(|way| state.machine.is_idle(*way));
        for way in idle {
            state.links.remove(&way);
        }
        drop(state);
        for (asker, error) in ended {
            asker.send(Err(error));
        }
        for (link, id) in overdue {
            self.notify(&link, &RequestMessage::Cancel { id });
        }
        for watcher in dropped {
            watcher();
        }
    }

    /// Requests that are open: ours, and those of peers.
    pub fn open(&self) -> (usize, usize) {
        self.state.lock().machine.open()
    }

    /// What was counted.
    pub fn stats(&self) -> RequestStats {
        self.state.lock().machine.stats()
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (asked, answering) = self.open();
        write!(f, "Desk({asked} asked, {answering} answering)")
    }
}

fn way_of(link: &Link) -> Way {
    (*link.peer(), link.connection())
}

/// The limit counts the body alone.
fn check_size(link: &Link, size: usize) -> Result<(), SendError> {
    let max = link.message_max() as usize;
    if size > max {
        return Err(SendError::TooLarge { size, max });
    }
    Ok(())
}
