//! What peers say about requests, and what happens to the requests of a node meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use mischief_actors::messages::{
    Event, Received, RequestId, RequestLimits, RequestMessage, Requests,
};
use mischief_reactor::Instant;

/// Small, so that inputs reach them.
const LIMITS: RequestLimits = RequestLimits {
    asked_per_peer: 3,
    asked: 5,
    answering_per_peer: 3,
    answering: 5,
};

/// Each step is a byte for what happens, one for the peer and the length of a message, and the message. Whatever comes, every
/// asker has one outcome and every watcher hears at most once, within the bounds, and in the end nothing is left.
pub(crate) fn requests(input: &[u8]) {
    let mut node = Node::new();
    let mut rest = input;
    while let Some((&[what, how], after)) = rest.split_first_chunk() {
        let peer = how % 4;
        let (message, after) = after.split_at(usize::from(how / 4).min(after.len()));
        match what % 8 {
            0 => node.ask(peer, message.len() as u64),
            1 => node.give_up(message.len()),
            2 => node.wait(Duration::from_millis(message.len() as u64 * 20)),
            3 => node.requests.handle_gone(peer),
            4 => node.finish(peer, message),
            _ => node.receive(peer, message),
        }
        node.settle();
        rest = after;
    }
    node.wait(Duration::from_secs(2 * 3600));
    node.settle();
    assert!(node.watching.is_empty(), "every watcher comes back");
    assert_eq!(node.requests.open(), (0, 0));
    assert_eq!(node.requests.poll_timeout(), None);
    assert!(node.asking.is_empty(), "every asker has an outcome");
}

struct Node {
    requests: Requests<u8, u32, u32>,
    now: Instant,
    /// Askers without an outcome, and what they asked.
    asking: BTreeSet<u32>,
    asked: Vec<(u8, RequestId, u32)>,
    watching: BTreeSet<u32>,
    next: u32,
}

impl Node {
    fn new() -> Node {
        Node {
            requests: Requests::new(LIMITS),
            now: Instant::from_nanos(1),
            asking: BTreeSet::new(),
            asked: Vec::new(),
            watching: BTreeSet::new(),
            next: 0,
        }
    }

    fn ask(&mut self, peer: u8, timeout: u64) {
        self.next += 1;
        let (asker, timeout) = (self.next, Duration::from_millis(timeout * 10));
        match self.requests.ask(self.now, peer, timeout, asker) {
            Ok((id, timeout_ms)) => {
                assert!((1..=3_600_000).contains(&timeout_ms));
                self.asking.insert(asker);
                self.asked.push((peer, id, asker));
            }
            Err(refused) => assert_eq!(refused, asker),
        }
    }

    fn give_up(&mut self, place: usize) {
        let Some(&(peer, id, asker)) = self.asked.get(place) else {
            return;
        };
        let was_open = self.asking.contains(&asker);
        let given_up = self.requests.give_up(peer, id);
        assert_eq!(given_up.is_some(), was_open);
        given_up.into_iter().for_each(|asker| self.outcome(asker));
    }

    fn outcome(&mut self, asker: u32) {
        assert!(self.asking.remove(&asker), "an asker has one outcome");
    }

    fn heard(&mut self, watcher: Option<u32>) {
        if let Some(watcher) = watcher {
            assert!(self.watching.remove(&watcher), "a watcher hears once");
        }
    }

    fn receive(&mut self, peer: u8, bytes: &[u8]) {
        let Ok(message) = RequestMessage::decode(bytes) else {
            return;
        };
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(RequestMessage::decode(&again), Ok(message));
        match self.requests.handle_message(self.now, peer, &message) {
            Received::Request => {
                let RequestMessage::Request { id, .. } = message else {
                    panic!("only a request is one");
                };
                assert!(self.requests.is_wanted(peer, id));
                self.next += 1;
                self.watching.insert(self.next);
                assert_eq!(self.requests.watch(peer, id, self.next), Ok(None));
            }
            Received::Outcome(asker) => self.outcome(asker),
            Received::Cancelled(watcher) => self.heard(watcher),
            Received::Busy | Received::Ignored => {}
        }
    }

    fn finish(&mut self, peer: u8, bytes: &[u8]) {
        if let Some(&[a, b, c, d]) = bytes.first_chunk() {
            let id = RequestId(u32::from_be_bytes([a, b, c, d]));
            let was_wanted = self.requests.is_wanted(peer, id);
            let finished = self.requests.finish(peer, id);
            assert_eq!(finished.is_some(), was_wanted);
            self.heard(finished.flatten());
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.requests.handle_timeout(self.now);
        assert!(self.requests.poll_timeout().is_none_or(|at| at > self.now));
    }

    fn settle(&mut self) {
        while let Some(event) = self.requests.poll_event() {
            match event {
                Event::TimedOut { asker, .. } | Event::Gone { asker } => self.outcome(asker),
                Event::Dropped { watcher } => self.heard(watcher),
            }
        }
        let (asked, answering) = self.requests.open();
        assert_eq!(asked, self.asking.len());
        assert!(asked <= LIMITS.asked as usize && answering <= LIMITS.answering as usize);
    }
}
