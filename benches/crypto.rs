//! What do sealing, opening and a handshake cost in a connection, beside ring alone on the same bytes?
//!
//! The connections are the machines themselves, without sockets: what they send and receive is in memory. Sealing includes
//! packing messages into frames, opening includes finding them again. ring has its keys expanded once and frames of
//! 16 KiB that are there already; a connection expands its key for each frame, to keep little in memory.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use curve25519_dalek::montgomery::MontgomeryPoint;
use mischief_actors::connection::{
    BulkEvent, ChannelMessage, Config, Connection, Event, Kind, LargeMessage, ProtocolHash,
    Records, Sink, StaticKey, StreamId,
};
use mischief_actors::identity::Identity;
use mischief_benches::harness::{Bench, Contender, Cost, Measure, Question, Stopwatch};
use mischief_reactor::{Instant, Random};
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde_json::json;

const FRAME: usize = 16 << 10;
const TAG: usize = 16;

/// Messages that are sealed before they are opened: less than a window, more than the clock can be wrong about.
const BATCH: usize = 128 << 10;

fn main() {
    let bench = Bench::comparing("crypto");
    for (suite, is_aes) in [("ChaChaPoly", false), ("AES-256-GCM", true)] {
        for size in [64, 1 << 10, 64 << 10] {
            for what in ["seal", "open"] {
                transport(&bench, suite, is_aes, size, what);
            }
        }
    }
    let mut contenders = [
        Contender::new("mischief", shake_hands),
        Contender::new("ring", primitives),
    ];
    let question = Question {
        metric: "crypto_ns",
        case: json!({"what": "handshake, both sides"}),
        units: 20,
        measure: Measure::CpuNanosEach,
        cpu: None,
    };
    bench.compare(&question, &mut contenders);
}

fn transport(bench: &Bench, suite: &str, is_aes: bool, size: usize, what: &str) {
    let is_seal = what == "seal";
    let mut pair = Pair::open(is_aes);
    let mut frames = Frames::new(is_aes);
    let pick = |(seal, open): (Duration, Duration)| {
        let took = if is_seal { seal } else { open };
        Cost {
            wall: took,
            cpu: took,
        }
    };
    let mut contenders = [
        Contender::new("mischief", |count| pick(pair.carry(size, count))),
        Contender::new("ring", |count| pick(frames.carry(size as u64 * count))),
    ];
    let question = Question {
        metric: "crypto_mb_s",
        case: json!({"what": what, "suite": suite, "size": size}),
        units: (BATCH / size) as u64,
        measure: Measure::MegabytesPerSecond(size),
        cpu: None,
    };
    bench.compare(&question, &mut contenders);
}

// ---- connections

/// Bytes that a seed fixes (SplitMix64).
struct Seeded(u64);

impl Random for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Keeps the credit that is to be given back.
#[derive(Default)]
struct Credit(u32);

impl Sink for Credit {
    fn records(&mut self, records: Records<'_>) {
        self.0 += records.len() as u32;
        for message in records {
            black_box(message.body);
        }
    }

    fn large(&mut self, message: LargeMessage) {
        self.0 += message.message().credit;
        black_box(message.message().body);
    }

    fn channel(&mut self, _: ChannelMessage<'_>) {}

    fn bulk(&mut self, _: StreamId, _: BulkEvent<'_>) {}
}

/// Two connections with each other.
struct Pair {
    now: Instant,
    dialler: Connection,
    responder: Connection,
}

fn config(seed: u8, is_aes: bool) -> Arc<Config> {
    let protocol = ProtocolHash::new("bench", "1").expect("the names are short");
    let identity = Arc::new(Identity::from_seed(&[seed; 32]));
    let mut config = Config::new(
        identity,
        StaticKey::from_secret(&[seed ^ 0x80; 32]),
        protocol,
    );
    config.aes_hardware = is_aes;
    Arc::new(config)
}

impl Pair {
    fn new(configs: &[Arc<Config>; 2]) -> Pair {
        let now = Instant::from_nanos(1_000_000_000);
        let mut random = Seeded(7);
        Pair {
            now,
            dialler: Connection::dialler(&configs[0], now, &mut random, None, None),
            responder: Connection::responder(&configs[1], now, &mut random, None),
        }
    }

    fn open(is_aes: bool) -> Pair {
        let mut pair = Pair::new(&[config(1, is_aes), config(2, is_aes)]);
        pair.shake_hands();
        pair
    }

    fn shake_hands(&mut self) {
        while !(self.dialler.is_open() && self.responder.is_open()) {
            let sent = self.answer(true) + self.answer(false);
            assert!(sent > 0, "they have nothing more to say");
        }
    }

    /// One side speaks and the other listens. How many bytes that were.
    fn answer(&mut self, is_dialler: bool) -> usize {
        let (one, other) = if is_dialler {
            (&mut self.dialler, &mut self.responder)
        } else {
            (&mut self.responder, &mut self.dialler)
        };
        let mut bytes = Vec::new();
        while one.poll_transmit(self.now, &mut bytes, 1 << 20) > 0 {}
        other.handle_bytes(self.now, &mut bytes, &mut Credit::default());
        while let Some(event) = other.poll_event() {
            if let Event::Authenticated(_) = event {
                other.accept(self.now);
            }
        }
        while one.poll_event().is_some() {}
        bytes.len()
    }

    /// Messages from the dialler to the responder: how long they were being sealed, and how long opened.
    fn carry(&mut self, size: usize, count: u64) -> (Duration, Duration) {
        let body = vec![7; size];
        let mut bytes = Vec::with_capacity(2 * BATCH);
        let (mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO);
        let mut left = count;
        while left > 0 {
            let batch = left.min((BATCH / size) as u64);
            left -= batch;
            bytes.clear();
            let watch = Stopwatch::start();
            for _ in 0..batch {
                self.dialler
                    .send(Kind::Bytes, "", &body)
                    .expect("there is room");
            }
            while self.dialler.poll_transmit(self.now, &mut bytes, 1 << 20) > 0 {}
            sealing += watch.stop().cpu;
            let mut credit = Credit::default();
            let watch = Stopwatch::start();
            self.responder
                .handle_bytes(self.now, &mut bytes, &mut credit);
            opening += watch.stop().cpu;
            assert!(credit.0 as usize >= size * batch as usize, "all of it came");
            self.responder.consumed(StreamId::APPLICATION, credit.0);
            self.answer(false);
        }
        (sealing, opening)
    }
}

fn shake_hands(count: u64) -> Cost {
    let configs = [config(1, false), config(2, false)];
    Cost::of(|| {
        for _ in 0..count {
            Pair::new(&configs).shake_hands();
        }
    })
}

// ---- ring alone

/// Frames that are sealed and opened where they are.
struct Frames {
    key: LessSafeKey,
    counter: u64,
    frames: Vec<Vec<u8>>,
}

impl Frames {
    fn new(is_aes: bool) -> Frames {
        let algorithm = if is_aes {
            &aead::AES_256_GCM
        } else {
            &aead::CHACHA20_POLY1305
        };
        let key = UnboundKey::new(algorithm, &[1; 32]).expect("a key has 32 bytes");
        let frames = (0..BATCH / FRAME).map(|_| vec![7; FRAME + TAG]).collect();
        Frames {
            key: LessSafeKey::new(key),
            counter: 0,
            frames,
        }
    }

    fn nonce(&self, place: usize) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&(self.counter + place as u64).to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    fn carry(&mut self, bytes: u64) -> (Duration, Duration) {
        let (mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO);
        let batches = bytes.div_ceil(BATCH as u64);
        for _ in 0..batches {
            let mut frames = std::mem::take(&mut self.frames);
            let watch = Stopwatch::start();
            for (place, frame) in frames.iter_mut().enumerate() {
                let (plain, tag) = frame.split_at_mut(FRAME);
                let sealed =
                    self.key
                        .seal_in_place_separate_tag(self.nonce(place), Aad::empty(), plain);
                tag.copy_from_slice(sealed.expect("a frame is short").as_ref());
            }
            sealing += watch.stop().cpu;
            let watch = Stopwatch::start();
            for (place, frame) in frames.iter_mut().enumerate() {
                let opened = self
                    .key
                    .open_in_place(self.nonce(place), Aad::empty(), frame);
                black_box(opened.expect("it was sealed with this key"));
            }
            opening += watch.stop().cpu;
            self.counter += frames.len() as u64;
            self.frames = frames;
        }
        let share = bytes as f64 / (batches * BATCH as u64) as f64;
        (sealing.mul_f64(share), opening.mul_f64(share))
    }
}

/// What both sides of a handshake compute: each an ephemeral key, three Diffie-Hellman exchanges, a signature, a
/// verification.
fn primitives(count: u64) -> Cost {
    let keys = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed has 32 bytes");
    let signature = keys.sign(&[1; 100]);
    let verifier = UnparsedPublicKey::new(&ED25519, keys.public_key().as_ref());
    let remote = MontgomeryPoint::mul_base_clamped([9; 32]);
    Cost::of(|| {
        for number in 0..2 * count {
            let mut secret = [3; 32];
            secret[..8].copy_from_slice(&number.to_le_bytes());
            black_box(MontgomeryPoint::mul_base_clamped(secret));
            for _ in 0..3 {
                // On the Edwards form, which is the faster way where there are vectors.
                let point = black_box(remote)
                    .to_edwards(0)
                    .expect("an honest key is on the curve");
                black_box(point.mul_clamped(secret).to_montgomery());
            }
            black_box(keys.sign(black_box(&[2; 100])));
            let is_right = verifier.verify(black_box(&[1; 100]), signature.as_ref());
            is_right.expect("it was signed with this key");
        }
    })
}
