//! One go of calling callbacks.

use std::sync::Arc;

use mischief_actors::connection::{Kind, LargeMessage, Link, Message as Wire, Records};
use mischief_actors::identity::PeerId;
use mischief_actors::messages::FailureCode;
use mischief_actors::messages::actor::Incoming;
use mischief_reactor::io::memory::MemoryKind;

use super::Message;
use super::dispatch::{CREDIT_STEP, Hub, Tally};
use super::events::NodeEvent;
use super::handlers::{JsonBody, Snapshot};
use super::json::value_max;
use super::requests::{Request, Responder};

/// One go of calling callbacks.
pub(crate) struct Run<'a> {
    hub: &'a Hub,
    snapshot: Snapshot,
    /// Where the handlers of the last JSON message stood.
    hint: usize,
    pub(crate) tally: Tally,
    pub(crate) count: usize,
}

impl<'a> Run<'a> {
    pub(crate) fn new(hub: &'a Hub) -> Run<'a> {
        Run {
            hub,
            snapshot: hub.handlers.snapshot(),
            hint: 0,
            tally: Tally::default(),
            count: 0,
        }
    }

    pub(crate) fn records(&mut self, link: &Arc<Link>, bytes: &[u8], is_counted: bool) {
        let mut credit = 0;
        let mut rest = bytes.len();
        for message in Records::new(bytes) {
            credit += message.credit as usize;
            self.message(link.peer(), message);
            if credit >= CREDIT_STEP {
                rest -= credit;
                self.give_back(link, std::mem::take(&mut credit), is_counted);
            }
        }
        // All of it, even if the rest should not be records.
        self.give_back(link, rest, is_counted);
    }

    fn give_back(&self, link: &Link, credit: usize, is_counted: bool) {
        if credit == 0 {
            return;
        }
        if is_counted {
            self.hub.handle.memory().give(MemoryKind::Payloads, credit);
        }
        link.consumed(&self.hub.handle, credit);
    }

    pub(crate) fn large(&mut self, link: &Link, message: LargeMessage, is_counted: bool) {
        self.message(link.peer(), message.message());
        if is_counted {
            let bytes = message.message().body.len();
            self.hub.handle.memory().give(MemoryKind::Payloads, bytes);
        }
        link.consumed_large(&self.hub.handle, message);
    }

    #[inline]
    fn message(&mut self, peer: &PeerId, message: Wire<'_>) {
        self.snapshot.refresh(&self.hub.handlers);
        self.count += 1;
        match message.kind {
            Kind::Bytes => self.bytes(peer, message.name, message.body),
            Kind::Text => self.text(peer, message.name, message.body),
            Kind::Json => self.json(peer, message.name, message.body),
        }
    }

    #[inline]
    fn bytes(&mut self, peer: &PeerId, name: &str, bytes: &[u8]) {
        let (handlers, table) = (&self.hub.handlers, &*self.snapshot.table);
        let of_type = match name.is_empty() {
            true => &[],
            false => table.bytes_as(name),
        };
        if of_type.is_empty() && table.bytes.is_empty() && table.any.is_empty() {
            self.tally.unhandled += 1;
            return;
        }
        self.tally.handled += 1;
        for handler in of_type.iter().chain(&table.bytes) {
            let is_well = handlers.call(handler, |call| call(peer, bytes));
            self.tally.panics += u64::from(!is_well);
        }
        if !table.any.is_empty() {
            self.any(peer, &Message::Bytes(bytes));
        }
    }

    fn text(&mut self, peer: &PeerId, name: &str, body: &[u8]) {
        let (handlers, table) = (&self.hub.handlers, &*self.snapshot.table);
        let of_type = table.text_as(name);
        if of_type.is_empty() && table.text.is_empty() && table.any.is_empty() {
            self.tally.unhandled += 1;
            return;
        }
        let Ok(text) = std::str::from_utf8(body) else {
            self.tally.malformed += 1;
            return;
        };
        self.tally.handled += 1;
        for handler in of_type.iter().chain(&table.text) {
            let is_well = handlers.call(handler, |call| call(peer, text));
            self.tally.panics += u64::from(!is_well);
        }
        if !table.any.is_empty() {
            self.any(peer, &Message::Text(text));
        }
    }

    fn json(&mut self, peer: &PeerId, name: &str, body: &[u8]) {
        let (handlers, table) = (&self.hub.handlers, &*self.snapshot.table);
        let of_type = table.json(name, &mut self.hint);
        if of_type.is_empty() && table.any.is_empty() {
            self.tally.unhandled += 1;
            return;
        }
        let body = JsonBody::new(body, value_max(self.hub.handle.memory()));
        let mut is_read = false;
        for handler in of_type {
            match handlers.call_json(handler, peer, &body) {
                Some(read) => is_read |= read,
                None => {
                    is_read = true;
                    self.tally.panics += 1;
                }
            }
        }
        if !table.any.is_empty()
            && let Some(value) = body.value()
        {
            is_read = true;
            self.any(peer, &Message::Json { name, value });
        }
        match is_read {
            true => self.tally.handled += 1,
            false => self.tally.malformed += 1,
        }
    }

    pub(crate) fn request(&mut self, link: &Arc<Link>, incoming: &Incoming<'_>) {
        self.snapshot.refresh(&self.hub.handlers);
        self.count += 1;
        let Incoming {
            id,
            kind,
            name,
            body,
        } = *incoming;
        let (desk, table) = (&self.hub.desk, &*self.snapshot.table);
        let Some(handler) = table.request(name) else {
            self.tally.unhandled += 1;
            return desk.fail(link, id, FailureCode::NoHandler, "");
        };
        // It may have been called off while it waited.
        if !desk.is_wanted(link, id) {
            return;
        }
        self.tally.handled += 1;
        let Some(hub) = self.hub.weak().upgrade() else {
            return;
        };
        let responder = Responder::new(hub, link, id);
        let value_max = value_max(self.hub.handle.memory());
        let request = Request::new(link.peer(), name, kind, body, value_max);
        let is_well = self
            .hub
            .handlers
            .call(handler, |call| call(&request, responder));
        self.tally.panics += u64::from(!is_well);
    }

    fn any(&mut self, peer: &PeerId, message: &Message<'_>) {
        let (handlers, table) = (&self.hub.handlers, &*self.snapshot.table);
        for handler in &table.any {
            let is_well = handlers.call(handler, |call| call(peer, message));
            self.tally.panics += u64::from(!is_well);
        }
    }

    pub(crate) fn event(&mut self, event: &NodeEvent) {
        self.snapshot.refresh(&self.hub.handlers);
        self.count += 1;
        let (handlers, table) = (&self.hub.handlers, &*self.snapshot.table);
        for handler in &table.event {
            let is_well = handlers.call(handler, |call| call(event));
            self.tally.panics += u64::from(!is_well);
        }
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.hub.tally.lock().add(self.tally);
    }
}
