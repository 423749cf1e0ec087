//! Peer exchange: a node asks a connected peer whom else it knows, and is told signed records.
//!
//! Nobody is told what it has not asked for. So a peer can make this node look at [`RECORDS_PER_ANSWER_MAX`] records for
//! each question, and questions to one peer are a minute apart at least. A question is answered over an authenticated
//! connection and once a minute, so answers cannot be aimed at others and cost little.
//!
//! The messages are control messages on the channel [`EXCHANGE_CHANNEL`]; docs/wire.md has the bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use mischief_reactor::Instant;

use super::PeerId;
use super::record::{SIGNED_RECORD_BYTES_MAX, SignedRecord};
use crate::connection::CONTROL_BODY_MAX;

/// The channel of exchange.
pub const EXCHANGE_CHANNEL: u8 = 2;
/// Records in one answer; what comes beyond is not looked at (BEP 11 has the same number).
pub const RECORDS_PER_ANSWER_MAX: usize = 50;
/// Between two questions to one peer, and between two answers to one (BEP 11).
pub const EXCHANGE_INTERVAL: Duration = Duration::from_secs(60);
/// How long an answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// Questions that may be open.
const ASKED_MAX: usize = 64;
/// Peers that were answered within the last minute. Who asks when there are so many gets no answer.
const ANSWERED_MAX: usize = 1024;

const ASK: u8 = 1;
const TELL: u8 = 2;

/// A message of exchange, its records not looked at yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExchangeMessage<'a> {
    /// Whom do you know?
    Ask {
        /// To be repeated in the answer.
        token: u32,
        /// The asker's own record, if it can be dialled.
        record: Option<&'a [u8]>,
    },
    /// These.
    Tell {
        /// The question's.
        token: u32,
        /// Whether this is the last part of the answer.
        is_last: bool,
        /// Records.
        records: Vec<&'a [u8]>,
    },
}

impl<'a> ExchangeMessage<'a> {
    /// Reads a message; `None` if it is malformed or of a kind that this version does not know.
    pub fn decode(bytes: &'a [u8]) -> Option<ExchangeMessage<'a>> {
        let (&kind, rest) = bytes.split_first()?;
        let (token, mut rest) = rest.split_first_chunk::<4>()?;
        let token = u32::from_be_bytes(*token);
        match kind {
            ASK => {
                let record = match rest.is_empty() {
                    true => None,
                    false => {
                        let record = take_record(&mut rest)?;
                        // What a later version adds here is passed over.
                        Some(record)
                    }
                };
                Some(ExchangeMessage::Ask { token, record })
            }
            TELL => {
                let (&flags, mut rest) = rest.split_first()?;
                let mut records = Vec::new();
                while !rest.is_empty() {
                    records.push(take_record(&mut rest)?);
                }
                Some(ExchangeMessage::Tell {
                    token,
                    is_last: flags & 1 != 0,
                    records,
                })
            }
            _ => None,
        }
    }

    /// The bytes of a question.
    pub fn ask(token: u32, record: Option<&SignedRecord>) -> Vec<u8> {
        let mut bytes = vec![ASK];
        bytes.extend_from_slice(&token.to_be_bytes());
        if let Some(record) = record {
            put_record(&mut bytes, record);
        }
        bytes
    }

    /// The bytes of an answer, in as many parts as it takes.
    pub fn tell(token: u32, records: &[SignedRecord]) -> Vec<Vec<u8>> {
        let begin = || {
            let mut bytes = vec![TELL];
            bytes.extend_from_slice(&token.to_be_bytes());
            bytes.push(0);
            bytes
        };
        let mut parts = vec![begin()];
        for record in records.iter().take(RECORDS_PER_ANSWER_MAX) {
            let last = parts.last_mut().expect("there is a first part");
            // The body of a control message has the channel's number in it.
            if last.len() + 2 + record.as_bytes().len() > CONTROL_BODY_MAX - 1 {
                parts.push(begin());
            }
            let last = parts.last_mut().expect("there is a first part");
            put_record(last, record);
        }
        let last = parts.last_mut().expect("there is a first part");
        last[5] = 1;
        parts
    }
}

fn put_record(bytes: &mut Vec<u8>, record: &SignedRecord) {
    bytes.extend_from_slice(&(record.as_bytes().len() as u16).to_be_bytes());
    bytes.extend_from_slice(record.as_bytes());
}

fn take_record<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    if length > SIGNED_RECORD_BYTES_MAX {
        return None;
    }
    let (record, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some(record)
}

/// Open questions, and who was asked and answered lately.
#[derive(Clone, Debug, Default)]
pub(super) struct Exchange {
    asked: BTreeMap<PeerId, Question>,
    answered: BTreeMap<PeerId, Instant>,
    tokens: u32,
}

#[derive(Clone, Copy, Debug)]
struct Question {
    token: u32,
    at: Instant,
    is_open: bool,
    /// Records that are still looked at.
    left: usize,
}

impl Exchange {
    /// Whether a peer may be asked now.
    pub(super) fn may_ask(&self, now: Instant, peer: &PeerId) -> bool {
        let is_due = |question: &Question| now >= question.at + EXCHANGE_INTERVAL;
        match self.asked.get(peer) {
            Some(question) => is_due(question),
            None => self.asked.len() < ASKED_MAX || self.asked.values().any(is_due),
        }
    }

    /// A question to a peer that may be asked. Its token.
    pub(super) fn ask(&mut self, now: Instant, peer: PeerId) -> u32 {
        self.asked
            .retain(|_, question| now < question.at + EXCHANGE_INTERVAL);
        self.tokens = self.tokens.wrapping_add(1);
        let question = Question {
            token: self.tokens,
            at: now,
            is_open: true,
            left: RECORDS_PER_ANSWER_MAX,
        };
        self.asked.insert(peer, question);
        self.tokens
    }

    /// How many of the records that a peer tells are looked at; 0 if it was not asked.
    pub(super) fn handle_tell(
        &mut self,
        now: Instant,
        peer: &PeerId,
        token: u32,
        is_last: bool,
        records: usize,
    ) -> usize {
        let Some(question) = self.asked.get_mut(peer) else {
            return 0;
        };
        if !question.is_open || question.token != token || now > question.at + ANSWER_DEADLINE {
            return 0;
        }
        let looked_at = records.min(question.left);
        question.left -= looked_at;
        // A part that carries nothing ends the answer too: nobody waits for thousands of them.
        question.is_open = !is_last && question.left > 0 && records > 0;
        looked_at
    }

    /// Whether a peer that asks is answered.
    pub(super) fn handle_ask(&mut self, now: Instant, peer: PeerId) -> bool {
        let is_recent = |at: &Instant| now < *at + EXCHANGE_INTERVAL;
        if self.answered.get(&peer).is_some_and(is_recent) {
            return false;
        }
        if self.answered.len() >= ANSWERED_MAX {
            self.answered.retain(|_, at| is_recent(at));
            if self.answered.len() >= ANSWERED_MAX {
                return false;
            }
        }
        self.answered.insert(peer, now);
        true
    }

    /// A peer is gone. When it was answered last is still counted.
    pub(super) fn disconnected(&mut self, peer: &PeerId) {
        if let Some(question) = self.asked.get_mut(peer) {
            question.is_open = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::identity::Identity;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(1000 + seconds)
    }

    fn peer(n: u32) -> PeerId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        PeerId::from_bytes(bytes)
    }

    fn record(n: u8) -> SignedRecord {
        let addrs = (0..4).map(|at| {
            SocketAddr::new(
                std::net::Ipv6Addr::new(0x2001, at, 0, 0, 0, 0, 0, n.into()).into(),
                9000,
            )
        });
        SignedRecord::sign(&Identity::from_seed(&[n; 32]), 1, addrs).unwrap()
    }

    #[test]
    fn messages_survive_the_wire() {
        for own in [None, Some(record(1))] {
            let bytes = ExchangeMessage::ask(7, own.as_ref());
            let record = own.as_ref().map(SignedRecord::as_bytes);
            assert_eq!(
                ExchangeMessage::decode(&bytes),
                Some(ExchangeMessage::Ask { token: 7, record })
            );
        }
        let records: Vec<SignedRecord> = (0..60).map(record).collect();
        let parts = ExchangeMessage::tell(9, &records);
        let mut told = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            assert!(part.len() < CONTROL_BODY_MAX, "{}", part.len());
            let Some(ExchangeMessage::Tell {
                token: 9,
                is_last,
                records,
            }) = ExchangeMessage::decode(part)
            else {
                panic!("part {at}");
            };
            assert_eq!(is_last, at + 1 == parts.len());
            told.extend(records.into_iter().map(<[u8]>::to_vec));
        }
        let want: Vec<Vec<u8>> = records[..RECORDS_PER_ANSWER_MAX]
            .iter()
            .map(|record| record.as_bytes().to_vec())
            .collect();
        assert_eq!(told, want);
        assert_eq!(
            ExchangeMessage::tell(9, &[]).len(),
            1,
            "also an empty answer is one"
        );
    }

    #[test]
    fn malformed_messages_are_none() {
        for bytes in [
            &[][..],
            &[1],
            &[1, 0, 0, 0],
            &[3, 0, 0, 0, 1],
            &[2, 0, 0, 0, 1],
            &[2, 0, 0, 0, 1, 1, 0],
            &[2, 0, 0, 0, 1, 1, 255, 255],
            &[1, 0, 0, 0, 1, 0, 9],
        ] {
            assert_eq!(ExchangeMessage::decode(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn only_what_was_asked_for_is_looked_at() {
        let mut exchange = Exchange::default();
        assert_eq!(
            exchange.handle_tell(at(0), &peer(1), 1, false, 50),
            0,
            "unasked"
        );
        let token = exchange.ask(at(0), peer(1));
        assert!(!exchange.may_ask(at(59), &peer(1)) && exchange.may_ask(at(60), &peer(1)));
        assert_eq!(
            exchange.handle_tell(at(1), &peer(2), token, false, 50),
            0,
            "somebody else"
        );
        assert_eq!(
            exchange.handle_tell(at(1), &peer(1), token + 1, false, 50),
            0
        );
        assert_eq!(exchange.handle_tell(at(1), &peer(1), token, false, 8), 8);
        assert_eq!(
            exchange.handle_tell(at(1), &peer(1), token, false, 60_000),
            42
        );
        assert_eq!(
            exchange.handle_tell(at(1), &peer(1), token, false, 8),
            0,
            "enough"
        );
        let token = exchange.ask(at(60), peer(1));
        assert_eq!(exchange.handle_tell(at(61), &peer(1), token, true, 1), 1);
        assert_eq!(
            exchange.handle_tell(at(61), &peer(1), token, true, 1),
            0,
            "that was the end"
        );
        let token = exchange.ask(at(120), peer(1));
        assert_eq!(
            exchange.handle_tell(at(141), &peer(1), token, true, 1),
            0,
            "too late"
        );
    }

    #[test]
    fn questions_are_answered_once_a_minute_and_both_tables_are_bounded() {
        let mut exchange = Exchange::default();
        assert!(exchange.handle_ask(at(0), peer(1)));
        assert!(!exchange.handle_ask(at(59), peer(1)));
        assert!(exchange.handle_ask(at(60), peer(1)));
        let answered = (0..5000)
            .filter(|n| exchange.handle_ask(at(61), peer(1000 + n)))
            .count();
        assert_eq!(answered, ANSWERED_MAX - 1);
        assert!(
            exchange.handle_ask(at(200), peer(9999)),
            "the minute is over"
        );
        let asked = (0..500).filter(|n| {
            let may = exchange.may_ask(at(300), &peer(*n));
            if may {
                exchange.ask(at(300), peer(*n));
            }
            may
        });
        assert_eq!(asked.count(), ASKED_MAX);
        assert!(exchange.may_ask(at(360), &peer(499)));
    }
}
