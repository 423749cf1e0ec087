//! The erased form of a message: an entry of the run-queue.

use std::any::TypeId;
use std::mem::{self, MaybeUninit};
use std::ptr;

use super::Message;
use super::address::ActorId;

/// Bytes that a message may have to travel inline.
pub(crate) const INLINE_SIZE_MAX: usize = 32;

pub(crate) type Data = [MaybeUninit<u64>; INLINE_SIZE_MAX / 8];

/// What has to be known of a message type once its name is forgotten.
pub(crate) struct MessageVtable {
    pub(crate) type_id: TypeId,
    pub(crate) type_name: fn() -> &'static str,
    /// Drops the message in `data`.
    drop: unsafe fn(*mut Data),
}

impl MessageVtable {
    pub(crate) const fn of<M: Message>() -> &'static MessageVtable {
        const {
            &MessageVtable {
                type_id: TypeId::of::<M>(),
                type_name: std::any::type_name::<M>,
                drop: drop_message::<M>,
            }
        }
    }

    /// Whether both mean the same message type. The pointers are equal nearly always; the same table may have been
    /// emitted twice, though.
    pub(crate) fn is(&self, other: &'static MessageVtable) -> bool {
        ptr::eq(self, other) || self.type_id == other.type_id
    }
}

const fn is_inline<M>() -> bool {
    mem::size_of::<M>() <= INLINE_SIZE_MAX && mem::align_of::<M>() <= mem::align_of::<u64>()
}

/// By which way a message came, and so where it counts as waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Lane {
    /// From an actor of the same core: in the receiver's local gauge.
    Local = 0,
    /// From another core or from outside: in its remote gauge.
    Remote,
    /// Replies and results of jobs, which have their place already: nowhere.
    System,
}

/// A message on its way to an actor.
#[repr(C)]
pub(crate) struct Slot {
    pub(crate) to: ActorId,
    pub(crate) vtable: &'static MessageVtable,
    /// Bytes counted against the receiver's mailbox.
    pub(crate) bytes: u32,
    pub(crate) lane: Lane,
    /// Either the message itself or a `Box` of it, as `is_inline` says for its type.
    pub(crate) data: Data,
}

// SAFETY: a slot holds exactly one `M: Message`, and `Message` requires `Send`. The table it points to is immutable.
unsafe impl Send for Slot {}

impl Slot {
    /// A message for the system lane.
    pub(crate) fn new<M: Message>(to: ActorId, message: M) -> Slot {
        Slot::counted(to, message, 0, Lane::System)
    }

    /// The bytes that a message which owns `heap_bytes` counts as once it is an `M` in a slot.
    #[inline]
    pub(crate) fn bytes_of<M: Message>(heap_bytes: usize) -> u32 {
        let boxed = if is_inline::<M>() {
            0
        } else {
            mem::size_of::<M>()
        };
        u32::try_from(heap_bytes.saturating_add(boxed)).unwrap_or(u32::MAX)
    }

    /// A message that counts as so many bytes.
    pub(crate) fn counted<M: Message>(to: ActorId, message: M, bytes: u32, lane: Lane) -> Slot {
        let mut slot = MaybeUninit::uninit();
        // SAFETY: the place is nobody's, and `write` makes it a slot.
        unsafe {
            Slot::write(slot.as_mut_ptr(), to, message, bytes, lane);
            slot.assume_init()
        }
    }

    /// Whether it counts as one message of this core and nothing else.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        // Put so that it takes one look.
        u64::from(self.bytes) | u64::from(self.lane as u32) << 32 == 0
    }

    /// Makes a slot at `place`.
    ///
    /// # Safety
    /// The place is valid for writing, and what is there needs no drop.
    #[inline(always)]
    pub(crate) unsafe fn write<M: Message>(
        place: *mut Slot,
        to: ActorId,
        message: M,
        bytes: u32,
        lane: Lane,
    ) {
        // SAFETY: the caller vouches for the place. All fields are written but for what of `data` the message does not
        // need, which may stay uninitialised. `is_inline` says that `M` fits `data` in size and alignment; else the thin
        // pointer of its box fits the first word.
        unsafe {
            (&raw mut (*place).to).write(to);
            (&raw mut (*place).vtable).write(MessageVtable::of::<M>());
            (&raw mut (*place).bytes).write(bytes);
            (&raw mut (*place).lane).write(lane);
            let data = &raw mut (*place).data;
            if is_inline::<M>() {
                data.cast::<M>().write(message);
            } else {
                data.cast::<*mut M>()
                    .write(Box::into_raw(Box::new(message)));
            }
        }
    }

    /// Moves the message out of the data of a slot, which must not be dropped afterwards.
    ///
    /// # Safety
    /// The data is that of a slot made from an `M`, and its message has not been moved out before.
    #[inline]
    pub(crate) unsafe fn take<M: Message>(data: *const Data) -> M {
        if is_inline::<M>() {
            // SAFETY: the caller vouches for `M`, and for nobody else using what is left.
            unsafe { data.cast::<M>().read() }
        } else {
            // SAFETY: as above; for a type that is not inline `counted` stored the pointer of a `Box<M>` here.
            *unsafe { Box::from_raw(data.cast::<*mut M>().read()) }
        }
    }

    /// The message, if it is an `M`.
    pub(crate) fn downcast<M: Message>(self) -> Result<M, Slot> {
        if self.vtable.is(MessageVtable::of::<M>()) {
            let this = mem::ManuallyDrop::new(self);
            // SAFETY: the table proves the type, and the slot is not dropped.
            Ok(unsafe { Slot::take::<M>(&this.data) })
        } else {
            Err(self)
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: `data` holds the message its table was made for, and nobody uses it after this.
        unsafe { (self.vtable.drop)(&mut self.data) }
    }
}

unsafe fn drop_message<M: Message>(data: *mut Data) {
    if is_inline::<M>() {
        // SAFETY: called by `Slot::drop` alone, with the data of a slot made from an `M`.
        unsafe { ptr::drop_in_place(data.cast::<M>()) }
    } else {
        // SAFETY: as above; the first word is the pointer of a `Box<M>`.
        drop(unsafe { Box::from_raw(data.cast::<*mut M>().read()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    struct Small(#[expect(dead_code, reason = "held for its drop")] Arc<()>);
    impl Message for Small {}
    struct Large(
        #[expect(dead_code, reason = "held for its drop")] Arc<()>,
        [u64; 8],
    );
    impl Message for Large {}
    #[repr(align(32))]
    struct Aligned(#[expect(dead_code, reason = "held for its drop")] Arc<()>);
    impl Message for Aligned {}

    fn id() -> ActorId {
        ActorId::new(0, 1, 2)
    }

    #[test]
    fn messages_of_every_size_and_alignment_come_out_as_they_went_in_and_are_dropped_once() {
        let count = Arc::new(());
        let small = Slot::new(id(), Small(count.clone()));
        let bytes = Slot::bytes_of::<Large>(0);
        let large = Slot::counted(id(), Large(count.clone(), [7; 8]), bytes, Lane::Remote);
        let aligned = Slot::new(id(), Aligned(count.clone()));
        assert_eq!(Arc::strong_count(&count), 4);
        assert_eq!((small.bytes, large.bytes), (0, 72));
        let large = large.downcast::<Small>().err().expect("it is no Small");
        let out = large.downcast::<Large>().ok().expect("it is a Large");
        assert_eq!(out.1, [7; 8]);
        drop((out, small));
        assert_eq!(Arc::strong_count(&count), 2);
        let aligned = aligned
            .downcast::<Aligned>()
            .ok()
            .expect("it is an Aligned");
        assert_eq!((&raw const aligned).align_offset(32), 0);
        drop(aligned);
        assert_eq!(Arc::strong_count(&count), 1);
    }

    #[test]
    fn a_slot_is_56_bytes() {
        assert_eq!(mem::size_of::<Slot>(), 56);
    }
}
