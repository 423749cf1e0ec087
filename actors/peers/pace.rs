//! How fast this node dials by itself.

use std::collections::VecDeque;
use std::time::Duration;

use mischief_reactor::Instant;

/// Dials that a node begins by itself within any second: reconnections and those to addresses that it has heard of. What a
/// user asks for is not counted.
pub const DIALS_PER_SECOND_MAX: usize = 10;

/// The last dials, to keep [`DIALS_PER_SECOND_MAX`] in every second and not only on average.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    dials: VecDeque<Instant>,
}

impl Pace {
    /// When the next dial may begin; `now` or later.
    pub(super) fn next(&self, now: Instant) -> Instant {
        match self.dials.front() {
            Some(first) if self.dials.len() >= DIALS_PER_SECOND_MAX => {
                now.max(*first + Duration::from_secs(1))
            }
            _ => now,
        }
    }

    /// Counts a dial that begins now, if it may.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if self.next(now) > now {
            return false;
        }
        if self.dials.len() >= DIALS_PER_SECOND_MAX {
            self.dials.pop_front();
        }
        self.dials.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_than_ten_dials() {
        let mut pace = Pace::default();
        let mut now = Instant::ZERO + Duration::from_secs(100);
        let mut taken = Vec::new();
        for step in 0..10_000u64 {
            now += Duration::from_millis(step * 37 % 90);
            if pace.take(now) {
                taken.push(now);
            }
        }
        for window in taken.windows(DIALS_PER_SECOND_MAX + 1) {
            let span = window[DIALS_PER_SECOND_MAX].saturating_duration_since(window[0]);
            assert!(span >= Duration::from_secs(1), "{span:?}");
        }
        assert!(taken.len() > 1000);
    }
}
