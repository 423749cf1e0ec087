use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use serde_json::json;

use super::*;

/// A node whose messages are handled when the test pumps.
fn pumped() -> Fixture {
    Fixture::new(Callbacks::Pump)
}

fn json_message(fixture: &Fixture, link: &Arc<Link>, name: &str, body: &str) {
    fixture.receive(link, &[(Kind::Json, name, body.as_bytes())]);
}

#[test]
fn each_kind_and_type_finds_its_handlers() {
    let fixture = pumped();
    let link = fixture.connect(1);
    let (seen, log) = mpsc::channel();
    let (a, b, c, d, e) = (seen.clone(), seen.clone(), seen.clone(), seen.clone(), seen);
    fixture.node.on("chat", move |peer, value| {
        a.send(format!("chat {} {value}", peer.short())).unwrap()
    });
    fixture.node.on("other", move |_, value| {
        b.send(format!("other {value}")).unwrap()
    });
    fixture
        .node
        .on_text(move |_, text| c.send(format!("text {text}")).unwrap());
    fixture
        .node
        .on_bytes(move |_, bytes| d.send(format!("bytes {bytes:?}")).unwrap());
    fixture.node.on_any(move |_, message| {
        e.send(match message {
            Message::Json { name, value } => format!("any {name} {value}"),
            Message::Text(text) => format!("any {text}"),
            Message::Bytes(bytes) => format!("any {bytes:?}"),
        })
        .unwrap()
    });
    fixture.receive(
        &link,
        &[
            (Kind::Json, "chat", br#"{"a":1}"#),
            (Kind::Json, "nobody", b"2"),
            (Kind::Json, "other", b"null"),
            (Kind::Text, "", "grüß".as_bytes()),
            (Kind::Bytes, "", &[0, 255]),
        ],
    );
    assert_eq!(fixture.node.pump(SOON), 5);
    let want = [
        &format!("chat {} {{\"a\":1}}", peer(1).short()),
        "any chat {\"a\":1}",
        "any nobody 2",
        "other null",
        "any other null",
        "text grüß",
        "any grüß",
        "bytes [0, 255]",
        "any [0, 255]",
    ];
    assert_eq!(log.try_iter().collect::<Vec<_>>(), want);
}

#[test]
fn handlers_of_one_type_are_called_in_the_order_in_which_they_were_added() {
    let fixture = pumped();
    let link = fixture.connect(1);
    let (seen, log) = mpsc::channel();
    for number in 0..20 {
        let seen = seen.clone();
        fixture.node.on("t", move |_, _| seen.send(number).unwrap());
    }
    json_message(&fixture, &link, "t", "0");
    fixture.node.pump(SOON);
    assert_eq!(
        log.try_iter().collect::<Vec<_>>(),
        (0..20).collect::<Vec<_>>()
    );
}

#[test]
fn a_registration_and_a_guard_remove_their_handler_and_no_other() {
    let fixture = pumped();
    let link = fixture.connect(1);
    let (seen, log) = mpsc::channel();
    let add = |number| {
        let seen = seen.clone();
        fixture.node.on("t", move |_, _| seen.send(number).unwrap())
    };
    let first = add(1);
    let second = add(2).guard();
    let third = add(3).guard();
    drop(add(4));
    let round = || {
        json_message(&fixture, &link, "t", "0");
        fixture.node.pump(Duration::ZERO);
        log.try_iter().collect::<Vec<i32>>()
    };
    assert_eq!(round(), [1, 2, 3, 4]);
    first.off();
    assert_eq!(round(), [2, 3, 4]);
    drop(second);
    assert_eq!(round(), [3, 4]);
    third.keep();
    assert_eq!(round(), [3, 4]);
    assert_eq!(fixture.node.off("t"), 2);
    assert_eq!(fixture.node.off("t"), 0);
    assert!(round().is_empty());
}

#[test]
fn once_is_called_once() {
    let fixture = pumped();
    let link = fixture.connect(1);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    fixture.node.once("t", move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let one: (Kind, &str, &[u8]) = (Kind::Json, "t", b"1");
    fixture.receive(&link, &[one, one, one]);
    fixture.node.pump(SOON);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(fixture.node.stats().unhandled, 2);
    assert_eq!(fixture.node.off("t"), 0, "it has removed itself");
}

#[test]
fn handlers_may_add_and_remove_handlers() {
    let fixture = pumped();
    let link = fixture.connect(1);
    let (seen, log) = mpsc::channel();
    let later = Arc::new(Mutex::new(None::<Registration>));
    let own = Arc::new(Mutex::new(None::<Registration>));
    let (node, to_seen) = (fixture.node.downgrade(), seen.clone());
    let (to_later, to_own) = (later.clone(), own.clone());
    let first = fixture.node.on("t", move |_, _| {
        to_seen.send("first").unwrap();
        // The next handler of the same message is not called any more, and this one not again.
        to_later.lock().unwrap().take().unwrap().off();
        to_own.lock().unwrap().take().unwrap().off();
        let added = to_seen.clone();
        node.upgrade()
            .unwrap()
            .on("t", move |_, _| added.send("added").unwrap());
    });
    *own.lock().unwrap() = Some(first);
    let to_seen = seen.clone();
    let second = fixture
        .node
        .on("t", move |_, _| to_seen.send("second").unwrap());
    *later.lock().unwrap() = Some(second);
    fixture
        .node
        .on("t", move |_, _| seen.send("third").unwrap());
    let one: (Kind, &str, &[u8]) = (Kind::Json, "t", b"1");
    fixture.receive(&link, &[one, one]);
    fixture.node.pump(SOON);
    // What was added is there from the next message on.
    assert_eq!(
        log.try_iter().collect::<Vec<_>>(),
        ["first", "third", "third", "added"]
    );
}

#[test]
fn a_removed_handler_may_call_the_node_as_it_is_dropped() {
    struct CallsOnDrop(WeakNode, mpsc::Sender<usize>);
    impl Drop for CallsOnDrop {
        fn drop(&mut self) {
            let node = self.0.upgrade().unwrap();
            self.1.send(node.off("other")).unwrap();
        }
    }
    let fixture = pumped();
    fixture.node.on("other", |_, _| {});
    let (dropped, log) = mpsc::channel();
    let held = CallsOnDrop(fixture.node.downgrade(), dropped);
    let registration = fixture.node.on("t", move |_, _| {
        let _ = &held;
    });
    registration.off();
    assert_eq!(log.recv_timeout(SOON), Ok(1));
}

#[test]
fn a_panic_is_counted_and_stops_nothing() {
    let fixture = pumped();
    let link = fixture.connect(1);
    let (seen, log) = mpsc::channel();
    fixture.node.on("t", |_, _| panic!("a bug in a handler"));
    fixture.node.on("t", |_, _| std::panic::panic_any(7));
    struct PanicsOnDrop;
    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("again");
        }
    }
    fixture
        .node
        .on("t", |_, _| std::panic::panic_any(PanicsOnDrop));
    fixture
        .node
        .on("t", move |_, value| seen.send(value.clone()).unwrap());
    let one: (Kind, &str, &[u8]) = (Kind::Json, "t", b"1");
    let size = fixture.receive(&link, &[one, one]);
    assert_eq!(fixture.node.pump(SOON), 2);
    assert_eq!(log.try_iter().collect::<Vec<_>>(), [json!(1), json!(1)]);
    assert_eq!(fixture.node.stats().panics, 6);
    fixture.expect_credit(&link, size);
}

#[test]
fn what_nobody_handles_is_counted_and_its_credit_given_back() {
    for callbacks in [Callbacks::Thread, Callbacks::Pump, Callbacks::Inline] {
        let fixture = Fixture::new(callbacks);
        let link = fixture.connect(1);
        let messages: [(Kind, &str, &[u8]); 3] = [
            (Kind::Json, "t", b"1"),
            (Kind::Text, "", b"a"),
            (Kind::Bytes, "", b"b"),
        ];
        let size = fixture.receive(&link, &messages);
        fixture.expect_credit(&link, size);
        assert_eq!(fixture.node.stats().unhandled, 3);
        let large = LargeMessage::new(Kind::Bytes, "", &[0; 100_000], 100_021);
        fixture.hub.large(&link, large);
        fixture.expect_credit(&link, 100_021);
        assert_eq!(fixture.node.stats().unhandled, 4);
        // Handlers of another kind change nothing about it.
        fixture.node.on_text(|_, _| {});
        let size = fixture.receive(&link, &messages[..1]);
        fixture.node.pump(SOON);
        fixture.expect_credit(&link, size);
        fixture.node.stop(SOON);
        assert_eq!(fixture.node.stats().unhandled, 5);
        assert_eq!(fixture.node.stats().handled, 0);
    }
}

#[test]
fn what_is_no_json_is_counted() {
    let fixture = pumped();
    let link = fixture.connect(1);
    fixture.node.on("t", |_, _| panic!("nothing comes here"));
    let nested = "[".repeat(100_000) + &"]".repeat(100_000);
    for body in ["", "{", "nul", "1 2", "\"\u{1}\"", "[1,]"] {
        json_message(&fixture, &link, "t", body);
    }
    fixture.receive(&link, &[(Kind::Json, "t", b"\"\xff\"")]);
    let nested = LargeMessage::new(Kind::Json, "t", nested.as_bytes(), 200_100);
    fixture.hub.large(&link, nested);
    assert_eq!(fixture.node.pump(SOON), 8);
    assert_eq!(fixture.node.stats().malformed, 8);
    assert_eq!(fixture.node.stats().panics, 0);
}

use mischief_actors::connection::LargeMessage;
