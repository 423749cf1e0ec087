//! Packets of multicast DNS: one, and sequences of them with time between.

use std::time::Duration;

use mischief::actors::mdns::{Arrival, Config, LinkInfo, Mdns};
use mischief::{Service, Txt};
use mischief_reactor::Instant;

/// The index of the only interface.
const LINK: u32 = 2;
/// What the whole machine may come to hold, whatever is sent to it.
const HEAP_MAX: usize = 512 << 10;
/// Datagrams that one input may make it send: it answers, but nobody can make a flood of it.
const SENT_MAX: usize = 4000;

/// A machine that offers a service and looks for others.
fn machine(now: Instant) -> Mdns {
    let config = Config {
        host: "h".to_owned(),
        takes_unicast: true,
        seed: 1,
    };
    let mut mdns = Mdns::new(config).expect("it is a name");
    let addrs = ["192.0.2.1", "fe80::1"].map(|ip| (ip.parse().expect("an address"), 24));
    mdns.handle_links(
        now,
        &[LinkInfo {
            index: LINK,
            addrs: addrs.to_vec(),
            has_ipv4: true,
            has_ipv6: true,
        }],
    );
    let service_type: mischief::ServiceType = "_rats._tcp".parse().expect("it is a type");
    let service = Service {
        instance: "a".to_owned(),
        service_type: service_type.clone(),
        port: 9000,
        txt: Txt::default(),
    };
    mdns.register(now, service).expect("there is room");
    mdns.browse(now, service_type.clone())
        .expect("there is room");
    mdns.browse_types(now).expect("there is room");
    mdns.resolve(now, "b", &service_type)
        .expect("there is room");
    mdns
}

struct Run {
    now: Instant,
    mdns: Mdns,
    sent: usize,
}

impl Run {
    fn new() -> Run {
        let now = Instant::ZERO + Duration::from_secs(100);
        let mut run = Run {
            now,
            mdns: machine(now),
            sent: 0,
        };
        run.pass(Duration::from_secs(3));
        run
    }

    fn drain(&mut self) {
        while let Some(transmit) = self.mdns.poll_transmit() {
            assert!(transmit.data.len() <= 9000 - 28);
            self.sent += 1;
        }
        while self.mdns.poll_event().is_some() {}
        assert!(self.mdns.heap_bytes() <= HEAP_MAX);
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.mdns.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.mdns.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn deliver(&mut self, data: &[u8], shape: u8) {
        let from = match shape & 3 {
            0 | 1 => "192.0.2.9:5353",
            2 => "192.0.2.1:5353",
            _ => "192.0.2.9:4000",
        };
        let to = if shape & 4 == 0 {
            "224.0.0.251"
        } else {
            "192.0.2.1"
        };
        let arrival = Arrival {
            interface: LINK,
            from: from.parse().expect("an address"),
            to: to.parse().ok(),
            data,
        };
        self.mdns.handle_datagram(self.now, arrival);
        self.drain();
    }
}

/// One packet in each way in which it can come, and the minute after it.
pub(crate) fn mdns_packet(data: &[u8]) {
    let mut run = Run::new();
    for shape in 0..8 {
        run.deliver(data, shape);
    }
    run.pass(Duration::from_secs(60));
    assert!(run.sent <= SENT_MAX, "{} datagrams", run.sent);
}

/// Packets, each with a head of three bytes: how it comes, how long after the one before, how many bytes (times two).
pub(crate) fn mdns_packets(data: &[u8]) {
    let mut run = Run::new();
    let mut rest = data;
    while let [shape, wait, len, tail @ ..] = rest {
        let (packet, tail) = tail.split_at(tail.len().min(usize::from(*len) * 2));
        run.deliver(packet, *shape);
        // From nothing to an hour, in steps that grow.
        run.pass(Duration::from_millis(u64::from(*wait).pow(2) * 55));
        rest = tail;
    }
    run.mdns.stop(run.now);
    run.drain();
    assert!(run.mdns.poll_timeout().is_none(), "it is silent for good");
    assert!(run.sent <= SENT_MAX, "{} datagrams", run.sent);
}
