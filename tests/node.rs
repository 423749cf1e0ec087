//! Nodes over real sockets, through the public interface.

use std::sync::mpsc;
use std::time::Duration;

use mischief::actors::connection::reason::RefusedReason;
use mischief::{DisconnectReason, Node, NodeEvent};
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
