//! How much is sent, and to whom nothing: quotas that hold whatever arrives.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mischief_reactor::Instant;
use ring::hmac;

use super::address::{Prefix, is_local};

/// What one datagram costs beside its payload: the headers of IPv4 or IPv6 and UDP are about as long.
pub const HEADER_BYTES: usize = 28;

/// How much may be sent at once after a silence: this many seconds of the rate.
pub const BURST_SECONDS: u64 = 3;

/// Bytes over time: a bucket that fills at a rate.
#[derive(Clone, Debug)]
pub struct Quota {
    rate: u64,
    /// In billionths of a byte, so that no time between two calls is lost.
    level: u128,
    filled: Instant,
}

const NANOS: u128 = 1_000_000_000;

impl Quota {
    /// A full bucket that fills with `rate` bytes a second.
    pub fn new(now: Instant, rate: u32) -> Quota {
        let rate = u64::from(rate);
        Quota {
            rate,
            level: u128::from(rate * BURST_SECONDS) * NANOS,
            filled: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let nanos = now.saturating_duration_since(self.filled).as_nanos();
        let max = u128::from(self.rate * BURST_SECONDS) * NANOS;
        self.level = (self.level + nanos * u128::from(self.rate)).min(max);
        self.filled = self.filled.max(now);
    }

    /// Whether so many bytes may be sent now while `reserve` of 3 thirds stay for more important ones.
    pub fn has(&mut self, now: Instant, bytes: usize, reserve: u64) -> bool {
        self.fill(now);
        let kept = u128::from(self.rate * BURST_SECONDS * reserve / 3);
        self.level >= (bytes as u128 + kept) * NANOS
    }

    /// Takes bytes that [`Quota::has`] said are there.
    pub fn take(&mut self, bytes: usize) {
        self.level = self.level.saturating_sub(bytes as u128 * NANOS);
    }

    /// When so many bytes will be there.
    pub fn ready_at(&mut self, now: Instant, bytes: usize) -> Instant {
        self.fill(now);
        let missing = (bytes as u128 * NANOS).saturating_sub(self.level);
        let nanos = missing / u128::from(self.rate.max(1)) + 1;
        now + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Over which time the messages of one address are counted.
pub const COUNTED_FOR: Duration = Duration::from_secs(10);

/// More messages of one address within [`COUNTED_FOR`] and it is ignored: 5 a second.
pub const MESSAGES_MAX: u16 = 50;

/// The same for all addresses of one /24 or /64 together.
pub const PREFIX_MESSAGES_MAX: u16 = 4 * MESSAGES_MAX;

/// For how long it is ignored.
pub const IGNORED_FOR: Duration = Duration::from_secs(5 * 60);

/// How many addresses and prefixes are counted at a time.
pub const CALLERS_MAX: usize = 1024;

const WAYS: usize = 4;

#[derive(Clone, Copy, Debug, Default)]
struct Caller {
    tag: u32,
    /// Begin of the count, or of being ignored; in seconds.
    since: u32,
    /// `u16::MAX` means ignored.
    count: u16,
}

const IGNORED: u16 = u16::MAX;

/// Counts who asks how often, in a table of fixed size: a flood from everywhere pushes counts out, but takes no memory.
pub struct Callers {
    key: hmac::Key,
    table: Vec<Caller>,
}

impl Callers {
    /// Nobody counted yet. The secret keeps others from choosing addresses that share a place in the table.
    pub fn new(secret: &[u8; 32]) -> Callers {
        Callers {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
            table: Vec::new(),
        }
    }

    /// Counts a message; `false` if its sender is to be ignored.
    pub fn admit(&mut self, now: Instant, from: SocketAddr) -> bool {
        if self.table.is_empty() {
            self.table = vec![Caller::default(); CALLERS_MAX];
        }
        let mut name = [0; 20];
        let is_admitted = self.count(now, own_name(from, &mut name), MESSAGES_MAX);
        let mut name = [0; 20];
        match prefix_name(from, &mut name) {
            Some(prefix) => self.count(now, prefix, PREFIX_MESSAGES_MAX) && is_admitted,
            None => is_admitted,
        }
    }

    fn count(&mut self, now: Instant, name: &[u8], max: u16) -> bool {
        let tag = hmac::sign(&self.key, name);
        let number = |at: usize| {
            let bytes = tag.as_ref()[at..at + 4].try_into().expect("4 of 32 bytes");
            u32::from_le_bytes(bytes)
        };
        let set = number(0) as usize % (CALLERS_MAX / WAYS) * WAYS;
        let tag = number(4);
        let seconds = (now.as_nanos() / 1_000_000_000) as u32;
        let set = &mut self.table[set..set + WAYS];
        let caller = match set.iter_mut().position(|caller| caller.tag == tag) {
            Some(at) => &mut set[at],
            None => {
                let least = set
                    .iter_mut()
                    .min_by_key(|caller| (rest(caller, seconds), caller.count));
                let caller = least.expect("a set is not empty");
                *caller = Caller {
                    tag,
                    since: seconds,
                    count: 0,
                };
                caller
            }
        };
        if rest(caller, seconds) == 0 {
            caller.since = seconds;
            caller.count = 0;
        }
        if caller.count == IGNORED {
            return false;
        }
        caller.count += 1;
        if caller.count > max {
            caller.since = seconds;
            caller.count = IGNORED;
            return false;
        }
        true
    }

    /// Bytes of memory beside the value itself.
    pub fn heap_bytes(&self) -> usize {
        self.table.capacity() * size_of::<Caller>()
    }
}

/// Seconds for which a caller's count still means something.
fn rest(caller: &Caller, now: u32) -> u64 {
    let life = if caller.count == IGNORED {
        IGNORED_FOR
    } else {
        COUNTED_FOR
    };
    life.as_secs()
        .saturating_sub(u64::from(now.saturating_sub(caller.since)))
}

/// One address is one caller; on a local network it is the address with its port.
fn own_name(from: SocketAddr, name: &mut [u8; 20]) -> &[u8] {
    let ip = match from.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    name[..16].copy_from_slice(&ip.octets());
    if is_local(from.ip()) {
        name[16..18].copy_from_slice(&from.port().to_le_bytes());
    }
    &name[..18]
}

fn prefix_name(from: SocketAddr, name: &mut [u8; 20]) -> Option<&[u8]> {
    match Prefix::of(from) {
        Prefix::V4(prefix) => {
            name[..3].copy_from_slice(&prefix);
            Some(&name[..3])
        }
        Prefix::V6(prefix) => {
            name[..8].copy_from_slice(&prefix);
            Some(&name[..8])
        }
        Prefix::Local(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_quota_holds_over_any_time() {
        let mut quota = Quota::new(at(0), 8000);
        let mut sent = 0;
        for step in 0..100_000 {
            // Ten seconds in steps of a tenth of a millisecond.
            let now = Instant::from_nanos(step * 100_000);
            if quota.has(now, 100, 0) {
                quota.take(100);
                sent += 100;
            }
        }
        assert!(sent <= 24_000 + 80_000, "{sent}");
        assert!(sent >= 24_000 + 79_000, "{sent}");
        let now = at(10_000);
        let ready = quota.ready_at(now, 8000);
        assert!(ready > now && ready <= now + Duration::from_secs(1));
        assert!(quota.has(ready, 8000, 0));
        assert!(!quota.has(ready, 8000, 1), "a third stays");
    }

    #[test]
    fn one_address_is_ignored_beyond_its_limit_and_forgiven() {
        let mut callers = Callers::new(&[1; 32]);
        let from: SocketAddr = "8.8.8.8:1".parse().expect("an address");
        let other: SocketAddr = "9.9.9.9:1".parse().expect("an address");
        for _ in 0..MESSAGES_MAX {
            assert!(callers.admit(at(1000), from));
        }
        assert!(!callers.admit(at(1000), from));
        assert!(callers.admit(at(1000), other));
        assert!(!callers.admit(at(300_000), from));
        assert!(callers.admit(at(302_000), from));
        // Slower than the limit, for ever.
        for second in 0..1000 {
            assert!(callers.admit(at(400_000 + second * 1000), other));
        }
    }

    #[test]
    fn a_prefix_is_limited_as_a_whole_but_a_local_network_is_not() {
        let mut callers = Callers::new(&[1; 32]);
        let mut admitted = |net: [u8; 3]| {
            (0..250u8)
                .filter(|last| {
                    let [a, b, c] = net;
                    callers.admit(at(5000), ([a, b, c, *last], 1).into())
                })
                .count()
        };
        assert_eq!(admitted([8, 8, 8]), usize::from(PREFIX_MESSAGES_MAX));
        assert_eq!(admitted([127, 0, 0]), 250);
    }

    #[test]
    fn the_table_of_callers_does_not_grow() {
        let mut callers = Callers::new(&[1; 32]);
        for number in 0..50_000u32 {
            callers.admit(at(0), (number.to_be_bytes(), 1).into());
        }
        assert_eq!(callers.table.len(), CALLERS_MAX);
        assert!(callers.heap_bytes() <= CALLERS_MAX * 12);
    }
}
