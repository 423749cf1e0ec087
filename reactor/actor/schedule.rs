//! Sending and handling messages.

use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cell::{NONE, State};
use super::core::{BATCH_SIZE, Core, Owed, PendingAsk, TimerKind};
use super::lifecycle::panic_text;
use super::reply::{AskId, Reply};
use super::shared::{Remote, System, TrySendError};
use super::slot::{Lane, MessageVtable, Slot};
use super::{ActorId, AskError, Event, Failure, Message, StopReason};
use crate::io::wheel::TimerId;
use crate::time::Instant;

/// Messages between two readings of the clock, roughly. All that may come between fit what a core remembers.
const GROUP: u32 = 128;

/// Groups that are timed message by message after a stall without a clear culprit.
const PRECISE_GROUPS: u32 = 10_000;

/// Actors that wait for room in one mailbox before those among them are looked for that have ended.
const ASKERS_SWEPT: usize = 1024;

/// Types named when a stall has no clear culprit.
const SUSPECTS_MAX: usize = 4;

/// Whether a message may go to another core.
enum Admission {
    Granted,
    Full,
    Stopped,
}

/// What a message that is being made has been counted as.
struct Counted<'a> {
    remote: &'a Remote,
    to: ActorId,
    bytes: u32,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.remote.gauges.get(self.to.index()).give(1, self.bytes);
    }
}

impl Core {
    /// Queues a message for an actor of any core.
    #[inline(always)]
    pub(crate) fn send<M: Message>(
        &mut self,
        to: ActorId,
        message: M,
    ) -> Result<(), TrySendError<M>> {
        self.send_converted::<M, M>(to, message)
    }

    /// Queues `message` as an `M`. Room is looked for before the conversion, so that what comes back is unchanged.
    ///
    /// Inlined into the handler that sends, so that the message is made where it will stand in the queue. A copy on the
    /// way, read in larger steps than it has just been written in, would cost as much as all the rest.
    #[inline(always)]
    pub(crate) fn send_converted<M: Message + From<N>, N: Message>(
        &mut self,
        to: ActorId,
        message: N,
    ) -> Result<(), TrySendError<N>> {
        if to.core() != self.index {
            let bytes = Slot::bytes_of::<M>(message.heap_bytes());
            return match self.admit_remote(to, bytes) {
                Admission::Granted => {
                    let message = self.convert_admitted(to, bytes, message);
                    self.put_remote::<M>(to, message, bytes);
                    Ok(())
                }
                Admission::Full => Err(TrySendError::Full(message)),
                Admission::Stopped => Err(TrySendError::Stopped(message)),
            };
        }
        let Some(cell) = self.cells.get_mut(to.index()) else {
            return Err(TrySendError::Stopped(message));
        };
        if cell.generation != to.generation() || cell.state == State::Free {
            return Err(TrySendError::Stopped(message));
        }
        let bytes = Slot::bytes_of::<M>(message.heap_bytes());
        if cell.room == 0 || !self.queue.has_room() {
            return Err(TrySendError::Full(message));
        }
        // One message larger than the bound passes when nothing else waits, or it could never be sent.
        if bytes > 0
            && cell.queued_bytes > 0
            && cell.queued_bytes.saturating_add(bytes)
                > cell.limits(self.shared.limits.mailbox).bytes
        {
            return Err(TrySendError::Full(message));
        }
        let message = M::from(message);
        cell.room -= 1;
        if cell.room < cell.room_min {
            cell.room_min = cell.room;
        }
        if bytes > 0 {
            cell.queued_bytes = cell.queued_bytes.saturating_add(bytes);
            self.queued_bytes += bytes as isize;
        }
        // SAFETY: there was room above, and the conversion does not reach the queue.
        unsafe { self.queue.push_new(to, message, bytes) };
        Ok(())
    }

    /// Counts a message for another core's actor if there is room for it, and has a place for it in the outbox.
    #[inline(never)]
    fn admit_remote(&mut self, to: ActorId, bytes: u32) -> Admission {
        let core = usize::from(to.core());
        let Some(remote) = self.shared.cores.get(core).filter(|core| !core.is_gone()) else {
            return Admission::Stopped;
        };
        let outbox = &mut self.outboxes[core];
        if outbox.len() >= self.shared.limits.outbox_max
            || !remote.take_gauge(to, bytes, &self.shared.limits)
        {
            return Admission::Full;
        }
        outbox.reserve(1);
        Admission::Granted
    }

    /// The conversion is foreign code. If it panics, what was counted has to be given back.
    #[inline(always)]
    fn convert_admitted<M: From<N>, N>(&mut self, to: ActorId, bytes: u32, message: N) -> M {
        let remote = &self.shared.cores[usize::from(to.core())];
        let counted = Counted { remote, to, bytes };
        let message = M::from(message);
        std::mem::forget(counted);
        message
    }

    /// Puts an admitted message into the outbox.
    #[inline(always)]
    fn put_remote<M: Message>(&mut self, to: ActorId, message: M, bytes: u32) {
        let outbox = &mut self.outboxes[usize::from(to.core())];
        if outbox.len() == outbox.capacity() {
            outbox.reserve(1);
        }
        let len = outbox.len();
        // SAFETY: the vector has room for one more, which is written whole before it counts.
        unsafe {
            let place = outbox.as_mut_ptr().add(len);
            Slot::write(place, to, message, bytes, Lane::Remote);
            outbox.set_len(len + 1);
        }
        // Counted by the sender's core and discounted by the receiver's: only their sum has a meaning.
        self.queued_bytes += bytes as isize;
        if (len + 1).is_multiple_of(BATCH_SIZE) {
            self.flush_outbox(usize::from(to.core()));
        }
    }

    /// Handles messages up to the turn's budget.
    pub(crate) fn run_messages(&mut self) {
        let mut left = self.shared.limits.turn_messages;
        while left > 0 && !self.queue.is_empty() {
            let done = self.run_some(left.min(self.clock_left));
            left -= done;
            self.clock_left -= done;
            if self.clock_left == 0 {
                self.read_clock();
            }
            // Answers to the questions of these very messages may be here already.
            if self.remote().has_mail() || !self.system.is_empty() || !self.starting.is_empty() {
                if self.handled > 0 {
                    // What follows has its own time taken.
                    self.read_clock();
                }
                self.collect_mail();
                self.drain_system();
            }
        }
        if self.handled > 0 {
            self.read_clock();
        }
    }

    /// Reads the clock between messages: about once in [`GROUP`], and then once more after the message that follows,
    /// whose time stands for all since the last such sample.
    fn read_clock(&mut self) {
        let now = self.driver.now();
        let took = now.saturating_duration_since(self.now);
        let handled = std::mem::take(&mut self.handled);
        self.now = now;
        if took >= self.shared.limits.stall {
            self.blame(handled, took);
        }
        if self.is_sampling {
            self.is_sampling = false;
            if handled == 1 {
                let weight = self.unsampled + 1;
                if let Some((id, _)) = self.queue.remembered(1) {
                    self.add_busy(id, took * weight);
                }
                self.unsampled = 0;
            }
        } else {
            self.unsampled = self.unsampled.saturating_add(handled);
        }
        self.precise_groups = self.precise_groups.saturating_sub(1);
        self.clock_left = if self.precise_groups > 0 {
            1
        } else if self.unsampled >= GROUP / 2 {
            self.is_sampling = true;
            1
        } else {
            // Which message is timed must not follow any pattern of the traffic.
            self.sample = self
                .sample
                .wrapping_mul(0x9E37_79B1)
                .wrapping_add(0x85EB_CA6B);
            GROUP / 2 + (self.sample >> 16) % GROUP
        };
    }

    pub(crate) fn add_busy(&mut self, id: ActorId, busy: Duration) {
        let micros = u32::try_from(busy.as_nanos().div_ceil(1000)).unwrap_or(u32::MAX);
        if let Some(cell) = self.cell_mut(id) {
            cell.busy_us = cell.busy_us.wrapping_add(micros);
        }
    }

    /// Handles up to `count` messages; fewer when the queue is empty or the system lane has something.
    fn run_some(&mut self, count: u32) -> u32 {
        let first = self.queue.taken();
        let last = first.wrapping_add(count as usize);
        while !self.queue.is_empty() && self.queue.taken() != last {
            match catch_unwind(AssertUnwindSafe(|| self.deliver_until(last))) {
                Ok(None) => {}
                Ok(Some((id, reason))) => self.fail_on_message(id, reason),
                Err(panic) => {
                    let (id, _) = self
                        .queue
                        .remembered(1)
                        .expect("a handler panicked, whose message was taken out before");
                    self.fail_on_message(id, StopReason::Panicked(panic_text(&*panic)));
                }
            }
            if !self.system.is_empty() {
                break;
            }
        }
        let done = self.queue.taken().wrapping_sub(first) as u32;
        self.handled += done;
        self.stats.messages = self.stats.messages.wrapping_add(done);
        self.did_work = true;
        done
    }

    /// Delivers messages until the queue counts `last`, one fails, there are no more or the system lane has something.
    fn deliver_until(&mut self, last: usize) -> Option<(ActorId, StopReason)> {
        while self.queue.taken() != last {
            let place = self.queue.first()?;
            // SAFETY: the first message of the queue stands there, and nothing is put into the queue meanwhile.
            let slot = unsafe { place.as_ref() };
            let (id, vtable) = (slot.to, slot.vtable);
            // The common case, which moves the message once: out of the queue into the handler.
            let failed = if slot.is_plain()
                && let Some(cell) = self.cells.get_mut(id.index())
                && cell.is_open_to(id.generation())
                && let Some(actor) = cell.actor
                && std::ptr::eq(vtable, actor.vtable().message)
            {
                cell.messages = cell.messages.wrapping_add(1);
                cell.room += 1;
                // SAFETY: the queue has a first message. The actor lives in its cell; this runs from the scheduler only,
                // never from within a call; the message's type was compared with the actor's, and it is moved out of
                // its place before anything else can use that.
                let result = unsafe {
                    self.queue.advance();
                    actor.handle(&raw const (*place.as_ptr()).data, self, id)
                };
                match result {
                    Ok(()) => None,
                    Err(failure) => Some(failed(id, failure)),
                }
            } else {
                self.queue.pop().and_then(|slot| self.deliver(slot))
            };
            if failed.is_some() {
                return failed;
            }
            if !self.system.is_empty() {
                return None;
            }
        }
        None
    }

    /// Hands one message to its actor, whatever there is to do besides.
    fn deliver(&mut self, slot: Slot) -> Option<(ActorId, StopReason)> {
        let id = slot.to;
        match self.cells.get(id.index()) {
            Some(cell) if cell.generation == id.generation() => match cell.state {
                State::Running | State::Draining | State::Closing => {}
                State::Starting => {
                    if let Some(failed) = self.start(id) {
                        self.park(slot);
                        return Some(failed);
                    }
                }
                State::Restarting => {
                    self.park(slot);
                    return None;
                }
                State::Free => {
                    self.lose(slot);
                    return None;
                }
            },
            _ => {
                self.lose(slot);
                return None;
            }
        }
        self.discount(&slot);
        let cell = &mut self.cells[id.index()];
        if slot.lane == Lane::Local {
            cell.room += 1;
            cell.queued_bytes = cell.queued_bytes.saturating_sub(slot.bytes);
        }
        let actor = cell.actor?;
        // An address of another runtime may fit an actor of another type.
        if !slot.vtable.is(actor.vtable().message) {
            self.undeliverable(slot);
            return None;
        }
        cell.messages = cell.messages.wrapping_add(1);
        if cell.has_askers {
            self.tell_askers(id.index(), false);
        }
        let slot = ManuallyDrop::new(slot);
        // SAFETY: the cell is alive, so its actor is; `deliver` runs from the scheduler only, never from within a
        // call; the slot's type was compared with the actor's above, and the slot is not dropped.
        let result = unsafe { actor.handle(&slot.data, self, id) };
        result.err().map(|failure| failed(id, failure))
    }

    /// Takes a message off what this core and the actor's remote gauge count.
    #[inline]
    fn discount(&mut self, slot: &Slot) {
        if slot.lane != Lane::System {
            self.queued_bytes -= slot.bytes as isize;
        }
        if slot.lane == Lane::Remote {
            self.owe(slot.to.index(), slot.bytes);
        }
    }

    /// Drops a message from the run-queue whose actor has ended.
    pub(crate) fn lose(&mut self, slot: Slot) {
        self.discount(&slot);
        self.undeliverable(slot);
    }

    /// Keeps a message for an actor that is being made anew. It goes on to count as waiting.
    fn park(&mut self, slot: Slot) {
        match self.cell_mut(slot.to) {
            Some(cell) => cell.extras().parked.push(slot),
            None => self.lose(slot),
        }
    }

    /// Puts parked messages before everything else that waits, as they came before it.
    pub(crate) fn unpark(&mut self, parked: Vec<Slot>) {
        for slot in parked.into_iter().rev() {
            self.queue.push_front(slot);
        }
    }

    /// Drops a message that nobody can be given and that is counted nowhere any more.
    pub(crate) fn undeliverable(&mut self, slot: Slot) {
        self.stats.undeliverable = self.stats.undeliverable.wrapping_add(1);
        self.shared.undeliverable.fetch_add(1, Ordering::Relaxed);
        // The drop may run foreign code (a reply, a user's type) that panics.
        if catch_unwind(AssertUnwindSafe(|| drop(slot))).is_err() {
            log::error!(
                "core {}: dropping an undeliverable message panicked",
                self.index
            );
        }
    }

    fn owe(&mut self, index: usize, bytes: u32) {
        if self.owed.index != index {
            self.settle_owed();
            self.owed.index = index;
        }
        self.owed.messages += 1;
        self.owed.bytes = self.owed.bytes.wrapping_add(bytes);
        if self.owed.messages == GROUP {
            self.settle_owed();
        }
    }

    /// Gives back the remote gauge of what has been handled.
    pub(crate) fn settle_owed(&mut self) {
        let Owed {
            index,
            messages,
            bytes,
        } = std::mem::take(&mut self.owed);
        if messages == 0 {
            return;
        }
        self.remote().gauges.get(index).give(messages, bytes);
        if self.cells.get(index).is_some_and(|cell| cell.has_askers) {
            self.tell_askers(index, true);
        }
    }

    /// Tells actors that wait for room in the mailbox of place `index`, if there is some. Those of other cores have a
    /// gauge of their own, which changes only where what is owed is settled.
    pub(crate) fn tell_askers(&mut self, index: usize, is_settled: bool) {
        let limits = self.shared.limits.mailbox;
        let here = self.index;
        let Some(cell) = self.cells.get_mut(index) else {
            return;
        };
        let own = cell.limits(limits);
        let local_room =
            cell.queued(limits) <= own.messages / 2 && cell.queued_bytes <= own.bytes / 2;
        let Some(extras) = &mut cell.extras else {
            return;
        };
        let remote_room = is_settled && extras.askers.iter().any(|asker| asker.core() != here) && {
            let gauges = &self.shared.cores[usize::from(here)].gauges;
            let (gauge, limits) = gauges.with_limits(index, limits);
            gauge.await_room();
            gauge.has_room(limits)
        };
        let has_room = |asker: ActorId| {
            if asker.core() == here {
                local_room
            } else {
                remote_room
            }
        };
        let mut told: Vec<ActorId> = extras
            .askers
            .iter()
            .filter(|asker| has_room(*asker))
            .collect();
        if told.is_empty() {
            return;
        }
        extras.askers.retain(|asker| !has_room(asker));
        cell.has_askers = !extras.askers.is_empty();
        let target = ActorId::new(here, index as u32, cell.generation);
        // The first to be told may take all the room, so it must not always be the same one.
        self.asker_first = self.asker_first.wrapping_add(1);
        let first = self.asker_first % told.len();
        told.rotate_left(first);
        for asker in told {
            self.tell_ready(asker, target);
        }
    }

    pub(crate) fn tell_ready(&mut self, asker: ActorId, target: ActorId) {
        // An asker whose core has ended needs no answer.
        let _ = self.push_system(asker, System::Ready { asker, target });
    }

    /// Has `asker`, an actor of this core, told when `target` has room. Whatever lies between them has to have some.
    pub(crate) fn notify_ready(&mut self, asker: ActorId, target: ActorId) {
        if self.has_way_to(target.core()) {
            return self.await_room(asker, target);
        }
        if !self.way_askers.contains(&(asker, target)) {
            self.way_askers.push((asker, target));
        }
    }

    /// Whether at least half of what leads to a core's actors is free.
    fn has_way_to(&self, core: u8) -> bool {
        let limits = &self.shared.limits;
        if core == self.index {
            return self.queue.len() <= limits.run_queue_max / 2;
        }
        let outbox = self.outboxes.get(usize::from(core));
        outbox.is_none_or(|outbox| outbox.len() <= limits.outbox_max / 2)
    }

    /// Goes on with the askers for whom a queue of this core was full.
    pub(crate) fn tell_way_askers(&mut self) {
        if self.way_askers.is_empty() {
            return;
        }
        for (asker, target) in std::mem::take(&mut self.way_askers) {
            if self.cell(asker).is_some() {
                self.notify_ready(asker, target);
            }
        }
    }

    /// Notes `asker`, of any core, with `target`, of any core.
    pub(crate) fn await_room(&mut self, asker: ActorId, target: ActorId) {
        if target.core() != self.index {
            let item = System::NotifyReady { asker, target };
            if self.push_system(target, item).is_err() {
                self.tell_ready(asker, target);
            }
            return;
        }
        let Some(cell) = self.cell_mut(target) else {
            return self.tell_ready(asker, target);
        };
        let extras = cell.extras();
        let is_new = extras.askers.insert(asker);
        let count = extras.askers.len();
        cell.has_askers = true;
        if is_new && count >= ASKERS_SWEPT && count.is_power_of_two() {
            self.sweep_askers(target);
        }
        self.tell_askers(target.index(), true);
    }

    /// Forgets askers that have ended while a mailbox stays full. Whether those of other cores live is not known here:
    /// they are told to try again, and the living ask once more.
    fn sweep_askers(&mut self, target: ActorId) {
        let Some(extras) = self.cells[target.index()].extras.as_mut() else {
            return;
        };
        for asker in std::mem::take(&mut extras.askers).iter() {
            if asker.core() != self.index {
                self.tell_ready(asker, target);
            } else if self.cell(asker).is_some() {
                self.cells[target.index()].extras().askers.insert(asker);
            }
        }
    }

    /// Puts something on the system lane of an actor's core. It comes back when there is no such core any more.
    pub(crate) fn push_system(&mut self, to: ActorId, item: System) -> Result<(), System> {
        if to.core() == self.index {
            self.system.push_back(item);
            return Ok(());
        }
        self.shared.push_system(to.core(), item)
    }

    /// Registers a question; the reply to put into its message, or why it cannot be asked.
    pub(crate) fn ask<R: Send + 'static>(
        &mut self,
        asker: ActorId,
        target: ActorId,
        names: (&'static str, &'static str),
        deadline: Duration,
        complete: super::core::Complete,
    ) -> Result<(AskId, Reply<R>), super::core::Complete> {
        if self.asks.len() >= self.shared.limits.asks_max {
            return Err(complete);
        }
        self.ask_generation = self.ask_generation.wrapping_add(1);
        let generation = self.ask_generation;
        let index = self.asks.vacant_key() as u32;
        let owner = TimerKind::Ask.owner(index);
        let at = self.now + deadline;
        let timer = self
            .wheel
            .arm(at, Duration::from_millis(1), owner, generation);
        let next = std::mem::replace(&mut self.cells[asker.index()].first_ask, index);
        if next != NONE {
            self.asks[next as usize].previous = index;
        }
        let (actor, message) = names;
        self.asks.insert(PendingAsk {
            generation,
            previous: NONE,
            next,
            asker,
            target,
            deadline,
            actor,
            message,
            timer,
            complete,
        });
        let ask = AskId {
            core: self.index,
            index,
            generation,
        };
        Ok((ask, Reply::to_actor(self.shared.clone(), ask)))
    }

    /// The question `ask`, taken out of the table and its timer disarmed, if it is still in flight.
    pub(crate) fn take_ask(&mut self, ask: AskId) -> Option<PendingAsk> {
        let index = ask.index as usize;
        if self.asks.get(index)?.generation != ask.generation {
            return None;
        }
        let pending = self.asks.remove(index);
        self.wheel.cancel(pending.timer);
        if pending.next != NONE {
            self.asks[pending.next as usize].previous = pending.previous;
        }
        if pending.previous != NONE {
            self.asks[pending.previous as usize].next = pending.next;
        } else {
            self.cells[pending.asker.index()].first_ask = pending.next;
        }
        Some(pending)
    }

    /// Forgets the questions of an actor.
    pub(crate) fn forget_asks_of(&mut self, asker: ActorId) {
        while let Some(index) = self
            .cell(asker)
            .map(|cell| cell.first_ask)
            .filter(|index| *index != NONE)
        {
            let generation = self.asks[index as usize].generation;
            let ask = AskId {
                core: self.index,
                index,
                generation,
            };
            self.take_ask(ask);
        }
    }

    pub(crate) fn ask_timed_out(&mut self, index: u32, generation: u32) {
        let ask = AskId {
            core: self.index,
            index,
            generation,
        };
        let Some(pending) = self.take_ask(ask) else {
            return;
        };
        let error = AskError::TimedOut {
            actor: format!("{} {}", pending.actor, pending.target),
            message: pending.message,
            deadline: pending.deadline,
            queued: self.queue_depth(pending.target),
        };
        self.complete_ask(pending, Err(error));
    }

    pub(crate) fn answered(&mut self, ask: AskId, value: Option<Box<dyn std::any::Any + Send>>) {
        let Some(pending) = self.take_ask(ask) else {
            return;
        };
        self.complete_ask(pending, value.ok_or(AskError::NoReply));
    }

    fn complete_ask(
        &mut self,
        pending: PendingAsk,
        result: Result<Box<dyn std::any::Any + Send>, AskError>,
    ) {
        let asker = pending.asker;
        if self.cell(asker).is_none() {
            return;
        }
        match catch_unwind(AssertUnwindSafe(|| (pending.complete)(result, asker))) {
            Ok(slot) => self.deliver_system(slot),
            Err(panic) => self.fail(asker, StopReason::Panicked(panic_text(&*panic))),
        }
    }

    /// Hands over a message of the system lane.
    pub(crate) fn deliver_system(&mut self, slot: Slot) {
        debug_assert_eq!(slot.lane, Lane::System, "made by `Slot::new`");
        let (id, message) = (slot.to, slot.vtable);
        self.stats.messages = self.stats.messages.wrapping_add(1);
        let before = self.driver.now();
        let failed = match catch_unwind(AssertUnwindSafe(|| self.deliver(slot))) {
            Ok(failed) => failed,
            Err(panic) => Some((id, StopReason::Panicked(panic_text(&*panic)))),
        };
        self.now = self.driver.now();
        let took = self.now.saturating_duration_since(before);
        self.add_busy(id, took);
        if took >= self.shared.limits.stall {
            self.note_stall(self.describe(id, message), took);
        }
        if let Some((id, reason)) = failed {
            self.fail_on_message(id, reason);
        }
    }

    /// An actor failed on a message, which is lost.
    fn fail_on_message(&mut self, id: ActorId, reason: StopReason) {
        if let Some(cell) = self.cell_mut(id) {
            cell.extras().dropped += 1;
        }
        self.fail(id, reason);
    }

    /// Hands an event to an actor and times it.
    pub(crate) fn invoke(&mut self, id: ActorId, event: Event<'_>) {
        let Some(state) = self.cell(id).map(|cell| cell.state) else {
            return;
        };
        let before = self.driver.now();
        if state == State::Starting
            && let Some((id, reason)) = self.start(id)
        {
            return self.fail(id, reason);
        }
        let Some(cell) = self.cell_mut(id) else {
            return;
        };
        if cell.state == State::Restarting {
            return;
        }
        let Some(actor) = cell.actor else { return };
        self.did_work = true;
        let name = event_name(&event);
        // SAFETY: the cell is alive, so its actor is, and events are handed out by the scheduler only, never from
        // within a call.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe {
            let result = actor.event(event, self, id);
            result.err().map(|failure| failed(id, failure))
        }));
        self.after_event(id, name, actor.vtable().type_name, before);
        match result {
            Ok(None) => {}
            Ok(Some((id, reason))) => self.fail(id, reason),
            Err(panic) => self.fail(id, StopReason::Panicked(panic_text(&*panic))),
        }
    }

    fn after_event(
        &mut self,
        id: ActorId,
        event: &'static str,
        actor: fn() -> &'static str,
        before: Instant,
    ) {
        self.now = self.driver.now();
        let took = self.now.saturating_duration_since(before);
        self.add_busy(id, took);
        if took >= self.shared.limits.stall {
            self.note_stall(format!("{} on {event}", actor()), took);
        }
    }

    /// Names what may have held the core: the last `done` messages.
    fn blame(&mut self, done: u32, took: Duration) {
        let mut suspects: Vec<String> = Vec::new();
        for back in 1..=done as usize {
            let Some((id, message)) = self.queue.remembered(back) else {
                break;
            };
            let what = self.describe(id, message);
            if suspects.len() < SUSPECTS_MAX && !suspects.contains(&what) {
                suspects.push(what);
            }
        }
        if suspects.len() > 1 {
            self.precise_groups = PRECISE_GROUPS;
        }
        self.note_stall(suspects.join(" | "), took);
    }

    fn describe(&self, id: ActorId, message: &'static MessageVtable) -> String {
        let actor = self
            .cells
            .get(id.index())
            .and_then(|cell| cell.actor)
            .map_or("an ended actor", |actor| (actor.vtable().type_name)());
        format!("{actor} on {}", (message.type_name)())
    }

    /// A timer with a tag has come.
    pub(crate) fn timer_due(&mut self, index: u32, timer: TimerId, tag: u32) {
        let cell = &mut self.cells[index as usize];
        cell.timers -= 1;
        match self.id_at(index) {
            Some(id) => self.invoke(id, Event::Timer { timer, tag }),
            None => self.orphan_gone(index),
        }
    }

    /// One of the timers that the last tenant of a free place left behind is gone.
    fn orphan_gone(&mut self, index: u32) {
        self.orphan_timers -= 1;
        if self.cells[index as usize].timers == 0 {
            self.give_place(index);
        }
    }

    /// Leaves the tagged timers of an actor that has ended to fire for nobody, since finding them takes a look at every
    /// timer. When such timers become many, they are cleared away in one go.
    pub(crate) fn orphan_timers(&mut self, index: u32) {
        const KEPT: usize = 256;
        self.orphan_timers += self.cells[index as usize].timers as usize;
        if self.orphan_timers <= KEPT.max(self.wheel.len() / 2) {
            return;
        }
        let cells = &mut self.cells;
        let mut freed = Vec::new();
        let cancelled = self.wheel.cancel_where(|owner| {
            let index = TimerKind::Tagged.index_in(owner);
            let place = index.and_then(|index| cells.get_mut(index as usize));
            let Some(cell) = place.filter(|cell| !cell.is_alive()) else {
                return false;
            };
            cell.timers -= 1;
            if cell.timers == 0 {
                freed.extend(index);
            }
            true
        });
        self.orphan_timers -= cancelled;
        for index in freed {
            self.give_place(index);
        }
    }
}

#[cold]
/// Whom to fail, and why. The error is foreign code, so this runs where panics are caught.
pub(crate) fn failed(id: ActorId, failure: Failure) -> (ActorId, StopReason) {
    (id, StopReason::Failed(Arc::from(failure.to_string())))
}

/// What an event is called in stall reports.
fn event_name(event: &Event<'_>) -> &'static str {
    match event {
        Event::Connected { .. } => "Connected",
        Event::ConnectFailed { .. } => "ConnectFailed",
        Event::Accepted { .. } => "Accepted",
        Event::AcceptFailed { .. } => "AcceptFailed",
        Event::Given { .. } => "Given",
        Event::Data { .. } => "Data",
        Event::Writable { .. } => "Writable",
        Event::ReadClosed { .. } => "ReadClosed",
        Event::Closed { .. } => "Closed",
        Event::Datagram { .. } => "Datagram",
        Event::Wake => "Wake",
        Event::Timer { .. } => "Timer",
        Event::Flush => "Flush",
        Event::Poke => "Poke",
        Event::Ready(_) => "Ready",
        Event::Stopped { .. } => "Stopped",
        Event::InterfacesChanged => "InterfacesChanged",
        Event::Resumed => "Resumed",
    }
}
