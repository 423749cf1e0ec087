//! Datagrams through actors.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};

use mischief_reactor::io::driver::UdpOptions;
use mischief_reactor::{Address, Event, SocketId, Transmit};

use crate::fixture::Fixture;
use crate::puppet::{Log, Puppet, SECOND, order, puppet, puppet_with};

/// Who sent what.
type Arrivals = Log<(SocketAddr, Vec<u8>)>;

/// An actor that notes what it receives, on sockets of its own and by routes.
fn receiver<F: Fixture>(f: &F, core: usize) -> (Address<Puppet>, Arrivals) {
    let arrivals = Arrivals::new();
    let noted = arrivals.clone();
    let (actor, _) = puppet_with(f, core, move |puppet| {
        puppet.reacting(move |event, _| {
            let Event::Datagram { datagram, .. } = event else {
                return false;
            };
            noted.add((datagram.from, datagram.data.to_vec()));
            true
        })
    });
    (actor, arrivals)
}

fn bind<F: Fixture>(f: &F, actor: &Address<Puppet>) -> (SocketId, SocketAddr) {
    let addr = f.addr();
    order(&f.handle(), actor, move |_, cx| {
        let socket = cx.udp_bind(addr, UdpOptions::default()).expect("binds");
        (socket, cx.local_addr(socket).expect("bound"))
    })
}

fn send<F: Fixture>(
    f: &F,
    actor: &Address<Puppet>,
    socket: SocketId,
    to: SocketAddr,
    data: &'static [u8],
) -> Result<usize, ErrorKind> {
    order(&f.handle(), actor, move |_, cx| {
        cx.udp_send(socket, &[Transmit::new(to, data)])
            .map_err(|error| error.kind())
    })
}

pub fn datagrams_come_with_their_sender<F: Fixture>() {
    let f = F::start(2);
    let (left, right) = (receiver(&f, 0), receiver(&f, 1));
    let ((left_socket, left_addr), (right_socket, right_addr)) =
        (bind(&f, &left.0), bind(&f, &right.0));
    assert_eq!(send(&f, &left.0, left_socket, right_addr, b"ping"), Ok(1));
    f.until(|| right.1.all() == [(left_addr, b"ping".to_vec())]);
    assert_eq!(send(&f, &right.0, right_socket, left_addr, b""), Ok(1));
    f.until(|| left.1.all() == [(right_addr, Vec::new())]);
    assert!(f.shutdown(SECOND));
}

pub fn several_datagrams_go_in_one_call<F: Fixture>() {
    let f = F::start(2);
    let ((sender, _), (actor, arrivals)) = (receiver(&f, 0), receiver(&f, 1));
    let ((socket, from), (_, to)) = (bind(&f, &sender), bind(&f, &actor));
    order(&f.handle(), &sender, move |_, cx| {
        let payloads: Vec<[u8; 4]> = (0..20u32).map(u32::to_be_bytes).collect();
        let transmits: Vec<_> = payloads
            .iter()
            .map(|data| Transmit::new(to, data))
            .collect();
        assert_eq!(cx.udp_send(socket, &transmits).expect("takes them"), 20);
    });
    f.until(|| arrivals.len() == 20);
    // A simulated link may change their order, as a real one may.
    let mut arrived = arrivals.all();
    arrived.sort();
    let want = (0..20u32).map(|number| (from, number.to_be_bytes().to_vec()));
    assert!(arrived.into_iter().eq(want));
    assert!(f.shutdown(SECOND));
}

/// RFC 7983: protocols on one port are told apart by their first byte.
pub fn routes_part_protocols_by_their_first_byte<F: Fixture>() {
    let f = F::start(2);
    let (owner, owned) = receiver(&f, 0);
    let (low, low_seen) = receiver(&f, 0);
    let (high, high_seen) = receiver(&f, 0);
    let (sender, sender_seen) = receiver(&f, 1);
    let ((socket, to), (from_socket, from)) = (bind(&f, &owner), bind(&f, &sender));
    order(&f.handle(), &owner, move |_, cx| {
        cx.route(socket, 0..=3, low.id()).expect("a route");
        cx.route(socket, 20..=63, high.id()).expect("a route");
    });
    for (data, log, count) in [
        (&b"\x00 low"[..], &low_seen, 1),
        (b"\x03 low", &low_seen, 2),
        (b"\x04 owner", &owned, 1),
        (b"\x14 high", &high_seen, 1),
        (b"\x3f high", &high_seen, 2),
        (b"\x40 owner", &owned, 2),
        (b"", &owned, 3),
    ] {
        assert_eq!(send(&f, &sender, from_socket, to, data), Ok(1));
        f.until(|| log.len() == count);
        assert_eq!(log.all()[count - 1], (from, data.to_vec()));
    }
    // Who is routed to may send through the socket, and others may not.
    assert_eq!(send(&f, &low, socket, from, b"answer"), Ok(1));
    f.until(|| sender_seen.all() == [(to, b"answer".to_vec())]);
    let (thief, _) = puppet(&f, 0);
    assert_eq!(
        send(&f, &thief, socket, from, b"x"),
        Err(ErrorKind::NotConnected)
    );
    // A route to an ended actor leads to the owner, and its place is free for another.
    f.handle().stop(low.id());
    assert!(f.handle().stopped(low.id()).wait().is_ok());
    assert_eq!(send(&f, &sender, from_socket, to, b"\x01"), Ok(1));
    f.until(|| owned.len() == 4);
    let (next, next_seen) = receiver(&f, 0);
    order(&f.handle(), &owner, move |_, cx| {
        cx.route(socket, 0..=3, next.id()).expect("a route")
    });
    assert_eq!(send(&f, &sender, from_socket, to, b"\x01"), Ok(1));
    f.until(|| next_seen.len() == 1);
    // The same range again leads elsewhere.
    order(&f.handle(), &owner, move |_, cx| {
        cx.route(socket, 0..=3, high.id()).expect("a route")
    });
    assert_eq!(send(&f, &sender, from_socket, to, b"\x01"), Ok(1));
    f.until(|| high_seen.len() == 3);
    assert!(f.shutdown(SECOND));
}

pub fn routes_have_their_limits<F: Fixture>() {
    let f = F::start(2);
    let (owner, _) = receiver(&f, 0);
    let (near, _) = receiver(&f, 0);
    let (far, _) = receiver(&f, 1);
    let (socket, _) = bind(&f, &owner);
    let addr = f.addr();
    let kinds = order(&f.handle(), &owner, move |_, cx| {
        let kind = |error: std::io::Error| error.kind();
        let far = cx.route(socket, 0..=1, far.id()).map_err(kind);
        let listener = cx.tcp_listen(addr, Default::default()).expect("listens");
        let tcp = cx.route(listener, 0..=1, near.id()).map_err(kind);
        for first in 0..8 {
            cx.route(socket, first..=first, near.id()).expect("room");
        }
        let ninth = cx.route(socket, 9..=9, near.id()).map_err(kind);
        cx.route(socket, 7..=7, near.id())
            .expect("the same once more");
        (far, tcp, ninth)
    });
    let invalid = Err(ErrorKind::InvalidInput);
    assert_eq!(kinds, (invalid, invalid, Err(ErrorKind::QuotaExceeded)));
    let stolen = order(&f.handle(), &near, move |_, cx| {
        let me = cx.id();
        let group = Ipv4Addr::new(224, 0, 0, 251).into();
        (
            cx.route(socket, 0..=255, me).map_err(|error| error.kind()),
            cx.udp_membership(socket, group, 0, true)
                .map_err(|error| error.kind()),
            cx.udp_multicast(socket, 1, true, None)
                .map_err(|error| error.kind()),
            cx.give_socket(socket, me).map_err(|error| error.kind()),
        )
    });
    let gone = Err(ErrorKind::NotConnected);
    assert_eq!(stolen, (gone, gone, gone, gone));
    let given = order(&f.handle(), &owner, move |_, cx| {
        cx.give_socket(socket, near.id())
            .map_err(|error| error.kind())
    });
    assert_eq!(
        given,
        Err(ErrorKind::InvalidInput),
        "only connections can be given away"
    );
    assert!(f.shutdown(SECOND));
}

pub fn a_paused_socket_keeps_its_datagrams<F: Fixture>() {
    let f = F::start(1);
    let ((sender, _), (actor, arrivals)) = (receiver(&f, 0), receiver(&f, 0));
    let ((from_socket, _), (socket, to)) = (bind(&f, &sender), bind(&f, &actor));
    order(&f.handle(), &actor, move |_, cx| cx.pause_reading(socket));
    for _ in 0..5 {
        assert_eq!(send(&f, &sender, from_socket, to, b"early"), Ok(1));
    }
    f.pass(SECOND / 50);
    assert_eq!(arrivals.len(), 0);
    order(&f.handle(), &actor, move |_, cx| cx.resume_reading(socket));
    f.until(|| arrivals.len() == 5);
    // It closes in the middle of what it brings.
    let (closing, log) = puppet_with(&f, 0, |puppet| {
        puppet.reacting(|event, cx| {
            if let Event::Datagram { socket, .. } = event {
                cx.close(*socket, false);
            }
            false
        })
    });
    let (socket, to) = bind(&f, &closing);
    order(&f.handle(), &closing, move |_, cx| cx.pause_reading(socket));
    for _ in 0..5 {
        assert_eq!(send(&f, &sender, from_socket, to, b"late"), Ok(1));
    }
    f.pass(SECOND / 50);
    order(&f.handle(), &closing, move |_, cx| {
        cx.resume_reading(socket)
    });
    f.until(|| log.len() == 2);
    f.pass(SECOND / 50);
    assert_eq!(log.len(), 2, "{:?}", log.all());
    assert!(f.shutdown(SECOND));
}
