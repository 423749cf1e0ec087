//! Randomness of the machine: one seed from outside, and all that follows from it.

use mischief_reactor::Random;
use ring::hmac;

/// A generator whose output nobody predicts who does not know its seed: HMAC-SHA-256 over a counter.
pub(crate) struct Dice {
    key: hmac::Key,
    counter: u64,
    block: [u8; 32],
    used: usize,
}

impl Dice {
    pub(crate) fn new(seed: &[u8; 32]) -> Dice {
        Dice {
            key: hmac::Key::new(hmac::HMAC_SHA256, seed),
            counter: 0,
            block: [0; 32],
            used: 32,
        }
    }

    pub(crate) fn u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }
}

impl Random for Dice {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.used == self.block.len() {
                let tag = hmac::sign(&self.key, &self.counter.to_le_bytes());
                self.block.copy_from_slice(tag.as_ref());
                self.counter += 1;
                self.used = 0;
            }
            *byte = self.block[self.used];
            self.used += 1;
        }
    }
}

impl std::fmt::Debug for Dice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dice")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_fixes_what_comes() {
        let draw = |seed: u8| {
            let mut dice = Dice::new(&[seed; 32]);
            (0..20).map(|_| dice.u32()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let mut dice = Dice::new(&[3; 32]);
        let below: Vec<u64> = (0..1000).map(|_| dice.below(10)).collect();
        assert!(below.iter().all(|number| *number < 10));
        assert!((0..10).all(|number| below.contains(&number)));
    }
}
