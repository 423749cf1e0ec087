//! Finds in, dials out, in virtual time.

use std::time::Duration;

use mischief_reactor::{Instant, Random};

use super::*;
use crate::identity::PeerId;

const SECOND: Duration = Duration::from_secs(1);

struct Zero;

impl Random for Zero {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}

struct Rig {
    now: Instant,
    discovery: Discovery,
    connected: std::collections::BTreeSet<PeerId>,
}

fn peer(number: u16) -> PeerId {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    PeerId::from_bytes(bytes)
}

fn find(number: u16, addr: &str) -> Find {
    Find {
        addr: addr.parse().unwrap(),
        peer_id: Some(peer(number)),
        source: Source::Mdns,
    }
}

impl Rig {
    /// Node number 100.
    fn new(wanted: u32) -> Rig {
        Rig {
            now: Instant::ZERO + SECOND,
            discovery: Discovery::new(peer(100), wanted),
            connected: std::collections::BTreeSet::new(),
        }
    }

    fn find(&mut self, find: Find) {
        let is_connected = find
            .peer_id
            .is_some_and(|peer| self.connected.contains(&peer));
        self.discovery
            .handle_find(self.now, find, is_connected, &mut Zero);
    }

    fn connected(&mut self, peer: PeerId) {
        self.connected.insert(peer);
        self.discovery.set_connected(self.connected.len());
        self.discovery.handle_connected(peer);
    }

    fn disconnected(&mut self, peer: PeerId) {
        self.connected.remove(&peer);
        self.discovery.set_connected(self.connected.len());
        self.discovery
            .handle_disconnected(self.now, peer, &mut Zero);
    }

    fn dials(&mut self) -> Vec<Dial> {
        std::iter::from_fn(|| self.discovery.poll_dial()).collect()
    }

    fn events(&mut self) -> usize {
        std::iter::from_fn(|| self.discovery.poll_event()).count()
    }

    fn run_for(&mut self, duration: Duration) -> Vec<Dial> {
        let end = self.now + duration;
        let mut dials = self.dials();
        while let Some(at) = self.discovery.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.discovery.handle_timeout(self.now);
            dials.extend(self.dials());
        }
        self.now = end;
        dials
    }

    fn fail(&mut self, dial: Dial, fault: Fault) {
        self.discovery
            .handle_dialled(self.now, dial.number, Err(fault));
    }
}

#[test]
fn the_smaller_id_dials_at_once_and_the_larger_one_later() {
    let mut rig = Rig::new(8);
    rig.find(find(200, "192.0.2.1:9000"));
    let [dial] = rig.run_for(Duration::from_millis(200))[..] else {
        panic!("one dial");
    };
    assert_eq!(dial.expected, Some(peer(200)));
    rig.find(find(50, "192.0.2.2:9000"));
    assert!(rig.run_for(Duration::from_millis(400)).is_empty());
    assert_eq!(rig.run_for(SECOND).len(), 1);
}

#[test]
fn who_connects_meanwhile_is_not_dialled() {
    let mut rig = Rig::new(8);
    rig.find(find(50, "192.0.2.2:9000"));
    rig.connected(peer(50));
    assert!(rig.run_for(3600 * SECOND).is_empty());
    assert!(rig.discovery.candidates()[0].is_connected);
}

#[test]
fn nobody_dials_itself_or_nowhere() {
    let mut rig = Rig::new(8);
    rig.find(find(100, "192.0.2.1:9000"));
    for addr in [
        "0.0.0.0:9000",
        "224.0.0.251:9000",
        "192.0.2.1:0",
        "255.255.255.255:1",
        "[ff02::1]:9000",
    ] {
        rig.find(find(200, addr));
    }
    assert!(rig.run_for(60 * SECOND).is_empty());
    assert_eq!(rig.events(), 0);
}

#[test]
fn an_address_that_turns_out_to_be_our_own_is_left_alone() {
    let mut rig = Rig::new(8);
    let own = Find {
        peer_id: None,
        source: Source::Dht,
        ..find(0, "192.0.2.1:9000")
    };
    rig.find(own);
    let dials = rig.run_for(SECOND);
    assert_eq!(dials[0].expected, None);
    rig.fail(dials[0], Fault::Own);
    rig.find(own);
    assert!(rig.run_for(500 * SECOND).is_empty());
}

#[test]
fn all_addresses_of_a_peer_are_dialled_together_and_once() {
    let mut rig = Rig::new(8);
    for _ in 0..3 {
        rig.find(find(200, "192.0.2.1:9000"));
        rig.find(find(200, "[2001:db8::1]:9000"));
    }
    let dials = rig.run_for(10 * SECOND);
    assert_eq!(dials.len(), 2);
    assert_eq!(rig.events(), 2, "each address is reported once");
}

#[test]
fn after_failures_the_waits_double_up_to_ten_minutes() {
    let mut rig = Rig::new(8);
    rig.find(find(200, "192.0.2.1:9000"));
    let mut waits = Vec::new();
    let mut dial = rig.run_for(SECOND)[0];
    for _ in 0..9 {
        let failed = rig.now;
        rig.fail(dial, Fault::Transient);
        let at = rig.discovery.poll_timeout().unwrap();
        waits.push(at.saturating_duration_since(failed).as_secs());
        dial = rig.run_for(at.saturating_duration_since(rig.now))[0];
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
}

#[test]
fn who_is_not_for_us_is_left_alone_for_ten_minutes() {
    let mut rig = Rig::new(8);
    rig.find(find(200, "192.0.2.1:9000"));
    let dial = rig.run_for(SECOND)[0];
    rig.fail(dial, Fault::Unfit);
    assert!(rig.run_for(599 * SECOND).is_empty());
    assert_eq!(rig.run_for(2 * SECOND).len(), 1);
}

#[test]
fn a_peer_that_has_moved_is_dialled_there_at_once() {
    let mut rig = Rig::new(8);
    rig.find(find(200, "192.0.2.1:9000"));
    let dial = rig.run_for(SECOND)[0];
    rig.fail(dial, Fault::Unfit);
    rig.find(find(200, "192.0.2.9:9000"));
    assert_eq!(
        rig.run_for(SECOND).len(),
        2,
        "the old address and the new one"
    );
}

#[test]
fn only_so_many_are_dialled_at_once() {
    let mut rig = Rig::new(100);
    for number in 200..250 {
        rig.find(find(number, "192.0.2.1:9000"));
    }
    let dials = rig.run_for(60 * SECOND);
    assert_eq!(dials.len(), DIALS_MAX);
    rig.fail(dials[0], Fault::Transient);
    assert_eq!(rig.run_for(SECOND).len(), 1, "the next one's turn");
}

#[test]
fn who_has_enough_peers_dials_nobody() {
    let mut rig = Rig::new(2);
    rig.connected(peer(1));
    rig.find(find(200, "192.0.2.1:9000"));
    rig.find(find(201, "192.0.2.2:9000"));
    let dials = rig.run_for(60 * SECOND);
    assert_eq!(dials.len(), 1);
    let reached = dials[0].expected.unwrap();
    rig.connected(reached);
    rig.discovery
        .handle_dialled(rig.now, dials[0].number, Ok(reached));
    assert!(rig.run_for(60 * SECOND).is_empty());
    assert_eq!(rig.discovery.poll_timeout(), None, "it sleeps");
    rig.disconnected(peer(1));
    assert_eq!(rig.run_for(SECOND).len(), 1);
    rig.discovery.set_wanted(rig.now, 0);
    assert_eq!(rig.discovery.poll_timeout(), None);
}

#[test]
fn who_is_gone_is_not_dialled_again() {
    let mut rig = Rig::new(8);
    rig.find(find(200, "192.0.2.1:9000"));
    rig.discovery.handle_gone(peer(200), Source::Mdns);
    assert!(rig.run_for(60 * SECOND).is_empty());
    assert!(rig.discovery.candidates().is_empty());
    // Another source still has it.
    rig.find(find(201, "192.0.2.1:9000"));
    rig.find(Find {
        source: Source::Dht,
        ..find(201, "192.0.2.1:9000")
    });
    rig.discovery.handle_gone(peer(201), Source::Mdns);
    assert_eq!(rig.discovery.candidates()[0].sources, [Source::Dht]);
}

#[test]
fn candidates_and_their_addresses_have_a_limit() {
    let mut rig = Rig::new(0);
    for number in 200..200 + CANDIDATES_MAX as u16 + 50 {
        rig.find(find(number, "192.0.2.1:9000"));
    }
    assert_eq!(rig.discovery.candidates().len(), CANDIDATES_MAX);
    for port in 1..100 {
        rig.find(find(200, &format!("192.0.2.1:{port}")));
    }
    assert_eq!(rig.discovery.candidates()[0].addrs.len(), ADDRS_MAX);
    // One that has failed makes room.
    rig.discovery.set_wanted(rig.now, 8);
    let dials = rig.run_for(SECOND);
    for dial in dials {
        rig.fail(dial, Fault::Transient);
    }
    rig.find(find(5000, "192.0.2.1:9000"));
    let candidates = rig.discovery.candidates();
    assert_eq!(candidates.len(), CANDIDATES_MAX);
    assert!(candidates.iter().any(|one| one.peer_id == Some(peer(5000))));
}
