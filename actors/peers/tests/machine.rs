//! One node: requests, limits, events, and random histories.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mischief_reactor::{Instant, WallTime};

use super::super::Peers;
use crate::connection::{
    AttemptFailure, DialError, DisconnectReason, Endpoint, FailedAttempt, RefusedReason,
    ResolveFailure, Suite, parse_addr,
};
use crate::peers::{
    Answer, ConnectError, DialId, Direction, Introduction, NAME_BYTES_MAX, NotConnected, Order,
    PeerId, PeerRecord, PeerRef, PeersEvent, PeersLimits, ProbeToken, RequestId, Traffic,
};

type Result<T> = std::result::Result<T, ConnectError>;

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(1000) + Duration::from_millis(ms)
}

fn id(n: u32) -> PeerId {
    let mut bytes = [n as u8; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    PeerId::from_bytes(bytes)
}

/// This node's own id, in the middle of the others.
const OWN: u32 = 100;

fn endpoint(n: u32) -> Endpoint {
    parse_addr(&format!("10.0.{}.{}:9000", n / 256, n % 256)).unwrap()
}

fn introduction(n: u32) -> Introduction {
    Introduction {
        peer: id(n),
        message_max: 1 << 20,
        addr: SocketAddr::from(([10, 0, (n / 256) as u8, n as u8], 9000)),
        suite: Suite::ChaChaPoly,
        name: None,
    }
}

fn refused(reason: RefusedReason) -> DialError {
    let failure = AttemptFailure::Refused(reason);
    let addr = introduction(1).addr;
    DialError::AllFailed {
        attempts: [FailedAttempt { addr, failure }].into(),
        is_cut: false,
    }
}

/// A machine and everything it has said.
struct Node {
    peers: Peers<u32>,
    now: Instant,
    requests: u64,
}

impl Node {
    fn new(limits: PeersLimits) -> Node {
        Node {
            peers: Peers::new(id(OWN), limits),
            now: at(0),
            requests: 0,
        }
    }

    fn connect(&mut self, n: u32, expected: Option<u32>) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.peers
            .handle_connect(self.now, request, endpoint(n), expected.map(id));
        request
    }

    fn orders(&mut self) -> Vec<Order<u32>> {
        std::iter::from_fn(|| self.peers.poll_order()).collect()
    }

    /// The dial that has just been ordered.
    #[track_caller]
    fn dial(&mut self) -> DialId {
        match self.orders().as_slice() {
            [Order::Dial { dial, .. }] => *dial,
            other => panic!("{other:?}"),
        }
    }

    fn events(&mut self) -> Vec<PeersEvent> {
        std::iter::from_fn(|| self.peers.poll_event()).collect()
    }

    fn answers(&mut self) -> Vec<(RequestId, Result<PeerId>)> {
        std::iter::from_fn(|| self.peers.poll_answer())
            .map(|answer| match answer {
                Answer::Connect { request, result } => (request, result.map(|(_, id)| id)),
                Answer::List { .. } => panic!("{answer:?}"),
            })
            .collect()
    }

    #[track_caller]
    fn one_answer(&mut self) -> Result<PeerId> {
        let mut answers = self.answers();
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0).1
    }

    /// Dials `n` by its own connection and is accepted.
    #[track_caller]
    fn connected(&mut self, n: u32) -> PeerRef {
        self.connect(n, None);
        let dial = self.dial();
        self.peers
            .handle_identified(self.now, dial, n, introduction(n));
        self.peers.handle_accepted(self.now, n);
        self.orders();
        self.answers();
        self.events();
        self.peers.find(&id(n)).unwrap()
    }

    /// `n` dials us. Returns what its connection is told.
    fn inbound(&mut self, connection: u32, n: u32) -> Vec<Order<u32>> {
        self.peers
            .handle_inbound(self.now, connection, introduction(n));
        self.orders()
    }
}

fn node() -> Node {
    Node::new(PeersLimits::default())
}

fn refuse(connection: u32, reason: RefusedReason) -> Order<u32> {
    Order::Refuse { connection, reason }
}

#[test]
fn a_dial_goes_from_order_to_event() {
    let mut node = node();
    node.connect(1, None);
    let dial = node.dial();
    node.peers
        .handle_identified(node.now, dial, 7, introduction(1));
    assert_eq!(node.orders(), [Order::Proceed { connection: 7 }]);
    assert_eq!((node.events(), node.answers()), (vec![], vec![]));
    node.peers.handle_accepted(node.now, 7);
    let peer = node.peers.find(&id(1)).unwrap();
    assert_eq!(
        node.orders(),
        [Order::Keep {
            connection: 7,
            peer
        }]
    );
    assert_eq!(node.one_answer(), Ok(id(1)));
    let connected = PeersEvent::Connected {
        peer,
        id: id(1),
        addr: introduction(1).addr,
        direction: Direction::Outbound,
        suite: Suite::ChaChaPoly,
        name: None,
    };
    assert_eq!(node.events(), [connected]);
    assert_eq!(node.peers.dials(), 0);
    let reason = DisconnectReason::Lost(io::ErrorKind::ConnectionReset);
    node.peers.handle_closed(node.now, 7, reason);
    let disconnected = PeersEvent::Disconnected {
        peer,
        id: id(1),
        addr: introduction(1).addr,
        direction: Direction::Outbound,
        since: node.now,
        reason,
    };
    assert_eq!(node.events(), [disconnected]);
    assert!(node.peers.is_empty());
    node.peers.handle_closed(node.now, 7, reason);
    assert_eq!(node.events(), []);
    assert_eq!(node.peers.poll_timeout(), None);
}

#[test]
fn an_inbound_connection_is_kept_at_once() {
    let mut node = node();
    let orders = node.inbound(5, 1);
    let peer = node.peers.find(&id(1)).unwrap();
    assert_eq!(
        orders,
        [Order::Keep {
            connection: 5,
            peer
        }]
    );
    assert_eq!(node.events().len(), 1);
    let record = node.peers.record(peer).unwrap();
    assert_eq!(record.direction, Direction::Inbound);
    assert_eq!(record.addr, introduction(1).addr);
    let wall = WallTime::from_unix_nanos(5_000_000_000);
    let since = record.since_wall(node.now + Duration::from_secs(2), wall);
    assert_eq!(since.as_unix_secs(), 3);
}

#[test]
fn a_second_request_joins_the_dial() {
    let mut node = node();
    let first = node.connect(1, None);
    let dial = node.dial();
    let second = node.connect(1, Some(1));
    assert_eq!(node.orders(), []);
    // The same peer at another address: one dial with two addresses.
    let third = node.connect(2, Some(1));
    let fourth = node.connect(3, Some(1));
    assert_eq!(
        node.orders(),
        [Order::Dial {
            dial: DialId(1),
            endpoint: endpoint(2)
        }]
        .into_iter()
        .chain([Order::DialAlso {
            dial: DialId(1),
            endpoint: endpoint(3)
        }])
        .collect::<Vec<_>>()
    );
    assert_eq!(node.peers.dials(), 2);
    node.peers
        .handle_identified(node.now, dial, 7, introduction(1));
    node.peers.handle_accepted(node.now, 7);
    let mut answered: Vec<_> = node.answers().into_iter().collect();
    answered.sort_by_key(|(request, _)| *request);
    let all = [first, second, third, fourth].map(|request| (request, Ok(id(1))));
    assert_eq!(answered, all);
}

#[test]
fn a_connected_peer_is_answered_at_once() {
    let mut node = node();
    node.connected(1);
    for (n, expected) in [(1, None), (1, Some(1)), (9, Some(1))] {
        node.connect(n, expected);
        assert_eq!(node.one_answer(), Ok(id(1)));
        assert_eq!(node.orders(), []);
    }
    // The port of an inbound connection is not where its peer listens.
    node.inbound(5, 2);
    node.connect(2, None);
    node.dial();
}

#[test]
fn an_answer_may_come_by_an_inbound_connection() {
    let mut node = node();
    node.connect(1, Some(1));
    let dial = node.dial();
    node.inbound(5, 1);
    assert_eq!(node.one_answer(), Ok(id(1)));
    // The dial goes on until its dialler ends it, and leads nowhere.
    node.peers
        .handle_identified(node.now, dial, 7, introduction(1));
    let probe = Order::Probe {
        connection: 5,
        token: ProbeToken(1),
    };
    assert_eq!(node.orders(), [probe]);
    node.peers.handle_alive(node.now, 5, ProbeToken(1));
    assert_eq!(node.orders(), [refuse(7, RefusedReason::Duplicate)]);
    node.peers
        .handle_dial_failed(dial, refused(RefusedReason::Duplicate));
    assert_eq!(node.answers(), []);
    assert_eq!(node.peers.dials(), 0);
}

#[test]
fn failures_of_a_dial_reach_every_request() {
    let mut node = node();
    node.connect(1, None);
    node.connect(1, None);
    let dial = node.dial();
    let error = DialError::NoAddress(ResolveFailure { error: None });
    node.peers.handle_dial_failed(dial, error.clone());
    let error = ConnectError::Dial {
        endpoint: endpoint(1),
        error,
    };
    assert_eq!(error.kind(), "unreachable");
    assert_eq!(
        error.to_string(),
        "cannot connect to 10.0.0.1:9000: the name has no address"
    );
    for (_, result) in node.answers() {
        assert_eq!(result, Err(error.clone()));
    }
    // What was refused has the kind of the refusal.
    node.connect(1, None);
    let dial = node.dial();
    node.peers
        .handle_dial_failed(dial, refused(RefusedReason::WrongNetworkKey));
    let error = node.one_answer().unwrap_err();
    assert_eq!(error.kind(), "wrong_network_key");
    assert_eq!(error.refused(), Some(RefusedReason::WrongNetworkKey));
}

#[test]
fn a_node_does_not_connect_to_itself() {
    let mut node = node();
    node.connect(1, Some(OWN));
    assert_eq!(node.one_answer(), Err(ConnectError::SelfDial));
    node.connect(1, None);
    let dial = node.dial();
    node.peers
        .handle_identified(node.now, dial, 7, introduction(OWN));
    assert_eq!(node.orders(), [refuse(7, RefusedReason::SelfDial)]);
    assert_eq!(node.inbound(8, OWN), [refuse(8, RefusedReason::SelfDial)]);
    node.peers
        .handle_dial_failed(dial, refused(RefusedReason::SelfDial));
    assert_eq!(node.one_answer().unwrap_err().kind(), "self_dial");
}

#[test]
fn an_expected_peer_is_insisted_on() {
    let mut node = node();
    node.connect(1, Some(1));
    let dial = node.dial();
    node.peers
        .handle_identified(node.now, dial, 7, introduction(2));
    let reason = RefusedReason::WrongPeer {
        expected: id(1),
        found: id(2),
    };
    assert_eq!(node.orders(), [refuse(7, reason)]);
    node.peers
        .handle_closed(node.now, 7, DisconnectReason::Refused(reason));
    node.peers.handle_dial_failed(dial, refused(reason));
    assert_eq!(node.one_answer().unwrap_err().kind(), "wrong_peer");
    // Of two requests for one endpoint, one may want whoever answers and the other not.
    let anybody = node.connect(3, None);
    let dial = node.dial();
    let somebody = node.connect(3, Some(1));
    node.peers
        .handle_identified(node.now, dial, 8, introduction(2));
    let wrong = ConnectError::WrongPeer {
        expected: id(1),
        found: id(2),
    };
    assert_eq!(node.answers(), [(somebody, Err(wrong))]);
    node.peers.handle_accepted(node.now, 8);
    assert_eq!(node.answers(), [(anybody, Ok(id(2)))]);
}

#[test]
fn inbound_peers_leave_half_of_the_places() {
    let mut node = node();
    for n in 0..64 {
        assert!(matches!(
            node.inbound(n, n).as_slice(),
            [Order::Keep { .. }]
        ));
    }
    assert_eq!(node.inbound(64, 64), [refuse(64, RefusedReason::Full)]);
    for n in 200..264 {
        node.connected(n);
    }
    assert_eq!(node.peers.len(), 128);
    node.connect(300, None);
    let error = node.one_answer().unwrap_err();
    assert_eq!(error, ConnectError::Full { max: 128 });
    assert_eq!(error.kind(), "full");
    // A place that comes free is for the next.
    node.peers
        .handle_disconnect(node.now, &id(0))
        .expect("it is connected");
    node.orders();
    assert!(matches!(
        node.inbound(64, 64).as_slice(),
        [Order::Keep { .. }]
    ));
}

#[test]
fn a_number_that_was_asked_for_is_reached_from_either_side() {
    let mut node = Node::new(PeersLimits::with_peers_max(10));
    for n in 0..10 {
        assert!(matches!(
            node.inbound(n, n).as_slice(),
            [Order::Keep { .. }]
        ));
    }
    assert_eq!(node.inbound(10, 10), [refuse(10, RefusedReason::Full)]);
    // A peer that is connected still gets its new connection in when the old one is dead.
    node.events();
    let probe = Order::Probe {
        connection: 3,
        token: ProbeToken(1),
    };
    assert_eq!(node.inbound(11, 3), [probe]);
    node.now = node.peers.poll_timeout().unwrap();
    node.peers.handle_timeout(node.now);
    let close = Order::Close {
        connection: 3,
        reason: DisconnectReason::Replaced,
    };
    assert_eq!(node.orders(), [close]);
    node.peers
        .handle_closed(node.now, 3, DisconnectReason::Replaced);
    assert!(matches!(
        node.orders().as_slice(),
        [Order::Keep { connection: 11, .. }]
    ));
    let events = node.events();
    assert!(matches!(
        events.as_slice(),
        [
            PeersEvent::Disconnected {
                reason: DisconnectReason::Replaced,
                ..
            },
            PeersEvent::Connected { .. }
        ]
    ));
}

#[test]
fn a_place_is_set_aside_for_a_peer_that_decides_about_us() {
    let mut node = Node::new(PeersLimits::with_peers_max(1));
    node.connect(1, None);
    let dial = node.dial();
    node.connect(2, None);
    let other = node.dial();
    node.peers
        .handle_identified(node.now, dial, 7, introduction(1));
    assert_eq!(node.orders(), [Order::Proceed { connection: 7 }]);
    assert_eq!(node.inbound(8, 3), [refuse(8, RefusedReason::Full)]);
    node.peers
        .handle_identified(node.now, other, 9, introduction(2));
    assert_eq!(node.orders(), [refuse(9, RefusedReason::Full)]);
    assert_eq!(node.one_answer(), Err(ConnectError::Full { max: 1 }));
    // The peer itself may come in instead; which of the two stays is another question.
    node.peers.handle_accepted(node.now, 7);
    assert_eq!(node.one_answer(), Ok(id(1)));
    assert_eq!(node.peers.len(), 1);
}

#[test]
fn dials_and_requests_are_capped() {
    let limits = PeersLimits {
        dials_max: 3,
        requests_max: 5,
        ..PeersLimits::default()
    };
    let mut node = Node::new(limits);
    for n in 0..3 {
        node.connect(n, None);
        node.dial();
    }
    node.connect(4, None);
    let error = node.one_answer().unwrap_err();
    assert_eq!(error, ConnectError::Busy { max: 3 });
    assert_eq!(error.kind(), "busy");
    node.connect(0, None);
    node.connect(0, None);
    node.connect(0, None);
    assert_eq!(node.one_answer(), Err(ConnectError::Busy { max: 5 }));
    assert_eq!(node.orders(), []);
}

#[test]
fn undecided_connections_are_capped() {
    let limits = PeersLimits {
        undecided_max: 3,
        ..PeersLimits::default()
    };
    let mut node = Node::new(limits);
    for n in 0..4 {
        node.connected(n);
    }
    for n in 0..3 {
        let orders = node.inbound(1000 + n, n);
        assert!(matches!(orders.as_slice(), [Order::Probe { .. }]));
    }
    assert_eq!(node.inbound(1003, 3), [refuse(1003, RefusedReason::Full)]);
    // One peer may have four waiting.
    let limits = PeersLimits::default();
    let mut node = Node::new(limits);
    node.connected(1);
    for n in 0..4 {
        node.inbound(1000 + n, 1);
    }
    let orders = node.inbound(1004, 1);
    assert_eq!(orders, [refuse(1000, RefusedReason::Duplicate)]);
}

#[test]
fn a_dial_has_a_deadline() {
    let mut node = node();
    node.connect(1, None);
    let dial = node.dial();
    assert_eq!(node.peers.poll_timeout(), Some(at(35_000)));
    node.peers
        .handle_identified(at(34_000), dial, 7, introduction(1));
    node.orders();
    node.peers.handle_timeout(at(35_000));
    assert_eq!(
        node.orders(),
        [
            Order::CancelDial { dial },
            refuse(7, RefusedReason::CalledOff)
        ]
    );
    let error = node.one_answer().unwrap_err();
    assert_eq!(error.kind(), "timeout");
    assert_eq!(
        error.to_string(),
        "cannot connect to 10.0.0.1:9000: not done within the deadline"
    );
    node.peers.handle_accepted(at(35_001), 7);
    assert!(node.peers.is_empty(), "the answer came too late");
}

#[test]
fn requests_can_be_cancelled() {
    let mut node = node();
    let first = node.connect(1, None);
    let dial = node.dial();
    let second = node.connect(1, None);
    node.peers.handle_cancel(first);
    assert_eq!(node.answers(), [(first, Err(ConnectError::Cancelled))]);
    assert_eq!(node.orders(), [], "somebody else still waits");
    node.peers.handle_cancel(second);
    assert_eq!(node.answers(), [(second, Err(ConnectError::Cancelled))]);
    assert_eq!(node.orders(), [Order::CancelDial { dial }]);
    node.peers.handle_cancel(second);
    assert_eq!(node.answers(), []);
    node.peers
        .handle_identified(node.now, dial, 7, introduction(1));
    assert_eq!(node.orders(), [refuse(7, RefusedReason::CalledOff)]);
}

#[test]
fn disconnecting_ends_everything_with_that_peer() {
    let mut node = node();
    assert_eq!(
        node.peers.handle_disconnect(node.now, &id(1)),
        Err(NotConnected)
    );
    node.connected(1);
    node.inbound(20, 1);
    node.connect(5, Some(2));
    let dial = node.dial();
    assert_eq!(node.peers.handle_disconnect(node.now, &id(1)), Ok(()));
    let close = Order::Close {
        connection: 1,
        reason: DisconnectReason::Requested,
    };
    assert_eq!(node.orders(), [refuse(20, RefusedReason::CalledOff), close]);
    assert!(matches!(
        node.events().as_slice(),
        [PeersEvent::Disconnected {
            reason: DisconnectReason::Requested,
            ..
        }]
    ));
    // A dial to a peer that is called off.
    assert_eq!(node.peers.handle_disconnect(node.now, &id(2)), Ok(()));
    assert_eq!(node.orders(), [Order::CancelDial { dial }]);
    assert_eq!(node.one_answer(), Err(ConnectError::Cancelled));
    // Once more is an error, also while the connection closes.
    assert_eq!(
        node.peers.handle_disconnect(node.now, &id(1)),
        Err(NotConnected)
    );
    // A new connection waits until the old one has closed.
    assert_eq!(node.inbound(21, 1), []);
    node.peers
        .handle_closed(node.now, 1, DisconnectReason::Requested);
    assert!(matches!(
        node.orders().as_slice(),
        [Order::Keep { connection: 21, .. }]
    ));
}

#[test]
fn stopping_closes_and_refuses_everything() {
    let mut node = node();
    node.connected(1);
    node.connect(2, None);
    let dial = node.dial();
    node.inbound(20, 1);
    node.peers.handle_stop(node.now);
    let close = Order::Close {
        connection: 1,
        reason: DisconnectReason::Stopping,
    };
    assert_eq!(
        node.orders(),
        [
            refuse(20, RefusedReason::Stopping),
            close,
            Order::CancelDial { dial }
        ]
    );
    assert_eq!(node.one_answer(), Err(ConnectError::Stopping));
    assert_eq!(node.inbound(21, 3), [refuse(21, RefusedReason::Stopping)]);
    node.connect(4, None);
    assert_eq!(node.one_answer().unwrap_err().kind(), "stopping");
    node.peers
        .handle_closed(node.now, 1, DisconnectReason::Stopping);
    assert!(node.peers.is_empty() && node.peers.contests.is_empty());
}

#[test]
fn a_name_that_is_too_long_is_left_out() {
    let mut node = node();
    let name = |bytes: usize| Some("x".repeat(bytes).into_boxed_str());
    let longest = Introduction {
        name: name(NAME_BYTES_MAX),
        ..introduction(1)
    };
    node.peers.handle_inbound(node.now, 1, longest.clone());
    let too_long = Introduction {
        name: name(NAME_BYTES_MAX + 1),
        ..introduction(2)
    };
    node.peers.handle_inbound(node.now, 2, too_long);
    let names: Vec<_> = (1..=2)
        .map(|n| {
            let peer = node.peers.find(&id(n)).unwrap();
            node.peers.record(peer).unwrap().name
        })
        .collect();
    assert_eq!(names, [longest.name, None]);
}

#[test]
fn a_list_gathers_what_connections_report() {
    let mut node = node();
    let lists = |node: &mut Node| -> Vec<(RequestId, Vec<PeerRecord>)> {
        std::iter::from_fn(|| node.peers.poll_answer())
            .map(|answer| match answer {
                Answer::List { request, peers } => (request, peers),
                Answer::Connect { .. } => panic!("{answer:?}"),
            })
            .collect()
    };
    node.peers.handle_list(node.now, RequestId(1));
    assert_eq!(lists(&mut node), [(RequestId(1), vec![])]);
    let peers: Vec<PeerRef> = (1..=3).map(|n| node.connected(n)).collect();
    node.peers.handle_list(node.now, RequestId(2));
    assert_eq!(node.orders().len(), 3);
    // Who asks meanwhile gets figures from after the question.
    node.peers.handle_list(node.now, RequestId(3));
    node.peers.handle_list(node.now, RequestId(4));
    assert_eq!(node.orders(), []);
    let traffic = |n: u64| Traffic {
        bytes_in: n,
        ..Traffic::default()
    };
    node.peers.handle_report(node.now, peers[0], traffic(1));
    node.peers.handle_report(node.now, peers[0], traffic(1));
    node.peers
        .handle_closed(node.now, 2, DisconnectReason::ByPeer);
    assert_eq!(lists(&mut node), []);
    node.peers.handle_report(node.now, peers[2], traffic(3));
    let listed = lists(&mut node);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].0, RequestId(2));
    let figures: Vec<_> = listed[0]
        .1
        .iter()
        .map(|record| (record.id, record.traffic))
        .collect();
    assert_eq!(
        figures,
        [(id(1), Some(traffic(1))), (id(3), Some(traffic(3)))]
    );
    // The next round, in which one connection does not answer.
    assert_eq!(node.orders().len(), 2);
    node.peers.handle_report(node.now, peers[0], traffic(2));
    node.now = node.peers.poll_timeout().unwrap();
    assert_eq!(node.now, at(500));
    node.peers.handle_timeout(node.now);
    let listed = lists(&mut node);
    let requests: Vec<_> = listed.iter().map(|(request, _)| request.0).collect();
    assert_eq!(requests, [3, 4]);
    assert_eq!(listed[0].1[1].traffic, None);
    // A report that comes too late is for nobody.
    node.peers.handle_report(node.now, peers[2], traffic(9));
    assert_eq!(node.peers.poll_timeout(), None);
}

#[test]
fn ten_thousand_peers_stay_within_their_bytes() {
    let mut node = Node::new(PeersLimits::with_peers_max(10_000));
    for n in 0..10_000u32 {
        node.inbound(n, 1000 + n);
        node.events();
    }
    assert_eq!(node.peers.len(), 10_000);
    let bytes = node.peers.heap_bytes() / 10_000;
    assert!(bytes <= crate::peers::PEER_BYTES_MAX, "{bytes} B");
}

/// Random input of every kind, most of it nonsense: connections that nobody knows, reports out of turn, wrong tokens.
#[test]
fn random_histories_keep_every_promise() {
    for seed in 0..2000 {
        history(seed);
    }
}

#[derive(Default)]
struct Promises {
    open: BTreeMap<PeerId, PeerRef>,
    asked: BTreeSet<RequestId>,
    answered: BTreeSet<RequestId>,
    told: BTreeMap<u32, Order<u32>>,
}

impl Promises {
    fn check(&mut self, node: &mut Node, limits: &PeersLimits, seed: u64) {
        for event in node.events() {
            match event {
                PeersEvent::Connected { peer, id, .. } => {
                    assert_eq!(self.open.insert(id, peer), None, "seed {seed}");
                }
                PeersEvent::Disconnected { peer, id, .. } => {
                    assert_eq!(self.open.remove(&id), Some(peer), "seed {seed}");
                }
                PeersEvent::SeenTwice { .. } => {}
            }
        }
        while let Some(answer) = node.peers.poll_answer() {
            let (Answer::Connect { request, .. } | Answer::List { request, .. }) = answer;
            assert!(self.asked.contains(&request), "seed {seed}");
            assert!(self.answered.insert(request), "seed {seed}: answered twice");
        }
        for order in node.orders() {
            if let Order::Keep { connection, .. } | Order::Refuse { connection, .. } = order {
                let old = self.told.insert(connection, order);
                assert!(
                    !matches!(old, Some(Order::Refuse { .. } | Order::Keep { .. })),
                    "seed {seed}: connection {connection} is told twice"
                );
            }
        }
        let listed: BTreeMap<PeerId, PeerRef> =
            node.peers.peers().map(|(peer, id, _)| (id, peer)).collect();
        assert_eq!(listed, self.open, "seed {seed}");
        assert!(node.peers.len() <= limits.peers_max);
        assert!(node.peers.table.inbound() <= limits.inbound_max);
        assert!(node.peers.table.outbound() <= limits.outbound_max);
        assert!(node.peers.dials() <= limits.dials_max as usize);
        assert!(
            node.peers
                .contests
                .values()
                .all(|contest| !contest.is_empty())
        );
    }
}

fn history(seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut below = |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let limits = PeersLimits {
        peers_max: 6,
        inbound_max: 4,
        outbound_max: 4,
        dials_max: 4,
        requests_max: 8,
        undecided_max: 10,
        ..PeersLimits::default()
    };
    let mut node = Node::new(limits);
    let mut promises = Promises::default();
    let mut connections = 0;
    for _ in 0..300 {
        // Ids on both sides of our own, and now and then our own.
        let n = 97 + below(8) as u32;
        let known = below(u64::from(connections) + 1) as u32;
        let dial = DialId(below(12) as u32);
        let now = node.now;
        match below(13) {
            0 | 1 => {
                let expected = (below(2) == 0).then_some(n);
                let request = node.connect(97 + below(8) as u32, expected);
                promises.asked.insert(request);
            }
            2 | 3 => {
                connections += 1;
                let introduction = introduction(n);
                node.peers
                    .handle_identified(now, dial, connections, introduction);
            }
            4 | 5 => {
                connections += 1;
                let introduction = introduction(n);
                node.peers.handle_inbound(now, connections, introduction);
            }
            6 => node.peers.handle_accepted(now, known),
            7 => {
                let reason = DisconnectReason::TimedOut;
                node.peers.handle_closed(now, known, reason);
            }
            8 => {
                let token = ProbeToken(node.peers.probes.wrapping_sub(below(2) as u32));
                node.peers.handle_alive(now, known, token);
            }
            9 => {
                let error = refused(RefusedReason::Full);
                node.peers.handle_dial_failed(dial, error);
            }
            10 => {
                let _ = node.peers.handle_disconnect(now, &id(n));
            }
            11 => {
                node.requests += 1;
                let request = RequestId(node.requests);
                promises.asked.insert(request);
                node.peers.handle_list(now, request);
            }
            _ => match node.peers.poll_timeout() {
                Some(deadline) if below(2) == 0 => {
                    node.now = node.now.max(deadline);
                    node.peers.handle_timeout(node.now);
                }
                _ => node.now += Duration::from_millis(below(3000)),
            },
        }
        promises.check(&mut node, &limits, seed);
    }
    // In the end everybody is answered and nothing is left.
    node.peers.handle_stop(node.now);
    while let Some(deadline) = node.peers.poll_timeout() {
        node.now = node.now.max(deadline);
        node.peers.handle_timeout(node.now);
    }
    promises.check(&mut node, &limits, seed);
    assert_eq!(promises.asked, promises.answered, "seed {seed}");
    assert!(promises.open.is_empty(), "seed {seed}");
    for connection in 0..=connections {
        let reason = DisconnectReason::Stopping;
        node.peers.handle_closed(node.now, connection, reason);
    }
    assert!(node.peers.contests.is_empty() && node.peers.undecided.is_empty());
}
