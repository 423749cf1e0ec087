//! Where randomness comes from: always from outside, so that a seed fixes a whole run.

/// A source of random bytes. Machines are handed one; the operating system's stands behind the real drivers, a seeded
/// one behind the simulator.
pub trait Random {
    /// Fills `bytes` with random bytes fit for keys.
    fn fill(&mut self, bytes: &mut [u8]);

    /// A random number below `bound`; 0 when `bound` is 0. The bias is below 2^-32 for every bound that fits `u32`.
    fn below(&mut self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        ((u128::from(u64::from_le_bytes(bytes)) * u128::from(bound)) >> 64) as u64
    }
}
