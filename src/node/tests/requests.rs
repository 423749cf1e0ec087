//! Requests, with the peer played by the test.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll, Waker};

use mischief_actors::connection::{
    ChannelMessage, Class, LINK_QUEUE_HIGH, LargeMessage, TYPE_NAME_MAX,
};
use mischief_actors::messages::{
    CHANNEL, FailureCode, OPEN_PER_PEER_MAX, RequestId, RequestMessage,
};
use serde_json::json;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Has a message about requests come in; what it counts against the window.
fn say(fixture: &Fixture, link: &Arc<Link>, message: &RequestMessage<'_>) -> usize {
    say_to(&fixture.hub, link, message)
}

fn say_to(hub: &Hub, link: &Arc<Link>, message: &RequestMessage<'_>) -> usize {
    let mut body = Vec::new();
    message.encode(&mut body);
    say_bytes(hub, link, &body)
}

fn say_bytes(hub: &Hub, link: &Arc<Link>, body: &[u8]) -> usize {
    let credit = body.len() + 5;
    hub.channel(
        link,
        ChannelMessage {
            class: Class::Application,
            channel: CHANNEL,
            body,
            credit: credit as u32,
        },
    );
    credit
}

fn request<'a>(id: u32, name: &'a str, body: &'a str) -> RequestMessage<'a> {
    RequestMessage::Request {
        id: RequestId(id),
        timeout_ms: 60_000,
        kind: Kind::Json,
        name,
        body: body.as_bytes(),
    }
}

/// What waits for the peer, in words.
fn said(link: &Link) -> Vec<String> {
    let records = take(link);
    let mut rest = records.as_bytes();
    let mut said = Vec::new();
    while let Some((&[0x13, high, low], after)) = rest.split_first_chunk() {
        let (body, after) = after.split_at(usize::from(u16::from_be_bytes([high, low])));
        assert_eq!(body[..2], [1, CHANNEL]);
        said.push(match RequestMessage::decode(&body[2..]).unwrap() {
            RequestMessage::Request { id, name, body, .. } => {
                format!("{} {name} {}", id.0, String::from_utf8_lossy(body))
            }
            RequestMessage::Reply { id, body, .. } => {
                format!("{} is {}", id.0, String::from_utf8_lossy(body))
            }
            RequestMessage::Failure { id, code, reason } => {
                format!("{} {code:?} {reason}", id.0)
            }
            RequestMessage::Cancel { id } => format!("{} cancelled", id.0),
        });
        rest = after;
    }
    assert!(rest.is_empty());
    said
}

#[test]
fn a_handler_answers_now_with_a_value_a_text_bytes_or_a_refusal() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    let node = &fixture.node;
    node.on_request("sum", |request| {
        let numbers: Vec<i64> = request.parse()?;
        Ok(Body::json(&numbers.iter().sum::<i64>())?)
    });
    node.on_request("who", |request| {
        Ok(Body::text(request.peer().short().to_string()))
    });
    node.on_request("echo", |request| Ok(Body::bytes(request.as_bytes())));
    node.on_request(
        "no",
        |request| Err(format!("not {}", request.name()).into()),
    );
    node.on_request_typed("double", |_, number: u32| Ok(number * 2));
    let cases = [
        ("sum", "[1,2,3]", "0 is 6".to_owned()),
        ("who", "null", format!("1 is {}", peer(1).short())),
        ("echo", "[4]", "2 is [4]".to_owned()),
        ("no", "1", "3 Refused not no".to_owned()),
        ("double", "21", "4 is 42".to_owned()),
        ("other", "1", "5 NoHandler ".to_owned()),
    ];
    let mut credit = 0;
    for (id, (name, body, want)) in cases.iter().enumerate() {
        credit += say(&fixture, &link, &request(id as u32, name, body));
        assert_eq!(node.pump(Duration::ZERO), 1);
        fixture.expect_credit(&link, std::mem::take(&mut credit));
        assert_eq!(said(&link), [want.as_str()]);
    }
    for (name, body) in [("sum", "{}"), ("double", "-1"), ("double", "nonsense")] {
        say(&fixture, &link, &request(9, name, body));
        node.pump(Duration::ZERO);
        let refused = said(&link);
        assert!(refused[0].starts_with("9 Refused "), "{refused:?}");
    }
    let deep = "[".repeat(JSON_DEPTH_MAX + 1) + &"]".repeat(JSON_DEPTH_MAX + 1);
    node.on_request("value", |request| Ok(Body::json(&request.to_json()?)?));
    say(&fixture, &link, &request(9, "value", &deep));
    node.pump(Duration::ZERO);
    assert!(said(&link)[0].contains("nested more than 126 deep"));
    let deep = "[".repeat(JSON_DEPTH_MAX) + &"]".repeat(JSON_DEPTH_MAX);
    say(&fixture, &link, &request(9, "value", &deep));
    node.pump(Duration::ZERO);
    assert_eq!(said(&link), [format!("9 is {deep}")]);
    assert_eq!(fixture.hub.desk.open(), (0, 0));
}

#[test]
fn without_any_handler_no_thread_starts_to_say_so() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    say(&fixture, &link, &request(7, "sum", "1"));
    assert_eq!(said(&link), ["7 NoHandler "]);
    assert_eq!(fixture.node.stats().unhandled, 1);
    assert_eq!(fixture.hub.desk.open(), (0, 0));
}

#[test]
fn the_handler_that_was_added_last_answers_until_it_is_removed() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    let ask = || {
        say(&fixture, &link, &request(1, "who", "1"));
        fixture.node.pump(Duration::ZERO);
        said(&link).remove(0)
    };
    fixture
        .node
        .on_request_typed("who", |_, _: Value| Ok("first"));
    let second = fixture
        .node
        .on_request_typed("who", |_, _: Value| Ok("second"));
    assert_eq!(ask(), "1 is \"second\"");
    second.off();
    assert_eq!(ask(), "1 is \"first\"");
    assert_eq!(fixture.node.off_request("who"), 1);
    assert_eq!(ask(), "1 NoHandler ");
    assert_eq!(fixture.node.off_request("who"), 0);
}

#[test]
fn an_answer_may_come_later_from_another_thread() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let (sender, responders) = mpsc::channel();
    let sender = Mutex::new(sender);
    fixture.node.on_request_later("slow", move |_, responder| {
        sender.lock().unwrap().send(responder).unwrap();
    });
    for id in [1, 2, 3] {
        say(&fixture, &link, &request(id, "slow", "1"));
    }
    let next = || responders.recv_timeout(SOON).unwrap();
    let (first, second, third) = (next(), next(), next());
    assert!(first.is_wanted() && second.is_wanted());
    let answering = std::thread::spawn(move || second.reply_json(&json!({"a": 1})));
    answering.join().unwrap().unwrap();
    first.refuse("not today");
    drop(third);
    assert_eq!(
        said(&link),
        [
            "2 is {\"a\":1}",
            "1 Refused not today",
            "3 Refused the handler gave no answer",
        ]
    );
}

#[test]
fn a_handler_that_panics_fails_its_request_and_not_the_node() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    fixture.node.on_request("bad", |_| panic!("on purpose"));
    fixture
        .node
        .on_request_later("worse", |_, _responder| panic!("on purpose"));
    fixture.node.on_request("good", |_| Ok(Body::text("fine")));
    for (id, name) in ["bad", "worse", "good"].into_iter().enumerate() {
        say(&fixture, &link, &request(id as u32, name, "1"));
    }
    assert_eq!(fixture.node.pump(Duration::ZERO), 3);
    assert_eq!(
        said(&link),
        ["0 HandlerFailed ", "1 HandlerFailed ", "2 is fine"]
    );
    assert_eq!(fixture.node.stats().panics, 2);
    assert_eq!(fixture.hub.desk.open(), (0, 0));
}

#[test]
fn requests_and_messages_of_one_peer_are_handled_in_their_order() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    let (seen, log) = mpsc::channel();
    let (seen, also) = (Mutex::new(seen.clone()), Mutex::new(seen));
    fixture.node.on_request("ask", move |request| {
        let number: u32 = request.parse()?;
        seen.lock().unwrap().send(number).unwrap();
        Ok(Body::text(""))
    });
    fixture.node.on_typed("tell", move |_, number: u32| {
        also.lock().unwrap().send(number).unwrap();
    });
    for number in 0..20 {
        let body = number.to_string();
        if number % 3 == 0 {
            say(&fixture, &link, &request(number, "ask", &body));
        } else {
            fixture.receive(&link, &[(Kind::Json, "tell", body.as_bytes())]);
        }
    }
    fixture.node.pump(Duration::ZERO);
    assert_eq!(
        log.try_iter().collect::<Vec<_>>(),
        (0..20).collect::<Vec<_>>()
    );
}

#[test]
fn a_cancelled_request_is_not_begun_and_its_answer_is_not_sent() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    let (sender, responders) = mpsc::channel();
    let sender = Mutex::new(sender);
    fixture.node.on_request_later("slow", move |_, responder| {
        sender.lock().unwrap().send(responder).unwrap();
    });
    let cancel = |id| {
        say(
            &fixture,
            &link,
            &RequestMessage::Cancel { id: RequestId(id) },
        )
    };
    // Before the handler was called.
    say(&fixture, &link, &request(1, "slow", "1"));
    cancel(1);
    assert_eq!(fixture.node.pump(Duration::ZERO), 1);
    assert!(responders.try_recv().is_err());
    // While it is at work.
    say(&fixture, &link, &request(2, "slow", "1"));
    fixture.node.pump(Duration::ZERO);
    let responder = responders.try_recv().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    responder.on_cancel(move || {
        count.fetch_add(1, Ordering::Relaxed);
        panic!("on purpose");
    });
    cancel(2);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert!(!responder.is_wanted());
    let late = calls.clone();
    responder.on_cancel(move || {
        late.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    responder.reply(&Body::text("late")).unwrap();
    assert!(said(&link).is_empty());
}

#[test]
fn a_peer_that_goes_cancels_what_it_asked_and_ends_what_it_was_asked() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    let other = fixture.connect(2);
    let (sender, responders) = mpsc::channel();
    let sender = Mutex::new(sender);
    fixture.node.on_request_later("slow", move |_, responder| {
        sender.lock().unwrap().send(responder).unwrap();
    });
    say(&fixture, &link, &request(1, "slow", "1"));
    fixture.node.pump(Duration::ZERO);
    let responder = responders.try_recv().unwrap();
    let asked = fixture.node.request(link.peer(), "x", &1, MINUTE);
    let mut kept = fixture.node.request(other.peer(), "x", &1, MINUTE);
    fixture.disconnect(&link);
    assert!(!responder.is_wanted());
    assert!(matches!(asked.wait(), Err(RequestError::Gone(_))));
    assert!(kept.try_take().is_none());
    let none = fixture.node.request(link.peer(), "x", &1, MINUTE);
    assert_eq!(none.wait().unwrap_err().kind(), "gone");
    // What its connection still delivers opens nothing.
    say(&fixture, &link, &request(2, "slow", "1"));
    assert_eq!(fixture.hub.desk.open(), (1, 0));
    fixture.node.stop(SOON);
    assert!(matches!(kept.wait(), Err(RequestError::Gone(_))));
    assert_eq!(fixture.hub.desk.open(), (0, 0));
}

#[test]
fn a_reply_reaches_whoever_waits_and_only_one() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let ask = |body: &Body| fixture.node.request_with(link.peer(), "x", body, MINUTE);
    let (a, b) = (ask(&Body::text("a")), ask(&Body::bytes([66])));
    assert_eq!(said(&link), ["0 x a", "1 x B"]);
    let reply = |id, kind, body: &'static [u8]| RequestMessage::Reply {
        id: RequestId(id),
        kind,
        body,
    };
    // Never asked, then the second one, and once more.
    for id in [7, 1, 1] {
        say(&fixture, &link, &reply(id, Kind::Text, b"yes"));
    }
    let answer = b.wait().unwrap();
    assert_eq!((answer.as_text(), answer.kind()), (Some("yes"), Kind::Text));
    assert!(answer.parse::<Value>().is_err());
    say(&fixture, &link, &reply(0, Kind::Json, b"[1, null]"));
    let answer = a.wait_for(SOON).unwrap();
    assert_eq!(answer.to_json(), Ok(json!([1, null])));
    assert_eq!(
        (answer.as_text(), answer.as_bytes()),
        (None, &b"[1, null]"[..])
    );
    // An answer that has come is not called off.
    assert!(said(&link).is_empty());
    assert_eq!(fixture.hub.desk.stats().stray, 2);
}

#[test]
fn a_request_that_is_dropped_is_called_off() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    drop(fixture.node.request(link.peer(), "x", &1, MINUTE));
    assert_eq!(said(&link), ["0 x 1", "0 cancelled"]);
    let asked = fixture.node.request(link.peer(), "x", &1, MINUTE);
    let waited = asked.wait_for(NOT_YET);
    assert_eq!(waited.unwrap_err(), RequestError::TimedOut);
    assert_eq!(said(&link), ["1 x 1", "1 cancelled"]);
    let reply = RequestMessage::Reply {
        id: RequestId(1),
        kind: Kind::Json,
        body: b"1",
    };
    say(&fixture, &link, &reply);
    assert_eq!(fixture.hub.desk.open(), (0, 0));
}

#[test]
fn each_failure_of_the_other_side_has_its_own_error() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let cases = [
        (FailureCode::NoHandler, "no_handler"),
        (FailureCode::Refused, "refused"),
        (FailureCode::HandlerFailed, "handler_failed"),
        (FailureCode::Busy, "busy"),
        (FailureCode::TooLarge, "too_large"),
        (FailureCode::Other(200), "refused"),
    ];
    for (id, (code, kind)) in cases.into_iter().enumerate() {
        let asked = fixture.node.request(link.peer(), "x", &1, MINUTE);
        let (id, reason) = (RequestId(id as u32), "because");
        say(
            &fixture,
            &link,
            &RequestMessage::Failure { id, code, reason },
        );
        let error = asked.wait().unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(error.to_string().contains(reason), kind == "refused");
    }
}

#[test]
fn what_cannot_be_asked_is_refused_here() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let ask = |name: &str, body: &Body| {
        let asked = fixture.node.request_with(link.peer(), name, body, MINUTE);
        asked.wait().unwrap_err()
    };
    let long = "n".repeat(TYPE_NAME_MAX + 1);
    assert_eq!(ask("", &Body::text("")).kind(), "bad_request");
    assert_eq!(ask(&long, &Body::text("")).kind(), "bad_request");
    let large = Body::bytes(vec![0; (1 << 20) + 1]);
    let (size, max) = ((1 << 20) + 1, 1 << 20);
    assert_eq!(ask("x", &large), RequestError::TooLarge { size, max });
    let nested = |depth: usize| (1..depth).fold(json!([]), |inner, _| json!([inner]));
    assert!(Body::json(&nested(JSON_DEPTH_MAX)).is_ok());
    assert!(Body::json(&nested(JSON_DEPTH_MAX + 1)).is_err());
    let deep = nested(JSON_DEPTH_MAX + 1);
    let asked = fixture.node.request(link.peer(), "x", &deep, MINUTE);
    assert_eq!(asked.wait().unwrap_err().kind(), "bad_request");
    let sent = fixture.node.send(link.peer(), "x", &deep);
    assert_eq!(sent.wait().unwrap_err().kind(), "bad_request");
    let brackets = "[{\\\"".repeat(200);
    assert!(Body::json(&brackets).is_ok(), "a text is not nested");
    assert!(said(&link).is_empty());
    assert_eq!(fixture.hub.desk.open(), (0, 0));
    // The longest name and the largest body at once.
    let largest = Body::bytes(vec![0; 1 << 20]);
    let asked = fixture
        .node
        .request_with(link.peer(), &long[1..], &largest, MINUTE);
    assert_eq!(fixture.hub.desk.open(), (1, 0));
    drop(asked);
}

#[test]
fn a_full_queue_and_too_many_requests_are_told_apart_from_a_peer_that_is_gone() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let ask = || fixture.node.request(link.peer(), "x", &1, MINUTE);
    let mut open: Vec<Requested> = (0..OPEN_PER_PEER_MAX).map(|_| ask()).collect();
    assert_eq!(ask().wait().unwrap_err(), RequestError::Full);
    drop(open.pop());
    let again = ask();
    drop((open, again));
    let outgoing = fixture.node.outgoing(link.peer()).unwrap();
    while outgoing.send_bytes(&[0; 10_000]).is_ok() {}
    assert_eq!(ask().wait().unwrap_err().kind(), "full");
    assert_eq!(fixture.hub.desk.open(), (0, 0));
}

#[test]
fn a_flood_is_answered_as_busy_while_the_peer_reads_and_then_not_at_all() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    fixture.node.on_request_later("slow", |_, responder| {
        std::mem::forget(responder);
    });
    for id in 0..OPEN_PER_PEER_MAX + 3 {
        say(&fixture, &link, &request(id, "slow", "1"));
        fixture.node.pump(Duration::ZERO);
    }
    assert_eq!(said(&link), ["256 Busy ", "257 Busy ", "258 Busy "]);
    for id in OPEN_PER_PEER_MAX..200_000 {
        say(&fixture, &link, &request(id, "slow", "1"));
    }
    let waiting = fixture.node.outgoing(link.peer()).unwrap().queued();
    assert!(waiting < LINK_QUEUE_HIGH + 100, "{waiting}");
    assert_eq!(fixture.hub.desk.open(), (0, OPEN_PER_PEER_MAX as usize));
    // A number that is open already, and nonsense.
    say(&fixture, &link, &request(1, "slow", "1"));
    for bytes in [&b""[..], &[9; 5], &[0; 20], &[1, 0, 0, 0, 0, 7]] {
        say_bytes(&fixture.hub, &link, bytes);
    }
    assert_eq!(fixture.hub.desk.stats().repeated, 1);
    assert_eq!(fixture.node.pump(Duration::ZERO), 0);
}

#[test]
fn an_answer_that_cannot_be_sent_becomes_a_failure() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    let (sender, responders) = mpsc::channel();
    let sender = Mutex::new(sender);
    fixture.node.on_request_later("slow", move |_, responder| {
        sender.lock().unwrap().send(responder).unwrap();
    });
    for id in 0..6 {
        say(&fixture, &link, &request(id, "slow", "1"));
    }
    fixture.node.pump(Duration::ZERO);
    let next = || responders.try_recv().unwrap();
    let large = Body::bytes(vec![0; (1 << 20) + 1]);
    assert_eq!(next().reply(&large).unwrap_err().kind(), "too_large");
    assert_eq!(said(&link), ["0 TooLarge "]);
    // Messages fill the queue up to its mark; an answer goes before what is not asked yet, within bounds.
    let outgoing = fixture.node.outgoing(link.peer()).unwrap();
    while outgoing.send_bytes(&[0; 10_000]).is_ok() {}
    for _ in 0..4 {
        next().reply(&Body::bytes(vec![0; 1 << 20])).unwrap();
    }
    assert_eq!(next().reply(&Body::text("x")).unwrap_err().kind(), "full");
    // Whoever waits for room before is not refused.
    say(&fixture, &link, &request(9, "slow", "1"));
    fixture.node.pump(Duration::ZERO);
    let (body, mut task) = (Body::text("x"), TaskContext::from_waker(Waker::noop()));
    let mut patient = pin!(next().reply_when_room(&body));
    assert!(patient.as_mut().poll(&mut task).is_pending());
    let failures = take(&link);
    let end = failures.as_bytes().split_last_chunk::<6>().unwrap().1;
    assert_eq!(*end, [2, 0, 0, 0, 5, FailureCode::Busy.number()]);
    assert_eq!(patient.as_mut().poll(&mut task), Poll::Ready(Ok(())));
    assert_eq!(said(&link), ["9 is x"]);
    // Whoever waits for room in vain learns that nobody waits for the answer.
    say(&fixture, &link, &request(9, "slow", "1"));
    fixture.node.pump(Duration::ZERO);
    while outgoing.send_bytes(&[0; 10_000]).is_ok() {}
    let mut patient = pin!(next().reply_when_room(&body));
    assert!(patient.as_mut().poll(&mut task).is_pending());
    say(
        &fixture,
        &link,
        &RequestMessage::Cancel { id: RequestId(9) },
    );
    assert_eq!(patient.as_mut().poll(&mut task), Poll::Ready(Ok(())));
    take(&link);
    // What never fits is told at once, and what is dropped refuses.
    for id in [10, 11] {
        say(&fixture, &link, &request(id, "slow", "1"));
        fixture.node.pump(Duration::ZERO);
        let mut patient = pin!(next().reply_when_room(&large));
        if id == 10 {
            let sent = patient.as_mut().poll(&mut task);
            assert!(matches!(sent, Poll::Ready(Err(SendError::TooLarge { .. }))));
        }
    }
    assert_eq!(
        said(&link),
        ["10 TooLarge ", "11 Refused the handler gave no answer"]
    );
}

#[test]
fn typed_messages_are_read_and_others_of_the_type_are_passed_over() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    let (seen, log) = mpsc::channel();
    let (a, b, c) = (
        Mutex::new(seen.clone()),
        Mutex::new(seen.clone()),
        Mutex::new(seen),
    );
    let node = &fixture.node;
    node.on_typed("n", move |_, number: u8| {
        a.lock().unwrap().send(format!("typed {number}")).unwrap();
    });
    node.once_typed("n", move |_, text: String| {
        b.lock().unwrap().send(format!("once {text}")).unwrap();
    });
    let receive = |body: &str| {
        fixture.receive(&link, &[(Kind::Json, "n", body.as_bytes())]);
        node.pump(Duration::ZERO);
        log.try_iter().collect::<Vec<_>>()
    };
    assert_eq!(receive("7"), ["typed 7"]);
    assert!(receive("256").is_empty() && receive("nonsense").is_empty());
    assert_eq!(receive("\"a\""), ["once a"]);
    assert!(receive("\"b\"").is_empty());
    let stats = node.stats();
    assert_eq!((stats.handled, stats.malformed), (2, 3));
    node.on("n", move |_, value| {
        c.lock().unwrap().send(format!("value {value}")).unwrap();
    });
    assert_eq!(receive("8"), ["typed 8", "value 8"]);
    assert_eq!(receive("256"), ["value 256"]);
    assert_eq!(node.off("n"), 2);
}

#[test]
fn values_are_nested_as_deep_as_a_line_of_the_machine_interface_may_be() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    let count = Arc::new(AtomicUsize::new(0));
    let (values, typed) = (count.clone(), count.clone());
    fixture.node.on("t", move |_, value| {
        let line = json!({"event": "message", "data": value}).to_string();
        assert!(serde_json::from_str::<Value>(&line).is_ok());
        values.fetch_add(1, Ordering::Relaxed);
    });
    fixture.node.on_typed("t", move |_, _: Value| {
        typed.fetch_add(100, Ordering::Relaxed);
    });
    for (depth, want) in [(JSON_DEPTH_MAX, 101), (JSON_DEPTH_MAX + 1, 101)] {
        let nested = "[".repeat(depth) + &"]".repeat(depth);
        fixture.receive(&link, &[(Kind::Json, "t", nested.as_bytes())]);
        fixture.node.pump(Duration::ZERO);
        assert_eq!(count.load(Ordering::Relaxed), want);
    }
    // Closed without having been opened, and texts with brackets in them.
    for body in ["]".repeat(500), format!("\"{}\\\\\"", "[{\\\"".repeat(200))] {
        fixture.receive(&link, &[(Kind::Json, "t", body.as_bytes())]);
    }
    fixture.node.pump(Duration::ZERO);
    let stats = fixture.node.stats();
    assert_eq!((stats.handled, stats.malformed), (2, 2));
    assert_eq!(stats.panics, 0);
}

#[test]
fn a_value_that_would_take_the_nodes_memory_is_not_built() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    fixture.node.on("t", |_, _| panic!("it is not called"));
    fixture
        .node
        .on_request("t", |request| Ok(Body::json(&request.to_json()?)?));
    // A megabyte that would become a hundred of them.
    let objects = format!("[{}0]", "{\"\":0},".repeat(130_000));
    let message = LargeMessage::new(Kind::Json, "t", objects.as_bytes(), 0);
    fixture.hub.large(&link, message);
    say(&fixture, &link, &request(1, "t", &objects));
    let asked = fixture.node.request(link.peer(), "x", &1, MINUTE);
    let reply = RequestMessage::Reply {
        id: RequestId(0),
        kind: Kind::Json,
        body: objects.as_bytes(),
    };
    say(&fixture, &link, &reply);
    fixture.node.pump(Duration::ZERO);
    let stats = fixture.node.stats();
    assert_eq!((stats.malformed, stats.panics), (1, 0));
    assert!(said(&link)[1].starts_with("1 Refused the value would take"));
    let answer = asked.wait().unwrap();
    assert!(answer.to_json().is_err());
    // Whoever asks for a type of its own knows what it takes.
    assert!(answer.parse::<Vec<serde::de::IgnoredAny>>().is_ok());
}

#[test]
fn texts_and_bytes_can_be_awaited_once() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    let count = Arc::new(AtomicUsize::new(0));
    let (texts, bytes) = (count.clone(), count.clone());
    fixture.node.once_text(move |_, _| {
        texts.fetch_add(1, Ordering::Relaxed);
    });
    fixture.node.once_bytes(move |_, _| {
        bytes.fetch_add(100, Ordering::Relaxed);
    });
    for _ in 0..3 {
        fixture.receive(&link, &[(Kind::Text, "", b"t"), (Kind::Bytes, "", b"b")]);
    }
    fixture.node.pump(Duration::ZERO);
    assert_eq!(count.load(Ordering::Relaxed), 101);
}

#[test]
fn texts_and_bytes_of_a_type_find_its_handlers_and_those_of_all() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    let (seen, log) = mpsc::channel();
    let note = |what: &'static str| {
        let seen = Mutex::new(seen.clone());
        move |body: String| seen.lock().unwrap().send(format!("{what} {body}")).unwrap()
    };
    let node = &fixture.node;
    let (a, b, c) = (note("text a"), note("once a"), note("text"));
    node.on_text_as("a", move |_, text| a(text.to_owned()));
    node.once_text_as("a", move |_, text| b(text.to_owned()));
    node.on_text(move |_, text| c(text.to_owned()));
    let (a, b) = (note("bytes a"), note("once a"));
    node.on_bytes_as("a", move |_, bytes| a(format!("{bytes:?}")));
    node.once_bytes_as("a", move |_, bytes| b(format!("{bytes:?}")));
    let receive = |kind, name: &str, body: &[u8]| {
        fixture.receive(&link, &[(kind, name, body)]);
        node.pump(Duration::ZERO);
        log.try_iter().collect::<Vec<_>>()
    };
    let want = ["text a x", "once a x", "text x"];
    assert_eq!(receive(Kind::Text, "a", b"x"), want);
    assert_eq!(receive(Kind::Text, "a", b"x"), ["text a x", "text x"]);
    assert_eq!(receive(Kind::Text, "b", b"x"), ["text x"]);
    assert_eq!(receive(Kind::Text, "", b"x"), ["text x"]);
    let want = ["bytes a [1]", "once a [1]"];
    assert_eq!(receive(Kind::Bytes, "a", &[1]), want);
    assert_eq!(receive(Kind::Bytes, "a", &[1]), ["bytes a [1]"]);
    assert!(receive(Kind::Bytes, "b", &[1]).is_empty());
    assert!(receive(Kind::Bytes, "", &[1]).is_empty());
    assert_eq!(node.stats().unhandled, 2);
    assert_eq!(node.off("a"), 2);
    assert_eq!(receive(Kind::Text, "a", b"x"), ["text x"]);
    drop(node.send_text_as(link.peer(), "a", "t"));
    drop(node.send_bytes_as(link.peer(), "b", &[7]));
    let sent = take(&link);
    let sent: Vec<_> = Records::new(sent.as_bytes())
        .map(|message| (message.kind, message.name.to_owned()))
        .collect();
    assert_eq!(sent, [(Kind::Text, "a".into()), (Kind::Bytes, "b".into())]);
}

#[test]
fn a_message_to_a_list_tells_its_fate_for_each_peer() {
    let fixture = Fixture::new(Callbacks::Thread);
    let node = &fixture.node;
    let links: Vec<_> = (1..=4).map(|number| fixture.connect(number)).collect();
    let outgoing = node.outgoing(links[2].peer()).unwrap();
    while outgoing.send_bytes(&[0; 10_000]).is_ok() {}
    let list = [4, 9, 3, 1].map(peer);
    let sent = node.send_to(&list, "t", &json!(1));
    take(&links[0]);
    links[0].mark_sent(0);
    links[3].close(Arc::from("it went"));
    let each = sent.each().wait().unwrap();
    let kinds: Vec<_> = each
        .iter()
        .map(|(peer, result)| (*peer, result.as_ref().copied().map_err(SendError::kind)))
        .collect();
    let want = [Err("gone"), Err("gone"), Err("full"), Ok(())];
    assert_eq!(kinds, list.into_iter().zip(want).collect::<Vec<_>>());
    assert!(take(&links[1]).is_empty());
    // One that waits counts as timed out.
    let sent = node.send_text_to(&list[3..], "x").each();
    let each = sent.wait_for(NOT_YET).unwrap();
    assert_eq!(each, [(peer(1), Err(SendError::TimedOut))]);
    let sent = node.send_bytes_to(&list[..2], b"x").wait();
    assert_eq!(sent, Ok(Delivered { sent: 0, failed: 2 }));
    let long = "n".repeat(TYPE_NAME_MAX + 1);
    let refused = node.send_to(&list, &long, &1).each().wait();
    assert!(matches!(refused, Err(SendError::Encode(_))));
}

#[test]
fn whoever_waits_for_an_answer_in_its_own_loop_goes_on_answering() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    fixture
        .node
        .on_request("echo", |request| Ok(Body::bytes(request.as_bytes())));
    let asked = fixture.node.request(link.peer(), "x", &1, MINUTE);
    assert_eq!(said(&link), ["0 x 1"]);
    let hub = &fixture.hub;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The peer answers only when its own request has been answered.
            say_to(hub, &link, &request(7, "echo", "[2]"));
            while said(&link).is_empty() {
                std::thread::yield_now();
            }
            let reply = RequestMessage::Reply {
                id: RequestId(0),
                kind: Kind::Json,
                body: b"3",
            };
            say_to(hub, &link, &reply);
        });
        assert_eq!(asked.wait().unwrap().parse::<u8>(), Ok(3));
    });
}

#[test]
fn what_is_dropped_with_a_request_may_use_the_node() {
    /// Asks when it is dropped, and answers.
    struct Asks(Node, PeerId, Option<Responder>);
    impl Drop for Asks {
        fn drop(&mut self) {
            drop(self.0.request(&self.1, "dropped", &1, MINUTE));
            drop(self.2.take());
        }
    }
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    let (sender, responders) = mpsc::channel();
    let sender = Mutex::new(sender);
    fixture.node.on_request_later("slow", move |_, responder| {
        sender.lock().unwrap().send(responder).unwrap();
    });
    for id in 0..4 {
        say(&fixture, &link, &request(id, "slow", "1"));
    }
    fixture.node.pump(Duration::ZERO);
    let next = || responders.try_recv().unwrap();
    let (node, peer) = (fixture.node.clone(), *link.peer());
    let (first, second) = (next(), next());
    for inner in [next(), next()] {
        let held = Asks(node.clone(), peer, Some(inner));
        first.on_cancel(move || drop(held));
    }
    // The earlier one went when the later one came, the later one goes now.
    first.refuse("no");
    let held = Asks(node.clone(), peer, None);
    second.on_cancel(move || drop(held));
    say(
        &fixture,
        &link,
        &RequestMessage::Cancel { id: RequestId(1) },
    );
    assert!(!second.is_wanted());
    let said = said(&link);
    let count = |what: &str| said.iter().filter(|said| said.contains(what)).count();
    assert_eq!((count("dropped 1"), count("cancelled")), (3, 3));
    assert_eq!(count("Refused"), 3);
    assert_eq!(fixture.hub.desk.open(), (0, 0));
}
