//! The generator behind every decision of a simulated world: xoshiro256++ (Blackman and Vigna, 2018), seeded through
//! SplitMix64 as its authors advise.
//!
//! It is fast, has a period of 2^256 − 1 and passes the usual statistical tests. It is *not* fit for secrets: who sees
//! a few outputs knows the rest. In a simulation that is what is wanted, and its keys are still all different.

use std::time::Duration;

use crate::random::Random;

/// A seeded generator. The same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Prng {
    state: [u64; 4],
}

impl Prng {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Prng {
        let mut mixer = seed;
        let mut next = || split_mix(&mut mixer);
        let state = [next(), next(), next(), next()];
        // SplitMix64 is a permutation of its counter, so four zeros in a row cannot come out of it; the one state
        // that xoshiro must not have is thus never reached.
        debug_assert!(state != [0; 4]);
        Prng { state }
    }

    /// A generator for one purpose of a seed. What one purpose draws never shifts what another one gets.
    pub fn for_purpose(seed: u64, purpose: u64) -> Prng {
        let mut mixer = seed;
        let spread = split_mix(&mut mixer);
        Prng::new(spread ^ purpose.wrapping_mul(0xd1b5_4a32_d192_ed03))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let shifted = b << 17;
        let c = c ^ a;
        let d = d ^ b;
        self.state = [a ^ d, b ^ c, c ^ shifted, d.rotate_left(45)];
        result
    }

    /// Whether an event of probability `p` happens: never at 0, always at 1. Draws nothing at exactly 0.
    pub fn chance(&mut self, p: f64) -> bool {
        if p <= 0.0 {
            return false;
        }
        // The 53 bits that an f64 holds exactly, as a fraction of 1.
        let fraction = (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        fraction < p
    }

    /// A length of time from zero up to and with `max`.
    pub fn up_to(&mut self, max: Duration) -> Duration {
        let nanos = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX - 1);
        if nanos == 0 {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.below(nanos.saturating_add(1)))
    }
}

impl Random for Prng {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

/// One step of SplitMix64 (Steele, Lea and Flood, 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Mixes words into one number: a fixed choice among several that depends on nothing but them.
pub(super) fn mix(words: &[u64]) -> u64 {
    let mut state = 0;
    let mut result = 0;
    for word in words {
        state ^= *word;
        result = split_mix(&mut state);
        state ^= result;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs for the state 1, 2, 3, 4, as the reference implementation prints them.
    #[test]
    fn xoshiro_agrees_with_the_reference() {
        let mut prng = Prng {
            state: [1, 2, 3, 4],
        };
        let want = [
            41943041,
            58720359,
            3588806011781223,
            3591011842654386,
            9228616714210784205,
            9973669472204895162,
            14011001112246962877,
            12406186145184390807,
            15849039046786891736,
            10450023813501588000,
        ];
        for number in want {
            assert_eq!(prng.next_u64(), number);
        }
    }

    /// The first outputs for the seed 1234567, as the reference implementation prints them.
    #[test]
    fn split_mix_agrees_with_the_reference() {
        let mut state = 1234567;
        let want = [
            6457827717110365317,
            3203168211198807973,
            9817491932198370423,
            4593380528125082431,
            16408922859458223821,
        ];
        for number in want {
            assert_eq!(split_mix(&mut state), number);
        }
    }

    #[test]
    fn chance_keeps_its_rate_and_its_ends() {
        let mut prng = Prng::new(5);
        let hits = (0..100_000).filter(|_| prng.chance(0.05)).count();
        assert!((4_700..5_300).contains(&hits), "{hits}");
        assert!((0..1000).all(|_| prng.chance(1.0)));
        assert!(!(0..1000).any(|_| prng.chance(0.0)));
    }

    #[test]
    fn purposes_and_seeds_differ() {
        let mut firsts: Vec<u64> = (0..100)
            .flat_map(|seed| {
                (0..100).map(move |purpose| Prng::for_purpose(seed, purpose).next_u64())
            })
            .collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), 10_000);
    }
}
