//! Nodes over real sockets, through the public interface.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use mischief::actors::connection::reason::RefusedReason;
use mischief::{Callbacks, DisconnectReason, Node, NodeEvent, SendError};
use serde_json::json;

const LONG: Duration = Duration::from_secs(10);

fn node(name: &str) -> Node {
    Node::builder()
        .ephemeral()
        .listen("127.0.0.1:0")
        .protocol("test", "1.0")
        .name(name)
        .start()
        .expect("loopback can be listened on")
}

#[test]
fn two_nodes_connect_and_exchange_messages_both_ways() {
    let (a, b) = (node("a"), node("b"));
    let (sender, received) = mpsc::channel();
    let back = sender.clone();
    let _on_b = b.on("chat", move |peer, body| {
        sender.send((*peer, body.clone())).expect("the test waits");
    });
    let _on_a = a.on("chat", move |peer, body| {
        back.send((*peer, body.clone())).expect("the test waits");
    });
    let peer = a
        .connect(&b.listen_addrs()[0].to_string())
        .wait()
        .expect("b listens");
    assert_eq!(peer, b.id());
    a.send(&peer, "chat", &json!({"text": "hello"}))
        .wait()
        .expect("connected");
    let (from, body) = received.recv_timeout(LONG).expect("it was sent");
    assert_eq!((from, body), (a.id(), json!({"text": "hello"})));
    b.send(&from, "chat", &json!([1, 2, 3]))
        .wait()
        .expect("connected");
    let (from, body) = received.recv_timeout(LONG).expect("it was sent");
    assert_eq!((from, body), (b.id(), json!([1, 2, 3])));
    let peers = a.peers().wait().expect("it runs");
    assert_eq!(peers.len(), 1);
    println!("{peers:?}");
    a.stop(LONG);
    b.stop(LONG);
}

#[test]
fn a_peer_that_stops_is_announced_as_gone() {
    let (a, b) = (node("a"), node("b"));
    let mut events = a.events();
    a.connect(&b.listen_addrs()[0].to_string())
        .wait()
        .expect("b listens");
    b.stop(LONG);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match events.next_timeout(LONG) {
            Ok(Some(
                event @ (NodeEvent::PeerConnected { .. } | NodeEvent::PeerDisconnected { .. }),
            )) => seen.push(event),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => panic!("no event, only {seen:?}"),
        }
    }
    assert!(
        matches!(seen[0], NodeEvent::PeerConnected { peer, .. } if peer == b.id()),
        "{seen:?}"
    );
    assert!(
        matches!(seen[1], NodeEvent::PeerDisconnected { peer, .. } if peer == b.id()),
        "{seen:?}"
    );
}

/// What was sent is written before a connection is closed, however it is closed.
#[test]
fn what_was_sent_arrives_although_the_sender_stops() {
    for is_stopped in [true, false] {
        let (a, b) = (node("a"), node("b"));
        let (sender, received) = mpsc::channel();
        let ends = sender.clone();
        b.on_bytes(move |_, bytes| sender.send(Ok(bytes[0])).expect("the test waits"));
        b.on_event(move |event| {
            if let NodeEvent::PeerDisconnected { reason, .. } = event {
                ends.send(Err(*reason)).expect("the test waits");
            }
        });
        let peer = a
            .connect(&b.listen_addrs()[0].to_string())
            .wait()
            .expect("b listens");
        let outgoing = a.outgoing(&peer).expect("it is connected");
        for number in 0..200 {
            outgoing.send_bytes(&[number; 4000]).expect("there is room");
        }
        if is_stopped {
            assert!(a.stop(LONG), "it ends in time");
        } else {
            a.disconnect(&peer).wait().expect("it is connected");
        }
        for number in 0..200 {
            assert_eq!(received.recv_timeout(LONG), Ok(Ok(number)));
        }
        let reason = match is_stopped {
            true => DisconnectReason::Refused(RefusedReason::Stopping),
            false => DisconnectReason::ByPeer,
        };
        assert_eq!(received.recv_timeout(LONG), Ok(Err(reason)));
    }
}

/// A program with a loop of its own: nothing is called back but by `pump`.
/// Memory that a program hands over without a copy comes back to it when the socket has taken the message.
#[test]
fn shared_bytes_are_free_again_when_they_are_sent() {
    let (a, b) = (node("a"), node("b"));
    let (sender, received) = mpsc::channel();
    b.on_bytes(move |_, bytes| sender.send(bytes.to_vec()).expect("the test waits"));
    let peer = a
        .connect(&b.listen_addrs()[0].to_string())
        .wait()
        .expect("b listens");
    let outgoing = a.outgoing(&peer).expect("it is connected");
    let mut bytes: Arc<[u8]> = Arc::from(vec![0; 1 << 20]);
    for number in 0..5 {
        let body = Arc::get_mut(&mut bytes).expect("nobody holds it");
        body.fill(number);
        if number % 2 == 0 {
            outgoing.send_shared(&bytes).expect("there is room");
            outgoing.flush().wait_for(LONG).expect("b reads");
        } else {
            let sent = a.send_shared(&peer, &bytes);
            sent.wait_for(LONG).expect("b reads");
        }
        assert_eq!(received.recv_timeout(LONG).expect("it was sent"), *bytes);
    }
    let too_large = Arc::from(vec![0; (1 << 20) + 1]);
    assert!(matches!(
        outgoing.send_shared(&too_large),
        Err(SendError::TooLarge { .. })
    ));
    a.broadcast_bytes(&bytes).wait().expect("b is connected");
    assert_eq!(received.recv_timeout(LONG).expect("it was sent"), *bytes);
}

#[test]
fn a_node_is_pumped_by_its_callers_loop() {
    let server = node("server");
    let client = Node::builder()
        .protocol("test", "1.0")
        .callbacks(Callbacks::Pump)
        .start()
        .expect("it needs nothing");
    let answering = server.downgrade();
    server.on_text(move |peer, text| {
        let node = answering.upgrade().expect("the test holds it");
        drop(node.send_text(peer, &text.to_uppercase()));
    });
    let here = std::thread::current().id();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (texts, events) = (seen.clone(), seen.clone());
    let note = move |what: String| {
        assert_eq!(std::thread::current().id(), here);
        texts.lock().expect("no panic").push(what);
    };
    client.on_text(move |_, text| note(text.to_owned()));
    client.on_event(move |event| {
        if let NodeEvent::PeerConnected { direction, .. } = event {
            let name = direction.name().to_owned();
            events.lock().expect("no panic").push(name);
        }
    });
    assert!(client.event_descriptor().is_ok());
    let peer = client
        .connect(&server.listen_addrs()[0].to_string())
        .wait()
        .expect("the server listens");
    client.send_text(&peer, "a").wait().expect("connected");
    client.send_text(&peer, "b").wait().expect("connected");
    while seen.lock().expect("no panic").len() < 3 {
        assert!(client.pump(LONG) > 0, "both answers come");
    }
    assert_eq!(*seen.lock().expect("no panic"), ["out", "A", "B"]);
    assert_eq!(client.stats().panics, 0);
}

#[test]
fn a_trusted_peer_may_send_larger_messages() {
    let (a, b) = (node("a"), node("b"));
    let (sender, received) = mpsc::channel();
    b.on_bytes(move |_, bytes| {
        let is_whole = bytes.iter().all(|byte| *byte == 7);
        sender
            .send((bytes.len(), is_whole))
            .expect("the test waits");
    });
    let peer = a
        .connect(&b.listen_addrs()[0].to_string())
        .wait()
        .expect("b listens");
    let body = vec![7; 16 << 20];
    let (most, all) = (&body[..1 << 20], &body[..]);
    a.send_bytes(&peer, most).wait().expect("1 MiB is allowed");
    assert_eq!(received.recv_timeout(LONG), Ok((1 << 20, true)));
    let refused = a.send_bytes(&peer, &body[..(1 << 20) + 1]).wait();
    assert!(
        matches!(refused, Err(SendError::TooLarge { .. })),
        "{refused:?}"
    );
    b.trust(&a.id()).wait().expect("it runs");
    // The news takes its way to the other node.
    let mut sent = std::iter::repeat_with(|| {
        std::thread::yield_now();
        a.send_bytes(&peer, all).wait_for(LONG)
    });
    let outcome = sent.find(|result| !matches!(result, Err(SendError::TooLarge { .. })));
    assert_eq!(outcome, Some(Ok(())));
    assert_eq!(received.recv_timeout(LONG), Ok((16 << 20, true)));
}
