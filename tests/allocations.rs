//! A message that is sent and received costs no allocation, from the caller's thread over both cores and a real socket
//! to the callback. What is allocated belongs to turns of a core and to waiting, of which there are few.

#[path = "../benches/counting_allocator.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    reason = "the benches measure more with it"
)]
mod counting_allocator;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use counting_allocator::{Counting, calls};
use mischief::{Callbacks, Node, Outgoing};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Messages that are under way at most: half a window, so that the sender never waits for room.
const ROUND: usize = 1000;
const ROUNDS: usize = 100;

/// Allocations that all rounds together may take, whatever the number of messages.
const ALLOCATIONS_MAX: usize = ROUNDS;

fn node() -> Node {
    Node::builder()
        .listen("127.0.0.1:0")
        .start()
        .expect("loopback can be listened on")
}

/// Sends rounds of messages, each when the one before it has been received.
fn exchange(received: &AtomicUsize, rounds: usize, send: impl Fn()) {
    for _ in 0..rounds {
        let want = received.load(Ordering::Acquire) + ROUND;
        for _ in 0..ROUND {
            send();
        }
        while received.load(Ordering::Acquire) < want {
            std::thread::yield_now();
        }
    }
}

#[track_caller]
fn check(what: &str, received: &AtomicUsize, send: impl Fn()) {
    exchange(received, ROUNDS / 4, &send);
    let before = calls();
    exchange(received, ROUNDS, &send);
    let allocations = calls() - before;
    println!(
        "{what}: {allocations} allocations for {} messages",
        ROUNDS * ROUND
    );
    assert!(
        allocations <= ALLOCATIONS_MAX,
        "{what}: {allocations} allocations for {} messages",
        ROUNDS * ROUND
    );
}

/// One test alone: others beside it would be counted as well.
#[test]
fn a_message_costs_no_allocation() {
    for callbacks in [Callbacks::Thread, Callbacks::Inline] {
        let server = Node::builder()
            .listen("127.0.0.1:0")
            .callbacks(callbacks)
            .start()
            .expect("loopback can be listened on");
        let client = node();
        let received = Arc::new(AtomicUsize::new(0));
        let count = || {
            let received = received.clone();
            move || {
                received.fetch_add(1, Ordering::Release);
            }
        };
        let (bytes, text, json) = (count(), count(), count());
        server.on_bytes(move |_, _| bytes());
        server.on_text(move |_, _| text());
        server.on("number", move |_, _| json());
        let addr = server.listen_addrs()[0].to_string();
        let peer = client
            .connect(&addr)
            .wait_for(Duration::from_secs(30))
            .expect("the server listens");
        let outgoing: Outgoing = client.outgoing(&peer).expect("it is connected");

        let sent = "a message is taken while fewer than 1 MiB wait";
        check("bytes", &received, || {
            outgoing.send_bytes(&[7; 64]).expect(sent)
        });
        check("text", &received, || {
            outgoing
                .send_text("some text of a usual length")
                .expect(sent)
        });
        // A number needs no memory when it is read; objects and texts do.
        check("json", &received, || {
            outgoing.send("number", &17).expect(sent)
        });
        check("node", &received, || {
            drop(client.send_bytes(&peer, &[7; 64]));
        });
    }
}
