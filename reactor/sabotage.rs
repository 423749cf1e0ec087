//! Mistakes that can be made on purpose, to show that the simulator finds them.
//!
//! The crates ask [`is_on`] at the places where such a mistake would be made. Only the feature `sabotage`, which the
//! project's own tests have and nothing else, lets a thread choose one; without it the answer is a constant and
//! the mistakes are not compiled.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Of two nodes that dial each other at once, both accept the other's connection.
    NoTieBreak,
    /// A receiver grants every window twice.
    GrantTwice,
    /// A file is taken for replaced before it is on the disk.
    AcknowledgeBeforeSync,
    /// A socket whose reading resumes is not read again, though no new edge will come.
    ForgetRequeue,
    /// Replacing keys starts their counters anew and leaves the keys.
    ReuseNonce,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 5] = [
        Mutation::NoTieBreak,
        Mutation::GrantTwice,
        Mutation::AcknowledgeBeforeSync,
        Mutation::ForgetRequeue,
        Mutation::ReuseNonce,
    ];

    /// How it is called on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Mutation::NoTieBreak => "no-tie-break",
            Mutation::GrantTwice => "grant-twice",
            Mutation::AcknowledgeBeforeSync => "acknowledge-before-sync",
            Mutation::ForgetRequeue => "forget-requeue",
            Mutation::ReuseNonce => "reuse-nonce",
        }
    }
}

#[cfg(not(feature = "sabotage"))]
mod choice {
    use super::Mutation;

    /// Whether this thread makes a mistake. Never.
    #[inline(always)]
    pub const fn is_on(_: Mutation) -> bool {
        false
    }

    /// Takes note that a frame was sealed. Nobody looks.
    #[inline(always)]
    pub const fn note_nonce(_: &[u8; 32], _: u64) {}
}

#[cfg(feature = "sabotage")]
mod choice {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeSet;
    use std::hint::black_box;

    use super::Mutation;

    /// Stands in every binary that has this feature, so that one can be searched for it.
    const MARK: &str = "mistakes on purpose are compiled in";

    /// The most frames whose keys and counters are remembered.
    const NONCES_MAX: usize = 1 << 20;

    thread_local! {
        static CHOSEN: Cell<Option<Mutation>> = const { Cell::new(None) };
        static NONCES: RefCell<Option<Nonces>> = const { RefCell::new(None) };
    }

    #[derive(Default)]
    struct Nonces {
        seen: BTreeSet<([u8; 32], u64)>,
        is_reused: bool,
    }

    /// Whether this thread makes a mistake.
    pub fn is_on(mutation: Mutation) -> bool {
        CHOSEN.get() == Some(mutation)
    }

    /// Chooses the mistake that this thread makes from now on.
    pub fn set(mutation: Option<Mutation>) {
        black_box(MARK);
        CHOSEN.set(mutation);
    }

    /// Takes note that a frame was sealed with a key and a counter.
    pub fn note_nonce(key: &[u8; 32], n: u64) {
        NONCES.with_borrow_mut(|nonces| {
            if let Some(nonces) = nonces {
                let is_new = nonces.seen.insert((*key, n));
                nonces.is_reused |= !is_new;
                assert!(
                    nonces.seen.len() < NONCES_MAX,
                    "a scenario has fewer frames"
                );
            }
        });
    }

    /// Begins to look whether this thread seals two frames with the same key and counter, or ends that.
    pub fn watch_nonces(watches: bool) {
        NONCES.set(watches.then(Nonces::default));
    }

    /// Whether a key and a counter were used twice since [`watch_nonces`].
    pub fn is_nonce_reused() -> bool {
        NONCES.with_borrow(|nonces| nonces.as_ref().is_some_and(|nonces| nonces.is_reused))
    }
}

pub use choice::*;
