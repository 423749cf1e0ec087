//! One core: what it owns and its turn.

use std::cell::Cell as StdCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use super::cell::{Cell, NONE, State};
use super::queue::RunQueue;
use super::reply::Expire;
use super::shared::{Remote, Shared, System};
use super::slot::Slot;
use super::sockets::{SocketExtras, SocketState};
use super::stats::{CoreStats, STALLS_KEPT, Stall};
use super::{ActorId, AskError, Event, StopReason};
use crate::io::BufferPool;
use crate::io::driver::{Driver, Ready, SocketId};
use crate::io::memory::MemoryKind;
use crate::io::wheel::{TimerId, Wheel};
use crate::time::Instant;

thread_local! {
    static ON_CORE: StdCell<bool> = const { StdCell::new(false) };
}

/// Whether this thread is running a core's turn, so that it must not block.
pub(crate) fn on_core_thread() -> bool {
    ON_CORE.get()
}

/// Bytes of the buffer that a core reads sockets into.
const READ_BUFFER_SIZE: usize = 128 << 10;

/// Messages of an outbox that are sent before the turn ends, so that the other core can start on them.
pub(crate) const BATCH_SIZE: usize = 512;

/// Drained batches that are kept for reuse.
const SPARE_BATCHES: usize = 4;

/// How long reading pauses when the memory bound is reached and before it looks again.
pub(crate) const MEMORY_RETRY: Duration = Duration::from_millis(10);

/// What a core's timer is for; the upper 8 bits of the wheel's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum TimerKind {
    Wake = 0,
    Tagged,
    Ask,
    Drain,
    Restart,
    AcceptRetry,
    MemoryRetry,
    Expire,
}

impl TimerKind {
    pub(crate) fn owner(self, index: u32) -> u32 {
        (self as u32) << 24 | index
    }

    /// The index in `owner`, if that is of this kind.
    pub(crate) fn index_in(self, owner: u32) -> Option<u32> {
        (owner >> 24 == self as u32).then_some(owner & 0x00ff_ffff)
    }

    fn of(owner: u32) -> Option<TimerKind> {
        Some(match owner >> 24 {
            0 => TimerKind::Wake,
            1 => TimerKind::Tagged,
            2 => TimerKind::Ask,
            3 => TimerKind::Drain,
            4 => TimerKind::Restart,
            5 => TimerKind::AcceptRetry,
            6 => TimerKind::MemoryRetry,
            7 => TimerKind::Expire,
            _ => return None,
        })
    }
}

/// What is to be done with a core after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There is work left: take another turn.
    Work,
    /// Nothing to do until the instant, a socket or a wake; `None`: no deadline.
    Asleep(Option<Instant>),
    /// The runtime has been shut down and the last actor is gone.
    Ended,
}

/// A question in flight.
pub(crate) struct PendingAsk {
    pub(crate) generation: u32,
    /// The asker's other questions.
    pub(crate) previous: u32,
    pub(crate) next: u32,
    pub(crate) asker: ActorId,
    pub(crate) target: ActorId,
    pub(crate) deadline: Duration,
    pub(crate) actor: &'static str,
    pub(crate) message: &'static str,
    pub(crate) timer: crate::io::wheel::TimerId,
    pub(crate) complete: Complete,
}

/// Turns the boxed answer, or why there is none, into a message for the asker.
pub(crate) type Complete =
    Box<dyn FnOnce(Result<Box<dyn std::any::Any + Send>, AskError>, ActorId) -> Slot>;

/// A core: a selector, timers, sockets, actors and a run-queue, none of them shared. [`Runtime`](super::Runtime)
/// gives each its thread; the simulator steps many of them in one.
pub struct Core {
    pub(crate) index: u8,
    pub(crate) driver: Box<dyn Driver>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) now: Instant,
    pub(crate) cells: Vec<Cell>,
    pub(crate) first_free: u32,
    pub(crate) alive: u32,
    pub(crate) queue: RunQueue,
    pub(crate) system: VecDeque<System>,
    /// Actors whose `started` has not run yet, in the order of their birth.
    pub(crate) starting: VecDeque<ActorId>,
    pub(crate) wheel: Wheel,
    /// Tagged timers whose actors have ended.
    pub(crate) orphan_timers: usize,
    pub(crate) sockets: Vec<SocketState>,
    pub(crate) socket_extras: Slab<SocketExtras>,
    pub(crate) sockets_open: u32,
    /// Sockets to be read again although no new edge will come.
    pub(crate) requeued: VecDeque<SocketId>,
    /// Sockets that are not read while memory is short.
    pub(crate) starved: VecDeque<SocketId>,
    pub(crate) flush_due: Vec<ActorId>,
    /// Actors of this core that wait for room in one of its own queues, and for whom they have messages.
    pub(crate) way_askers: Vec<(ActorId, ActorId)>,
    /// Which of several askers is told first.
    pub(crate) asker_first: usize,
    pub(crate) outboxes: Vec<Vec<Slot>>,
    pub(crate) spare: Vec<Vec<Slot>>,
    pub(crate) asks: Slab<PendingAsk>,
    pub(crate) ask_generation: u32,
    pub(crate) expiring: Slab<(Arc<dyn Expire>, TimerId)>,
    expiring_max: usize,
    pub(crate) watching_interfaces: Vec<ActorId>,
    pub(crate) read_buffer: Box<[u8]>,
    pub(crate) buffers: BufferPool,
    pub(crate) scratch: Vec<u8>,
    ready: Vec<Ready>,
    mail: Vec<System>,
    post: Vec<Slot>,
    /// Remote gauges owed to one actor, given back in one step.
    pub(crate) owed: Owed,
    /// Bytes of messages that this core has queued less those that it has handled. Messages between cores are queued
    /// by one and handled by another, so one core's number may be negative.
    pub(crate) queued_bytes: isize,
    published_bytes: isize,
    idle: bool,
    /// An actor has been called since `spins` looked, and when that last was so.
    pub(crate) did_work: bool,
    worked_at: Instant,
    /// See [`Limits::code_release`](super::Limits::code_release).
    code_released_at: Instant,
    pub(crate) shutting_down: bool,
    pub(crate) ended: bool,
    pub(crate) stats: CoreStats,
    /// Groups of messages still to be timed one by one, after a stall whose culprit was not clear.
    pub(crate) precise_groups: u32,
    pub(crate) sample: u32,
    /// Messages until the clock is read, handled since it was read, and handled since one was timed.
    pub(crate) clock_left: u32,
    pub(crate) handled: u32,
    pub(crate) unsampled: u32,
    /// The next message is timed.
    pub(crate) is_sampling: bool,
}

#[derive(Default)]
pub(crate) struct Owed {
    pub(crate) index: usize,
    pub(crate) messages: u32,
    pub(crate) bytes: u32,
}

impl Core {
    pub(crate) fn new(index: u8, mut driver: Box<dyn Driver>, shared: Arc<Shared>) -> Core {
        let now = driver.now();
        let cores = shared.cores.len();
        let mut seed = [0; 4];
        driver.random(&mut seed);
        Core {
            index,
            driver,
            now,
            cells: Vec::new(),
            first_free: NONE,
            alive: 0,
            queue: RunQueue::new(shared.limits.run_queue_max),
            system: VecDeque::new(),
            starting: VecDeque::new(),
            wheel: Wheel::new(now),
            orphan_timers: 0,
            sockets: Vec::new(),
            socket_extras: Slab::new(),
            sockets_open: 0,
            requeued: VecDeque::new(),
            starved: VecDeque::new(),
            flush_due: Vec::new(),
            way_askers: Vec::new(),
            asker_first: 0,
            outboxes: (0..cores).map(|_| Vec::new()).collect(),
            spare: Vec::new(),
            asks: Slab::new(),
            ask_generation: 0,
            expiring: Slab::new(),
            expiring_max: 0,
            watching_interfaces: Vec::new(),
            read_buffer: Box::default(),
            buffers: BufferPool::new(shared.memory.clone()),
            scratch: Vec::new(),
            ready: Vec::new(),
            mail: Vec::new(),
            post: Vec::new(),
            owed: Owed::default(),
            queued_bytes: 0,
            published_bytes: 0,
            idle: false,
            did_work: false,
            worked_at: now,
            code_released_at: now,
            shutting_down: false,
            ended: false,
            stats: CoreStats {
                core: index,
                ..CoreStats::default()
            },
            precise_groups: 0,
            clock_left: 0,
            handled: 0,
            unsampled: 0,
            is_sampling: false,
            shared,
            sample: u32::from_le_bytes(seed) | 1,
        }
    }

    pub(crate) fn remote(&self) -> &Remote {
        &self.shared.cores[usize::from(self.index)]
    }

    /// Takes turns until the runtime is shut down.
    pub(crate) fn run(&mut self) {
        while self.turn() != Turn::Ended {}
    }

    /// One turn: wait (only if the last turn left nothing to do), then sockets, inbox, timers, messages, writes.
    pub fn turn(&mut self) -> Turn {
        ON_CORE.set(true);
        let turn = self.turn_inner();
        ON_CORE.set(false);
        turn
    }

    fn turn_inner(&mut self) -> Turn {
        if self.ended {
            return Turn::Ended;
        }
        self.wait();
        self.drain_system();
        self.handle_ready();
        self.collect_mail();
        self.fire_timers();
        self.drain_system();
        self.run_messages();
        self.flush();
        self.publish();
        self.tell_way_askers();
        if self.shutting_down && self.alive == 0 {
            self.end();
            return Turn::Ended;
        }
        self.idle = !self.has_work() && !self.spins() && self.remote().prepare_sleep();
        if self.idle {
            self.shrink_queues();
            self.release_code();
            Turn::Asleep(self.wheel.next_deadline())
        } else {
            Turn::Work
        }
    }

    /// Gives back what a burst made the queues grow to, before the core goes to sleep.
    fn shrink_queues(&mut self) {
        const KEPT: usize = 1024;
        self.queue.shrink();
        self.buffers.trim();
        if self.system.capacity() > KEPT {
            self.system = VecDeque::new();
        }
        if self.starting.capacity() > KEPT {
            self.starting = VecDeque::new();
        }
        if self.flush_due.capacity() > KEPT {
            self.flush_due = Vec::new();
        }
        if self.requeued.capacity() > KEPT {
            self.requeued = VecDeque::new();
        }
        if self.mail.capacity() > KEPT {
            self.mail = Vec::new();
        }
    }

    fn release_code(&mut self) {
        let is_due = |every| self.now.saturating_duration_since(self.code_released_at) >= every;
        if self.shared.limits.code_release.is_some_and(is_due) {
            self.driver.release_code();
            self.code_released_at = self.now;
        }
    }

    /// Whether it looks for new work for a while before it sleeps.
    fn spins(&mut self) -> bool {
        let spin = self.shared.limits.spin;
        if spin.is_zero() {
            return false;
        }
        if std::mem::take(&mut self.did_work) {
            self.worked_at = self.now;
        }
        self.now.saturating_duration_since(self.worked_at) < spin
    }

    fn wait(&mut self) {
        let deadline = if self.idle {
            self.stats.sleeps = self.stats.sleeps.wrapping_add(1);
            self.wheel.next_deadline()
        } else {
            Some(self.now)
        };
        self.stats.turns = self.stats.turns.wrapping_add(1);
        let mut ready = std::mem::take(&mut self.ready);
        let woken = self.driver.wait(deadline, &mut ready);
        self.ready = ready;
        self.remote().awake();
        self.now = self.driver.now();
        match woken {
            Ok(woken) => {
                if woken.interfaces_changed {
                    self.tell_watchers(|| Event::InterfacesChanged);
                }
                if woken.resumed {
                    self.tell_watchers(|| Event::Resumed);
                }
            }
            Err(error) => log::error!("core {}: waiting failed: {error}", self.index),
        }
    }

    fn tell_watchers(&mut self, event: impl Fn() -> Event<'static>) {
        let watching = std::mem::take(&mut self.watching_interfaces);
        for &actor in &watching {
            self.invoke(actor, event());
        }
        // Whoever started to watch from within the events above is in the list already.
        let added = std::mem::replace(&mut self.watching_interfaces, watching);
        self.watching_interfaces.extend(added);
        let cells = &self.cells;
        self.watching_interfaces.retain(|actor| {
            cells.get(actor.index()).is_some_and(|cell| {
                cell.generation == actor.generation() && cell.watches_interfaces
            })
        });
    }

    fn handle_ready(&mut self) {
        let mut ready = std::mem::take(&mut self.ready);
        for event in ready.drain(..) {
            self.socket_ready(event);
        }
        self.ready = ready;
        for _ in 0..self.requeued.len() {
            let Some(socket) = self.requeued.pop_front() else {
                break;
            };
            self.socket_requeued(socket);
        }
    }

    /// Takes over what other cores and threads have posted.
    pub(crate) fn collect_mail(&mut self) {
        if self.remote().take_mail_mark() {
            self.take_mail();
        }
    }

    fn take_mail(&mut self) {
        let mut mail = std::mem::take(&mut self.mail);
        self.remote().take_system(&mut mail);
        self.system.extend(mail.drain(..));
        self.mail = mail;
        let mut post = std::mem::take(&mut self.post);
        self.remote().take_post(&mut post);
        for slot in post.drain(..) {
            self.queue.push(slot);
        }
        if post.capacity() > 2 * BATCH_SIZE {
            post = Vec::new();
        }
        self.post = post;
        let mut has_batches = false;
        while let Some(mut batch) = self.remote().take_batch() {
            has_batches = true;
            for slot in batch.drain(..) {
                self.queue.push(slot);
            }
            if self.spare.len() < SPARE_BATCHES {
                self.spare.push(batch);
            }
        }
        if has_batches && self.remote().take_batch_wish() {
            for (index, core) in self.shared.cores.iter().enumerate() {
                if index != usize::from(self.index) {
                    core.notify();
                }
            }
        }
    }

    fn fire_timers(&mut self) {
        self.wheel.begin(self.now);
        while let Some(expired) = self.wheel.pop() {
            let index = expired.owner & 0x00ff_ffff;
            match TimerKind::of(expired.owner) {
                Some(TimerKind::Wake) => self.wake_due(index, expired.id),
                Some(TimerKind::Tagged) => self.timer_due(index, expired.id, expired.tag),
                Some(TimerKind::Ask) => self.ask_timed_out(index, expired.tag),
                Some(TimerKind::Drain) => self.drain_due(index, expired.tag),
                Some(TimerKind::Restart) => self.restart_due(index, expired.tag),
                Some(TimerKind::AcceptRetry) => self.accept_again(index, expired.tag),
                Some(TimerKind::MemoryRetry) => self.requeued.append(&mut self.starved),
                Some(TimerKind::Expire) => self.expire(index),
                None => debug_assert!(false, "every timer was armed with a kind"),
            }
        }
    }

    /// Arms the deadline of a question from a task outside.
    pub(crate) fn expire_later(&mut self, deadline: Duration, answer: Arc<dyn Expire>) {
        self.sweep_expiring();
        let entry = self.expiring.vacant_entry();
        let owner = TimerKind::Expire.owner(entry.key() as u32);
        let slack = Duration::from_millis(5);
        let timer = self.wheel.arm(self.now + deadline, slack, owner, 0);
        entry.insert((answer, timer));
    }

    /// Forgets deadlines of questions that have been answered, whenever they have become twice as many as were left.
    fn sweep_expiring(&mut self) {
        const KEPT: usize = 256;
        if self.expiring.len() < self.expiring_max.max(KEPT) {
            return;
        }
        let wheel = &mut self.wheel;
        self.expiring.retain(|_, (answer, timer)| {
            let is_open = !answer.is_over();
            if !is_open {
                wheel.cancel(*timer);
            }
            is_open
        });
        self.expiring_max = 2 * self.expiring.len();
    }

    fn expire(&mut self, index: u32) {
        let (answer, _) = self.expiring.remove(index as usize);
        if !answer.is_over() {
            answer.expire(self.queue_depth(answer.target()));
        }
    }

    /// Messages waiting for an actor, its own core's included if that is this one.
    pub(crate) fn queue_depth(&self, actor: ActorId) -> u32 {
        let remote = self
            .shared
            .core_of(actor)
            .map_or(0, |remote| remote.gauges.messages(actor.index()));
        let local = if actor.core() == self.index {
            let usual = self.shared.limits.mailbox;
            self.cell(actor).map_or(0, |cell| cell.queued(usual))
        } else {
            0
        };
        remote + local
    }

    /// The end of a turn: actors seal and write, other cores get their batches.
    fn flush(&mut self) {
        let mut due = std::mem::take(&mut self.flush_due);
        for actor in due.drain(..) {
            // A restart forgets what was due.
            if let Some(cell) = self.cell_mut(actor).filter(|cell| cell.flush_due) {
                cell.flush_due = false;
                self.invoke(actor, Event::Flush);
            }
        }
        // An actor that asks for another flush from within one gets it next turn.
        due.append(&mut self.flush_due);
        self.flush_due = due;
        for core in 0..self.outboxes.len() {
            self.flush_outbox(core);
            if !self.outboxes[core].is_empty() {
                self.shared.cores[core].await_batch_room();
                self.flush_outbox(core);
            }
        }
    }

    pub(crate) fn flush_outbox(&mut self, core: usize) {
        if self.outboxes[core].is_empty() {
            return;
        }
        let empty = self.spare.pop().unwrap_or_default();
        let batch = std::mem::replace(&mut self.outboxes[core], empty);
        let Err(mut batch) = self.shared.cores[core].push_batch(batch) else {
            return;
        };
        if self.shared.cores[core].is_gone() {
            for slot in batch.drain(..) {
                self.lose_unsent(slot);
            }
        }
        let empty = std::mem::replace(&mut self.outboxes[core], batch);
        self.spare.push(empty);
    }

    fn publish(&mut self) {
        self.settle_owed();
        if self.published_bytes != self.queued_bytes {
            let (from, to) = (self.published_bytes as usize, self.queued_bytes as usize);
            self.shared.memory.adjust(MemoryKind::Queues, from, to);
            self.published_bytes = self.queued_bytes;
        }
        self.buffers.settle();
        self.shared.memory.tell_waiting();
        if self.remote().has_blocked() {
            self.remote().room.notify();
        }
    }

    fn has_work(&self) -> bool {
        !self.queue.is_empty()
            || !self.system.is_empty()
            || !self.starting.is_empty()
            || !self.requeued.is_empty()
            || !self.flush_due.is_empty()
    }

    /// The last breath: whoever still sends, asks or watches is told that nobody is here.
    fn end(&mut self) {
        self.ended = true;
        self.remote().close();
        self.take_mail();
        while !self.system.is_empty() {
            self.drain_system();
        }
        while let Some(slot) = self.queue.pop() {
            self.lose(slot);
        }
        for core in 0..self.outboxes.len() {
            for slot in std::mem::take(&mut self.outboxes[core]) {
                self.lose_unsent(slot);
            }
        }
        for (_, (answer, _)) in std::mem::take(&mut self.expiring) {
            answer.give_up();
        }
        self.publish();
        self.remote().room.notify();
    }

    /// Drops a message that can no longer reach another core.
    fn lose_unsent(&mut self, slot: Slot) {
        self.queued_bytes -= slot.bytes as isize;
        self.undeliverable(slot);
    }

    /// Stops every actor; the core ends when the last is gone.
    pub(crate) fn shut_down(&mut self) {
        self.shutting_down = true;
        for index in 0..self.cells.len() {
            let cell = &self.cells[index];
            if cell.is_alive() && cell.parent == NONE {
                let id = ActorId::new(self.index, index as u32, cell.generation);
                self.request_stop(id, StopReason::Shutdown);
            }
        }
    }

    /// Ends what did not stop in time.
    pub(crate) fn kill_all(&mut self) {
        self.shutting_down = true;
        for index in 0..self.cells.len() {
            if self.cells[index].is_alive() {
                let id = ActorId::new(self.index, index as u32, self.cells[index].generation);
                self.remove(id, StopReason::Shutdown);
            }
        }
    }

    pub(crate) fn cell(&self, id: ActorId) -> Option<&Cell> {
        self.cells
            .get(id.index())
            .filter(|cell| cell.generation == id.generation() && cell.is_alive())
            .filter(|_| id.core() == self.index)
    }

    pub(crate) fn cell_mut(&mut self, id: ActorId) -> Option<&mut Cell> {
        let is_here = id.core() == self.index;
        self.cells.get_mut(id.index()).filter(|cell| {
            is_here && cell.generation == id.generation() && cell.state != State::Free
        })
    }

    pub(crate) fn id_at(&self, index: u32) -> Option<ActorId> {
        let cell = self.cells.get(index as usize)?;
        cell.is_alive()
            .then(|| ActorId::new(self.index, index, cell.generation))
    }

    /// The core's read buffer, made at first use.
    pub(crate) fn take_read_buffer(&mut self) -> Box<[u8]> {
        if self.read_buffer.is_empty() {
            return vec![0; READ_BUFFER_SIZE].into_boxed_slice();
        }
        std::mem::take(&mut self.read_buffer)
    }

    pub(crate) fn note_stall(&mut self, what: String, duration: Duration) {
        // Not a warning: a core that the machine had no time for looks the same.
        log::info!("core {}: {what} held the core for {duration:?}", self.index);
        self.stats.stalls_total = self.stats.stalls_total.wrapping_add(1);
        if self.stats.stalls.len() == STALLS_KEPT {
            self.stats.stalls.remove(0);
        }
        self.stats.stalls.push(Stall { what, duration });
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if !self.ended {
            // A simulated crash. What waits is dropped with everything else.
            self.remote().close();
            self.take_mail();
            self.remote().room.notify();
        }
        for index in 0..self.cells.len() {
            if let Some(actor) = self.cells[index].actor.take() {
                // SAFETY: the core is being dropped, so no call runs and no copy is used again.
                if catch_unwind(AssertUnwindSafe(|| unsafe { actor.drop_actor() })).is_err() {
                    log::error!("core {}: dropping an actor panicked", self.index);
                }
            }
        }
    }
}
