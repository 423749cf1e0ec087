use std::sync::mpsc;

use super::*;
use crate::node::warden;

#[test]
fn stopping_calls_back_with_everything_that_was_received() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let (seen, log) = mpsc::channel();
    let to_seen = seen.clone();
    fixture
        .node
        .on_bytes(move |_, bytes| to_seen.send(format!("{bytes:?}")).unwrap());
    fixture
        .node
        .on_event(move |event| seen.send(format!("{event:?}")).unwrap());
    let one: (Kind, &str, &[u8]) = (Kind::Bytes, "", b"1");
    fixture.receive(&link, &vec![one; 1000]);
    assert!(fixture.node.stop(SOON));
    let seen: Vec<_> = log.try_iter().collect();
    assert_eq!(seen.len(), 1001);
    assert_eq!(seen[1000], "Stopped");
    // From here on nothing is taken any more.
    fixture.receive(&link, &[one]);
    fixture.hub.failed("too late");
    assert!(log.try_recv().is_err());
    assert!(fixture.node.stop(SOON), "a second time it is over already");
}

#[test]
fn stopping_from_within_a_callback_does_not_wait_for_it() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let (seen, log) = mpsc::channel();
    let node = fixture.node.clone();
    fixture.node.on_bytes(move |_, _| {
        seen.send(node.stop(SOON)).unwrap();
    });
    let mut events = fixture.node.events();
    fixture.receive(&link, &[(Kind::Bytes, "", b"1")]);
    // Its own callback was still running.
    assert_eq!(log.recv_timeout(SOON), Ok(false));
    assert_eq!(events.next_timeout(SOON), Ok(Some(NodeEvent::Stopped)));
}

#[test]
fn a_callback_that_does_not_end_is_left_behind() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let (entered, enters) = mpsc::channel();
    let (leave, leaves) = mpsc::channel::<()>();
    let leaves = Mutex::new(leaves);
    fixture.node.on_bytes(move |_, _| {
        entered.send(()).unwrap();
        let _ = leaves.lock().unwrap().recv();
    });
    fixture.receive(&link, &[(Kind::Bytes, "", b"1")]);
    enters.recv_timeout(SOON).unwrap();
    assert!(!fixture.node.stop(NOT_YET));
    leave.send(()).unwrap();
    assert!(fixture.hub.wait_for_end(SOON));
}

#[test]
fn dropping_the_last_handle_stops_the_node() {
    let fixture = Fixture::new(Callbacks::Thread);
    let mut events = fixture.node.events();
    let weak = fixture.node.downgrade();
    let clone = weak.upgrade().unwrap();
    drop(clone);
    assert_eq!(events.try_next(), None);
    let Fixture { node, hub, .. } = fixture;
    drop(node);
    assert!(weak.upgrade().is_none());
    assert_eq!(events.next(), Some(NodeEvent::Stopped));
    assert!(hub.wait_for_end(SOON));
}

#[test]
fn the_last_handle_may_be_dropped_on_a_core_thread_and_in_a_callback() {
    for callbacks in [Callbacks::Thread, Callbacks::Inline] {
        let fixture = Fixture::new(callbacks);
        let link = fixture.connect(1);
        let hub = fixture.hub.clone();
        let mut events = fixture.node.events();
        let last = Mutex::new(Some(fixture.node.clone()));
        fixture.node.on_bytes(move |_, _| {
            last.lock().unwrap().take();
        });
        let own = hub.clone();
        let handle = hub.handle.clone();
        let Fixture { node, check, .. } = fixture;
        drop(node);
        handle
            .spawn(0, move || {
                Child::once(Runs(Some(Box::new(move || {
                    let message = encoded(&[(Kind::Bytes, "", b"1")]);
                    own.records(&link, Records::new(message.as_bytes()));
                }))))
            })
            .unwrap();
        assert_eq!(events.next(), Some(NodeEvent::Stopped));
        drop(check);
    }
}

#[test]
fn stopping_frees_what_handlers_hold() {
    let fixture = Fixture::new(Callbacks::Thread);
    let (held, dropped) = mpsc::channel::<()>();
    let node = fixture.node.clone();
    fixture.node.on("t", move |_, _| {
        let _ = (&held, &node);
    });
    fixture.node.stop(SOON);
    assert_eq!(dropped.try_recv(), Err(mpsc::TryRecvError::Disconnected));
}

#[test]
fn what_a_pumped_node_has_left_waits_for_the_pump() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    let (seen, log) = mpsc::channel();
    let to_seen = seen.clone();
    fixture
        .node
        .on_bytes(move |_, bytes| to_seen.send(format!("{bytes:?}")).unwrap());
    fixture
        .node
        .on_event(move |event| seen.send(format!("{event:?}")).unwrap());
    fixture.receive(&link, &[(Kind::Bytes, "", b"1")]);
    assert!(!fixture.node.stop(SOON));
    assert_eq!(fixture.node.pump(SOON), 2);
    assert_eq!(log.try_iter().collect::<Vec<_>>(), ["[49]", "Stopped"]);
    assert_eq!(fixture.node.pump(SOON), 0, "there is nothing to wait for");
}

#[test]
fn settings_that_cannot_be_are_told_before_anything_starts() {
    #[track_caller]
    fn refused(builder: NodeBuilder, want: &str) {
        let error = builder.start().unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    refused(
        Node::builder().listen("nowhere"),
        "cannot listen on \"nowhere\"",
    );
    refused(Node::builder().protocol("", "1"), "protocol");
    refused(Node::builder().protocol("a", "x".repeat(65)), "protocol");
    refused(Node::builder().name(""), "name");
    refused(Node::builder().name("a\u{1b}b"), "name");
    refused(Node::builder().name("x".repeat(65)), "name");
    refused(Node::builder().cores(0), "cores");
}

struct Fragile;

impl Actor for Fragile {
    type Message = ();

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        panic!("by the test")
    }
}

#[test]
fn a_node_ends_when_a_part_of_it_has_failed() {
    let fixture = Fixture::new(Callbacks::Thread);
    let mut events = fixture.node.events();
    let handle = &fixture.hub.handle;
    let fragile = handle.spawn(0, || Child::once(Fragile)).unwrap();
    let sound = handle.spawn(0, || Child::once(Fragile)).unwrap();
    let vital = vec![sound.id(), fragile.id()];
    warden::watch(handle, fixture.node.downgrade(), vital).unwrap();
    // That a part ends in good order is no failure.
    handle.stop(sound.id());
    handle.try_send(&fragile, ()).unwrap();
    match events.next() {
        Some(NodeEvent::Error { message }) => assert!(message.contains("by the test"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(events.next(), Some(NodeEvent::Stopped));
}
