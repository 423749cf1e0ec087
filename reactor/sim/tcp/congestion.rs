//! How much a TCP endpoint may have under way: NewReno (RFC 5681, RFC 6582) with limited transmit (RFC 3042).

/// The initial window in segments (RFC 6928 §2).
const INITIAL_SEGMENTS: u64 = 10;
/// Up to where the window grows by itself at first. Any value would do (RFC 5681 §3.1); the old 16-bit window keeps the
/// first overshoot small, from which a sender without selective acknowledgements is slow to recover.
const INITIAL_THRESHOLD: u64 = 65_535;
/// Acknowledgements that say the same as one before them and tell of a lost segment (RFC 5681 §3.2).
const DUPLICATES_MAX: u32 = 3;

/// What an acknowledgement asks for beside sending what the window has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    Nothing,
    /// The first unacknowledged segment is sent again.
    SendFirstAgain,
}

pub(super) struct Congestion {
    mss: u64,
    window: u64,
    /// Above this the window grows by a segment a round trip, below by itself.
    threshold: u64,
    /// Acknowledgements in a row that said nothing new.
    duplicates: u32,
    /// During fast recovery, the position whose acknowledgement ends it.
    recovers_until: Option<u64>,
    /// The furthest position sent when the last loss was noticed: duplicates before it tell of the same loss.
    loss_seen_at: Option<u64>,
    /// The window grows no further than this.
    window_max: u64,
}

impl Congestion {
    pub(super) fn new(mss: u64, window_max: u64) -> Congestion {
        Congestion {
            mss,
            window: mss * INITIAL_SEGMENTS,
            threshold: INITIAL_THRESHOLD,
            duplicates: 0,
            recovers_until: None,
            loss_seen_at: None,
            window_max,
        }
    }

    /// The most bytes of payload in a segment.
    pub(super) fn mss(&self) -> u64 {
        self.mss
    }

    /// Takes note of another size of segments, before anything was sent or because a link carries no more.
    pub(super) fn set_mss(&mut self, mss: u64) {
        let segments = (self.window / self.mss).max(1);
        self.mss = mss;
        self.window = mss * segments;
    }

    /// Bytes that may be under way.
    pub(super) fn allowance(&self) -> u64 {
        if self.recovers_until.is_some() {
            return self.window;
        }
        // RFC 3042 §2: the first duplicates each let a new segment go, so that enough of them come.
        self.window + u64::from(self.duplicates.min(DUPLICATES_MAX - 1)) * self.mss
    }

    /// Takes note that bytes up to a position were acknowledged for the first time.
    pub(super) fn acknowledged(&mut self, bytes: u64, upto: u64) -> Reaction {
        self.duplicates = 0;
        if let Some(end) = self.recovers_until {
            if upto >= end {
                self.window = self.threshold;
                self.recovers_until = None;
                return Reaction::Nothing;
            }
            // RFC 6582 §3.2 step 3: the next hole of the same loss.
            self.window = self.window.saturating_sub(bytes).max(self.mss) + self.mss;
            return Reaction::SendFirstAgain;
        }
        let growth = if self.window < self.threshold {
            bytes.min(self.mss)
        } else {
            (self.mss * bytes / self.window).clamp(1, self.mss)
        };
        self.window = (self.window + growth).min(self.window_max.max(self.mss));
        Reaction::Nothing
    }

    /// Takes note of an acknowledgement that says nothing new, while so many bytes are under way: those from
    /// `acknowledged` to `next`.
    pub(super) fn duplicate(&mut self, acknowledged: u64, next: u64) -> Reaction {
        if self.recovers_until.is_some() {
            self.window += self.mss;
            return Reaction::Nothing;
        }
        self.duplicates += 1;
        let is_old = self.loss_seen_at.is_some_and(|seen| acknowledged < seen);
        if self.duplicates != DUPLICATES_MAX || is_old {
            return Reaction::Nothing;
        }
        self.threshold = self.after_loss(next - acknowledged);
        self.window = self.threshold + u64::from(DUPLICATES_MAX) * self.mss;
        self.recovers_until = Some(next);
        self.loss_seen_at = Some(next);
        Reaction::SendFirstAgain
    }

    /// Takes note of a time-out: everything up to `next` counts as lost.
    pub(super) fn timed_out(&mut self, acknowledged: u64, next: u64) {
        self.threshold = self.after_loss(next - acknowledged);
        self.window = self.mss;
        self.duplicates = 0;
        self.recovers_until = None;
        self.loss_seen_at = Some(next);
    }

    /// Half of what is under way (RFC 5681 §3.1, equation 4).
    fn after_loss(&self, flight: u64) -> u64 {
        (flight / 2).max(2 * self.mss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_doubles_then_grows_by_a_segment_a_round_trip_and_halves_on_loss() {
        let mut congestion = Congestion::new(1000, 1_000_000);
        assert_eq!(congestion.allowance(), 10_000);
        for i in 1..=10 {
            congestion.acknowledged(1000, i * 1000);
        }
        assert_eq!(congestion.allowance(), 20_000);
        // Three duplicates: half of the flight, and three segments that have left the network.
        for i in 1..=2 {
            assert_eq!(congestion.duplicate(10_000, 30_000), Reaction::Nothing);
            assert_eq!(congestion.allowance(), 20_000 + i * 1000);
        }
        assert_eq!(
            congestion.duplicate(10_000, 30_000),
            Reaction::SendFirstAgain
        );
        assert_eq!(congestion.allowance(), 13_000);
        assert_eq!(congestion.duplicate(10_000, 30_000), Reaction::Nothing);
        assert_eq!(congestion.allowance(), 14_000);
        // A second hole, then all of it.
        assert_eq!(
            congestion.acknowledged(5_000, 15_000),
            Reaction::SendFirstAgain
        );
        assert_eq!(congestion.acknowledged(15_000, 30_000), Reaction::Nothing);
        assert_eq!(congestion.allowance(), 10_000);
        for i in 1..=10 {
            congestion.acknowledged(1000, 30_000 + i * 1000);
        }
        assert!((10_900..=11_000).contains(&congestion.allowance()));
        congestion.timed_out(40_000, 50_000);
        assert_eq!(congestion.allowance(), 1000);
        // Duplicates for what was lost then tell of nothing new.
        for _ in 0..5 {
            assert_eq!(congestion.duplicate(45_000, 50_000), Reaction::Nothing);
        }
    }
}
