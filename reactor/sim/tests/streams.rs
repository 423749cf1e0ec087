use std::io::ErrorKind;
use std::time::Duration;

use super::*;
use crate::io::driver::ReusePort;
use crate::sim::LinkOptions;

/// Moves `bytes` from a socket of one driver to a socket of another, the way an edge-triggered user does.
pub(super) fn pump(
    from: (&mut SimDriver, SocketId),
    to: (&mut SimDriver, SocketId),
    bytes: &[u8],
) -> (Vec<u8>, Vec<usize>) {
    let (mut sent, mut got, mut sizes) = (0, Vec::new(), Vec::new());
    let mut buffer = [0; 10_000];
    let world = from.0.world_id();
    while got.len() < bytes.len() {
        loop {
            match from.0.write(from.1, &bytes[sent..]) {
                Ok(0) => break,
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        // Not longer than a while: the writer may be the one who can go on.
        let soon = to.0.now() + Duration::from_millis(2);
        let mut ready = Vec::new();
        to.0.wait(Some(soon), &mut ready).unwrap();
        let is_readable = ready
            .iter()
            .any(|ready| ready.socket == to.1 && ready.readable);
        while is_readable && got.len() < bytes.len() {
            match to.0.read(to.1, &mut buffer) {
                Ok(count) => {
                    assert!(count > 0, "the stream ended early in {world:?}");
                    got.extend_from_slice(&buffer[..count]);
                    sizes.push(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    (got, sizes)
}

#[test]
fn bytes_arrive_whole_and_in_order_in_pieces_of_any_size() {
    let mut pair = Pair::new(1);
    let (dialled, accepted) = pair.connected();
    let bytes = pattern(1_000_000);
    let (got, sizes) = pump((&mut pair.a, dialled), (&mut pair.b, accepted), &bytes);
    assert!(got == bytes);
    let odd = sizes.iter().filter(|size| **size < 10_000).count();
    assert!(odd > 5, "reads are cut here and there: {sizes:?}");
    let (back, _) = pump((&mut pair.b, accepted), (&mut pair.a, dialled), &got);
    assert!(back == bytes);
}

#[test]
fn loss_delays_bytes_and_changes_none() {
    let mut pair = Pair::new(2);
    pair.world.set_default_link(LinkOptions {
        loss: 0.1,
        ..LinkOptions::default()
    });
    let (dialled, accepted) = pair.connected();
    let bytes = pattern(2_000_000);
    let (got, _) = pump((&mut pair.a, dialled), (&mut pair.b, accepted), &bytes);
    assert!(got == bytes);
    assert!(pair.world.stats().packets_lost > 0);
    assert!(
        pair.world.elapsed() > Duration::from_millis(200),
        "time-outs take time"
    );
}

#[test]
fn connecting_takes_a_round_trip() {
    let mut pair = Pair::new(3);
    let delay = Duration::from_millis(40);
    let link = LinkOptions {
        delay,
        jitter: Duration::ZERO,
        ..LinkOptions::default()
    };
    pair.world.set_link(&pair.left, &pair.right, link);
    let (to, _) = pair.listener();
    let start = pair.a.now();
    let socket = pair.a.tcp_connect(to, None).unwrap();
    assert_eq!(
        pair.a.read(socket, &mut [0; 8]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    assert_eq!(
        pair.a.write(socket, &[0; 8]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    assert!(wait(&mut pair.a).writable);
    assert_eq!(pair.a.now(), start + 2 * delay);
}

#[test]
fn an_edge_comes_once_for_each_arrival() {
    let mut pair = Pair::new(4);
    pair.left.set_short_io(0.0);
    pair.right.set_short_io(0.0);
    let (dialled, accepted) = pair.connected();
    pair.a.write(dialled, &[1; 100]).unwrap();
    assert!(wait_for(&mut pair.b, accepted).readable);
    // Not drained: no edge without news.
    assert_eq!(pair.b.read(accepted, &mut [0; 10]).unwrap(), 10);
    assert_quiet(&mut pair.b);
    pair.a.write(dialled, &[2]).unwrap();
    assert!(wait_for(&mut pair.b, accepted).readable);
    assert_eq!(pair.b.read(accepted, &mut [0; 100]).unwrap(), 91);
    let error = pair.b.read(accepted, &mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_peer_that_does_not_read_stops_the_writer_until_it_does() {
    let mut pair = Pair::new(5);
    pair.left.set_tcp_buffers(10_000, 10_000);
    pair.right.set_tcp_buffers(20_000, 20_000);
    pair.left.set_short_io(0.0);
    pair.right.set_short_io(0.0);
    let (dialled, accepted) = pair.connected();
    let mut written = 0;
    loop {
        match pair.a.write(dialled, &[7; 3_000]) {
            Ok(count) => written += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                let (ready, _) = wait_all(&mut pair.a);
                if ready.is_empty() {
                    break;
                }
                assert!(ready[0].writable);
            }
        }
    }
    assert_eq!(written, 30_000, "both buffers are full");
    // The zero window is probed for as long as it takes.
    pair.world.run_for(Duration::from_secs(3600));
    assert!(pair.a.take_error(dialled).is_none());
    assert_quiet(&mut pair.a);
    assert!(wait_for(&mut pair.b, accepted).readable);
    let mut buffer = vec![0; 100_000];
    assert_eq!(pair.b.read(accepted, &mut buffer).unwrap(), 20_000);
    assert!(wait_for(&mut pair.a, dialled).writable, "room came back");
    assert!(pair.a.write(dialled, &[7; 3_000]).unwrap() > 0);
}

#[test]
fn a_shut_half_ends_the_stream_after_its_bytes_and_leaves_the_other_half() {
    let mut pair = Pair::new(6);
    pair.right.set_short_io(0.0);
    pair.left.set_short_io(0.0);
    let (dialled, accepted) = pair.connected();
    pair.a.write(dialled, b"last words").unwrap();
    pair.a.shutdown_write(dialled).unwrap();
    assert_eq!(
        pair.a.write(dialled, b"x").unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
    let mut seen = Ready {
        socket: accepted,
        readable: false,
        writable: false,
        read_closed: false,
        error: false,
    };
    while !seen.read_closed {
        seen = wait_for(&mut pair.b, accepted);
        assert!(seen.readable && !seen.error);
    }
    let mut buffer = [0; 100];
    assert_eq!(pair.b.read(accepted, &mut buffer).unwrap(), 10);
    assert_eq!(pair.b.read(accepted, &mut buffer).unwrap(), 0);
    assert_eq!(pair.b.read(accepted, &mut buffer).unwrap(), 0);
    pair.b.write(accepted, b"answer").unwrap();
    assert!(wait_for(&mut pair.a, dialled).readable);
    assert_eq!(pair.a.read(dialled, &mut buffer).unwrap(), 6);
    pair.b.close(accepted, false);
    let end = wait_for(&mut pair.a, dialled);
    assert!(end.read_closed && !end.error);
    assert_eq!(pair.a.read(dialled, &mut buffer).unwrap(), 0);
    pair.a.close(dialled, false);
    pair.world.run_for(Duration::from_secs(120));
    assert_eq!(pair.world.stats().tcp_endpoints, 0, "nothing is left over");
}

#[test]
fn closing_still_delivers_what_was_written() {
    let mut pair = Pair::new(7);
    let (dialled, accepted) = pair.connected();
    let bytes = pattern(100_000);
    let mut sent = 0;
    while sent < bytes.len() {
        sent += pair.a.write(dialled, &bytes[sent..]).unwrap();
    }
    pair.a.close(dialled, false);
    assert_eq!(pair.left.open_sockets(), 0);
    let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
    'stream: loop {
        wait_for(&mut pair.b, accepted);
        loop {
            match pair.b.read(accepted, &mut buffer) {
                Ok(0) => break 'stream,
                Ok(count) => got.extend_from_slice(&buffer[..count]),
                Err(_) => break,
            }
        }
    }
    assert!(got == bytes);
}

#[test]
fn an_abort_resets_the_peer() {
    let mut pair = Pair::new(8);
    let (dialled, accepted) = pair.connected();
    pair.a.close(dialled, true);
    let ready = wait_for(&mut pair.b, accepted);
    assert!(ready.readable && ready.read_closed && ready.error);
    let error = pair.b.read(accepted, &mut [0; 10]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(pair.b.read(accepted, &mut [0; 10]).unwrap(), 0);
    assert_eq!(
        pair.b.write(accepted, b"x").unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
    pair.b.close(accepted, false);
    assert_eq!(
        pair.b.write(accepted, b"x").unwrap_err().kind(),
        ErrorKind::NotConnected
    );
    assert_eq!(pair.world.stats().tcp_endpoints, 0);
}

#[test]
fn closing_with_unread_bytes_resets_the_peer() {
    let mut pair = Pair::new(9);
    let (dialled, accepted) = pair.connected();
    pair.a.write(dialled, b"never read").unwrap();
    while !wait_for(&mut pair.b, accepted).readable {}
    pair.b.close(accepted, false);
    while !wait_for(&mut pair.a, dialled).error {}
    assert_eq!(
        pair.a.take_error(dialled).unwrap().kind(),
        ErrorKind::ConnectionReset
    );
    assert!(pair.a.take_error(dialled).is_none());
}

#[test]
fn where_nobody_listens_a_connection_is_refused() {
    let mut pair = Pair::new(10);
    let socket = pair.a.tcp_connect(pair.right.addr(9), None).unwrap();
    assert!(pair.a.take_error(socket).is_none());
    let ready = wait(&mut pair.a);
    assert!(ready.writable && ready.error);
    assert_eq!(
        pair.a.take_error(socket).unwrap().kind(),
        ErrorKind::ConnectionRefused
    );
}

#[test]
fn into_a_partition_a_connection_times_out() {
    let mut pair = Pair::new(11);
    let (to, _) = pair.listener();
    pair.world.partition(&pair.left, &pair.right);
    let start = pair.a.now();
    let socket = pair.a.tcp_connect(to, None).unwrap();
    let mut ready = Vec::new();
    pair.a.wait(None, &mut ready).unwrap();
    assert!(ready[0].writable && ready[0].error);
    assert_eq!(
        pair.a.take_error(socket).unwrap().kind(),
        ErrorKind::TimedOut
    );
    assert_eq!(
        pair.a.now(),
        start + Duration::from_secs(127),
        "as on Linux"
    );
}

#[test]
fn a_connection_outlives_a_partition_that_heals() {
    let mut pair = Pair::new(12);
    let (dialled, accepted) = pair.connected();
    pair.world.partition(&pair.left, &pair.right);
    pair.a.write(dialled, b"through").unwrap();
    pair.world.run_for(Duration::from_secs(20));
    pair.world.heal(&pair.left, &pair.right);
    let (ready, _) = wait_all(&mut pair.b);
    if ready.is_empty() {
        wait_for(&mut pair.b, accepted);
    }
    let mut got = Vec::new();
    while got.len() < 7 {
        let mut buffer = [0; 10];
        match pair.b.read(accepted, &mut buffer) {
            Ok(count) => got.extend_from_slice(&buffer[..count]),
            Err(_) => drop(wait_for(&mut pair.b, accepted)),
        }
    }
    assert_eq!(got, b"through");
}

#[test]
fn a_connection_dies_of_a_partition_that_does_not_heal() {
    let mut pair = Pair::new(13);
    let (dialled, _) = pair.connected();
    pair.world.partition(&pair.left, &pair.right);
    pair.a.write(dialled, b"lost").unwrap();
    let start = pair.a.now();
    let mut ready = Vec::new();
    while !ready.iter().any(|ready: &Ready| ready.error) {
        ready.clear();
        pair.a.wait(None, &mut ready).unwrap();
    }
    assert_eq!(
        pair.a.take_error(dialled).unwrap().kind(),
        ErrorKind::TimedOut
    );
    let minutes = pair.a.now().saturating_duration_since(start).as_secs() / 60;
    assert!((10..20).contains(&minutes), "{minutes}");
}

#[test]
fn a_full_backlog_keeps_newcomers_waiting() {
    let mut pair = Pair::new(14);
    let options = ListenOptions {
        backlog: 2,
        ..ListenOptions::default()
    };
    let listener = pair.b.tcp_listen(pair.right.addr(80), options).unwrap();
    let sockets: Vec<_> = (0..3)
        .map(|_| pair.a.tcp_connect(pair.right.addr(80), None).unwrap())
        .collect();
    pair.world.run_for(Duration::from_millis(500));
    let (ready, _) = wait_all(&mut pair.a);
    assert_eq!(ready.len(), 2, "the third is not answered");
    assert!(wait(&mut pair.b).readable);
    pair.b.tcp_accept(listener).unwrap();
    let (ready, _) = wait_all(&mut pair.a);
    assert_eq!(ready.len(), 1, "its next try is");
    assert!(sockets.contains(&ready[0].socket));
    pair.world.run_for(Duration::from_millis(10));
    pair.b.tcp_accept(listener).unwrap();
    pair.b.tcp_accept(listener).unwrap();
    assert_eq!(
        pair.b.tcp_accept(listener).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
}

#[test]
fn closing_a_listener_resets_whom_it_has_not_accepted() {
    let mut pair = Pair::new(15);
    let (to, listener) = pair.listener();
    let socket = pair.a.tcp_connect(to, None).unwrap();
    assert!(wait(&mut pair.a).writable);
    pair.b.close(listener, false);
    assert!(wait_for(&mut pair.a, socket).error);
    assert_eq!(
        pair.a.take_error(socket).unwrap().kind(),
        ErrorKind::ConnectionReset
    );
    let refused = pair.a.tcp_connect(to, None).unwrap();
    assert!(wait_for(&mut pair.a, refused).error);
}

#[test]
fn ports_are_used_once_unless_shared() {
    let mut pair = Pair::new(16);
    let mut second = pair.right.driver();
    let any: SocketAddr = "0.0.0.0:700".parse().unwrap();
    let with = |reuse_port| ListenOptions {
        reuse_port,
        ..ListenOptions::default()
    };
    let first = pair.b.tcp_listen(any, with(ReusePort::No)).unwrap();
    for reuse in [ReusePort::No, ReusePort::First, ReusePort::Join] {
        let error = second
            .tcp_listen(pair.right.addr(700), with(reuse))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }
    second
        .tcp_listen("[::]:700".parse().unwrap(), with(ReusePort::No))
        .unwrap();
    pair.b.close(first, false);
    pair.b.tcp_listen(any, with(ReusePort::First)).unwrap();
    second.tcp_listen(any, with(ReusePort::Join)).unwrap();
    assert_eq!(
        second
            .tcp_listen(any, with(ReusePort::First))
            .unwrap_err()
            .kind(),
        ErrorKind::AddrInUse
    );
    let foreign = "10.9.9.9:1".parse().unwrap();
    let error = second.tcp_listen(foreign, with(ReusePort::No)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
}

#[test]
fn connections_spread_over_listeners_that_share_a_port() {
    let mut pair = Pair::new(17);
    let mut second = pair.right.driver();
    let any: SocketAddr = "0.0.0.0:700".parse().unwrap();
    let with = |reuse_port| ListenOptions {
        reuse_port,
        ..ListenOptions::default()
    };
    let listeners = [
        pair.b.tcp_listen(any, with(ReusePort::First)).unwrap(),
        second.tcp_listen(any, with(ReusePort::Join)).unwrap(),
    ];
    for _ in 0..100 {
        pair.a.tcp_connect(pair.right.addr(700), None).unwrap();
    }
    pair.world.run_for(Duration::from_secs(1));
    let count = |driver: &mut SimDriver, listener| {
        std::iter::from_fn(|| driver.tcp_accept(listener).ok()).count()
    };
    let (ours, theirs) = (
        count(&mut pair.b, listeners[0]),
        count(&mut second, listeners[1]),
    );
    assert_eq!(ours + theirs, 100);
    assert!(ours.min(theirs) > 25, "{ours} and {theirs}");
}

#[test]
fn a_connection_moves_between_the_cores_of_a_machine() {
    let mut pair = Pair::new(18);
    let (dialled, accepted) = pair.connected();
    let mut second = pair.right.driver();
    pair.a.write(dialled, b"before").unwrap();
    let detached = pair.b.detach(accepted).unwrap();
    assert_eq!(
        pair.b.read(accepted, &mut [0; 9]).unwrap_err().kind(),
        ErrorKind::NotConnected
    );
    pair.world.run_for(Duration::from_secs(1));
    let moved = second.attach(detached).unwrap();
    let ready = wait_for(&mut second, moved);
    assert!(ready.readable && ready.writable);
    assert!(second.read(moved, &mut [0; 9]).unwrap() > 0);

    let detached = second.detach(moved).unwrap();
    assert!(
        pair.a.attach(detached).is_err(),
        "another machine cannot have it"
    );
    assert!(
        wait_for(&mut pair.a, dialled).read_closed,
        "and nobody has it now"
    );
}

#[test]
fn the_loopback_interface_leads_home() {
    let mut pair = Pair::new(19);
    for home in ["127.0.0.1:80", "[::1]:80"] {
        let home: SocketAddr = home.parse().unwrap();
        let listener = pair.b.tcp_listen(home, ListenOptions::default()).unwrap();
        let socket = pair.b.tcp_connect(home, None).unwrap();
        while pair.b.tcp_accept(listener).is_err() {
            wait_all(&mut pair.b);
        }
        assert!(pair.b.local_addr(socket).unwrap().ip().is_loopback());
        let stray = pair.a.tcp_connect(home, None).unwrap();
        assert!(
            wait_for(&mut pair.a, stray).error,
            "it is another home there"
        );
    }
}

#[test]
fn both_versions_of_ip_have_their_own_ports_and_errors() {
    let mut pair = Pair::new(20);
    let world = &pair.world;
    let old = world.node(&[ip("10.0.0.3")]);
    old.set_ipv6(false);
    let mut driver = old.driver();
    let options = ListenOptions::default();
    let error = driver
        .tcp_listen("[::]:80".parse().unwrap(), options)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        driver
            .tcp_connect("[fd00::2]:80".parse().unwrap(), None)
            .is_err()
    );
    let v6: SocketAddr = "[fd00::2]:80".parse().unwrap();
    pair.b.tcp_listen(v6, ListenOptions::default()).unwrap();
    let socket = pair.a.tcp_connect(v6, None).unwrap();
    assert!(!wait(&mut pair.a).error);
    assert_eq!(pair.a.local_addr(socket).unwrap().ip(), ip("fd00::1"));
    let mapped: SocketAddr = "[::ffff:10.0.0.2]:80".parse().unwrap();
    let socket = pair.a.tcp_connect(mapped, None).unwrap();
    assert!(
        pair.a.local_addr(socket).unwrap().is_ipv4(),
        "a mapped address is IPv4"
    );
}

#[test]
fn out_of_sockets_is_the_error_of_the_system_and_loses_no_connection() {
    let mut pair = Pair::new(21);
    let (to, listener) = pair.listener();
    pair.right.set_sockets_max(1);
    pair.a.tcp_connect(to, None).unwrap();
    assert!(wait(&mut pair.b).readable);
    let error = pair.b.tcp_accept(listener).unwrap_err();
    assert!(error.raw_os_error().is_some(), "{error:?}");
    assert!(pair.b.tcp_connect(pair.left.addr(1), None).is_err());
    assert_quiet(&mut pair.b);
    pair.right.set_sockets_max(2);
    pair.b.tcp_accept(listener).unwrap();
}

#[test]
fn a_peer_that_forgot_a_connection_resets_it() {
    let mut pair = Pair::new(22);
    let (dialled, accepted) = pair.connected();
    let from = pair.a.local_addr(dialled).unwrap();
    let to = pair.b.local_addr(accepted).unwrap();
    // The reset of the abort is lost, as in a crash.
    pair.world.partition(&pair.left, &pair.right);
    pair.a.close(dialled, true);
    pair.world.heal_all();
    let again = pair.a.tcp_connect(to, Some(from)).unwrap();
    assert!(wait_for(&mut pair.b, accepted).error);
    assert!(
        !wait_for(&mut pair.a, again).error,
        "the next try finds the way free"
    );
}

#[test]
fn an_address_that_goes_takes_its_packets_with_it_and_is_reported() {
    let mut pair = Pair::new(23);
    let (dialled, _) = pair.connected();
    pair.a.watch_interfaces().unwrap();
    pair.left.remove_addr(ip("10.0.0.1"));
    let (_, woken) = wait_all(&mut pair.a);
    assert!(woken.interfaces_changed);
    let lost = pair.world.stats().packets_lost;
    pair.a.write(dialled, b"x").unwrap();
    assert!(pair.world.stats().packets_lost > lost);
    pair.left.add_addr(ip("10.0.0.77"));
    assert!(wait_all(&mut pair.a).1.interfaces_changed);
    let addrs = &pair.a.interfaces().unwrap()[1].addrs;
    assert_eq!(*addrs, [(ip("fd00::1"), 64), (ip("10.0.0.77"), 24)]);
}

#[test]
fn a_closed_connection_does_not_ask_for_room_for_ever() {
    let mut pair = Pair::new(24);
    let (dialled, accepted) = pair.connected();
    while pair.a.write(dialled, &[7; 50_000]).is_ok() {
        pair.world.run_for(Duration::from_millis(50));
    }
    pair.a.close(dialled, false);
    pair.world.run_for(Duration::from_secs(1800));
    assert_eq!(pair.world.stats().tcp_endpoints, 1);
    let read = pair.b.read(accepted, &mut [0; 200_000]).unwrap();
    assert!(read > 0, "what had come stays");
    while !wait_for(&mut pair.b, accepted).error {}
}
