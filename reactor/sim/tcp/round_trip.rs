//! How long a TCP endpoint waits for an acknowledgement (RFC 6298).

use std::time::Duration;

use crate::time::Instant;

/// The time-out before a round trip was measured (§2.1).
const TIMEOUT_FIRST: Duration = Duration::from_secs(1);
/// Linux's bounds of the time-out.
const TIMEOUT_MIN: Duration = Duration::from_millis(200);
const TIMEOUT_MAX: Duration = Duration::from_secs(120);

/// Measures round trips, one at a time.
pub(super) struct RoundTrip {
    /// Smoothed round-trip time and its variation, once measured.
    estimate: Option<(Duration, Duration)>,
    /// Position whose acknowledgement ends a measurement, and when it was sent.
    timed: Option<(u64, Instant)>,
}

impl RoundTrip {
    pub(super) fn new() -> RoundTrip {
        RoundTrip {
            estimate: None,
            timed: None,
        }
    }

    /// Takes note that something was sent up to a position for the first time. What is sent again measures nothing,
    /// since nobody can tell which of the two was acknowledged (§3, Karn's rule).
    pub(super) fn sent(&mut self, position: u64, now: Instant) {
        self.timed.get_or_insert((position, now));
    }

    /// Gives up the measurement under way.
    pub(super) fn abandon(&mut self) {
        self.timed = None;
    }

    /// Takes note that a position was acknowledged.
    pub(super) fn acknowledged(&mut self, upto: u64, now: Instant) {
        let Some((position, sent)) = self.timed else {
            return;
        };
        if upto < position {
            return;
        }
        self.timed = None;
        let sample = now.saturating_duration_since(sent);
        self.estimate = Some(match self.estimate {
            None => (sample, sample / 2),
            Some((smooth, variation)) => {
                let off = smooth.abs_diff(sample);
                ((smooth * 7 + sample) / 8, (variation * 3 + off) / 4)
            }
        });
    }

    /// The time to wait after as many vain attempts: doubled with each (§5.5).
    pub(super) fn timeout(&self, attempts: u32) -> Duration {
        let base = match self.estimate {
            None => TIMEOUT_FIRST,
            Some((smooth, variation)) => (smooth + variation * 4).clamp(TIMEOUT_MIN, TIMEOUT_MAX),
        };
        (base * (1 << attempts.min(16))).min(TIMEOUT_MAX)
    }
}
