//! Birth, failure, restart and end of actors, and the system lane that orders them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::address::IdSet;
use super::cell::{Cell, Extras, NONE, State, Wake, erase};
use super::child::Restart;
use super::core::{Core, TimerKind};
use super::schedule::failed;
use super::shared::{NodeId, System};
use super::{Actor, ActorId, Address, Backoff, Child, Drain, Event, Reply, StopReason};
use crate::io::memory::reserve_one;
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
    /// A core thread must not wait for another core: spawn through the [`Context`](super::Context).
    #[error("a core thread must not wait for a spawn")]
    OnCoreThread,
    /// The core did not answer in time. The actor may come to life later.
    #[error("the core did not answer")]
    NoAnswer,
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
        // A parent on its way out has told its children to stop, and waits for none that come later.
        let has_living_parent = parent == NONE
            || matches!(
                self.cells[parent as usize].state,
                State::Starting | State::Running
            );
        if self.shutting_down || !has_living_parent {
            return Err(SpawnError::ShuttingDown);
        }
        if self.alive as usize >= limits.actors_max {
            return Err(SpawnError::TooMany);
        }
        let usual = limits.mailbox;
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
        cell.node = node;
        if limits.is_some() {
            cell.extras().limits = limits;
        }
        cell.room = cell.limits(usual).messages;
        cell.room_min = cell.room;
        if factory.is_some() || restart != Restart::Never {
            cell.extras().factory = factory;
            cell.extras().restart = Some(restart);
        }
        let id = ActorId::new(self.index, index, cell.generation);
        self.alive += 1;
        self.link_child(parent, index);
        if limits.is_some() {
            self.remote().gauges.set_limits(index as usize, limits);
        }
        if let Some(name) = name
            && let Err(error) = self.register(id, name)
        {
            self.remove(id, StopReason::Failed(Arc::from(error.to_string())));
            return Err(error);
        }
        self.starting.push_back(id);
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
        if !self.shared.register(node, name, id, actor.vtable().type_id) {
            return Err(SpawnError::NameTaken(name));
        }
        self.cells[id.index()].extras().name = Some(name);
        Ok(())
    }

    fn take_place(&mut self) -> u32 {
        if self.first_free != NONE {
            let index = self.first_free;
            let cell = &mut self.cells[index as usize];
            self.first_free = cell.next_sibling;
            cell.next_sibling = NONE;
            return index;
        }
        reserve_one(&mut self.cells);
        let index = self.cells.len() as u32;
        // An id of another incarnation of this process's memory must not fit by chance: start at 1.
        self.cells.push(Cell::free(1));
        index
    }

    /// Makes a place free for the next actor.
    pub(crate) fn give_place(&mut self, index: u32) {
        self.cells[index as usize].next_sibling = std::mem::replace(&mut self.first_free, index);
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

    /// Works off what is on the system lane now. What that puts there waits for the next call, or an actor that asks
    /// again and again would hold the core.
    pub(crate) fn drain_system(&mut self) {
        self.start_waiting();
        for _ in 0..self.system.len() {
            let Some(item) = self.system.pop_front() else {
                return;
            };
            match item {
                System::Run(run) => {
                    if catch_unwind(AssertUnwindSafe(|| run(self))).is_err() {
                        log::error!("core {}: a call from outside panicked", self.index);
                    }
                    self.now = self.driver.now();
                }
                System::Deliver(slot) => self.deliver_system(slot),
                System::Restart(id) => self.restart_now(id),
                System::Childless(id) => self.childless(id),
                System::Poke(id) => self.invoke(id, Event::Poke),
                System::Reply { ask, value } => self.answered(ask, value),
                System::Stop { actor, reason } => self.request_stop(actor, reason),
                System::Watch { watcher, target } => self.watch_at(watcher, target),
                System::Unwatch { watcher, target } => self.unwatch_at(watcher, target),
                System::Stopped {
                    watcher,
                    actor,
                    reason,
                } => {
                    if let Some(cell) = self.cell_mut(watcher) {
                        cell.extras().watching.remove(actor);
                        self.invoke(watcher, Event::Stopped { actor, reason });
                    }
                }
                System::NotifyReady { asker, target } => self.await_room(asker, target),
                System::LookAgain { index } => self.tell_askers(index as usize, true),
                System::Ready { asker, target } => self.invoke(asker, Event::Ready(target)),
                System::Give { to, socket } => self.take_given(to, socket),
                System::Given { to, socket } => self.given(to, socket),
            }
        }
    }

    /// Starts the actors that wait for it. Those that they spawn wait for the next call.
    fn start_waiting(&mut self) {
        if self.starting.is_empty() {
            return;
        }
        self.did_work = true;
        self.now = self.driver.now();
        for _ in 0..self.starting.len() {
            let Some(id) = self.starting.pop_front() else {
                return;
            };
            // Some have been started by their first message or event, or are gone.
            let cell = self.cell(id);
            if cell.is_some_and(|cell| cell.state == State::Starting) {
                self.start_timed(id);
            }
        }
    }

    /// Starts an actor and takes the time since the clock was last read.
    fn start_timed(&mut self, id: ActorId) {
        let before = self.now;
        let actor = self.cell(id).and_then(|cell| cell.actor);
        let failed = self.start(id);
        self.now = self.driver.now();
        let took = self.now.saturating_duration_since(before);
        self.add_busy(id, took);
        if took >= self.shared.limits.stall
            && let Some(actor) = actor
        {
            self.note_stall(format!("{} on started", (actor.vtable().type_name)()), took);
        }
        if let Some((id, reason)) = failed {
            self.fail(id, reason);
        }
    }

    /// Runs `started`. Says whom to fail when it went wrong.
    pub(crate) fn start(&mut self, id: ActorId) -> Option<(ActorId, StopReason)> {
        let cell = self.cell_mut(id)?;
        let actor = cell.actor?;
        cell.state = State::Running;
        // SAFETY: the actor was just made and lives in its cell; `start` is called by the scheduler only, never from
        // within a call.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe {
            let result = actor.started(self, id);
            result.err().map(|failure| failed(id, failure))
        }));
        match result {
            Ok(result) => result,
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
        log::warn!("{name} {id} {reason}");
        match cell.state {
            // It was on its way out anyway.
            State::Draining => return self.remove(id, reason),
            State::Closing => {
                cell.extras().stop_reason = Some(reason);
                cell.extras().skips_stopping = true;
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
        let window_age = now.saturating_duration_since(extras.window_start);
        if extras.restarts == 0 || window_age > window {
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
        if escalates && let Some(parent) = (parent != NONE).then(|| self.id_at(parent)).flatten() {
            self.fail(parent, escalated);
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
        cell.extras().skips_stopping = true;
        self.stop_children(children);
    }

    /// Through the system lane, so that a long line of descendants needs no deep stack.
    fn stop_children(&mut self, children: Vec<ActorId>) {
        let reason = StopReason::ParentStopped;
        let stop = |actor| System::Stop {
            actor,
            reason: reason.clone(),
        };
        self.system.extend(children.into_iter().map(stop));
    }

    /// Drops the failed incarnation with all that it held, and makes the next one after `pause`.
    fn begin_restart(&mut self, id: ActorId, pause: Duration) {
        let Some(cell) = self.cell_mut(id) else {
            return;
        };
        cell.state = State::Restarting;
        cell.extras().restart_pause = pause;
        if std::mem::take(&mut cell.timers) > 0 {
            let owner = TimerKind::Tagged.owner(id.index() as u32);
            self.wheel.cancel_where(|other| other == owner);
        }
        self.release_belongings(id);
        self.drop_actor(id);
        let children = self.children(id.index() as u32);
        if children.is_empty() {
            return self.restart_after(id, pause);
        }
        self.stop_children(children);
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
        let made = catch_unwind(AssertUnwindSafe(&mut factory));
        let Some(cell) = self.cell_mut(id) else {
            return;
        };
        cell.extras().factory = Some(factory);
        cell.state = State::Starting;
        match made {
            Ok(actor) => cell.actor = Some(actor),
            Err(panic) => return self.fail(id, StopReason::Panicked(panic_text(&*panic))),
        }
        let parked = std::mem::take(&mut cell.extras().parked);
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
        if cell.state != State::Running {
            cell.extras().skips_stopping = true;
        }
        cell.state = State::Closing;
        if children.is_empty() {
            return self.begin_drain(id);
        }
        self.stop_children(children);
    }

    /// The last child of an actor is gone: what it may have waited for.
    fn childless(&mut self, id: ActorId) {
        let Some(cell) = self.cell_mut(id).filter(|cell| cell.first_child == NONE) else {
            return;
        };
        match cell.state {
            State::Closing => self.begin_drain(id),
            State::Restarting if cell.actor.is_none() => {
                let pause = cell.extras().restart_pause;
                self.restart_after(id, pause);
            }
            _ => {}
        }
    }

    fn children_of(&self, id: ActorId) -> Vec<ActorId> {
        match self.cell(id) {
            Some(_) => self.children(id.index() as u32),
            None => Vec::new(),
        }
    }

    /// A stopping actor without children has its own turn.
    fn begin_drain(&mut self, id: ActorId) {
        let Some(cell) = self.cell_mut(id) else {
            return;
        };
        let extras = cell.extras();
        let reason = extras.stop_reason.clone().unwrap_or(StopReason::Requested);
        let skips_stopping = extras.skips_stopping;
        let Some(actor) = cell.actor.filter(|_| !skips_stopping) else {
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

    /// Ends an actor at once, its descendants before it.
    pub(crate) fn remove(&mut self, id: ActorId, reason: StopReason) {
        while self.cell(id).is_some() {
            let mut last = id.index() as u32;
            while self.cells[last as usize].first_child != NONE {
                last = self.cells[last as usize].first_child;
            }
            match self.id_at(last) {
                Some(child) if child != id => self.remove_one(child, StopReason::ParentStopped),
                _ => return self.remove_one(id, reason),
            }
        }
    }

    fn remove_one(&mut self, id: ActorId, reason: StopReason) {
        self.release_belongings(id);
        self.drop_actor(id);
        let index = id.index() as u32;
        self.unlink_child(index);
        let free = Cell::free(id.generation().wrapping_add(1));
        let cell = std::mem::replace(&mut self.cells[id.index()], free);
        self.alive -= 1;
        if cell.timers > 0 {
            self.cells[id.index()].timers = cell.timers;
            self.orphan_timers(index);
        } else {
            self.give_place(index);
        }
        if let Some(extras) = cell.extras {
            self.close_down(id, cell.node, *extras, reason);
        }
        if cell.parent != NONE && self.cells[cell.parent as usize].first_child == NONE {
            let parent = self.id_at(cell.parent);
            self.system.extend(parent.map(System::Childless));
        }
    }

    /// Tells everybody who has to know that an actor is gone.
    fn close_down(&mut self, id: ActorId, node: NodeId, extras: Extras, reason: StopReason) {
        for slot in extras.parked {
            self.lose(slot);
        }
        if extras.limits.is_some() {
            self.remote().gauges.set_limits(id.index(), None);
        }
        if extras.name.is_some() {
            self.shared.unregister(node, id);
        }
        for asker in extras.askers.iter() {
            self.tell_ready(asker, id);
        }
        for watcher in extras.watchers.iter() {
            let reason = reason.clone();
            self.tell_stopped(watcher, id, reason);
        }
        for mourner in extras.mourners {
            mourner.send(reason.clone());
        }
    }

    fn tell_stopped(&mut self, watcher: ActorId, actor: ActorId, reason: StopReason) {
        let item = System::Stopped {
            watcher,
            actor,
            reason,
        };
        // A watcher whose core has ended need not know.
        let _ = self.push_system(watcher, item);
    }

    /// Closes the sockets of an incarnation, and forgets its deadline, questions and watches.
    fn release_belongings(&mut self, id: ActorId) {
        self.close_sockets_of(id);
        self.forget_asks_of(id);
        let Some(cell) = self.cell_mut(id) else {
            return;
        };
        cell.wake = Wake::NEVER;
        cell.flush_due = false;
        let timer = std::mem::replace(&mut cell.wake_timer, NONE);
        let watches_interfaces = std::mem::take(&mut cell.watches_interfaces);
        let extras = cell.extras.as_mut();
        let watching = extras.map(|extras| std::mem::take(&mut extras.watching));
        self.cancel_wake(id, timer);
        if watches_interfaces {
            self.watching_interfaces.retain(|watching| *watching != id);
        }
        for target in watching.iter().flat_map(IdSet::iter) {
            self.unwatch_at(id, target);
        }
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

    /// Has `watcher`, an actor of this core, told when `target`, of any core, ends.
    pub(crate) fn watch(&mut self, watcher: ActorId, target: ActorId) {
        if let Some(cell) = self.cell_mut(watcher) {
            cell.extras().watching.insert(target);
            self.watch_at(watcher, target);
        }
    }

    pub(crate) fn watch_at(&mut self, watcher: ActorId, target: ActorId) {
        if target.core() != self.index {
            let item = System::Watch { watcher, target };
            if self.push_system(target, item).is_ok() {
                return;
            }
        } else if let Some(cell) = self.cell_mut(target) {
            cell.extras().watchers.insert(watcher);
            return;
        }
        self.tell_stopped(watcher, target, StopReason::Unknown);
    }

    /// Takes [`Core::watch`] back.
    pub(crate) fn unwatch(&mut self, watcher: ActorId, target: ActorId) {
        let extras = self.cell_mut(watcher).and_then(|cell| cell.extras.as_mut());
        if extras.is_some_and(|extras| extras.watching.remove(target)) {
            self.unwatch_at(watcher, target);
        }
    }

    pub(crate) fn unwatch_at(&mut self, watcher: ActorId, target: ActorId) {
        if target.core() != self.index {
            // What has ended has forgotten its watchers.
            let _ = self.push_system(target, System::Unwatch { watcher, target });
        } else if let Some(extras) = self.cell_mut(target).and_then(|cell| cell.extras.as_mut()) {
            extras.watchers.remove(watcher);
        }
    }

    /// Has a thread outside told when an actor of this core ends.
    pub(crate) fn mourn(&mut self, target: ActorId, mourner: Reply<StopReason>) {
        match self.cell_mut(target) {
            Some(cell) => {
                let mourners = &mut cell.extras().mourners;
                if mourners.len() >= 64 && mourners.len().is_power_of_two() {
                    mourners.retain(Reply::is_awaited);
                }
                mourners.push(mourner);
            }
            None => mourner.send(StopReason::Unknown),
        }
    }

    /// Sets when `Event::Wake` is wanted. A later deadline than the armed one is only stored.
    pub(crate) fn wake_at(&mut self, id: ActorId, at: Option<Instant>, slack: Duration) {
        let now = self.now;
        let Some(cell) = self.cell_mut(id) else {
            return;
        };
        cell.wake = at.map_or(Wake::NEVER, |at| Wake::new(at, slack, now));
        let (Some(at), timer) = (at, cell.wake_timer) else {
            return;
        };
        let owner = TimerKind::Wake.owner(id.index() as u32);
        let armed = self.wheel.find(timer, owner);
        let due = armed.and_then(|timer| self.wheel.due(timer));
        if due.is_some_and(|due| due <= at + slack) {
            return;
        }
        self.cancel_wake(id, timer);
        self.cells[id.index()].wake_timer = self.wheel.arm(at, slack, owner, 0).place();
    }

    /// Takes back the timer of an actor's deadline.
    fn cancel_wake(&mut self, id: ActorId, timer: u32) {
        let owner = TimerKind::Wake.owner(id.index() as u32);
        if let Some(timer) = self.wheel.find(timer, owner) {
            self.wheel.cancel(timer);
        }
    }

    pub(crate) fn wake_due(&mut self, index: u32, timer: TimerId) {
        let Some(id) = self.id_at(index) else { return };
        let now = self.now;
        let cell = &mut self.cells[index as usize];
        if cell.wake_timer != timer.place() {
            return;
        }
        cell.wake_timer = NONE;
        let Some((at, slack)) = cell.wake.get() else {
            return;
        };
        if at > now {
            return self.wake_at(id, Some(at), slack);
        }
        cell.wake = Wake::NEVER;
        self.invoke(id, Event::Wake);
    }
}
