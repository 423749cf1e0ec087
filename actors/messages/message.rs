//! What the two sides of a request say, as bytes inside of a channel message. Big-endian, and none of it ends early:
//!
//! ```text
//! 0       1               5               9       10      11
//! +-------+---------------+---------------+-------+-------+------+------+
//! | 0     | id            | timeout, ms   | kind  | len   | name | body |     Request
//! +-------+---------------+-------+-------+-------+-------+------+------+
//! | 1     | id            | kind  | body                                      Reply
//! +-------+---------------+-------+
//! | 2     | id            | code  | reason                                    Failure
//! +-------+---------------+-------+
//! | 3     | id            |                                                   Cancel
//! +-------+---------------+
//! ```

use super::error::FailureCode;
use crate::connection::{Kind, TYPE_NAME_MAX};

/// The channel on which requests travel, of the class of the application's messages.
pub const CHANNEL: u8 = 1;
/// The longest reason of a refusal in bytes. Longer ones are cut.
pub const REASON_MAX: usize = 200;
/// Bytes before the body of a request at most. It fits into what a subsystem's message may have beyond the limit for bodies.
pub const HEADER_MAX: usize = 11 + TYPE_NAME_MAX;

const _: () = assert!(HEADER_MAX <= crate::connection::CHANNEL_HEADER_MAX);

const REQUEST: u8 = 0;
const REPLY: u8 = 1;
const FAILURE: u8 = 2;
const CANCEL: u8 = 3;

/// What a request is called by the two sides of one connection, for each direction apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u32);

/// Something that one side says about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestMessage<'a> {
    /// The asker wants something.
    Request {
        /// The asker's number for it.
        id: RequestId,
        /// For how long the asker waits, in milliseconds.
        timeout_ms: u32,
        /// What the body is.
        kind: Kind,
        /// What is asked for: 1 to 128 bytes.
        name: &'a str,
        /// The body.
        body: &'a [u8],
    },
    /// The answer.
    Reply {
        /// Of the request that is answered.
        id: RequestId,
        /// What the body is.
        kind: Kind,
        /// The body.
        body: &'a [u8],
    },
    /// There will be no answer.
    Failure {
        /// Of the request that failed.
        id: RequestId,
        /// Why.
        code: FailureCode,
        /// Why, for people; up to [`REASON_MAX`] bytes.
        reason: &'a str,
    },
    /// The asker does not wait any more.
    Cancel {
        /// Of the request.
        id: RequestId,
    },
}

/// The bytes are none of the messages of this version. They are ignored, for a later version may have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no message about a request")]
pub struct DecodeError;

impl<'a> RequestMessage<'a> {
    /// Reads a message.
    pub fn decode(bytes: &'a [u8]) -> Result<RequestMessage<'a>, DecodeError> {
        let (&[op, a, b, c, d], rest) = bytes.split_first_chunk().ok_or(DecodeError)?;
        let id = RequestId(u32::from_be_bytes([a, b, c, d]));
        match op {
            REQUEST => {
                let (&[a, b, c, d, kind, name_bytes], rest) =
                    rest.split_first_chunk().ok_or(DecodeError)?;
                let (name, body) = rest
                    .split_at_checked(usize::from(name_bytes))
                    .ok_or(DecodeError)?;
                if !(1..=TYPE_NAME_MAX).contains(&name.len()) {
                    return Err(DecodeError);
                }
                Ok(RequestMessage::Request {
                    id,
                    timeout_ms: u32::from_be_bytes([a, b, c, d]),
                    kind: checked_kind(kind, body)?,
                    name: std::str::from_utf8(name).map_err(|_| DecodeError)?,
                    body,
                })
            }
            REPLY => {
                let (&kind, body) = rest.split_first().ok_or(DecodeError)?;
                let kind = checked_kind(kind, body)?;
                Ok(RequestMessage::Reply { id, kind, body })
            }
            FAILURE => {
                let (&code, reason) = rest.split_first().ok_or(DecodeError)?;
                let reason = std::str::from_utf8(reason).map_err(|_| DecodeError)?;
                Ok(RequestMessage::Failure {
                    id,
                    code: FailureCode::from_number(code),
                    reason: cut_reason(reason),
                })
            }
            CANCEL => Ok(RequestMessage::Cancel { id }),
            _ => Err(DecodeError),
        }
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            RequestMessage::Request {
                id,
                timeout_ms,
                kind,
                name,
                body,
            } => {
                put_request_head(out, kind, name);
                out.extend_from_slice(body);
                let start = out.len() - body.len() - name.len() - 11;
                set_request_id(&mut out[start..], id, timeout_ms);
            }
            RequestMessage::Reply { id, kind, body } => {
                put_reply_head(out, id, kind);
                out.extend_from_slice(body);
            }
            RequestMessage::Failure { id, code, reason } => {
                put_head(out, FAILURE, id);
                out.push(code.number());
                out.extend_from_slice(cut_reason(reason).as_bytes());
            }
            RequestMessage::Cancel { id } => put_head(out, CANCEL, id),
        }
    }
}

/// Appends what comes before the body of a request whose number is not known yet; [`set_request_id`] completes it.
///
/// The name has 1 to 128 bytes.
pub(super) fn put_request_head(out: &mut Vec<u8>, kind: Kind, name: &str) {
    put_head(out, REQUEST, RequestId(0));
    out.extend_from_slice(&[0; 4]);
    let length = u8::try_from(name.len()).expect("the caller has checked the name");
    out.extend_from_slice(&[kind.number(), length]);
    out.extend_from_slice(name.as_bytes());
}

/// Writes the number and the deadline into an encoded request.
pub(super) fn set_request_id(request: &mut [u8], id: RequestId, timeout_ms: u32) {
    request[1..5].copy_from_slice(&id.0.to_be_bytes());
    request[5..9].copy_from_slice(&timeout_ms.to_be_bytes());
}

/// Appends what comes before the body of a reply.
pub(super) fn put_reply_head(out: &mut Vec<u8>, id: RequestId, kind: Kind) {
    put_head(out, REPLY, id);
    out.push(kind.number());
}

fn put_head(out: &mut Vec<u8>, op: u8, id: RequestId) {
    out.push(op);
    out.extend_from_slice(&id.0.to_be_bytes());
}

/// The beginning of a reason that fits, cut between characters.
fn cut_reason(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

fn checked_kind(number: u8, body: &[u8]) -> Result<Kind, DecodeError> {
    let kind = Kind::from_number(number).ok_or(DecodeError)?;
    match kind {
        Kind::Text if std::str::from_utf8(body).is_err() => Err(DecodeError),
        _ => Ok(kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: RequestMessage<'_>, want: &[u8]) {
        let mut bytes = b"before".to_vec();
        message.encode(&mut bytes);
        assert_eq!(bytes.split_off(6), want);
        assert_eq!(RequestMessage::decode(want), Ok(message));
    }

    #[test]
    fn messages_have_the_documented_form() {
        let id = RequestId(0x0102_0304);
        check(
            RequestMessage::Request {
                id,
                timeout_ms: 30_000,
                kind: Kind::Json,
                name: "sum",
                body: b"[1,2]",
            },
            b"\x00\x01\x02\x03\x04\x00\x00\x75\x30\x00\x03sum[1,2]",
        );
        check(
            RequestMessage::Reply {
                id,
                kind: Kind::Bytes,
                body: &[],
            },
            b"\x01\x01\x02\x03\x04\x02",
        );
        check(
            RequestMessage::Failure {
                id,
                code: FailureCode::Refused,
                reason: "no",
            },
            b"\x02\x01\x02\x03\x04\x02no",
        );
        check(RequestMessage::Cancel { id }, b"\x03\x01\x02\x03\x04");
    }

    #[test]
    fn what_is_cut_short_or_no_text_is_refused() {
        let request = b"\x00\x01\x02\x03\x04\x00\x00\x75\x30\x01\x03sum";
        for end in 0..request.len() {
            assert_eq!(RequestMessage::decode(&request[..end]), Err(DecodeError));
        }
        let wrong: [&[u8]; 7] = [
            b"\x00\x01\x02\x03\x04\x00\x00\x75\x30\x00\x00[1]",
            b"\x00\x01\x02\x03\x04\x00\x00\x75\x30\x03\x03sum",
            b"\x00\x01\x02\x03\x04\x00\x00\x75\x30\x01\x03sum\xFF",
            b"\x00\x01\x02\x03\x04\x00\x00\x75\x30\x00\x01\xFF",
            b"\x01\x01\x02\x03\x04\x01\xFF",
            b"\x02\x01\x02\x03\x04\x02\xFF",
            b"\x04\x01\x02\x03\x04",
        ];
        for wrong in wrong {
            assert_eq!(RequestMessage::decode(wrong), Err(DecodeError), "{wrong:?}");
        }
    }

    #[test]
    fn names_and_reasons_have_a_limit() {
        let name = "n".repeat(TYPE_NAME_MAX + 1);
        let mut bytes = Vec::new();
        put_request_head(&mut bytes, Kind::Bytes, &name[1..]);
        assert_eq!(bytes.len(), HEADER_MAX);
        assert!(RequestMessage::decode(&bytes).is_ok());
        bytes.clear();
        put_request_head(&mut bytes, Kind::Bytes, &name);
        assert_eq!(RequestMessage::decode(&bytes), Err(DecodeError));
        // Two bytes each, so that the limit falls into a character.
        let reason = format!("x{}", "é".repeat(REASON_MAX));
        bytes.clear();
        let (id, code) = (RequestId(1), FailureCode::Refused);
        let long = RequestMessage::Failure {
            id,
            code,
            reason: &reason,
        };
        long.encode(&mut bytes);
        let Ok(RequestMessage::Failure { reason: cut, .. }) = RequestMessage::decode(&bytes) else {
            panic!("it is a failure");
        };
        assert_eq!(cut, &reason[..REASON_MAX - 1]);
    }
}
