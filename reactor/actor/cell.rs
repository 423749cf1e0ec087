//! The erased form of an actor: its place on a core.

use std::any::TypeId;
use std::time::Duration;

use super::address::IdSet;
use super::child::{Make, Restart};
use super::context::Context;
use super::core::Core;
use super::shared::NodeId;
use super::slot::{Data, MessageVtable, Slot};
use super::{Actor, ActorId, Drain, Event, Failure, MailboxLimits, Reply, StopReason};
use crate::time::Instant;

/// No actor, no socket: the end of a list that is linked by places.
pub(crate) const NONE: u32 = u32::MAX;

/// What has to be known of an actor type once its name is forgotten. Every function takes the pointer that
/// [`ActorBox`] holds.
pub(crate) struct ActorVtable {
    handle: unsafe fn(*mut (), *const Data, &mut Core, ActorId) -> Result<(), Failure>,
    event: unsafe fn(*mut (), Event<'_>, &mut Core, ActorId) -> Result<(), Failure>,
    started: unsafe fn(*mut (), &mut Core, ActorId) -> Result<(), Failure>,
    stopping: unsafe fn(*mut (), &StopReason, &mut Core, ActorId) -> Drain,
    heap_bytes: unsafe fn(*const ()) -> usize,
    drop: unsafe fn(*mut ()),
    pub(crate) message: &'static MessageVtable,
    pub(crate) type_id: TypeId,
    pub(crate) type_name: fn() -> &'static str,
    pub(crate) size: usize,
}

impl ActorVtable {
    pub(crate) fn of<A: Actor>() -> &'static ActorVtable {
        const {
            &ActorVtable {
                handle: handle::<A>,
                event: event::<A>,
                started: started::<A>,
                stopping: stopping::<A>,
                heap_bytes: heap_bytes::<A>,
                drop: drop_actor::<A>,
                message: message_vtable::<A>(),
                type_id: TypeId::of::<A>(),
                type_name: std::any::type_name::<A>,
                size: size_of::<A>(),
            }
        }
    }
}

const fn message_vtable<A: Actor>() -> &'static MessageVtable {
    const { MessageVtable::of::<A::Message>() }
}

/// A boxed actor whose type only its table knows.
///
/// The core calls into an actor with a copy of the pointer while it is itself lent to the [`Context`]. That is sound
/// because nothing reachable from a `Context` touches the boxed actor: it is freed only by the scheduler, between
/// calls, and the scheduler never calls into an actor from within a call.
#[derive(Clone, Copy)]
pub(crate) struct ActorRef {
    pointer: *mut (),
    vtable: &'static ActorVtable,
}

impl ActorRef {
    pub(crate) fn new<A: Actor>(actor: A) -> ActorRef {
        ActorRef {
            pointer: Box::into_raw(Box::new(actor)).cast(),
            vtable: ActorVtable::of::<A>(),
        }
    }

    pub(crate) fn vtable(&self) -> &'static ActorVtable {
        self.vtable
    }

    /// Moves the message out of `data` before anything else happens, and hands it over.
    ///
    /// # Safety
    /// The actor has not been dropped and no call into it is running. `data` is that of a slot of its message type, and
    /// nobody else moves out or drops what is in it.
    #[inline]
    pub(crate) unsafe fn handle(
        self,
        data: *const Data,
        core: &mut Core,
        id: ActorId,
    ) -> Result<(), Failure> {
        // SAFETY: passed on to the caller.
        unsafe { (self.vtable.handle)(self.pointer, data, core, id) }
    }

    /// # Safety
    /// The actor has not been dropped and no call into it is running.
    pub(crate) unsafe fn event(
        self,
        event: Event<'_>,
        core: &mut Core,
        id: ActorId,
    ) -> Result<(), Failure> {
        // SAFETY: passed on to the caller.
        unsafe { (self.vtable.event)(self.pointer, event, core, id) }
    }

    /// # Safety
    /// As for [`ActorRef::event`].
    pub(crate) unsafe fn started(self, core: &mut Core, id: ActorId) -> Result<(), Failure> {
        // SAFETY: passed on to the caller.
        unsafe { (self.vtable.started)(self.pointer, core, id) }
    }

    /// # Safety
    /// As for [`ActorRef::event`].
    pub(crate) unsafe fn stopping(
        self,
        reason: &StopReason,
        core: &mut Core,
        id: ActorId,
    ) -> Drain {
        // SAFETY: passed on to the caller.
        unsafe { (self.vtable.stopping)(self.pointer, reason, core, id) }
    }

    /// # Safety
    /// As for [`ActorRef::event`].
    pub(crate) unsafe fn heap_bytes(self) -> usize {
        // SAFETY: passed on to the caller.
        unsafe { (self.vtable.heap_bytes)(self.pointer) }
    }

    /// # Safety
    /// As for [`ActorRef::event`]; and the actor is not used again through any copy.
    pub(crate) unsafe fn drop_actor(self) {
        // SAFETY: passed on to the caller.
        unsafe { (self.vtable.drop)(self.pointer) }
    }
}

unsafe fn handle<A: Actor>(
    actor: *mut (),
    data: *const Data,
    core: &mut Core,
    id: ActorId,
) -> Result<(), Failure> {
    // SAFETY: `ActorRef::new::<A>` made the pointer, and the caller of `ActorRef::handle` vouches for the data.
    let (actor, message) = unsafe { (&mut *actor.cast::<A>(), Slot::take::<A::Message>(data)) };
    actor.handle(message, &mut Context::new(core, id))
}

unsafe fn event<A: Actor>(
    actor: *mut (),
    event: Event<'_>,
    core: &mut Core,
    id: ActorId,
) -> Result<(), Failure> {
    // SAFETY: `ActorRef::new::<A>` made the pointer, and its callers keep it alive and unaliased.
    let actor = unsafe { &mut *actor.cast::<A>() };
    actor.on_event(event, &mut Context::new(core, id))
}

unsafe fn started<A: Actor>(actor: *mut (), core: &mut Core, id: ActorId) -> Result<(), Failure> {
    // SAFETY: as in `event`.
    let actor = unsafe { &mut *actor.cast::<A>() };
    actor.started(&mut Context::new(core, id))
}

unsafe fn stopping<A: Actor>(
    actor: *mut (),
    reason: &StopReason,
    core: &mut Core,
    id: ActorId,
) -> Drain {
    // SAFETY: as in `event`.
    let actor = unsafe { &mut *actor.cast::<A>() };
    actor.stopping(reason, &mut Context::new(core, id))
}

unsafe fn heap_bytes<A: Actor>(actor: *const ()) -> usize {
    // SAFETY: as in `event`, for reading.
    unsafe { &*actor.cast::<A>() }.heap_bytes()
}

unsafe fn drop_actor<A: Actor>(actor: *mut ()) {
    // SAFETY: `ActorRef::new::<A>` made the pointer from a box, and `ActorRef::drop_actor` is the last use.
    drop(unsafe { Box::from_raw(actor.cast::<A>()) });
}

/// Where an actor is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum State {
    /// The place is free.
    Free,
    /// `started` has not run yet.
    Starting,
    /// Failed, to be made anew: it waits for its children to go or for its back-off.
    Restarting,
    /// This one and those that follow take messages and events.
    Running,
    /// Asked to stop: it waits for its children to go.
    Closing,
    /// `stopping` asked for time.
    Draining,
}

/// The place of an actor. With the allocator's word for the actor itself this is all that an idle actor costs beside
/// its state, so its size is watched by a test.
#[repr(C)]
pub(crate) struct Cell {
    // What `is_open_to` looks at comes first, side by side.
    pub(crate) generation: u32,
    pub(crate) state: State,
    /// Somebody waits for room: see `Extras::askers`.
    pub(crate) has_askers: bool,
    /// `Event::Flush` is due at the end of this turn.
    pub(crate) flush_due: bool,
    /// It stands in `Core::watching_interfaces`.
    pub(crate) watches_interfaces: bool,
    pub(crate) actor: Option<ActorRef>,
    /// How many more messages of its own core may wait. Counted down from its bound, which needs no place here then.
    pub(crate) room: u32,
    /// The least that `room` has been.
    pub(crate) room_min: u32,
    pub(crate) messages: u32,
    pub(crate) queued_bytes: u32,
    // All above is what a message touches.
    pub(crate) parent: u32,
    pub(crate) first_child: u32,
    /// While the place is free: the next free one.
    pub(crate) next_sibling: u32,
    pub(crate) previous_sibling: u32,
    /// First of the sockets it owns.
    pub(crate) first_socket: u32,
    /// First of the questions it has asked.
    pub(crate) first_ask: u32,
    pub(crate) node: NodeId,
    /// Place in the wheel of the timer armed for `wake`, perhaps for an earlier one; `NONE` if there is none. The timer
    /// names this actor as its owner, so its generation need not be kept.
    pub(crate) wake_timer: u32,
    /// When `Event::Wake` is wanted.
    pub(crate) wake: Wake,
    /// Timers armed with a tag. A free place whose last tenant left some is not used again until they are gone.
    pub(crate) timers: u32,
    pub(crate) busy_us: u32,
    pub(crate) extras: Option<Box<Extras>>,
}

/// A deadline, in whole milliseconds of the clock, and in the lower 16 bits the milliseconds that it may be late.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wake(u64);

impl Wake {
    pub(crate) const NEVER: Wake = Wake(u64::MAX);

    /// A deadline that is not before `at`, or one in the past if `at` is not after `now`. The wheel's ticks are
    /// milliseconds, too, so nothing comes later for that.
    pub(crate) fn new(at: Instant, slack: Duration, now: Instant) -> Wake {
        let slack = u16::try_from(slack.as_millis()).unwrap_or(u16::MAX);
        // 2^64 nanoseconds are less than 2^45 milliseconds.
        let millis = if at > now {
            at.as_nanos().div_ceil(1_000_000)
        } else {
            0
        };
        Wake(millis << 16 | u64::from(slack))
    }

    /// When, and how much later it may be.
    pub(crate) fn get(self) -> Option<(Instant, Duration)> {
        let at = Instant::from_nanos((self.0 >> 16).saturating_mul(1_000_000));
        let slack = Duration::from_millis(self.0 & 0xffff);
        (self != Wake::NEVER).then_some((at, slack))
    }
}

impl Cell {
    pub(crate) fn free(generation: u32) -> Cell {
        Cell {
            generation,
            state: State::Free,
            has_askers: false,
            flush_due: false,
            watches_interfaces: false,
            actor: None,
            room: 0,
            room_min: 0,
            messages: 0,
            queued_bytes: 0,
            parent: NONE,
            first_child: NONE,
            next_sibling: NONE,
            previous_sibling: NONE,
            first_socket: NONE,
            first_ask: NONE,
            node: NodeId(0),
            wake_timer: NONE,
            wake: Wake::NEVER,
            timers: 0,
            busy_us: 0,
            extras: None,
        }
    }

    pub(crate) fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    /// Whether a message for `generation` can be handed to the actor with nothing else to do.
    #[inline]
    pub(crate) fn is_open_to(&self, generation: u32) -> bool {
        let key = |generation, state: State, has_askers| {
            u64::from(generation) | (state as u64) << 32 | u64::from(has_askers) << 40
        };
        // Put so that it takes one look.
        key(self.generation, self.state, self.has_askers) == key(generation, State::Running, false)
    }

    /// The bounds of its mailbox, which are nearly always the runtime's.
    pub(crate) fn limits(&self, usual: MailboxLimits) -> MailboxLimits {
        let own = self.extras.as_ref().and_then(|extras| extras.limits);
        own.unwrap_or(usual).at_least_one()
    }

    /// Messages of its own core that wait.
    pub(crate) fn queued(&self, usual: MailboxLimits) -> u32 {
        self.limits(usual).messages - self.room
    }

    /// Most messages of its own core that ever waited.
    pub(crate) fn high_water(&self, usual: MailboxLimits) -> u32 {
        self.limits(usual).messages - self.room_min
    }

    /// Whether it can be sent anything.
    pub(crate) fn is_alive(&self) -> bool {
        self.state != State::Free
    }
}

/// What few actors need, or only for a short time.
#[derive(Default)]
pub(crate) struct Extras {
    pub(crate) factory: Option<Box<dyn FnMut() -> ActorRef>>,
    pub(crate) restart: Option<Restart>,
    pub(crate) restarts: u32,
    pub(crate) window_start: Instant,
    pub(crate) restarts_total: u32,
    /// Messages that came while it was restarting, counted as if they still stood in the run-queue.
    pub(crate) parked: Vec<Slot>,
    /// Who is told when it ends.
    pub(crate) watchers: IdSet,
    /// Whose end it is told.
    pub(crate) watching: IdSet,
    /// Threads outside that are told when it ends.
    pub(crate) mourners: Vec<Reply<StopReason>>,
    /// Who is told when its mailbox has room.
    pub(crate) askers: IdSet,
    pub(crate) name: Option<&'static str>,
    pub(crate) stop_reason: Option<StopReason>,
    pub(crate) dropped: u32,
    pub(crate) restart_pause: Duration,
    /// It never started or its last incarnation failed, so there is nobody to ask for `stopping`.
    pub(crate) skips_stopping: bool,
    /// Bounds of its mailbox that are not the runtime's. The remote gauge has them, too.
    pub(crate) limits: Option<MailboxLimits>,
}

/// Forgets the type of a child's recipe.
pub(crate) fn erase<A: Actor>(make: Make<A>) -> (ActorRef, Option<Box<dyn FnMut() -> ActorRef>>) {
    match make {
        Make::Once(actor) => (ActorRef::new(actor), None),
        Make::Factory(mut factory) => {
            let actor = ActorRef::new(factory());
            (actor, Some(Box::new(move || ActorRef::new(factory()))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_actor_costs_little_beside_its_state() {
        assert_eq!(size_of::<Cell>(), 96);
        assert!(size_of::<Extras>() <= 288, "{}", size_of::<Extras>());
    }
}
