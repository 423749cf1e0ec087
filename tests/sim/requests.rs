//! Requests between whole nodes: every one has exactly one outcome, whatever the network and the peer do.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mischief::{Body, NodeEvent, Outgoing, RequestError, Requested, Responder};
use mischief_reactor::Limits;
use mischief_reactor::sim::LinkOptions;
use serde_json::json;

use crate::net::{Machine, SECOND, each_seed, new_world};

const SEEDS: std::ops::Range<u64> = 1..6;

/// The answers that are there.
fn outcomes(requests: &mut Vec<Requested>) -> Vec<Result<Body, RequestError>> {
    let mut outcomes = Vec::new();
    requests.retain_mut(|request| match request.try_take() {
        Some(outcome) => {
            outcomes.push(outcome);
            false
        }
        None => true,
    });
    outcomes
}

/// Keeps the requests for "slow" until a test takes them out.
fn keep_requests(machine: &Machine) -> Arc<Mutex<VecDeque<Responder>>> {
    let kept = Arc::new(Mutex::new(VecDeque::new()));
    let keeper = kept.clone();
    machine.node.on_request_later("slow", move |_, responder| {
        keeper.lock().unwrap().push_back(responder);
    });
    kept
}

fn pair(world: &mischief_reactor::sim::SimWorld) -> [Machine; 2] {
    let machines = ["10.0.0.1", "10.0.0.2"].map(|addr| Machine::new(world, addr));
    let [a, b] = &machines;
    a.connect(b);
    world
        .run_until(|| b.node.is_connected(&a.id()), 10 * SECOND)
        .expect("the other side learns of it");
    machines
}

#[test]
fn requests_of_all_sizes_are_answered_under_loss_on_both_sides() {
    let test = "requests::requests_of_all_sizes_are_answered_under_loss_on_both_sides";
    each_seed(test, SEEDS, |seed| {
        let world = new_world(seed);
        world.set_default_link(LinkOptions {
            jitter: Duration::from_millis(20),
            loss: 0.01,
            ..LinkOptions::default()
        });
        let cores = 1 + (seed % 2) as usize;
        let machines = ["10.0.0.1", "10.0.0.2"].map(|addr| {
            let machine = Machine::with(&world, addr, cores, Limits::default(), |builder| builder);
            machine.sim.set_short_io(0.5);
            machine.node.on_request("grow", |request| {
                Ok(Body::bytes(request.as_bytes().repeat(3)))
            });
            machine
                .node
                .on_request_typed("sum", |_, numbers: Vec<u64>| {
                    Ok(numbers.iter().sum::<u64>())
                });
            machine
        });
        let [a, b] = &machines;
        a.connect(b);
        world
            .run_until(|| b.node.is_connected(&a.id()), 10 * SECOND)
            .expect("the other side learns of it");
        let (mut grown, mut sums) = (Vec::new(), Vec::new());
        for number in 0..30usize {
            let body = Body::bytes(vec![number as u8; number * number * 97]);
            for (from, to) in [(a, b), (b, a)] {
                let asked = from
                    .node
                    .request_with(&to.id(), "grow", &body, 300 * SECOND);
                grown.push((body.clone(), asked));
                let numbers = vec![number; number];
                let asked = from.node.request(&to.id(), "sum", &numbers, 300 * SECOND);
                sums.push((number * number, asked));
            }
        }
        for (body, asked) in grown {
            let answer = asked.wait().expect("it is answered");
            assert_eq!(answer.as_bytes(), body.as_bytes().repeat(3));
        }
        for (sum, asked) in sums {
            assert_eq!(asked.wait().unwrap().parse::<usize>(), Ok(sum));
        }
    });
}

#[test]
fn a_deadline_ends_a_request_on_both_sides_at_its_time() {
    let test = "requests::a_deadline_ends_a_request_on_both_sides_at_its_time";
    each_seed(test, SEEDS, |seed| {
        let world = new_world(seed);
        let [a, b] = pair(&world);
        let kept = keep_requests(&b);
        let begun = world.elapsed();
        let late = a.node.request(&b.id(), "slow", &1, 5 * SECOND);
        let later = a.node.request(&b.id(), "slow", &2, 3 * SECOND);
        world
            .run_until(|| kept.lock().unwrap().len() == 2, SECOND)
            .expect("both arrive");
        let calls = Arc::new(AtomicUsize::new(0));
        for responder in kept.lock().unwrap().iter() {
            let calls = calls.clone();
            responder.on_cancel(move || {
                calls.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(later.wait().unwrap_err(), RequestError::TimedOut);
        let took = world.elapsed() - begun;
        assert!(
            took >= 3 * SECOND && took < 3 * SECOND + SECOND / 10,
            "{took:?}"
        );
        assert_eq!(late.wait().unwrap_err().kind(), "timeout");
        let took = world.elapsed() - begun;
        assert!(
            took >= 5 * SECOND && took < 5 * SECOND + SECOND / 10,
            "{took:?}"
        );
        world.run_for(SECOND);
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        // Their answers come too late, and hurt nobody.
        for responder in kept.lock().unwrap().drain(..) {
            assert!(!responder.is_wanted());
            responder.reply_json(&"late").unwrap();
        }
        world.run_for(SECOND);
        let stats = b.node.stats();
        assert_eq!((stats.requests_open, stats.requests_answering), (0, 0));
        assert!(a.node.is_connected(&b.id()));
    });
}

#[test]
fn a_peer_that_goes_in_the_middle_ends_every_request_at_once() {
    let test = "requests::a_peer_that_goes_in_the_middle_ends_every_request_at_once";
    each_seed(test, SEEDS, |seed| {
        let world = new_world(seed);
        let [a, b] = pair(&world);
        let (kept_a, kept_b) = (keep_requests(&a), keep_requests(&b));
        let ask = |from: &Machine, to: &Machine| -> Vec<Requested> {
            let one = |n: u32| from.node.request(&to.id(), "slow", &n, 600 * SECOND);
            (0..100).map(one).collect()
        };
        let mut asked = [ask(&a, &b), ask(&b, &a)];
        world.run_for(Duration::from_millis(seed));
        a.node.disconnect(&b.id()).wait().expect("it is connected");
        let begun = world.elapsed();
        let is_over = || {
            asked.iter_mut().all(|requests| {
                for outcome in outcomes(requests) {
                    assert_eq!(outcome.unwrap_err().kind(), "gone");
                }
                requests.is_empty()
            })
        };
        world.run_until(is_over, 20 * SECOND).expect("they end");
        assert!(world.elapsed() - begun < 10 * SECOND);
        world.run_for(SECOND);
        for kept in [kept_a, kept_b] {
            for responder in kept.lock().unwrap().drain(..) {
                assert!(!responder.is_wanted());
            }
        }
        let again = a.node.request(&b.id(), "slow", &1, SECOND);
        assert_eq!(again.wait().unwrap_err().kind(), "gone");
    });
}

#[test]
fn an_asker_that_gives_up_or_dies_frees_the_handlers_side() {
    let test = "requests::an_asker_that_gives_up_or_dies_frees_the_handlers_side";
    each_seed(test, SEEDS, |seed| {
        let world = new_world(seed);
        let [a, b] = pair(&world);
        let kept = keep_requests(&b);
        let given_up = a.node.request(&b.id(), "slow", &1, 600 * SECOND);
        let waiting = a.node.request(&b.id(), "slow", &2, 30 * SECOND);
        world
            .run_until(|| kept.lock().unwrap().len() == 2, SECOND)
            .expect("both arrive");
        drop(given_up);
        let wanted = |index: usize| kept.lock().unwrap()[index].is_wanted();
        world
            .run_until(|| !wanted(0), SECOND)
            .expect("the other side learns of it");
        assert!(wanted(1));
        // No word of the asker's any more: the time that came with the request ends it.
        world.partition(&a.sim, &b.sim);
        world
            .run_until(|| !wanted(1), 31 * SECOND)
            .expect("its time is over");
        assert_eq!(waiting.wait().unwrap_err(), RequestError::TimedOut);
    });
}

#[test]
fn requests_keep_their_place_among_messages() {
    let test = "requests::requests_keep_their_place_among_messages";
    each_seed(test, SEEDS, |seed| {
        let world = new_world(seed);
        let [a, b] = pair(&world);
        let log = Arc::new(Mutex::new(Vec::new()));
        let (told, asked) = (log.clone(), log.clone());
        b.node
            .on_typed("n", move |_, number: u32| told.lock().unwrap().push(number));
        b.node.on_request_typed("n", move |_, number: u32| {
            asked.lock().unwrap().push(number);
            Ok(number)
        });
        let outgoing: Outgoing = a.node.outgoing(&b.id()).expect("it is connected");
        let mut requests = Vec::new();
        for number in 0..200u32 {
            if (number + seed as u32).is_multiple_of(3) {
                requests.push(a.node.request(&b.id(), "n", &number, 60 * SECOND));
            } else {
                outgoing.send("n", &number).expect("there is room");
            }
        }
        for request in requests {
            request.wait().expect("it is answered");
        }
        let is_done = || log.lock().unwrap().len() == 200;
        world.run_until(is_done, 10 * SECOND).expect("all arrive");
        assert!(log.lock().unwrap().iter().copied().eq(0..200));
    });
}

#[test]
fn every_request_has_one_outcome_while_connections_break() {
    let test = "requests::every_request_has_one_outcome_while_connections_break";
    each_seed(test, SEEDS, |seed| {
        let world = new_world(seed);
        world.set_default_link(LinkOptions {
            jitter: Duration::from_millis(20),
            loss: 0.05,
            ..LinkOptions::default()
        });
        let machines = ["10.0.0.1", "10.0.0.2"].map(|addr| Machine::new(&world, addr));
        let [a, b] = &machines;
        let handled = Arc::new(AtomicUsize::new(0));
        let counter = handled.clone();
        b.node.on_request_later("echo", move |request, responder| {
            let count = counter.fetch_add(1, Ordering::Relaxed);
            match count % 5 {
                0 => drop(responder),
                1 => responder.refuse("no"),
                _ => {
                    let _ = responder.reply(&Body::bytes(request.as_bytes()));
                }
            }
        });
        let (mut open, mut done, mut good) = (Vec::new(), 0, 0);
        for round in 0..40u32 {
            if !a.node.is_connected(&b.id()) {
                // It may fail, as the network does.
                drop(a.dial(b).wait());
            }
            for number in 0..20u32 {
                let body = json!([round, number]);
                let request = a.node.request(&b.id(), "echo", &body, 8 * SECOND);
                open.push(request);
            }
            world.run_for(Duration::from_millis(100 + 40 * u64::from(round % 7)));
            match (u64::from(round) + seed) % 6 {
                0 => drop(a.node.disconnect(&b.id())),
                3 => drop(b.node.disconnect(&a.id())),
                _ => {}
            }
            for outcome in outcomes(&mut open) {
                done += 1;
                good += usize::from(outcome.is_ok());
            }
        }
        world.run_for(20 * SECOND);
        done += outcomes(&mut open).len();
        assert_eq!((done, open.len()), (800, 0));
        assert!(good > 100, "{good} were answered");
        assert!(handled.load(Ordering::Relaxed) <= 800);
        for machine in &machines {
            let stats = machine.node.stats();
            assert_eq!((stats.requests_open, stats.requests_answering), (0, 0));
        }
    });
}

#[test]
fn a_request_may_come_as_soon_as_the_peer_is_announced_on_the_other_side() {
    let test = "requests::a_request_may_come_as_soon_as_the_peer_is_announced_on_the_other_side";
    each_seed(test, 1..20, |seed| {
        let world = new_world(seed);
        // Jobs and turns take a while, so that one side is announced long before the other.
        world.set_turn_time(Duration::from_millis(seed % 4));
        let machines = ["10.0.0.1", "10.0.0.2"].map(|addr| {
            let build = |builder: mischief::NodeBuilder| {
                builder.on_start(|node| {
                    node.on_request("echo", |request| Ok(Body::bytes(request.as_bytes())));
                })
            };
            Machine::with(&world, addr, 2, Limits::default(), build)
        });
        let asked = Arc::new(Mutex::new(Vec::new()));
        for machine in &machines {
            let (weak, list) = (machine.node.downgrade(), asked.clone());
            machine.node.on_event(move |event| {
                let NodeEvent::PeerConnected { peer, .. } = event else {
                    return;
                };
                let node = weak.upgrade().expect("it runs");
                for size in [1, 30_000, 2] {
                    let body = Body::bytes(vec![size as u8; size]);
                    let request = node.request_with(peer, "echo", &body, 10 * SECOND);
                    list.lock().unwrap().push((size, request));
                }
            });
        }
        machines[0].connect(&machines[1]);
        world.run_for(2 * SECOND);
        let mut asked = asked.lock().unwrap();
        assert_eq!(asked.len(), 6);
        for (size, request) in asked.iter_mut() {
            let answer = request.try_take().expect("there was time");
            assert_eq!(answer.expect("it is answered").as_bytes().len(), *size);
        }
    });
}

#[test]
fn requests_leave_nothing_behind() {
    let test = "requests::requests_leave_nothing_behind";
    each_seed(test, SEEDS, |seed| {
        let world = new_world(seed);
        let [a, b] = pair(&world);
        let kept = keep_requests(&b);
        world.run_for(120 * SECOND);
        let idle = [a.footprint(), b.footprint()];
        let mut open: Vec<Requested> = (0..100u32)
            .map(|number| a.node.request(&b.id(), "slow", &number, 30 * SECOND))
            .collect();
        world
            .run_until(|| kept.lock().unwrap().len() == 100, SECOND)
            .expect("all arrive");
        for (number, responder) in kept.lock().unwrap().drain(..).enumerate() {
            match number % 4 {
                0 => drop(responder),
                1 => responder.refuse("no"),
                2 => responder.reply_json(&number).unwrap(),
                _ => responder.reply(&Body::bytes(vec![0; 5000])).unwrap(),
            }
        }
        world.run_for(SECOND);
        assert_eq!(outcomes(&mut open).len(), 100);
        let no_handler = a.node.request(&b.id(), "none", &1, 600 * SECOND);
        assert_eq!(no_handler.wait().unwrap_err(), RequestError::NoHandler);
        world.run_for(120 * SECOND);
        assert_eq!([a.footprint(), b.footprint()], idle);
    });
}
