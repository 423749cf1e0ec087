//! Who a message is for.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use super::core::Core;
use super::shared::TrySendError;
use super::{Actor, Message};

/// An actor of one runtime: its core, its place there and a generation, in 8 bytes.
///
/// An id of an ended actor never means its successor. An id of another runtime is harmless: what is sent to it is
/// counted as undeliverable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActorId {
    /// Core in the top 8 bits, place below.
    place: u32,
    generation: u32,
}

impl ActorId {
    /// The id of nobody: generations begin with 1.
    pub const NOBODY: ActorId = ActorId {
        place: 0,
        generation: 0,
    };

    /// Actors that one core can hold.
    pub(crate) const PER_CORE_MAX: u32 = 1 << 24;

    pub(crate) fn new(core: u8, index: u32, generation: u32) -> ActorId {
        debug_assert!(index < Self::PER_CORE_MAX, "an index fits 24 bits");
        ActorId {
            place: u32::from(core) << 24 | index,
            generation,
        }
    }

    /// The core it lives on.
    pub fn core(self) -> u8 {
        (self.place >> 24) as u8
    }

    pub(crate) fn index(self) -> usize {
        (self.place & 0x00ff_ffff) as usize
    }

    pub(crate) fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Debug for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.core(), self.index(), self.generation)
    }
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A small set of ids, in their order, in one allocation.
#[derive(Default)]
pub(crate) struct IdSet(Vec<ActorId>);

impl IdSet {
    pub(crate) fn insert(&mut self, id: ActorId) -> bool {
        match self.0.binary_search(&id) {
            Ok(_) => false,
            Err(place) => {
                self.0.insert(place, id);
                true
            }
        }
    }

    pub(crate) fn remove(&mut self, id: ActorId) -> bool {
        let place = self.0.binary_search(&id);
        if let Ok(place) = place {
            self.0.remove(place);
        }
        place.is_ok()
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(ActorId) -> bool) {
        self.0.retain(|id| keep(*id));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = ActorId> + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An [`ActorId`] that knows what its actor understands.
pub struct Address<A> {
    id: ActorId,
    of: PhantomData<fn(A)>,
}

impl<A: Actor> Address<A> {
    pub(crate) fn new(id: ActorId) -> Address<A> {
        Address {
            id,
            of: PhantomData,
        }
    }

    /// The actor with this id, taken for an `A`. Types are compared when a message is delivered, so what is sent to an
    /// actor of another type is counted as undeliverable.
    pub fn from_id(id: ActorId) -> Address<A> {
        Address::new(id)
    }

    /// Who it is.
    pub fn id(&self) -> ActorId {
        self.id
    }

    /// The same actor as somebody who understands `M`.
    pub fn recipient<M: Message>(&self) -> Recipient<M>
    where
        A::Message: From<M>,
    {
        Recipient {
            id: self.id,
            send: send_as::<A, M>,
        }
    }
}

impl<A> Clone for Address<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Address<A> {}

impl<A> PartialEq for Address<A> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl<A> Eq for Address<A> {}

impl<A> Hash for Address<A> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl<A> fmt::Debug for Address<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address<{}>({:?})", std::any::type_name::<A>(), self.id)
    }
}

/// Any actor that understands `M`, whatever else it is: how subsystems reach each other without knowing each other.
pub struct Recipient<M> {
    id: ActorId,
    send: fn(&mut Core, ActorId, M) -> Result<(), TrySendError<M>>,
}

impl<M> Recipient<M> {
    /// Who it is.
    pub fn id(&self) -> ActorId {
        self.id
    }

    pub(crate) fn send(&self, core: &mut Core, message: M) -> Result<(), TrySendError<M>> {
        (self.send)(core, self.id, message)
    }
}

impl<M> Clone for Recipient<M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Recipient<M> {}

impl<M> fmt::Debug for Recipient<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Recipient<{}>({:?})",
            std::any::type_name::<M>(),
            self.id
        )
    }
}

/// Checks for room before the conversion, so that a refused message comes back as it was.
fn send_as<A, M>(core: &mut Core, id: ActorId, message: M) -> Result<(), TrySendError<M>>
where
    A: Actor,
    A::Message: From<M>,
    M: Message,
{
    core.send_converted::<A::Message, M>(id, message)
}
