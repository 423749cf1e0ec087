//! Who is to be called with what.
//!
//! Handlers stand in a table that is never changed, only replaced. Whoever dispatches holds on to one table and looks at
//! one number to learn that there is a newer one, so a lookup takes no lock, and a handler may add and remove handlers.

use std::cell::OnceCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use mischief_actors::identity::PeerId;
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Message;
use super::dispatch::Hub;
use super::events::NodeEvent;
use super::json::{read_typed, read_value};
use super::requests::{Request, Responder};

/// Is called with a message that may turn out to be none for it: then it says `false`, before it has asked whether it is
/// to go on.
pub(crate) type OnJson = dyn Fn(&PeerId, &JsonBody<'_>, &dyn Fn() -> bool) -> bool + Send + Sync;
pub(crate) type OnText = dyn Fn(&PeerId, &str) + Send + Sync;
pub(crate) type OnBytes = dyn Fn(&PeerId, &[u8]) + Send + Sync;
pub(crate) type OnAny = dyn Fn(&PeerId, &Message<'_>) + Send + Sync;
pub(crate) type OnRequest = dyn Fn(&Request<'_>, Responder) + Send + Sync;
pub(crate) type OnEvent = dyn Fn(&NodeEvent) + Send + Sync;

/// The body of a JSON message, which is read once for all handlers that want a [`Value`].
pub(crate) struct JsonBody<'a> {
    body: &'a [u8],
    value_max: usize,
    value: OnceCell<Option<Value>>,
}

impl<'a> JsonBody<'a> {
    /// A value of it may take `value_max` bytes.
    pub(crate) fn new(body: &'a [u8], value_max: usize) -> JsonBody<'a> {
        JsonBody {
            body,
            value_max,
            value: OnceCell::new(),
        }
    }

    /// `None`: it is no JSON, nested too deeply, or would take too much memory.
    pub(crate) fn value(&self) -> Option<&Value> {
        let read = || read_value(self.body, self.value_max).ok();
        self.value.get_or_init(read).as_ref()
    }

    /// The same as a type of one's own.
    fn read<T: DeserializeOwned>(&self) -> Option<T> {
        read_typed(self.body).ok()
    }
}

/// A handler that was added to a node, by which it can be removed. Dropping this changes nothing: the handler stays.
#[derive(Debug)]
pub struct Registration {
    hub: Weak<Hub>,
    id: HandlerId,
}

impl Registration {
    pub(crate) fn new(hub: Weak<Hub>, id: HandlerId) -> Registration {
        Registration { hub, id }
    }

    /// Removes the handler. Once this returns it is not called again, unless another thread was just calling it.
    pub fn off(self) {
        self.remove();
    }

    /// Ties the handler to a scope: it is removed when the guard is dropped.
    pub fn guard(self) -> Guard {
        Guard(Some(self))
    }

    fn remove(&self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.handlers.remove(self.id);
        }
    }
}

/// Removes a handler when it is dropped.
#[derive(Debug)]
#[must_use = "the handler is removed as soon as its guard is dropped"]
pub struct Guard(Option<Registration>);

impl Guard {
    /// Lets the handler stay for as long as the node runs.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(registration) = &self.0 {
            registration.remove();
        }
    }
}

/// Names one handler of a node; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandlerId(u64);

pub(crate) struct Handler<F: ?Sized> {
    id: HandlerId,
    is_once: bool,
    is_off: AtomicBool,
    call: F,
}

type List<F> = Vec<Arc<Handler<F>>>;

/// All handlers at one moment, each list in the order in which they were added.
#[derive(Clone, Default)]
pub(crate) struct Table {
    /// Sorted by type.
    json: Vec<(Arc<str>, List<OnJson>)>,
    pub(crate) text: List<OnText>,
    pub(crate) bytes: List<OnBytes>,
    /// Of texts and bytes with a type, sorted by it.
    text_as: Vec<(Arc<str>, List<OnText>)>,
    bytes_as: Vec<(Arc<str>, List<OnBytes>)>,
    pub(crate) any: List<OnAny>,
    pub(crate) event: List<OnEvent>,
    /// Sorted by name.
    requests: Vec<(Arc<str>, List<OnRequest>)>,
}

impl Table {
    /// The handlers of a type of JSON messages. `hint` remembers where they were, because messages of one type come in
    /// runs.
    #[inline]
    pub(crate) fn json(&self, name: &str, hint: &mut usize) -> &[Arc<Handler<OnJson>>] {
        if let Some((held, list)) = self.json.get(*hint)
            && **held == *name
        {
            return list;
        }
        match self.place(name) {
            Ok(place) => {
                *hint = place;
                &self.json[place].1
            }
            Err(_) => &[],
        }
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        place(&self.json, name)
    }

    /// The handlers of a type of texts.
    pub(crate) fn text_as(&self, name: &str) -> &[Arc<Handler<OnText>>] {
        place(&self.text_as, name).map_or(&[], |found| &self.text_as[found].1)
    }

    /// The handlers of a type of bytes.
    pub(crate) fn bytes_as(&self, name: &str) -> &[Arc<Handler<OnBytes>>] {
        place(&self.bytes_as, name).map_or(&[], |found| &self.bytes_as[found].1)
    }

    /// Who answers requests for a name: the handler that was added last.
    pub(crate) fn request(&self, name: &str) -> Option<&Handler<OnRequest>> {
        let found = place(&self.requests, name).ok()?;
        self.requests[found].1.last().map(Arc::as_ref)
    }

    fn has_message_handlers(&self) -> bool {
        !(self.json.is_empty()
            && self.text.is_empty()
            && self.bytes.is_empty()
            && self.text_as.is_empty()
            && self.bytes_as.is_empty()
            && self.any.is_empty())
    }

    fn remove(&mut self, id: HandlerId) {
        fn without<F: ?Sized>(list: &mut List<F>, id: HandlerId) {
            if let Some(place) = list.iter().position(|handler| handler.id == id) {
                list.remove(place).is_off.store(true, Ordering::Relaxed);
            }
        }
        fn without_named<F: ?Sized>(lists: &mut Vec<(Arc<str>, List<F>)>, id: HandlerId) {
            lists.retain_mut(|(_, list)| {
                without(list, id);
                !list.is_empty()
            });
        }
        without_named(&mut self.json, id);
        without_named(&mut self.text_as, id);
        without_named(&mut self.bytes_as, id);
        without_named(&mut self.requests, id);
        without(&mut self.text, id);
        without(&mut self.bytes, id);
        without(&mut self.any, id);
        without(&mut self.event, id);
    }
}

fn place<F: ?Sized>(lists: &[(Arc<str>, List<F>)], name: &str) -> Result<usize, usize> {
    lists.binary_search_by(|(held, _)| (**held).cmp(name))
}

/// Adds a handler behind the others of its name.
fn add_named<F: ?Sized>(
    lists: &mut Vec<(Arc<str>, List<F>)>,
    name: &str,
    handler: Arc<Handler<F>>,
) {
    match place(lists, name) {
        Ok(place) => lists[place].1.push(handler),
        Err(place) => lists.insert(place, (Arc::from(name), vec![handler])),
    }
}

/// Removes all handlers of a name and tells how many there were.
fn remove_named<F: ?Sized>(lists: &mut Vec<(Arc<str>, List<F>)>, name: &str) -> usize {
    let Ok(place) = place(lists, name) else {
        return 0;
    };
    let (_, list) = lists.remove(place);
    for handler in &list {
        handler.is_off.store(true, Ordering::Relaxed);
    }
    list.len()
}

/// The registry of one node.
#[derive(Default)]
pub(crate) struct Handlers {
    /// Held by whoever changes the table; the next id.
    writing: Mutex<u64>,
    table: RwLock<Arc<Table>>,
    /// Rises with each change.
    generation: AtomicUsize,
    has_message_handlers: AtomicBool,
    has_request_handlers: AtomicBool,
    has_event_handlers: AtomicBool,
}

impl Handlers {
    pub(crate) fn add_json(
        &self,
        name: &str,
        is_once: bool,
        call: impl Fn(&PeerId, &Value) + Send + Sync + 'static,
    ) -> HandlerId {
        self.add_read(name, is_once, move |peer, body, goes_on| {
            let Some(value) = body.value() else {
                return false;
            };
            if goes_on() {
                call(peer, value);
            }
            true
        })
    }

    /// Adds a handler of JSON messages that have the shape of a `T`.
    pub(crate) fn add_typed<T: DeserializeOwned>(
        &self,
        name: &str,
        is_once: bool,
        call: impl Fn(&PeerId, T) + Send + Sync + 'static,
    ) -> HandlerId {
        self.add_read(name, is_once, move |peer, body, goes_on| {
            let Some(value) = body.read() else {
                return false;
            };
            if goes_on() {
                call(peer, value);
            }
            true
        })
    }

    fn add_read(
        &self,
        name: &str,
        is_once: bool,
        call: impl Fn(&PeerId, &JsonBody<'_>, &dyn Fn() -> bool) -> bool + Send + Sync + 'static,
    ) -> HandlerId {
        self.add(|table, id| add_named(&mut table.json, name, new_handler(id, is_once, call)))
    }

    pub(crate) fn add_request(
        &self,
        name: &str,
        call: impl Fn(&Request<'_>, Responder) + Send + Sync + 'static,
    ) -> HandlerId {
        self.add(|table, id| add_named(&mut table.requests, name, new_handler(id, false, call)))
    }

    /// Removes all handlers of requests for a name and tells how many there were.
    pub(crate) fn remove_requests(&self, name: &str) -> usize {
        self.change(|table, _| remove_named(&mut table.requests, name))
    }

    pub(crate) fn add_text(
        &self,
        is_once: bool,
        call: impl Fn(&PeerId, &str) + Send + Sync + 'static,
    ) -> HandlerId {
        self.add(|table, id| table.text.push(new_handler(id, is_once, call)))
    }

    pub(crate) fn add_bytes(
        &self,
        is_once: bool,
        call: impl Fn(&PeerId, &[u8]) + Send + Sync + 'static,
    ) -> HandlerId {
        self.add(|table, id| table.bytes.push(new_handler(id, is_once, call)))
    }

    /// Adds a handler of texts of a type.
    pub(crate) fn add_text_as(
        &self,
        name: &str,
        is_once: bool,
        call: impl Fn(&PeerId, &str) + Send + Sync + 'static,
    ) -> HandlerId {
        self.add(|table, id| add_named(&mut table.text_as, name, new_handler(id, is_once, call)))
    }

    /// Adds a handler of bytes of a type.
    pub(crate) fn add_bytes_as(
        &self,
        name: &str,
        is_once: bool,
        call: impl Fn(&PeerId, &[u8]) + Send + Sync + 'static,
    ) -> HandlerId {
        self.add(|table, id| add_named(&mut table.bytes_as, name, new_handler(id, is_once, call)))
    }

    pub(crate) fn add_any(
        &self,
        call: impl Fn(&PeerId, &Message<'_>) + Send + Sync + 'static,
    ) -> HandlerId {
        self.add(|table, id| table.any.push(new_handler(id, false, call)))
    }

    pub(crate) fn add_event(&self, call: impl Fn(&NodeEvent) + Send + Sync + 'static) -> HandlerId {
        self.add(|table, id| table.event.push(new_handler(id, false, call)))
    }

    pub(crate) fn remove(&self, id: HandlerId) {
        self.change(|table, _| table.remove(id));
    }

    /// Removes all handlers of a type of messages and tells how many there were.
    pub(crate) fn remove_named(&self, name: &str) -> usize {
        self.change(|table, _| {
            remove_named(&mut table.json, name)
                + remove_named(&mut table.text_as, name)
                + remove_named(&mut table.bytes_as, name)
        })
    }

    /// Removes everything, and with it what the handlers hold on to.
    pub(crate) fn clear(&self) {
        self.change(|table, _| *table = Table::default());
    }

    pub(crate) fn has_message_handlers(&self) -> bool {
        self.has_message_handlers.load(Ordering::Acquire)
    }

    pub(crate) fn has_request_handlers(&self) -> bool {
        self.has_request_handlers.load(Ordering::Acquire)
    }

    pub(crate) fn has_event_handlers(&self) -> bool {
        self.has_event_handlers.load(Ordering::Acquire)
    }

    /// A view of the newest table.
    pub(crate) fn snapshot(&self) -> Snapshot {
        // Read before the table: a change in between is then noticed at the next look.
        let generation = self.generation.load(Ordering::Acquire);
        Snapshot {
            table: self.table.read().clone(),
            generation,
        }
    }

    /// Calls a handler unless it is off or was called already. `false`: it panicked.
    #[inline]
    pub(crate) fn call<F: ?Sized>(&self, handler: &Handler<F>, run: impl FnOnce(&F)) -> bool {
        !self.claim(handler) || catch(|| run(&handler.call)).is_some()
    }

    /// Calls a handler of JSON messages unless it is off or was called already; one that is to be called once stays if the
    /// message is none for it. Whether the message was read, and `None` if the handler panicked.
    #[inline]
    pub(crate) fn call_json(
        &self,
        handler: &Handler<OnJson>,
        peer: &PeerId,
        body: &JsonBody<'_>,
    ) -> Option<bool> {
        catch(|| (handler.call)(peer, body, &|| self.claim(handler)))
    }

    /// Whether a handler is to be called now.
    #[inline]
    fn claim<F: ?Sized>(&self, handler: &Handler<F>) -> bool {
        if handler.is_off.load(Ordering::Relaxed) {
            return false;
        }
        if handler.is_once {
            if handler.is_off.swap(true, Ordering::Relaxed) {
                return false;
            }
            self.remove(handler.id);
        }
        true
    }

    fn add(&self, add: impl FnOnce(&mut Table, HandlerId)) -> HandlerId {
        self.change(|table, next_id| {
            let id = HandlerId(*next_id);
            *next_id += 1;
            add(table, id);
            id
        })
    }

    fn change<R>(&self, change: impl FnOnce(&mut Table, &mut u64) -> R) -> R {
        let mut next_id = self.writing.lock();
        let mut table = Table::clone(&self.table.read());
        let result = change(&mut table, &mut next_id);
        self.has_message_handlers
            .store(table.has_message_handlers(), Ordering::Release);
        self.has_request_handlers
            .store(!table.requests.is_empty(), Ordering::Release);
        self.has_event_handlers
            .store(!table.event.is_empty(), Ordering::Release);
        let old = std::mem::replace(&mut *self.table.write(), Arc::new(table));
        self.generation.fetch_add(1, Ordering::Release);
        drop(next_id);
        // Only now: with the table go the last handles to removed closures, whose own `Drop` may call the node.
        drop(old);
        result
    }
}

fn new_handler<F>(id: HandlerId, is_once: bool, call: F) -> Arc<Handler<F>> {
    Arc::new(Handler {
        id,
        is_once,
        is_off: AtomicBool::new(false),
        call,
    })
}

/// Runs a callback. `None`: it panicked.
#[inline]
fn catch<R>(run: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(run))
        .map_err(report_panic)
        .ok()
}

#[cold]
fn report_panic(payload: Box<dyn std::any::Any + Send>) {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of an unknown kind");
    log::error!("a callback panicked: {text}");
    // What is thrown may itself panic when it is dropped.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
}

/// A table that somebody dispatches with.
pub(crate) struct Snapshot {
    pub(crate) table: Arc<Table>,
    generation: usize,
}

impl Snapshot {
    /// Takes the newest table if this is not it. Costs one load when nothing has changed.
    #[inline]
    pub(crate) fn refresh(&mut self, handlers: &Handlers) {
        if self.generation != handlers.generation.load(Ordering::Acquire) {
            *self = handlers.snapshot();
        }
    }
}
