//! A running node and what may knock at its door, over real sockets: it stays up, keeps nothing, and serves good peers.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mischief::{Callbacks, Node, NodeBuilder, NodeEvent, SendError};
use mischief_actors::connection::{Preface, ProtocolHash, WIRE_VERSIONS};
use mischief_reactor::Runtime;

const LONG: Duration = Duration::from_secs(20);

fn builder() -> NodeBuilder {
    // All of these come from one address, which is not what is tested here.
    let mut limits = mischief::Limits::default();
    limits.admission.rate_per_second = 1_000_000;
    limits.admission.rate_burst = 1_000_000;
    limits.admission.handshakes_per_address_max = 64;
    limits.admission.handshakes_per_prefix_max = 64;
    Node::builder()
        .ephemeral()
        .listen("127.0.0.1:0")
        .protocol("hostile", "1.0")
        .max_peers(500)
        .limits(limits)
}

fn node() -> Node {
    builder().start().expect("loopback can be listened on")
}

fn addr(node: &Node) -> SocketAddr {
    node.listen_addrs()[0]
}

/// Sockets and connection actors of a node's runtime.
fn held(node: &Node) -> (u32, usize) {
    let snapshot = node.runtime().snapshot().expect("it runs");
    let sockets = snapshot.cores.iter().map(|core| core.sockets).sum();
    (sockets, snapshot.actors().count())
}

/// Waits until a node holds what it held before.
#[track_caller]
fn await_held(node: &Node, expected: (u32, usize)) {
    let began = Instant::now();
    while held(node) != expected {
        assert!(
            began.elapsed() < LONG,
            "{:?} and not {expected:?}",
            held(node)
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// A peer as it should be connects and is heard.
#[track_caller]
fn check_serves(target: &Node) {
    let (sender, received) = mpsc::channel();
    let _heard = target
        .on_text(move |_, text| sender.send(text.to_owned()).unwrap_or(()))
        .guard();
    let good = node();
    let began = Instant::now();
    let peer = good
        .connect(&addr(target).to_string())
        .wait()
        .expect("it serves");
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    good.send_text(&peer, "hello")
        .wait()
        .expect("it is connected");
    assert_eq!(received.recv_timeout(LONG).expect("it was sent"), "hello");
    assert!(good.stop(LONG));
}

fn first_flight() -> Vec<u8> {
    let protocol = ProtocolHash::new("hostile", "1.0").expect("it is short");
    let mut flight = Preface::new(WIRE_VERSIONS, protocol).as_bytes().to_vec();
    flight.extend_from_slice(&[0, 32]);
    flight.extend_from_slice(&[9; 32]);
    flight
}

/// Says `bytes` and hangs up, in good order or by dropping what the other side says.
fn say(to: SocketAddr, bytes: &[u8], in_order: bool) {
    let mut socket = TcpStream::connect(to).expect("it listens");
    // The other side may have closed in the middle of it.
    let _ = socket.write_all(bytes);
    if in_order {
        let _ = socket.shutdown(Shutdown::Write);
        socket.set_read_timeout(Some(LONG)).expect("it is not zero");
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.len() < 4096);
    }
}

#[test]
fn strangers_of_all_sorts_leave_nothing_behind() {
    let target = node();
    let idle = held(&target);
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let _stays = target.on_event(move |event| log.lock().unwrap().push(event.clone()));
    let flight = first_flight();
    for length in 0..flight.len() {
        say(addr(&target), &flight[..length], length % 2 == 0);
    }
    for bit in 0..flight.len() * 8 {
        let mut flipped = flight.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        say(addr(&target), &flipped, bit % 2 == 0);
    }
    let mut noise = 1u32;
    for length in [1, 2, 44, 46, 77, 78, 79, 511, 512, 513, 4096, 100_000] {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (noise >> 24) as u8
            })
            .collect();
        say(addr(&target), &bytes, true);
        say(addr(&target), &bytes, false);
    }
    for text in [
        "GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03",
        "SSH-2.0-OpenSSH_9.6\r\n",
        "mischief",
    ] {
        say(addr(&target), text.as_bytes(), true);
    }
    // A whole handshake's worth of frames of every awkward length behind a first flight.
    for length in [0u16, 1, 15, 16, 65_535] {
        let mut bytes = flight.clone();
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&vec![7; usize::from(length)]);
        say(addr(&target), &bytes, true);
        say(addr(&target), &bytes, false);
    }
    check_serves(&target);
    await_held(&target, idle);
    let began = Instant::now();
    while events.lock().unwrap().len() < 2 {
        assert!(began.elapsed() < LONG, "the good peer has come and gone");
        thread::sleep(Duration::from_millis(1));
    }
    let events = events.lock().unwrap().clone();
    assert_eq!(events.len(), 2, "nobody else was a peer: {events:?}");
    assert_eq!(target.stats().memory_used, 0);
}

/// What stands between two nodes: it passes bytes on, changed by `change`, and keeps what the dialler has said.
struct Proxy {
    addr: SocketAddr,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Proxy {
    /// `change` is called with the place of each byte that the dialler says, and the byte.
    fn new(to: SocketAddr, change: impl Fn(usize, u8) -> u8 + Send + 'static) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be listened on");
        let addr = listener.local_addr().expect("it is bound");
        let said = Arc::new(Mutex::new(Vec::new()));
        let recording = said.clone();
        thread::spawn(move || {
            let (mut dialler, _) = listener.accept().expect("it is dialled");
            let mut responder = TcpStream::connect(to).expect("it listens");
            let mut back = (
                responder.try_clone().expect("a socket"),
                dialler.try_clone().expect("a socket"),
            );
            thread::spawn(move || {
                let _ = std::io::copy(&mut back.0, &mut back.1);
                let _ = back.1.shutdown(Shutdown::Both);
            });
            let mut buffer = [0; 4096];
            let mut place = 0;
            while let Ok(count @ 1..) = dialler.read(&mut buffer) {
                recording
                    .lock()
                    .unwrap()
                    .extend_from_slice(&buffer[..count]);
                for byte in &mut buffer[..count] {
                    *byte = change(place, *byte);
                    place += 1;
                }
                if responder.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = responder.shutdown(Shutdown::Write);
        });
        Proxy { addr, said }
    }
}

#[test]
fn a_recorded_conversation_says_nothing_when_it_is_repeated() {
    let target = node();
    let idle = held(&target);
    let heard = Arc::new(AtomicUsize::new(0));
    let counting = heard.clone();
    let _stays = target.on_text(move |_, _| {
        counting.fetch_add(1, Ordering::Relaxed);
    });
    let proxy = Proxy::new(addr(&target), |_, byte| byte);
    let dialler = node();
    let peer = dialler
        .connect(&proxy.addr.to_string())
        .wait()
        .expect("the proxy passes all on");
    dialler
        .send_text(&peer, "once")
        .wait()
        .expect("it is connected");
    while heard.load(Ordering::Relaxed) == 0 {
        thread::yield_now();
    }
    dialler.stop(LONG);
    await_held(&target, idle);
    let said = proxy.said.lock().unwrap().clone();
    assert!(said.len() > 400);
    for length in [78, 200, said.len()] {
        say(addr(&target), &said[..length], true);
        say(addr(&target), &said[..length], false);
    }
    await_held(&target, idle);
    assert_eq!(heard.load(Ordering::Relaxed), 1);
    assert_eq!(target.stats().peers, 0);
}

#[test]
fn a_bit_changed_on_the_way_ends_the_connection_or_the_handshake() {
    let target = node();
    let idle = held(&target);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = heard.clone();
    let _stays = target.on_text(move |_, text| hearing.lock().unwrap().push(text.to_owned()));
    // Up to the end of message 3, and well into the frames after it.
    for place in (0..600).step_by(23) {
        let proxy = Proxy::new(addr(&target), move |at, byte| match at == place {
            true => byte ^ 0x10,
            false => byte,
        });
        let dialler = node();
        let mut events = dialler.events();
        match dialler.connect(&proxy.addr.to_string()).wait_for(LONG) {
            Err(error) => assert_ne!(error.kind(), "internal", "{error}"),
            Ok(peer) => {
                // Three whole messages; the changed bit lies in one of them.
                for _ in 0..3 {
                    drop(dialler.send_text(&peer, &"x".repeat(150)));
                }
                loop {
                    match events.next_timeout(LONG).expect("the end is noticed") {
                        Some(NodeEvent::PeerDisconnected { .. }) => break,
                        Some(_) => {}
                        None => panic!("the node has not stopped"),
                    }
                }
            }
        }
        dialler.stop(LONG);
    }
    await_held(&target, idle);
    let is_whole = |text: &String| *text == "x".repeat(150);
    let heard = std::mem::take(&mut *heard.lock().unwrap());
    assert!(heard.iter().all(is_whole), "nothing changed gets through");
    check_serves(&target);
}

#[test]
fn a_peer_that_only_echoes_is_no_peer() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be listened on");
    let echo = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let mut back = socket.try_clone().expect("a socket");
            let mut socket = socket;
            thread::spawn(move || std::io::copy(&mut socket, &mut back));
        }
    });
    let dialler = node();
    let idle = held(&dialler);
    let error = dialler
        .connect(&echo.to_string())
        .wait()
        .expect_err("that is nobody");
    assert!(
        ["handshake_failed", "self_dial"].contains(&error.kind()),
        "{error}"
    );
    await_held(&dialler, idle);
    check_serves(&dialler);
}

#[test]
fn connections_land_on_both_cores_and_all_of_them_work() {
    let hub = builder()
        .cores(2)
        .start()
        .expect("loopback can be listened on");
    let heard = Arc::new(AtomicUsize::new(0));
    let counting = heard.clone();
    let _stays = hub.on_bytes(move |_, _| {
        counting.fetch_add(1, Ordering::Relaxed);
    });
    let idle = held(&hub);
    let runtime = Runtime::builder()
        .cores(2)
        .start()
        .expect("there are threads");
    let others: Vec<_> = (0..40)
        .map(|_| {
            builder()
                .runtime(&runtime.handle())
                .start()
                .expect("a port is free")
        })
        .collect();
    let calls: Vec<_> = others
        .iter()
        .map(|other| other.connect(&addr(&hub).to_string()))
        .collect();
    for call in calls {
        call.wait().expect("there is room");
    }
    let snapshot = hub.runtime().snapshot().expect("it runs");
    for core in &snapshot.cores {
        let is_connection = |name: &str| name.contains("ConnectionActor");
        let count = core
            .actors
            .iter()
            .filter(|actor| is_connection(actor.type_name))
            .count();
        assert!(count > 0, "core {} has no connection", core.core);
    }
    for round in 0..50 {
        for other in &others {
            let sent = other.send_bytes(&hub.id(), &[7; 300]);
            if round == 49 {
                sent.wait().expect("it is connected");
            }
        }
    }
    let began = Instant::now();
    while heard.load(Ordering::Relaxed) < 2000 {
        assert!(
            began.elapsed() < LONG,
            "{} of 2000",
            heard.load(Ordering::Relaxed)
        );
        thread::sleep(Duration::from_millis(5));
    }
    let told = hub.broadcast_text("to all").wait().expect("it can be sent");
    assert_eq!((told.sent, told.failed), (40, 0));
    for other in others {
        assert!(other.stop(LONG));
    }
    await_held(&hub, idle);
}

#[test]
fn two_hundred_nodes_come_and_go() {
    let hub = builder()
        .cores(2)
        .start()
        .expect("loopback can be listened on");
    let idle = held(&hub);
    let to = addr(&hub).to_string();
    let runtime = Runtime::builder()
        .cores(1)
        .start()
        .expect("there are threads");
    thread::scope(|scope| {
        for worker in 0..4 {
            let (handle, to) = (runtime.handle(), to.clone());
            scope.spawn(move || {
                for number in 0..50 {
                    let node = builder().runtime(&handle).start().expect("a port is free");
                    let peer = node.connect(&to).wait().expect("there is room");
                    let sent = node.send_text(&peer, "passing by");
                    match (worker + number) % 3 {
                        0 => sent.wait().expect("it is connected"),
                        1 => drop(node.disconnect(&peer)),
                        _ => {}
                    }
                    match number % 2 {
                        0 => drop(node),
                        _ => drop(node.stop(Duration::ZERO)),
                    }
                }
            });
        }
    });
    await_held(&hub, idle);
    let began = Instant::now();
    let handle = runtime.handle();
    while handle.snapshot().expect("it runs").actors().count() > 0 {
        assert!(began.elapsed() < LONG, "{:?}", handle.snapshot());
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(hub.stats().peers, 0);
    check_serves(&hub);
}

#[test]
fn messages_of_each_thread_keep_their_order() {
    const THREADS: u32 = 8;
    const EACH: u32 = 3000;
    let (a, b) = (node(), node());
    let (sender, received) = mpsc::channel();
    let _stays = b.on_bytes(move |_, bytes| sender.send(bytes.to_vec()).unwrap_or(()));
    let peer = a.connect(&addr(&b).to_string()).wait().expect("it listens");
    let outgoing = a.outgoing(&peer).expect("it is connected");
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let outgoing = outgoing.clone();
            scope.spawn(move || {
                for number in 0..EACH {
                    let mut message = thread.to_be_bytes().to_vec();
                    message.extend_from_slice(&number.to_be_bytes());
                    message.resize(8 + (number % 700) as usize, 0);
                    loop {
                        match outgoing.send_bytes(&message) {
                            Ok(()) => break,
                            Err(SendError::Full) => {
                                outgoing.wait_for_room(LONG).expect("it is taken in time");
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            });
        }
    });
    outgoing.flush().wait_for(LONG).expect("all is written");
    let mut next = [0; THREADS as usize];
    for _ in 0..THREADS * EACH {
        let message = received.recv_timeout(LONG).expect("all arrive");
        let word = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().expect("four"));
        let (thread, number) = (word(0) as usize, word(4));
        assert_eq!(number, next[thread], "of thread {thread}");
        next[thread] += 1;
    }
}

#[test]
fn a_node_stops_while_others_send_through_it() {
    let (a, b) = (node(), node());
    let _stays = b.on_bytes(|_, _| {});
    let peer = a.connect(&addr(&b).to_string()).wait().expect("it listens");
    thread::scope(|scope| {
        let (started, starting) = mpsc::channel();
        for _ in 0..4 {
            let (a, started) = (a.clone(), started.clone());
            scope.spawn(move || {
                started.send(()).expect("the test waits");
                loop {
                    match a.send_bytes(&peer, &[1; 2000]).wait_for(LONG) {
                        Ok(()) | Err(SendError::Full) => {}
                        Err(SendError::Gone(_)) => return,
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        for _ in 0..4 {
            starting.recv().expect("they start");
        }
        assert!(a.stop(LONG));
    });
    assert_eq!(
        a.connect("127.0.0.1:1")
            .wait()
            .expect_err("it has stopped")
            .kind(),
        "stopping"
    );
    check_serves(&b);
}

#[test]
fn the_last_handle_takes_the_node_with_it() {
    let (a, b) = (node(), node());
    let mut events = b.events();
    a.connect(&addr(&b).to_string()).wait().expect("it listens");
    let port = addr(&a);
    let (clone, weak) = (a.clone(), a.downgrade());
    drop(a);
    assert!(weak.upgrade().is_some());
    drop(clone);
    assert!(weak.upgrade().is_none());
    let reason = loop {
        match events.next_timeout(LONG).expect("b is told") {
            Some(NodeEvent::PeerDisconnected { reason, .. }) => break reason,
            Some(_) => {}
            None => panic!("b has not stopped"),
        }
    };
    assert_eq!(reason.kind(), "stopping");
    TcpStream::connect(port).expect_err("nobody listens any more");
}

#[test]
fn a_core_thread_is_not_waited_on() {
    let (a, b) = (
        node(),
        builder()
            .callbacks(Callbacks::Inline)
            .start()
            .expect("it starts"),
    );
    let (sender, received) = mpsc::channel();
    let weak = b.downgrade();
    let _stays = b.on_text(move |peer, _| {
        let node = weak.upgrade().expect("it is being called");
        let kinds = [
            node.peers().wait().expect_err("a core").kind(),
            node.connect("127.0.0.1:1")
                .wait()
                .expect_err("a core")
                .kind(),
            node.disconnect(peer)
                .wait_for(LONG)
                .expect_err("a core")
                .kind(),
            node.broadcast_text("x").wait().expect_err("a core").kind(),
        ];
        sender.send(kinds).unwrap_or(());
    });
    let peer = a.connect(&addr(&b).to_string()).wait().expect("it listens");
    a.send_text(&peer, "wait").wait().expect("it is connected");
    let kinds = received
        .recv_timeout(LONG)
        .expect("it is called and comes back");
    assert!(
        kinds
            .iter()
            .all(|kind| ["internal", "on_core_thread"].contains(kind)),
        "{kinds:?}"
    );
}

#[test]
fn a_program_that_does_not_pump_holds_up_its_peer_and_not_itself() {
    let (a, b) = (
        node(),
        builder()
            .callbacks(Callbacks::Pump)
            .start()
            .expect("it starts"),
    );
    let heard = Arc::new(AtomicUsize::new(0));
    let counting = heard.clone();
    let _stays = b.on_bytes(move |_, _| {
        counting.fetch_add(1, Ordering::Relaxed);
    });
    let peer = a.connect(&addr(&b).to_string()).wait().expect("it listens");
    let outgoing = a.outgoing(&peer).expect("it is connected");
    let mut sent = 0;
    loop {
        match outgoing.send_bytes(&[3; 10_000]) {
            Ok(()) => sent += 1,
            Err(SendError::Full) => {
                if outgoing.wait_for_room(Duration::from_millis(300)).is_err() {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(b.stats().queued_bytes <= 300 << 10, "{:?}", b.stats());
    assert!(b.stats().memory_used <= 600 << 10, "{:?}", b.stats());
    assert_eq!(heard.load(Ordering::Relaxed), 0);
    let began = Instant::now();
    while heard.load(Ordering::Relaxed) < sent {
        b.pump(Duration::from_millis(100));
        assert!(
            began.elapsed() < LONG,
            "{} of {sent}",
            heard.load(Ordering::Relaxed)
        );
    }
    // What the connection keeps for the next messages goes when it has been quiet for a while.
    let began = Instant::now();
    while b.stats().memory_used > 0 {
        assert!(began.elapsed() < LONG, "{:?}", b.stats());
        b.pump(Duration::from_millis(100));
    }
}

/// What a node is told to send does not take more than its memory either, however slowly others read.
#[test]
fn a_node_with_little_memory_sends_no_faster_than_it_is_read() {
    const MEMORY_MAX: usize = 1 << 20;
    const TO_EACH: usize = 60;
    let mut limits = mischief::Limits::default();
    limits.runtime.memory_max = MEMORY_MAX;
    let a = builder().limits(limits).start().expect("it starts");
    let heard = Arc::new(AtomicUsize::new(0));
    let others: Vec<_> = (0..6).map(|_| node()).collect();
    let mut ways = Vec::new();
    let mut stay = Vec::new();
    for other in &others {
        let counting = heard.clone();
        stay.push(other.on_bytes(move |_, bytes| {
            counting.fetch_add(bytes.len(), Ordering::Relaxed);
            thread::sleep(Duration::from_millis(1));
        }));
        let peer = a.connect(&addr(other).to_string()).wait();
        let way = a.outgoing(&peer.expect("it listens"));
        ways.push(way.expect("it is connected"));
    }
    let too_large = SendError::TooLarge {
        size: 900_000,
        max: MEMORY_MAX / 4 * 3,
    };
    assert_eq!(ways[0].send_bytes(&[0; 900_000]), Err(too_large));
    let mut most = 0;
    let mut has_waited = false;
    for _ in 0..TO_EACH {
        for way in &ways {
            while let Err(error) = way.send_bytes(&[7; 40_000]) {
                assert_eq!(error, SendError::Full);
                has_waited = true;
                way.wait_for_room(LONG).expect("it is read");
            }
            most = most.max(a.stats().memory_used);
        }
    }
    let began = Instant::now();
    while heard.load(Ordering::Relaxed) < ways.len() * TO_EACH * 40_000 {
        assert!(began.elapsed() < LONG, "{heard:?}");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(has_waited);
    // What waits counts, wherever it waits; memory grows in steps, and each core may be in the middle of one.
    assert!(most > MEMORY_MAX / 2, "{most}");
    assert!(most <= MEMORY_MAX + (256 << 10), "{most}");
}

/// One who never reads costs its marks and no more, and holds up nobody.
#[test]
fn a_peer_that_never_reads_is_left_out_of_what_all_others_get() {
    const MESSAGES: usize = 100;
    const MESSAGE: usize = 1 << 20;
    let a = node();
    let heard: Vec<Arc<AtomicUsize>> = (0..3).map(|_| Arc::default()).collect();
    let others: Vec<Node> = heard.iter().map(|_| node()).collect();
    let mut ways = Vec::new();
    for (other, heard) in others.iter().zip(&heard) {
        let heard = heard.clone();
        other.on_bytes(move |_, bytes| {
            heard.fetch_add(bytes.len(), Ordering::Relaxed);
        });
        let peer = a.connect(&addr(other).to_string()).wait();
        let way = a.outgoing(&peer.expect("it listens"));
        ways.push(way.expect("it is connected"));
    }
    // It is never pumped.
    let asleep = builder().callbacks(Callbacks::Pump).start();
    let asleep = asleep.expect("loopback can be listened on");
    let _never = asleep.on_bytes(|_, _| {});
    let connecting = a.connect(&addr(&asleep).to_string());
    let sleeper = connecting.wait().expect("it listens");
    let body = vec![7; MESSAGE];
    let (mut most, mut refused) = (0, 0);
    for _ in 0..MESSAGES {
        drop(a.broadcast_bytes(&body));
        for way in &ways {
            way.flush().wait_for(LONG).expect("it reads");
        }
        most = most.max(a.stats().memory_used);
        let way = a.outgoing(&sleeper).expect("it stays connected");
        refused += usize::from(way.queued() >= MESSAGE);
    }
    let began = Instant::now();
    let is_heard = |heard: &Arc<AtomicUsize>| heard.load(Ordering::Relaxed) == MESSAGES * MESSAGE;
    while !heard.iter().all(is_heard) {
        assert!(began.elapsed() < LONG, "{heard:?}");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(refused > MESSAGES / 2, "it was full {refused} times");
    assert!(most <= 16 << 20, "{most}");
    assert!(
        asleep.stats().memory_used <= 4 << 20,
        "{:?}",
        asleep.stats()
    );
}

/// The memory that strangers make a node hold comes back, also with a small limit on all of it.
#[test]
fn a_node_with_little_memory_stays_within_it() {
    let mut limits = mischief::Limits::default();
    limits.runtime.memory_max = 1 << 20;
    let b = builder().limits(limits).start().expect("it starts");
    let heard = Arc::new(AtomicUsize::new(0));
    let counting = heard.clone();
    let _stays = b.on_bytes(move |_, bytes| {
        counting.fetch_add(bytes.len(), Ordering::Relaxed);
        thread::sleep(Duration::from_micros(50));
    });
    let others: Vec<_> = (0..6).map(|_| node()).collect();
    // All of them first: a node that is short of memory lets nobody in.
    let connect = |other: &Node| {
        let connecting = other.connect(&addr(&b).to_string());
        connecting.wait().expect("it listens")
    };
    let peers: Vec<_> = others.iter().map(connect).collect();
    let mut fates = Vec::new();
    for (other, peer) in others.iter().zip(&peers) {
        for _ in 0..50 {
            fates.push(other.send_bytes(peer, &[5; 20_000]));
        }
    }
    let mut most = 0;
    let began = Instant::now();
    while heard.load(Ordering::Relaxed) < 6 * 50 * 20_000 {
        most = most.max(b.stats().memory_used);
        assert!(
            began.elapsed() < LONG,
            "{} bytes",
            heard.load(Ordering::Relaxed)
        );
        thread::sleep(Duration::from_millis(1));
    }
    // One read buffer's worth for each core may come on top.
    assert!(most <= (1 << 20) + (512 << 10), "{most}");
    for fate in fates {
        fate.wait_for(LONG).expect("all was taken");
    }
}
