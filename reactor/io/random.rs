//! Random bytes from the operating system.

use crate::random::Random;

/// The operating system's source of random bytes, for programs that need some before a runtime is there. Actors ask
/// their context, so that the simulator can seed them.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    /// # Panics
    ///
    /// If the system has no random bytes: there is no safe way to go on.
    fn fill(&mut self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system has random bytes");
    }
}
