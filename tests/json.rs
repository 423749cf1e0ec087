//! `mischief node --json` as `docs/json.md` describes it, between real processes.

mod process;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mischief::json::{COMMANDS, EVENTS};
use mischief::{Identity, Node};
use mischief_actors::connection::{Preface, ProtocolHash};
use process::{LONG, Program, Started, TempDir, kind_of};
use serde_json::{Value, json};

fn members(value: &Value) -> BTreeSet<&str> {
    let object = value.as_object().expect("it is an object");
    object.keys().map(String::as_str).collect()
}

/// Whether an answer has exactly the members that the shape of its command lists.
#[track_caller]
fn check_answer(command: &str, answer: &Value) {
    let shape = COMMANDS.iter().find(|shape| shape.name == command);
    let shape = shape.expect("it is a command");
    let found = members(answer);
    let fits = |answer: &&&[&str]| {
        let fixed = ["id", "ok"].iter();
        found == answer.iter().chain(fixed).copied().collect()
    };
    assert!(shape.answers.iter().any(|answer| fits(&answer)), "{answer}");
}

#[track_caller]
fn check_event(event: &Value) {
    let shape = EVENTS.iter().find(|shape| event["event"] == shape.name);
    let shape = shape.expect("it is an event");
    let fixed = ["event"].iter();
    let want: BTreeSet<&str> = shape.members.iter().chain(fixed).copied().collect();
    assert_eq!(members(event), want);
}

/// Every command and the events that follow, over one address family.
fn all_commands_and_events(listen: &str) {
    let mut a = Program::node(&["--listen", listen, "--name", "anna"]);
    let ready = a.event("ready");
    check_event(&ready);
    let mut a = Started {
        id: ready["peer_id"].as_str().expect("a text").to_owned(),
        addr: ready["listen"][0].as_str().expect("a text").to_owned(),
        program: a,
    };
    assert_eq!(ready["protocol"], "mischief/1.0");
    assert_eq!(ready["version"], env!("CARGO_PKG_VERSION"));
    let mut b = Started::new(&["--listen", listen]);
    let is_said = |event: &Value, name: &str, peer: &str| {
        check_event(event);
        assert_eq!(
            (&event["event"], &event["peer"]),
            (&json!(name), &json!(peer))
        );
    };

    let answer = b.program.ask_well(json!({"cmd": "id"}));
    check_answer("id", &answer);
    assert_eq!(answer["peer_id"], b.id.as_str());

    let answer = b
        .program
        .ask_well(json!({"cmd": "connect", "addr": a.addr, "peer_id": a.id}));
    check_answer("connect", &answer);
    assert_eq!(answer["peer"], a.id.as_str());
    let event = b.program.event("peer_connected");
    is_said(&event, "peer_connected", &a.id);
    assert_eq!(
        (&event["direction"], &event["name"]),
        (&json!("out"), &json!("anna"))
    );
    assert_eq!(event["addr"], a.addr.as_str());
    let event = a.program.event("peer_connected");
    is_said(&event, "peer_connected", &b.id);
    assert_eq!(
        (&event["direction"], &event["name"]),
        (&json!("in"), &Value::Null)
    );
    // Once more is a success, and no event.
    let again = b
        .program
        .ask_well(json!({"cmd": "connect", "addr": a.addr}));
    assert_eq!(again["peer"], a.id.as_str());

    let answer = a.program.ask_well(json!({"cmd": "peers"}));
    check_answer("peers", &answer);
    let peers = answer["peers"].as_array().expect("a list");
    assert_eq!(peers.len(), 1);
    let want = [
        "peer",
        "name",
        "addr",
        "direction",
        "since",
        "suite",
        "rtt_us",
        "bytes_in",
        "bytes_out",
        "messages_in",
        "messages_out",
    ];
    assert_eq!(members(&peers[0]), want.into_iter().collect());
    assert_eq!(peers[0]["peer"], b.id.as_str());
    assert!(
        peers[0]["since"]
            .as_u64()
            .is_some_and(|since| since > 1_600_000_000)
    );

    let data = json!({"text": "hällo\u{1b}[2J", "list": [1, -2.5, null, true, {}]});
    for (to, prefix) in [(Some(&a.id[..]), 52), (Some(&a.id[..6]), 6), (None, 0)] {
        let mut command = json!({"cmd": "send", "type": "chat", "data": data});
        if let Some(to) = to {
            assert_eq!(to.len(), prefix);
            command["peer"] = to.into();
        }
        let answer = b.program.ask_well(command);
        check_answer("send", &answer);
        assert_eq!(answer.get("sent"), to.is_none().then(|| json!(1)).as_ref());
        let event = a.program.event("message");
        is_said(&event, "message", &b.id);
        assert_eq!((&event["type"], &event["data"]), (&json!("chat"), &data));
    }
    for to in [Some(&b.id[..4]), None] {
        let mut command = json!({"cmd": "send_text", "text": "two\nlines"});
        if let Some(to) = to {
            command["peer"] = to.into();
        }
        check_answer("send_text", &a.program.ask_well(command));
        let event = b.program.event("text");
        is_said(&event, "text", &a.id);
        assert_eq!(event["text"], "two\nlines");
        let mut command = json!({"cmd": "send_bytes", "base64": "AP/+AQ=="});
        if let Some(to) = to {
            command["peer"] = to.into();
        }
        check_answer("send_bytes", &a.program.ask_well(command));
        let event = b.program.event("bytes");
        is_said(&event, "bytes", &a.id);
        assert_eq!(event["base64"], "AP/+AQ==");
    }

    let answer = a.program.ask_well(json!({"cmd": "stats"}));
    check_answer("stats", &answer);
    assert_eq!(answer["stats"]["peers"], 1);
    assert_eq!(answer["stats"]["unhandled"], 0);

    let answer = a
        .program
        .ask_well(json!({"cmd": "disconnect", "peer": &b.id[..8]}));
    check_answer("disconnect", &answer);
    let event = a.program.event("peer_disconnected");
    is_said(&event, "peer_disconnected", &b.id);
    assert_eq!(event["reason"], "requested");
    let event = b.program.event("peer_disconnected");
    is_said(&event, "peer_disconnected", &a.id);
    assert_eq!(event["reason"], "by_peer");

    let answer = a.program.ask_well(json!({"cmd": "shutdown"}));
    check_answer("shutdown", &answer);
    let event = a.program.event("stopped");
    check_event(&event);
    assert_eq!(event["reason"], "shutdown");
    assert_eq!(a.program.rest(), [] as [Value; 0], "nothing follows");
    assert_eq!(a.program.code(), Some(0));
    b.shut_down();
}

#[test]
fn two_nodes_do_everything_on_ipv4() {
    all_commands_and_events("127.0.0.1:0");
}

#[test]
fn two_nodes_do_everything_on_ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    all_commands_and_events("[::1]:0");
}

#[test]
fn a_message_to_all_reaches_all_and_is_counted() {
    let mut hub = Started::new(&["--listen", "127.0.0.1:0"]);
    let answer = hub
        .program
        .ask_well(json!({"cmd": "send_text", "text": "nobody"}));
    assert_eq!((&answer["sent"], &answer["failed"]), (&json!(0), &json!(0)));
    let mut others: Vec<Started> = (0..3)
        .map(|_| Started::new(&["--listen", "127.0.0.1:0"]))
        .collect();
    for other in &mut others {
        other.connect(&mut hub);
    }
    let answer = hub
        .program
        .ask_well(json!({"cmd": "send", "type": "t", "data": 7}));
    assert_eq!((&answer["sent"], &answer["failed"]), (&json!(3), &json!(0)));
    for other in &mut others {
        let event = other.program.event("message");
        assert_eq!((&event["type"], &event["data"]), (&json!("t"), &json!(7)));
    }
}

#[test]
fn messages_of_one_mebibyte_come_whole_and_larger_ones_are_refused_in_words() {
    let mut a = Started::new(&["--listen", "127.0.0.1:0"]);
    let mut b = Started::new(&["--listen", "127.0.0.1:0"]);
    a.connect(&mut b);
    let text = "ü".repeat(500_000);
    a.program
        .ask_well(json!({"cmd": "send_text", "text": text}));
    assert_eq!(b.program.event("text")["text"], text);
    // 1,048,576 bytes of line are the limit: what is longer as JSON never gets to be a message.
    let id = a
        .program
        .ask_badly(json!({"cmd": "send", "peer": b.id, "type": "", "data": 1}));
    assert_eq!(id, "bad_request");
}

#[test]
fn a_beginning_that_fits_two_peers_is_refused() {
    let mut node = Started::new(&["--listen", "127.0.0.1:0"]);
    let mut seeds = (0u8..=255).map(|number| Identity::from_seed(&[number; 32]));
    let first = seeds.next().expect("there are many");
    let letter = first.peer_id().to_string()[..1].to_owned();
    let second = seeds
        .find(|identity| identity.peer_id().to_string().starts_with(&letter))
        .expect("one in 32 has the same first letter");
    let ids = [first.peer_id(), second.peer_id()].map(|id| id.to_string());
    let peers = [first, second].map(|identity| {
        let peer = Node::builder()
            .identity(identity)
            .start()
            .expect("it starts");
        peer.connect(&node.addr).wait().expect("the node listens");
        peer
    });
    for _ in &peers {
        node.program.event("peer_connected");
    }
    let command = |peer: &str| json!({"cmd": "send_text", "peer": peer, "text": "x"});
    assert_eq!(node.program.ask_badly(command(&letter)), "bad_request");
    let common = ids[0]
        .bytes()
        .zip(ids[1].bytes())
        .take_while(|(a, b)| a == b)
        .count();
    for id in &ids {
        node.program.ask_well(command(&id[..common + 1]));
        node.program.ask_well(command(&id.to_uppercase()));
    }
    let nobody = if letter == "a" { "bbbb" } else { "aaaa" };
    assert_eq!(node.program.ask_badly(command(nobody)), "gone");
}

#[test]
fn every_mismatch_has_a_kind_of_its_own() {
    let directory = TempDir::new();
    let key_file = |name: &str, digit: char| {
        let path = directory.path(name);
        let key = digit.to_string().repeat(64);
        std::fs::write(&path, key).expect("the directory can be written to");
        path
    };
    let (one, two) = (key_file("one", '1'), key_file("two", '2'));
    let start = |arguments: &[&str]| {
        let listen = ["--listen", "127.0.0.1:0"];
        Started::new(&[&listen[..], arguments].concat())
    };
    let check = |from: &mut Started, to: &Started, want: &str| {
        let kind = from
            .program
            .ask_badly(json!({"cmd": "connect", "addr": to.addr}));
        assert_eq!(kind, want);
    };
    let mut plain = start(&[]);
    let mut other = start(&[]);
    let mut chat = start(&["--protocol", "chat/1.0"]);
    let mut newer = start(&["--protocol", "mischief/1.1"]);
    let mut private = start(&["--network-key-file", &one]);
    let mut foreign = start(&["--network-key-file", &two]);
    check(&mut plain, &chat, "wrong_protocol");
    check(&mut chat, &plain, "wrong_protocol");
    check(&mut plain, &newer, "wrong_protocol");
    check(&mut newer, &plain, "wrong_protocol");
    check(&mut plain, &private, "wrong_network_key");
    check(&mut private, &plain, "wrong_network_key");
    check(&mut private, &foreign, "wrong_network_key");
    check(&mut foreign, &private, "wrong_network_key");
    let wrong_peer = json!({"cmd": "connect", "addr": other.addr, "peer_id": chat.id});
    assert_eq!(plain.program.ask_badly(wrong_peer), "wrong_peer");
    let to_itself = json!({"cmd": "connect", "addr": plain.addr});
    assert_eq!(plain.program.ask_badly(to_itself), "self_dial");
    let same_key = start(&["--network-key-file", &one]);
    private
        .program
        .ask_well(json!({"cmd": "connect", "addr": same_key.addr}));
    plain
        .program
        .ask_well(json!({"cmd": "connect", "addr": other.addr, "peer_id": other.id}));
    other.program.event("peer_connected");
}

/// A server that takes one connection, reads a preface and message 1, and answers with these bytes.
fn answering_with(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be listened on");
    let addr = listener.local_addr().expect("it is bound").to_string();
    thread::spawn(move || {
        let Ok((mut socket, _)) = listener.accept() else {
            return;
        };
        let mut request = [0; 44 + 2 + 32];
        let _ = socket.read_exact(&mut request);
        let _ = socket.write_all(&bytes);
        // Held open until the other side has had enough.
        let _ = socket.read_to_end(&mut Vec::new());
    });
    addr
}

fn preface(lowest: u8, highest: u8, name: &str) -> Vec<u8> {
    let hash = ProtocolHash::new(name, "1.0").expect("it is short");
    Preface::new(lowest..=highest, hash).as_bytes().to_vec()
}

#[test]
fn what_answers_wrongly_has_a_kind_of_its_own() {
    let mut node = Started::new(&["--listen", "127.0.0.1:0"]);
    let good = preface(1, 1, "mischief");
    let reject = |code: u8| [&good[..], &[0, 0, code]].concat();
    for (answer, want) in [
        (preface(2, 3, "mischief"), "wrong_version"),
        (preface(1, 1, "chat"), "wrong_protocol"),
        (reject(1), "wrong_version"),
        (reject(2), "wrong_protocol"),
        (reject(3), "wrong_network_key"),
        (reject(4), "full"),
        (reject(10), "banned"),
        (reject(77), "handshake_failed"),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            "handshake_failed",
        ),
        ([&good[..], &[0, 3, 1, 2, 3]].concat(), "handshake_failed"),
        (
            [&good[..], &[1, 44], &[7; 300]].concat(),
            "handshake_failed",
        ),
    ] {
        let addr = answering_with(answer.clone());
        let kind = node
            .program
            .ask_badly(json!({"cmd": "connect", "addr": addr}));
        assert_eq!(kind, want, "after {:?}", String::from_utf8_lossy(&answer));
    }
    let closed = TcpListener::bind("127.0.0.1:0").expect("loopback can be listened on");
    let addr = closed.local_addr().expect("it is bound").to_string();
    drop(closed);
    assert_eq!(
        node.program
            .ask_badly(json!({"cmd": "connect", "addr": addr})),
        "unreachable"
    );
    for addr in [
        "",
        "nowhere",
        "127.0.0.1:0",
        "::1:9000",
        "http://a:1",
        "a:99999",
    ] {
        let kind = node
            .program
            .ask_badly(json!({"cmd": "connect", "addr": addr}));
        assert_eq!(kind, "bad_request", "{addr:?}");
    }
    // And the other way round: a dialler of another wire version, or another protocol, is told so.
    for (dialled, code) in [(preface(9, 9, "mischief"), 1), (preface(1, 1, "chat"), 2)] {
        let mut socket = TcpStream::connect(&node.addr).expect("the node listens");
        socket.set_read_timeout(Some(LONG)).expect("it is a socket");
        let message_1 = [&[0, 32][..], &[9; 32]].concat();
        socket
            .write_all(&[dialled, message_1].concat())
            .expect("the node reads");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).expect("the node closes");
        assert_eq!(answer[44..], [0, 0, code]);
    }
}

#[test]
fn a_node_without_room_says_so() {
    let mut small = Started::new(&["--listen", "127.0.0.1:0", "--max-peers", "1"]);
    let mut first = Started::new(&["--listen", "127.0.0.1:0"]);
    let mut second = Started::new(&["--listen", "127.0.0.1:0"]);
    first.connect(&mut small);
    let command = json!({"cmd": "connect", "addr": small.addr});
    assert_eq!(second.program.ask_badly(command), "full");
    let command = json!({"cmd": "connect", "addr": second.addr});
    assert_eq!(small.program.ask_badly(command), "full");
    first
        .program
        .ask_well(json!({"cmd": "disconnect", "peer": small.id}));
    small.program.event("peer_disconnected");
    second.connect(&mut small);
}

#[test]
fn bad_lines_are_answered_and_do_no_harm() {
    let mut node = Started::new(&["--listen", "127.0.0.1:0"]).program;
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let huge_name = "x".repeat(5 << 20);
    let huge_type = "x".repeat(1_000_000);
    let bad = |line: String, want_id: Value, want_kind: &str| (line, want_id, want_kind.to_owned());
    let cases = [
        bad("nonsense".into(), Value::Null, "bad_request"),
        bad("{".into(), Value::Null, "bad_request"),
        bad("[]".into(), Value::Null, "bad_request"),
        bad("7".into(), Value::Null, "bad_request"),
        bad(
            r#"{"cmd":"id","cmd2":1,"id":"x"}"#.into(),
            json!("x"),
            "bad_request",
        ),
        bad(r#"{"id":1}"#.into(), json!(1), "bad_request"),
        bad(r#"{"id":2,"cmd":"fly"}"#.into(), json!(2), "bad_request"),
        bad(r#"{"id":3,"cmd":7}"#.into(), json!(3), "bad_request"),
        bad(
            r#"{"id":4,"cmd":"connect","addr":7}"#.into(),
            json!(4),
            "bad_request",
        ),
        bad(
            r#"{"id":5,"cmd":"connect"}"#.into(),
            json!(5),
            "bad_request",
        ),
        bad(
            r#"{"id":6,"cmd":"send","type":"t"}"#.into(),
            json!(6),
            "bad_request",
        ),
        bad(
            r#"{"id":7,"cmd":"send_text","text":"a","peer":null}"#.into(),
            json!(7),
            "bad_request",
        ),
        bad(
            r#"{"id":8,"cmd":"send_bytes","base64":"?"}"#.into(),
            json!(8),
            "bad_request",
        ),
        bad(
            r#"{"id":[9],"cmd":"id"}"#.into(),
            Value::Null,
            "bad_request",
        ),
        bad(nested(100_000), Value::Null, "bad_request"),
        bad(
            format!(
                r#"{{"id":10,"cmd":"send","type":"t","data":{}}}"#,
                nested(100_000)
            ),
            json!(10),
            "bad_request",
        ),
        bad(
            format!(r#"{{"id":11,"cmd":"send","type":"{huge_type}","data":1}}"#),
            json!(11),
            "bad_request",
        ),
        bad(
            format!(r#"{{"id":12,"cmd":"id","{huge_name}":1}}"#),
            Value::Null,
            "too_large",
        ),
        bad("x".repeat(3 << 20), Value::Null, "too_large"),
    ];
    for (line, want_id, want_kind) in cases {
        node.write(&line);
        let shown: String = line.chars().take(60).collect();
        let answer = node.find(&shown, |value| value.get("ok").is_some());
        assert_eq!(
            (&answer["ok"], &answer["id"]),
            (&json!(false), &want_id),
            "{shown}"
        );
        assert_eq!(kind_of(&answer), want_kind, "{shown}");
    }
    node.write(b"\xff\xfe{}");
    assert_eq!(kind_of(&node.reply(Value::Null)), "bad_request");
    node.write("\r\n   \n\t");
    node.ask_well(json!({"cmd": "id"}));
}

/// Commands that together have more to answer than everything between the node and a reader can hold.
const FLOOD: usize = 40_000;

fn flood_line(number: usize) -> String {
    format!("{{\"cmd\":\"id\",\"id\":\"{number:0200}\"}}\n")
}

#[test]
fn a_node_whose_output_nobody_reads_stops_taking_and_loses_nothing_but_notices() {
    let arguments = ["node", "--json", "--ephemeral", "--listen", "127.0.0.1:0"];
    let mut program = Program::start_unread(&arguments);
    let ready = program.read_one_line();
    let addr = ready["listen"][0].as_str().expect("a text").to_owned();
    let mut stdin = program.take_stdin();
    let (sender, progress) = mpsc::channel();
    let writer = thread::spawn(move || {
        for number in 0..FLOOD {
            let written = stdin.write_all(flood_line(number).as_bytes());
            written.expect("the node lives");
            // The test stops listening once it has seen enough.
            let _ = sender.send(number);
        }
        stdin
    });
    // From outside a writer that is stuck shows only by this, that it does not get on.
    let mut written = 0;
    while progress.recv_timeout(Duration::from_secs(3)).is_ok() {
        written += 1;
    }
    assert!(written < FLOOD, "all commands were taken");

    // Its cores are alive all the same.
    let mut other = Started::new(&["--listen", "127.0.0.1:0"]);
    for _ in 0..3 {
        let answer = other
            .program
            .ask_well(json!({"cmd": "connect", "addr": addr}));
        let peer = answer["peer"].clone();
        other
            .program
            .ask_well(json!({"cmd": "disconnect", "peer": peer}));
        other.program.event("peer_disconnected");
    }
    other
        .program
        .ask_well(json!({"cmd": "connect", "addr": addr}));
    let text = "x".repeat(1_000_000);
    let mut to_other = other.program.take_stdin();
    let shared = text.clone();
    // The other node stops taking too: its messages are more than the window, the sockets and its queue hold.
    let sender = thread::spawn(move || {
        for id in 0..20 {
            let command = json!({"cmd": "send_text", "id": 1_000_000 + id, "text": shared});
            let written = writeln!(to_other, "{command}");
            written.expect("the other node lives");
        }
        to_other
    });
    let resident = program.resident_kib();
    assert!(resident.is_none_or(|kib| kib < 40_000), "{resident:?} KiB");

    program.read_stdout();
    for number in 0..FLOOD {
        program.reply(format!("{number:0200}"));
    }
    writer.join().expect("everything was written");
    let _stdin = sender.join().expect("everything was written");
    let mut sent = 0;
    for id in 0..20 {
        let answer = other.program.reply(1_000_000 + id);
        sent += usize::from(answer["sent"] == 1);
    }
    assert!(sent > 0, "the others found the queue full");
    for _ in 0..sent {
        assert_eq!(program.event("text")["text"], text);
    }
    let lost = program.event("lost");
    check_event(&lost);
    let count = lost["count"].as_u64().expect("a number");
    assert!((1..=7).contains(&count), "{count} of 7 notices were lost");
    program.signal("TERM");
    program.event("stopped");
    assert_eq!(program.code(), Some(0));
}

#[test]
fn a_node_whose_output_is_never_read_still_ends() {
    let arguments = ["node", "--json", "--ephemeral", "--listen", "127.0.0.1:0"];
    let mut program = Program::start_unread(&arguments);
    program.read_one_line();
    let mut stdin = program.take_stdin();
    let (sender, progress) = mpsc::channel();
    thread::spawn(move || {
        for number in 0..FLOOD {
            // It fails when the node ends.
            if stdin.write_all(flood_line(number).as_bytes()).is_err() {
                return;
            }
            let _ = sender.send(());
        }
    });
    while progress.recv_timeout(Duration::from_secs(3)).is_ok() {}
    program.signal("TERM");
    assert_eq!(program.code(), Some(0));
}

#[test]
fn a_node_ends_when_its_output_is_closed() {
    let arguments = ["node", "--json", "--ephemeral", "--listen", "127.0.0.1:0"];
    let mut program = Program::start_unread(&arguments);
    program.read_one_line();
    program.close_stdout();
    // A program that is just being started elsewhere may hold the pipe open for a moment longer.
    while !program.has_ended_within(Duration::from_millis(100)) {
        program.write_if_open(&json!({"cmd": "id"}).to_string());
    }
    assert_eq!(program.code(), Some(0));
}

#[test]
fn the_end_of_stdin_leaves_a_node_running_unless_told_otherwise() {
    let mut other = Started::new(&["--listen", "127.0.0.1:0"]);
    let mut stays = Started::new(&["--listen", "127.0.0.1:0"]);
    drop(stays.program.take_stdin());
    other.connect(&mut stays);
    stays.program.signal("INT");
    assert_eq!(stays.program.event("stopped")["reason"], "SIGINT");
    assert_eq!(stays.program.code(), Some(0));

    let connect = ["--exit-on-eof", "--connect", &other.addr];
    let mut goes = Program::node(&connect);
    goes.write(json!({"id": 1, "cmd": "send_text", "text": "on the way out"}).to_string());
    drop(goes.take_stdin());
    assert_eq!(
        goes.reply(1)["sent"],
        1,
        "the connection of the command line comes first"
    );
    assert_eq!(goes.event("stopped")["reason"], "end of input");
    assert_eq!(goes.code(), Some(0));
    assert_eq!(other.program.event("text")["text"], "on the way out");
}

#[test]
fn a_connection_that_fails_ends_no_node_but_names_the_exit_code_of_a_batch() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("loopback can be listened on");
    let nobody = closed.local_addr().expect("it is bound").to_string();
    drop(closed);
    let mut chat = Started::new(&["--listen", "127.0.0.1:0", "--protocol", "chat/1.0"]);
    for (addr, code, kind) in [
        (&nobody, 3, "unreachable"),
        (&chat.addr, 5, "wrong_protocol"),
    ] {
        let mut node = Started::new(&["--connect", addr]);
        let event = node.program.event("error");
        check_event(&event);
        assert_eq!(event["kind"], kind);
        node.program.ask_well(json!({"cmd": "id"}));
        node.shut_down();

        let mut batch = Program::node(&["--exit-on-eof", "--connect", addr]);
        drop(batch.take_stdin());
        batch.event("stopped");
        assert_eq!(batch.code(), Some(code));

        let mut batch = Program::node(&["--exit-on-eof"]);
        batch.write(json!({"id": 1, "cmd": "connect", "addr": addr}).to_string());
        drop(batch.take_stdin());
        assert_eq!(kind_of(&batch.reply(1)), kind);
        assert_eq!(batch.code(), Some(code));
    }
    let foreign = format!("{}@{}", "a".repeat(52), chat.addr);
    let mut batch = Program::node(&[
        "--protocol",
        "chat/1.0",
        "--exit-on-eof",
        "--connect",
        &foreign,
    ]);
    drop(batch.take_stdin());
    assert_eq!(batch.event("error")["kind"], "wrong_peer");
    assert_eq!(batch.code(), Some(5));
    chat.program.ask_well(json!({"cmd": "id"}));
}
