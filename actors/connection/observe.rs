//! What the owner of a machine can see of it.

use super::config::Config;
use super::machine::Connection;
use super::record::{Encoded, Records, split_record};
use super::state::{APPLICATION, Tally};

impl Connection {
    /// What it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What it has carried.
    pub fn tally(&self, what: Tally) -> u64 {
        let high = self.phase.seldom();
        let high = high.map_or(0, |seldom| seldom.tally_high[what as usize]);
        u64::from(high) << 32 | u64::from(self.tally[what as usize])
    }

    /// Counts more of what it carries. Its owner does so for [`Tally::MessagesIn`] and [`Tally::MessagesOut`].
    #[inline]
    pub fn count(&mut self, what: Tally, more: u64) {
        let low = &mut self.tally[what as usize];
        let sum = u64::from(*low) + more;
        *low = sum as u32;
        let high = (sum >> 32) as u32;
        if high > 0 {
            self.seldom().tally_high[what as usize] += high;
        }
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

    /// Queues what was accepted before a [`Connection::close`] that is about to come, also above the high mark: nothing
    /// can be queued after it.
    pub fn queue_last(&mut self, encoded: Encoded) {
        if !self.is_open() || encoded.is_empty() {
            return;
        }
        let active = self.active.get_or_insert_default();
        active.queues[APPLICATION].append_encoded(encoded);
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
