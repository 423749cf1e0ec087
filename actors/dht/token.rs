//! Write tokens: who stores something has asked for it from the same address a few minutes before.
//!
//! Without them anybody could store peers in the name of an address that is not theirs. A token is a keyed hash, so that
//! nothing is remembered for those who ask, and nobody else can make one.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mischief_reactor::{Instant, Random};
use ring::hmac;

use super::node_id::NodeId;

/// How long a secret is the one that new tokens are made with (BEP 5: "tokens up to ten minutes old are accepted").
pub const SECRET_LIFE: Duration = Duration::from_secs(5 * 60);

/// Bytes of a token.
pub const TOKEN_BYTES: usize = 8;

/// Makes tokens and knows its own again: for at least [`SECRET_LIFE`], and for less than twice as long.
pub struct Tokens {
    current: hmac::Key,
    previous: hmac::Key,
    rotated: Instant,
}

impl Tokens {
    /// With fresh secrets.
    pub fn new(now: Instant, random: &mut dyn Random) -> Tokens {
        Tokens {
            current: secret(random),
            previous: secret(random),
            rotated: now,
        }
    }

    /// A token for who asks from this IP address about this target.
    pub fn make(
        &mut self,
        now: Instant,
        from: SocketAddr,
        target: &NodeId,
        random: &mut dyn Random,
    ) -> [u8; TOKEN_BYTES] {
        self.rotate(now, random);
        token(&self.current, from.ip(), target)
    }

    /// Whether it is a token of ours for this IP address and this target, and not too old.
    pub fn is_valid(
        &mut self,
        now: Instant,
        from: SocketAddr,
        target: &NodeId,
        given: &[u8],
        random: &mut dyn Random,
    ) -> bool {
        self.rotate(now, random);
        // Both are computed and compared whole, so that the time it takes tells nothing.
        let current = is_equal(given, &token(&self.current, from.ip(), target));
        let previous = is_equal(given, &token(&self.previous, from.ip(), target));
        current | previous
    }

    fn rotate(&mut self, now: Instant, random: &mut dyn Random) {
        let age = now.saturating_duration_since(self.rotated);
        if age < SECRET_LIFE {
            return;
        }
        let fresh = secret(random);
        let last = std::mem::replace(&mut self.current, fresh);
        // After a long pause the last secret is too old as well.
        self.previous = if age < 2 * SECRET_LIFE {
            last
        } else {
            secret(random)
        };
        self.rotated = now;
    }
}

fn secret(random: &mut dyn Random) -> hmac::Key {
    let mut secret = [0; 32];
    random.fill(&mut secret);
    hmac::Key::new(hmac::HMAC_SHA256, &secret)
}

fn token(key: &hmac::Key, ip: IpAddr, target: &NodeId) -> [u8; TOKEN_BYTES] {
    let mut context = hmac::Context::with_key(key);
    match ip {
        IpAddr::V4(ip) => context.update(&ip.octets()),
        IpAddr::V6(ip) => context.update(&ip.octets()),
    }
    context.update(&target.0);
    let tag = context.sign();
    tag.as_ref()[..TOKEN_BYTES]
        .try_into()
        .expect("SHA-256 has 32 bytes")
}

fn is_equal(given: &[u8], own: &[u8; TOKEN_BYTES]) -> bool {
    let differences = given.iter().zip(own).fold(0, |all, (a, b)| all | (a ^ b));
    given.len() == own.len() && std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::dice::Dice;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn tokens_hold_for_their_address_target_and_time() {
        let mut random = Dice::new(&[5; 32]);
        let from: SocketAddr = "192.0.2.1:1000".parse().expect("an address");
        let (target, other) = (NodeId([1; 20]), NodeId([2; 20]));
        for made in [0, 1, 150, 299, 300, 301, 12_345] {
            let mut tokens = Tokens::new(at(0), &mut random);
            let token = tokens.make(at(made), from, &target, &mut random);
            let mut is_valid = |after: u64, from: &str, target: &NodeId, token: &[u8]| {
                let from = from.parse().expect("an address");
                tokens.is_valid(at(made + after), from, target, token, &mut random)
            };
            assert!(is_valid(0, "192.0.2.1:1000", &target, &token));
            assert!(
                is_valid(0, "192.0.2.1:2000", &target, &token),
                "a NAT may change the port"
            );
            assert!(!is_valid(0, "192.0.2.2:1000", &target, &token));
            assert!(!is_valid(0, "[2001:db8::1]:1000", &target, &token));
            assert!(!is_valid(0, "192.0.2.1:1000", &other, &token));
            assert!(!is_valid(0, "192.0.2.1:1000", &target, &token[..7]));
            assert!(!is_valid(0, "192.0.2.1:1000", &target, b""));
            assert!(
                is_valid(299, "192.0.2.1:1000", &target, &token),
                "made at {made}"
            );
            assert!(
                !is_valid(601, "192.0.2.1:1000", &target, &token),
                "made at {made}"
            );
        }
    }

    #[test]
    fn a_long_pause_ends_all_tokens() {
        let mut random = Dice::new(&[5; 32]);
        let from: SocketAddr = "192.0.2.1:1000".parse().expect("an address");
        let target = NodeId([1; 20]);
        let mut tokens = Tokens::new(at(0), &mut random);
        let token = tokens.make(at(0), from, &target, &mut random);
        assert!(!tokens.is_valid(at(601), from, &target, &token, &mut random));
    }
}
