//! What does packing messages into records cost, and finding them again, before and after the cipher?
//!
//! Beside a copy of the same bytes, which is the least that packing can be.

use std::hint::black_box;

use mischief_actors::connection::{Encoded, Kind, Records};
use mischief_benches::harness::{Bench, Contender, Cost, Measure, Question};
use serde_json::json;

/// About as much as is packed in one go.
const BATCH: usize = 128 << 10;

fn main() {
    let bench = Bench::comparing("codec");
    for size in [64, 1 << 10, 8 << 10] {
        let body = vec![7; size];
        let batch = (BATCH / size) as u64;
        let mut encoded = Encoded::new();
        let mut pack = |count| pack(&mut encoded, &body, count, batch);
        let mut plain = Vec::with_capacity(2 * BATCH);
        let mut copy = |count| copy(&mut plain, &body, count, batch);
        compare(&bench, "pack", size, &mut pack, Some(&mut copy));
        let mut packed = Encoded::new();
        for _ in 0..batch {
            packed.push(Kind::Bytes, "", &body).expect("it is small");
        }
        let mut unpack = |count| unpack(packed.as_bytes(), count);
        compare(&bench, "unpack", size, &mut unpack, None);
    }
}

type Work<'a> = &'a mut dyn FnMut(u64) -> Cost;

fn compare(bench: &Bench, what: &str, size: usize, ours: Work<'_>, copy: Option<Work<'_>>) {
    let mut contenders = vec![Contender::new("mischief", ours)];
    contenders.extend(copy.map(|copy| Contender::new("memcpy", copy)));
    let question = Question {
        metric: "codec_ns_per_message",
        case: json!({"what": what, "size": size}),
        units: 2_000,
        measure: Measure::CpuNanosEach,
        cpu: None,
    };
    bench.compare(&question, &mut contenders);
}

fn pack(encoded: &mut Encoded, body: &[u8], count: u64, batch: u64) -> Cost {
    Cost::of(|| {
        for number in 0..count {
            if number % batch == 0 {
                black_box(encoded.as_bytes());
                encoded.clear();
            }
            encoded
                .push(Kind::Bytes, "", black_box(body))
                .expect("it is small");
        }
    })
}

fn copy(plain: &mut Vec<u8>, body: &[u8], count: u64, batch: u64) -> Cost {
    Cost::of(|| {
        for number in 0..count {
            if number % batch == 0 {
                black_box(&plain);
                plain.clear();
            }
            plain.extend_from_slice(black_box(body));
        }
    })
}

fn unpack(bytes: &[u8], count: u64) -> Cost {
    Cost::of(|| {
        let mut left = count;
        while left > 0 {
            let before = left;
            for message in Records::new(black_box(bytes)).take(left as usize) {
                black_box(message.body);
                left -= 1;
            }
            assert!(left < before, "a message is one record");
        }
    })
}
