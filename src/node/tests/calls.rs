use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use super::*;

/// Answers what the node asks, on a thread of its own.
fn answer(fixture: &Fixture, answer: impl FnOnce(Asked) + Send) {
    match fixture.asked.recv_timeout(SOON) {
        Ok(asked) => answer(asked),
        Err(_) => panic!("nothing was asked"),
    }
}

#[test]
fn calls_reach_the_actors_and_come_back() {
    let fixture = Fixture::new(Callbacks::Thread);
    let node = &fixture.node;
    let dialled = node.connect("192.0.2.1:9000");
    answer(&fixture, |asked| match asked {
        Asked::Connect(addr, None, reply) if addr == "192.0.2.1:9000" => reply.send(Ok(peer(1))),
        _ => panic!("a dial was asked for"),
    });
    assert_eq!(dialled.wait().unwrap(), peer(1));

    let dialled = node.connect_expecting("[::1]:9000", peer(2));
    answer(&fixture, |asked| match asked {
        Asked::Connect(_, Some(expected), reply) if expected == peer(2) => {
            reply.send(Err(ConnectError::Node(NodeError::Stopped)))
        }
        _ => panic!("a dial was asked for"),
    });
    assert_eq!(dialled.wait().unwrap_err().kind(), "stopping");

    let gone = node.disconnect(&peer(3));
    answer(&fixture, |asked| match asked {
        Asked::Disconnect(who, reply) if who == peer(3) => reply.send(Err(NodeError::NotConnected)),
        _ => panic!("a disconnect was asked for"),
    });
    assert_eq!(gone.wait(), Err(NodeError::NotConnected));

    let info = PeerInfo::new(peer(1), addr(), Direction::Outbound);
    let listed = node.peers();
    let one = node.peer(&peer(1));
    let trusted = node.trust(&peer(1));
    for _ in 0..3 {
        answer(&fixture, |asked| match asked {
            Asked::List(reply) => reply.send(Ok(vec![info.clone()])),
            Asked::Peer(who, reply) if who == peer(1) => reply.send(Ok(info.clone())),
            Asked::Trust(who, reply) if who == peer(1) => reply.send(Ok(())),
            _ => panic!("nothing else was asked for"),
        });
    }
    assert_eq!(listed.wait(), Ok(vec![info.clone()]));
    assert_eq!(one.wait_for(SOON), Ok(info));
    assert_eq!(trusted.wait(), Ok(()));
}

#[test]
fn an_address_that_cannot_be_read_is_an_answer() {
    let fixture = Fixture::new(Callbacks::Thread);
    for addr in ["", "nowhere", "127.0.0.1:0", "::1:9000", "http://a:1"] {
        let error = fixture.node.connect(addr).wait().unwrap_err();
        assert!(matches!(error, ConnectError::BadAddr(_)), "{addr}: {error}");
        assert_eq!(error.kind(), "bad_request");
    }
    let mut known = fixture.node.connect("");
    assert!(known.try_take().unwrap().is_err());
    assert!(known.try_take().is_none());
}

#[test]
fn a_call_that_nobody_answers_fails() {
    let fixture = Fixture::new(Callbacks::Thread);
    let listed = fixture.node.peers();
    answer(&fixture, drop);
    assert_eq!(listed.wait(), Err(NodeError::Stopped));
    let listed = fixture.node.peers().wait_for(NOT_YET);
    assert!(matches!(listed, Err(NodeError::TimedOut(_))), "{listed:?}");
}

#[test]
fn calls_are_futures_of_any_executor() {
    struct Wakes(mpsc::Sender<()>);
    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.send(()).unwrap();
        }
    }
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let (woken, wakes) = mpsc::channel();
    let waker = Waker::from(Arc::new(Wakes(woken)));
    let mut task = TaskContext::from_waker(&waker);

    let mut listed = fixture.node.peers();
    assert!(Pin::new(&mut listed).poll(&mut task).is_pending());
    answer(&fixture, |asked| match asked {
        Asked::List(reply) => reply.send(Ok(vec![])),
        _ => panic!("a list was asked for"),
    });
    wakes.recv_timeout(SOON).unwrap();
    assert_eq!(
        Pin::new(&mut listed).poll(&mut task),
        Poll::Ready(Ok(vec![]))
    );

    let mut sent = fixture.node.send_text(link.peer(), "a");
    let mut all = fixture.node.broadcast_text("b");
    assert!(Pin::new(&mut sent).poll(&mut task).is_pending());
    assert!(Pin::new(&mut all).poll(&mut task).is_pending());
    take(&link);
    link.mark_sent(0);
    wakes.recv_timeout(SOON).unwrap();
    wakes.recv_timeout(SOON).unwrap();
    assert_eq!(Pin::new(&mut sent).poll(&mut task), Poll::Ready(Ok(())));
    let reached = Delivered { sent: 1, failed: 0 };
    assert_eq!(Pin::new(&mut all).poll(&mut task), Poll::Ready(Ok(reached)));
}

#[test]
fn a_core_thread_may_not_wait() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let node = fixture.node.clone();
    let peer = *link.peer();
    let (waited, sent, all, event) = fixture.on_core(move || {
        let mut events = node.events();
        (
            node.peers().wait(),
            node.send_text(&peer, "a").wait(),
            node.broadcast_text("a").wait(),
            events.next_timeout(SOON),
        )
    });
    assert_eq!(waited, Err(NodeError::OnCoreThread));
    assert_eq!(sent, Err(SendError::OnCoreThread));
    assert_eq!(all, Err(SendError::OnCoreThread));
    assert_eq!(event, Err(mischief_reactor::WaitError::OnCoreThread));
    // Inline callbacks are on the core that received the message.
    let fixture = Fixture::new(Callbacks::Inline);
    let link = fixture.connect(1);
    let (seen, log) = mpsc::channel();
    let node = fixture.node.downgrade();
    fixture.node.on_bytes(move |peer, _| {
        let node = node.upgrade().unwrap();
        seen.send(node.send_text(peer, "a").wait()).unwrap();
    });
    let (hub, own) = (fixture.hub.clone(), link.clone());
    fixture.on_core(move || {
        let message = encoded(&[(Kind::Bytes, "", b"1")]);
        hub.records(&own, Records::new(message.as_bytes()));
    });
    assert_eq!(log.recv_timeout(SOON), Ok(Err(SendError::OnCoreThread)));
}
