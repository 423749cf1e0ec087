//! The run-queue: a ring of messages, whose places are read where they stand.

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use super::slot::{Lane, MessageVtable, Slot};
use super::{ActorId, Message};

/// Places that an empty queue keeps.
const KEPT: usize = 1024;
const FIRST: usize = 512;
/// Messages that can be asked for after they were taken out.
pub(crate) const REMEMBERED: usize = 256;

/// A first-in, first-out queue that grows by doubling.
pub(crate) struct RunQueue {
    /// The ring; a power of two, or nothing. What lies from `head` to `tail` is initialised, and of the `REMEMBERED` places
    /// before `head` so are the receiver and the table. Those are never used for messages that come.
    places: Vec<MaybeUninit<Slot>>,
    /// The size of the ring less one.
    mask: usize,
    /// Counts what was taken out, modulo the word size.
    head: usize,
    /// Counts what was put in.
    tail: usize,
    /// Messages that actors of this core may have put in. What comes from elsewhere is bounded there.
    max: usize,
    /// Up to so many there is room without a closer look: the least of `max` and what the ring takes.
    roomy: usize,
}

impl RunQueue {
    pub(crate) fn new(max: usize) -> RunQueue {
        RunQueue {
            places: Vec::new(),
            mask: 0,
            head: 0,
            tail: 0,
            max,
            roomy: 0,
        }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.tail.wrapping_sub(self.head)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Counts what was ever taken out, modulo the word size.
    #[inline]
    pub(crate) fn taken(&self) -> usize {
        self.head
    }

    /// Whether an actor of this core may put a message in; then there is a place for it.
    #[inline(always)]
    pub(crate) fn has_room(&mut self) -> bool {
        self.len() < self.roomy || self.make_room()
    }

    #[cold]
    #[inline(never)]
    fn make_room(&mut self) -> bool {
        if self.len() >= self.max {
            return false;
        }
        self.make_place();
        true
    }

    /// Grows unless there is a place for one more.
    #[inline]
    fn make_place(&mut self) {
        if self.len() + REMEMBERED >= self.places.len() {
            self.grow();
        }
    }

    #[inline]
    fn place(&mut self, count: usize) -> *mut Slot {
        debug_assert!(self.places.len().is_power_of_two(), "there is a place");
        debug_assert_eq!(self.mask, self.places.len() - 1);
        // SAFETY: the mask keeps the index below the length, which is a power of two wherever this is called.
        unsafe { self.places.as_mut_ptr().add(count & self.mask).cast() }
    }

    /// Puts in a message from elsewhere, or of the system lane.
    #[inline]
    pub(crate) fn push(&mut self, slot: Slot) {
        self.make_place();
        let place = self.place(self.tail);
        // SAFETY: the ring has room, so the place behind the last message is nobody's.
        unsafe { place.write(slot) };
        self.tail = self.tail.wrapping_add(1);
    }

    /// Puts in a message of this core, counted as so many bytes. It is written where it will stand.
    ///
    /// # Safety
    /// [`RunQueue::has_room`] has just said so.
    #[inline(always)]
    pub(crate) unsafe fn push_new<M: Message>(&mut self, to: ActorId, message: M, bytes: u32) {
        debug_assert!(self.len() + REMEMBERED < self.places.len(), "there is room");
        let place = self.place(self.tail);
        // SAFETY: the ring has room, so the place behind the last message is nobody's.
        unsafe { Slot::write(place, to, message, bytes, Lane::Local) };
        self.tail = self.tail.wrapping_add(1);
    }

    /// Puts a message before all others.
    pub(crate) fn push_front(&mut self, slot: Slot) {
        self.make_place();
        self.head = self.head.wrapping_sub(1);
        let place = self.place(self.head);
        let oldest = self.place(self.head.wrapping_sub(REMEMBERED));
        // SAFETY: the ring has room for one more and for all that is remembered, so both places are nobody's.
        unsafe {
            place.write(slot);
            forget(oldest);
        }
    }

    /// The first message, where it stands.
    #[inline]
    pub(crate) fn first(&mut self) -> Option<NonNull<Slot>> {
        if self.is_empty() {
            return None;
        }
        NonNull::new(self.place(self.head))
    }

    /// Takes the first message out, but leaves it where it stands: whoever calls this moves it from there, or out of its
    /// data, before anything is put into the queue.
    ///
    /// # Safety
    /// The queue is not empty.
    #[inline]
    pub(crate) unsafe fn advance(&mut self) {
        debug_assert!(!self.is_empty(), "the caller has looked");
        self.head = self.head.wrapping_add(1);
    }

    /// For whom, and what, the message was that was taken out so many before the last one: 1 for the last itself.
    pub(crate) fn remembered(&mut self, back: usize) -> Option<(ActorId, &'static MessageVtable)> {
        if self.places.is_empty() || back == 0 || back > REMEMBERED {
            return None;
        }
        let place = self.place(self.head.wrapping_sub(back));
        // SAFETY: of this place before the head receiver and table are initialised; both are plain data.
        let (to, vtable) = unsafe { ((*place).to, (*place).vtable) };
        (to != NOBODY).then_some((to, vtable))
    }

    pub(crate) fn pop(&mut self) -> Option<Slot> {
        let first = self.first()?;
        // SAFETY: the queue is not empty, and the message is moved out at once.
        unsafe {
            self.advance();
            Some(first.read())
        }
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        let size = (self.places.len() * 2).max(FIRST);
        let mut places = Vec::with_capacity(size);
        for count in 0..self.len() {
            let place = self.place(self.head.wrapping_add(count));
            // SAFETY: every message is moved once, and the old ring holds none of them afterwards.
            places.push(MaybeUninit::new(unsafe { place.read() }));
        }
        places.resize_with(size, MaybeUninit::uninit);
        for back in 1..=REMEMBERED {
            let remembered = self.remembered(back);
            let place: *mut Slot = places[size - back].as_mut_ptr();
            // SAFETY: the place is inside the new ring, behind its messages.
            unsafe {
                forget(place);
                if let Some((to, vtable)) = remembered {
                    (&raw mut (*place).to).write(to);
                    (&raw mut (*place).vtable).write(vtable);
                }
            }
        }
        self.tail = self.len();
        self.head = 0;
        self.places = places;
        self.mask = size - 1;
        self.roomy = self.max.min(size - REMEMBERED);
    }

    /// Gives back what a burst made an empty queue grow to.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() && self.places.len() > KEPT {
            self.places = Vec::new();
            self.roomy = 0;
        }
    }
}

/// No actor: generations begin with 1.
const NOBODY: ActorId = ActorId::NOBODY;

/// Has a place remember nothing.
///
/// # Safety
/// The place is valid for writing, and what is there needs no drop.
unsafe fn forget(place: *mut Slot) {
    // SAFETY: the caller vouches for the place.
    unsafe {
        (&raw mut (*place).to).write(NOBODY);
        (&raw mut (*place).vtable).write(MessageVtable::of::<()>());
    }
}

impl Drop for RunQueue {
    fn drop(&mut self) {
        while let Some(slot) = self.pop() {
            drop(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    struct Counted(
        #[expect(dead_code, reason = "held for its drop")] Arc<()>,
        u32,
    );
    impl Message for Counted {}

    fn slot(count: &Arc<()>, number: u32) -> Slot {
        Slot::new(ActorId::new(0, 0, 1), Counted(count.clone(), number))
    }

    fn number(slot: Slot) -> u32 {
        slot.downcast::<Counted>().ok().expect("it is one").1
    }

    #[test]
    fn messages_come_out_in_order_however_the_ring_turns() {
        let count = Arc::new(());
        let mut queue = RunQueue::new(10_000);
        let (mut put, mut taken) = (0, 0);
        for round in 0..300u32 {
            for _ in 0..round % 7 + round / 100 {
                queue.push(slot(&count, put));
                put += 1;
            }
            for _ in 0..round % 5 {
                if let Some(first) = queue.pop() {
                    assert_eq!(number(first), taken);
                    taken += 1;
                }
            }
            assert_eq!(queue.len(), (put - taken) as usize);
            assert_eq!(Arc::strong_count(&count), 1 + queue.len());
        }
        assert!(taken > 100 && queue.len() > 64);
        for number in [2, 1, 0] {
            queue.push_front(slot(&count, number));
        }
        for want in [0, 1, 2, taken] {
            assert_eq!(queue.pop().map(number), Some(want));
        }
        drop(queue);
        assert_eq!(Arc::strong_count(&count), 1, "what is left is dropped");
    }

    #[test]
    fn room_ends_at_the_bound_and_not_at_the_size_of_the_ring() {
        let count = Arc::new(());
        let mut queue = RunQueue::new(100);
        for number in 0..100 {
            assert!(queue.has_room());
            // SAFETY: there is room.
            unsafe { queue.push_new(ActorId::new(0, 0, 1), Counted(count.clone(), number), 0) };
        }
        assert!(!queue.has_room());
        queue.push(slot(&count, 100));
        assert!(!queue.has_room());
        for want in 0..2 {
            assert_eq!(queue.pop().map(number), Some(want));
        }
        assert!(queue.has_room());
    }

    #[test]
    fn what_was_taken_out_is_remembered_also_when_the_ring_grows() {
        let count = Arc::new(());
        let mut queue = RunQueue::new(10_000);
        assert!(queue.remembered(1).is_none());
        let to = |number| ActorId::new(0, number, 1);
        let last = |queue: &mut RunQueue, back| queue.remembered(back).map(|(to, _)| to);
        for number in 0..2000 {
            for _ in 0..2 {
                queue.push(Slot::new(to(number), Counted(count.clone(), number)));
            }
            assert_eq!(queue.pop().map(|slot| slot.to), Some(to(number / 2)));
            for back in [1, 2, 100, REMEMBERED] {
                let want =
                    (number as usize + 1 >= back).then(|| to((number + 1 - back as u32) / 2));
                assert_eq!(last(&mut queue, back), want, "{back} before {number}");
            }
        }
        assert!(queue.remembered(0).is_none() && queue.remembered(REMEMBERED + 1).is_none());
        // What is put to the front takes the places of what was remembered last.
        let before = last(&mut queue, 3);
        for _ in 0..2 {
            queue.push_front(slot(&count, 5));
        }
        assert_eq!(last(&mut queue, 1), before);
        assert!(queue.remembered(REMEMBERED - 2).is_some());
        assert!(
            queue.remembered(REMEMBERED).is_none() && queue.remembered(REMEMBERED - 1).is_none()
        );
    }

    #[test]
    fn an_empty_queue_shrinks() {
        let count = Arc::new(());
        let mut queue = RunQueue::new(10_000);
        for number in 0..5000 {
            queue.push(slot(&count, number));
        }
        queue.shrink();
        while queue.pop().is_some() {}
        assert!(queue.places.len() >= 5000);
        queue.shrink();
        assert!(queue.places.is_empty() && queue.remembered(1).is_none());
        queue.push_front(slot(&count, 7));
        assert_eq!(queue.pop().map(number), Some(7));
    }
}
