//! Requests between real processes, over the JSON interface and the console, and the example program.

mod process;

#[path = "../examples/request_response.rs"]
mod request_response;

use std::time::Duration;

use mischief::{Body, Node, RequestError};
use process::{Program, Started, kind_of};
use serde_json::{Value, json};

/// Two connected nodes, the second of which takes requests for "sum".
fn pair() -> (Started, Started) {
    let mut asker = Started::new(&["--listen", "127.0.0.1:0"]);
    let mut handler = Started::new(&["--listen", "127.0.0.1:0"]);
    asker.connect(&mut handler);
    let handle = json!({"cmd": "handle", "type": "sum"});
    let answer = handler.program.ask_well(handle);
    assert_eq!(answer.as_object().expect("an object").len(), 2);
    (asker, handler)
}

fn request(peer: &str, data: Value) -> Value {
    json!({"cmd": "request", "peer": peer, "type": "sum", "data": data, "timeout_ms": 30_000})
}

/// Writes a command under an id, without waiting for its answer.
fn write(program: &mut Program, id: &str, mut command: Value) {
    command["id"] = id.into();
    program.write(command.to_string());
}

#[test]
fn a_request_is_handled_answered_and_refused() {
    let (mut asker, mut handler) = pair();
    let data = json!({"text": "hällo\u{1b}[2J", "list": [1, -2.5, null]});
    for id in ["answered", "refused", "refused without a word"] {
        write(&mut asker.program, id, request(&handler.id, data.clone()));
    }
    let numbers: Vec<Value> = (0..3)
        .map(|_| {
            let event = handler.program.event("request");
            let members = event.as_object().expect("an object");
            assert_eq!(members.len(), 5, "{event}");
            assert_eq!(event["peer"], asker.id.as_str());
            assert_eq!((&event["type"], &event["data"]), (&json!("sum"), &data));
            event["request"].clone()
        })
        .collect();
    let refuse = json!({"cmd": "refuse", "request": numbers[1], "reason": "no numbers"});
    handler.program.ask_well(refuse);
    let refused = asker.program.reply("refused");
    assert_eq!(kind_of(&refused), "refused");
    let message = refused["error"]["message"].as_str().expect("a text");
    assert!(message.contains("no numbers"), "{message}");
    let reply = json!({"cmd": "reply", "request": numbers[0], "data": [true, data]});
    handler.program.ask_well(reply.clone());
    let answered = asker.program.reply("answered");
    assert_eq!(
        answered,
        json!({"id": "answered", "ok": true, "data": [true, data]})
    );
    let refuse = json!({"cmd": "refuse", "request": numbers[2]});
    handler.program.ask_well(refuse.clone());
    let refused = asker.program.reply("refused without a word");
    assert_eq!(kind_of(&refused), "refused");
    // Each may be answered once.
    assert_eq!(handler.program.ask_badly(reply), "gone");
    assert_eq!(handler.program.ask_badly(refuse), "gone");
    let unknown = json!({"cmd": "reply", "request": 999, "data": 1});
    assert_eq!(handler.program.ask_badly(unknown), "gone");
    let stats = handler.program.ask_well(json!({"cmd": "stats"}));
    assert_eq!(stats["stats"]["requests_answering"], 0);
    asker.shut_down();
    handler.shut_down();
}

#[test]
fn what_nobody_takes_or_nobody_is_there_for_is_told_apart() {
    let (mut asker, mut handler) = pair();
    let mut other = request(&handler.id, json!(1));
    other["type"] = "other".into();
    assert_eq!(asker.program.ask_badly(other), "no_handler");
    let unhandle = json!({"cmd": "unhandle", "type": "sum"});
    handler.program.ask_well(unhandle.clone());
    assert_eq!(handler.program.ask_badly(unhandle), "gone");
    let sum = request(&handler.id, json!(1));
    assert_eq!(asker.program.ask_badly(sum), "no_handler");
    let nobody = request("aaaa", json!(1));
    assert_eq!(asker.program.ask_badly(nobody), "gone");
    assert_eq!(
        asker.program.ask_badly(request("", json!(1))),
        "bad_request"
    );
}

#[test]
fn a_request_that_is_over_is_cancelled_on_the_other_side() {
    let (mut asker, mut handler) = pair();
    let mut short = request(&handler.id, json!(1));
    short["timeout_ms"] = 4_000.into();
    write(&mut asker.program, "short", short);
    let number = handler.program.event("request")["request"].clone();
    assert_eq!(kind_of(&asker.program.reply("short")), "timeout");
    let cancelled = handler.program.event("request_cancelled");
    assert_eq!(
        cancelled,
        json!({"event": "request_cancelled", "request": number})
    );
    let late = json!({"cmd": "reply", "request": number, "data": 1});
    assert_eq!(handler.program.ask_badly(late), "gone");
    // The other side goes in the middle, without a word.
    write(&mut asker.program, "gone", request(&handler.id, json!(2)));
    handler.program.event("request");
    handler.program.signal("KILL");
    assert_eq!(handler.program.code(), None);
    assert_eq!(kind_of(&asker.program.reply("gone")), "gone");
}

#[test]
fn an_asker_that_goes_cancels_what_it_asked() {
    let (mut asker, mut handler) = pair();
    write(&mut asker.program, "x", request(&handler.id, json!(1)));
    let number = handler.program.event("request")["request"].clone();
    asker.program.signal("KILL");
    assert_eq!(asker.program.code(), None);
    let cancelled = handler.program.event("request_cancelled");
    assert_eq!(cancelled["request"], number);
}

#[test]
fn a_program_with_the_library_and_one_without_ask_each_other() {
    let mut program = Started::new(&["--listen", "127.0.0.1:0"]);
    let node = Node::builder().start().expect("a node starts");
    node.on_request("kind", |request| match request.as_text() {
        Some(text) => Ok(Body::text(text)),
        None => Ok(Body::bytes(request.as_bytes())),
    });
    node.on_request("panic", |_| panic!("on purpose"));
    node.on_request_typed("double", |_, number: i64| Ok(number * 2));
    let peer = node.connect(&program.addr).wait().expect("it listens");
    program.program.event("peer_connected");
    let ask = |kind: &str, data: Value| json!({"cmd": "request", "peer": node.id().to_string(), "type": kind, "data": data});
    let answer = program.program.ask_well(ask("double", json!(21)));
    assert_eq!(answer["data"], 42);
    let answer = program.program.ask_well(ask("kind", json!([1])));
    assert_eq!(answer["base64"], "WzFd");
    let failed = program.program.ask_badly(ask("panic", json!(1)));
    assert_eq!(failed, "handler_failed");
    let refused = program.program.ask_badly(ask("double", json!("x")));
    assert_eq!(refused, "refused");
    let handle = json!({"cmd": "handle", "type": "t"});
    program.program.ask_well(handle.clone());
    program.program.ask_well(handle);
    let minute = Duration::from_secs(60);
    let asked = node.request_with(&peer, "t", &Body::text("hello"), minute);
    let event = program.program.event("request");
    assert_eq!(event["data"], "hello");
    let reply = json!({"cmd": "reply", "request": event["request"], "data": "well"});
    program.program.ask_well(reply);
    let answer = asked.wait().expect("it is answered");
    assert_eq!(answer.parse::<String>(), Ok("well".to_owned()));
    let bytes = node.request_with(&peer, "t", &Body::bytes([0]), minute);
    assert_eq!(bytes.wait().unwrap_err().kind(), "refused");
    let given_up = node.request(&peer, "t", &1, minute);
    let event = program.program.event("request");
    drop(given_up);
    let cancelled = program.program.event("request_cancelled");
    assert_eq!(cancelled["request"], event["request"]);
    program.shut_down();
    let gone = node.request(&peer, "t", &1, minute).wait();
    assert!(matches!(gone, Err(RequestError::Gone(_))), "{gone:?}");
}

#[test]
fn a_person_asks_and_answers_on_the_console() {
    let start = |name: &str| {
        let listen = ["--listen", "127.0.0.1:0", "--ephemeral", "--name", name];
        Program::start(&[&["node"][..], &listen].concat())
    };
    let (mut anna, mut bert) = (start("anna"), start("bert"));
    let line = bert.line_with("listening on ");
    let addr = line
        .rsplit(' ')
        .next()
        .expect("a line has words")
        .to_owned();
    let id = {
        bert.write("/id");
        let whole = |line: &String| line.len() == 52 && !line.contains(' ');
        std::iter::from_fn(|| bert.line()).find(whole)
    };
    let id = id.expect("it tells its id");
    anna.write(format!("/connect {addr}"));
    anna.line_with("connected to");
    bert.line_with("connected from");
    bert.write("/handle sum");
    bert.line_with("requests of type sum");
    anna.write(format!("/request {} sum [1,2]", &id[..10]));
    let asked = bert.line_with("request 1 ");
    assert!(
        asked.contains("anna") && asked.ends_with("[sum] [1,2]"),
        "{asked}"
    );
    bert.write("/reply 1 3");
    let answer = anna.line_with("[sum]");
    assert!(
        answer.contains("bert") && answer.ends_with(" 3"),
        "{answer}"
    );
    anna.write(format!("/request {} sum", &id[..10]));
    bert.line_with("request 2 ");
    bert.write("/refuse 2 not today");
    anna.error_with("[sum] the peer refused: not today");
    anna.write("/request aaaa sum");
    anna.error_with("no connected peer");
    anna.write(format!("/request {} sum {{", &id[..10]));
    anna.error_with("no JSON");
    bert.write("/reply 2");
    bert.error_with("no such request");
    for program in [&mut anna, &mut bert] {
        program.write("/quit");
        assert_eq!(program.code(), Some(0));
    }
}

#[test]
fn a_message_to_a_list_says_whom_it_did_not_reach() {
    let (mut sender, mut first) = pair();
    let mut second = Started::new(&["--listen", "127.0.0.1:0"]);
    sender.connect(&mut second);
    let (begin, whole) = (first.id[..12].to_owned(), second.id.clone());
    let list = [&begin[..], &whole, "aaaaaaaaaaaa"];
    for (command, event) in [
        (json!({"cmd": "send", "type": "t", "data": 7}), "message"),
        (json!({"cmd": "send_text", "text": "x"}), "text"),
        (json!({"cmd": "send_bytes", "base64": "AP8="}), "bytes"),
    ] {
        let mut command = command;
        command["peers"] = json!(list);
        let answer = sender.program.ask_well(command.clone());
        assert_eq!((&answer["sent"], &answer["failed"]), (&json!(2), &json!(1)));
        let errors = answer["errors"].as_array().expect("a list");
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0]["peer"], list[2]);
        assert_eq!(kind_of(&errors[0]), "gone");
        for receiver in [&mut first, &mut second] {
            let event = receiver.program.event(event);
            assert_eq!(event["peer"], sender.id.as_str());
        }
        command["peers"] = json!([]);
        let answer = sender.program.ask_well(command);
        assert_eq!(answer["sent"], 0);
    }
}

#[test]
fn the_example_runs() {
    request_response::main().expect("it ends well");
}

/// Answers of a megabyte to a peer that reads slowly wait for room instead of being too much.
#[test]
fn many_large_answers_wait_for_each_other() {
    let (mut asker, mut handler) = pair();
    let count = 12;
    for number in 0..count {
        let command = request(&handler.id, json!(number));
        write(&mut asker.program, &format!("large {number}"), command);
    }
    let text = "x".repeat(1_000_000);
    for _ in 0..count {
        let event = handler.program.event("request");
        let id = format!("to {}", event["data"]);
        let reply = json!({"cmd": "reply", "request": event["request"], "data": text});
        write(&mut handler.program, &id, reply);
    }
    for number in 0..count {
        let replied = handler.program.reply(format!("to {number}"));
        assert_eq!(replied["ok"], true, "{replied}");
        let answer = asker.program.reply(format!("large {number}"));
        assert_eq!(answer["data"].as_str().map(str::len), Some(text.len()));
    }
}
