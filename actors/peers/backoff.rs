//! When a lost peer is dialled again, and when no more.

use std::time::Duration;

/// How lost peers are dialled again. The wait before each attempt is drawn evenly between nothing and a bound that grows
/// ("full jitter"), so that many who lost the same peer at the same moment do not come back at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReconnectPolicy {
    /// Whether lost peers are dialled again at all.
    pub is_on: bool,
    /// Attempts after which a peer is given up. `None`: only `forget_after` ends them.
    pub attempts_max: Option<u32>,
    /// The bounds of the waits.
    pub waits: Waits,
    /// A connection that stood this long was a good one: attempts are counted anew after it.
    pub stable_after: Duration,
    /// The bound of the first wait after a good connection, where it is shorter than that of `waits`.
    pub first_after_stable: Duration,
    /// A peer that has not been reached for so long is given up, unless it is protected.
    pub forget_after: Duration,
}

/// Bounds of the waits between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// The first bound, doubled after each attempt up to the second.
    Doubling {
        /// The first.
        first: Duration,
        /// The largest.
        max: Duration,
    },
    /// These three, and then the last again and again.
    Steps([Duration; 3]),
}

/// Attempts that must have failed before time alone makes a node give a peer up. A machine that slept for days has not
/// tried.
const ATTEMPTS_BEFORE_FORGETTING: u32 = 20;

impl Default for ReconnectPolicy {
    /// 5 s, doubled up to 300 s, for a day. A hub that restarts is lost by all its peers in the same moment, so a shorter
    /// first bound would bring a thousand of them back within a second.
    fn default() -> ReconnectPolicy {
        ReconnectPolicy {
            is_on: true,
            attempts_max: None,
            waits: Waits::Doubling {
                first: Duration::from_secs(5),
                max: Duration::from_secs(300),
            },
            stable_after: Duration::from_secs(60),
            first_after_stable: Duration::from_secs(5),
            forget_after: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl ReconnectPolicy {
    /// Lost peers stay lost.
    pub fn off() -> ReconnectPolicy {
        ReconnectPolicy {
            is_on: false,
            ..ReconnectPolicy::default()
        }
    }

    /// The numbers of librats: three attempts, after at most 5, 30 and 120 seconds; after a connection of a minute the first
    /// one comes within a second.
    pub fn librats() -> ReconnectPolicy {
        let steps = [5, 30, 120].map(Duration::from_secs);
        ReconnectPolicy {
            attempts_max: Some(3),
            waits: Waits::Steps(steps),
            first_after_stable: Duration::from_secs(1),
            ..ReconnectPolicy::default()
        }
    }

    /// The longest wait before the attempt after `failed` ones. `was_stable` says whether the connection that was lost
    /// had been a good one.
    pub(super) fn bound(&self, failed: u32, was_stable: bool) -> Duration {
        let bound = match self.waits {
            Waits::Doubling { first, max } => {
                let doubled = 1u32.checked_shl(failed.min(31)).unwrap_or(u32::MAX);
                first.saturating_mul(doubled).min(max)
            }
            Waits::Steps(steps) => steps[(failed as usize).min(steps.len() - 1)],
        };
        match failed == 0 && was_stable {
            true => bound.min(self.first_after_stable),
            false => bound,
        }
    }

    /// Whether a peer is given up that has been away for so long and has not been reached in so many attempts.
    pub(super) fn gives_up(&self, failed: u32, away: Duration) -> bool {
        let is_spent = self.attempts_max.is_some_and(|max| failed >= max);
        is_spent || failed >= ATTEMPTS_BEFORE_FORGETTING && away >= self.forget_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn bounds(policy: ReconnectPolicy, attempts: u32) -> Vec<u64> {
        let seconds = |failed| policy.bound(failed, false).as_secs();
        (0..attempts).map(seconds).collect()
    }

    #[test]
    fn bounds_double_up_to_the_largest() {
        let policy = ReconnectPolicy::default();
        assert_eq!(
            bounds(policy, 11),
            [5, 10, 20, 40, 80, 160, 300, 300, 300, 300, 300]
        );
        assert_eq!(policy.bound(u32::MAX, false), Duration::from_secs(300));
    }

    #[test]
    fn the_numbers_of_librats() {
        let policy = ReconnectPolicy::librats();
        assert_eq!(bounds(policy, 4), [5, 30, 120, 120]);
        assert_eq!(policy.bound(0, true), Duration::from_secs(1));
        assert_eq!(policy.bound(1, true), Duration::from_secs(30));
        assert!(!policy.gives_up(2, DAY) && policy.gives_up(3, Duration::ZERO));
    }

    #[test]
    fn time_alone_gives_nobody_up_who_was_not_tried() {
        let policy = ReconnectPolicy::default();
        assert!(!policy.gives_up(3, 30 * DAY), "it slept");
        assert!(!policy.gives_up(100, DAY / 2));
        assert!(policy.gives_up(100, DAY));
    }
}
