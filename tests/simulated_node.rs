//! Whole nodes in the simulator: the same handle, virtual time, and the same run for the same seed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mischief::reactor::sim::{SimNode, SimWorld};
use mischief::reactor::{Limits, Signal};
use mischief::{Node, NodeEvent, PeerId};
use serde_json::json;

const LONG: Duration = Duration::from_secs(60);

type Log = Arc<Mutex<Vec<String>>>;

fn node(machine: &SimNode, log: &Log) -> (mischief::reactor::sim::SimRuntime, Node) {
    let runtime = machine.start(1, Limits::default()).expect("a core starts");
    let node = Node::builder()
        .runtime(&runtime.handle())
        .listen("0.0.0.0:9000")
        .start()
        .expect("the port is free");
    let to_log = log.clone();
    node.on_event(move |event| {
        let what = match event {
            NodeEvent::PeerConnected { peer, .. } => format!("+{}", peer.short()),
            NodeEvent::PeerDisconnected { peer, reason } => format!("-{} {reason}", peer.short()),
            other => format!("{other:?}"),
        };
        to_log.lock().expect("no panic").push(what);
    });
    (runtime, node)
}

/// Two nodes talk; what was seen, and the trace of the world.
fn talk(seed: u64) -> (Vec<String>, u64, Duration) {
    let world = SimWorld::new(seed);
    let machines =
        ["10.0.0.1", "10.0.0.2"].map(|ip| world.node(&[ip.parse().expect("an address")]));
    let log = Log::default();
    let (_server_runtime, server) = node(&machines[0], &log);
    let (_client_runtime, client) = node(&machines[1], &log);
    let answering = server.downgrade();
    server.on("ping", move |peer, body| {
        let node = answering.upgrade().expect("the test holds it");
        // Callbacks are on a core's turn here: what is waited for could never come.
        drop(node.send(peer, "pong", body));
    });
    let (to_log, own) = (log.clone(), client.id());
    client.on("pong", move |_, body| {
        to_log
            .lock()
            .expect("no panic")
            .push(format!("{} {body}", own.short()));
    });
    let peer: PeerId = client.connect("10.0.0.1:9000").wait().expect("it listens");
    assert_eq!(peer, server.id());
    for number in 0..10 {
        client
            .send(&peer, "ping", &json!({ "number": number }))
            .wait()
            .expect("it is connected");
    }
    let signal = Signal::default();
    let mut answered = || log.lock().expect("no panic").len() >= 12;
    client
        .runtime()
        .wait(&signal, &mut answered, Some(LONG))
        .expect("ten answers come");
    assert_eq!(client.peers().wait().expect("it runs").len(), 1);
    assert!(client.stop(LONG), "it stops in good order");
    let mut told = || log.lock().expect("no panic").len() >= 15;
    server
        .runtime()
        .wait(&signal, &mut told, Some(LONG))
        .expect("the server learns of it");
    assert!(server.stop(LONG), "it stops in good order");
    let seen = std::mem::take(&mut *log.lock().expect("no panic"));
    (seen, world.trace_hash(), world.elapsed())
}

#[test]
fn two_nodes_talk_in_virtual_time_and_the_same_again() {
    let first = talk(7);
    println!("{first:?}");
    assert_eq!(first.0.len(), 16, "{first:?}");
    let goodbye = "closed by the peer: the node is shutting down";
    assert!(first.0.iter().any(|seen| seen.ends_with(goodbye)));
    assert_eq!(talk(7), first);
    let other = talk(8);
    assert_ne!(other.1, first.1, "another seed is another run");
}
