//! The whole subsystem without its actor: lost peers, bans, protection, the book and the exchange.

use std::collections::BTreeMap;
use std::io;

use super::*;
use crate::connection::{
    AttemptFailure, DialError, FailedAttempt, ResolveFailure, Suite, parse_addr,
};
use crate::peers::exchange::ExchangeMessage;
use crate::peers::store::{FileKind, Stored};
use crate::peers::{Group, NetworkSettings, PeersLimits, Subnet, Waits};
use mischief_reactor::WallTime;

const LOST: DisconnectReason = DisconnectReason::Lost(io::ErrorKind::ConnectionReset);
const SECOND: Duration = Duration::from_secs(1);

fn wall(seconds: u64) -> WallTime {
    WallTime::from_unix_nanos(seconds * 1_000_000_000)
}

fn identity(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

fn id(n: u8) -> PeerId {
    identity(n).peer_id()
}

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([20 + n, n, 0, 1], 9000))
}

fn keeps_all() -> NetworkSettings {
    NetworkSettings {
        exchanges: true,
        outbound_target: 8,
        keeps_book: true,
        is_kept: true,
        ..NetworkSettings::default()
    }
}

/// A machine, the dials it has ordered, and what it has told.
struct Node {
    network: Network<u32>,
    now: Instant,
    requests: u64,
    connections: u32,
    dials: BTreeMap<DialId, Endpoint>,
    refused: BTreeMap<u32, RefusedReason>,
    /// Every dial and when it was ordered.
    dialled: Vec<(Instant, Endpoint)>,
    notices: Vec<Notice>,
    answers: Vec<Answer>,
    sent: Vec<(u32, Vec<u8>)>,
}

impl Node {
    fn new(settings: NetworkSettings) -> Node {
        Node::with_limits(settings, PeersLimits::default())
    }

    fn with_limits(settings: NetworkSettings, limits: PeersLimits) -> Node {
        let peers = Peers::new(id(0), limits);
        Node {
            network: Network::new(peers, settings, Arc::new(identity(0)), [5; 32]),
            now: Instant::ZERO + Duration::from_secs(1_000_000),
            requests: 0,
            connections: 0,
            dials: BTreeMap::new(),
            refused: BTreeMap::new(),
            dialled: Vec::new(),
            notices: Vec::new(),
            answers: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Takes everything out.
    fn drain(&mut self) {
        self.network.advance(self.now);
        while let Some(order) = self.network.poll_order() {
            match order {
                Order::Dial { dial, endpoint } => {
                    self.dialled.push((self.now, endpoint.clone()));
                    self.dials.insert(dial, endpoint);
                }
                Order::CancelDial { dial } => drop(self.dials.remove(&dial)),
                Order::Refuse { connection, reason } => {
                    self.refused.insert(connection, reason);
                }
                Order::Probe { connection, token } => {
                    // Every connection is alive.
                    self.network.peers.handle_alive(self.now, connection, token);
                    self.network.advance(self.now);
                }
                _ => {}
            }
        }
        while self.network.poll_event().is_some() {}
        self.answers
            .extend(std::iter::from_fn(|| self.network.poll_answer()));
        self.notices
            .extend(std::iter::from_fn(|| self.network.poll_notice()));
        self.sent
            .extend(std::iter::from_fn(|| self.network.poll_transmit()));
        let is_to_save = self
            .network
            .saving
            .deadline()
            .is_some_and(|at| at <= self.now);
        let next = self.network.poll_timeout(self.now);
        assert!(
            is_to_save || next.is_none_or(|at| at > self.now),
            "a deadline that has come and changes nothing would keep a core busy"
        );
    }

    fn introduction(&self, n: u8, addr: SocketAddr) -> Introduction {
        Introduction {
            message_max: 1 << 20,
            peer: id(n),
            addr,
            suite: Suite::ChaChaPoly,
            name: None,
        }
    }

    fn inbound_from(&mut self, n: u8, from: SocketAddr, claims: Claims) -> u32 {
        self.connections += 1;
        let (connection, introduction) = (self.connections, self.introduction(n, from));
        self.network
            .handle_inbound(self.now, connection, introduction, claims);
        self.drain();
        connection
    }

    fn inbound(&mut self, n: u8) -> u32 {
        self.inbound_from(n, addr(n), Claims::default())
    }

    /// A dial reaches its peer, who accepts.
    fn reach(&mut self, dial: DialId, n: u8) -> u32 {
        self.connections += 1;
        let connection = self.connections;
        self.dials.remove(&dial);
        let introduction = self.introduction(n, addr(n));
        let claims = Claims::default();
        self.network
            .handle_identified(self.now, dial, connection, introduction, claims);
        self.network.peers.handle_accepted(self.now, connection);
        self.drain();
        connection
    }

    /// A user connects to a peer.
    fn connect(&mut self, n: u8) -> u32 {
        self.connect_to(n, addr(n).into())
    }

    fn connect_to(&mut self, n: u8, endpoint: Endpoint) -> u32 {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.network
            .handle_connect(self.now, request, endpoint, None);
        self.drain();
        let dial = *self.dials.keys().next_back().expect("it dials");
        self.reach(dial, n)
    }

    fn lose(&mut self, connection: u32, reason: DisconnectReason) {
        self.network.handle_closed(self.now, connection, reason);
        self.drain();
    }

    fn fail(&mut self, dial: DialId, failure: AttemptFailure) {
        self.dials.remove(&dial);
        let attempts = [FailedAttempt {
            addr: addr(1),
            failure,
        }]
        .into();
        let error = DialError::AllFailed {
            attempts,
            is_cut: false,
        };
        self.network.peers.handle_dial_failed(dial, error);
        self.drain();
    }

    /// Lets time pass to the next deadline; `None` if there is none.
    fn step(&mut self) -> Option<()> {
        self.now = self.network.poll_timeout(self.now)?.max(self.now);
        self.network.handle_timeout(self.now);
        if let Some(save) = self.network.poll_save(self.now, wall(1_800_000_000)) {
            self.network.handle_saved(self.now, save.change, true);
        }
        self.drain();
        Some(())
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self
            .network
            .poll_timeout(self.now)
            .is_some_and(|at| at <= end)
        {
            self.step();
        }
        self.now = end;
    }

    /// Lets time pass until it dials.
    #[track_caller]
    fn next_dial(&mut self) -> DialId {
        for _ in 0..100 {
            if let Some((dial, _)) = self.dials.first_key_value() {
                return *dial;
            }
            self.step().expect("something will happen");
        }
        panic!("it does not dial");
    }

    fn gave_up(&self) -> Vec<GaveUp> {
        let why = |notice: &Notice| match notice {
            Notice::GaveUp { why, .. } => Some(*why),
            _ => None,
        };
        self.notices.iter().filter_map(why).collect()
    }
}

#[test]
fn a_lost_peer_is_dialled_again_by_who_had_dialled() {
    let mut node = Node::new(NetworkSettings::default());
    let dialled = node.connect(1);
    let inbound = node.inbound(2);
    node.lose(inbound, LOST);
    assert_eq!(
        node.network.reconnect_queue(node.now),
        [],
        "the other side comes back"
    );
    node.lose(dialled, LOST);
    assert!(
        matches!(node.notices.last(), Some(Notice::Reconnecting { peer, .. }) if *peer == id(1))
    );
    let lost_at = node.now;
    let dial = node.next_dial();
    assert!(node.now <= lost_at + 5 * SECOND);
    assert_eq!(node.dialled.last().unwrap().1, addr(1).into());
    node.reach(dial, 1);
    assert!(node.network.reconnect_queue(node.now).is_empty());
    let standing = node
        .network
        .standing(node.network.peers.find(&id(1)).unwrap())
        .unwrap();
    assert_eq!(standing.found, Found::Reconnected);
    // Once it has proved good nothing is left of it.
    node.run_for(100 * SECOND);
    assert_eq!(node.network.poll_timeout(node.now), None);
}

#[test]
fn whoever_was_wanted_gone_stays_gone() {
    let gone = [
        DisconnectReason::Requested,
        DisconnectReason::ByPeer,
        DisconnectReason::Trimmed,
        DisconnectReason::Refused(RefusedReason::Banned),
        DisconnectReason::Refused(RefusedReason::CalledOff),
    ];
    for reason in gone {
        let mut node = Node::new(NetworkSettings::default());
        let connection = node.connect(1);
        node.lose(connection, reason);
        assert_eq!(node.network.poll_timeout(node.now), None, "{reason:?}");
    }
    let lost = [
        LOST,
        DisconnectReason::TimedOut,
        DisconnectReason::Refused(RefusedReason::Stopping),
    ];
    for reason in lost {
        let mut node = Node::new(NetworkSettings::default());
        let connection = node.connect(1);
        node.lose(connection, reason);
        assert_eq!(
            node.network.reconnect_queue(node.now).len(),
            1,
            "{reason:?}"
        );
        // A disconnect calls it off, and an attempt under way with it.
        let dial = node.next_dial();
        assert_eq!(node.network.handle_disconnect(node.now, &id(1)), Ok(()));
        node.drain();
        assert_eq!(node.gave_up(), [GaveUp::CalledOff]);
        assert!(!node.dials.contains_key(&dial));
        assert_eq!(node.network.poll_timeout(node.now), None);
        assert_eq!(node.answers.len(), 1, "only the user's own");
    }
    let mut off = Node::new(NetworkSettings {
        reconnect: ReconnectPolicy::off(),
        ..NetworkSettings::default()
    });
    let connection = off.connect(1);
    off.lose(connection, LOST);
    assert_eq!(off.network.poll_timeout(off.now), None);
}

#[test]
fn a_peer_dialled_by_name_is_looked_up_again() {
    let mut node = Node::new(NetworkSettings::default());
    let name = parse_addr("hub.example:9000").unwrap();
    let connection = node.connect_to(1, name.clone());
    node.lose(connection, LOST);
    node.next_dial();
    assert_eq!(node.dialled.last().unwrap().1, name);
}

#[test]
fn attempts_end_as_the_policy_says() {
    let mut node = Node::new(NetworkSettings {
        reconnect: ReconnectPolicy::librats(),
        ..NetworkSettings::default()
    });
    let connection = node.connect(1);
    node.lose(connection, LOST);
    for _ in 0..3 {
        let dial = node.next_dial();
        node.fail(dial, AttemptFailure::ConnectionRefused);
    }
    assert_eq!(node.gave_up(), [GaveUp::NotReached { attempts: 3 }]);
    assert_eq!(node.network.poll_timeout(node.now), None);
    // Who is protected is not given up, and one who does not want us is at once.
    let connection = node.connect(2);
    assert!(node.network.handle_protect(node.now, id(2), true).is_some());
    node.lose(connection, LOST);
    for _ in 0..10 {
        let dial = node.next_dial();
        node.fail(dial, AttemptFailure::TimedOut);
    }
    assert_eq!(node.gave_up().len(), 1);
    let dial = node.next_dial();
    node.fail(dial, AttemptFailure::Refused(RefusedReason::Banned));
    assert_eq!(node.gave_up().last(), Some(&GaveUp::Unwanted));
}

#[test]
fn no_second_sees_more_than_ten_dials() {
    let mut node = Node::with_limits(NetworkSettings::default(), PeersLimits::with_peers_max(300));
    let connections: Vec<u32> = (1..=200).map(|n| node.connect(n)).collect();
    node.run_for(100 * SECOND);
    node.dialled.clear();
    for connection in connections {
        node.lose(connection, LOST);
    }
    let start = node.now;
    while node.now < start + 60 * SECOND && node.step().is_some() {
        while let Some((&dial, _)) = node.dials.first_key_value() {
            node.fail(dial, AttemptFailure::ConnectionRefused);
        }
    }
    let times: Vec<Instant> = node.dialled.iter().map(|(at, _)| *at).collect();
    assert!(times.len() > 300, "{}", times.len());
    for window in times.windows(11) {
        assert!(window[10].saturating_duration_since(window[0]) >= SECOND);
    }
}

#[test]
fn a_lost_peer_waits_for_a_dial_to_end_when_there_are_enough() {
    let limits = PeersLimits {
        dials_max: 1,
        ..PeersLimits::default()
    };
    let mut node = Node::with_limits(NetworkSettings::default(), limits);
    let connections = [1, 2].map(|n| node.connect(n));
    for connection in connections {
        node.lose(connection, LOST);
    }
    let dial = node.next_dial();
    node.run_for(20 * SECOND);
    assert_eq!(node.dials.len(), 1);
    node.fail(dial, AttemptFailure::TimedOut);
    assert_eq!(node.dials.len(), 1, "the other one's turn");
    assert!(!node.dials.contains_key(&dial));
}

#[test]
fn a_changed_network_hurries_the_lost_and_a_day_asleep_forgets_nobody() {
    let mut node = Node::new(NetworkSettings::default());
    let connection = node.connect(1);
    node.lose(connection, LOST);
    for _ in 0..12 {
        let dial = node.next_dial();
        node.fail(dial, AttemptFailure::Unreachable);
    }
    node.now += Duration::from_secs(24 * 3600);
    node.network.handle_network_change(node.now);
    node.drain();
    let dial = node.next_dial();
    node.fail(dial, AttemptFailure::Unreachable);
    assert_eq!(node.gave_up(), [], "it was asleep, and has not tried");
    let before = node.now;
    node.network.handle_network_change(node.now);
    let dial = node.next_dial();
    assert!(node.now <= before + SECOND);
    node.reach(dial, 1);
    assert_eq!(node.network.peers.len(), 1);
}

#[test]
fn bans_disconnect_refuse_and_end() {
    let mut node = Node::new(NetworkSettings::default());
    let connection = node.connect(1);
    let hour = Some(Duration::from_secs(3600));
    let change = node
        .network
        .handle_ban(node.now, Target::Peer(id(1)), hour)
        .unwrap();
    assert!(node.network.is_saved(change), "nothing is kept here");
    node.drain();
    assert!(node.network.peers.is_empty());
    node.lose(connection, DisconnectReason::Banned);
    assert!(node.network.reconnect_queue(node.now).is_empty());
    let inbound = node.inbound(1);
    assert_eq!(node.refused.get(&inbound), Some(&RefusedReason::Banned));
    node.network
        .handle_connect(node.now, RequestId(77), addr(1).into(), Some(id(1)));
    node.drain();
    let banned = Answer::Connect {
        request: RequestId(77),
        result: Err(ConnectError::Banned),
    };
    assert_eq!(node.answers.last(), Some(&banned));
    assert_eq!(node.network.bans(node.now), [(Target::Peer(id(1)), hour)]);
    node.run_for(Duration::from_secs(3600));
    let over = Notice::Unbanned {
        target: Target::Peer(id(1)),
        is_expired: true,
    };
    assert_eq!(node.notices.last(), Some(&over));
    let inbound = node.inbound(1);
    assert_eq!(node.refused.get(&inbound), None);
    // A range, with those who are lost there.
    let lost = node.connect(2);
    node.lose(lost, LOST);
    let range: Subnet = "22.2.0.0/16".parse().unwrap();
    node.network
        .handle_ban(node.now, Target::Subnet(range), None)
        .unwrap();
    node.drain();
    assert!(node.network.reconnect_queue(node.now).is_empty());
    let inbound = node.inbound(2);
    assert_eq!(node.refused.get(&inbound), Some(&RefusedReason::Banned));
    assert_eq!(
        node.network.handle_unban(node.now, &Target::Peer(id(9))),
        None
    );
    assert!(
        node.network
            .handle_unban(node.now, &Target::Subnet(range))
            .is_some()
    );
}

#[test]
fn a_protected_peer_gets_a_place_and_keeps_it() {
    let limits = PeersLimits::with_peers_max(3);
    let mut node = Node::with_limits(NetworkSettings::default(), limits);
    for n in 1..=3 {
        node.inbound(n);
    }
    let refused = node.inbound(4);
    assert_eq!(node.refused.get(&refused), Some(&RefusedReason::Full));
    node.network.handle_protect(node.now, id(4), true);
    node.inbound(4);
    assert!(node.network.peers.find(&id(4)).is_some());
    assert_eq!(node.network.peers.len(), 3);
    for n in 1..=3 {
        node.network.handle_protect(node.now, id(n), true);
    }
    let standing = node
        .network
        .standing(node.network.peers.find(&id(4)).unwrap())
        .unwrap();
    assert!(standing.is_protected);
    node.network.handle_protect(node.now, id(5), true);
    let refused = node.inbound(5);
    assert_eq!(
        node.refused.get(&refused),
        Some(&RefusedReason::Full),
        "all are protected"
    );
}

#[test]
fn one_group_cannot_keep_others_out() {
    let limits = PeersLimits {
        inbound_max: 8,
        ..PeersLimits::default()
    };
    let mut node = Node::with_limits(NetworkSettings::default(), limits);
    for n in 1..=8 {
        node.inbound_from(
            n,
            SocketAddr::from(([66, 6, n, 1], 40_000)),
            Claims::default(),
        );
        node.now += SECOND;
    }
    for n in 11..=14 {
        let connection = node.inbound(n);
        assert_eq!(node.refused.get(&connection), None);
    }
    assert_eq!(node.network.peers.len(), 8);
    let more = node.inbound_from(
        20,
        SocketAddr::from(([66, 6, 99, 1], 40_000)),
        Claims::default(),
    );
    assert_eq!(node.refused.get(&more), Some(&RefusedReason::Full));
    assert!(
        node.network.peers.find(&id(1)).is_some(),
        "the oldest stays"
    );
}

#[test]
fn two_machines_with_one_identity_are_reported_and_do_not_take_turns() {
    let mut node = Node::new(NetworkSettings::default());
    node.inbound_from(1, addr(1), Claims::default());
    for _ in 0..5 {
        node.run_for(3 * SECOND);
        let other = node.inbound_from(1, addr(50), Claims::default());
        assert_eq!(node.refused.get(&other), Some(&RefusedReason::Duplicate));
    }
    let twice: Vec<&Notice> = node
        .notices
        .iter()
        .filter(|notice| matches!(notice, Notice::SeenTwice { .. }))
        .collect();
    let want = Notice::SeenTwice {
        peer: id(1),
        addr: addr(1),
        other: Some(addr(50)),
    };
    assert_eq!(twice, [&want], "once");
    // The other machine learns it as well.
    let mut other = Node::new(NetworkSettings::default());
    let connection = other.connect(1);
    other.lose(connection, LOST);
    for _ in 0..4 {
        let dial = other.next_dial();
        other.fail(dial, AttemptFailure::Refused(RefusedReason::Duplicate));
    }
    let own = Notice::SeenTwice {
        peer: id(0),
        addr: addr(1),
        other: None,
    };
    assert_eq!(
        other
            .notices
            .iter()
            .filter(|notice| **notice == own)
            .count(),
        1
    );
}

// ---- what outlives the node

fn files(node: &mut Node) -> Vec<(FileKind, Vec<u8>)> {
    let save = node
        .network
        .poll_save(node.now, wall(1_800_000_000))
        .expect("something has changed");
    node.network.handle_saved(node.now, save.change, true);
    save.files
}

fn stored(files: &[(FileKind, Vec<u8>)]) -> Stored {
    let [current, ever] = files else { panic!() };
    let current = Stored::decode(&current.1, FileKind::Current).unwrap();
    Stored {
        current: current.current,
        ..Stored::decode(&ever.1, FileKind::Ever).unwrap()
    }
}

#[test]
fn what_is_known_outlives_the_node() {
    let mut node = Node::new(keeps_all());
    node.connect(1);
    node.inbound_from(
        2,
        addr(2),
        Claims {
            listen: vec!["0.0.0.0:7000".parse().unwrap()],
            observed: None,
            ..Claims::default()
        },
    );
    node.network.handle_protect(node.now, id(3), true);
    let change = node
        .network
        .handle_ban(
            node.now,
            Target::Peer(id(4)),
            Some(Duration::from_secs(100)),
        )
        .unwrap();
    assert!(!node.network.is_saved(change));
    node.network.handle_stop(node.now);
    node.drain();
    let files = files(&mut node);
    assert!(node.network.is_saved(change));
    let mut next = Node::new(keeps_all());
    next.network
        .restore(next.now, wall(1_800_000_040), stored(&files));
    next.drain();
    assert_eq!(
        next.network.bans(next.now),
        [(Target::Peer(id(4)), Some(Duration::from_secs(60)))]
    );
    let book = next.network.address_book(next.now);
    let mut known: Vec<_> = book
        .iter()
        .map(|entry| (entry.peer, entry.endpoint.to_string(), entry.is_tried))
        .collect();
    known.sort_by_key(|(peer, ..)| *peer != id(1));
    let listen = SocketAddr::new(addr(2).ip(), 7000).to_string();
    assert_eq!(
        known,
        [(id(1), addr(1).to_string(), true), (id(2), listen, false)],
        "never its ephemeral port"
    );
    assert!(
        book.iter()
            .all(|entry| entry.heard == Duration::from_secs(40))
    );
    // Who was connected is dialled at the start.
    let start = next.now;
    let dial = next.next_dial();
    assert!(next.now <= start + 5 * SECOND);
    next.reach(dial, 1);
    assert!(next.network.peers.protected.contains(&id(3)));
}

#[test]
fn a_clock_that_jumps_a_year_either_way_loses_nothing() {
    let mut node = Node::new(keeps_all());
    node.connect(1);
    node.network
        .handle_ban(node.now, Target::Peer(id(4)), None)
        .unwrap();
    let year = 365 * 24 * 3600;
    let files = files(&mut node);
    for now in [1_800_000_000 - year, 1_800_000_000 + year, 0] {
        let mut next = Node::new(keeps_all());
        next.network.restore(next.now, wall(now), stored(&files));
        next.drain();
        assert_eq!(next.network.address_book(next.now).len(), 1);
        assert_eq!(next.network.bans(next.now).len(), 1);
        let dial = next.next_dial();
        next.reach(dial, 1);
        assert_eq!(next.network.peers.len(), 1, "{now}");
        next.network
            .handle_listening(next.now, wall(now), vec![addr(0)]);
        let record = next.network.own_record().unwrap();
        assert!(record.sequence() > 0);
    }
}

#[test]
fn the_number_of_the_own_record_never_goes_back() {
    let mut node = Node::new(keeps_all());
    node.network
        .handle_listening(node.now, wall(1_800_000_000), vec![addr(0)]);
    let first = node.network.own_record().unwrap().sequence();
    node.network
        .handle_listening(node.now, wall(5), vec![addr(0)]);
    assert_eq!(
        node.network.own_record().unwrap().sequence(),
        first,
        "nothing new to say"
    );
    node.network
        .handle_listening(node.now, wall(5), vec![addr(9)]);
    assert_eq!(node.network.own_record().unwrap().sequence(), first + 1);
}

#[test]
fn a_failed_write_is_tried_again_and_acknowledges_nothing() {
    let mut node = Node::new(keeps_all());
    let change = node
        .network
        .handle_ban(node.now, Target::Peer(id(4)), None)
        .unwrap();
    let save = node.network.poll_save(node.now, wall(1)).unwrap();
    assert_eq!(
        node.network.poll_save(node.now, wall(1)),
        None,
        "one at a time"
    );
    node.network.handle_saved(node.now, save.change, false);
    assert!(!node.network.is_saved(change) && !node.network.is_saving());
    node.now = node.network.poll_timeout(node.now).unwrap();
    let save = node.network.poll_save(node.now, wall(1)).unwrap();
    node.network.handle_saved(node.now, save.change, true);
    assert!(node.network.is_saved(change) && !node.network.is_saving());
}

// ---- book and exchange

fn record(n: u8, at: SocketAddr) -> SignedRecord {
    SignedRecord::sign(&identity(n), 1, [at]).unwrap()
}

/// The token of the question that was sent last.
#[track_caller]
fn question(node: &Node) -> (u32, u32) {
    let asked =
        node.sent.iter().rev().find_map(|(connection, bytes)| {
            match ExchangeMessage::decode(bytes) {
                Some(ExchangeMessage::Ask { token, .. }) => Some((*connection, token)),
                _ => None,
            }
        });
    asked.expect("it has asked")
}

/// Answers the next question with these records.
fn tell(node: &mut Node, records: &[SignedRecord]) {
    node.sent.clear();
    for _ in 0..100 {
        if node.sent.iter().any(|(_, bytes)| bytes[0] == 1) {
            break;
        }
        node.step().expect("it asks");
    }
    let (connection, token) = question(node);
    for part in ExchangeMessage::tell(token, records) {
        node.network.handle_exchange(node.now, connection, &part);
    }
    node.drain();
}

#[test]
fn peers_of_peers_are_found_and_dialled() {
    let mut node = Node::new(keeps_all());
    node.network
        .handle_listening(node.now, wall(1), vec![addr(0)]);
    node.connect(1);
    let records: Vec<SignedRecord> = (2..=6).map(|n| record(n, addr(n))).collect();
    tell(&mut node, &records);
    assert_eq!(node.network.address_book(node.now).len(), 6);
    // Two of them at most, for one teller is not to choose for us. So another has to tell of the rest.
    node.inbound(30);
    for n in 4..=6 {
        node.network.book.forget(&id(n));
        let source = Group::of(addr(30 + n).ip());
        assert!(
            node.network
                .book
                .hear(node.now, id(n), addr(n), source, Some(record(n, addr(n))))
        );
    }
    for _ in 0..5 {
        let dial = node.next_dial();
        let endpoint = node.dials[&dial].clone();
        let n = (2..=6)
            .find(|n| Endpoint::from(addr(*n)) == endpoint)
            .expect("one of them");
        node.reach(dial, n);
    }
    assert_eq!(node.network.peers.len(), 7);
    let found = node
        .network
        .standing(node.network.peers.find(&id(4)).unwrap())
        .unwrap()
        .found;
    assert_eq!(found, Found::Book);
    // And it tells others, with its own record.
    let asker = node.inbound_from(40, addr(40), Claims::default());
    let ask = ExchangeMessage::ask(9, Some(&record(40, addr(40))));
    node.sent.clear();
    node.network.handle_exchange(node.now, asker, &ask);
    node.drain();
    let told: Vec<PeerId> = node
        .sent
        .iter()
        .filter(|(to, _)| *to == asker)
        .flat_map(|(_, bytes)| match ExchangeMessage::decode(bytes) {
            Some(ExchangeMessage::Tell {
                token: 9, records, ..
            }) => records
                .iter()
                .filter_map(|record| SignedRecord::peer_of(record))
                .collect(),
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(told.len(), 6, "five that it has met, and itself");
    assert!(told.contains(&id(0)) && !told.contains(&id(40)));
    assert!(
        node.network
            .book
            .get(&id(40))
            .is_some_and(|known| known.record.is_some())
    );
}

#[test]
fn poison_does_little() {
    let mut node = Node::new(keeps_all());
    node.network
        .handle_listening(node.now, wall(1), vec![addr(0)]);
    let teller = node.connect(1);
    let victim: SocketAddr = "99.9.9.9:8333".parse().unwrap();
    // Unasked, from many.
    for n in 0..200u8 {
        let parts = ExchangeMessage::tell(1, &[record(n, victim)]);
        node.network.handle_exchange(node.now, teller, &parts[0]);
    }
    assert_eq!(
        node.network.address_book(node.now).len(),
        1,
        "the teller itself"
    );
    // Asked for: private ranges, our own address, other services' ports, loopback.
    let bad = [
        "192.168.1.1:9000",
        "10.0.0.1:9000",
        "127.0.0.1:9000",
        "169.254.1.1:9000",
        "[fd00::1]:9000",
        "[fe80::1]:9000",
        "99.1.1.1:443",
        "20.0.0.1:9000",
    ];
    let records: Vec<SignedRecord> = bad
        .iter()
        .zip(100..)
        .map(|(addr, n)| record(n, addr.parse().unwrap()))
        .collect();
    tell(&mut node, &records);
    assert_eq!(node.network.address_book(node.now).len(), 1);
    // One victim under 10,000 names, over an hour: it is dialled once.
    for round in 0..60u32 {
        if !node.network.exchange.may_ask(node.now, &id(1)) || round > 0 {
            node.run_for(Duration::from_secs(61));
        }
        let (connection, mut token) = (teller, 0);
        if node.network.exchange.may_ask(node.now, &id(1)) {
            token = node.network.exchange.ask(node.now, id(1));
        }
        let records: Vec<SignedRecord> = (0..50u32)
            .map(|n| {
                let mut seed = [9; 32];
                seed[..4].copy_from_slice(&(round * 50 + n).to_be_bytes());
                SignedRecord::sign(&Identity::from_seed(&seed), 1, [victim]).unwrap()
            })
            .collect();
        for part in ExchangeMessage::tell(token, &records) {
            node.network.handle_exchange(node.now, connection, &part);
        }
        node.drain();
        while let Some((&dial, _)) = node.dials.first_key_value() {
            node.fail(dial, AttemptFailure::BadHandshake);
        }
    }
    let at_victim = node
        .dialled
        .iter()
        .filter(|(_, endpoint)| *endpoint == victim.into())
        .count();
    assert!((1..=2).contains(&at_victim), "{at_victim}");
}

#[test]
fn one_site_is_dialled_twice_a_minute_at_most() {
    let mut node = Node::new(keeps_all());
    node.network
        .handle_listening(node.now, wall(1), vec![addr(0)]);
    for n in 1..=20u8 {
        // Each teller of a group of its own tells of another machine of the victim's site.
        let source = Group::of(addr(n).ip());
        let told = SocketAddr::from(([99, 9, 9, n], 9000));
        assert!(
            node.network
                .book
                .hear(node.now, id(100 + n), told, source, None)
        );
    }
    node.network.wake_outreach(node.now);
    let end = node.now + Duration::from_secs(600);
    while node.now < end && node.step().is_some() {
        while let Some((&dial, _)) = node.dials.first_key_value() {
            node.fail(dial, AttemptFailure::ConnectionRefused);
        }
    }
    let times: Vec<Instant> = node.dialled.iter().map(|(at, _)| *at).collect();
    assert!(times.len() >= 10, "{}", times.len());
    for window in times.windows(3) {
        assert!(window[2].saturating_duration_since(window[0]) >= Duration::from_secs(59));
    }
}

#[test]
fn outbound_peers_come_from_different_groups() {
    let mut node = Node::new(keeps_all());
    node.network
        .handle_listening(node.now, wall(1), vec![addr(0)]);
    for n in 1..=10u8 {
        let told = SocketAddr::from(([99, 9, n, 1], 9000));
        node.network
            .book
            .hear(node.now, id(n), told, Group::of(addr(n).ip()), None);
    }
    node.network.wake_outreach(node.now);
    let end = node.now + Duration::from_secs(1200);
    while node.now < end && node.step().is_some() {
        while let Some((&dial, endpoint)) = node.dials.first_key_value() {
            let n = (1..=10u8)
                .find(|n| endpoint == &Endpoint::from(SocketAddr::from(([99, 9, *n, 1], 9000))))
                .unwrap();
            node.connections += 1;
            let connection = node.connections;
            let introduction = node.introduction(n, SocketAddr::from(([99, 9, n, 1], 9000)));
            node.dials.remove(&dial);
            node.network.handle_identified(
                node.now,
                dial,
                connection,
                introduction,
                Claims::default(),
            );
            node.network.peers.handle_accepted(node.now, connection);
            node.drain();
        }
    }
    assert_eq!(node.network.peers.len(), 2);
}

#[test]
fn an_address_that_three_groups_see_is_told_and_signed() {
    let mut node = Node::new(keeps_all());
    node.network
        .handle_listening(node.now, wall(1), vec!["192.168.1.5:9000".parse().unwrap()]);
    for n in 1..=3 {
        let observed = Some("50.50.50.50:61234".parse().unwrap());
        node.inbound_from(
            n,
            addr(n),
            Claims {
                listen: Vec::new(),
                observed,
                ..Claims::default()
            },
        );
    }
    let external: SocketAddr = "50.50.50.50:9000".parse().unwrap();
    assert_eq!(
        node.notices.last(),
        Some(&Notice::ExternalAddr { addr: external })
    );
    node.network.sign_own_record(wall(2));
    assert_eq!(node.network.own_record().unwrap().addrs()[0], external);
}

#[test]
fn a_node_without_a_book_keeps_nothing_of_its_peers() {
    let mut node = Node::with_limits(NetworkSettings::default(), PeersLimits::with_peers_max(300));
    for n in 1..=200 {
        node.inbound(n);
    }
    assert!(node.network.book.is_empty() && node.network.claims.is_empty());
    assert!(node.network.found.is_empty() && node.network.names.is_empty());
    assert_eq!(
        node.network.poll_timeout(node.now),
        None,
        "nothing to wake for"
    );
}

#[test]
fn steps_are_bounded_at_their_limits() {
    let policy = ReconnectPolicy {
        waits: Waits::Steps([Duration::ZERO; 3]),
        ..ReconnectPolicy::default()
    };
    let mut node = Node::new(NetworkSettings {
        reconnect: policy,
        ..NetworkSettings::default()
    });
    let connection = node.connect(1);
    node.lose(connection, LOST);
    // With no wait at all the global rate is what is left.
    let start = node.now;
    while node.now < start + 10 * SECOND && node.step().is_some() {
        while let Some((&dial, _)) = node.dials.first_key_value() {
            let error = DialError::NoAddress(ResolveFailure { error: None });
            node.dials.remove(&dial);
            node.network.peers.handle_dial_failed(dial, error);
            node.drain();
        }
    }
    assert!(node.dialled.len() <= 112, "{}", node.dialled.len());
}
