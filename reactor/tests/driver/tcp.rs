use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use mischief_reactor::io::driver::{DetachedSocket, ListenOptions, ReusePort, UdpOptions};

use crate::fixture::{Core, FAMILIES, Family, Fixture};

/// Long enough for news that should not come.
const A_WHILE: Duration = Duration::from_millis(30);

pub(crate) fn echo_in_both_families(fixture: &mut dyn Fixture) {
    for family in FAMILIES {
        let mut core = Core::new(fixture);
        let (listener, addr) = core.listen(fixture.ip(family));
        assert_eq!(
            core.driver
                .tcp_accept(listener)
                .expect_err("nobody is there")
                .kind(),
            ErrorKind::WouldBlock
        );
        let client = core
            .driver
            .tcp_connect(addr, None)
            .expect("begins to connect");
        let (server, from) = core.accept(fixture, listener);
        assert!(core.connected(fixture, client).is_none());
        assert_eq!(core.driver.local_addr(client).expect("bound"), from);
        assert_eq!(core.driver.local_addr(server).expect("bound"), addr);
        assert_eq!(from.is_ipv4(), family == Family::V4);
        let data: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        core.write_all(fixture, client, b"ping");
        assert_eq!(core.read_exact(fixture, server, 4), b"ping");
        for half in data.chunks(20_000) {
            core.write_all(fixture, server, half);
            assert_eq!(core.read_exact(fixture, client, half.len()), half);
        }
        core.driver.close(server, false);
        assert_eq!(core.read_some(fixture, client).expect("the end"), 0);
    }
}

pub(crate) fn half_close_leaves_the_other_half_open(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let (client, server) = core.pair(fixture, Family::V4);
    core.write_all(fixture, client, b"last words");
    core.driver.shutdown_write(client).expect("open");
    assert_eq!(core.read_exact(fixture, server, 10), b"last words");
    assert_eq!(core.read_some(fixture, server).expect("the end"), 0);
    assert!(core.driver.write(client, b"more").is_err());
    core.write_all(fixture, server, b"answer");
    assert_eq!(core.read_exact(fixture, client, 6), b"answer");
    core.driver.close(server, false);
    assert_eq!(core.read_some(fixture, client).expect("the end"), 0);
}

pub(crate) fn a_refused_connection_is_told_as_such(fixture: &mut dyn Fixture) {
    for family in FAMILIES {
        let mut core = Core::new(fixture);
        let (listener, addr) = core.listen(fixture.ip(family));
        core.driver.close(listener, false);
        // Some systems refuse within the call.
        let error = match core.driver.tcp_connect(addr, None) {
            Ok(client) => core.connected(fixture, client).expect("refused"),
            Err(error) => error,
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}

pub(crate) fn aborting_resets_the_connection(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let (client, server) = core.pair(fixture, Family::V4);
    core.driver.close(client, true);
    let error = core.read_some(fixture, server).expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // A further write to it is an error, not a signal.
    assert!(core.driver.write(server, b"x").is_err());
}

pub(crate) fn closing_delivers_what_was_written(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let (client, server) = core.pair(fixture, Family::V6);
    core.write_all(fixture, client, b"goodbye");
    core.driver.close(client, false);
    assert_eq!(core.read_exact(fixture, server, 7), b"goodbye");
    assert_eq!(core.read_some(fixture, server).expect("the end"), 0);
}

pub(crate) fn no_edge_without_news_and_one_for_each(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let (client, server) = core.pair(fixture, Family::V4);
    core.write_all(fixture, client, b"first");
    while !core.ready(fixture, server).readable {}
    core.pause(fixture, A_WHILE);
    // Unread bytes are no news.
    let ready = core.pause(fixture, A_WHILE);
    assert!(
        ready.iter().all(|ready| ready.socket != server),
        "{ready:?}"
    );
    assert_eq!(core.drain(server), 5);
    for round in 1..=20 {
        core.write_all(fixture, client, &vec![7; round]);
        assert!(core.ready(fixture, server).readable, "round {round}");
        assert_eq!(core.drain(server), round);
    }
    if core.driver.short_read_drains() {
        for round in 1..=20 {
            core.write_all(fixture, client, &vec![7; round]);
            assert!(core.ready(fixture, server).readable, "round {round}");
            let mut bytes = [0; 64];
            assert_eq!(
                core.driver.read(server, &mut bytes).expect("readable"),
                round
            );
        }
        core.driver.shutdown_write(client).expect("open");
        assert!(core.ready(fixture, server).read_closed);
    } else {
        core.driver.shutdown_write(client).expect("open");
        core.ready(fixture, server);
    }
    assert_eq!(core.driver.read(server, &mut [0; 64]).expect("the end"), 0);
}

pub(crate) fn room_to_write_makes_an_edge(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let (client, server) = core.pair(fixture, Family::V4);
    let block = vec![9; 64 * 1024];
    let mut written = 0;
    loop {
        match core.driver.write(client, &block) {
            Ok(count) => written += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                // What the other end's buffer takes in meanwhile makes room.
                let ready = core.pause(fixture, A_WHILE);
                if !ready
                    .iter()
                    .any(|ready| ready.socket == client && ready.writable)
                {
                    break;
                }
            }
        }
        assert!(
            written < 1 << 30,
            "a connection that nobody reads takes everything"
        );
    }
    let ready = core.pause(fixture, A_WHILE);
    assert!(
        ready
            .iter()
            .all(|ready| ready.socket != client || !ready.writable),
        "{ready:?}"
    );
    let mut read = 0;
    while read < written {
        read += core.drain(server);
        if read < written {
            core.ready(fixture, server);
        }
    }
    assert_eq!(read, written);
    while !core.ready(fixture, client).writable {}
    assert!(core.driver.write(client, &block).expect("room") > 0);
}

pub(crate) fn ids_of_closed_sockets_are_dead(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let (client, server) = core.pair(fixture, Family::V4);
    core.driver.close(client, false);
    assert_eq!(
        core.driver
            .read(client, &mut [0; 9])
            .expect_err("closed")
            .kind(),
        ErrorKind::NotConnected
    );
    assert_eq!(
        core.driver
            .write(client, &[0; 9])
            .expect_err("closed")
            .kind(),
        ErrorKind::NotConnected
    );
    assert_eq!(
        core.driver.local_addr(client).expect_err("closed").kind(),
        ErrorKind::NotConnected
    );
    assert!(core.driver.take_error(client).is_some());
    assert!(core.driver.detach(client).is_none());
    core.driver.close(client, true);
    let (listener, _) = core.listen(fixture.ip(Family::V4));
    assert_eq!(listener.index, client.index, "places are used again");
    assert_ne!(listener, client);
    core.driver.close(client, false);
    assert!(
        core.driver.local_addr(listener).is_ok(),
        "a dead id closes nothing"
    );
    core.driver.close(server, false);
}

pub(crate) fn a_connection_moves_to_another_core(fixture: &mut dyn Fixture) {
    let (mut first, mut second) = (Core::new(fixture), Core::new(fixture));
    let (client, server) = first.pair(fixture, Family::V4);
    // These bytes are there before the second core knows of the socket.
    first.write_all(fixture, client, b"early");
    while !first.ready(fixture, server).readable {}
    let detached = first.driver.detach(server).expect("a connection");
    assert_eq!(
        first
            .driver
            .read(server, &mut [0; 9])
            .expect_err("moved")
            .kind(),
        ErrorKind::NotConnected
    );
    let server = second.driver.attach(detached).expect("of the same kind");
    assert!(second.ready(fixture, server).readable);
    assert_eq!(second.read_exact(fixture, server, 5), b"early");
    second.write_all(fixture, server, b"answer");
    assert_eq!(first.read_exact(fixture, client, 6), b"answer");
    first.write_all(fixture, client, b"late");
    assert_eq!(second.read_exact(fixture, server, 4), b"late");
    second.driver.close(server, false);
    assert_eq!(first.read_some(fixture, client).expect("the end"), 0);
    let foreign = DetachedSocket(Box::new("no socket of any driver"));
    assert_eq!(
        second.driver.attach(foreign).expect_err("foreign").kind(),
        ErrorKind::InvalidInput
    );
}

pub(crate) fn only_connections_can_be_detached(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let ip = fixture.ip(Family::V4);
    let (listener, _) = core.listen(ip);
    assert!(core.driver.detach(listener).is_none());
    let socket = core
        .driver
        .udp_bind(SocketAddr::new(ip, 0), UdpOptions::default())
        .expect("binds");
    assert!(core.driver.detach(socket).is_none());
    assert!(core.driver.local_addr(listener).is_ok() && core.driver.local_addr(socket).is_ok());
}

pub(crate) fn a_port_in_use_is_noticed(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let (_, addr) = core.listen(fixture.ip(Family::V4));
    for reuse_port in [ReusePort::No, ReusePort::First] {
        let options = ListenOptions {
            reuse_port,
            ..ListenOptions::default()
        };
        let error = core.driver.tcp_listen(addr, options).expect_err("in use");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
    }
    // Joining is for the ports of our own first socket.
    let options = ListenOptions {
        reuse_port: ReusePort::Join,
        ..ListenOptions::default()
    };
    assert!(core.driver.tcp_listen(addr, options).is_err());
}

pub(crate) fn cores_share_a_port(fixture: &mut dyn Fixture) {
    for family in FAMILIES {
        let mut cores = [Core::new(fixture), Core::new(fixture), Core::new(fixture)];
        let share = |reuse_port| ListenOptions {
            reuse_port,
            ..ListenOptions::default()
        };
        let addr = SocketAddr::new(fixture.ip(family), 0);
        let first = cores[0]
            .driver
            .tcp_listen(addr, share(ReusePort::First))
            .expect("listens");
        let addr = cores[0].driver.local_addr(first).expect("bound");
        let mut listeners = vec![first];
        for core in &mut cores[1..] {
            match core.driver.tcp_listen(addr, share(ReusePort::Join)) {
                Ok(listener) => listeners.push(listener),
                // Systems that do not share the connections evenly say so.
                Err(error) => return assert_eq!(error.kind(), ErrorKind::Unsupported),
            }
        }
        assert_eq!(
            cores[0]
                .driver
                .tcp_listen(addr, share(ReusePort::First))
                .expect_err("in use")
                .kind(),
            ErrorKind::AddrInUse
        );
        assert_eq!(
            cores[0]
                .driver
                .tcp_listen(addr, share(ReusePort::No))
                .expect_err("in use")
                .kind(),
            ErrorKind::AddrInUse
        );
        const DIALS: usize = 120;
        let mut diallers = Vec::new();
        for _ in 0..DIALS {
            let client = cores[0]
                .driver
                .tcp_connect(addr, None)
                .expect("begins to connect");
            assert!(cores[0].connected(fixture, client).is_none());
            diallers.push(client);
        }
        let mut counts = [0; 3];
        for (n, core) in cores.iter_mut().enumerate() {
            core.pause(fixture, A_WHILE);
            while core.driver.tcp_accept(listeners[n]).is_ok() {
                counts[n] += 1;
            }
        }
        assert_eq!(counts.iter().sum::<usize>(), DIALS);
        assert!(
            counts.iter().all(|count| *count >= DIALS / 10),
            "{counts:?}"
        );
    }
}

pub(crate) fn both_families_on_one_port(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let any_v6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
    let v6 = core
        .driver
        .tcp_listen(any_v6, ListenOptions::default())
        .expect("listens");
    let port = core.driver.local_addr(v6).expect("bound").port();
    let any_v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
    let v4 = match core.driver.tcp_listen(any_v4, ListenOptions::default()) {
        Ok(v4) => v4,
        // Another program may have the port of the other family.
        Err(error) if fixture.is_real() => return assert_eq!(error.kind(), ErrorKind::AddrInUse),
        Err(error) => panic!("{error}"),
    };
    for (family, listener) in [(Family::V4, v4), (Family::V6, v6)] {
        let to = SocketAddr::new(fixture.ip(family), port);
        let client = core
            .driver
            .tcp_connect(to, None)
            .expect("begins to connect");
        let (_, from) = core.accept(fixture, listener);
        assert_eq!(
            from.is_ipv4(),
            family == Family::V4,
            "never a mapped address"
        );
        assert!(core.connected(fixture, client).is_none());
    }
    // A mapped address is taken for what it means.
    let Ok(mapped) = format!("[::ffff:{}]:{port}", fixture.ip(Family::V4)).parse() else {
        panic!("an address")
    };
    let client = core
        .driver
        .tcp_connect(mapped, None)
        .expect("begins to connect");
    let (_, from) = core.accept(fixture, v4);
    assert_eq!(core.driver.local_addr(client).expect("bound"), from);
}

pub(crate) fn a_local_address_can_be_chosen(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let ip = fixture.ip(Family::V4);
    let (listener, addr) = core.listen(ip);
    let client = core
        .driver
        .tcp_connect(addr, Some(SocketAddr::new(ip, 0)))
        .expect("begins to connect");
    let (_, from) = core.accept(fixture, listener);
    assert_eq!(from.ip(), ip);
    assert!(core.connected(fixture, client).is_none());
    // The port of a listener of ours that allows it, as a router's table may know it.
    let share = ListenOptions {
        reuse_port: ReusePort::First,
        ..ListenOptions::default()
    };
    let own = core
        .driver
        .tcp_listen(SocketAddr::new(ip, 0), share)
        .expect("listens");
    let local = core.driver.local_addr(own).expect("bound");
    let client = match core.driver.tcp_connect(addr, Some(local)) {
        Ok(client) => client,
        // A system may not share ports at all.
        Err(error) => return assert!(fixture.is_real() && cfg!(windows), "{error}"),
    };
    let (_, from) = core.accept(fixture, listener);
    assert_eq!(from, local);
    assert!(core.connected(fixture, client).is_none());
}

pub(crate) fn a_crowd_of_connections(fixture: &mut dyn Fixture) {
    const CROWD: usize = 300;
    let mut core = Core::new(fixture);
    let (listener, addr) = core.listen(fixture.ip(Family::V4));
    let mut pairs = Vec::new();
    for n in 0..CROWD {
        let client = core
            .driver
            .tcp_connect(addr, None)
            .expect("begins to connect");
        let (server, _) = core.accept(fixture, listener);
        pairs.push((client, server, n as u8));
    }
    // All at once: more events than one look into the kernel gives.
    for &(client, _, n) in &pairs {
        core.write_all(fixture, client, &[n]);
    }
    for &(_, server, n) in &pairs {
        assert_eq!(core.read_exact(fixture, server, 1), [n]);
    }
}

pub(crate) fn no_descriptors_left_is_told_and_passes(fixture: &mut dyn Fixture) {
    if fixture.is_real() && cfg!(target_os = "linux") {
        crate::waiting::in_child("no_descriptors_left_is_told_and_passes", false, || {
            use_up_descriptors(fixture)
        });
    }
}

/// In a process of its own, since all descriptors are used up for a moment.
fn use_up_descriptors(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let (listener, addr) = core.listen(fixture.ip(Family::V4));
    let client = core
        .driver
        .tcp_connect(addr, None)
        .expect("begins to connect");
    core.ready(fixture, listener);
    let mut hoard = Vec::new();
    let limit = socket2_limit();
    assert!(limit < 5000, "the child has a low limit");
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    // EMFILE: the connection stays in the queue, and the error is told as it is.
    let error = core
        .driver
        .tcp_accept(listener)
        .expect_err("no descriptors");
    assert_eq!(error.raw_os_error(), Some(24), "{error}");
    assert!(core.driver.tcp_connect(addr, None).is_err());
    drop(hoard);
    core.driver
        .tcp_accept(listener)
        .expect("the connection has waited");
    assert!(core.connected(fixture, client).is_none());
}

/// The limit on open files of this process, as the kernel tells it.
fn socket2_limit() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("readable");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("listed");
    line.split_whitespace()
        .nth(3)
        .and_then(|soft| soft.parse().ok())
        .expect("a number")
}
