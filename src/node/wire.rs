//! Application messages as they stand in a link: one record each.
//!
//! ```text
//! 0        1         3         4
//! +--------+---------+---------+------+------+
//! | type   | length  | name    | name | body |     length: big-endian, of all that follows it
//! +--------+---------+---------+------+------+
//! ```

use mischief_actors::connection::MessageKind;

const JSON: u8 = 0x10;
const TEXT: u8 = 0x11;
const BYTES: u8 = 0x12;

/// A message inside of the bytes it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) kind: MessageKind,
    pub(crate) name: &'a str,
    pub(crate) body: &'a [u8],
    /// Bytes of the whole record.
    pub(crate) size: usize,
}

/// Goes through a run of records; ends early at anything else.
pub(crate) struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Records<'a> {
        Records(bytes)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        let (header, rest) = self.0.split_first_chunk::<3>()?;
        let length = usize::from(u16::from_be_bytes([header[1], header[2]]));
        let (inside, rest) = rest.split_at_checked(length)?;
        let kind = match header[0] {
            JSON => MessageKind::Json,
            TEXT => MessageKind::Text,
            BYTES => MessageKind::Bytes,
            _ => return None,
        };
        let (&name, body) = inside.split_first()?;
        let (name, body) = body.split_at_checked(usize::from(name))?;
        self.0 = rest;
        Some(Record {
            kind,
            name: std::str::from_utf8(name).ok()?,
            body,
            size: length + 3,
        })
    }
}

/// Appends a message.
#[inline]
pub(crate) fn encode_message(out: &mut Vec<u8>, kind: MessageKind, name: &str, body: &[u8]) {
    let length = 1 + name.len() + body.len();
    out.reserve(3 + length);
    out.push(match kind {
        MessageKind::Json => JSON,
        MessageKind::Text => TEXT,
        MessageKind::Bytes => BYTES,
    });
    out.extend_from_slice(&(length as u16).to_be_bytes());
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(body);
}
