//! How an actor is made, bounded and restarted.

use std::time::Duration;

use super::Actor;

/// When a failed actor is made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Never: a failure stops it.
    Never,
    /// After a failure, at most `max` times within `window`; then it stops for good.
    OnFailure {
        /// Restarts allowed within `window`.
        max: u32,
        /// The time over which restarts are counted.
        window: Duration,
        /// The pause before each.
        backoff: Backoff,
    },
    /// As `OnFailure`, but when no restart is left its parent fails too.
    OrEscalate {
        /// Restarts allowed within `window`.
        max: u32,
        /// The time over which restarts are counted.
        window: Duration,
        /// The pause before each.
        backoff: Backoff,
    },
}

/// The pause before a restart: `first`, doubled with each restart inside the window, at most `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Before the first restart.
    pub first: Duration,
    /// Upper bound.
    pub max: Duration,
}

impl Backoff {
    /// No pause at all.
    pub const NONE: Backoff = Backoff {
        first: Duration::ZERO,
        max: Duration::ZERO,
    };

    pub(crate) fn pause(&self, restarts: u32) -> Duration {
        self.first
            .saturating_mul(1u32.checked_shl(restarts).unwrap_or(u32::MAX))
            .min(self.max)
    }
}

/// Bounds of a mailbox, each for local and for remote senders apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailboxLimits {
    /// Messages waiting.
    pub messages: u32,
    /// Bytes that the waiting messages own.
    pub bytes: u32,
}

impl MailboxLimits {
    /// Bounds of nothing would let nothing in.
    pub(crate) fn at_least_one(self) -> MailboxLimits {
        MailboxLimits {
            messages: self.messages.max(1),
            bytes: self.bytes.max(1),
        }
    }
}

impl Default for MailboxLimits {
    fn default() -> Self {
        MailboxLimits {
            messages: 4096,
            bytes: 4 << 20,
        }
    }
}

/// An actor to be spawned.
pub struct Child<A> {
    pub(crate) make: Make<A>,
    pub(crate) restart: Restart,
    pub(crate) limits: Option<MailboxLimits>,
    pub(crate) name: Option<&'static str>,
}

pub(crate) enum Make<A> {
    Once(A),
    Factory(Box<dyn FnMut() -> A + Send>),
}

impl<A: Actor> Child<A> {
    /// A child made by `factory`, which is called again at each restart. Restarts up to 3 times in 10 s without a
    /// pause unless [`Child::restart`] says otherwise.
    pub fn new(factory: impl FnMut() -> A + Send + 'static) -> Child<A> {
        Child {
            make: Make::Factory(Box::new(factory)),
            restart: Restart::OnFailure {
                max: 3,
                window: Duration::from_secs(10),
                backoff: Backoff::NONE,
            },
            limits: None,
            name: None,
        }
    }

    /// A child that exists already and so cannot be restarted. Costs no factory.
    pub fn once(actor: A) -> Child<A> {
        Child {
            make: Make::Once(actor),
            restart: Restart::Never,
            limits: None,
            name: None,
        }
    }

    /// Sets the restart rule. A child made by [`Child::once`] never restarts; of the rule only escalation has a
    /// meaning for it.
    pub fn restart(mut self, restart: Restart) -> Child<A> {
        self.restart = restart;
        self
    }

    /// Sets the bounds of its mailbox.
    pub fn limits(mut self, limits: MailboxLimits) -> Child<A> {
        self.limits = Some(limits);
        self
    }

    /// Registers it under a name in its node's registry for as long as it lives.
    pub fn name(mut self, name: &'static str) -> Child<A> {
        self.name = Some(name);
        self
    }
}
