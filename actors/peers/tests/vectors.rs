//! The published vectors of the exchange: made here, and read by the decoder in Python that shares no code with this one.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::identity::Identity;
use crate::peers::{ExchangeMessage, SignedRecord};

fn path(inside: &str) -> String {
    format!("{}/../{inside}", env!("CARGO_MANIFEST_DIR"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn record(n: u8, addrs: &[&str]) -> SignedRecord {
    let addrs = addrs.iter().map(|addr| addr.parse::<SocketAddr>().unwrap());
    SignedRecord::sign(
        &Identity::from_seed(&[n; 32]),
        1_700_000_000 + u64::from(n),
        addrs,
    )
    .unwrap()
}

fn shown(record: &SignedRecord) -> Value {
    let addrs: Vec<String> = record.addrs().iter().map(SocketAddr::to_string).collect();
    json!({"peer_id": record.peer().to_string(), "sequence": record.sequence(), "addresses": addrs})
}

fn vector(name: &str, kind: u8, messages: &[Vec<u8>], records: &[SignedRecord]) -> Value {
    json!({
        "name": name,
        "kind": kind,
        "token": 0x0102_0304,
        "exchange": messages.iter().map(|bytes| hex(bytes)).collect::<Vec<_>>(),
        "records": records.iter().map(shown).collect::<Vec<_>>(),
    })
}

fn vectors() -> Value {
    const TOKEN: u32 = 0x0102_0304;
    let own = record(1, &["192.0.2.1:9000", "[2001:db8::1]:9001"]);
    let many: Vec<SignedRecord> = (2..12)
        .map(|n| {
            record(
                n,
                &[
                    "198.51.100.7:65535",
                    "[2001:db8::2]:1",
                    "203.0.113.9:1024",
                    "192.0.2.200:80",
                ],
            )
        })
        .collect();
    json!({
        "about": "Made by the test `vectors` of actors/peers; read by docs/wire-decode.py. See docs/wire.md.",
        "vectors": [
            vector("a question without a record", 1, &[ExchangeMessage::ask(TOKEN, None)], &[]),
            vector("a question", 1, &[ExchangeMessage::ask(TOKEN, Some(&own))], std::slice::from_ref(&own)),
            vector("an empty answer", 2, &ExchangeMessage::tell(TOKEN, &[]), &[]),
            vector("an answer in parts", 2, &ExchangeMessage::tell(TOKEN, &many), &many),
        ],
    })
}

fn committed() -> Value {
    let text = std::fs::read_to_string(path("tests/vectors/exchange.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_committed_vectors_are_what_the_code_says() {
    let vectors = vectors();
    if std::env::var_os("MISCHIEF_WRITE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&vectors).unwrap();
        std::fs::write(path("tests/vectors/exchange.json"), text + "\n").unwrap();
    }
    let hint =
        "the exchange has changed; if that is meant, run this test with MISCHIEF_WRITE_VECTORS=1";
    assert!(committed() == vectors, "{hint}");
}

/// The decoder's verdict; `None` where it cannot run.
fn decode(vectors: &Value) -> Option<bool> {
    let needs = "from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey as Key\n\
                 Key.public_bytes_raw";
    let probe = Command::new("python3").args(["-c", needs]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!(
            "SKIPPED: there is no python3 with the package `cryptography` of version 40 or later"
        );
        return None;
    }
    let mut decoder = Command::new("python3")
        .arg(path("docs/wire-decode.py"))
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = decoder.stdin.take().unwrap();
    stdin.write_all(vectors.to_string().as_bytes()).unwrap();
    drop(stdin);
    Some(decoder.wait().unwrap().success())
}

#[test]
fn an_independent_decoder_reads_the_vectors_and_notices_what_does_not_hold() {
    let Some(holds) = decode(&committed()) else {
        return;
    };
    assert!(holds);
    for at in [0, 20, 90, 140, 200] {
        let mut changed = committed();
        let message = &mut changed["vectors"][1]["exchange"][0];
        let mut digits = message.as_str().unwrap().to_owned().into_bytes();
        digits[at] = if digits[at] == b'0' { b'1' } else { b'0' };
        *message = String::from_utf8(digits).unwrap().into();
        assert_eq!(decode(&changed), Some(false), "digit {at}");
    }
}
