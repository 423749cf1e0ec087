//! Requests of peers that wait for the program or the person at this node to answer them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mischief::json::{ErrorKind, RequestError};
use mischief::{Body, Kind, Node, Registration, Request, Responder, SendError};
use serde_json::Value;

/// What the fronts do with requests.
pub(crate) trait Tell: Send + Sync + 'static {
    /// A peer asks for something. May wait for room in the output, which holds the peer up.
    fn asked(&self, number: u64, request: &Request<'_>, data: &Value);
    /// A request that was told wants no answer any more. Must not wait.
    fn cancelled(&self, number: u64);
}

/// The types that are taken and the requests that wait.
pub(crate) struct Desk<T>(Arc<Shared<T>>);

struct Shared<T> {
    tell: T,
    taken: Mutex<BTreeMap<String, Registration>>,
    waiting: Mutex<Waiting>,
}

/// The node bounds how many requests are open, and each leaves when it wants no answer any more.
#[derive(Default)]
struct Waiting {
    last: u64,
    requests: BTreeMap<u64, Entry>,
}

struct Entry {
    responder: Responder,
    /// Whether it has been told; before that it is not told either that it is cancelled.
    is_told: bool,
}

impl<T> Clone for Desk<T> {
    fn clone(&self) -> Desk<T> {
        Desk(self.0.clone())
    }
}

impl<T: Tell> Desk<T> {
    pub(crate) fn new(tell: T) -> Desk<T> {
        Desk(Arc::new(Shared {
            tell,
            taken: Mutex::default(),
            waiting: Mutex::default(),
        }))
    }

    /// Takes requests of a type.
    pub(crate) fn handle(&self, node: &Node, kind: String) {
        let mut taken = lock(&self.0.taken);
        taken.entry(kind).or_insert_with_key(|kind| {
            let shared = self.0.clone();
            node.on_request_later(kind, move |request, responder| {
                shared.take(request, responder);
            })
        });
    }

    /// Takes requests of a type no more.
    pub(crate) fn unhandle(&self, kind: &str) -> Result<(), RequestError> {
        match lock(&self.0.taken).remove(kind) {
            Some(registration) => {
                registration.off();
                Ok(())
            }
            None => Err(gone("requests of this type are not taken")),
        }
    }

    /// Answers a request, when there is room for the answer.
    pub(crate) fn reply(
        &self,
        number: u64,
        data: &Value,
    ) -> Result<impl Future<Output = Result<(), RequestError>> + Send + use<T>, RequestError> {
        let responder = self.0.responder(number)?;
        let body = Body::json(data).map_err(|error| RequestError::of_kind("bad_request", error))?;
        Ok(async move {
            let sent = responder.reply_when_room(&body).await;
            sent.map_err(|error: SendError| RequestError::of_kind(error.kind(), error))
        })
    }

    /// Refuses a request.
    pub(crate) fn refuse(&self, number: u64, reason: &str) -> Result<(), RequestError> {
        self.0.responder(number)?.refuse(reason);
        Ok(())
    }
}

impl<T: Tell> Shared<T> {
    fn take(self: &Arc<Self>, request: &Request<'_>, responder: Responder) {
        let data = match (request.kind(), request.as_text()) {
            (Kind::Json, _) => request.to_json().map_err(|error| error.to_string()),
            (_, Some(text)) => Ok(Value::from(text)),
            _ => Err("the body is no JSON".to_owned()),
        };
        let data = match data {
            Ok(data) => data,
            Err(reason) => return responder.refuse(reason),
        };
        let number = {
            let mut waiting = lock(&self.waiting);
            waiting.last += 1;
            waiting.last
        };
        let shared = Arc::downgrade(self);
        responder.on_cancel(move || {
            if let Some(shared) = shared.upgrade() {
                shared.drop_if_told(number);
            }
        });
        let is_told = false;
        let entry = Entry { responder, is_told };
        lock(&self.waiting).requests.insert(number, entry);
        self.tell.asked(number, request, &data);
        // What was cancelled meanwhile is told only now, so that nobody hears of the end first.
        let mut waiting = lock(&self.waiting);
        if let Some(entry) = waiting.requests.get_mut(&number) {
            entry.is_told = true;
            if entry.responder.is_wanted() {
                return;
            }
            drop(waiting);
            self.drop_if_told(number);
        }
    }

    fn drop_if_told(&self, number: u64) {
        let mut waiting = lock(&self.waiting);
        let is_told = |entry: &&Entry| entry.is_told;
        if waiting.requests.get(&number).filter(is_told).is_none() {
            return;
        }
        let entry = waiting.requests.remove(&number);
        drop(waiting);
        drop(entry);
        self.tell.cancelled(number);
    }

    fn responder(&self, number: u64) -> Result<Responder, RequestError> {
        match lock(&self.waiting).requests.remove(&number) {
            Some(entry) if entry.responder.is_wanted() => Ok(entry.responder),
            _ => Err(gone("there is no such request, or not any more")),
        }
    }
}

fn gone(message: &str) -> RequestError {
    RequestError::new(ErrorKind::Gone, message)
}

/// Nothing that is locked here is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
