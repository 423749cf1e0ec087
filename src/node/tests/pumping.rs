use std::sync::mpsc;

use super::*;

#[test]
fn the_descriptor_is_rung_while_something_waits() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    fixture.node.on_bytes(|_, _| {});
    let is_rung = || fixture.hub.doorbell().unwrap().is_rung();
    assert!(!is_rung());
    fixture.receive(&link, &[(Kind::Bytes, "", b"1")]);
    assert!(is_rung());
    assert_eq!(fixture.node.pump(Duration::ZERO), 1);
    assert!(!is_rung());
    assert_eq!(fixture.node.pump(Duration::ZERO), 0);
    assert!(fixture.node.event_descriptor().is_ok());
}

#[test]
fn a_descriptor_asked_for_late_is_rung_as_well() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    fixture.node.on_bytes(|_, _| {});
    fixture.receive(&link, &[(Kind::Bytes, "", b"1")]);
    assert!(fixture.hub.doorbell().unwrap().is_rung());
}

#[test]
fn other_modes_neither_pump_nor_have_a_descriptor() {
    for callbacks in [Callbacks::Thread, Callbacks::Inline] {
        let fixture = Fixture::new(callbacks);
        assert_eq!(fixture.node.pump(SOON), 0);
        let error = fixture.node.event_descriptor().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}

#[test]
fn pumping_waits_for_something_and_ends_in_time() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    let here = std::thread::current().id();
    fixture
        .node
        .on_bytes(move |_, _| assert_eq!(std::thread::current().id(), here));
    assert_eq!(fixture.node.pump(NOT_YET), 0);
    let hub = &fixture.hub;
    std::thread::scope(|scope| {
        scope.spawn(|| receive(hub, &link, &[(Kind::Bytes, "", b"1")]));
        assert_eq!(fixture.node.pump(SOON), 1);
    });
    assert_eq!(fixture.node.stats().panics, 0);
}

#[test]
fn pumping_inside_of_a_callback_does_nothing() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    let (seen, log) = mpsc::channel();
    let (inner_link, node) = (link.clone(), fixture.node.downgrade());
    let hub = fixture.hub.clone();
    fixture.node.on_bytes(move |_, bytes| {
        if bytes == b"1" {
            let more = encoded(&[(Kind::Bytes, "", b"2")]);
            hub.records(&inner_link, Records::new(more.as_bytes()));
            let count = node.upgrade().unwrap().pump(SOON);
            seen.send(count).unwrap();
        }
    });
    fixture.receive(&link, &[(Kind::Bytes, "", b"1")]);
    assert_eq!(fixture.node.pump(SOON), 1);
    assert_eq!(log.try_recv(), Ok(0));
    assert_eq!(fixture.node.pump(Duration::ZERO), 1);
}

/// What is waited for may depend on messages that only pumping handles.
#[test]
fn waiting_pumps() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    let (node, hub, peer) = (&fixture.node, &fixture.hub, *link.peer());
    let (handled, handles) = mpsc::channel();
    let from_callback = link.clone();
    node.on_bytes(move |_, bytes| {
        // The peer goes on only when this has been handled.
        take(&from_callback);
        from_callback.mark_sent(0);
        handled.send(bytes[0]).unwrap();
    });
    let sent = node.send_text(&peer, "a");
    fixture.receive(&link, &[(Kind::Bytes, "", b"1")]);
    assert_eq!(sent.wait(), Ok(()));
    assert_eq!(handles.try_recv(), Ok(b'1'));

    // Woken by what comes in while it sleeps.
    let sent = node.broadcast_text("b");
    std::thread::scope(|scope| {
        scope.spawn(|| receive(hub, &link, &[(Kind::Bytes, "", b"2")]));
        assert_eq!(sent.wait(), Ok(Delivered { sent: 1, failed: 0 }));
    });
    assert_eq!(handles.try_recv(), Ok(b'2'));

    let connecting = node.connect("127.0.0.1:1");
    fixture.receive(&link, &[(Kind::Bytes, "", b"3")]);
    std::thread::scope(|scope| {
        let asked = fixture.asked;
        scope.spawn(move || {
            assert_eq!(handles.recv_timeout(SOON), Ok(b'3'));
            match asked.recv_timeout(SOON) {
                Ok(Asked::Connect(.., reply)) => reply.send(Ok(super::peer(2))),
                _ => panic!("a dial was asked for"),
            }
        });
        assert_eq!(connecting.wait().unwrap(), super::peer(2));
    });
}
