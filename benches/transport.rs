//! What does a message, a round trip, a connection cost between two processes, beside rust-libp2p and plain TCP?
//!
//! Each implementation is a program of its own that follows the same orders (`mischief_benches::orders`), once as the
//! listener and once as the dialler. libp2p runs with all defaults, and with its best settings for the test; mischief
//! with ChaChaPoly, as libp2p's Noise does, and in rows that say so with AES-256-GCM. The limits are measured in the same
//! run: the same orders with plain blocking TCP, the cipher alone, memcpy.
//!
//! Parts, for `--part`: `throughput`, `rtt`, `handshakes`, `broadcast`.

use mischief_benches::harness::{Bench, Compared, Contender, Cost, Figure, Measure, Question};
use mischief_benches::orders::{MEDIAN, Mode, P99, SHARES};
use mischief_benches::session::{Kind, Session, Setup};
use mischief_benches::system::raise_open_files;
use ring::aead;
use serde_json::{Value, json};

const FRAME: usize = 16 << 10;
const ALL: [Kind; 4] = [
    Kind::Mischief,
    Kind::Libp2pDefault,
    Kind::Libp2pTuned,
    Kind::RawTcp,
];
const PEERS: usize = 50;
const IN_FLIGHT: usize = 16;

/// A name for `--part`, and what it does.
type Part = (&'static str, fn(&Bench));

fn main() {
    let bench = Bench::comparing("transport");
    raise_open_files();
    if let Some(kind) = ALL.iter().find(|kind| !kind.is_built()) {
        let program = kind.program();
        bench.note(format!(
            "{} is missing: cargo build --release --workspace",
            program.display()
        ));
        assert!(bench.is_tiny(), "the nodes have to be built first");
        return;
    }
    let parts: [Part; 4] = [
        ("throughput", throughput),
        ("rtt", round_trips),
        ("handshakes", handshakes),
        ("broadcast", broadcast),
    ];
    for (_, part) in parts.iter().filter(|(name, _)| bench.wants(name)) {
        part(&bench);
    }
}

// ---- throughput

/// Sends messages of one size over one connection.
struct Stream {
    kind: Kind,
    mode: Mode,
    case: Value,
    session: Session,
}

impl Stream {
    fn new(kind: Kind, mode: Mode, case: Value) -> Stream {
        let session = Session::connected(kind, Setup::default(), 1);
        Stream {
            kind,
            mode,
            case,
            session,
        }
    }

    fn contender(&mut self, size: usize) -> Contender<'_> {
        let (session, mode) = (&mut self.session, self.mode);
        let work = move |count| session.send(size, count, mode);
        Contender::new(self.kind.name(), work).with(self.case.clone())
    }
}

fn throughput(bench: &Bench) {
    let plain = |kind: Kind| Stream::new(kind, kind.mode(), json!({}));
    let mut streams: Vec<Stream> = ALL.into_iter().map(plain).collect();
    let aes = json!({"suite": "AES-256-GCM"});
    streams.push(Stream::new(Kind::MischiefAes, Mode::Plain, aes));
    let cipher = bench.compare(
        &cipher_question(),
        &mut [Contender::new("cipher-only", seal)],
    );
    for size in [64, 1 << 10, 64 << 10, 1 << 20] {
        let mut packed = Vec::new();
        if size <= 1 << 10 {
            // A limit has to pack as well where a contender does.
            packed.push(Stream::new(
                Kind::RawTcp,
                Mode::Packed,
                json!({"packed": true}),
            ));
        }
        let all = streams.iter_mut().chain(&mut packed);
        let mut contenders: Vec<_> = all.map(|stream| stream.contender(size)).collect();
        compare_streams(bench, size, &mut contenders, &cipher[0]);
    }
    each(bench, 64);
    let question = Question {
        metric: "throughput_mb_s",
        case: json!({"size": 1 << 20}),
        units: 8,
        measure: Measure::MegabytesPerSecond(1 << 20),
        cpu: None,
    };
    bench.compare(&question, &mut [Contender::new("memcpy", copy)]);
}

fn question_of(size: usize) -> Question<'static> {
    Question {
        metric: "throughput_mb_s",
        case: json!({"size": size}),
        units: (100_000 / size as u64).clamp(4, 2_000),
        measure: Measure::MegabytesPerSecond(size),
        cpu: None,
    }
}

fn compare_streams(
    bench: &Bench,
    size: usize,
    contenders: &mut [Contender<'_>],
    cipher: &Compared,
) {
    let compared = bench.compare(&question_of(size), contenders);
    for (contender, compared) in contenders.iter().zip(&compared) {
        rows(bench, size, contender.name, &contender.case, compared);
    }
    if bench.is_criterion() {
        return;
    }
    // What plain TCP and the cipher give one after the other, where both have to be done by the same core. Of the ways to
    // hand plain TCP its messages the faster one counts.
    let raw = contenders
        .iter()
        .zip(&compared)
        .filter(|(contender, _)| contender.name == "raw-tcp");
    let best = raw
        .map(|(_, compared)| Figure::of(&compared.values).median)
        .fold(0.0, f64::max);
    let cipher = Figure::of(&cipher.values).median;
    bench.row(
        "throughput_mb_s",
        "bound",
        &json!({"size": size}),
        &[1.0 / (1.0 / best + 1.0 / cipher)],
    );
}

fn rows(bench: &Bench, size: usize, name: &str, more: &Value, compared: &Compared) {
    let mut case = more.clone();
    case["size"] = size.into();
    let messages: Vec<f64> = compared
        .values
        .iter()
        .map(|rate| rate * 1e6 / size as f64)
        .collect();
    bench.row("messages_s", name, &case, &messages);
    let per_gb: Vec<f64> = compared
        .cpu_ns
        .iter()
        .map(|nanos| nanos / size as f64)
        .collect();
    bench.row("cpu_s_per_gb", name, &case, &per_gb);
    bench.row("cpu_ns_per_message", name, &case, &compared.cpu_ns);
}

/// Each message is written by itself before the next is begun.
fn each(bench: &Bench, size: usize) {
    let kinds = [Kind::Mischief, Kind::Libp2pTuned, Kind::RawTcp];
    let one = |kind: Kind| Stream::new(kind, Mode::Each, json!({"each": true}));
    let mut streams: Vec<Stream> = kinds.into_iter().map(one).collect();
    let mut contenders: Vec<_> = streams
        .iter_mut()
        .map(|stream| stream.contender(size))
        .collect();
    let compared = bench.compare(&question_of(size), &mut contenders);
    for (contender, compared) in contenders.iter().zip(&compared) {
        rows(bench, size, contender.name, &contender.case, compared);
    }
}

fn cipher_question() -> Question<'static> {
    Question {
        metric: "throughput_mb_s",
        case: json!({"frame": FRAME}),
        units: 100,
        measure: Measure::MegabytesPerSecond(FRAME),
        cpu: None,
    }
}

/// Seals frames one after another.
fn seal(count: u64) -> Cost {
    let key =
        aead::UnboundKey::new(&aead::CHACHA20_POLY1305, &[1; 32]).expect("a key has 32 bytes");
    let key = aead::LessSafeKey::new(key);
    let mut frame = vec![7; FRAME];
    Cost::of(|| {
        for counter in 0..count {
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&counter.to_le_bytes());
            let nonce = aead::Nonce::assume_unique_for_key(nonce);
            let tag = key.seal_in_place_separate_tag(nonce, aead::Aad::empty(), &mut frame);
            let _ = std::hint::black_box(tag.expect("a frame is short"));
        }
    })
}

fn copy(count: u64) -> Cost {
    let (from, mut to) = (vec![7u8; 1 << 20], vec![0u8; 1 << 20]);
    Cost::of(|| {
        for _ in 0..count {
            to.copy_from_slice(std::hint::black_box(&from));
            std::hint::black_box(&mut to);
        }
    })
}

// ---- round trips

fn round_trips(bench: &Bench) {
    const SIZE: usize = 64;
    for (is_pinned, is_within_one) in [(true, false), (false, false), (true, true)] {
        let mut case = json!({"pinned": is_pinned});
        if is_within_one {
            case["processes"] = 1.into();
        }
        let start = |kind: Kind| {
            let setup = Setup {
                cpu: is_pinned.then_some(0),
                is_echo: true,
                // Tuned for one processor is a runtime of one thread.
                threads: usize::from(is_pinned && kind == Kind::Libp2pTuned),
                ..Setup::default()
            };
            let session = if is_within_one {
                Session::within_one(kind, setup)
            } else {
                Session::connected(kind, setup, 1)
            };
            (kind, session)
        };
        let mut sessions: Vec<(Kind, Session)> = ALL.into_iter().map(start).collect();
        if bench.is_criterion() {
            let question = Question {
                metric: "rtt",
                case,
                units: 100,
                measure: Measure::NanosEach,
                cpu: None,
            };
            let mut contenders: Vec<_> = sessions
                .iter_mut()
                .map(|(kind, session)| {
                    let work = |count| Cost::of(|| drop(session.ask(SIZE, count)));
                    Contender::new(kind.name(), work)
                })
                .collect();
            bench.compare(&question, &mut contenders);
            continue;
        }
        let count = bench.size(10_000, 50);
        let mut quantiles: Vec<Vec<Vec<f64>>> = vec![Vec::new(); sessions.len()];
        for run in 0..=bench.runs() {
            for turn in 0..sessions.len() {
                let place = if run.is_multiple_of(2) {
                    turn
                } else {
                    sessions.len() - 1 - turn
                };
                let asked = sessions[place]
                    .1
                    .ask(SIZE, if run == 0 { count / 5 } else { count });
                // The first time does not count.
                if run > 0 {
                    quantiles[place].push(asked);
                }
            }
        }
        for ((kind, _), quantiles) in sessions.iter().zip(&quantiles) {
            let at =
                |place: usize| -> Vec<f64> { quantiles.iter().map(|run| run[place]).collect() };
            bench.row("rtt_p50_us", kind.name(), &case, &at(MEDIAN));
            bench.row("rtt_p99_us", kind.name(), &case, &at(P99));
            // For the plot; people see two of them above.
            for (place, share) in SHARES.iter().enumerate().filter(|_| bench.is_json()) {
                let mut case = case.clone();
                case["share"] = (*share).into();
                bench.row("rtt_quantile_us", kind.name(), &case, &at(place));
            }
        }
    }
}

// ---- handshakes

fn handshakes(bench: &Bench) {
    let start = |kind: Kind| (kind, Session::start(kind, Setup::default()));
    let mut sessions: Vec<(Kind, Session)> = ALL.into_iter().map(start).collect();
    let mut contenders: Vec<_> = sessions
        .iter_mut()
        .map(|(kind, session)| Contender::new(kind.name(), |count| session.dial(count, IN_FLIGHT)))
        .collect();
    let question = Question {
        metric: "handshakes_per_s",
        case: json!({"in_flight": IN_FLIGHT}),
        units: 32,
        measure: Measure::PerSecond,
        cpu: Some(("cpu_us_per_handshake", 1e-3)),
    };
    bench.compare(&question, &mut contenders);
}

// ---- broadcast

fn broadcast(bench: &Bench) {
    const SIZE: usize = 1 << 10;
    let start = |kind: Kind| (kind, Session::connected(kind, Setup::default(), PEERS));
    let mut sessions: Vec<(Kind, Session)> = ALL.into_iter().map(start).collect();
    let mut contenders: Vec<_> = sessions
        .iter_mut()
        .map(|(kind, session)| {
            let work = |deliveries: u64| {
                let messages = deliveries.div_ceil(PEERS as u64);
                let cost = session.broadcast(SIZE, messages, PEERS);
                // As if there had been no more than what was asked for.
                cost.scaled(deliveries as f64 / (messages * PEERS as u64) as f64)
            };
            Contender::new(kind.name(), work)
        })
        .collect();
    let question = Question {
        metric: "broadcast_deliveries_s",
        case: json!({"peers": PEERS, "size": SIZE}),
        units: 500,
        measure: Measure::PerSecond,
        cpu: Some(("cpu_ns_per_delivery", 1.0)),
    };
    bench.compare(&question, &mut contenders);
}
