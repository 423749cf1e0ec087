//! Many machines, a network between them and a clock that jumps.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mischief_reactor::{Instant, Random};

use crate::dht::address::Family;
use crate::dht::dice::Dice;
use crate::dht::{Dht, DhtConfig, DhtEvent, NodeId, OperationId, Order, Outcome};

/// Port of every node.
pub(super) const PORT: u16 = 6881;

/// What somebody who only looks like a node sends when it is given a datagram: when, from whom, and at which address.
pub(super) type Lie =
    Box<dyn FnMut(Instant, SocketAddr, SocketAddr, &[u8]) -> Vec<(SocketAddr, Vec<u8>)>>;

/// A program on the network: a node, or somebody who only looks like one.
pub(super) enum Program {
    Node(Box<Dht>),
    /// Answers as it likes.
    Liar(Lie),
}

struct Machine {
    program: Option<Program>,
    addrs: Vec<SocketAddr>,
    wake: Option<Instant>,
    ended: BTreeMap<OperationId, (Instant, Outcome)>,
    found: Vec<SocketAddr>,
    pub(super) events: Vec<DhtEvent>,
}

struct Flight {
    from: SocketAddr,
    to: SocketAddr,
    data: Vec<u8>,
}

pub(super) struct Network {
    pub(super) now: Instant,
    pub(super) dice: Dice,
    machines: Vec<Machine>,
    by_addr: BTreeMap<SocketAddr, usize>,
    flights: BTreeMap<u64, Flight>,
    queue: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    serial: u64,
    /// Part of the datagrams that are lost.
    pub(super) loss: f64,
    /// One way.
    pub(super) delay: Duration,
    pub(super) sent: u64,
}

impl Network {
    pub(super) fn new(seed: u8) -> Network {
        Network {
            // Not zero, so that times before the start can be told.
            now: Instant::ZERO + Duration::from_secs(1_000_000),
            dice: Dice::new(&[seed; 32]),
            machines: Vec::new(),
            by_addr: BTreeMap::new(),
            flights: BTreeMap::new(),
            queue: BinaryHeap::new(),
            serial: 0,
            loss: 0.0,
            delay: Duration::from_millis(50),
            sent: 0,
        }
    }

    /// A public address in a /24 or /64 of its own.
    pub(super) fn public(number: usize, family: Family) -> SocketAddr {
        let ip: IpAddr = match family {
            // Spread over the space, so that ids are as well.
            Family::V4 => {
                let spread = (number as u32).wrapping_mul(40_503) % (200 << 16);
                [
                    16 + (spread >> 16) as u8 % 100,
                    (spread >> 8) as u8,
                    spread as u8,
                    7,
                ]
                .into()
            }
            Family::V6 => {
                let number = (number as u32).wrapping_mul(2_654_435_761);
                [
                    0x2001,
                    (number >> 16) as u16,
                    number as u16,
                    number as u16 ^ 0x5555,
                    0,
                    0,
                    0,
                    7,
                ]
                .into()
            }
        };
        SocketAddr::new(ip, PORT)
    }

    pub(super) fn add(&mut self, addrs: &[SocketAddr], program: Program) -> usize {
        let index = self.machines.len();
        for addr in addrs {
            assert_eq!(self.by_addr.insert(*addr, index), None, "{addr} is taken");
        }
        self.machines.push(Machine {
            program: Some(program),
            addrs: addrs.to_vec(),
            wake: None,
            ended: BTreeMap::new(),
            found: Vec::new(),
            events: Vec::new(),
        });
        index
    }

    pub(super) fn node(
        &mut self,
        addrs: &[SocketAddr],
        config: DhtConfig,
        begin: &[SocketAddr],
    ) -> usize {
        let mut seed = [0; 32];
        self.dice.fill(&mut seed);
        let mut dht = Dht::new(self.now, config, &seed);
        for addr in addrs {
            dht.open(self.now, *addr);
        }
        dht.handle_contacts(self.now, begin.iter().copied());
        dht.begin(self.now);
        let index = self.add(addrs, Program::Node(Box::new(dht)));
        self.drain(index);
        index
    }

    /// It is gone, and nothing tells so.
    pub(super) fn remove(&mut self, index: usize) {
        self.machines[index].program = None;
        for addr in std::mem::take(&mut self.machines[index].addrs) {
            self.by_addr.remove(&addr);
        }
    }

    pub(super) fn dht(&mut self, index: usize) -> &mut Dht {
        match &mut self.machines[index].program {
            Some(Program::Node(dht)) => dht,
            _ => panic!("machine {index} is no node"),
        }
    }

    pub(super) fn events(&self, index: usize) -> &[DhtEvent] {
        &self.machines[index].events
    }

    pub(super) fn order(&mut self, index: usize, order: Order) -> OperationId {
        let now = self.now;
        let id = self
            .dht(index)
            .handle_order(now, order, None)
            .expect("it is not busy");
        self.drain(index);
        id
    }

    /// Lets a machine do something, and takes what comes of it.
    pub(super) fn with<T>(&mut self, index: usize, act: impl FnOnce(&mut Dht, Instant) -> T) -> T {
        let now = self.now;
        let result = act(self.dht(index), now);
        self.drain(index);
        result
    }

    pub(super) fn drain(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        let Some(Program::Node(dht)) = &mut machine.program else {
            return;
        };
        let mut packets = Vec::new();
        while let Some(packet) = dht.poll_transmit() {
            packets.push(packet);
        }
        while let Some(event) = dht.poll_event() {
            match event {
                DhtEvent::Ended { operation, outcome } => {
                    machine.ended.insert(operation, (self.now, outcome));
                }
                DhtEvent::Found { peers, .. } => machine.found.extend(peers),
                other => machine.events.push(other),
            }
        }
        let wake = dht.poll_timeout();
        if wake != machine.wake {
            machine.wake = wake;
            if let Some(at) = wake {
                self.queue.push(Reverse((at.max(self.now), 0, index)));
            }
        }
        let addrs = machine.addrs.clone();
        for packet in packets {
            let own = addrs
                .iter()
                .find(|addr| addr.is_ipv4() == packet.to.is_ipv4());
            let own = *own.expect("only families that are open are sent to");
            self.send(own, packet.to, packet.data);
        }
    }

    pub(super) fn send(&mut self, from: SocketAddr, to: SocketAddr, data: Vec<u8>) {
        self.sent += 1;
        let is_lost = self.dice.below(1 << 20) < (self.loss * f64::from(1 << 20)) as u64;
        if is_lost {
            return;
        }
        self.serial += 1;
        let jitter = Duration::from_micros(self.dice.below(self.delay.as_micros() as u64 / 5 + 1));
        let at = self.now + self.delay - self.delay / 10 + jitter;
        self.flights.insert(self.serial, Flight { from, to, data });
        self.queue.push(Reverse((at, self.serial, usize::MAX)));
    }

    /// Runs until `done`, at most for `time`. Whether it was reached.
    pub(super) fn run_until(
        &mut self,
        time: Duration,
        mut done: impl FnMut(&mut Network) -> bool,
    ) -> bool {
        let end = self.now + time;
        loop {
            if done(self) {
                return true;
            }
            match self.queue.peek() {
                Some(Reverse((at, _, _))) if *at <= end => {}
                _ => {
                    self.now = end;
                    return done(self);
                }
            }
            self.step();
        }
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    fn step(&mut self) {
        let Some(Reverse((at, serial, index))) = self.queue.pop() else {
            return;
        };
        self.now = self.now.max(at);
        if let Some(flight) = self.flights.remove(&serial) {
            return self.deliver(flight);
        }
        if index == usize::MAX || self.machines[index].wake.is_none_or(|wake| wake > self.now) {
            return;
        }
        self.machines[index].wake = None;
        if let Some(Program::Node(dht)) = &mut self.machines[index].program {
            dht.handle_timeout(self.now);
            self.drain(index);
        }
    }

    fn deliver(&mut self, flight: Flight) {
        let Some(&index) = self.by_addr.get(&flight.to) else {
            return;
        };
        let now = self.now;
        match &mut self.machines[index].program {
            Some(Program::Node(dht)) => {
                dht.handle_datagram(now, flight.from, &flight.data);
                self.drain(index);
            }
            Some(Program::Liar(lie)) => {
                for (to, data) in lie(now, flight.from, flight.to, &flight.data) {
                    self.send(flight.to, to, data);
                }
            }
            None => {}
        }
    }

    /// Waits for an order. How long it took after `since`, and what came of it.
    pub(super) fn wait(&mut self, index: usize, id: OperationId) -> (Instant, Outcome) {
        let ended = self.run_until(Duration::from_secs(60), |network| {
            network.machines[index].ended.contains_key(&id)
        });
        assert!(ended, "every order ends");
        self.machines[index]
            .ended
            .remove(&id)
            .expect("it has ended")
    }

    /// Looks for peers. Those that were found, and how long it took.
    pub(super) fn find(&mut self, index: usize, info_hash: NodeId) -> (Vec<SocketAddr>, Duration) {
        let begin = self.now;
        self.machines[index].found.clear();
        let id = self.order(index, Order::FindPeers { info_hash });
        let (end, _) = self.wait(index, id);
        let found = std::mem::take(&mut self.machines[index].found);
        (found, end.saturating_duration_since(begin))
    }
}
