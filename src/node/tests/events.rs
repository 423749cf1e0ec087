use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use super::*;

fn failure(number: usize) -> NodeEvent {
    NodeEvent::Error {
        message: Arc::from(number.to_string()),
    }
}

#[test]
fn a_queue_tells_what_happens() {
    let fixture = Fixture::new(Callbacks::Thread);
    let mut events = fixture.node.events();
    assert_eq!(events.try_next(), None);
    let link = fixture.connect(1);
    fixture.hub.failed("something");
    fixture.disconnect(&link);
    assert!(
        matches!(events.next(), Some(NodeEvent::PeerConnected { peer, .. }) if peer == *link.peer())
    );
    assert!(
        matches!(events.try_next(), Some(NodeEvent::Error { message }) if &*message == "something")
    );
    let reason = DisconnectReason::ByPeer;
    let peer = *link.peer();
    assert_eq!(
        events.next(),
        Some(NodeEvent::PeerDisconnected { peer, reason })
    );
    assert_eq!(
        events.next_timeout(Duration::ZERO),
        Err(WaitError::TimedOut)
    );
    fixture.node.stop(SOON);
    assert_eq!(events.collect::<Vec<_>>(), [NodeEvent::Stopped]);
    let mut late = fixture.node.events();
    assert_eq!(late.next(), None);
}

#[test]
fn a_full_queue_loses_the_oldest_and_says_how_many() {
    let fixture = Fixture::new(Callbacks::Thread);
    let mut events = fixture.node.events_with_capacity(4);
    for number in 0..10 {
        fixture.hub.failed(&number.to_string());
    }
    assert_eq!(events.next(), Some(NodeEvent::Lost { count: 6 }));
    for number in 6..9 {
        assert_eq!(events.next(), Some(failure(number)));
    }
    // Again full: 9 and four more, of which the oldest go.
    for number in 10..15 {
        fixture.hub.failed(&number.to_string());
    }
    assert_eq!(events.next(), Some(NodeEvent::Lost { count: 2 }));
    for number in 11..15 {
        assert_eq!(events.next(), Some(failure(number)));
    }
    assert_eq!(events.try_next(), None);
}

#[test]
fn each_queue_has_every_event_of_its_time() {
    let fixture = Fixture::new(Callbacks::Thread);
    let mut first = fixture.node.events();
    fixture.hub.failed("0");
    let mut second = fixture.node.events();
    fixture.hub.failed("1");
    assert_eq!(
        (first.next(), first.next()),
        (Some(failure(0)), Some(failure(1)))
    );
    assert_eq!(second.next(), Some(failure(1)));
    drop(first);
    fixture.hub.failed("2");
    assert_eq!(second.next(), Some(failure(2)));
}

#[test]
fn a_waiting_thread_is_woken() {
    let fixture = Fixture::new(Callbacks::Thread);
    let mut events = fixture.node.events();
    let (seen, log) = mpsc::channel();
    let waiting = std::thread::spawn(move || {
        while let Some(event) = events.next() {
            seen.send(event).unwrap();
        }
    });
    for number in 0..100 {
        fixture.hub.failed(&number.to_string());
        assert_eq!(log.recv_timeout(SOON), Ok(failure(number)));
    }
    fixture.node.stop(SOON);
    assert_eq!(log.recv_timeout(SOON), Ok(NodeEvent::Stopped));
    waiting.join().unwrap();
}

#[test]
fn a_task_is_woken() {
    struct Counts(mpsc::Sender<()>);
    impl Wake for Counts {
        fn wake(self: Arc<Self>) {
            self.0.send(()).unwrap();
        }
    }
    let fixture = Fixture::new(Callbacks::Thread);
    let mut events = fixture.node.events();
    let (woken, wakes) = mpsc::channel();
    let waker = Waker::from(Arc::new(Counts(woken)));
    let mut task = TaskContext::from_waker(&waker);
    assert_eq!(pin!(events.next_async()).poll(&mut task), Poll::Pending);
    fixture.hub.failed("0");
    wakes.recv_timeout(SOON).unwrap();
    assert_eq!(
        pin!(events.next_async()).poll(&mut task),
        Poll::Ready(Some(failure(0)))
    );
    assert_eq!(events.poll_next(&mut task), Poll::Pending);
    fixture.node.stop(SOON);
    wakes.recv_timeout(SOON).unwrap();
    assert_eq!(
        events.poll_next(&mut task),
        Poll::Ready(Some(NodeEvent::Stopped))
    );
    assert_eq!(events.poll_next(&mut task), Poll::Ready(None));
}

#[test]
fn a_connection_that_replaces_another_comes_after_it() {
    let fixture = Fixture::new(Callbacks::Thread);
    let mut events = fixture.node.events();
    let old = fixture.connect(1);
    fixture.disconnect(&old);
    let new = fixture.connect(1);
    assert!(old.is_muted() && !new.is_muted());
    assert!(matches!(
        events.try_next(),
        Some(NodeEvent::PeerConnected { .. })
    ));
    assert!(matches!(
        events.try_next(),
        Some(NodeEvent::PeerDisconnected { .. })
    ));
    assert!(matches!(
        events.try_next(),
        Some(NodeEvent::PeerConnected { .. })
    ));
    assert!(fixture.node.is_connected(new.peer()));
    fixture.disconnect(&new);
    assert!(!fixture.node.is_connected(new.peer()));
}

use mischief_reactor::WaitError;
