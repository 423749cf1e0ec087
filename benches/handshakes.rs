//! How many sides of handshakes does one core complete in a second, with the signatures of the identities?
//!
//! One listening node and many diallers, each with an identity of its own, share a runtime of one core, which does both
//! sides' work: sockets, keys, signatures, the peers actor's decision, the answer to `connect`. The whole process is kept
//! on one processor. What the cryptography of one side takes by itself is measured in the same run.

use std::time::{Duration, Instant};

use curve25519_dalek::montgomery::MontgomeryPoint;
use mischief::{Limits, Node};
use mischief_benches::harness::{Bench, Budget};
use mischief_benches::system::{pin, process_cpu, raise_open_files, thread_cpu, threads_cpu};
use mischief_reactor::Runtime;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde_json::json;

const LONG: Duration = Duration::from_secs(60);

fn main() {
    let bench = Bench::new("handshakes");
    raise_open_files();
    if pin(0).is_err() {
        bench.note("the processor may not be chosen");
    }
    let count = bench.size(2000, 20);
    let crypto = bench.repeat(|| cryptography(bench.size(2000, 10)));
    bench.figure(
        "limit: sides per second of cryptography alone",
        "k/s",
        Budget::None,
        &crypto,
    );
    let runs: Vec<Cost> = (0..bench.runs()).map(|_| run(count)).collect();
    let pick = |value: fn(&Cost) -> f64| -> Vec<f64> { runs.iter().map(value).collect() };
    bench.figure(
        "sides per second of the core's time",
        "k/s",
        Budget::AtLeast(3.3),
        &pick(|cost| cost.per_core),
    );
    let sides: Vec<f64> = runs.iter().map(|cost| 1e3 * cost.per_core).collect();
    bench.result("handshake_sides_per_core_s", &json!({}), &sides);
    bench.figure(
        "sides per second of all time used",
        "k/s",
        Budget::None,
        &pick(|cost| cost.per_process),
    );
    bench.figure(
        "sides per second on the clock",
        "k/s",
        Budget::None,
        &pick(|cost| cost.per_wall),
    );
}

struct Cost {
    per_core: f64,
    per_process: f64,
    per_wall: f64,
}

fn run(count: usize) -> Cost {
    let runtime = Runtime::builder()
        .cores(1)
        .start()
        .expect("a thread can be started");
    let handle = runtime.handle();
    let node = || {
        Node::builder()
            .ephemeral()
            .protocol("bench", "1")
            .runtime(&handle)
    };
    let mut limits = Limits::default();
    let places = &mut limits.admission;
    (places.sockets_max, places.handshakes_max) = (count as u32, 64);
    (
        places.handshakes_per_address_max,
        places.handshakes_per_prefix_max,
    ) = (64, 64);
    (places.rate_per_second, places.rate_burst) = (1_000_000, 1_000_000);
    let listener = node()
        .listen("127.0.0.1:0")
        .max_peers(count as u32)
        .limits(limits)
        .start()
        .expect("loopback can be listened on");
    let addr = listener.listen_addrs()[0].to_string();
    let diallers: Vec<Node> = (0..count)
        .map(|_| node().start().expect("it needs nothing"))
        .collect();
    let (core, cpu, start) = (threads_cpu("mischief"), process_cpu(), Instant::now());
    // As many at a time as the listener lets in: who finds no place would ask again and again.
    for some in diallers.chunks(48) {
        let connecting: Vec<_> = some.iter().map(|node| node.connect(&addr)).collect();
        // The last first: most of the others are there by then, and waking this thread is not what is measured.
        for answer in connecting.into_iter().rev() {
            answer.wait_for(LONG).expect("it listens and has room");
        }
    }
    let (wall, cpu, core) = (
        start.elapsed(),
        process_cpu() - cpu,
        threads_cpu("mischief") - core,
    );
    for node in diallers {
        node.stop(LONG);
    }
    listener.stop(LONG);
    runtime.shutdown(LONG);
    let rate = |time: Duration| 2.0 * count as f64 / time.as_secs_f64() / 1e3;
    Cost {
        per_core: rate(core),
        per_process: rate(cpu),
        per_wall: rate(wall),
    }
}

/// What one side computes: an ephemeral key, three Diffie-Hellman exchanges, a signature, a verification.
fn cryptography(count: usize) -> f64 {
    let keys = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed has 32 bytes");
    let signature = keys.sign(&[1; 100]);
    let verifier = UnparsedPublicKey::new(&ED25519, keys.public_key().as_ref());
    let remote = MontgomeryPoint::mul_base_clamped([9; 32]);
    let start = thread_cpu();
    for number in 0..count {
        let mut secret = [3; 32];
        secret[..8].copy_from_slice(&(number as u64).to_le_bytes());
        std::hint::black_box(MontgomeryPoint::mul_base_clamped(secret));
        for _ in 0..3 {
            // On the Edwards form, which is the faster way where there are vectors.
            let point = std::hint::black_box(remote).to_edwards(0);
            let point = point.expect("an honest key is on the curve");
            std::hint::black_box(point.mul_clamped(secret).to_montgomery());
        }
        std::hint::black_box(keys.sign(std::hint::black_box(&[2; 100])));
        let is_right = verifier.verify(std::hint::black_box(&[1; 100]), signature.as_ref());
        is_right.expect("it was signed with this key");
    }
    count as f64 / (thread_cpu() - start).as_secs_f64() / 1e3
}
