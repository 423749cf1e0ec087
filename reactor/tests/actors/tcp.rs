//! TCP through actors.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use mischief_reactor::io::driver::ListenOptions;
use mischief_reactor::io::memory::MemoryKind;
use mischief_reactor::{Address, Context, Event, Limits, SocketId};

use crate::fixture::{Fixture, changed};
use crate::puppet::{Log, Puppet, SECOND, order, puppet, puppet_with};

/// What happened to the sockets of an actor.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Net {
    Connected,
    ConnectFailed(ErrorKind),
    Accepted(SocketId),
    AcceptFailed,
    Given(SocketId),
    Writable,
    ReadClosed,
    Closed(ErrorKind),
}

/// What arrived, and what happened, at one actor.
#[derive(Clone)]
struct Record {
    events: Log<Net>,
    bytes: Arc<Mutex<Vec<u8>>>,
    /// From whom, and how much, in order.
    reads: Log<(SocketId, usize)>,
}

impl Record {
    fn new() -> Record {
        Record {
            events: Log::new(),
            bytes: Arc::default(),
            reads: Log::new(),
        }
    }

    /// Notes an event of a socket; `false` if it is of something else.
    fn note(&self, event: &Event<'_>) -> bool {
        self.events.add(match event {
            Event::Connected { .. } => Net::Connected,
            Event::ConnectFailed { error, .. } => Net::ConnectFailed(error.kind()),
            Event::Accepted { socket, .. } => Net::Accepted(*socket),
            Event::AcceptFailed { .. } => Net::AcceptFailed,
            Event::Given { socket } => Net::Given(*socket),
            Event::Writable { .. } => Net::Writable,
            Event::ReadClosed { .. } => Net::ReadClosed,
            Event::Closed { error, .. } => Net::Closed(error.kind()),
            Event::Data { socket, bytes } => {
                self.bytes
                    .lock()
                    .expect("nobody panics with it")
                    .extend_from_slice(bytes);
                self.reads.add((*socket, bytes.len()));
                return true;
            }
            _ => return false,
        });
        true
    }

    fn count(&self) -> usize {
        self.bytes.lock().expect("nobody panics with it").len()
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.bytes.lock().expect("nobody panics with it"))
    }

    fn accepted(&self) -> Vec<SocketId> {
        let events = self.events.all().into_iter();
        events
            .filter_map(|event| match event {
                Net::Accepted(socket) | Net::Given(socket) => Some(socket),
                _ => None,
            })
            .collect()
    }
}

/// Bytes that show where they belong.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

/// An actor that notes what happens to its sockets, after `react` has seen it.
fn peer<F: Fixture>(
    f: &F,
    core: usize,
    mut react: impl FnMut(&Event<'_>, &mut Context<'_, Puppet>) + Send + 'static,
) -> (Address<Puppet>, Record) {
    let record = Record::new();
    let noted = record.clone();
    let (actor, _) = puppet_with(f, core, move |puppet| {
        puppet.reacting(move |event, cx| {
            react(event, cx);
            noted.note(event)
        })
    });
    (actor, record)
}

fn listen<F: Fixture>(f: &F, actor: &Address<Puppet>) -> SocketAddr {
    let addr = f.addr();
    order(&f.handle(), actor, move |_, cx| {
        let listener = cx
            .tcp_listen(addr, ListenOptions::default())
            .expect("listens");
        cx.local_addr(listener).expect("bound")
    })
}

/// An actor that listens, reads on whatever it accepts, and does `react` besides.
fn server<F: Fixture>(
    f: &F,
    core: usize,
    mut react: impl FnMut(&Event<'_>, &mut Context<'_, Puppet>) + Send + 'static,
) -> (SocketAddr, Address<Puppet>, Record) {
    let (actor, record) = peer(f, core, move |event, cx| {
        if let Event::Accepted { socket, .. } = event {
            cx.resume_reading(*socket);
        }
        react(event, cx);
    });
    (listen(f, &actor), actor, record)
}

/// An actor that listens and reads nothing until it is told to.
fn silent_server<F: Fixture>(f: &F, core: usize) -> (SocketAddr, Address<Puppet>, Record) {
    let (actor, record) = peer(f, core, |_, _| {});
    (listen(f, &actor), actor, record)
}

fn connect<F: Fixture>(f: &F, actor: &Address<Puppet>, to: SocketAddr) -> SocketId {
    order(&f.handle(), actor, move |_, cx| {
        cx.tcp_connect(to, None).expect("begins to connect")
    })
}

/// A connected actor that writes what it is told.
fn client<F: Fixture>(f: &F, core: usize, to: SocketAddr) -> (Address<Puppet>, SocketId, Record) {
    let (actor, record) = peer(f, core, |_, _| {});
    let socket = connect(f, &actor, to);
    f.until(|| record.events.has(&Net::Connected));
    (actor, socket, record)
}

fn write<F: Fixture>(f: &F, actor: &Address<Puppet>, socket: SocketId, bytes: Vec<u8>) -> usize {
    order(&f.handle(), actor, move |_, cx| {
        cx.write(socket, &bytes).expect("writes")
    })
}

/// Echoes, and reads no more while what it has to say does not go out.
fn echo(event: &Event<'_>, cx: &mut Context<'_, Puppet>) {
    match event {
        Event::Data { socket, bytes } => {
            let unsent = cx.write(*socket, bytes).expect("writes");
            if unsent > 0 {
                cx.pause_reading(*socket);
            }
        }
        Event::Writable { socket } => cx.resume_reading(*socket),
        Event::ReadClosed { socket } => cx.shutdown_write(*socket).expect("shuts down"),
        _ => {}
    }
}

pub fn an_echo_brings_everything_back_in_order<F: Fixture>() {
    let mut limits = Limits::default();
    limits.unsent_max = 64 << 10;
    let f = F::with_limits(2, limits);
    for core in 0..2 {
        let (to, _, _) = server(&f, core, echo);
        let want = pattern(3 << 20);
        // It writes as there is room and reads all the time.
        let (mut sent, bytes) = (0, want.clone());
        let mut pump = move |socket: SocketId, cx: &mut Context<'_, Puppet>| {
            while sent < bytes.len() {
                let end = (sent + 10_000).min(bytes.len());
                match cx.write(socket, &bytes[sent..end]) {
                    Ok(_) => sent = end,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::WouldBlock);
                        assert!(cx.unsent(socket) <= 64 << 10);
                        return;
                    }
                }
            }
            cx.shutdown_write(socket).expect("shuts down");
        };
        let mut is_done = false;
        let (actor, record) = peer(&f, 0, move |event, cx| match event {
            Event::Connected { socket } => pump(*socket, cx),
            Event::Writable { socket } if !is_done => pump(*socket, cx),
            Event::ReadClosed { .. } => is_done = true,
            _ => {}
        });
        connect(&f, &actor, to);
        f.until(|| record.events.has(&Net::ReadClosed));
        assert!(record.take() == want, "all of it, as it was");
        f.until(|| f.handle().memory().used() == 0);
    }
    assert!(f.shutdown(SECOND));
}

pub fn a_half_close_leaves_the_other_half_open<F: Fixture>() {
    let f = F::start(1);
    let mut seen = 0;
    let (to, _, served) = server(&f, 0, move |event, cx| match event {
        Event::Data { bytes, .. } => seen += bytes.len(),
        Event::ReadClosed { socket } => {
            cx.write(*socket, format!("{seen} bytes").as_bytes())
                .expect("writes");
            cx.shutdown_write(*socket).expect("shuts down");
        }
        _ => {}
    });
    let (actor, socket, record) = client(&f, 0, to);
    order(&f.handle(), &actor, move |_, cx| {
        cx.write(socket, &pattern(500_000)).expect("writes");
        // What is kept goes out before the end does.
        cx.shutdown_write(socket).expect("shuts down");
        let refused = cx.write(socket, b"more").expect_err("it is shut");
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    });
    f.until(|| record.events.has(&Net::ReadClosed));
    assert_eq!(record.take(), b"500000 bytes");
    assert!(served.take() == pattern(500_000));
    assert_eq!(served.events.count(&Net::ReadClosed), 1);
    // Both halves are shut and the socket is still this actor's, until it closes it.
    order(&f.handle(), &actor, move |_, cx| cx.close(socket, false));
    assert!(f.shutdown(SECOND));
}

pub fn where_nobody_listens_a_connection_fails<F: Fixture>() {
    let f = F::start(1);
    let (listener, _) = puppet(&f, 0);
    let addr = f.addr();
    let to = order(&f.handle(), &listener, move |_, cx| {
        let listener = cx
            .tcp_listen(addr, ListenOptions::default())
            .expect("listens");
        let addr = cx.local_addr(listener).expect("bound");
        cx.close(listener, false);
        addr
    });
    let (actor, record) = peer(&f, 0, |_, _| {});
    let socket = connect(&f, &actor, to);
    f.until(|| record.events.len() == 1);
    let refused = Net::ConnectFailed(ErrorKind::ConnectionRefused);
    assert_eq!(record.events.all(), [refused]);
    let error = order(&f.handle(), &actor, move |_, cx| {
        cx.write(socket, b"x").map_err(|error| error.kind())
    });
    assert_eq!(error, Err(ErrorKind::NotConnected));
    assert!(f.shutdown(SECOND));
}

pub fn a_peer_that_closes_ends_the_stream_and_one_that_aborts_breaks_it<F: Fixture>() {
    let f = F::start(2);
    for abort in [false, true] {
        let (to, _, _) = server(&f, 1, move |event, cx| {
            if let Event::Data { socket, .. } = event {
                cx.close(*socket, abort);
            }
        });
        let (actor, socket, record) = client(&f, 0, to);
        write(&f, &actor, socket, b"hello".to_vec());
        f.until(|| record.events.len() == 2);
        let end = match abort {
            false => Net::ReadClosed,
            true => Net::Closed(ErrorKind::ConnectionReset),
        };
        assert_eq!(record.events.all(), [Net::Connected, end]);
    }
    assert!(f.shutdown(SECOND));
}

/// A connection whose stream has ended is not read any more, and still tells when it breaks.
pub fn a_break_after_the_end_of_the_stream_is_told<F: Fixture>() {
    let f = F::start(1);
    let (to, serving, served) = server(&f, 0, |_, _| {});
    let (_, _, record) = client(&f, 0, to);
    f.until(|| served.accepted().len() == 1);
    let socket = served.accepted()[0];
    order(&f.handle(), &serving, move |_, cx| {
        cx.shutdown_write(socket).expect("shuts down")
    });
    f.until(|| record.events.has(&Net::ReadClosed));
    order(&f.handle(), &serving, move |_, cx| cx.close(socket, true));
    f.until(|| record.events.len() == 3);
    assert!(
        matches!(record.events.all()[2], Net::Closed(_)),
        "{:?}",
        record.events.all()
    );
    assert!(f.shutdown(SECOND));
}

pub fn what_is_written_while_connecting_arrives<F: Fixture>() {
    let mut limits = Limits::default();
    limits.unsent_max = 1000;
    let f = F::with_limits(1, limits);
    let (to, _, served) = server(&f, 0, |_, _| {});
    let (actor, record) = peer(&f, 0, |_, _| {});
    let results = order(&f.handle(), &actor, move |_, cx| {
        let socket = cx.tcp_connect(to, None).expect("begins to connect");
        let first = cx.write(socket, b"one ").expect("kept");
        let second = cx.write(socket, b"two").expect("kept");
        let third = cx.write(socket, &[0; 994]).map_err(|error| error.kind());
        cx.shutdown_write(socket).expect("when that has gone");
        (first, second, third)
    });
    assert_eq!(results, (4, 7, Err(ErrorKind::WouldBlock)));
    f.until(|| served.events.has(&Net::ReadClosed));
    assert_eq!(served.take(), b"one two");
    assert_eq!(record.events.all(), [Net::Connected, Net::Writable]);
    // Without a byte, too.
    order(&f.handle(), &actor, move |_, cx| {
        let socket = cx.tcp_connect(to, None).expect("begins to connect");
        cx.shutdown_write(socket).expect("when it is connected");
    });
    f.until(|| served.events.count(&Net::ReadClosed) == 2);
    assert!(f.shutdown(SECOND));
}

/// A reader that pauses: the writer's bytes fill the kernel, then its own bound, and no more are taken.
pub fn a_slow_reader_pushes_back<F: Fixture>() {
    let mut limits = Limits::default();
    limits.unsent_max = 100_000;
    let f = F::with_limits(2, limits);
    let (to, serving, served) = silent_server(&f, 1);
    let (actor, socket, record) = client(&f, 0, to);
    let total = Arc::new(Mutex::new(0));
    let sent = total.clone();
    let fill = || {
        order(&f.handle(), &actor, {
            let sent = sent.clone();
            move |_, cx| {
                let chunk = pattern(10_000);
                while cx.write(socket, &chunk).is_ok() {
                    *sent.lock().expect("nobody panics with it") += chunk.len();
                }
                cx.unsent(socket)
            }
        })
    };
    let kept = fill();
    assert!(kept > 90_000 && kept <= 100_000, "{kept}");
    f.until(|| f.handle().memory().used_for(MemoryKind::SendBuffers) > 0);
    // Nothing more goes, however long it takes, but what the kernel still took.
    f.pass(SECOND / 20);
    let wrote = *total.lock().expect("nobody panics with it");
    f.until(|| served.accepted().len() == 1);
    assert_eq!(served.count(), 0);
    let accepted = served.accepted()[0];
    order(&f.handle(), &serving, move |_, cx| {
        cx.resume_reading(accepted)
    });
    f.until(|| served.count() == wrote);
    f.until(|| record.events.has(&Net::Writable));
    assert_eq!(record.events.count(&Net::Writable), 1);
    assert!(
        served
            .take()
            .chunks(10_000)
            .all(|chunk| chunk == pattern(10_000))
    );
    f.until(|| f.handle().memory().used() == 0);
    assert!(f.shutdown(SECOND));
}

/// One large write while nothing waits is kept whole, beyond the bound: else it could never be sent.
pub fn a_large_write_is_kept_whole<F: Fixture>() {
    let mut limits = Limits::default();
    limits.unsent_max = 1000;
    let f = F::with_limits(1, limits);
    let (to, _, served) = server(&f, 0, |_, _| {});
    let (actor, socket, record) = client(&f, 0, to);
    // More than any kernel buffer takes at once.
    let kept = write(&f, &actor, socket, pattern(20 << 20));
    assert!(kept > 1000);
    f.until(|| served.count() == 20 << 20);
    assert!(served.take() == pattern(20 << 20));
    f.until(|| record.events.has(&Net::Writable));
    assert!(f.shutdown(SECOND));
}

/// The reader takes turns between two connections that both have more than a turn's budget.
pub fn two_busy_connections_are_read_in_turns<F: Fixture>() {
    const BUDGET: usize = 8 << 10;
    let mut limits = Limits::default();
    limits.read_budget = BUDGET;
    let f = F::with_limits(2, limits);
    let (to, serving, served) = silent_server(&f, 1);
    let clients: Vec<_> = (0..2).map(|_| client(&f, 0, to)).collect();
    for (actor, socket, _) in &clients {
        write(&f, actor, *socket, pattern(60_000));
    }
    f.until(|| served.accepted().len() == 2);
    f.until(|| {
        clients.iter().all(|(actor, socket, _)| {
            let socket = *socket;
            order(&f.handle(), actor, move |_, cx| cx.unsent(socket)) == 0
        })
    });
    // All of it has arrived before anything is read.
    f.pass(SECOND / 20);
    let accepted = served.accepted();
    order(&f.handle(), &serving, move |_, cx| {
        for socket in accepted {
            cx.resume_reading(socket);
        }
    });
    f.until(|| served.count() == 120_000);
    // Nobody gets more than a budget ahead of the other, until one is through.
    let mut totals: BTreeMap<SocketId, usize> = BTreeMap::new();
    for socket in served.accepted() {
        totals.insert(socket, 0);
    }
    for (socket, bytes) in served.reads.all() {
        *totals.get_mut(&socket).expect("one of the two") += bytes;
        let least = totals.values().min().expect("two");
        let most = totals.values().max().expect("two");
        // A turn ends with the read that reaches the budget, and the one before it may have been cut short.
        assert!(*most == 60_000 || most - least < 2 * BUDGET, "{totals:?}");
    }
    assert!(f.shutdown(SECOND));
}

/// Everything arrives while nobody reads, and no news come afterwards: resuming has to look by itself.
pub fn a_pause_loses_nothing<F: Fixture>() {
    let f = F::start(1);
    let reads = Arc::new(AtomicU32::new(0));
    let counted = reads.clone();
    // It pauses after each piece.
    let (to, serving, served) = server(&f, 0, move |event, cx| {
        if let Event::Data { socket, .. } = event {
            counted.fetch_add(1, Ordering::SeqCst);
            cx.pause_reading(*socket);
        }
    });
    let (actor, socket, _) = client(&f, 0, to);
    write(&f, &actor, socket, pattern(300_000));
    order(&f.handle(), &actor, move |_, cx| {
        cx.shutdown_write(socket).expect("shuts down")
    });
    f.until(|| reads.load(Ordering::SeqCst) == 1);
    f.pass(SECOND / 50);
    assert_eq!(reads.load(Ordering::SeqCst), 1, "it is paused");
    let accepted = served.accepted()[0];
    f.until(|| {
        order(&f.handle(), &serving, move |_, cx| {
            cx.resume_reading(accepted);
            // Twice makes no difference.
            cx.resume_reading(accepted);
        });
        served.events.has(&Net::ReadClosed)
    });
    assert!(served.take() == pattern(300_000));
    assert!(reads.load(Ordering::SeqCst) >= 3);
    assert!(f.shutdown(SECOND));
}

pub fn a_connection_is_given_to_an_actor_of_either_core<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    for core in 0..2 {
        let (to, serving, served) = silent_server(&f, 0);
        let (actor, socket, record) = client(&f, 1, to);
        // Bytes that arrive before, between and after the owners.
        write(&f, &actor, socket, b"before ".to_vec());
        f.until(|| served.accepted().len() == 1);
        let accepted = served.accepted()[0];
        let (heir, inherited) = peer(&f, core, |event, cx| {
            if let Event::Given { socket } = event {
                cx.resume_reading(*socket);
            }
        });
        order(&handle, &serving, move |_, cx| {
            cx.give_socket(accepted, heir.id()).expect("given");
            let error = cx.write(accepted, b"x").expect_err("it is no longer ours");
            assert_eq!(error.kind(), ErrorKind::NotConnected);
            assert!(cx.give_socket(accepted, heir.id()).is_err());
            cx.close(accepted, true);
        });
        write(&f, &actor, socket, b"after".to_vec());
        f.until(|| inherited.count() == 12);
        assert_eq!(inherited.take(), b"before after");
        assert_eq!(served.count(), 0);
        let given = inherited.accepted()[0];
        write(&f, &heir, given, b"answer".to_vec());
        f.until(|| record.count() == 6);
        // It closes with its new owner.
        handle.stop(heir.id());
        f.until(|| record.events.has(&Net::ReadClosed));
    }
    assert!(f.shutdown(SECOND));
}

pub fn a_connection_is_not_given_where_it_would_be_lost<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    let (to, serving, served) = server(&f, 0, |_, _| {});
    let (actor, socket, _) = client(&f, 0, to);
    f.until(|| served.accepted().len() == 1);
    let accepted = served.accepted()[0];
    let (gone, _) = puppet(&f, 0);
    handle.stop(gone.id());
    assert!(handle.stopped(gone.id()).wait().is_ok());
    let (remote, _) = puppet(&f, 1);
    let kinds = order(&handle, &serving, move |_, cx| {
        let to_gone = cx
            .give_socket(accepted, gone.id())
            .map_err(|error| error.kind());
        cx.write(accepted, &pattern(20 << 20)).expect("kept");
        let unsent = cx
            .give_socket(accepted, remote.id())
            .map_err(|error| error.kind());
        (to_gone, unsent)
    });
    assert_eq!(
        kinds,
        (Err(ErrorKind::NotFound), Err(ErrorKind::ResourceBusy))
    );
    // It goes on as before.
    write(&f, &actor, socket, b"hello".to_vec());
    f.until(|| served.count() == 5);
    // To somebody on the other core who has ended: it closes.
    let (other, other_socket, other_record) = client(&f, 0, to);
    f.until(|| served.accepted().len() == 2);
    let accepted = served.accepted()[1];
    handle.stop(remote.id());
    assert!(handle.stopped(remote.id()).wait().is_ok());
    order(&handle, &serving, move |_, cx| {
        cx.give_socket(accepted, remote.id()).expect("on its way")
    });
    f.until(|| other_record.events.has(&Net::ReadClosed));
    let _ = (other, other_socket);
    assert!(f.shutdown(SECOND));
}

/// The receiver is being made anew when it is given a connection: it closes, as its own did.
pub fn a_connection_given_to_an_actor_in_the_making_closes<F: Fixture>() {
    let f = F::start(2);
    for core in 0..2 {
        let (to, serving, served) = silent_server(&f, core);
        let (_, _, record) = client(&f, 0, to);
        f.until(|| served.accepted().len() == 1);
        let accepted = served.accepted()[0];
        let (stuck, _) = crate::messages::stuck(&f);
        order(&f.handle(), &serving, move |_, cx| {
            cx.give_socket(accepted, stuck.id()).expect("on its way");
        });
        f.until(|| record.events.has(&Net::ReadClosed));
    }
    assert!(f.shutdown(SECOND));
}

pub fn a_thousand_connections<F: Fixture>() {
    const COUNT: usize = 1000;
    allow_descriptors();
    let f = F::start(2);
    let (to, serving, served) = server(&f, 1, echo);
    let answered = Arc::new(AtomicU32::new(0));
    let counted = answered.clone();
    let mut answers: BTreeMap<SocketId, Vec<u8>> = BTreeMap::new();
    let (dialling, record) = peer(&f, 0, move |event, cx| match event {
        Event::Connected { socket } => {
            cx.write(*socket, &socket.index.to_be_bytes())
                .expect("writes");
        }
        Event::Data { socket, bytes } => {
            let answer = answers.entry(*socket).or_default();
            answer.extend_from_slice(bytes);
            assert!(socket.index.to_be_bytes().starts_with(answer), "its own");
            if answer.len() == 4 {
                counted.fetch_add(1, Ordering::SeqCst);
                changed();
            }
        }
        _ => {}
    });
    order(&f.handle(), &dialling, move |_, cx| {
        for _ in 0..COUNT {
            cx.tcp_connect(to, None).expect("begins to connect");
        }
    });
    f.until(|| answered.load(Ordering::SeqCst) == COUNT as u32);
    assert_eq!(record.events.count(&Net::Connected), COUNT);
    let sockets = |core: usize| f.handle().snapshot().expect("answers").cores[core].sockets;
    assert_eq!((sockets(0), sockets(1)), (COUNT as u32, COUNT as u32 + 1));
    // All close with their actors.
    f.handle().stop(dialling.id());
    f.until(|| served.events.count(&Net::ReadClosed) == COUNT);
    f.handle().stop(serving.id());
    f.until(|| sockets(0) == 0 && sockets(1) == 0);
    assert!(f.shutdown(SECOND));
}

/// Raises the number of open files to what the system allows.
fn allow_descriptors() {
    #[cfg(unix)]
    {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the structure outlives both calls.
        unsafe {
            assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
            limit.rlim_cur = limit.rlim_max.min(20_000);
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
        }
    }
}

/// Over the memory bound nothing is read, and when memory has come back, all is.
pub fn without_memory_nothing_is_read<F: Fixture>() {
    let mut limits = Limits::default();
    limits.memory_max = 1 << 20;
    let f = F::with_limits(2, limits);
    let handle = f.handle();
    let (to, serving, served) = server(&f, 1, |_, _| {});
    let (actor, socket, _) = client(&f, 0, to);
    write(&f, &actor, socket, b"one".to_vec());
    f.until(|| served.count() == 3);
    assert!(handle.memory().try_take(MemoryKind::Reassembly, 1 << 20));
    assert!(order(&handle, &serving, |_, cx| cx.is_memory_short()));
    write(&f, &actor, socket, b"two".to_vec());
    f.pass(SECOND / 20);
    assert_eq!(served.count(), 3);
    let turns = handle.snapshot().expect("answers").cores[1].turns;
    f.pass(SECOND / 20);
    let later = handle.snapshot().expect("answers").cores[1].turns;
    assert!(later - turns < 40, "{} turns", later - turns);
    handle.memory().give(MemoryKind::Reassembly, 1 << 20);
    f.until(|| served.count() == 6);
    assert_eq!(served.take(), b"onetwo");
    assert!(f.shutdown(SECOND));
}

/// No descriptor is left for a connection that waits to be accepted. That must not make the core turn for ever, and
/// once there is one, the connection is taken.
pub fn out_of_descriptors_accepting_rests_and_goes_on<F: Fixture>() {
    if !F::IS_SIMULATED && std::env::var_os("MISCHIEF_FEW_FILES").is_none() {
        // The bound holds for a whole process, so it takes one of its own.
        return in_a_process_of_its_own();
    }
    let f = F::start(2);
    let handle = f.handle();
    let (to, _, served) = server(&f, 1, |_, _| {});
    let (actor, socket, record) = client(&f, 0, to);
    f.until(|| served.accepted().len() == 1);
    order(&handle, &actor, move |_, cx| cx.close(socket, false));
    f.until(|| served.events.has(&Net::ReadClosed));
    // Room for one more socket, which the dialler takes.
    let mut hoard = Vec::new();
    if F::IS_SIMULATED {
        let socket = connect(&f, &actor, to);
        f.forbid_sockets(true);
        let _ = socket;
    } else {
        while let Ok(file) = std::fs::File::open("/dev/null") {
            hoard.push(file);
        }
        hoard.pop();
        connect(&f, &actor, to);
    }
    f.until(|| served.events.has(&Net::AcceptFailed));
    f.until(|| record.events.count(&Net::Connected) == 2);
    let before = handle.snapshot().expect("answers").cores[1].turns;
    f.pass(SECOND / 2);
    let after = handle.snapshot().expect("answers").cores[1].turns;
    assert!(after - before < 40, "{} turns", after - before);
    assert_eq!(served.accepted().len(), 1);
    f.forbid_sockets(false);
    hoard.clear();
    f.until(|| served.accepted().len() == 2);
    assert!(f.shutdown(SECOND));
}

fn in_a_process_of_its_own() {
    let test = std::thread::current()
        .name()
        .expect("the test's")
        .to_owned();
    let program = std::env::current_exe().expect("this one");
    let mut command = std::process::Command::new("sh");
    command.args([
        "-c",
        "ulimit -n 64 && exec \"$0\" --exact \"$1\" --test-threads 1",
    ]);
    command
        .arg(program)
        .arg(&test)
        .env("MISCHIEF_FEW_FILES", "1");
    let output = command.output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{test}: {text}"
    );
}

/// Handlers that close what is just being worked on.
pub fn sockets_close_in_any_handler<F: Fixture>() {
    let f = F::start(1);
    let handle = f.handle();
    // The listener closes when it accepts, with others waiting to be accepted.
    let (actor, served) = peer(&f, 0, |event, cx| {
        if let Event::Accepted {
            listener, socket, ..
        } = event
        {
            cx.close(*listener, false);
            cx.close(*socket, true);
        }
    });
    let to = listen(&f, &actor);
    let (dialling, record) = peer(&f, 0, |_, _| {});
    order(&handle, &dialling, move |_, cx| {
        for _ in 0..5 {
            cx.tcp_connect(to, None).expect("begins to connect");
        }
    });
    let ended = |record: &Record| {
        let events = record.events.all().into_iter();
        events
            .filter(|event| {
                matches!(
                    event,
                    Net::Closed(_) | Net::ConnectFailed(_) | Net::ReadClosed
                )
            })
            .count()
    };
    f.until(|| ended(&record) == 5);
    assert_eq!(served.accepted().len(), 1);
    // A connection closes in the middle of what it brings.
    let (to, _, served) = server(&f, 0, |event, cx| {
        if let Event::Data { socket, .. } = event {
            cx.close(*socket, false);
        }
    });
    let (actor, socket, _) = client(&f, 0, to);
    write(&f, &actor, socket, pattern(1 << 20));
    f.until(|| served.reads.len() == 1);
    f.pass(SECOND / 50);
    assert_eq!(served.reads.len(), 1);
    // The whole actor stops there.
    let (to, stopping, served) = server(&f, 0, |event, cx| {
        if let Event::Data { .. } = event {
            cx.stop();
        }
    });
    let (actor, socket, _) = client(&f, 0, to);
    write(&f, &actor, socket, pattern(1 << 20));
    assert!(handle.stopped(stopping.id()).wait().is_ok());
    assert!(served.count() > 0);
    assert!(f.shutdown(SECOND));
}

pub fn sockets_obey_their_owner_alone<F: Fixture>() {
    let f = F::start(1);
    let (to, _, served) = server(&f, 0, |_, _| {});
    let (actor, socket, _) = client(&f, 0, to);
    let (thief, _) = puppet(&f, 0);
    order(&f.handle(), &thief, move |_, cx| {
        let kind = |error: std::io::Error| error.kind();
        let gone = Err(ErrorKind::NotConnected);
        assert_eq!(cx.write(socket, b"x").map_err(kind), gone.map(|()| 0));
        assert_eq!(cx.shutdown_write(socket).map_err(kind), gone);
        let me = cx.id();
        assert_eq!(cx.give_socket(socket, me).map_err(kind), gone);
        cx.pause_reading(socket);
        cx.close(socket, true);
    });
    // A listener cannot be written to, and lives on.
    write(&f, &actor, socket, b"hello".to_vec());
    f.until(|| served.count() == 5);
    let listener = order(&f.handle(), &thief, |_, cx| {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = cx
            .tcp_listen(any, ListenOptions::default())
            .expect("listens");
        let error = cx.write(listener, b"x").expect_err("a listener");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let me = cx.id();
        assert!(cx.give_socket(listener, me).is_err());
        cx.local_addr(listener).expect("still bound")
    });
    let (_, _, record) = client(&f, 0, listener);
    assert_eq!(record.events.len(), 1);
    assert!(f.shutdown(SECOND));
}

/// A peer that reads slowly and never catches up: what has gone out must not be kept with what has not.
pub fn a_peer_that_never_catches_up_costs_no_more_than_the_bound<F: Fixture>() {
    let mut limits = Limits::default();
    limits.unsent_max = 200_000;
    limits.read_budget = 50_000;
    let f = F::with_limits(1, limits);
    // It reads a piece at a time.
    let (to, serving, served) = server(&f, 0, move |event, cx| {
        if let Event::Data { socket, .. } = event {
            cx.pause_reading(*socket);
        }
    });
    let (actor, socket, _) = client(&f, 0, to);
    let chunk = 50_000;
    let (mut sent, mut most) = (0, 0);
    while sent < 8 << 20 {
        let wrote = order(&f.handle(), &actor, move |_, cx| {
            let result = cx.write(socket, &pattern(chunk));
            (result.is_ok(), cx.unsent(socket))
        });
        most = most.max(wrote.1);
        if wrote.0 {
            sent += chunk;
            continue;
        }
        let before = served.count();
        let accepted = served.accepted()[0];
        order(&f.handle(), &serving, move |_, cx| {
            cx.resume_reading(accepted)
        });
        f.until(|| served.count() > before);
    }
    assert!(most <= 200_000, "{most}");
    let accepted = served.accepted()[0];
    f.until(|| {
        order(&f.handle(), &serving, move |_, cx| {
            cx.resume_reading(accepted)
        });
        served.count() == sent
    });
    assert!(
        served
            .take()
            .chunks(chunk)
            .all(|piece| piece == pattern(chunk))
    );
    assert!(f.shutdown(SECOND));
}
