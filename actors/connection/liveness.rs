//! Pings and round-trip times.

use std::time::Duration;

use mischief_reactor::Instant;

/// Missed pings in a row that end a connection.
const MISSED_MAX: u8 = 2;

/// Round-trip times of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtt {
    /// The smoothed value (RFC 6298 §2).
    pub smoothed: Duration,
    /// The mean deviation from it (RFC 6298 §2).
    pub jitter: Duration,
}

/// Estimates the round-trip time, in microseconds to keep it small.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RttEstimator {
    smoothed: u32,
    /// 0 until the first sample, else one more than the value.
    deviation: u32,
}

impl RttEstimator {
    pub(crate) fn sample(&mut self, rtt: Duration) {
        let rtt = u32::try_from(rtt.as_micros())
            .unwrap_or(u32::MAX / 8)
            .min(u32::MAX / 8);
        match self.deviation.checked_sub(1) {
            None => {
                self.smoothed = rtt;
                self.deviation = rtt / 2 + 1;
            }
            Some(deviation) => {
                let distance = self.smoothed.abs_diff(rtt);
                self.deviation = (3 * deviation + distance) / 4 + 1;
                self.smoothed = ((7 * u64::from(self.smoothed) + u64::from(rtt)) / 8) as u32;
            }
        }
    }

    pub(crate) fn value(&self) -> Option<Rtt> {
        let deviation = self.deviation.checked_sub(1)?;
        let micros = |value: u32| Duration::from_micros(u64::from(value));
        Some(Rtt {
            smoothed: micros(self.smoothed),
            jitter: micros(deviation),
        })
    }
}

/// Where the current ping stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// None is under way.
    Quiet,
    /// One is to be sent.
    Due,
    /// One was sent and not answered.
    Sent,
}

/// What a look at the clock came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// All is well; look again at this time.
    At(Instant),
    /// The peer does not answer.
    Dead,
}

/// The last sign of life is kept to a millisecond, which is good for spans of up to 49 days.
const SEEN_UNIT: Duration = Duration::from_millis(1);
/// The time of a ping is kept to four microseconds: fine enough for the nearest peer, and good for spans of up to 4 hours.
const PING_UNIT: Duration = Duration::from_micros(4);

/// The clock in units, modulo 2^32.
#[inline]
fn units(now: Instant, unit: Duration) -> u32 {
    (now.as_nanos() / u64::from(unit.subsec_nanos())) as u32
}

/// Keep-alive: a ping when nothing has come for a while. Nothing is re-armed by what comes in; the time of the last
/// sign of life is looked at when the deadline has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepAlive {
    /// When the peer last gave a sign of life, in [`SEEN_UNIT`].
    seen_at: u32,
    /// When the ping was sent, or became due, in [`PING_UNIT`]. It is the token of the ping as well.
    ping_at: u32,
    state: State,
    missed: u8,
    /// Something has come since the ping.
    is_heard: bool,
    /// The peer is to answer soon, since the machine may have slept through its end.
    is_probing: bool,
}

impl KeepAlive {
    pub(crate) fn new(now: Instant) -> KeepAlive {
        KeepAlive {
            seen_at: units(now, SEEN_UNIT),
            ping_at: units(now, PING_UNIT),
            state: State::Quiet,
            missed: 0,
            is_heard: false,
            is_probing: false,
        }
    }

    #[inline]
    pub(crate) fn seen(&mut self, now: Instant) {
        self.seen_at = units(now, SEEN_UNIT);
        self.is_heard = true;
    }

    fn since_seen(&self, now: Instant) -> Duration {
        SEEN_UNIT * units(now, SEEN_UNIT).wrapping_sub(self.seen_at)
    }

    fn since_ping(&self, now: Instant) -> Duration {
        PING_UNIT * units(now, PING_UNIT).wrapping_sub(self.ping_at)
    }

    fn begin_ping(&mut self, now: Instant) {
        self.ping_at = units(now, PING_UNIT);
        self.is_heard = false;
    }

    /// Asks for a ping now.
    pub(crate) fn ping(&mut self, now: Instant) {
        if self.state == State::Quiet {
            self.state = State::Due;
            self.begin_ping(now);
        }
    }

    /// Whether the ping of [`KeepAlive::probe`] is not answered yet.
    pub(crate) fn is_probing(&self) -> bool {
        self.is_probing
    }

    /// Asks for a ping now that has to be answered soon.
    pub(crate) fn probe(&mut self, now: Instant) {
        self.state = State::Due;
        self.begin_ping(now);
        self.missed = 0;
        self.is_probing = true;
    }

    /// The token of a ping that is to be sent.
    #[inline]
    pub(crate) fn take_ping(&mut self, now: Instant) -> Option<u32> {
        if self.state != State::Due {
            return None;
        }
        self.state = State::Sent;
        self.begin_ping(now);
        Some(self.ping_at)
    }

    #[inline]
    pub(crate) fn has_ping(&self) -> bool {
        self.state == State::Due
    }

    /// The answer to a ping. Answers to others than the latest are passed over.
    pub(crate) fn pong(&mut self, now: Instant, token: u32) -> Option<Duration> {
        if self.state != State::Sent || token != self.ping_at {
            return None;
        }
        self.state = State::Quiet;
        self.missed = 0;
        self.is_probing = false;
        Some(self.since_ping(now))
    }

    /// Looks at the clock.
    pub(crate) fn look(&mut self, now: Instant, idle: Duration, timeout: Duration) -> Look {
        let timeout = if self.is_probing {
            timeout / 5
        } else {
            timeout
        };
        if self.state != State::Quiet {
            let since_ping = self.since_ping(now);
            if since_ping < timeout {
                return Look::At(now + (timeout - since_ping));
            }
            // Anything that came since will do for an answer.
            let is_alive = self.is_heard;
            self.missed = if is_alive { 0 } else { self.missed + 1 };
            if self.missed >= MISSED_MAX {
                return Look::Dead;
            }
            if is_alive && self.is_probing {
                // The peer lives, but whoever asked wants the answer to this ping and to nothing older.
                self.begin_ping(now);
                return Look::At(now + timeout);
            }
            self.state = State::Quiet;
            if !is_alive {
                self.ping(now);
                return Look::At(now + timeout);
            }
        }
        let since_seen = self.since_seen(now);
        // A busy connection needs no keep-alive, but its round-trip time should not grow old.
        let is_busy = since_seen < idle / 4;
        if since_seen >= idle || is_busy && self.since_ping(now) >= idle * 2 {
            self.ping(now);
            return Look::At(now + timeout);
        }
        Look::At(now + (idle - since_seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(30);
    const TIMEOUT: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn samples_are_smoothed_as_rfc_6298_says() {
        let mut rtt = RttEstimator::default();
        assert_eq!(rtt.value(), None);
        rtt.sample(Duration::from_millis(80));
        let value = rtt.value().unwrap();
        assert_eq!(value.smoothed, Duration::from_millis(80));
        assert_eq!(value.jitter, Duration::from_millis(40));
        rtt.sample(Duration::from_millis(160));
        let value = rtt.value().unwrap();
        assert_eq!(value.smoothed, Duration::from_millis(90));
        assert_eq!(value.jitter, Duration::from_millis(50));
        rtt.sample(Duration::MAX);
        rtt.sample(Duration::ZERO);
        assert!(rtt.value().is_some());
    }

    #[test]
    fn a_silent_peer_is_pinged_twice_and_given_up() {
        let mut alive = KeepAlive::new(at(0));
        assert_eq!(alive.look(at(0), IDLE, TIMEOUT), Look::At(at(30)));
        alive.seen(at(20));
        assert_eq!(alive.look(at(30), IDLE, TIMEOUT), Look::At(at(50)));
        assert_eq!(alive.take_ping(at(30)), None);
        assert_eq!(alive.look(at(50), IDLE, TIMEOUT), Look::At(at(60)));
        let first = alive.take_ping(at(50));
        assert!(first.is_some());
        assert_eq!(alive.look(at(60), IDLE, TIMEOUT), Look::At(at(70)));
        let second = alive.take_ping(at(60));
        assert!(second.is_some() && second != first);
        assert_eq!(alive.look(at(70), IDLE, TIMEOUT), Look::Dead);
    }

    #[test]
    fn an_answer_or_anything_else_keeps_a_peer() {
        let mut alive = KeepAlive::new(at(0));
        alive.look(at(30), IDLE, TIMEOUT);
        let token = alive.take_ping(at(30)).unwrap();
        assert_eq!(alive.pong(at(31), token + 1), None);
        assert_eq!(alive.pong(at(31), token), Some(Duration::from_secs(1)));
        assert_eq!(alive.pong(at(31), token), None);
        alive.seen(at(31));
        assert_eq!(alive.look(at(40), IDLE, TIMEOUT), Look::At(at(61)));
        alive.look(at(61), IDLE, TIMEOUT);
        alive.take_ping(at(61));
        alive.seen(at(65));
        assert_eq!(alive.look(at(71), IDLE, TIMEOUT), Look::At(at(95)));
    }

    #[test]
    fn a_busy_connection_is_measured_now_and_then() {
        let mut alive = KeepAlive::new(at(0));
        let mut pings = 0;
        for second in 0..=600 {
            alive.seen(at(second));
            alive.look(at(second), IDLE, TIMEOUT);
            if let Some(token) = alive.take_ping(at(second)) {
                pings += 1;
                alive.pong(at(second), token);
            }
        }
        assert_eq!(pings, 10);
    }

    #[test]
    fn a_probe_finds_a_dead_peer_within_five_seconds() {
        let mut alive = KeepAlive::new(at(0));
        alive.probe(at(100));
        assert!(alive.take_ping(at(100)).is_some());
        assert_eq!(alive.look(at(102), IDLE, TIMEOUT), Look::At(at(104)));
        assert!(alive.take_ping(at(102)).is_some());
        assert_eq!(alive.look(at(104), IDLE, TIMEOUT), Look::Dead);
    }
}
