//! A hierarchical timer wheel.
//!
//! Five levels of 64 slots, one millisecond a tick at the lowest; the place of a timer follows from the highest bit in
//! which its tick differs from the current one. So slots never wrap: the first occupied slot of the lowest occupied
//! level always holds the next timer, and a bitmap a level finds it in a few instructions. A timer moves down at most
//! once a level. What lies beyond the current block of 2^30 ticks (12.4 days) waits in an ordered map.
//!
//! A timer is 24 bytes. Arming and cancelling touch its own node, one neighbour and one slot head.

use std::collections::BTreeMap;
use std::time::Duration;

use super::memory::reserve_one;
use crate::time::Instant;

/// Length of a tick in nanoseconds.
const TICK: u64 = 1_000_000;
const LEVELS: usize = 5;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Bits of a tick that the levels together resolve.
const WHEEL_BITS: u32 = SLOT_BITS * LEVELS as u32;
const WHEEL_MASK: u64 = (1 << WHEEL_BITS) - 1;
/// Nodes of one slot that [`Wheel::next_deadline`] looks at for the exact instant. In a fuller slot it answers with
/// the start of the slot, which costs at most one early wake-up for so many timers.
const SCAN_MAX: usize = 64;
/// Nodes that an empty wheel keeps.
const NODES_KEPT: usize = 256;
const NIL: u32 = u32::MAX;

/// An armed timer. The id of one that has fired or was cancelled means nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

impl TimerId {
    /// Its place, for [`Wheel::find`]. Another timer may have it afterwards.
    pub(crate) fn place(self) -> u32 {
        self.index
    }
}

/// A timer that has fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Whose it is, as given to [`Wheel::arm`].
    pub owner: u32,
    /// Which of the owner's, as given to [`Wheel::arm`].
    pub tag: u32,
    /// The id that [`Wheel::arm`] gave for it.
    pub id: TimerId,
}

/// The timers of one core.
pub struct Wheel {
    /// Every timer with a tick below this one has been delivered.
    tick: u64,
    /// The instant of the last [`Wheel::begin`].
    now: Instant,
    /// `armed` at that time.
    armed_before: u32,
    nodes: Vec<Node>,
    free: u32,
    len: usize,
    /// Counts arms; its low bits are the generations of ids.
    armed: u32,
    occupied: [u64; LEVELS],
    /// First node of each slot's ring.
    heads: [[u32; SLOTS]; LEVELS],
    /// Timers beyond the wheel by tick and order of arming.
    overflow: BTreeMap<(u64, u32), u32>,
    overflow_armed: u32,
    /// The next tick at which something is due, if it is known.
    next: Option<u64>,
}

/// In a slot: a link of its ring. In the overflow: `previous` holds the tick above the wheel's bits and `following`
/// the second half of the map's key. Free: `following` is the next free node.
struct Node {
    /// State in the two upper bits, low bits of the tick below.
    place: u32,
    generation: u32,
    previous: u32,
    following: u32,
    owner: u32,
    tag: u32,
}

const STATE_FREE: u32 = 0;
const STATE_WHEEL: u32 = 1 << WHEEL_BITS;
const STATE_OVERFLOW: u32 = 2 << WHEEL_BITS;
const STATE_MASK: u32 = 3 << WHEEL_BITS;

impl Wheel {
    /// An empty wheel whose time is `now`.
    pub fn new(now: Instant) -> Wheel {
        Wheel {
            tick: now.as_nanos() / TICK,
            now,
            armed_before: 0,
            nodes: Vec::new(),
            free: NIL,
            len: 0,
            armed: 0,
            occupied: [0; LEVELS],
            heads: [[NIL; SLOTS]; LEVELS],
            overflow: BTreeMap::new(),
            overflow_armed: 0,
            next: None,
        }
    }

    /// Arms a timer that fires at the first [`Wheel::advance`] to `at` or later, never before. It is allowed to be up
    /// to `slack` later than `at`, so that it shares a tick with others: of the ticks it may have it takes the one
    /// divisible by the highest power of two. One that lies in the past fires at the next advance.
    pub fn arm(&mut self, at: Instant, slack: Duration, owner: u32, tag: u32) -> TimerId {
        let tick = self.tick_for(at, slack);
        let index = self.take_node();
        let generation = self.armed;
        self.armed = self.armed.wrapping_add(1);
        self.len += 1;
        let node = &mut self.nodes[index as usize];
        node.generation = generation;
        node.owner = owner;
        node.tag = tag;
        self.place(index, tick);
        if self.len == 1 || self.next.is_some_and(|next| tick < next) {
            self.next = Some(tick);
        }
        TimerId { index, generation }
    }

    /// Takes a timer back. False if it has fired or was cancelled before.
    pub fn cancel(&mut self, id: TimerId) -> bool {
        let Some(node) = self.node(id) else {
            return false;
        };
        if node.place & STATE_MASK == STATE_OVERFLOW {
            let key = (node.overflow_tick(), node.following);
            self.overflow.remove(&key);
            self.forget_next(key.0);
        } else {
            let tick = self.tick & !WHEEL_MASK | node.low_tick();
            let (level, slot) = self.slot_of(tick);
            self.unlink(id.index, level, slot);
            self.forget_next(tick);
        }
        self.give_node(id.index);
        true
    }

    /// Takes all timers back whose owner `matches`, and says how many those were. Looks at every armed timer, so it is
    /// for the rare case: an owner that ends while timers of its are armed and whose ids it does not know.
    pub fn cancel_where(&mut self, mut matches: impl FnMut(u32) -> bool) -> usize {
        let mut cancelled = 0;
        for index in 0..self.nodes.len() {
            // The nodes may go with the last timer.
            let Some(node) = self.nodes.get(index) else {
                break;
            };
            if node.place & STATE_MASK != STATE_FREE && matches(node.owner) {
                let id = TimerId {
                    index: index as u32,
                    generation: node.generation,
                };
                cancelled += usize::from(self.cancel(id));
            }
        }
        cancelled
    }

    /// The owner of a timer, if it is armed.
    pub fn owner(&self, id: TimerId) -> Option<u32> {
        self.node(id).map(|node| node.owner)
    }

    /// The timer that stands at a place, if it is armed and `owner`'s.
    pub(crate) fn find(&self, place: u32, owner: u32) -> Option<TimerId> {
        let node = self.nodes.get(place as usize)?;
        let is_armed = node.place & STATE_MASK != STATE_FREE;
        (is_armed && node.owner == owner).then_some(TimerId {
            index: place,
            generation: node.generation,
        })
    }

    /// When a timer fires, if it is armed: between the instant it was armed for and the end of its slack.
    pub fn due(&self, id: TimerId) -> Option<Instant> {
        let node = self.node(id)?;
        let tick = if node.place & STATE_MASK == STATE_OVERFLOW {
            node.overflow_tick()
        } else {
            self.tick & !WHEEL_MASK | node.low_tick()
        };
        Some(Instant::from_nanos(tick.saturating_mul(TICK)))
    }

    fn node(&self, id: TimerId) -> Option<&Node> {
        let node = self.nodes.get(id.index as usize)?;
        let is_armed = node.generation == id.generation && node.place & STATE_MASK != STATE_FREE;
        is_armed.then_some(node)
    }

    /// When to call [`Wheel::advance`] next. Never later than the first timer is due, and with up to 64 timers near
    /// each other exactly then.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        if self.len == 0 {
            return None;
        }
        let next = match self.next {
            Some(next) => next,
            None => {
                let next = self.find_next();
                self.next = Some(next);
                next
            }
        };
        // A timer armed in the past has the current tick, whose start may lie before `now`.
        Some(Instant::from_nanos(next.saturating_mul(TICK)))
    }

    /// Moves the wheel's time on to `now` and calls `each` for every timer that is due: in order of their ticks, equal
    /// ones in the order in which they were armed. A timer armed meanwhile, after this returns, waits for the next
    /// call. Time never goes back: an earlier `now` counts as the latest one.
    pub fn advance(&mut self, now: Instant, each: &mut dyn FnMut(Expired)) {
        self.begin(now);
        while let Some(expired) = self.pop() {
            each(expired);
        }
    }

    /// [`Wheel::advance`] in steps: moves the wheel's time on to `now`. Then [`Wheel::pop`] gives the timers that are
    /// due one by one, and each may still be cancelled until it is given.
    pub fn begin(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.armed_before = self.armed;
    }

    /// The next timer that is due and was armed before [`Wheel::begin`]. To be called until it gives `None`.
    pub fn pop(&mut self) -> Option<Expired> {
        let target = self.target();
        while let Some((level, slot, start)) = self.first_slot() {
            if start > target {
                break;
            }
            match level {
                0 => {
                    let head = &self.nodes[self.heads[0][slot] as usize];
                    // What was armed since is due at `target`, and stands behind all that is due besides.
                    if head.generation.wrapping_sub(self.armed_before) as i32 >= 0 {
                        break;
                    }
                    self.next = None;
                    self.tick = start;
                    return Some(self.expire(slot));
                }
                LEVELS => {
                    self.tick = start;
                    self.enter_block();
                }
                _ => {
                    self.tick = start;
                    self.cascade(level, slot);
                }
            }
        }
        self.tick = target;
        self.next = self.next.filter(|&next| next > target);
        None
    }

    /// The tick up to which timers are due.
    fn target(&self) -> u64 {
        self.now.as_nanos() / TICK
    }

    /// How many timers are armed.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is armed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that the wheel holds on the heap, without the overflow's tree.
    pub fn heap_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
    }

    fn tick_for(&self, at: Instant, slack: Duration) -> u64 {
        if at <= self.now {
            return self.target();
        }
        let earliest = at.as_nanos().div_ceil(TICK);
        let latest = (at.saturating_add(slack).as_nanos() / TICK).max(earliest);
        if latest == earliest {
            return earliest;
        }
        // The bits below the highest one in which the bounds of (earliest - 1, latest] differ can all be zero.
        let low_bits = 63 - ((earliest - 1) ^ latest).leading_zeros();
        latest >> low_bits << low_bits
    }

    /// The level and slot of a tick that lies in the current block of the wheel.
    fn slot_of(&self, tick: u64) -> (usize, usize) {
        let differing = (tick ^ self.tick) | 1;
        let level = (63 - differing.leading_zeros()) / SLOT_BITS;
        let slot = (tick >> (level * SLOT_BITS)) as usize & (SLOTS - 1);
        (level as usize, slot)
    }

    /// Puts a node where its tick belongs, after those that are there.
    fn place(&mut self, index: u32, tick: u64) {
        if (tick ^ self.tick) >> WHEEL_BITS != 0 {
            let order = self.overflow_armed;
            self.overflow_armed = order.wrapping_add(1);
            let node = &mut self.nodes[index as usize];
            node.place = STATE_OVERFLOW | (tick & WHEEL_MASK) as u32;
            // A tick is below 2^45, since an instant is below 2^64 nanoseconds.
            node.previous = (tick >> WHEEL_BITS) as u32;
            node.following = order;
            self.overflow.insert((tick, order), index);
            return;
        }
        let (level, slot) = self.slot_of(tick);
        let head = self.heads[level][slot];
        let previous = if head == NIL {
            self.heads[level][slot] = index;
            self.occupied[level] |= 1 << slot;
            index
        } else {
            let last = std::mem::replace(&mut self.nodes[head as usize].previous, index);
            self.nodes[last as usize].following = index;
            last
        };
        let node = &mut self.nodes[index as usize];
        node.place = STATE_WHEEL | (tick & WHEEL_MASK) as u32;
        node.previous = previous;
        node.following = if head == NIL { index } else { head };
    }

    fn unlink(&mut self, index: u32, level: usize, slot: usize) {
        let Node {
            previous,
            following,
            ..
        } = self.nodes[index as usize];
        if following == index {
            self.heads[level][slot] = NIL;
            self.occupied[level] &= !(1 << slot);
            return;
        }
        self.nodes[previous as usize].following = following;
        self.nodes[following as usize].previous = previous;
        if self.heads[level][slot] == index {
            self.heads[level][slot] = following;
        }
    }

    /// The slot with the next timer and its first tick; level [`LEVELS`] stands for the overflow.
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        for level in 0..LEVELS {
            if self.occupied[level] != 0 {
                let slot = self.occupied[level].trailing_zeros();
                let shift = level as u32 * SLOT_BITS;
                let above = self.tick >> (shift + SLOT_BITS) << SLOT_BITS;
                return Some((level, slot as usize, (above | u64::from(slot)) << shift));
            }
        }
        let ((tick, _), _) = self.overflow.first_key_value()?;
        Some((LEVELS, 0, tick & !WHEEL_MASK))
    }

    fn find_next(&self) -> u64 {
        let (level, slot, start) = self.first_slot().expect("called with timers armed");
        if level == 0 {
            return start;
        }
        if level == LEVELS {
            return self
                .overflow
                .first_key_value()
                .map_or(start, |((tick, _), _)| *tick);
        }
        let head = self.heads[level][slot];
        let (mut index, mut next) = (head, u64::MAX);
        for _ in 0..SCAN_MAX {
            let node = &self.nodes[index as usize];
            next = next.min(self.tick & !WHEEL_MASK | node.low_tick());
            index = node.following;
            if index == head {
                return next;
            }
        }
        start
    }

    fn forget_next(&mut self, tick: u64) {
        if self.next.is_some_and(|next| next >= tick) {
            self.next = None;
        }
    }

    /// Spreads a slot whose time has come over the levels below, in its order.
    fn cascade(&mut self, level: usize, slot: usize) {
        let head = std::mem::replace(&mut self.heads[level][slot], NIL);
        self.occupied[level] &= !(1 << slot);
        let mut index = head;
        loop {
            let node = &self.nodes[index as usize];
            let (following, tick) = (node.following, self.tick & !WHEEL_MASK | node.low_tick());
            self.place(index, tick);
            if following == head {
                return;
            }
            index = following;
        }
    }

    /// Takes the timers of the block that `tick` has just entered out of the overflow.
    fn enter_block(&mut self) {
        let next_block = ((self.tick >> WHEEL_BITS) + 1) << WHEEL_BITS;
        let later = self.overflow.split_off(&(next_block, 0));
        for ((tick, _), index) in std::mem::replace(&mut self.overflow, later) {
            self.place(index, tick);
        }
    }

    /// Takes the first timer out of a slot of the lowest level.
    fn expire(&mut self, slot: usize) -> Expired {
        let index = self.heads[0][slot];
        self.unlink(index, 0, slot);
        let node = &self.nodes[index as usize];
        let id = TimerId {
            index,
            generation: node.generation,
        };
        let (owner, tag) = (node.owner, node.tag);
        self.give_node(index);
        Expired { owner, tag, id }
    }

    fn take_node(&mut self) -> u32 {
        if self.free != NIL {
            let index = self.free;
            self.free = self.nodes[index as usize].following;
            return index;
        }
        let index = u32::try_from(self.nodes.len())
            .ok()
            .filter(|&index| index != NIL);
        let index = index.expect("four thousand million timers do not fit into memory");
        reserve_one(&mut self.nodes);
        self.nodes.push(Node {
            place: STATE_FREE,
            generation: 0,
            previous: NIL,
            following: NIL,
            owner: 0,
            tag: 0,
        });
        index
    }

    fn give_node(&mut self, index: u32) {
        self.len -= 1;
        if self.len == 0 && self.nodes.len() > NODES_KEPT {
            // Generations are counted over the whole wheel, so ids of the nodes let go here stay dead.
            self.nodes = Vec::new();
            self.free = NIL;
            return;
        }
        let node = &mut self.nodes[index as usize];
        node.place = STATE_FREE;
        node.following = self.free;
        self.free = index;
    }
}

impl Node {
    fn low_tick(&self) -> u64 {
        u64::from(self.place & !STATE_MASK)
    }

    fn overflow_tick(&self) -> u64 {
        u64::from(self.previous) << WHEEL_BITS | self.low_tick()
    }
}

impl std::fmt::Debug for Wheel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wheel")
            .field("len", &self.len)
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "wheel_tests.rs"]
mod tests;
