//! Birth, failure, restart and end of actors, and the system lane that orders them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::cell::{Cell, NONE, State, erase};
use super::child::Restart;
use super::core::{Core, TimerKind};
use super::shared::{NodeId, System};
use super::{Actor, ActorId, Address, Backoff, Child, Drain, Event, StopReason};
use crate::io::wheel::TimerId;
use crate::time::Instant;

/// Why an actor could not be spawned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpawnError {
    /// [`Limits::actors_max`](super::Limits::actors_max) is reached.
    #[error("the core has no room for another actor")]
    TooMany,
    /// Another living actor of the node has that name.
    #[error("the name {0:?} is taken")]
    NameTaken(&'static str),
    /// The factory panicked.
    #[error("making the actor panicked")]
    Panicked,
    /// The core, or the parent, is shutting down.
    #[error("the runtime is shutting down")]
    ShuttingDown,
}

/// The text of a panic, for reports.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> Arc<str> {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Arc::from(text.unwrap_or("a panic without a text"))
}

impl Core {
    /// Makes a place for a child of `parent` (`NONE`: a root) and queues its `started`.
    pub(crate) fn spawn<A: Actor>(
        &mut self,
        child: Child<A>,
        parent: u32,
        node: NodeId,
    ) -> Result<Address<A>, SpawnError> {
        let limits = &self.shared.limits;
        if self.shutting_down {
            return Err(SpawnError::ShuttingDown);
        }
        if self.alive as usize >= limits.actors_max {
            return Err(SpawnError::TooMany);
        }
        let mailbox = child.limits.unwrap_or(limits.mailbox);
        let Child {
            make,
            restart,
            limits,
            name,
        } = child;
        let made = catch_unwind(AssertUnwindSafe(|| erase(make)));
        let (actor, factory) = made.map_err(|_| SpawnError::Panicked)?;

        let index = self.take_place();
        let cell = &mut self.cells[index as usize];
        cell.state = State::Starting;
        cell.actor = Some(actor);
        cell.limits = mailbox;
        cell.node = node;
        if factory.is_some() || restart != Restart::Never {
            cell.extras().factory = factory;
            cell.extras().restart = Some(restart);
        }
        let id = ActorId::new(self.index, index, cell.generation);
        self.alive += 1;
        self.link_child(parent, index);
        if let Some(limits) = limits {
            self.remote()
                .gauges
                .get(index as usize)
                .set_limits(Some(limits));
            self.cells[index as usize].extras().limits_are_own = true;
        }
        if let Some(name) = name {
            if let Err(error) = self.register(id, name) {
                self.remove(id, StopReason::Failed(Arc::from(error.to_string())));
                return Err(error);
            }
        }
        self.system.push_back(System::Started(id));
        Ok(Address::new(id))
    }

    pub(crate) fn register(&mut self, id: ActorId, name: &'static str) -> Result<(), SpawnError> {
        let Some(cell) = self.cell_mut(id) else {
            return Err(SpawnError::ShuttingDown);
        };
        let node = cell.node;
        let Some(actor) = cell.actor else {
            return Err(SpawnError::ShuttingDown);
        };
        cell.extras().name = Some(name);
        if self.shared.register(node, name, id, actor.vtable().type_id) {
            return Ok(());
        }
        self.cells[id.index()].extras().name = None;
        Err(SpawnError::NameTaken(name))
    }

    fn take_place(&mut self) -> u32 {
        if self.first_free != NONE {
            let index = self.first_free;
            let cell = &mut self.cells[index as usize];
            self.first_free = cell.next_sibling;
            cell.next_sibling = NONE;
            return index;
        }
        let index = self.cells.len() as u32;
        // An id of another incarnation of this process's memory must not fit by chance: start at 1.
        self.cells.push(Cell::free(1, NONE));
        index
    }

    fn link_child(&mut self, parent: u32, index: u32) {
        self.cells[index as usize].parent = parent;
        if parent == NONE {
            return;
        }
        let next = std::mem::replace(&mut self.cells[parent as usize].first_child, index);
        self.cells[index as usize].next_sibling = next;
        if next != NONE {
            self.cells[next as usize].previous_sibling = index;
        }
    }

    fn unlink_child(&mut self, index: u32) {
        let cell = &self.cells[index as usize];
        let (parent, previous, next) = (cell.parent, cell.previous_sibling, cell.next_sibling);
        if next != NONE {
            self.cells[next as usize].previous_sibling = previous;
        }
        if previous != NONE {
            self.cells[previous as usize].next_sibling = next;
        } else if parent != NONE {
            self.cells[parent as usize].first_child = next;
        }
    }

    fn children(&self, index: u32) -> Vec<ActorId> {
        let mut children = Vec::new();
        let mut child = self.cells[index as usize].first_child;
        while child != NONE {
            let cell = &self.cells[child as usize];
            children.push(ActorId::new(self.index, child, cell.generation));
            child = cell.next_sibling;
        }
        children
    }

    /// Works off the system lane.
    pub(crate) fn drain_system(&mut self) {
        while let Some(item) = self.system.pop_front() {
            match item {
                System::Run(run) => {
                    if catch_unwind(AssertUnwindSafe(|| run(self))).is_err() {
                        log::error!("core {}: a call from outside panicked", self.index);
                    }
                }
                System::Deliver(slot) => self.deliver_system(slot),
                System::Started(id) => {
                    if self
                        .cell(id)
                        .is_some_and(|cell| cell.state == State::Starting)
                    {
                        if let Some((id, reason)) = self.start(id) {
                            self.fail(id, reason);
                        }
                    }
                }
                System::Restart(id) => self.restart_now(id),
                System::Poke(id) => self.invoke(id, Event::Poke),
                System::Reply { ask, value } => self.answered(ask, value),
                System::Stop { actor, reason } => self.request_stop(actor, reason),
                System::Watch { watcher, target } => self.watch(watcher, target),
                System::Unwatch { watcher, target } => self.unwatch(watcher, target),
                System::Stopped {
                    watcher,
                    actor,
                    reason,
                } => {
                    self.invoke(watcher, Event::Stopped { actor, reason });
                }
                System::NotifyReady { asker, target } => self.notify_ready(asker, target),
                System::Ready { asker, target } => self.invoke(asker, Event::Ready(target)),
                System::Give { to, socket } => self.take_given(to, socket),
                System::Given { to, socket } => self.given(to, socket),
            }
        }
    }

    /// Runs `started`. Says whom to fail when it went wrong.
    pub(crate) fn start(&mut self, id: ActorId) -> Option<(ActorId, StopReason)> {
        let cell = self.cell_mut(id)?;
        let actor = cell.actor?;
        cell.state = State::Running;
        let before = self.driver.now();
        // SAFETY: the actor was just made and lives in its cell; `start` is called by the scheduler only, never from
        // within a call.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe { actor.started(self, id) }));
        self.now = self.driver.now();
        let took = self.now.saturating_duration_since(before);
        self.add_busy(id, took);
        if took >= self.shared.limits.stall {
            self.note_stall(format!("{} on started", (actor.vtable().type_name)()), took);
        }
        match result {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some((id, StopReason::Failed(Arc::from(failure.to_string())))),
            Err(panic) => Some((id, StopReason::Panicked(panic_text(&*panic)))),
        }
    }

    /// A handler went wrong: restart, stop or escalate.
    pub(crate) fn fail(&mut self, id: ActorId, reason: StopReason) {
        let now = self.now;
        let Some(cell) = self.cell_mut(id) else {
            return;
        };
        let name = cell
            .actor
            .map_or("actor", |actor| (actor.vtable().type_name)());
        cell.extras().dropped += 1;
        log::warn!("{name} {id} {reason}");
        match cell.state {
            // It was on its way out anyway.
            State::Draining => return self.remove(id, reason),
            State::Closing => {
                cell.extras().stop_reason = Some(reason);
                return;
            }
            State::Free | State::Restarting => return,
            State::Starting | State::Running => {}
        }
        let extras = cell.extras();
        let rule = extras.restart.unwrap_or(Restart::Never);
        let (max, window, backoff, escalates) = match rule {
            Restart::Never => (0, Duration::ZERO, Backoff::NONE, false),
            Restart::OnFailure {
                max,
                window,
                backoff,
            } => (max, window, backoff, false),
            Restart::OrEscalate {
                max,
                window,
                backoff,
            } => (max, window, backoff, true),
        };
        if now.saturating_duration_since(extras.window_start) > window {
            extras.window_start = now;
            extras.restarts = 0;
        }
        if extras.factory.is_some() && extras.restarts < max {
            let pause = backoff.pause(extras.restarts);
            extras.restarts += 1;
            extras.restarts_total = extras.restarts_total.wrapping_add(1);
            return self.begin_restart(id, pause);
        }
        let parent = cell.parent;
        let escalated = StopReason::Failed(Arc::from(format!("its child {name} {id} {reason}")));
        self.end_failed(id, reason);
        if escalates {
            if let Some(parent) = (parent != NONE).then(|| self.id_at(parent)).flatten() {
                self.fail(parent, escalated);
            }
        }
    }

    /// Ends an actor that failed: its children first, without asking it for `stopping`.
    fn end_failed(&mut self, id: ActorId, reason: StopReason) {
        let children = self.children(id.index() as u32);
        let Some(cell) = self.cell_mut(id) else {
            return;
        };
        if children.is_empty() {
            return self.remove(id, reason);
        }
        cell.state = State::Closing;
        cell.extras().stop_reason = Some(reason);
        cell.extras().has_failed = true;
        for child in children {
            self.request_stop(child, StopReason::ParentStopped);
        }
    }

    /// Drops the failed incarnation with all that it held, and makes the next one after `pause`.
    fn begin_restart(&mut self, id: ActorId, pause: Duration) {
        let Some(cell) = self.cell_mut(id) else {
            return;
        };
        cell.state = State::Restarting;
        cell.extras().restart_pause = pause;
        self.release_belongings(id);
        self.drop_actor(id);
        let children = self.children(id.index() as u32);
        if children.is_empty() {
            return self.restart_after(id, pause);
        }
        for child in children {
            self.request_stop(child, StopReason::ParentStopped);
        }
    }

    fn restart_after(&mut self, id: ActorId, pause: Duration) {
        if pause.is_zero() {
            return self.system.push_back(System::Restart(id));
        }
        let owner = TimerKind::Restart.owner(id.index() as u32);
        self.wheel.arm(
            self.now + pause,
            Duration::from_millis(1),
            owner,
            id.generation(),
        );
    }

    pub(crate) fn restart_due(&mut self, index: u32, generation: u32) {
        self.restart_now(ActorId::new(self.index, index, generation));
    }

    fn restart_now(&mut self, id: ActorId) {
        let Some(cell) = self
            .cell_mut(id)
            .filter(|cell| cell.state == State::Restarting)
        else {
            return;
        };
        let Some(mut factory) = cell.extras().factory.take() else {
            return;
        };
        let made = catch_unwind(AssertUnwindSafe(|| {
            let actor = factory();
            (actor, factory)
        }));
        let Some(cell) = self.cell_mut(id) else {
            return;
        };
        let (actor, factory) = match made {
            Ok(made) => made,
            Err(panic) => return self.remove(id, StopReason::Panicked(panic_text(&*panic))),
        };
        cell.actor = Some(actor);
        cell.state = State::Starting;
        let extras = cell.extras();
        extras.factory = Some(factory);
        let parked = std::mem::take(&mut extras.parked);
        if let Some((id, reason)) = self.start(id) {
            // What is parked waits on for the incarnation after this one.
            if let Some(cell) = self.cell_mut(id) {
                cell.extras().parked = parked;
            }
            return self.fail(id, reason);
        }
        self.unpark(parked);
    }

    /// Asks an actor to stop: children first, then its own `stopping`.
    pub(crate) fn request_stop(&mut self, id: ActorId, reason: StopReason) {
        let children = self.children_of(id);
        let Some(cell) = self.cell_mut(id) else {
            return;
        };
        match cell.state {
            // It said itself that it has drained.
            State::Draining if reason == StopReason::Finished => return self.finish(id),
            State::Draining | State::Closing | State::Free => return,
            State::Starting | State::Running | State::Restarting => {}
        }
        cell.extras().stop_reason = Some(reason);
        if cell.state == State::Restarting {
            cell.extras().has_failed = true;
        }
        cell.state = State::Closing;
        if children.is_empty() {
            return self.begin_drain(id);
        }
        for child in children {
            self.request_stop(child, StopReason::ParentStopped);
        }
    }

    fn children_of(&self, id: ActorId) -> Vec<ActorId> {
        match self.cell(id) {
            Some(_) => self.children(id.index() as u32),
            None => Vec::new(),
        }
    }

    /// The last child of a stopping actor is gone: its own turn.
    fn begin_drain(&mut self, id: ActorId) {
        let Some(cell) = self.cell_mut(id) else {
            return;
        };
        let extras = cell.extras();
        let reason = extras.stop_reason.clone().unwrap_or(StopReason::Requested);
        let has_failed = extras.has_failed;
        let Some(actor) = cell.actor.filter(|_| !has_failed) else {
            return self.remove(id, reason);
        };
        cell.state = State::Draining;
        // SAFETY: the cell is alive, so its actor is; stopping runs from the scheduler only, never from within a call.
        let drain = catch_unwind(AssertUnwindSafe(|| unsafe {
            actor.stopping(&reason, self, id)
        }));
        match drain {
            Ok(Drain::Done) => self.remove(id, reason),
            Ok(Drain::Until(deadline)) => {
                let owner = TimerKind::Drain.owner(id.index() as u32);
                self.wheel
                    .arm(deadline, Duration::from_millis(1), owner, id.generation());
            }
            Err(panic) => self.remove(id, StopReason::Panicked(panic_text(&*panic))),
        }
    }

    pub(crate) fn drain_due(&mut self, index: u32, generation: u32) {
        let id = ActorId::new(self.index, index, generation);
        if self
            .cell(id)
            .is_some_and(|cell| cell.state == State::Draining)
        {
            self.finish(id);
        }
    }

    fn finish(&mut self, id: ActorId) {
        let Some(cell) = self.cell_mut(id) else {
            return;
        };
        let reason = cell
            .extras()
            .stop_reason
            .clone()
            .unwrap_or(StopReason::Finished);
        self.remove(id, reason);
    }

    /// Ends an actor at once, its children with it.
    pub(crate) fn remove(&mut self, id: ActorId, reason: StopReason) {
        for child in self.children_of(id) {
            self.remove(child, StopReason::ParentStopped);
        }
        if self.cell(id).is_none() {
            return;
        }
        self.release_belongings(id);
        self.drop_actor(id);
        let index = id.index() as u32;
        self.unlink_child(index);
        if self.cells[id.index()].has_askers {
            self.tell_askers(id, true);
        }
        let free = Cell::free(id.generation().wrapping_add(1), self.first_free);
        let cell = std::mem::replace(&mut self.cells[id.index()], free);
        self.first_free = index;
        self.alive -= 1;
        self.queued_bytes -= cell.queued_bytes as usize;
        // What still waits in the run-queue for it has been discounted here.
        if cell.queued > 0 {
            self.discount_queued(id);
        }
        self.close_down(id, cell, reason);
    }

    /// Marks what is queued for an ended actor as counted nowhere.
    fn discount_queued(&mut self, id: ActorId) {
        let waiting = self.batch[self.batch_next..]
            .iter_mut()
            .chain(&mut self.queue);
        for slot in waiting
            .flatten()
            .filter(|slot| slot.to == id && !slot.is_remote)
        {
            slot.is_system = true;
        }
    }

    /// Tells everybody who has to know that an actor is gone.
    fn close_down(&mut self, id: ActorId, cell: Cell, reason: StopReason) {
        let parent = cell.parent;
        if let Some(mut extras) = cell.extras {
            for mut slot in std::mem::take(&mut extras.parked) {
                slot.is_system = true;
                self.undeliverable(slot);
            }
            if extras.limits_are_own {
                self.remote().gauges.get(id.index()).set_limits(None);
            }
            if extras.name.is_some() {
                self.shared.unregister(cell.node, id);
            }
            for watcher in std::mem::take(&mut extras.watchers) {
                let reason = reason.clone();
                self.push_system(
                    watcher,
                    System::Stopped {
                        watcher,
                        actor: id,
                        reason,
                    },
                );
            }
        }
        if parent == NONE || self.cells[parent as usize].first_child != NONE {
            return;
        }
        let parent_cell = &mut self.cells[parent as usize];
        let parent_id = ActorId::new(self.index, parent, parent_cell.generation);
        match parent_cell.state {
            State::Closing => self.begin_drain(parent_id),
            State::Restarting if parent_cell.actor.is_none() => {
                let pause = parent_cell.extras().restart_pause;
                self.restart_after(parent_id, pause);
            }
            _ => {}
        }
    }

    /// Closes the sockets and timers of an incarnation and forgets its questions.
    fn release_belongings(&mut self, id: ActorId) {
        self.close_sockets_of(id);
        let index = id.index() as u32;
        let Some(cell) = self.cell_mut(id) else {
            return;
        };
        cell.wake_at = None;
        cell.flush_due = false;
        let timers = std::mem::take(&mut cell.timers);
        if let Some((timer, _)) = cell.wake_timer.take() {
            self.wheel.cancel(timer);
        }
        if timers > 0 {
            self.wheel.cancel_owner(TimerKind::Tagged.owner(index));
        }
        let asked: Vec<usize> = self
            .asks
            .iter()
            .filter(|(_, ask)| ask.asker == id)
            .map(|(key, _)| key)
            .collect();
        for key in asked {
            let pending = self.asks.remove(key);
            self.wheel.cancel(pending.timer);
        }
        self.watching_interfaces.retain(|watching| *watching != id);
    }

    fn drop_actor(&mut self, id: ActorId) {
        let Some(actor) = self.cell_mut(id).and_then(|cell| cell.actor.take()) else {
            return;
        };
        // SAFETY: the pointer was just taken out of its cell, so no other copy is left; no call is running, as this
        // runs from the scheduler only.
        if catch_unwind(AssertUnwindSafe(|| unsafe { actor.drop_actor() })).is_err() {
            log::error!("dropping {id} panicked");
        }
    }

    pub(crate) fn watch(&mut self, watcher: ActorId, target: ActorId) {
        if target.core() != self.index {
            if self.shared.core_of(target).is_some() {
                return self
                    .shared
                    .push_system(target.core(), System::Watch { watcher, target });
            }
        } else if let Some(cell) = self.cell_mut(target) {
            let watchers = &mut cell.extras().watchers;
            if !watchers.contains(&watcher) {
                watchers.push(watcher);
            }
            return;
        }
        let reason = StopReason::Unknown;
        self.push_system(
            watcher,
            System::Stopped {
                watcher,
                actor: target,
                reason,
            },
        );
    }

    pub(crate) fn unwatch(&mut self, watcher: ActorId, target: ActorId) {
        if target.core() != self.index {
            return self
                .shared
                .push_system(target.core(), System::Unwatch { watcher, target });
        }
        if let Some(extras) = self.cell_mut(target).and_then(|cell| cell.extras.as_mut()) {
            extras.watchers.retain(|other| *other != watcher);
        }
    }

    /// Sets when `Event::Wake` is wanted. A later deadline than the armed one is only stored.
    pub(crate) fn wake_at(&mut self, id: ActorId, at: Option<Instant>, slack: Duration) {
        let Some(cell) = self.cell_mut(id) else {
            return;
        };
        cell.wake_at = at;
        cell.wake_slack_ms = u32::try_from(slack.as_millis()).unwrap_or(u32::MAX);
        let Some(at) = at else { return };
        match cell.wake_timer {
            Some((_, armed)) if armed <= at => return,
            Some((timer, _)) => {
                self.wheel.cancel(timer);
            }
            None => {}
        }
        let timer = self
            .wheel
            .arm(at, slack, TimerKind::Wake.owner(id.index() as u32), 0);
        self.cells[id.index()].wake_timer = Some((timer, at));
    }

    pub(crate) fn wake_due(&mut self, index: u32, timer: TimerId) {
        let Some(id) = self.id_at(index) else { return };
        let now = self.now;
        let cell = &mut self.cells[index as usize];
        // A timer of this place's last tenant may have fired in the same turn in which the place changed hands.
        if cell.wake_timer.is_none_or(|(armed, _)| armed != timer) {
            return;
        }
        cell.wake_timer = None;
        let Some(at) = cell.wake_at else { return };
        if at > now {
            let slack = Duration::from_millis(u64::from(cell.wake_slack_ms));
            return self.wake_at(id, Some(at), slack);
        }
        cell.wake_at = None;
        self.invoke(id, Event::Wake);
    }
}
