//! The sending half of a connection: packs what waits into frames and seals them.

use mischief_reactor::Instant;
use mischief_reactor::sabotage::{self, Mutation};

use super::cipher::CipherError;
use super::error::Error;
use super::frame::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FRAME_PLAINTEXT_TARGET};
use super::machine::{Connection, seconds};
use super::record::{
    ACCEPT, CLOSE, LIMITS, PADDING, PING, PONG, RECORD_HEADER_BYTES, REKEY, WINDOW, put_record,
};
use super::state::{APPLICATION, Due, GOSSIP, LastWords, Phase, STREAM_IDS, Tally};
use super::stream::ReceiveWindow;

/// A class that waits gets one record into every so many frames, however much the classes above it have to send.
const PASSED_OVER_MAX: u8 = 15;
/// Frames are filled up to a multiple of this when padding is on.
const PADDING_STEP: usize = 64;

impl Connection {
    /// Appends what is to be sent now to `out`, sealed in frames of up to 16 KiB, and returns how many bytes that was.
    ///
    /// Stops at the first frame with which at least `bytes_max` are reached, so up to a frame more may come. What the
    /// transport does not take at once stays with the owner, who then should not call again until it is gone.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>, bytes_max: usize) -> usize {
        let start = out.len();
        if let Some(bytes) = self.clear_output(now) {
            out.extend_from_slice(&bytes);
        }
        while out.len() - start < bytes_max && self.sends_frames() {
            match self.write_frame(now, out) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => {
                    self.end(Error::Exhausted);
                    break;
                }
            }
        }
        let written = out.len() - start;
        self.count(Tally::BytesOut, written as u64);
        if written > 0
            && self.is_open()
            && let Some(active) = &mut self.active
        {
            active.used_at = now;
            self.look_by(now + self.config.timing.linger);
        }
        written
    }

    /// Handshake messages and refusals.
    fn clear_output(&mut self, now: Instant) -> Option<Vec<u8>> {
        match self.phase.as_mut()? {
            Phase::Handshake(_) => self.handshake_output(now),
            Phase::AwaitAccept(unsent) => {
                let unsent = unsent.take()?;
                Some(unsent.bytes)
            }
            Phase::Closing(end) => match &mut end.last_words {
                LastWords::Clear(bytes) => {
                    let bytes = std::mem::take(bytes);
                    self.start_lingering(now);
                    Some(bytes)
                }
                LastWords::Close(..) => None,
            },
            _ => None,
        }
    }

    fn sends_frames(&self) -> bool {
        matches!(*self.phase, Phase::Open | Phase::Closing(_))
    }

    /// Appends one frame. `false` if there is nothing to send.
    fn write_frame(&mut self, now: Instant, out: &mut Vec<u8>) -> Result<bool, CipherError> {
        if !self.has_something() {
            return Ok(false);
        }
        let start = out.len();
        let body = start + FRAME_HEADER_BYTES;
        let end = body + FRAME_PLAINTEXT_TARGET;
        out.reserve(FRAME_BYTES_MAX);
        out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
        self.write_control(now, out, end);
        self.write_streams(out, end);
        let is_closing = self.write_close(out, end);
        if out.len() == body {
            out.truncate(start);
            return Ok(false);
        }
        self.write_padding(out, body);
        let is_rekeying = !is_closing && self.is_rekey_due(now);
        if is_rekeying {
            put_record(out, REKEY, &[]);
        }
        if let Err(error) = self.send.seal(self.suite, out, body) {
            out.truncate(start);
            return Err(error);
        }
        let length = u16::try_from(out.len() - body).expect("frames are cut to 16 KiB");
        out[start..body].copy_from_slice(&length.to_be_bytes());
        if is_rekeying {
            self.send.rekey(self.suite);
            self.rekeyed_at = seconds(now);
        }
        if is_closing {
            self.start_lingering(now);
        }
        Ok(true)
    }

    /// A quick look that spares idle connections the rest.
    fn has_something(&self) -> bool {
        self.active.is_some()
            || self.due.has_any(Due::RECORDS)
            || self.alive.has_ping()
            || !self.is_open()
            || (0..2).any(|index| self.is_grant_due(index))
    }

    /// The window of a stream, if anything has come on it.
    fn receive_window(&self, index: usize) -> Option<&ReceiveWindow> {
        match index {
            APPLICATION => Some(&self.application.receive),
            _ => self.phase.seldom().map(|seldom| &seldom.gossip.receive),
        }
    }

    fn is_grant_due(&self, index: usize) -> bool {
        let Some(window) = self.receive_window(index) else {
            return false;
        };
        let wanted = self.active.as_ref().map_or(0, |active| {
            let reassembly = active.reassembly[index].as_ref();
            reassembly.map_or(0, |reassembly| reassembly.rest_encoded_max())
        });
        window.is_grant_due(self.config.limits.window, wanted)
    }

    /// Control records: few, small, and first in the frame.
    fn write_control(&mut self, now: Instant, out: &mut Vec<u8>, end: usize) {
        if self.due.take(Due::ACCEPT) {
            put_record(out, ACCEPT, &[]);
        }
        if !self.is_open() {
            return;
        }
        if self.due.take(Due::LIMITS) {
            put_record(out, LIMITS, &[&self.message_max().to_be_bytes()]);
        }
        let is_ponging = self.due.take(Due::PONG);
        if is_ponging {
            let token = std::mem::take(&mut self.seldom().pong);
            self.forget_seldom();
            put_record(out, PONG, &[&token.to_be_bytes()]);
        }
        let ping = self.alive.take_ping(now);
        if let Some(token) = ping {
            put_record(out, PING, &[&token.to_be_bytes()]);
            self.look_by(now + self.config.timing.ping_timeout);
        }
        // A sign of life takes small grants along, so that the windows of a quiet connection become what they were.
        let grants_all = is_ponging || ping.is_some();
        for index in [APPLICATION, GOSSIP] {
            let has_grant = self
                .receive_window(index)
                .is_some_and(ReceiveWindow::has_grant);
            if self.is_grant_due(index) || grants_all && has_grant {
                let grant = self.stream(index).receive.take_grant();
                let stream = STREAM_IDS[index].0;
                put_record(out, WINDOW, &[&stream.to_be_bytes(), &grant.to_be_bytes()]);
                if sabotage::is_on(Mutation::GrantTwice) {
                    put_record(out, WINDOW, &[&stream.to_be_bytes(), &grant.to_be_bytes()]);
                }
            }
        }
        let window = self.config.limits.window;
        if let Some(active) = &mut self.active {
            active.bulk.pack_control(out, end, window);
            let room = end - out.len();
            active.control.pack(out, room, None, false);
        }
    }

    /// Application, gossip and bulk data, in this order, but for a single record of those that had to wait long.
    fn write_streams(&mut self, out: &mut Vec<u8>, end: usize) {
        let has_gossip = match &self.active {
            Some(active) => active.queues[GOSSIP].bytes() > 0,
            None => return,
        };
        if has_gossip {
            self.seldom();
        }
        let Some(active) = &mut self.active else {
            return;
        };
        let application = &mut self.application;
        let seldom = self.phase.seldom_mut();
        let mut gossip = seldom.map(|seldom| &mut seldom.gossip.send);
        let [messages, rumours] = &mut active.queues;
        if active.passed_over >= PASSED_OVER_MAX {
            active.passed_over = 0;
            active.bulk.pack(out, end, true);
            rumours.pack(out, end - out.len(), gossip.as_deref_mut(), true);
        }
        messages.pack(out, end - out.len(), Some(&mut application.send), false);
        rumours.pack(out, end - out.len(), gossip, false);
        active.bulk.pack(out, end, false);
        let is_waiting = active.bulk.is_ready() || rumours.bytes() > 0;
        active.passed_over = if is_waiting {
            active.passed_over + 1
        } else {
            0
        };
    }

    /// The goodbye of a closing connection, once all that was queued is packed.
    fn write_close(&mut self, out: &mut Vec<u8>, end: usize) -> bool {
        let Phase::Closing(closing) = &*self.phase else {
            return false;
        };
        let LastWords::Close(code, reason) = &closing.last_words else {
            return false;
        };
        let has_ready_bulk = match &self.active {
            Some(active) => active.bulk.is_ready(),
            None => false,
        };
        let is_flushed = self.queued_bytes() == 0 && !has_ready_bulk;
        let bytes = RECORD_HEADER_BYTES + 2 + reason.len();
        if !is_flushed || out.len() + bytes > end {
            return false;
        }
        let code = code.number().to_be_bytes();
        put_record(out, CLOSE, &[&code, reason.as_bytes()]);
        true
    }

    fn write_padding(&self, out: &mut Vec<u8>, body: usize) {
        let excess = (out.len() - body) % PADDING_STEP;
        if !self.config.padding || excess == 0 {
            return;
        }
        let mut missing = PADDING_STEP - excess;
        if missing < RECORD_HEADER_BYTES {
            missing += PADDING_STEP;
        }
        let zeros = [0; 2 * PADDING_STEP];
        put_record(out, PADDING, &[&zeros[..missing - RECORD_HEADER_BYTES]]);
    }

    fn is_rekey_due(&self, now: Instant) -> bool {
        let timing = &self.config.timing;
        #[cfg(feature = "lab-plaintext")]
        if self.suite == super::cipher::Suite::Plaintext {
            return false;
        }
        // Counted from the beginning, not from the last: after one for the time's sake the next comes early.
        let frames = u64::from(timing.rekey_frames.max(1));
        self.send.count().saturating_add(1).is_multiple_of(frames)
            || u64::from(seconds(now).saturating_sub(self.rekeyed_at)) >= timing.rekey.as_secs()
    }
}
