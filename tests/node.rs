//! Nodes over real sockets, through the public interface.

use std::sync::mpsc;
use std::time::Duration;

use mischief::{Node, NodeEvent};
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
