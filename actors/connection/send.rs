//! What the owner of a connection gives it to send.

use super::machine::Connection;
use super::record::{
    BULK_HEADER_MAX, CONTROL, CONTROL_BODY_MAX, Class, EncodeError, Encoded, Kind, Label,
    MESSAGE_JSON, check_outgoing, counted_bytes, put_record,
};
use super::state::{APPLICATION, Active, GOSSIP};
use super::stream::StreamId;

/// Bytes of control messages that may wait.
pub const CONTROL_QUEUE_MAX: usize = 16 * 1024;
/// Types on the gossip stream begin here.
const GOSSIP_BASE: u8 = MESSAGE_JSON + 0x10;

/// Why something was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The connection is not open yet, or no longer.
    #[error("the connection is not open")]
    NotOpen,
    /// The queue is at its high mark; [`Event::Drained`](super::Event::Drained) or
    /// [`Event::BulkWritable`](super::Event::BulkWritable) will tell when to try again.
    #[error("the queue for this peer is full")]
    Full,
    /// The peer does not take messages of this size.
    #[error("a message of {size} bytes, the peer takes {max}")]
    TooLarge {
        /// Bytes of the body.
        size: usize,
        /// What the peer allows.
        max: u32,
    },
    /// Nobody would take it.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The peer allows no more bulk streams at once, or there is no such stream.
    #[error("no such bulk stream, or too many at once")]
    Stream,
}

impl Connection {
    /// Queues an application message, whole or not at all.
    #[inline]
    pub fn send(&mut self, kind: Kind, name: &str, body: &[u8]) -> Result<(), QueueError> {
        check_outgoing(kind, name, body)?;
        self.check_size(body.len())?;
        let high = self.config.limits.send_queue_high;
        let queue = &mut self.open_active()?.queues[APPLICATION];
        if !queue.has_room(high) {
            return Err(QueueError::Full);
        }
        queue.append_message(MESSAGE_JSON, Label::Name(kind, name), body);
        Ok(())
    }

    /// Queues application messages that were encoded elsewhere, all or none. Gives them back if they are refused.
    pub fn queue_encoded(&mut self, encoded: Encoded) -> Result<(), (QueueError, Encoded)> {
        if let Err(error) = self.check_size(encoded.body_max as usize) {
            return Err((error, encoded));
        }
        let high = self.config.limits.send_queue_high;
        let queue = match self.open_active() {
            Ok(active) => &mut active.queues[APPLICATION],
            Err(error) => return Err((error, encoded)),
        };
        if !queue.has_room(high) {
            return Err((QueueError::Full, encoded));
        }
        if !encoded.is_empty() {
            queue.append_encoded(encoded);
        }
        Ok(())
    }

    /// An emptied buffer of an earlier [`Connection::queue_encoded`], to be filled again.
    pub fn reclaim(&mut self) -> Option<Encoded> {
        self.active.as_mut()?.queues[APPLICATION].reclaim()
    }

    /// Queues a subsystem's message. Control messages have at most 1 KiB and are held back by no window;
    /// [`Class::Bulk`] has streams instead.
    pub fn send_channel(
        &mut self,
        class: Class,
        channel: u8,
        body: &[u8],
    ) -> Result<(), QueueError> {
        let limits = self.config.limits;
        let too_large = |max: usize| QueueError::TooLarge {
            size: body.len(),
            max: max as u32,
        };
        let (index, base, high) = match class {
            Class::Control => {
                if body.len() > CONTROL_BODY_MAX {
                    return Err(too_large(CONTROL_BODY_MAX));
                }
                let queue = &mut self.open_active()?.control;
                if !queue.has_room(CONTROL_QUEUE_MAX) {
                    return Err(QueueError::Full);
                }
                queue.append(|out| put_record(out, CONTROL, &[&[channel], body]));
                return Ok(());
            }
            Class::Application => (APPLICATION, MESSAGE_JSON, limits.send_queue_high),
            Class::Gossip => (GOSSIP, GOSSIP_BASE, limits.gossip_queue_high),
            Class::Bulk => return Err(QueueError::Stream),
        };
        self.check_size(counted_bytes(body.len()))?;
        let queue = &mut self.open_active()?.queues[index];
        if !queue.has_room(high) {
            return Err(QueueError::Full);
        }
        queue.append_message(base, Label::Channel(channel), body);
        Ok(())
    }

    /// Opens a bulk stream to the peer. `header`: up to 1 KiB that the other subsystem reads first.
    pub fn open_bulk(&mut self, channel: u8, header: &[u8]) -> Result<StreamId, QueueError> {
        if header.len() > BULK_HEADER_MAX {
            return Err(QueueError::TooLarge {
                size: header.len(),
                max: BULK_HEADER_MAX as u32,
            });
        }
        let (limits, (opened, _)) = (self.peer_limits(), self.bulk_counts());
        let id = StreamId::BULK_FIRST.0.checked_add(opened);
        let id = id.ok_or(QueueError::Stream)?;
        let bulk = &mut self.open_active()?.bulk;
        if bulk.outgoing_count() >= usize::from(limits.bulk_streams_max) {
            return Err(QueueError::Stream);
        }
        bulk.open(id, channel, header, limits.window);
        self.seldom().bulk_opened += 1;
        Ok(StreamId(id))
    }

    /// Queues data on a bulk stream, all of it while the stream's queue is below its high mark. If it was taken, `data`
    /// is left as an empty buffer, often one with memory that was used before.
    pub fn write_bulk(&mut self, stream: StreamId, data: &mut Vec<u8>) -> Result<(), QueueError> {
        let high = self.config.limits.bulk_queue_high;
        match self.open_active()?.bulk.write(stream.0, data, high) {
            Some(true) => Ok(()),
            Some(false) => Err(QueueError::Full),
            None => Err(QueueError::Stream),
        }
    }

    /// Ends our bulk stream after what is queued on it.
    pub fn end_bulk(&mut self, stream: StreamId) -> Result<(), QueueError> {
        let is_done = self.open_active()?.bulk.end(stream.0);
        is_done.then_some(()).ok_or(QueueError::Stream)
    }

    /// Gives our bulk stream up; what is queued on it is dropped.
    pub fn reset_bulk(&mut self, stream: StreamId, code: u16) -> Result<(), QueueError> {
        let is_done = self.open_active()?.bulk.reset(stream.0, code);
        is_done.then_some(()).ok_or(QueueError::Stream)
    }

    /// Wants no more of the peer's bulk stream. `code` is for the other subsystem; 0 means that all was taken.
    pub fn stop_bulk(&mut self, stream: StreamId, code: u16) -> Result<(), QueueError> {
        let is_done = self.open_active()?.bulk.stop(stream.0, code);
        is_done.then_some(()).ok_or(QueueError::Stream)
    }

    fn check_size(&self, size: usize) -> Result<(), QueueError> {
        let max = self.peer_message_max();
        if size > max as usize && self.is_open() {
            return Err(QueueError::TooLarge { size, max });
        }
        Ok(())
    }

    fn open_active(&mut self) -> Result<&mut Active, QueueError> {
        if !self.is_open() {
            return Err(QueueError::NotOpen);
        }
        Ok(self.active.get_or_insert_default())
    }
}
