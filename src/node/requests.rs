//! Requests: asking a peer and waiting for what it says, and answering what peers ask.

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use mischief_actors::connection::{Kind, Link, SendError};
use mischief_actors::identity::PeerId;
use mischief_actors::messages::actor::{Desk, OpenRequest, Reply, begin_reply, begin_request};
use mischief_actors::messages::{FailureCode, RequestError, RequestId};
use mischief_reactor::OneShot;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Node;
use super::dispatch::Hub;
use super::handlers::Registration;
use super::json::{read_typed, read_value, value_max};
use super::outgoing::{room_on, with_scratch, write_json};
use super::pending::Pending;

/// What a handler's side says when the duty to answer was dropped.
const NO_ANSWER: &str = "the handler gave no answer";

/// The body of a request or of its answer, and what it is: a JSON value, a text or bytes.
#[derive(Clone)]
pub struct Body {
    reply: Reply,
    /// Bytes that a value of it may take.
    value_max: usize,
}

impl Body {
    /// A JSON value.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Body, BadBody> {
        let mut body = Vec::new();
        write_json(&mut body, value).map_err(|error| BadBody(error.to_string()))?;
        Ok(Body::new(Kind::Json, body))
    }

    /// A text.
    pub fn text(text: impl Into<String>) -> Body {
        Body::new(Kind::Text, text.into().into_bytes())
    }

    /// Bytes.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Body {
        Body::new(Kind::Bytes, bytes.into())
    }

    fn new(kind: Kind, body: Vec<u8>) -> Body {
        Body {
            reply: Reply { kind, body },
            value_max: usize::MAX,
        }
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.reply.kind
    }

    /// The JSON value.
    pub fn to_json(&self) -> Result<Value, BadBody> {
        to_json(self.kind(), self.as_bytes(), self.value_max)
    }

    /// The JSON value as a type of one's own.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, BadBody> {
        parse(self.reply.kind, &self.reply.body)
    }

    /// The text; `None` if it is none.
    pub fn as_text(&self) -> Option<&str> {
        text(self.reply.kind, &self.reply.body)
    }

    /// The bytes as they were sent, whatever they are.
    pub fn as_bytes(&self) -> &[u8] {
        &self.reply.body
    }

    /// The bytes as they were sent, whatever they are.
    pub fn into_bytes(self) -> Vec<u8> {
        self.reply.body
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Body) -> bool {
        self.reply == other.reply
    }
}

impl Eq for Body {}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Body({:?}, {} bytes)",
            self.reply.kind,
            self.reply.body.len()
        )
    }
}

/// A body is not what it was taken for: no JSON, JSON of another shape, or no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadBody(String);

impl From<BadBody> for RequestError {
    fn from(error: BadBody) -> RequestError {
        RequestError::BadBody(Arc::from(error.0))
    }
}

fn parse<T: DeserializeOwned>(kind: Kind, body: &[u8]) -> Result<T, BadBody> {
    if kind != Kind::Json {
        return Err(BadBody("the body is no JSON".to_owned()));
    }
    read_typed(body).map_err(|error| BadBody(error.to_string()))
}

fn to_json(kind: Kind, body: &[u8], value_max: usize) -> Result<Value, BadBody> {
    if kind != Kind::Json {
        return Err(BadBody("the body is no JSON".to_owned()));
    }
    read_value(body, value_max).map_err(|error| BadBody(error.to_string()))
}

fn text(kind: Kind, body: &[u8]) -> Option<&str> {
    match kind {
        Kind::Text => std::str::from_utf8(body).ok(),
        _ => None,
    }
}

/// A request of a peer, as its handler gets it. It is borrowed: what is needed later is to be copied.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    peer: &'a PeerId,
    name: &'a str,
    kind: Kind,
    body: &'a [u8],
    value_max: usize,
}

impl<'a> Request<'a> {
    pub(crate) fn new(
        peer: &'a PeerId,
        name: &'a str,
        kind: Kind,
        body: &'a [u8],
        value_max: usize,
    ) -> Request<'a> {
        Request {
            peer,
            name,
            kind,
            body,
            value_max,
        }
    }

    /// Who asks: the authenticated peer at the other end of the connection, whatever the request says.
    pub fn peer(&self) -> &'a PeerId {
        self.peer
    }

    /// What is asked for.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// What the body is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The JSON value of the body. One that would take more than a quarter of the node's memory is refused before it is
    /// built.
    pub fn to_json(&self) -> Result<Value, BadBody> {
        to_json(self.kind, self.body, self.value_max)
    }

    /// The JSON value of the body as a type of one's own.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, BadBody> {
        parse(self.kind, self.body)
    }

    /// The text of the body; `None` if it is none.
    pub fn as_text(&self) -> Option<&'a str> {
        text(self.kind, self.body)
    }

    /// The body as it was sent, whatever it is.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.body
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request { peer, name, .. } = self;
        let bytes = self.body.len();
        write!(f, "Request({name:?} of {}, {bytes} bytes)", peer.short())
    }
}

/// Why a handler gives no answer, for the people on the asker's side. It is cut to 200 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(String);

impl Refusal {
    /// A refusal for this reason.
    pub fn new(reason: impl Into<String>) -> Refusal {
        Refusal(reason.into())
    }

    /// The reason.
    pub fn reason(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Refusal {
    fn from(reason: &str) -> Refusal {
        Refusal::new(reason)
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Refusal {
        Refusal::new(reason)
    }
}

impl From<BadBody> for Refusal {
    fn from(error: BadBody) -> Refusal {
        Refusal(error.0)
    }
}

/// The duty to answer a request, which may be carried to another thread. Dropped, it refuses; dropped by a panic, it tells
/// the asker that the handler failed.
#[must_use = "a request whose responder is dropped is refused"]
pub struct Responder {
    hub: Arc<Hub>,
    link: Arc<Link>,
    id: RequestId,
    is_done: bool,
}

impl Responder {
    pub(crate) fn new(hub: Arc<Hub>, link: &Arc<Link>, id: RequestId) -> Responder {
        Responder {
            hub,
            link: link.clone(),
            id,
            is_done: false,
        }
    }

    /// Who asks.
    pub fn peer(&self) -> &PeerId {
        self.link.peer()
    }

    /// Answers. Nothing happens if nobody waits for the answer any more. An error: the answer could not be sent because it
    /// is larger than the peer takes, or about 5 MiB wait for the peer already; the asker is told so.
    /// [`Responder::reply_when_room`] waits instead.
    pub fn reply(mut self, body: &Body) -> Result<(), SendError> {
        with_scratch(|scratch| {
            begin_reply(scratch, self.id, body.reply.kind);
            scratch.extend_from_slice(&body.reply.body);
            self.finish(scratch)
        })
    }

    /// Answers with a JSON value, as [`Responder::reply`] does. A value that is no JSON refuses.
    pub fn reply_json<T: Serialize + ?Sized>(mut self, value: &T) -> Result<(), SendError> {
        let done = with_scratch(|scratch| {
            begin_reply(scratch, self.id, Kind::Json);
            write_json(scratch, value)?;
            self.finish(scratch)
        });
        if let Err(error @ SendError::BadValue(_)) = &done {
            self.refuse(error.to_string());
        }
        done
    }

    fn finish(&mut self, reply: &[u8]) -> Result<(), SendError> {
        self.is_done = true;
        self.hub.desk.answer(&self.link, self.id, reply)
    }

    /// Refuses.
    pub fn refuse(self, reason: impl Into<Refusal>) {
        self.fail(FailureCode::Refused, reason.into().reason());
    }

    fn fail(mut self, code: FailureCode, reason: &str) {
        self.is_done = true;
        self.hub.desk.fail(&self.link, self.id, code, reason);
    }

    /// Answers as soon as less than 1 MiB waits for the peer, in any executor. So whoever answers with much is held up by a
    /// peer that reads slowly, and not refused. It ends as well when nobody waits for the answer any more, for which it takes
    /// the place of [`Responder::on_cancel`]. An error: the answer is too large for the peer, or the peer is gone. Dropped
    /// before it is done, this refuses.
    pub async fn reply_when_room(mut self, body: &Body) -> Result<(), SendError> {
        let (cancel, mut cancelled) = OneShot::pair(&self.hub.handle);
        self.on_cancel(move || cancel.send(()));
        loop {
            let mut room = room_on(&self.hub, &self.link);
            poll_fn(|task| match Pin::new(&mut cancelled).poll(task) {
                Poll::Ready(_) => Poll::Ready(Ok(())),
                Poll::Pending => Pin::new(&mut room).poll(task),
            })
            .await?;
            let sent = with_scratch(|scratch| {
                begin_reply(scratch, self.id, body.reply.kind);
                scratch.extend_from_slice(&body.reply.body);
                self.hub.desk.answer_if_room(&self.link, self.id, scratch)
            });
            // Another may have been faster.
            if sent != Err(SendError::Full) {
                self.is_done = true;
                return sent;
            }
        }
    }

    /// Whether somebody still waits for the answer.
    pub fn is_wanted(&self) -> bool {
        self.hub.desk.is_wanted(&self.link, self.id)
    }

    /// Calls `call` once if nobody waits for the answer any more before it was given: the asker gave up, its time is over, or
    /// it is gone. At once if that is so already. It is called on a thread of the node, which it must not hold up. A later
    /// call of this takes the place of an earlier one.
    pub fn on_cancel(&self, call: impl FnOnce() + Send + 'static) {
        self.hub.desk.watch(&self.link, self.id, move || {
            if catch_unwind(AssertUnwindSafe(call)).is_err() {
                log::error!("a callback for a cancelled request panicked");
            }
        });
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let (code, reason) = match std::thread::panicking() {
            true => (FailureCode::HandlerFailed, ""),
            false => (FailureCode::Refused, NO_ANSWER),
        };
        self.hub.desk.fail(&self.link, self.id, code, reason);
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Responder({:?} of {})", self.id, self.peer().short())
    }
}

/// A request that was sent: await its answer in any executor, wait for it, or look whether it is there. It always has an
/// outcome by its deadline. Dropped before, it is called off, and the peer is told.
#[must_use = "a request is called off when this is dropped"]
pub struct Requested {
    pending: Pending<Reply, RequestError>,
    open: Open,
    value_max: usize,
}

/// Calls a request off when it is dropped.
struct Open(Option<(Arc<Desk>, OpenRequest)>);

impl Drop for Open {
    fn drop(&mut self) {
        if let Some((desk, request)) = self.0.take() {
            desk.give_up(request);
        }
    }
}

impl Requested {
    /// Waits for the answer.
    pub fn wait(self) -> Result<Body, RequestError> {
        let value_max = self.value_max;
        let Requested {
            pending, mut open, ..
        } = self;
        let outcome = pending.wait();
        open.close_after(&outcome);
        outcome.map(|reply| Body { reply, value_max })
    }

    /// Waits for the answer at most for `timeout`, and then calls the request off.
    pub fn wait_for(self, timeout: Duration) -> Result<Body, RequestError> {
        let value_max = self.value_max;
        let Requested {
            pending, mut open, ..
        } = self;
        let outcome = pending.wait_for(timeout);
        open.close_after(&outcome);
        outcome.map(|reply| Body { reply, value_max })
    }

    /// The answer if it is there already; it is given out once.
    pub fn try_take(&mut self) -> Option<Result<Body, RequestError>> {
        let outcome = self.pending.try_take()?;
        Some(self.outcome(outcome))
    }
}

impl Requested {
    fn outcome(&mut self, outcome: Result<Reply, RequestError>) -> Result<Body, RequestError> {
        self.open.close_after(&outcome);
        let value_max = self.value_max;
        outcome.map(|reply| Body { reply, value_max })
    }
}

impl Open {
    /// What has its outcome need not be called off. Giving up the wait is none.
    fn close_after(&mut self, outcome: &Result<Reply, RequestError>) {
        if !matches!(
            outcome,
            Err(RequestError::TimedOut | RequestError::OnCoreThread)
        ) {
            self.0 = None;
        }
    }
}

impl Future for Requested {
    type Output = Result<Body, RequestError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let outcome = Pin::new(&mut self.pending).poll(task);
        outcome.map(|outcome| self.outcome(outcome))
    }
}

impl fmt::Debug for Requested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Requested")
    }
}

impl Hub {
    fn request(
        self: &Arc<Hub>,
        peer: &PeerId,
        kind: Kind,
        name: &str,
        timeout: Duration,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), SendError>,
    ) -> Requested {
        let asked = with_scratch(|scratch| {
            begin_request(scratch, kind, name)?;
            write(scratch)?;
            let link = self.link_to(peer)?;
            self.desk.ask(&link, timeout, scratch)
        });
        let value_max = value_max(self.handle.memory());
        match asked {
            Ok((request, answer)) => Requested {
                value_max,
                pending: Pending::asked(self, answer),
                open: Open(Some((self.desk.clone(), request))),
            },
            Err(error) => Requested {
                value_max,
                pending: Pending::known(self, Err(error)),
                open: Open(None),
            },
        }
    }
}

impl Node {
    /// Asks a peer for `name`, of 1 to 128 bytes, with a JSON value, and gives what the peer answers. `timeout` is the time
    /// for all of it, between a millisecond and an hour; shorter and longer ones are brought there.
    ///
    /// A request keeps its place among the messages to the same peer. At most 256 may be open to one peer and 4,096 to all.
    /// A peer whose handlers do not wait for room keeps about 5 MiB of answers that are on their way; what would be more is
    /// [`RequestError::Busy`].
    pub fn request<T: Serialize + ?Sized>(
        &self,
        peer: &PeerId,
        name: &str,
        value: &T,
        timeout: Duration,
    ) -> Requested {
        self.hub().request(peer, Kind::Json, name, timeout, |out| {
            write_json(out, value)
        })
    }

    /// Asks with a body of any kind, otherwise like [`Node::request`].
    pub fn request_with(
        &self,
        peer: &PeerId,
        name: &str,
        body: &Body,
        timeout: Duration,
    ) -> Requested {
        self.hub()
            .request(peer, body.reply.kind, name, timeout, |out| {
                out.extend_from_slice(&body.reply.body);
                Ok(())
            })
    }

    /// Answers requests for `name` with what `handler` returns. Of several handlers of one name the one that was added last
    /// answers. One that panics fails its request, and the asker is told.
    pub fn on_request(
        &self,
        name: &str,
        handler: impl Fn(&Request<'_>) -> Result<Body, Refusal> + Send + Sync + 'static,
    ) -> Registration {
        self.on_request_later(name, move |request, responder| match handler(request) {
            Ok(body) => note(responder.reply(&body)),
            Err(refusal) => responder.refuse(refusal),
        })
    }

    /// Answers requests for `name` whose body is the JSON of a `T` with the JSON of an `R`. Other bodies are refused.
    pub fn on_request_typed<T: DeserializeOwned, R: Serialize>(
        &self,
        name: &str,
        handler: impl Fn(&PeerId, T) -> Result<R, Refusal> + Send + Sync + 'static,
    ) -> Registration {
        self.on_request_later(name, move |request, responder| {
            let value = request.parse().map_err(Refusal::from);
            match value.and_then(|value| handler(request.peer(), value)) {
                Ok(value) => note(responder.reply_json(&value)),
                Err(refusal) => responder.refuse(refusal),
            }
        })
    }

    /// Hands requests for `name` to `handler`, together with the duty to answer: now, or later from any thread.
    pub fn on_request_later(
        &self,
        name: &str,
        handler: impl Fn(&Request<'_>, Responder) + Send + Sync + 'static,
    ) -> Registration {
        let id = self.hub().handlers.add_request(name, handler);
        self.registration(id)
    }

    /// Removes all handlers of requests for `name` and tells how many there were.
    pub fn off_request(&self, name: &str) -> usize {
        self.hub().handlers.remove_requests(name)
    }
}

/// The asker has been told; the handler has returned and cannot be.
fn note(sent: Result<(), SendError>) {
    if let Err(error) = sent {
        log::debug!("an answer was not sent: {error}");
    }
}
