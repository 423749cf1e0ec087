//! The vectors of docs/wire.md: what the code says is what is committed, and an independent decoder understands it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::*;
use crate::messages::{CHANNEL, FailureCode, RequestId, RequestMessage};

fn path(inside: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(inside)
}

/// Secrets from a name, so that the vectors never change by themselves.
fn secret(name: &str) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    digest.as_ref().try_into().unwrap()
}

/// Hands out one value, as the ephemeral key.
struct Fixed([u8; 32]);

impl Random for Fixed {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0);
    }
}

fn node(vector: &str, role: &str) -> Config {
    let identity = Identity::from_seed(&secret(&format!("{vector} {role} identity")));
    let static_key = StaticKey::from_secret(&secret(&format!("{vector} {role} static")));
    let mut config = Config::new(
        Arc::new(identity),
        static_key,
        ProtocolHash::new("vectors", "1.0").unwrap(),
    );
    config.agent = "mischief/vectors".into();
    config
}

fn pair(vector: &str, change: impl Fn(&mut Config, Role)) -> Pair {
    let mut dialler = node(vector, "dialler");
    let mut responder = node(vector, "responder");
    change(&mut dialler, Role::Dialler);
    change(&mut responder, Role::Responder);
    let (dialler, responder) = (Arc::new(dialler), Arc::new(responder));
    let ephemeral = |role: &str| Fixed(secret(&format!("{vector} {role} ephemeral")));
    let now = Instant::from_nanos(1);
    let remote = |text: &str| Some(text.parse().unwrap());
    let mut pair = Pair::new(config(1), config(2));
    pair.now = now;
    pair.dialler = Side::new(Connection::dialler(
        &dialler,
        now,
        &mut ephemeral("dialler"),
        None,
        remote("192.0.2.2:9000"),
    ));
    pair.responder = Side::new(Connection::responder(
        &responder,
        now,
        &mut ephemeral("responder"),
        remote("[2001:db8::1]:40000"),
    ));
    pair
}

/// A body in hex, or a long one by its length and SHA-256.
fn body_value(body: &[u8]) -> Value {
    if body.len() <= 64 {
        return json!(hex(body));
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, body);
    json!({"bytes": body.len(), "sha256": hex(digest.as_ref())})
}

/// What is said about requests, on their channel.
fn request_value(body: &[u8]) -> Value {
    let kind_name = |kind: Kind| format!("{kind:?}").to_lowercase();
    match RequestMessage::decode(body).unwrap() {
        RequestMessage::Request {
            id,
            timeout_ms,
            kind,
            name,
            body,
        } => json!({
            "request": id.0,
            "timeout_ms": timeout_ms,
            "name": name,
            "kind": kind_name(kind),
            "body": body_value(body),
        }),
        RequestMessage::Reply { id, kind, body } => {
            json!({"reply": id.0, "kind": kind_name(kind), "body": body_value(body)})
        }
        RequestMessage::Failure { id, code, reason } => {
            json!({"failure": id.0, "code": code.number(), "reason": reason})
        }
        RequestMessage::Cancel { id } => json!({"cancel": id.0}),
    }
}

fn received(side: &Side) -> Vec<Value> {
    let value = |received: &Received| match received {
        Received::Message(kind, name, body) => {
            json!({"message": format!("{kind:?}").to_lowercase(), "name": name, "body": body_value(body)})
        }
        Received::Channel(Class::Application, CHANNEL, body) => request_value(body),
        Received::Channel(class, channel, body) => {
            json!({"channel": channel, "class": format!("{class:?}").to_lowercase(), "body": body_value(body)})
        }
        Received::Opened(stream, channel, header) => {
            json!({"opened": stream.0, "channel": channel, "header": hex(header)})
        }
        Received::Data(stream, bytes) => json!({"data": stream.0, "body": body_value(bytes)}),
        Received::Ended(stream) => json!({"ended": stream.0}),
        Received::Reset(stream, code) => json!({"reset": stream.0, "code": code}),
        Received::Stopped(stream, code) => json!({"stopped": stream.0, "code": code}),
    };
    side.inbox.received.iter().map(value).collect()
}

fn end(side: &Side) -> Value {
    match side.closed() {
        None => Value::Null,
        Some(Error::Refused(code)) => json!({"refused": code.number()}),
        Some(Error::ClosedByPeer { code, reason }) => {
            json!({"closed": code.number(), "reason": reason})
        }
        Some(_) => json!("by itself"),
    }
}

fn node_value(vector: &str, role: &str, side: &Side) -> Value {
    let config = &side.connection.config;
    json!({
        "identity_seed": hex(&secret(&format!("{vector} {role} identity"))),
        "peer_id": config.identity.peer_id().to_string(),
        "static_secret": hex(&secret(&format!("{vector} {role} static"))),
        "ephemeral_secret": hex(&secret(&format!("{vector} {role} ephemeral"))),
        "sends": hex(&side.sent),
        "receives": received(side),
        "end": end(side),
    })
}

fn value(vector: &str, network_key: Option<[u8; 32]>, pair: &Pair) -> Value {
    let suite = pair.dialler.events.iter().find_map(|event| match event {
        Event::Authenticated(authenticated) => Some(authenticated.suite.number()),
        _ => None,
    });
    json!({
        "name": vector,
        "network_key": network_key.map(|key| hex(&key)),
        "protocol": ["vectors", "1.0"],
        "suite": suite,
        "dialler": node_value(vector, "dialler", &pair.dialler),
        "responder": node_value(vector, "responder", &pair.responder),
    })
}

/// A connection on which everything is said once.
fn conversation(vector: &str, aes: bool, network_key: Option<[u8; 32]>, has_large: bool) -> Value {
    let mut pair = pair(vector, |config, role| {
        config.aes_hardware = aes;
        config.network_key = network_key.as_ref().map(NetworkKey::from_bytes);
        config.timing.rekey_frames = 3;
        config.padding = role == Role::Responder;
        if role == Role::Dialler {
            config.name = Some("Ratatöskr".into());
            config.features = 0x8000_0000_0000_0001;
            config.listen = vec![
                "192.0.2.1:9000".parse().unwrap(),
                "[2001:db8::1]:9000".parse().unwrap(),
            ];
        }
    });
    pair.run();
    let length = if has_large { 20_000u32 } else { 200 };
    let large: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
    let dialler = &mut pair.dialler.connection;
    dialler
        .send(Kind::Json, "chat", br#"{"text":"hello"}"#)
        .unwrap();
    dialler
        .send(Kind::Text, "", "grüß dich".as_bytes())
        .unwrap();
    dialler.send(Kind::Bytes, "raw", &[0, 1, 2, 255]).unwrap();
    dialler.send(Kind::Bytes, "large", &large).unwrap();
    dialler.send_channel(Class::Control, 1, b"urgent").unwrap();
    dialler
        .send_channel(Class::Application, 2, b"in order")
        .unwrap();
    dialler.send_channel(Class::Gossip, 3, b"rumour").unwrap();
    dialler.send_channel(Class::Gossip, 3, &large).unwrap();
    pair.run();
    let dialler = &mut pair.dialler.connection;
    let stream = dialler.open_bulk(9, b"a file").unwrap();
    dialler.write_bulk(stream, &mut large.clone()).unwrap();
    dialler.end_bulk(stream).unwrap();
    let given_up = dialler.open_bulk(9, b"").unwrap();
    dialler.reset_bulk(given_up, 7).unwrap();
    pair.run();
    let (dialler, responder) = (&mut pair.dialler.connection, &mut pair.responder.connection);
    dialler.ping(pair.now);
    responder.set_message_max(16 << 20);
    pair.run();
    for index in 0..4 {
        pair.responder
            .connection
            .send(Kind::Text, "", format!("back {index}").as_bytes())
            .unwrap();
        pair.run();
    }
    pair.responder
        .connection
        .close(pair.now, CloseCode::ShuttingDown, "good night");
    pair.run();
    let count = if has_large { 14 } else { 13 };
    assert_eq!(pair.responder.inbox.received.len(), count);
    assert_eq!(pair.dialler.messages(), 4);
    value(vector, network_key, &pair)
}

/// Requests of both sides, with each of their outcomes.
fn requests(vector: &str) -> Value {
    let mut pair = pair(vector, |_, _| {});
    pair.run();
    let large: Vec<u8> = (0..20_000u32).map(|index| (index % 241) as u8).collect();
    let request = |id, kind, name, body| RequestMessage::Request {
        id: RequestId(id),
        timeout_ms: 30_000,
        kind,
        name,
        body,
    };
    let reply = |id, kind, body| RequestMessage::Reply {
        id: RequestId(id),
        kind,
        body,
    };
    let failure = |id, code, reason| RequestMessage::Failure {
        id: RequestId(id),
        code,
        reason,
    };
    let asked = [
        request(0, Kind::Json, "sum", b"[1,2]"),
        request(1, Kind::Text, "größer", "grüß dich".as_bytes()),
        request(0xdead_beef, Kind::Bytes, "digest", &large),
        RequestMessage::Cancel { id: RequestId(1) },
        failure(0, FailureCode::NoHandler, ""),
    ];
    let answered = [
        request(0, Kind::Json, "who", b"null"),
        reply(0, Kind::Json, b"3"),
        failure(1, FailureCode::Refused, "zu groß"),
        reply(0xdead_beef, Kind::Bytes, &[]),
    ];
    for message in asked {
        say(&mut pair.dialler.connection, &message);
    }
    for message in answered {
        say(&mut pair.responder.connection, &message);
    }
    pair.run();
    assert_eq!(pair.responder.inbox.received.len(), asked.len());
    assert_eq!(pair.dialler.inbox.received.len(), answered.len());
    value(vector, None, &pair)
}

fn say(connection: &mut Connection, message: &RequestMessage<'_>) {
    let mut body = Vec::new();
    message.encode(&mut body);
    let queued = connection.send_channel(Class::Application, CHANNEL, &body);
    queued.unwrap();
}

fn refusal(vector: &str, keys: [Option<[u8; 32]>; 2], change: impl Fn(&mut Config, Role)) -> Value {
    let mut pair = pair(vector, |config, role| {
        let key = keys[usize::from(role == Role::Responder)];
        config.network_key = key.as_ref().map(NetworkKey::from_bytes);
        change(config, role);
    });
    pair.responder.accepts = false;
    pair.run();
    if pair.responder.closed().is_none() {
        pair.responder
            .connection
            .close(pair.now, CloseCode::Banned, "");
        pair.run();
    }
    value(vector, keys[0], &pair)
}

fn vectors() -> Value {
    let key = Some(secret("network key"));
    let newer = |config: &mut Config, role| {
        if role == Role::Responder {
            config.preface = Preface::new(2..=3, config.preface.protocol());
        }
    };
    let other = |config: &mut Config, role| {
        if role == Role::Responder {
            config.preface = Preface::new(1..=1, ProtocolHash::new("vectors", "2.0").unwrap());
        }
    };
    json!({
        "about": "Made by the test `wire` of actors/connection; read by docs/wire-decode.py. See docs/wire.md.",
        "vectors": [
            conversation("chachapoly", false, None, true),
            conversation("aes", true, None, false),
            conversation("private network", false, key, false),
            requests("requests"),
            refusal("another wire version", [None, None], newer),
            refusal("another protocol", [None, None], other),
            refusal("a key that the responder lacks", [key, None], |_, _| {}),
            refusal("a key that the dialler lacks", [None, key], |_, _| {}),
            refusal("another key", [key, Some([1; 32])], |_, _| {}),
            refusal("banned", [None, None], |_, _| {}),
        ],
    })
}

#[test]
fn the_committed_vectors_are_what_the_code_says() {
    let file = path("tests/vectors/wire.json");
    let vectors = vectors();
    if std::env::var_os("MISCHIEF_WRITE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&vectors).unwrap();
        std::fs::write(&file, text + "\n").unwrap();
    }
    let committed = committed();
    let hint = "the wire format has changed; if that is meant, run this test with MISCHIEF_WRITE_VECTORS=1";
    assert!(committed == vectors, "{hint}");
}

/// The decoder's verdict on vectors, with what it said; `None` where it cannot run.
fn decode(vectors: &Value) -> Option<(bool, String)> {
    let needs = "from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey as Key\n\
                 Key.public_bytes_raw";
    let has_package = Command::new("python3")
        .args(["-c", needs])
        .output()
        .is_ok_and(|output| output.status.success());
    if !has_package {
        println!(
            "SKIPPED: there is no python3 with the package `cryptography` of version 40 or later"
        );
        return None;
    }
    let mut decoder = Command::new("python3")
        .arg(path("docs/wire-decode.py"))
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = decoder.stdin.take().unwrap();
    stdin.write_all(vectors.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = decoder.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    Some((output.status.success(), said))
}

fn committed() -> Value {
    let text = std::fs::read_to_string(path("tests/vectors/wire.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn an_independent_decoder_reads_the_vectors() {
    let Some((holds, said)) = decode(&committed()) else {
        return;
    };
    assert!(holds && said.ends_with("10 vectors hold\n"), "{said:?}");
}

#[test]
fn the_independent_decoder_notices_what_does_not_hold() {
    // A digit in message 2, one in the last frame, and one in what is said to have been received.
    for (place, from_end) in [("sends", false), ("sends", true), ("receives", true)] {
        let mut vectors = committed();
        let node = &mut vectors["vectors"][1]["responder"][place];
        let text = match place {
            "sends" => node,
            _ => &mut node[0]["body"],
        };
        let mut digits = text.as_str().unwrap().to_owned().into_bytes();
        let at = if from_end { digits.len() - 1 } else { 200 };
        digits[at] = if digits[at] == b'0' { b'1' } else { b'0' };
        *text = String::from_utf8(digits).unwrap().into();
        let Some((holds, _)) = decode(&vectors) else {
            return;
        };
        assert!(!holds, "{place}");
    }
}
