//! Machines that crash, sleep, stall and are slow; disks that fail.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::actor::{Actor, Child, Context, Event, Failure, Limits};
use crate::io::driver::{Disk, OpenOptions, UdpOptions};
use crate::sim::{Crash, DiskFaults, Pause, SimRuntime, Unsynced};

const SECOND: Duration = Duration::from_secs(1);
const WRITE: OpenOptions = OpenOptions {
    write: true,
    create: true,
    create_new: false,
    truncate: false,
    private: false,
};

/// Notes when it wakes, once a second, and when it is told that the machine has slept. It says something on its socket
/// when it is dropped, and writes a file.
struct Clock {
    log: Log,
    to: Option<SocketAddr>,
    disk: Option<Arc<dyn Disk>>,
}

type Log = Arc<Mutex<Vec<(Duration, &'static str)>>>;

impl Clock {
    fn note(&self, now: crate::Instant, what: &'static str) {
        let at = Duration::from_nanos(now.as_nanos() - 1_000_000_000_000);
        self.log.lock().unwrap().push((at, what));
    }
}

impl Actor for Clock {
    type Message = ();

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        cx.watch_interfaces()?;
        if let Some(to) = self.to {
            cx.tcp_connect(to, None)?;
        }
        cx.wake_at(Some(cx.now() + SECOND), Duration::ZERO);
        Ok(())
    }

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match event {
            Event::Wake => {
                self.note(cx.now(), "wake");
                cx.wake_at(Some(cx.now() + SECOND), Duration::ZERO);
            }
            Event::Resumed => self.note(cx.now(), "resumed"),
            Event::Connected { .. } => self.note(cx.now(), "connected"),
            Event::Data { .. } => self.note(cx.now(), "data"),
            Event::ReadClosed { .. } => self.note(cx.now(), "ended"),
            Event::Closed { .. } => self.note(cx.now(), "reset"),
            _ => {}
        }
        Ok(())
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        if let Some(disk) = &self.disk
            && let Ok(file) = disk.open("/last words", WRITE)
        {
            let _ = file.write_at(0, b"goodbye");
        }
    }
}

fn clock(node: &SimNode, to: Option<SocketAddr>) -> (SimRuntime, Log) {
    let runtime = node.start(1, Limits::default()).unwrap();
    let log = Log::default();
    let clock = Clock {
        log: log.clone(),
        to,
        disk: runtime.handle().disk().ok(),
    };
    runtime
        .handle()
        .spawn(0, move || Child::once(clock))
        .unwrap();
    (runtime, log)
}

fn seen(log: &Log) -> Vec<(u64, &'static str)> {
    let log = log.lock().unwrap();
    log.iter().map(|(at, what)| (at.as_secs(), *what)).collect()
}

/// A server driven by hand, connected to a program of another machine.
fn connected(pair: &mut Pair) -> (SimRuntime, Log, SocketId) {
    let to = pair.left.addr(80);
    pair.a.tcp_listen(to, ListenOptions::default()).unwrap();
    let (runtime, log) = clock(&pair.right, Some(to));
    let ready = wait(&mut pair.a);
    let (accepted, _) = pair.a.tcp_accept(ready.socket).unwrap();
    pair.world.run_for(SECOND / 2);
    wait_for(&mut pair.a, accepted);
    (runtime, log, accepted)
}

#[test]
fn a_power_cut_is_silent_until_the_machine_is_back() {
    let mut pair = Pair::new(1);
    let (runtime, log, socket) = connected(&mut pair);
    let sent = pair.world.stats().packets_sent;
    pair.right.crash(Crash::PowerCut(Unsynced::Kept));
    assert!(!pair.right.is_on() && !runtime.is_running());
    assert_eq!(pair.world.stats().packets_sent, sent, "no goodbye");
    assert_eq!(pair.right.open_sockets(), 0);
    assert_eq!(
        pair.right.disk().list("/").unwrap(),
        [""; 0],
        "no last words"
    );
    assert_quiet(&mut pair.a);
    pair.a.write(socket, b"anybody?").unwrap();
    assert_quiet(&mut pair.a);
    let count = log.lock().unwrap().len();
    pair.right.boot();
    // The segment is sent again, and the kernel knows nothing of the connection.
    let mut ready = Vec::new();
    let deadline = pair.a.now() + 60 * SECOND;
    pair.a.wait(Some(deadline), &mut ready).unwrap();
    assert!(ready[0].error && ready[0].socket == socket);
    let error = pair.a.read(socket, &mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(log.lock().unwrap().len(), count, "the program is gone");
    assert!(runtime.shutdown(SECOND), "what is gone has ended");
}

#[test]
fn a_killed_program_s_sockets_are_closed_by_its_kernel() {
    let mut pair = Pair::new(2);
    let (_runtime, _, socket) = connected(&mut pair);
    pair.right.crash(Crash::Kill);
    assert!(pair.right.is_on());
    assert!(wait_for(&mut pair.a, socket).read_closed);
    assert_eq!(pair.a.read(socket, &mut [0; 8]).unwrap(), 0);
    pair.a.close(socket, false);
    pair.world.run_for(120 * SECOND);
    assert_eq!(pair.world.stats().tcp_endpoints, 0);
    assert_eq!(
        pair.right.disk().list("/").unwrap(),
        [""; 0],
        "no last words"
    );
}

#[test]
fn a_machine_starts_again_on_its_own_disk() {
    for (crash, want) in [
        (Crash::Kill, Some(b"written".to_vec())),
        (Crash::PowerCut(Unsynced::Kept), Some(b"written".to_vec())),
        (Crash::PowerCut(Unsynced::Lost), None),
    ] {
        let pair = Pair::new(3);
        let old = pair.b.disk();
        let held = old.lock("/lock").unwrap();
        old.sync_dir("/").unwrap();
        let file = old.open("/state", WRITE).unwrap();
        file.write_at(0, b"written").unwrap();
        pair.right.crash(crash);
        assert!(file.write_at(0, b"too late").is_err());
        assert!(old.list("/").is_err() && old.remove("/state").is_err());
        let mut again = pair.right.driver();
        assert!(pair.right.is_on());
        let disk = again.disk();
        let read = disk
            .open("/state", OpenOptions::default())
            .ok()
            .map(|file| {
                let mut bytes = vec![0; file.len().unwrap() as usize];
                file.read_at(0, &mut bytes).unwrap();
                bytes
            });
        assert_eq!(read, want, "{crash:?}");
        let locked = disk.lock("/lock").unwrap();
        drop(held);
        assert!(disk.lock("/lock").is_err(), "the old lock frees nothing");
        drop(locked);
        // The dead driver does nothing any more.
        let mut dead = pair.b;
        let addr = pair.right.addr(80);
        assert!(dead.tcp_listen(addr, ListenOptions::default()).is_err());
        assert!(dead.tcp_connect(pair.left.addr(80), None).is_err());
        assert!(dead.udp_bind(addr, UdpOptions::default()).is_err());
        assert!(dead.offload(Box::new(|| panic!("a dead job"))).is_err());
        assert!(dead.wait(None, &mut Vec::new()).is_err());
        again.tcp_listen(addr, ListenOptions::default()).unwrap();
    }
}

#[test]
fn jobs_end_with_their_machine() {
    let mut pair = Pair::new(4);
    let ran = Arc::new(Mutex::new(0));
    for _ in 0..10 {
        let ran = ran.clone();
        let job = move || *ran.lock().unwrap() += 1;
        assert!(pair.b.offload(Box::new(job)).is_ok());
    }
    pair.right.crash(Crash::Kill);
    pair.world.run_for(SECOND);
    assert_eq!(*ran.lock().unwrap(), 0);
    assert_eq!(Arc::strong_count(&ran), 1, "nothing keeps them");
}

#[test]
fn a_suspended_machine_misses_packets_and_time_goes_on() {
    let mut pair = Pair::new(5);
    let (_runtime, log, socket) = connected(&mut pair);
    log.lock().unwrap().clear();
    pair.right.pause(Pause::Suspend);
    let lost = pair.world.stats().packets_lost;
    pair.a.write(socket, b"hello").unwrap();
    pair.world.run_for(100 * SECOND);
    assert!(pair.world.stats().packets_lost > lost);
    assert_eq!(seen(&log), []);
    let resumed = pair.world.elapsed().as_secs();
    pair.right.resume();
    pair.world.run_for(2 * SECOND);
    let seen = seen(&log);
    assert_eq!(seen[..2], [(resumed, "resumed"), (resumed, "wake")]);
    assert!(
        seen.len() <= 4,
        "what was missed is not made up for: {seen:?}"
    );
}

#[test]
fn a_stopped_program_has_a_kernel_that_goes_on() {
    let mut pair = Pair::new(6);
    let (_runtime, log, socket) = connected(&mut pair);
    log.lock().unwrap().clear();
    pair.right.pause(Pause::Stop);
    let sent = pair.world.stats().packets_lost;
    pair.a.write(socket, b"hello").unwrap();
    pair.world.run_for(100 * SECOND);
    assert_eq!(pair.world.stats().packets_lost, sent, "it is acknowledged");
    assert_eq!(seen(&log), []);
    let resumed = pair.world.elapsed().as_secs();
    pair.right.resume();
    pair.world.run_for(SECOND / 2);
    assert!(seen(&log).contains(&(resumed, "wake")));
    assert!(!seen(&log).iter().any(|(_, what)| *what == "resumed"));
}

#[test]
fn a_slow_machine_takes_its_time() {
    let took = |slowdown| {
        let pair = Pair::new(7);
        pair.right.set_slowdown(slowdown);
        let (_runtime, log) = clock(&pair.right, Some(pair.left.addr(9)));
        pair.world.run_for(10 * SECOND);
        let log = log.lock().unwrap();
        let late = |&(at, _): &(Duration, _)| at.subsec_nanos();
        (log.len(), log.iter().map(late).max())
    };
    let (usual, slow) = (took(1), took(100_000));
    assert!(usual.1 < slow.1, "{usual:?} {slow:?}");
    let times = |mut driver: SimDriver| {
        let world = driver.world_id();
        driver.offload(Box::new(|| {})).ok().unwrap();
        world
    };
    let pair = Pair::new(8);
    pair.left.set_slowdown(1000);
    times(pair.a);
    pair.world.run_for(SECOND / 100);
    assert_eq!(pair.world.stats().events_waiting, 1, "the job still runs");
}

#[test]
fn a_wall_clock_may_jump() {
    let mut pair = Pair::new(9);
    let before = (pair.a.now(), pair.a.wall());
    pair.left.jump_wall_clock(-3_600_000_000_000);
    pair.left.jump_wall_clock(1_000_000_000);
    assert_eq!(pair.a.now(), before.0);
    let gone = before.1.as_unix_nanos() - pair.a.wall().as_unix_nanos();
    assert_eq!(gone, 3_599_000_000_000);
    assert_eq!(pair.left.clock_skew(), (false, 3599 * SECOND));
}

#[test]
fn memory_can_be_short() {
    let pair = Pair::new(10);
    let runtime = pair.left.start(1, Limits::default()).unwrap();
    let handle = runtime.handle();
    let held = runtime.hold_memory(handle.memory().max());
    assert!(handle.memory().is_over());
    drop(held);
    assert_eq!(handle.memory().used(), 0);
}

#[test]
fn a_disk_may_be_full_and_may_fail() {
    let pair = Pair::new(11);
    let (outside, disk) = (pair.left.disk(), pair.a.disk());
    let file = disk.open("/f", WRITE).unwrap();
    outside.set_capacity(10);
    file.write_at(0, b"0123456").unwrap();
    let error = file.write_at(7, b"789abc").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(outside.used(), 10, "as much as there was room for");
    file.write_at(2, b"xx").unwrap();
    assert_eq!(file.set_len(11).unwrap_err().kind(), ErrorKind::StorageFull);
    file.set_len(3).unwrap();
    outside.set_capacity(u64::MAX);
    file.write_at(100, b"room").unwrap();

    outside.set_faults(DiskFaults {
        read: 1.0,
        ..DiskFaults::default()
    });
    let eio = |error: std::io::Error| assert_eq!(error.raw_os_error(), Some(5));
    eio(file.read_at(0, &mut [0; 4]).unwrap_err());
    eio(disk.open("/f", OpenOptions::default()).err().unwrap());
    file.write_at(0, b"fine").unwrap();
    outside.set_faults(DiskFaults {
        write: 1.0,
        sync: 1.0,
        ..DiskFaults::default()
    });
    eio(file.write_at(0, b"not fine").unwrap_err());
    eio(file.sync().unwrap_err());
    eio(disk.sync_dir("/").unwrap_err());
    eio(disk.rename("/f", "/g").unwrap_err());
    eio(disk.open("/new", WRITE).err().unwrap());
    assert_eq!(outside.list("/").unwrap(), ["f"]);
    outside.lose_unsynced();
    assert_eq!(
        outside.list("/").unwrap(),
        [""; 0],
        "a failed sync keeps nothing"
    );
}

/// Of several unsynced writes any may be on the disk, one perhaps in part; what was synced always is.
#[test]
fn a_power_cut_may_tear_what_was_not_synced() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let pair = Pair::new(seed);
        let disk = pair.a.disk();
        let file = disk.open("/f", WRITE).unwrap();
        file.write_at(0, &[b'.'; 2048]).unwrap();
        file.sync().unwrap();
        disk.sync_dir("/").unwrap();
        file.write_at(0, &[b'a'; 1024]).unwrap();
        file.write_at(1024, &[b'b'; 1024]).unwrap();
        for number in 0..3 {
            disk.open(&format!("/{number}"), WRITE).unwrap();
        }
        pair.left.crash(Crash::PowerCut(Unsynced::Torn));
        let disk = pair.left.disk();
        let mut bytes = [0; 2048];
        let file = disk.open("/f", OpenOptions::default()).unwrap();
        assert_eq!(file.read_at(0, &mut bytes).unwrap(), 2048);
        let sectors: String = bytes.chunks(512).map(|sector| sector[0] as char).collect();
        assert!(
            bytes
                .chunks(512)
                .all(|part| part.iter().all(|byte| *byte == part[0]))
        );
        assert_eq!(
            sectors.replace(['a', '.'], ""),
            sectors[2..].replace('.', "")
        );
        let names = disk.list("/").unwrap();
        assert!(["0", "1", "2", "f"].starts_with(&[]) && names.last().unwrap() == "f");
        assert!(
            names[..names.len() - 1]
                .iter()
                .map(String::as_str)
                .eq(["0", "1", "2"][..names.len() - 1].iter().copied()),
            "in order: {names:?}"
        );
        outcomes.insert((sectors, names.len()));
    }
    for sectors in ["....", "aa..", "..bb", "aabb", "a...", "..b."] {
        let was_seen = outcomes.iter().any(|(seen, _)| seen == sectors);
        assert!(was_seen, "{sectors} is not among {outcomes:?}");
    }
    assert!((1..=4).all(|count| outcomes.iter().any(|(_, names)| *names == count)));
}

#[test]
fn calls_come_at_their_time_and_may_wait() {
    let world = SimWorld::new(12);
    let node = world.node(&[ip("10.0.0.1")]);
    let log: Log = Log::default();
    for seconds in [3, 1, 2] {
        let log = log.clone();
        world.call_at(world.now() + seconds * SECOND, move |world| {
            log.lock().unwrap().push((world.elapsed(), "called"));
            world.run_for(SECOND / 4);
        });
    }
    let crashing = node.clone();
    let (runtime, _) = clock(&node, None);
    world.call_at(world.now() + 4 * SECOND, move |_| {
        crashing.crash(Crash::Kill)
    });
    world.run_for(10 * SECOND);
    assert_eq!(seen(&log), [(1, "called"), (2, "called"), (3, "called")]);
    assert!(!runtime.is_running());
}

#[test]
fn an_observer_sees_every_step() {
    let world = SimWorld::new(13);
    let node = world.node(&[ip("10.0.0.1")]);
    let (_runtime, _) = clock(&node, None);
    let steps = Arc::new(Mutex::new(0));
    let counting = steps.clone();
    let before = world.stats().steps;
    world.observe(Some(Box::new(move |_| *counting.lock().unwrap() += 1)));
    world.run_for(10 * SECOND);
    assert_eq!(*steps.lock().unwrap(), world.stats().steps - before);
    world.observe(None);
    assert_eq!(Arc::strong_count(&steps), 1);
}
