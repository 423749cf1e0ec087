//! What a stranger on the network may do to a running node: nothing much.

mod process;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mischief_actors::connection::{Preface, ProtocolHash};
use process::{LONG, Program, Started};
use serde_json::json;
use socket2::{Domain, Socket, Type};

/// Connects in all, without a handshake.
const CONNECTS: usize = 20_000;
/// Sockets held open at a time, as far as this process may open files.
const SILENT: usize = 5_000;
/// What all that may cost.
const GROWTH_MAX_KIB: u64 = 16 * 1024;

/// Files that this process may still open.
fn files_max() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    soft.unwrap_or(1024)
}

/// A connection from another loopback address than the one that is left to friends.
fn connect_from(source: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// How long another node takes to get in.
fn time_to_get_in(addr: &str) -> Duration {
    let mut friend = Started::new(&["--listen", "127.0.0.1:0"]);
    let started = Instant::now();
    friend
        .program
        .ask_well(json!({"cmd": "connect", "addr": addr}));
    let took = started.elapsed();
    friend.shut_down();
    took
}

#[test]
fn twenty_thousand_silent_connects_cost_little_and_keep_nobody_out() {
    let mut node = Started::new(&["--listen", "127.0.0.1:0"]);
    let addr: SocketAddr = node.addr.parse().expect("it is an address");
    let held_max = SILENT.min(files_max().saturating_sub(200));
    let before = node.program.resident_kib();
    let mut held: std::collections::VecDeque<TcpStream> = std::collections::VecDeque::new();
    let mut slowest = Duration::ZERO;
    for number in 0..CONNECTS {
        if held.len() >= held_max {
            held.pop_front();
        }
        // From many addresses, as those who flood have them.
        let source = [
            127,
            7,
            (number / 250 % 250) as u8 + 1,
            (number % 250) as u8 + 1,
        ];
        let mut socket = connect_from(source, addr).expect("the node accepts");
        match number % 4 {
            0 => {}
            1 => drop(socket.write_all(b"m")),
            2 => drop(socket.write_all(b"mischief\x01\x01")),
            _ => drop(socket.write_all(&[0; 64])),
        }
        held.push_back(socket);
        if number % 5_000 == 4_999 {
            slowest = slowest.max(time_to_get_in(&node.addr));
        }
    }
    let during = node.program.resident_kib();
    println!(
        "{} held; slowest friend {slowest:?}; {before:?} -> {during:?} KiB",
        held.len()
    );
    assert!(
        slowest < Duration::from_secs(1),
        "a friend waited for {slowest:?}"
    );
    if let (Some(before), Some(during)) = (before, during) {
        assert!(
            during < before + GROWTH_MAX_KIB,
            "{before} KiB became {during}"
        );
    }
    drop(held);
    node.program.ask_well(json!({"cmd": "stats"}));
    node.shut_down();
}

/// A good preface, so that what follows is looked at.
fn preface() -> Vec<u8> {
    let hash = ProtocolHash::new("mischief", "1.0").expect("it is short");
    Preface::new(1..=1, hash).as_bytes().to_vec()
}

#[test]
fn garbage_and_lengths_that_lie_end_their_connection_and_nothing_else() {
    let mut node = Started::new(&["--listen", "127.0.0.1:0"]);
    let good = preface();
    let mut noise = 0x2545_F491u32;
    let mut garbage = |count: usize| -> Vec<u8> {
        let mut next = || {
            noise ^= noise << 13;
            noise ^= noise >> 17;
            noise ^= noise << 5;
            noise as u8
        };
        (0..count).map(|_| next()).collect()
    };
    let mut attacks: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0; 100_000],
        vec![0xff; 100_000],
        [&good[..], &[0, 0, 1]].concat(),
        [&good[..], &[0, 1, 7]].concat(),
        [&good[..], &[0, 31], &[7; 31]].concat(),
        [&good[..], &[0, 32], &[0; 32]].concat(),
        [&good[..], &[0, 33], &[7; 33]].concat(),
        [&good[..], &[0, 48], &[7; 48]].concat(),
        [&good[..], &[0xff, 0xff], &[7; 65_535]].concat(),
        [&good[..], &[0, 32], &[9; 32], &[0xff, 0xff], &[7; 70_000]].concat(),
        [&good[..], &[0, 32], &[9; 32], &[0, 0], &[7; 3]].concat(),
        [&good[..], &good[..]].concat(),
    ];
    for count in [1, 10, 100, 1_000, 10_000, 100_000] {
        attacks.push(garbage(count));
        attacks.push([&good[..], &garbage(count)].concat());
        attacks.push([&good[..], &[0, 32], &garbage(32), &garbage(count)].concat());
    }
    for attack in &attacks {
        let mut socket = TcpStream::connect(&node.addr).expect("the node accepts");
        socket.set_read_timeout(Some(LONG)).expect("it is a socket");
        // The node may close before it has everything.
        let _ = socket.write_all(attack);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        // Ends when the node closes.
        let _ = socket.read_to_end(&mut Vec::new());
    }
    let stats = node.program.ask_well(json!({"cmd": "stats"}));
    assert_eq!(stats["stats"]["peers"], 0);
    time_to_get_in(&node.addr);
    node.program.event("peer_connected");
    node.shut_down();
}

#[test]
fn a_preface_that_cannot_be_met_is_answered_without_waiting_for_more() {
    let node = Started::new(&["--listen", "127.0.0.1:0"]);
    let hash = |version| ProtocolHash::new("mischief", version).expect("it is short");
    // The codes of docs/wire.md.
    for (versions, protocol, code) in [(9..=9, "1.0", 1), (1..=1, "2.0", 2)] {
        let theirs = Preface::new(versions, hash(protocol));
        let mut socket = TcpStream::connect(&node.addr).expect("the node accepts");
        socket.write_all(theirs.as_bytes()).expect("it is read");
        // Half of the deadline that a silent socket has.
        let soon = Some(Duration::from_secs(5));
        socket.set_read_timeout(soon).expect("it is a socket");
        let mut answer = vec![0; preface().len() + 3];
        socket.read_exact(&mut answer).expect("an answer comes");
        assert_eq!(answer, [&preface()[..], &[0, 0, code]].concat());
    }
    node.shut_down();
}

#[test]
fn one_byte_at_a_time_is_a_handshake_too_but_holds_up_nobody() {
    let mut node = Started::new(&["--listen", "127.0.0.1:0"]);
    let mut slow: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(&node.addr).expect("the node accepts"))
        .collect();
    for byte in &preface() {
        for socket in &mut slow {
            socket
                .write_all(&[*byte])
                .expect("the node waits for the rest");
        }
    }
    assert!(time_to_get_in(&node.addr) < Duration::from_secs(1));
    node.program.event("peer_connected");
    // The handshake's deadline ends them all.
    for socket in &mut slow {
        socket.set_read_timeout(Some(LONG)).expect("it is a socket");
        let _ = socket.read_to_end(&mut Vec::new());
    }
    node.shut_down();
}

/// Everything that a flooded node says stays on its own lines.
#[test]
fn strangers_leave_no_trace_on_stdout_or_stderr() {
    let mut program = Program::node(&["--listen", "127.0.0.1:0"]);
    let ready = program.event("ready");
    let addr = ready["listen"][0].as_str().expect("a text").to_owned();
    for _ in 0..200 {
        let mut socket = TcpStream::connect(&addr).expect("the node accepts");
        let _ = socket.write_all(b"\x1b[2Jnonsense\n");
    }
    program.ask_well(json!({"cmd": "shutdown"}));
    let rest = program.rest();
    assert_eq!(rest.len(), 1, "{rest:?}");
    assert_eq!(program.errors(), "");
    assert_eq!(program.code(), Some(0));
}
