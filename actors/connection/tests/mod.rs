//! Tests of the connection machine through its public interface, and what they share: two machines wired together on
//! virtual time.

mod flow;
mod handshake;
mod hostile;
mod interop;
mod messages;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use mischief_reactor::{Instant, Random};

use super::*;
use crate::identity::Identity;

/// Inputs of X25519 for which every secret gives zero (RFC 7748 §6.1): 0, 1, both points of order 8, and the numbers
/// around the prime that mean -1, 0 and 1.
pub(crate) const SMALL_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "hex digits come in pairs");
    let pairs = (0..text.len()).step_by(2).map(|at| &text[at..at + 2]);
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

/// A source of bytes that a seed fixes (SplitMix64).
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Random for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A node whose keys follow from a number.
pub(crate) fn config(seed: u8) -> Config {
    let identity = Arc::new(Identity::from_seed(&[seed; 32]));
    let static_key = StaticKey::from_secret(&[seed ^ 0x80; 32]);
    Config::new(
        identity,
        static_key,
        ProtocolHash::new("test", "1").unwrap(),
    )
}

/// Something that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Message(Kind, String, Vec<u8>),
    Channel(Class, u8, Vec<u8>),
    Opened(StreamId, u8, Vec<u8>),
    Data(StreamId, Vec<u8>),
    Ended(StreamId),
    Reset(StreamId, u16),
    Stopped(StreamId, u16),
}

/// Keeps everything, and the credit it will have to give back.
#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) received: Vec<Received>,
    pub(crate) credit: Vec<(StreamId, u32)>,
    /// Runs of messages that were handed over at once.
    pub(crate) runs: usize,
}

impl Inbox {
    fn push_message(&mut self, message: &Message<'_>) {
        let (name, body) = (message.name.to_owned(), message.body.to_vec());
        self.received
            .push(Received::Message(message.kind, name, body));
        self.credit.push((StreamId::APPLICATION, message.credit));
    }
}

impl Sink for Inbox {
    fn records(&mut self, records: Records<'_>) {
        self.runs += 1;
        let mut rest = records;
        for message in &mut rest {
            self.push_message(&message);
        }
        assert!(rest.is_empty(), "every record of a run is a message");
    }

    fn large(&mut self, message: LargeMessage) {
        self.push_message(&message.message());
    }

    fn channel(&mut self, message: ChannelMessage<'_>) {
        let stream = match message.class {
            Class::Application => StreamId::APPLICATION,
            Class::Gossip => StreamId::GOSSIP,
            _ => {
                assert_eq!(message.credit, 0);
                StreamId(0)
            }
        };
        self.credit.push((stream, message.credit));
        self.received.push(Received::Channel(
            message.class,
            message.channel,
            message.body.to_vec(),
        ));
    }

    fn bulk(&mut self, stream: StreamId, event: BulkEvent<'_>) {
        self.received.push(match event {
            BulkEvent::Opened { channel, header } => {
                Received::Opened(stream, channel, header.to_vec())
            }
            BulkEvent::Data { bytes, credit } => {
                self.credit.push((stream, credit));
                Received::Data(stream, bytes.to_vec())
            }
            BulkEvent::Ended => Received::Ended(stream),
            BulkEvent::Reset { code } => Received::Reset(stream, code),
            BulkEvent::Stopped { code } => Received::Stopped(stream, code),
        });
    }
}

/// One machine with its owner.
pub(crate) struct Side {
    pub(crate) connection: Connection,
    pub(crate) inbox: Inbox,
    pub(crate) events: Vec<Event>,
    /// Gives credit back at once.
    pub(crate) consumes: bool,
    /// Accepts every peer.
    pub(crate) accepts: bool,
    /// Everything it has sent so far.
    pub(crate) sent: Vec<u8>,
}

impl Side {
    pub(crate) fn new(connection: Connection) -> Side {
        Side {
            connection,
            inbox: Inbox::default(),
            events: Vec::new(),
            consumes: true,
            accepts: true,
            sent: Vec::new(),
        }
    }

    pub(crate) fn receive(&mut self, now: Instant, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        self.connection
            .handle_bytes(now, &mut bytes, &mut self.inbox);
        self.drain(now);
    }

    /// Events are kept and, as told, answered.
    pub(crate) fn drain(&mut self, now: Instant) {
        while let Some(event) = self.connection.poll_event() {
            if self.accepts && matches!(event, Event::Authenticated(_)) {
                self.connection.accept(now);
            }
            self.events.push(event);
        }
        if self.consumes {
            self.consume_all();
        }
    }

    pub(crate) fn consume_all(&mut self) {
        for (stream, credit) in std::mem::take(&mut self.inbox.credit) {
            if credit > 0 {
                self.connection.consumed(stream, credit);
            }
        }
    }

    pub(crate) fn transmit(&mut self, now: Instant) -> Vec<u8> {
        let mut out = Vec::new();
        let mut count = 0;
        while self.connection.poll_transmit(now, &mut out, 1 << 20) > 0 {
            count += 1;
            assert!(count < 10_000, "a machine that never stops talking");
        }
        self.sent.extend_from_slice(&out);
        self.drain(now);
        out
    }

    /// A frame with any inside, under this side's keys.
    pub(crate) fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let mut frame = [&[0, 0], plaintext].concat();
        let connection = &mut self.connection;
        connection
            .send
            .seal(connection.suite, &mut frame, 2)
            .unwrap();
        let length = u16::try_from(frame.len() - 2).unwrap();
        frame[..2].copy_from_slice(&length.to_be_bytes());
        frame
    }

    #[track_caller]
    pub(crate) fn authenticated(&self) -> &Authenticated {
        let found = self.events.iter().find_map(|event| match event {
            Event::Authenticated(authenticated) => Some(authenticated),
            _ => None,
        });
        found.expect("the peer is authenticated")
    }

    /// Why it closed.
    pub(crate) fn closed(&self) -> Option<&Error> {
        let mut closed = self.events.iter().filter_map(|event| match event {
            Event::Closed(error) => Some(error),
            _ => None,
        });
        let first = closed.next();
        assert!(closed.next().is_none(), "Closed comes once");
        first
    }

    pub(crate) fn messages(&self) -> usize {
        let is_message = |received: &&Received| matches!(received, Received::Message(..));
        self.inbox.received.iter().filter(is_message).count()
    }
}

/// Two machines and a transport between them that loses nothing.
pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) dialler: Side,
    pub(crate) responder: Side,
    /// Bytes arrive in portions of this size.
    pub(crate) portion: usize,
    /// One way of the transport.
    pub(crate) delay: Duration,
    pub(crate) to_responder: Vec<u8>,
    pub(crate) to_dialler: Vec<u8>,
}

impl Pair {
    pub(crate) fn new(dialler: Config, responder: Config) -> Pair {
        let now = Instant::from_nanos(1_000_000_000);
        let mut random = Seeded(7);
        let (dialler, responder) = (Arc::new(dialler), Arc::new(responder));
        let expected = Some(responder.identity.peer_id());
        let dialler = Connection::dialler(&dialler, now, &mut random, expected, None);
        let responder = Connection::responder(&responder, now, &mut random, None);
        Pair {
            now,
            dialler: Side::new(dialler),
            responder: Side::new(responder),
            portion: usize::MAX,
            delay: Duration::from_millis(1),
            to_responder: Vec::new(),
            to_dialler: Vec::new(),
        }
    }

    /// Two plain nodes, connected.
    pub(crate) fn open() -> Pair {
        Pair::open_with(|_| {})
    }

    /// Two nodes of a common configuration, connected.
    pub(crate) fn open_with(change: impl Fn(&mut Config)) -> Pair {
        let [mut a, mut b] = [1, 2].map(config);
        change(&mut a);
        change(&mut b);
        let mut pair = Pair::new(a, b);
        pair.run();
        assert!(
            pair.dialler.connection.is_open() && pair.responder.connection.is_open(),
            "{:?} {:?}",
            pair.dialler.events,
            pair.responder.events
        );
        pair
    }

    /// Carries bytes over once. Returns how many.
    pub(crate) fn step(&mut self) -> usize {
        let to_responder = self.dialler.transmit(self.now);
        self.to_responder.extend_from_slice(&to_responder);
        let to_dialler = self.responder.transmit(self.now);
        self.to_dialler.extend_from_slice(&to_dialler);
        let to_responder = std::mem::take(&mut self.to_responder);
        let to_dialler = std::mem::take(&mut self.to_dialler);
        if !(to_responder.is_empty() && to_dialler.is_empty()) {
            self.now += self.delay;
        }
        for (side, bytes) in [
            (&mut self.responder, &to_responder),
            (&mut self.dialler, &to_dialler),
        ] {
            for portion in bytes.chunks(self.portion.min(bytes.len()).max(1)) {
                side.receive(self.now, portion);
            }
        }
        to_responder.len() + to_dialler.len()
    }

    /// Carries bytes over until nothing more is said.
    pub(crate) fn run(&mut self) {
        let mut steps = 0;
        while self.step() > 0 {
            steps += 1;
            assert!(steps < 100_000, "an endless talk");
        }
    }

    /// Lets time pass, with timeouts and talk, until `until`.
    pub(crate) fn run_until(&mut self, until: Instant) {
        loop {
            self.run();
            let sides = [&self.dialler, &self.responder];
            let next = sides
                .iter()
                .filter_map(|side| side.connection.poll_timeout())
                .min();
            let Some(next) = next.filter(|next| *next <= until) else {
                break;
            };
            assert!(
                next > self.now
                    || sides
                        .iter()
                        .any(|s| s.connection.poll_timeout() <= Some(self.now))
            );
            self.now = self.now.max(next);
            for side in [&mut self.dialler, &mut self.responder] {
                let before = side.connection.poll_timeout();
                side.connection.handle_timeout(self.now);
                side.drain(self.now);
                let after = side.connection.poll_timeout();
                let is_later = after.is_none_or(|after| after > self.now);
                assert!(is_later, "a timeout that stays due: {before:?} {after:?}");
            }
        }
        self.now = self.now.max(until);
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        self.run_until(self.now + duration);
    }
}

/// What a connected and idle connection costs, and that it is held in check.
#[test]
fn an_idle_connection_is_small() {
    println!("a connection has {} bytes", size_of::<Connection>());
    assert!(size_of::<Connection>() <= 256);
    let mut pair = Pair::open();
    pair.dialler.connection.send(Kind::Text, "", b"hi").unwrap();
    pair.run_for(Duration::from_secs(10));
    assert_eq!(pair.responder.messages(), 1);
    assert_eq!(pair.dialler.connection.heap_bytes(), 0);
    assert_eq!(pair.responder.connection.heap_bytes(), 0);
}
