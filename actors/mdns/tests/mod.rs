//! Scripted peers: a machine in virtual time, and packets by hand. The table in docs/mdns.md says which section of the RFCs
//! each test is for.

mod browsing;
mod caching;
mod foreign;
mod naming;
mod pair;
mod responding;
mod shell;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mischief_reactor::Instant;

use super::limits::*;
use super::machine::{Arrival, Config, Mdns, MdnsEvent};
use super::name::Name;
use super::record::{Data, Kind, Packet, Question, Record};
use super::service::{Found, Service, Txt};
use super::wire;
use super::{LinkInfo, ServiceId};

const LINK: u32 = 2;
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A packet that the machine has sent.
#[derive(Clone, Debug)]
struct Sent {
    /// Since the start.
    at: Duration,
    interface: u32,
    to: SocketAddr,
    bytes: usize,
    packet: Packet,
}

impl Sent {
    fn is_query(&self) -> bool {
        !self.packet.is_response
    }

    fn is_probe(&self) -> bool {
        self.is_query() && !self.packet.authorities.is_empty()
    }

    fn answers(&self, name: &str, kind: Kind) -> Vec<&Record> {
        let name = plain(name);
        let all = self.packet.answers.iter();
        all.filter(|record| record.name == name && record.data.kind() == kind)
            .collect()
    }

    fn has(&self, name: &str, kind: Kind) -> bool {
        self.packet.is_response && !self.answers(name, kind).is_empty()
    }
}

/// A machine with its clock.
struct Rig {
    now: Instant,
    start: Instant,
    mdns: Mdns,
    sent: Vec<Sent>,
    events: Vec<MdnsEvent>,
}

fn plain(text: &str) -> Name {
    Name::plain(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link(index: u32, addrs: &[(&str, u8)]) -> LinkInfo {
    let addrs: Vec<(IpAddr, u8)> = addrs.iter().map(|(text, bits)| (ip(text), *bits)).collect();
    LinkInfo {
        index,
        has_ipv4: addrs.iter().any(|(ip, _)| ip.is_ipv4()),
        has_ipv6: addrs.iter().any(|(ip, _)| ip.is_ipv6()),
        addrs,
    }
}

fn service(instance: &str) -> Service {
    Service {
        instance: instance.to_owned(),
        service_type: "_rats._tcp".parse().unwrap(),
        port: 9000,
        txt: Txt::new([("id", Some(&b"7"[..]))]).unwrap(),
    }
}

fn record(name: &str, ttl: u32, data: Data) -> Record {
    Record {
        name: plain(name),
        is_flush: data.kind() != Kind::PTR,
        ttl,
        data,
    }
}

fn ptr(service_type: &str, instance: &str) -> Record {
    let target = plain(service_type).child(instance.as_bytes()).unwrap();
    record(service_type, 4500, Data::Ptr(target))
}

fn srv(name: &str, port: u16, host: &str) -> Record {
    let data = Data::Srv {
        priority: 0,
        weight: 0,
        port,
        host: plain(host),
    };
    record(name, 120, data)
}

fn txt(name: &str, bytes: &[u8]) -> Record {
    record(name, 4500, Data::Txt(bytes.into()))
}

fn address(host: &str, text: &str) -> Record {
    record(host, 120, Data::address(ip(text)))
}

/// Everything that a service of another machine says.
fn announcement(instance: &str, host: &str, addr: &str) -> Packet {
    let name = format!("{instance}._rats._tcp.local");
    response([
        ptr("_rats._tcp.local", instance),
        srv(&name, 7000, host),
        txt(&name, b"\x04id=9"),
        address(host, addr),
    ])
}

fn response(answers: impl IntoIterator<Item = Record>) -> Packet {
    Packet {
        is_response: true,
        answers: answers.into_iter().collect(),
        ..Packet::default()
    }
}

fn question(name: &str, kind: Kind) -> Question {
    Question {
        name: plain(name),
        kind,
        wants_unicast: false,
    }
}

fn query(name: &str, kind: Kind) -> Packet {
    Packet {
        questions: vec![question(name, kind)],
        ..Packet::default()
    }
}

/// A probe for a service instance with this port.
fn probe(instance: &str, port: u16, host: &str) -> Packet {
    let name = format!("{instance}._rats._tcp.local");
    let mut packet = query(&name, Kind::ANY);
    let claimed = [srv(&name, port, host), txt(&name, b"\x04id=7")];
    packet.authorities = claimed
        .map(|record| Record {
            is_flush: false,
            ..record
        })
        .to_vec();
    packet
}

impl Rig {
    /// A machine on one network with IPv4 alone.
    fn new(seed: u64) -> Rig {
        Rig::with(seed, true, &[link(LINK, &[("192.0.2.1", 24)])])
    }

    fn with(seed: u64, takes_unicast: bool, links: &[LinkInfo]) -> Rig {
        let config = Config {
            host: "h".to_owned(),
            takes_unicast,
            seed,
        };
        let start = Instant::ZERO + Duration::from_secs(1000);
        let mut rig = Rig {
            now: start,
            start,
            mdns: Mdns::new(config).unwrap(),
            sent: Vec::new(),
            events: Vec::new(),
        };
        rig.mdns.handle_links(start, links);
        rig.drain();
        rig
    }

    /// A machine whose service `a` everybody knows; what it has sent for that is forgotten.
    fn established(seed: u64) -> (Rig, ServiceId) {
        let mut rig = Rig::new(seed);
        let id = rig.register("a");
        rig.run_for(5 * SECOND);
        rig.sent.clear();
        rig.events.clear();
        (rig, id)
    }

    fn browsing(seed: u64) -> Rig {
        let mut rig = Rig::new(seed);
        rig.browse();
        rig.run_for(5 * SECOND);
        rig.sent.clear();
        rig
    }

    fn register(&mut self, instance: &str) -> ServiceId {
        let id = self.mdns.register(self.now, service(instance)).unwrap();
        self.drain();
        id
    }

    fn browse(&mut self) -> super::InterestId {
        let id = self
            .mdns
            .browse(self.now, "_rats._tcp".parse().unwrap())
            .unwrap();
        self.drain();
        id
    }

    fn at(&self) -> Duration {
        self.now.saturating_duration_since(self.start)
    }

    fn drain(&mut self) {
        while let Some(transmit) = self.mdns.poll_transmit() {
            self.sent.push(Sent {
                at: self.at(),
                interface: transmit.interface,
                to: transmit.to,
                bytes: transmit.data.len(),
                packet: wire::decode(&transmit.data).expect("what we send can be read"),
            });
        }
        while let Some(event) = self.mdns.poll_event() {
            self.events.push(event);
        }
    }

    /// Goes on to a moment, with everything that is due until then.
    fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.mdns.poll_timeout().filter(|at| *at <= end) {
            assert!(at >= self.now || self.now.saturating_duration_since(at) < SECOND);
            self.now = self.now.max(at);
            self.mdns.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn deliver_bytes(&mut self, interface: u32, from: &str, to: Option<&str>, data: &[u8]) {
        let arrival = Arrival {
            interface,
            from: from.parse().unwrap(),
            to: to.map(ip),
            data,
        };
        self.mdns.handle_datagram(self.now, arrival);
        self.drain();
        // What is due at once goes at once.
        self.run_for(Duration::ZERO);
    }

    /// A packet to the group from another machine.
    fn deliver(&mut self, packet: &Packet) {
        self.deliver_from("192.0.2.9:5353", packet);
    }

    fn deliver_from(&mut self, from: &str, packet: &Packet) {
        let bytes = packet.encode(wire::PACKET_BYTES_MAX).unwrap();
        self.deliver_bytes(LINK, from, Some("224.0.0.251"), &bytes);
    }

    fn deliver_unicast(&mut self, from: &str, packet: &Packet) {
        let bytes = packet.encode(wire::PACKET_BYTES_MAX).unwrap();
        self.deliver_bytes(LINK, from, Some("192.0.2.1"), &bytes);
    }

    /// What was sent since the last time this was called.
    fn take(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    fn take_events(&mut self) -> Vec<MdnsEvent> {
        std::mem::take(&mut self.events)
    }

    /// The only packet that was sent since the last time.
    #[track_caller]
    fn only(&mut self) -> Sent {
        let mut sent = self.take();
        assert_eq!(sent.len(), 1, "{sent:#?}");
        sent.remove(0)
    }

    fn found(&self) -> Vec<Found> {
        self.mdns.found()
    }

    fn instance(&self) -> String {
        let mut all = self.mdns.registered();
        all.next()
            .expect("a service is registered")
            .1
            .instance
            .clone()
    }
}

fn is_between(value: Duration, least: Duration, most: Duration) -> bool {
    (least..=most).contains(&value)
}
