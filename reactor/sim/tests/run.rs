use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use crate::actor::Turn;
use crate::sim::{LinkOptions, Prng, StepError, Steppable, step_until};
use crate::time::Instant;

/// A core made of a closure.
struct Core<F>(F);

impl<F: FnMut() -> Turn> Steppable for Core<F> {
    fn turn(&mut self) -> Turn {
        (self.0)()
    }
}

/// Gives a driver to the world, to be run by `turn`.
fn run_by(
    world: &SimWorld,
    mut driver: SimDriver,
    mut turn: impl FnMut(&mut SimDriver, &[Ready], Woken) -> Turn + 'static,
) {
    let core = driver.core_id();
    let mut ready = Vec::new();
    let body = move || {
        ready.clear();
        let woken = driver.wait(None, &mut ready).unwrap();
        turn(&mut driver, &ready, woken)
    };
    world.add_core(core, Box::new(Core(body)));
}

/// A core that sends back what it reads, and closes what is closed.
fn echo(world: &SimWorld, mut driver: SimDriver, listener: SocketId) {
    driver.wait(Some(Instant::ZERO), &mut Vec::new()).unwrap();
    // The look-ups go through a map with random hashes on purpose: they must not show in the trace.
    let mut unsent: HashMap<SocketId, Vec<u8>> = HashMap::new();
    run_by(world, driver, move |driver, ready, _| {
        for one in ready {
            if one.socket == listener {
                while let Ok((socket, _)) = driver.tcp_accept(listener) {
                    unsent.insert(socket, Vec::new());
                }
                continue;
            }
            let Some(bytes) = unsent.get_mut(&one.socket) else {
                continue;
            };
            let mut buffer = [0; 5000];
            let is_over = loop {
                match driver.read(one.socket, &mut buffer) {
                    Ok(0) => break true,
                    Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                    Err(error) => break error.kind() != ErrorKind::WouldBlock,
                }
            };
            while let Ok(count) = driver.write(one.socket, bytes)
                && count > 0
            {
                bytes.drain(..count);
            }
            if is_over && bytes.is_empty() {
                driver.close(one.socket, false);
                unsent.remove(&one.socket);
            }
        }
        Turn::Asleep(None)
    });
}

/// Ten clients that echo 20 kB each off a server, on lossy links. Returns the trace hash and the counters.
fn busy_run(seed: u64) -> (u64, u64, Instant) {
    let world = SimWorld::new(seed);
    world.set_default_link(LinkOptions {
        loss: 0.02,
        ..LinkOptions::default()
    });
    let server = world.node(&[ip("10.0.0.1")]);
    let mut driver = server.driver();
    let listener = driver
        .tcp_listen(server.addr(7), ListenOptions::default())
        .unwrap();
    echo(&world, driver, listener);
    let done = Rc::new(Cell::new(0));
    for number in 0..10u8 {
        let node = world.node(&[IpAddr::from([10, 0, 1, number])]);
        let mut driver = node.driver();
        let socket = driver.tcp_connect(server.addr(7), None).unwrap();
        let (mut sent, mut got) = (0, Vec::new());
        let bytes = pattern(20_000);
        let done = done.clone();
        run_by(&world, driver, move |driver, _, _| {
            while let Ok(count) = driver.write(socket, &bytes[sent..])
                && count > 0
            {
                sent += count;
            }
            let mut buffer = [0; 3000];
            while let Ok(count) = driver.read(socket, &mut buffer)
                && count > 0
            {
                got.extend_from_slice(&buffer[..count]);
            }
            if got.len() < bytes.len() {
                return Turn::Asleep(None);
            }
            assert!(got == bytes);
            done.set(done.get() + 1);
            Turn::Ended
        });
    }
    world
        .run_until(|| done.get() == 10, Duration::from_secs(600))
        .unwrap();
    world.run_for(Duration::from_secs(300));
    assert_eq!(world.stats().tcp_endpoints, 0, "seed {seed}");
    (world.trace_hash(), world.stats().steps, world.now())
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let mut hashes = Vec::new();
    for seed in 0..20 {
        let first = busy_run(seed);
        // Another thread has other random hashes and another allocator history.
        let second = std::thread::spawn(move || busy_run(seed)).join().unwrap();
        assert_eq!(first, second, "seed {seed}");
        hashes.push(first.0);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 20);
}

#[test]
fn cores_with_work_take_turns_and_the_clock_goes_on() {
    let world = SimWorld::new(1);
    let node = world.node(&[]);
    let turns: Rc<RefCell<Vec<usize>>> = Rc::default();
    for core in 0..2 {
        let turns = turns.clone();
        run_by(&world, node.driver(), move |_, _, _| {
            turns.borrow_mut().push(core);
            Turn::Work
        });
    }
    world.run_for(Duration::from_millis(20));
    let turns = turns.borrow();
    let count = turns.iter().filter(|core| **core == 0).count();
    let other = turns.len() - count;
    assert!(turns.len() > 2_000, "{}", turns.len());
    assert!(
        count * 10 > turns.len() * 4 && other * 10 > turns.len() * 4,
        "{count} and {other}"
    );
    let changes = turns.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(
        changes > turns.len() / 3,
        "neither runs long alone: {changes}"
    );
    assert!(
        turns.windows(2).any(|pair| pair[0] == pair[1]),
        "nor do they alternate"
    );
}

#[test]
fn a_core_sleeps_until_its_deadline_or_its_waker() {
    let world = SimWorld::new(2);
    let driver = world.node(&[]).driver();
    let waker = driver.waker();
    let turns: Rc<RefCell<Vec<(Duration, bool)>>> = Rc::default();
    let (log, start) = (turns.clone(), world.now());
    run_by(&world, driver, move |driver, _, woken| {
        let now = driver.now();
        log.borrow_mut()
            .push((now.saturating_duration_since(start), woken.by_waker));
        let next = start + Duration::from_secs(60);
        Turn::Asleep((now < next).then_some(next))
    });
    world.run_for(Duration::from_secs(10));
    waker.wake();
    waker.wake();
    world.run_for(Duration::from_secs(3600));
    let seconds = Duration::from_secs;
    assert_eq!(
        *turns.borrow(),
        [
            (seconds(0), false),
            (seconds(10), true),
            (seconds(60), false)
        ]
    );
    assert!(!world.step(), "nothing is left to happen");
    waker.wake();
    assert!(world.step());
}

#[test]
fn waiting_inside_a_step_is_an_error() {
    let world = SimWorld::new(3);
    let id = world.id();
    let seen = Rc::new(Cell::new(0));
    let (note, inner) = (seen.clone(), world.clone());
    run_by(&world, world.node(&[]).driver(), move |driver, _, _| {
        let second = Duration::from_secs(1);
        assert_eq!(
            step_until(id, &mut || true, Some(second)),
            Err(StepError::InsideStep)
        );
        assert_eq!(inner.run_until(|| true, second), Err(StepError::InsideStep));
        let before = driver.now();
        driver.wait(Some(before + second), &mut Vec::new()).unwrap();
        assert_eq!(driver.now(), before, "a wait in a turn does not step");
        driver
            .offload(Box::new(move || {
                assert_eq!(
                    step_until(id, &mut || true, None),
                    Err(StepError::InsideStep)
                );
            }))
            .ok()
            .unwrap();
        note.set(note.get() + 1);
        Turn::Asleep(None)
    });
    world.run_for(Duration::from_secs(1));
    assert_eq!(seen.get(), 1);
    world.remove_core(super::super::CoreId(0)).unwrap();
}

#[test]
fn waiting_from_outside_steps_the_world_of_an_id() {
    let world = SimWorld::new(4);
    let id = world.id();
    let mut driver = world.node(&[]).driver();
    let done = Arc::new(AtomicBool::new(false));
    let flag = done.clone();
    driver
        .offload(Box::new(move || flag.store(true, Ordering::Relaxed)))
        .ok()
        .unwrap();
    let mut is_done = || done.load(Ordering::Relaxed);
    step_until(id, &mut is_done, Some(Duration::from_secs(1))).unwrap();
    assert!(
        world.elapsed() >= Duration::from_micros(20),
        "a job takes its time"
    );

    let elapsed = world.elapsed() + Duration::from_secs(1);
    let timed_out = StepError::TimedOut { seed: 4, elapsed };
    assert_eq!(
        step_until(id, &mut || false, Some(Duration::from_secs(1))),
        Err(timed_out)
    );
    assert_eq!(
        step_until(id, &mut || false, None),
        Err(StepError::Stalled { seed: 4, elapsed })
    );
    let elsewhere = std::thread::spawn(move || step_until(id, &mut || true, None));
    assert_eq!(elsewhere.join().unwrap(), Err(StepError::NoSuchWorld));
    assert!(
        driver.wait(None, &mut Vec::new()).is_err(),
        "this wait would never end"
    );
    drop(world);
    assert_eq!(
        step_until(id, &mut || true, None),
        Err(StepError::NoSuchWorld)
    );
    assert!(driver.wait(None, &mut Vec::new()).is_err());
}

#[test]
fn a_panic_in_a_turn_leaves_the_world_usable() {
    let world = SimWorld::new(5);
    run_by(&world, world.node(&[]).driver(), |_, _, _| {
        panic!("on purpose")
    });
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.step()));
    assert!(caught.is_err());
    world.run_for(Duration::from_secs(1));
}

#[test]
fn jobs_run_two_at_a_time_and_their_number_is_bounded() {
    let world = SimWorld::new(6);
    let mut driver = world.node(&[]).driver();
    let run = Arc::new(AtomicU32::new(0));
    let mut taken = 0;
    loop {
        let run = run.clone();
        let job = Box::new(move || {
            run.fetch_add(1, Ordering::Relaxed);
        });
        if driver.offload(job).is_err() {
            break;
        }
        taken += 1;
    }
    assert_eq!(taken, 258);
    world.run_for(Duration::from_millis(2));
    assert!((2..50).contains(&run.load(Ordering::Relaxed)));
    world.run_for(Duration::from_secs(1));
    assert_eq!(run.load(Ordering::Relaxed), taken);
}

#[test]
fn a_waker_ends_a_wait_from_an_offloaded_job() {
    let world = SimWorld::new(7);
    let mut driver = world.node(&[]).driver();
    let waker = driver.waker();
    driver.offload(Box::new(move || waker.wake())).ok().unwrap();
    let woken = driver.wait(None, &mut Vec::new()).unwrap();
    assert!(woken.by_waker);
    let soon = driver.now() + Duration::from_secs(1);
    assert_eq!(
        driver.wait(Some(soon), &mut Vec::new()).unwrap(),
        Woken::default()
    );
    assert_eq!(driver.now(), soon);
}

#[test]
fn clocks_keys_and_skew() {
    let world = SimWorld::new(8);
    let node = world.node(&[]);
    let (mut a, mut b) = (node.driver(), node.driver());
    let mut keys = [[0; 32]; 2];
    a.random(&mut keys[0]);
    b.random(&mut keys[1]);
    assert_ne!(keys[0], keys[1]);
    let again = SimWorld::new(8);
    again.node(&[]).driver();
    let mut key = [0; 32];
    let fresh = SimWorld::new(8);
    fresh.node(&[]).driver().random(&mut key);
    assert_eq!(
        key, keys[0],
        "a core's keys follow from the seed and its place alone"
    );

    let year_2026 = 1_767_225_600;
    world.run_for(Duration::from_secs(5));
    assert_eq!(a.wall().as_unix_secs(), year_2026 + 5);
    node.set_clock_skew(-3_000_000_000);
    assert_eq!(a.wall().as_unix_secs(), year_2026 + 2);
    assert_eq!(a.now(), b.now());
}

#[test]
fn a_trace_can_be_read() {
    let mut pair = Pair::new(9);
    let lines: Rc<RefCell<Vec<String>>> = Rc::default();
    let sink = lines.clone();
    pair.world.trace_to(Some(Box::new(move |line| {
        sink.borrow_mut().push(line.to_owned())
    })));
    pair.a.tcp_connect(pair.right.addr(80), None).unwrap();
    pair.right.set_name("server");
    pair.world.run_for(Duration::from_secs(1));
    let seen = lines.borrow().clone();
    assert_eq!(seen.len(), 4, "{seen:#?}");
    assert!(
        seen[0].contains("0.000000000 send node 0 > node 1 #1 10.0.0.1:"),
        "{seen:#?}"
    );
    assert!(seen[0].contains("> 10.0.0.2:80 TCP SYN"), "{seen:#?}");
    assert!(
        seen[3].contains("recv server > node 0 #2 10.0.0.2:80 >") && seen[3].contains("RST"),
        "{seen:#?}"
    );

    // What is lost says why, and who has a name is called by it.
    pair.world.partition(&pair.left, &pair.right);
    pair.a.tcp_connect(pair.right.addr(80), None).unwrap();
    let last = lines.borrow().last().cloned().unwrap();
    assert!(
        last.contains("1.000000000 lost (partition) node 0 > server #3 10.0.0.1:"),
        "{last}"
    );
}

#[test]
fn a_dropped_driver_closes_its_sockets_like_a_process_that_ends() {
    let mut pair = Pair::new(10);
    let (dialled, _accepted) = pair.connected();
    let Pair {
        mut a, b, right, ..
    } = pair;
    assert_eq!(right.open_sockets(), 2);
    drop(b);
    assert_eq!(right.open_sockets(), 0);
    assert!(wait_for(&mut a, dialled).read_closed);
}

/// Long chains of random calls on many seeds: nothing panics, and what is read is what was written.
#[test]
fn random_calls_keep_streams_whole() {
    for seed in 0..60 {
        random_calls(seed);
    }
}

fn random_calls(seed: u64) {
    use crate::random::Random;
    let mut pair = Pair::new(seed);
    let mut prng = Prng::new(seed ^ 0xfeed);
    let loss = [0.0, 0.05, 0.2][prng.below(3) as usize];
    pair.left.set_tcp_buffers(
        100 + prng.below(3000) as usize,
        1 + prng.below(3000) as usize,
    );
    pair.right.set_tcp_buffers(
        100 + prng.below(3000) as usize,
        1 + prng.below(3000) as usize,
    );
    let (dialled, accepted) = pair.connected();
    pair.world.set_default_link(LinkOptions {
        loss,
        ..LinkOptions::default()
    });
    let bytes = pattern(10_000);
    let (mut written, mut read, mut is_shut, mut is_over) = (0, 0, false, false);
    let mut buffer = [0; 2000];
    for _ in 0..400_000 {
        match prng.below(4) {
            0 if !is_shut => {
                let end = (written + prng.below(2000) as usize).min(bytes.len());
                written += pair.a.write(dialled, &bytes[written..end]).unwrap_or(0);
                if written == bytes.len() {
                    pair.a.shutdown_write(dialled).unwrap();
                    is_shut = true;
                }
            }
            1 => {
                let len = 1 + prng.below(2000) as usize;
                match pair.b.read(accepted, &mut buffer[..len]) {
                    Ok(0) => is_over = true,
                    Ok(count) => {
                        assert!(bytes[read..read + count] == buffer[..count], "seed {seed}");
                        read += count;
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "seed {seed}"),
                }
            }
            2 => drop(pair.world.step()),
            _ => pair.world.run_for(prng.up_to(Duration::from_millis(5))),
        }
        if is_over {
            break;
        }
    }
    assert!(
        is_over && read == bytes.len(),
        "seed {seed}: {read} of {written}"
    );
    pair.a.close(dialled, false);
    pair.b.close(accepted, false);
    pair.world.run_for(Duration::from_secs(4000));
    assert_eq!(pair.world.stats().tcp_endpoints, 0, "seed {seed}");
}
