//! Records: what the inside of a frame is made of.
//!
//! ```text
//! 0        1         3
//! +--------+---------+----------------+
//! | type   | length  | body           |     length: big-endian, of the body alone
//! +--------+---------+----------------+
//! ```
//!
//! The layout of each body stands at its type below and in docs/wire.md. Senders keep records to 16 KiB, header
//! included, so that a record of a higher class never waits for more than that.

use std::fmt;
use std::sync::Arc;

use super::error::Fault;

/// Bytes of a record's header.
pub const RECORD_HEADER_BYTES: usize = 3;
/// The longest record that is sent, header included.
pub const RECORD_BYTES_MAX: usize = 16 * 1024;
/// The longest type name of a message in bytes.
pub const TYPE_NAME_MAX: usize = 128;
/// Bytes that a subsystem's message may have beyond the limit for bodies: its own header goes there, so that what an
/// application sends through a subsystem has the same limit as what it sends by itself.
pub const CHANNEL_HEADER_MAX: usize = 256;
/// The longest body of a control message in bytes.
pub const CONTROL_BODY_MAX: usize = 1024;
/// The longest header of a bulk stream in bytes.
pub const BULK_HEADER_MAX: usize = 1024;
/// Every part of a large message but the last has at least this many bytes, so that headers cannot outweigh bodies.
pub const PART_MIN: usize = 1024;

/// Filling; the body is ignored.
pub(crate) const PADDING: u8 = 0x00;
/// The responder wants the connection. Empty.
pub(crate) const ACCEPT: u8 = 0x01;
/// The end. Code (u16), reason (up to 256 bytes of UTF-8).
pub(crate) const CLOSE: u8 = 0x02;
/// Asks for a PONG. Token (u32).
pub(crate) const PING: u8 = 0x03;
/// Answers a PING. Its token (u32).
pub(crate) const PONG: u8 = 0x04;
/// Lets the peer send more on a stream. Stream (u32), bytes (u32).
pub(crate) const WINDOW: u8 = 0x05;
/// The sender's next frame comes under its next key. Empty, and the last record of its frame.
pub(crate) const REKEY: u8 = 0x06;
/// The sender's limits have changed. Largest message body (u32); more may follow in later versions.
pub(crate) const LIMITS: u8 = 0x07;
/// A subsystem's message that no window holds back. Channel (u8), body (up to 1 KiB).
pub(crate) const CONTROL: u8 = 0x08;

/// A whole application message of [`Kind::Json`]; the other kinds follow. Length of the name (u8), name, body.
pub(crate) const MESSAGE_JSON: u8 = 0x10;
pub(crate) const MESSAGE_BYTES: u8 = 0x12;
/// A subsystem's message, ordered with the application's. 1 (u8), channel (u8), body.
pub(crate) const MESSAGE_CHANNEL: u8 = 0x13;
/// The first part of a large message. Kind (u8), bytes of the whole body (u32), length of the label (u8), label, part.
pub(crate) const MESSAGE_FIRST: u8 = 0x14;
/// A further part.
pub(crate) const MESSAGE_NEXT: u8 = 0x15;

/// The same on the gossip stream.
pub(crate) const GOSSIP_CHANNEL: u8 = 0x23;
pub(crate) const GOSSIP_FIRST: u8 = 0x24;
pub(crate) const GOSSIP_NEXT: u8 = 0x25;

/// Opens a bulk stream. Stream (u32), channel (u8), header (up to 1 KiB).
pub(crate) const BULK_OPEN: u8 = 0x30;
/// Stream (u32), data.
pub(crate) const BULK_DATA: u8 = 0x31;
/// The sender has sent everything. Stream (u32).
pub(crate) const BULK_END: u8 = 0x32;
/// The sender gives up. Stream (u32), code (u16).
pub(crate) const BULK_RESET: u8 = 0x33;
/// The receiver is done with a stream: code 0 when it has taken everything after END or RESET, others before. Stream
/// (u32), code (u16).
pub(crate) const BULK_STOP: u8 = 0x34;

/// Types from here on are skipped by who does not know them.
pub(crate) const SKIPPABLE: u8 = 0x80;

/// Kind of a label that is a channel instead of a name.
pub(crate) const KIND_CHANNEL: u8 = 3;

/// What the body of an application message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A JSON value. Only the application checks that it is one.
    Json,
    /// Text. Checked to be UTF-8.
    Text,
    /// Bytes.
    Bytes,
}

impl Kind {
    /// The number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Kind::Json => 0,
            Kind::Text => 1,
            Kind::Bytes => 2,
        }
    }

    /// The kind with this number on the wire.
    pub const fn from_number(number: u8) -> Option<Kind> {
        match number {
            0 => Some(Kind::Json),
            1 => Some(Kind::Text),
            2 => Some(Kind::Bytes),
            _ => None,
        }
    }

    /// JSON values have a type name of 1 to 128 bytes; text and bytes may do without.
    pub(crate) fn allows_name(self, length: usize) -> bool {
        length <= TYPE_NAME_MAX && (length > 0 || self != Kind::Json)
    }
}

/// The four classes of traffic, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Small and urgent; no window holds it back.
    Control,
    /// The application's messages, in the order sent.
    Application,
    /// Gossip, in the order sent.
    Gossip,
    /// Bulk data, each stream in order.
    Bulk,
}

/// An application message inside of the bytes it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// What the body is.
    pub kind: Kind,
    /// The type name that the sender gave it; may be empty for text and bytes.
    pub name: &'a str,
    /// The body.
    pub body: &'a [u8],
    /// Bytes to give back with [`Connection::consumed`](super::Connection::consumed) when the message is done with.
    pub credit: u32,
}

/// A run of whole application messages, each in one record, as they came in.
///
/// The owner may go through them at once, or copy [`Records::as_bytes`] elsewhere and go through
/// `Records::new(copied)` there. [`Connection::consumed`](super::Connection::consumed) takes the length of the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    /// The messages in bytes that were copied from [`Records::as_bytes`], or a part of them from record to record. The
    /// iteration ends early at anything else.
    pub const fn new(bytes: &'a [u8]) -> Records<'a> {
        Records(bytes)
    }

    /// The records as they came in.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The bytes that remain to be gone through.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no message remains.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Records<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Records({} bytes)", self.0.len())
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Message<'a>;

    #[inline]
    fn next(&mut self) -> Option<Message<'a>> {
        let (record_type, body, rest) = split_record(self.0)?;
        let kind = Kind::from_number(record_type.wrapping_sub(MESSAGE_JSON))?;
        let (label, payload) = split_label(body)?;
        let credit = (self.0.len() - rest.len()) as u32;
        self.0 = rest;
        Some(Message {
            kind,
            name: std::str::from_utf8(label).ok()?,
            body: payload,
            credit,
        })
    }
}

/// An application message that came in several records. It owns its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct LargeMessage {
    pub(crate) kind: Kind,
    pub(crate) name_bytes: usize,
    pub(crate) bytes: Vec<u8>,
    pub(crate) credit: u32,
}

impl LargeMessage {
    /// A message that was put together elsewhere. `credit` is what giving it back is worth.
    pub fn new(kind: Kind, name: &str, body: &[u8], credit: u32) -> LargeMessage {
        let mut bytes = Vec::with_capacity(name.len() + body.len());
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(body);
        LargeMessage {
            kind,
            name_bytes: name.len(),
            bytes,
            credit,
        }
    }

    /// The message inside.
    pub fn message(&self) -> Message<'_> {
        let (name, body) = self.bytes.split_at(self.name_bytes);
        Message {
            kind: self.kind,
            name: std::str::from_utf8(name).expect("checked when the message began"),
            body,
            credit: self.credit,
        }
    }
}

impl fmt::Debug for LargeMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.message();
        let bytes = message.body.len();
        write!(
            f,
            "LargeMessage({:?} {:?}, {bytes} bytes)",
            message.kind, message.name
        )
    }
}

/// A message between two subsystems. Those of [`Class::Control`] are held back by no window: who cannot keep one drops it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelMessage<'a> {
    /// Its class; never [`Class::Bulk`].
    pub class: Class,
    /// The subsystem's number.
    pub channel: u8,
    /// The body.
    pub body: &'a [u8],
    /// Bytes to give back with [`Connection::consumed`](super::Connection::consumed); 0 for [`Class::Control`].
    pub credit: u32,
}

/// The first record of `bytes`: its type, its body, and what follows. `None` if it is not whole.
#[inline]
pub(crate) fn split_record(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>()?;
    let length = usize::from(u16::from_be_bytes([header[1], header[2]]));
    let (body, rest) = rest.split_at_checked(length)?;
    Some((header[0], body, rest))
}

/// A label (name or channel) and what follows it.
#[inline]
pub(crate) fn split_label(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = body.split_first()?;
    rest.split_at_checked(usize::from(length))
}

/// Checks the inside of a whole application message.
#[inline]
pub(crate) fn check_message(record_type: u8, body: &[u8]) -> Result<(), Fault> {
    let malformed = Fault::Record(record_type);
    let kind = Kind::from_number(record_type.wrapping_sub(MESSAGE_JSON));
    let (Some(kind), Some((name, payload))) = (kind, split_label(body)) else {
        return Err(malformed);
    };
    let is_text = kind != Kind::Text || std::str::from_utf8(payload).is_ok();
    if !kind.allows_name(name.len()) || std::str::from_utf8(name).is_err() || !is_text {
        return Err(malformed);
    }
    Ok(())
}

/// The beginning of a large message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct First<'a> {
    /// A [`Kind`]'s number, or [`KIND_CHANNEL`].
    pub(crate) kind: u8,
    /// Bytes of the whole body.
    pub(crate) total: u32,
    /// The name, or the channel's byte.
    pub(crate) label: &'a [u8],
    pub(crate) part: &'a [u8],
}

impl<'a> First<'a> {
    pub(crate) fn decode(record_type: u8, body: &'a [u8]) -> Result<First<'a>, Fault> {
        let malformed = Fault::Record(record_type);
        let Some((&[kind, a, b, c, d], rest)) = body.split_first_chunk() else {
            return Err(malformed);
        };
        let (label, part) = split_label(rest).ok_or(malformed.clone())?;
        let total = u32::from_be_bytes([a, b, c, d]);
        let is_channel = kind == KIND_CHANNEL && label.len() == 1;
        // Gossip is between subsystems alone.
        let is_message = record_type == MESSAGE_FIRST
            && Kind::from_number(kind).is_some_and(|kind| kind.allows_name(label.len()))
            && std::str::from_utf8(label).is_ok();
        if !(is_channel || is_message) || part.len() > total as usize {
            return Err(malformed);
        }
        Ok(First {
            kind,
            total,
            label,
            part,
        })
    }

    /// Bytes of the whole body that count against the limit for bodies.
    pub(crate) fn counted(&self) -> u32 {
        match self.kind {
            KIND_CHANNEL => counted_bytes(self.total as usize) as u32,
            _ => self.total,
        }
    }

    /// The kind of an application message; `None` for a subsystem's.
    pub(crate) fn message_kind(kind: u8) -> Option<Kind> {
        Kind::from_number(kind)
    }
}

/// Bytes of a subsystem's message that count against the limit for bodies.
pub(crate) const fn counted_bytes(body: usize) -> usize {
    body.saturating_sub(CHANNEL_HEADER_MAX)
}

/// Bytes that the records of a large message's rest may take at most.
pub(crate) fn rest_bytes_max(rest: usize) -> usize {
    rest + (rest / PART_MIN + 1) * RECORD_HEADER_BYTES
}

/// Appends a record's header.
#[inline]
pub(crate) fn put_header(out: &mut Vec<u8>, record_type: u8, length: usize) {
    let length = u16::try_from(length).expect("records are cut to 16 KiB");
    let [high, low] = length.to_be_bytes();
    out.extend_from_slice(&[record_type, high, low]);
}

/// Appends a whole record.
pub(crate) fn put_record(out: &mut Vec<u8>, record_type: u8, parts: &[&[u8]]) {
    put_header(out, record_type, parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// What a message is labelled with.
#[derive(Clone, Copy)]
pub(crate) enum Label<'a> {
    Name(Kind, &'a str),
    Channel(u8),
}

/// Puts a message on the stream whose types begin at `base` (0x10 or 0x20), cut into as many records as it takes.
/// `append` is called for each, with a function that appends it to a buffer.
#[inline]
pub(crate) fn put_message(
    base: u8,
    label: Label<'_>,
    body: &[u8],
    mut append: impl FnMut(&dyn Fn(&mut Vec<u8>)),
) {
    let channel;
    let (kind, label) = match label {
        Label::Name(kind, name) => (kind.number(), name.as_bytes()),
        Label::Channel(number) => {
            channel = [number];
            (KIND_CHANNEL, &channel[..])
        }
    };
    let length = 1 + label.len() + body.len();
    if RECORD_HEADER_BYTES + length <= RECORD_BYTES_MAX {
        let [high, low] = (length as u16).to_be_bytes();
        return append(&|out| {
            out.extend_from_slice(&[base + kind, high, low, label.len() as u8]);
            put_short(out, label);
            put_short(out, body);
        });
    }
    let total = u32::try_from(body.len()).expect("messages are limited to 16 MiB");
    let head = RECORD_HEADER_BYTES + 6 + label.len();
    let (part, mut rest) = body.split_at(RECORD_BYTES_MAX - head);
    let first = base + (MESSAGE_FIRST - MESSAGE_JSON);
    let length = [label.len() as u8];
    append(&|out| {
        put_record(
            out,
            first,
            &[&[kind], &total.to_be_bytes(), &length, label, part],
        );
    });
    while !rest.is_empty() {
        let part;
        (part, rest) = rest.split_at(rest.len().min(RECORD_BYTES_MAX - RECORD_HEADER_BYTES));
        append(&|out| put_record(out, first + 1, &[part]));
    }
}

/// A large message whose body is shared with its sender, cut into records only as it is packed into frames.
pub(crate) struct SharedMessage {
    kind: Kind,
    name: Box<str>,
    body: Arc<[u8]>,
    /// Bytes of the body that are packed; `None` before the first record.
    packed: Option<usize>,
}

impl SharedMessage {
    /// What still waits, for the bounds of queues: label and body, and the fixed fields of the first record.
    pub(crate) fn waiting(&self) -> usize {
        match self.packed {
            Some(packed) => self.body.len() - packed,
            None => RECORD_HEADER_BYTES + 6 + self.name.len() + self.body.len(),
        }
    }

    /// Appends the next record within `room`. `false` if that is too little for one.
    pub(crate) fn pack(&mut self, out: &mut Vec<u8>, room: usize) -> bool {
        let total = self.body.len();
        let packed = self.packed.unwrap_or(0);
        let head = match self.packed {
            Some(_) => RECORD_HEADER_BYTES,
            None => RECORD_HEADER_BYTES + 6 + self.name.len(),
        };
        let rest = total - packed;
        let length = room.min(RECORD_BYTES_MAX).saturating_sub(head).min(rest);
        if length < rest.min(PART_MIN) {
            return false;
        }
        let part = &self.body[packed..packed + length];
        if self.packed.is_some() {
            put_record(out, MESSAGE_NEXT, &[part]);
        } else {
            let total = u32::try_from(total).expect("messages are limited to 16 MiB");
            let (kind, name) = ([self.kind.number()], self.name.as_bytes());
            let (total, length) = (total.to_be_bytes(), [name.len() as u8]);
            put_record(out, MESSAGE_FIRST, &[&kind, &total, &length, name, part]);
        }
        self.packed = Some(packed + length);
        true
    }
}

/// A piece of what was encoded.
pub(crate) enum Segment {
    /// Whole records.
    Records(Vec<u8>),
    Shared(SharedMessage),
}

/// Appends bytes that are mostly few. A call of `memcpy` for each would cost more than the copying, most of all with
/// musl.
#[inline]
fn put_short(out: &mut Vec<u8>, mut bytes: &[u8]) {
    if bytes.len() > 256 {
        return out.extend_from_slice(bytes);
    }
    while let Some((block, rest)) = bytes.split_first_chunk::<16>() {
        out.extend_from_slice(block);
        bytes = rest;
    }
    if let Some((block, rest)) = bytes.split_first_chunk::<8>() {
        out.extend_from_slice(block);
        bytes = rest;
    }
    if let Some((block, rest)) = bytes.split_first_chunk::<4>() {
        out.extend_from_slice(block);
        bytes = rest;
    }
    for &byte in bytes {
        out.push(byte);
    }
}

/// Bytes that usually wait in an [`Encoded`] at most: what a link takes, and a message of 64 KiB begun below that.
const ENCODED_USUAL: usize = super::link::LINK_QUEUE_HIGH + (128 << 10);

/// Application messages that were encoded away from the connection, on any thread, to be queued with
/// [`Connection::queue_encoded`](super::Connection::queue_encoded).
#[derive(Default)]
pub struct Encoded {
    /// What comes before `bytes`: nothing, unless bodies are shared.
    before: Vec<Segment>,
    /// What the pieces in `before` count.
    before_bytes: usize,
    /// What their records hold.
    before_heap_bytes: usize,
    bytes: Vec<u8>,
    pub(crate) body_max: u32,
    count: u32,
}

impl Encoded {
    /// No messages, no memory.
    pub const fn new() -> Encoded {
        Encoded {
            before: Vec::new(),
            before_bytes: 0,
            before_heap_bytes: 0,
            bytes: Vec::new(),
            body_max: 0,
            count: 0,
        }
    }

    pub(crate) fn reusing(mut bytes: Vec<u8>) -> Encoded {
        bytes.clear();
        Encoded {
            bytes,
            ..Encoded::new()
        }
    }

    /// Appends a message. The body may have up to 16 MiB here; what the peer takes is checked when it is queued.
    #[inline]
    pub fn push(&mut self, kind: Kind, name: &str, body: &[u8]) -> Result<(), EncodeError> {
        check_outgoing(kind, name, body)?;
        self.put(Label::Name(kind, name), name.len(), body);
        self.body_max = self.body_max.max(body.len() as u32);
        Ok(())
    }

    /// Appends a subsystem's message, which is ordered with the application's. Beside the 16 MiB of
    /// [`Encoded::push`] it may have [`CHANNEL_HEADER_MAX`] bytes.
    pub fn push_channel(&mut self, channel: u8, body: &[u8]) -> Result<(), EncodeError> {
        let counted = counted_bytes(body.len());
        if counted > super::config::MESSAGE_MAX_TRUSTED as usize {
            return Err(EncodeError::Body(body.len()));
        }
        self.put(Label::Channel(channel), 1, body);
        self.body_max = self.body_max.max(counted as u32);
        Ok(())
    }

    #[inline]
    fn put(&mut self, label: Label<'_>, label_bytes: usize, body: &[u8]) {
        let bytes_max = label_bytes + rest_bytes_max(body.len()) + 16;
        if self.bytes.capacity() - self.bytes.len() < bytes_max {
            self.grow(bytes_max);
        }
        put_message(MESSAGE_JSON, label, body, |put| put(&mut self.bytes));
        self.count += 1;
    }

    /// Makes room for `more` bytes: twice the memory, but beyond what usually waits only what is needed, since twice as
    /// much would be too much to keep for the next use.
    #[cold]
    fn grow(&mut self, more: usize) {
        const LEAST: usize = 512;
        let length = self.bytes.len();
        let doubled = (2 * self.bytes.capacity()).clamp(LEAST, ENCODED_USUAL);
        self.bytes
            .reserve_exact(doubled.max(length + more) - length);
    }

    /// Appends a message whose body stays where it is until it is packed into frames. One that needs no more than one
    /// record is copied all the same. Limits as for [`Encoded::push`].
    pub fn push_shared(
        &mut self,
        kind: Kind,
        name: &str,
        body: &Arc<[u8]>,
    ) -> Result<(), EncodeError> {
        if body.len() <= RECORD_BYTES_MAX {
            return self.push(kind, name, body);
        }
        check_outgoing(kind, name, body)?;
        if !self.bytes.is_empty() {
            self.before_bytes += self.bytes.len();
            self.before_heap_bytes += self.bytes.capacity();
            let records = std::mem::take(&mut self.bytes);
            self.before.push(Segment::Records(records));
        }
        let message = SharedMessage {
            kind,
            name: name.into(),
            body: Arc::clone(body),
            packed: None,
        };
        self.before_bytes += message.waiting();
        self.before.push(Segment::Shared(message));
        self.body_max = self.body_max.max(body.len() as u32);
        self.count += 1;
        Ok(())
    }

    /// Bytes of all messages, for the bounds of queues: records as they will count against the window, shared bodies
    /// without the headers of all records but the first.
    pub fn len(&self) -> usize {
        self.before_bytes + self.bytes.len()
    }

    /// The pieces in their order, the last of them records.
    pub(crate) fn into_segments(self) -> (Vec<Segment>, Vec<u8>) {
        (self.before, self.bytes)
    }

    /// Messages inside.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Whether there is no message inside.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The records behind the last message with a shared body. Those of messages that need one alone can be gone
    /// through with [`Records::new`].
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes all messages out and keeps the memory.
    pub fn clear(&mut self) {
        self.before.clear();
        self.before_bytes = 0;
        self.before_heap_bytes = 0;
        self.bytes.clear();
        self.body_max = 0;
        self.count = 0;
    }

    /// Bytes of memory held, without the bodies that are shared with the sender.
    pub fn heap_bytes(&self) -> usize {
        self.before_heap_bytes
            + self.before.capacity() * size_of::<Segment>()
            + self.bytes.capacity()
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoded({} messages, {} bytes)", self.count, self.len())
    }
}

/// Why a message cannot be put on the wire, whoever the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The type name is too long, or empty where it has to be given.
    #[error("a type name has 1 to {TYPE_NAME_MAX} bytes, this has {0}")]
    Name(usize),
    /// The body is larger than any peer would take.
    #[error("a message has at most 16 MiB, this has {0} bytes")]
    Body(usize),
    /// The body of a text message is not UTF-8.
    #[error("the text is not UTF-8")]
    Text,
}

#[inline]
pub(crate) fn check_outgoing(kind: Kind, name: &str, body: &[u8]) -> Result<(), EncodeError> {
    if !kind.allows_name(name.len()) {
        return Err(EncodeError::Name(name.len()));
    }
    if body.len() > super::config::MESSAGE_MAX_TRUSTED as usize {
        return Err(EncodeError::Body(body.len()));
    }
    if kind == Kind::Text && std::str::from_utf8(body).is_err() {
        return Err(EncodeError::Text);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(messages: &[(Kind, &str, &[u8])]) -> Encoded {
        let mut encoded = Encoded::new();
        for (kind, name, body) in messages {
            encoded.push(*kind, name, body).unwrap();
        }
        encoded
    }

    #[test]
    fn small_messages_survive_and_give_their_credit() {
        let messages: [(Kind, &str, &[u8]); 4] = [
            (Kind::Json, "chat", b"{}"),
            (Kind::Text, "", "grüß".as_bytes()),
            (Kind::Bytes, "x", &[0xff; 300]),
            (Kind::Bytes, "", b""),
        ];
        let encoded = encoded(&messages);
        assert_eq!((encoded.count(), encoded.body_max), (4, 300));
        let records = Records::new(&encoded.bytes);
        let read: Vec<_> = records.map(|m| (m.kind, m.name, m.body)).collect();
        assert_eq!(read, messages);
        let credit: u32 = records.map(|message| message.credit).sum();
        assert_eq!(credit as usize, encoded.len());
    }

    #[test]
    fn short_copies_are_exact_at_every_length() {
        let bytes: Vec<u8> = (0..=300).map(|index| index as u8).collect();
        for length in 0..bytes.len() {
            let mut out = vec![7];
            put_short(&mut out, &bytes[..length]);
            assert_eq!(out[0], 7);
            assert_eq!(out[1..], bytes[..length]);
        }
    }

    #[test]
    fn large_messages_are_cut_into_records_of_16_kib() {
        let body = vec![1; 100_000];
        let encoded = encoded(&[(Kind::Bytes, "name", &body)]);
        let mut rest = &encoded.bytes[..];
        let mut collected = Vec::new();
        let mut sizes = Vec::new();
        while let Some((record_type, body, after)) = split_record(rest) {
            sizes.push(rest.len() - after.len());
            rest = after;
            if sizes.len() == 1 {
                let first = First::decode(record_type, body).unwrap();
                assert_eq!(
                    (first.kind, first.total, first.label),
                    (2, 100_000, &b"name"[..])
                );
                collected.extend_from_slice(first.part);
            } else {
                assert_eq!(record_type, MESSAGE_NEXT);
                collected.extend_from_slice(body);
            }
        }
        assert_eq!(collected, body);
        assert!(rest.is_empty());
        let (last, whole) = sizes.split_last().unwrap();
        assert!(whole.iter().all(|&size| size == RECORD_BYTES_MAX) && *last <= RECORD_BYTES_MAX);
        assert!(encoded.len() <= rest_bytes_max(body.len()) + 6 + 4);
    }

    #[test]
    fn the_largest_small_message_fills_one_record() {
        for (length, count) in [(RECORD_BYTES_MAX - 5, 1), (RECORD_BYTES_MAX - 4, 2)] {
            let encoded = encoded(&[(Kind::Bytes, "n", &vec![0; length])]);
            let mut rest = &encoded.bytes[..];
            let mut records = 0;
            while let Some((_, _, after)) = split_record(rest) {
                rest = after;
                records += 1;
            }
            assert_eq!(records, count);
        }
    }

    #[test]
    fn names_and_bodies_out_of_bounds_are_refused() {
        let mut encoded = Encoded::new();
        assert_eq!(
            encoded.push(Kind::Json, "", b"1"),
            Err(EncodeError::Name(0))
        );
        assert_eq!(
            encoded.push(Kind::Json, &"x".repeat(1_000_000), b"1"),
            Err(EncodeError::Name(1_000_000))
        );
        assert!(encoded.push(Kind::Json, &"x".repeat(128), b"1").is_ok());
        assert_eq!(
            encoded.push(Kind::Text, "", b"\xff"),
            Err(EncodeError::Text)
        );
        let large = vec![0; 16 * 1024 * 1024 + 1];
        assert_eq!(
            encoded.push(Kind::Bytes, "", &large),
            Err(EncodeError::Body(large.len()))
        );
        assert_eq!(encoded.count(), 1);
    }

    #[test]
    fn malformed_messages_are_found() {
        let json = MESSAGE_JSON;
        assert!(check_message(json, b"\x01nbody").is_ok());
        assert!(check_message(json, b"").is_err());
        assert!(check_message(json, b"\x00{}").is_err(), "no name");
        assert!(
            check_message(json, b"\x05name").is_err(),
            "a name that lies"
        );
        assert!(
            check_message(json, b"\x01\xff").is_err(),
            "a name in no UTF-8"
        );
        let long = [&[129u8][..], &[b'a'; 200]].concat();
        assert!(check_message(json, &long).is_err());
        assert!(
            check_message(json + 1, b"\x00\xff").is_err(),
            "text in no UTF-8"
        );
        assert!(check_message(json + 2, b"\x00\xff").is_ok());
        assert!(check_message(json + 3, b"\x00").is_err());
    }

    #[test]
    fn malformed_beginnings_of_large_messages_are_found() {
        let first = |record_type, body: &[u8]| First::decode(record_type, body).is_ok();
        assert!(first(MESSAGE_FIRST, b"\x00\0\0\0\x09\x01nbody"));
        assert!(
            !first(MESSAGE_FIRST, b"\x00\0\0\0\x03\x01nbody"),
            "a part above the whole"
        );
        assert!(
            !first(MESSAGE_FIRST, b"\x00\0\0\0\x09\x00body"),
            "JSON without a name"
        );
        assert!(
            !first(MESSAGE_FIRST, b"\x04\0\0\0\x09\x01nbody"),
            "an unknown kind"
        );
        assert!(
            !first(GOSSIP_FIRST, b"\x00\0\0\0\x09\x01nbody"),
            "an application's kind"
        );
        assert!(first(GOSSIP_FIRST, b"\x03\0\0\0\x09\x01nbody"));
        assert!(
            !first(GOSSIP_FIRST, b"\x03\0\0\0\x09\x02nnbody"),
            "a long channel"
        );
        for length in 0..6 {
            assert!(!first(MESSAGE_FIRST, &b"\x02\0\0\0\x09\x00"[..length]));
        }
    }

    #[test]
    fn going_through_garbage_ends_early_and_does_not_panic() {
        for bytes in [
            &b"\x10"[..],
            b"\x10\0\x02\x05a",
            b"\x30\0\0",
            b"\x10\0\x02\x01\xff",
        ] {
            assert_eq!(Records::new(bytes).count(), 0);
        }
    }
}
