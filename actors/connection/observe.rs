//! What the owner of a machine can see of it.

use super::config::Config;
use super::machine::Connection;
use super::record::{Records, split_record};
use super::state::APPLICATION;

impl Connection {
    /// What it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether the peer has still to answer the ping of [`Connection::probe`].
    pub fn is_probing(&self) -> bool {
        self.alive.is_probing()
    }

    /// Bytes of application records that have not gone into frames.
    pub fn application_bytes(&self) -> usize {
        self.active
            .as_ref()
            .map_or(0, |active| active.queues[APPLICATION].bytes())
    }
}

impl Records<'_> {
    /// How many messages they are, without looking into them.
    pub fn count_messages(&self) -> usize {
        let mut count = 0;
        let mut rest = self.as_bytes();
        while let Some((_, _, after)) = split_record(rest) {
            rest = after;
            count += 1;
        }
        count
    }
}
