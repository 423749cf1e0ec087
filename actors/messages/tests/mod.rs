//! The machine by itself.

use std::time::Duration;

use mischief_reactor::Instant;

use super::*;
use crate::connection::Kind;

type Machine = Requests<u8, &'static str, &'static str>;

const SECOND: Duration = Duration::from_secs(1);
const START: Instant = Instant::from_nanos(1_000_000_000);

fn machine() -> Machine {
    Requests::new(RequestLimits::default())
}

fn request(id: u32, timeout_ms: u32) -> RequestMessage<'static> {
    RequestMessage::Request {
        id: RequestId(id),
        timeout_ms,
        kind: Kind::Json,
        name: "sum",
        body: b"[1,2]",
    }
}

fn reply(id: u32) -> RequestMessage<'static> {
    RequestMessage::Reply {
        id: RequestId(id),
        kind: Kind::Json,
        body: b"3",
    }
}

fn failure(id: u32) -> RequestMessage<'static> {
    RequestMessage::Failure {
        id: RequestId(id),
        code: FailureCode::Refused,
        reason: "no",
    }
}

fn cancel(id: u32) -> RequestMessage<'static> {
    RequestMessage::Cancel { id: RequestId(id) }
}

fn events(machine: &mut Machine) -> Vec<Event<u8, &'static str, &'static str>> {
    std::iter::from_fn(|| machine.poll_event()).collect()
}

#[track_caller]
fn ask(machine: &mut Machine, peer: u8, asker: &'static str) -> u32 {
    let asked = machine.ask(START, peer, SECOND, asker);
    asked.expect("there is room").0.0
}

#[test]
fn a_reply_reaches_its_asker_once_and_from_the_peer_that_was_asked() {
    let mut machine = machine();
    let (a, b) = (ask(&mut machine, 1, "a"), ask(&mut machine, 1, "b"));
    assert_ne!(a, b);
    let mut handle = |peer, message| machine.handle_message(START, peer, &message);
    assert_eq!(handle(2, reply(a)), Received::Ignored);
    assert_eq!(handle(1, reply(b)), Received::Outcome("b"));
    assert_eq!(handle(1, reply(b)), Received::Ignored);
    assert_eq!(handle(1, failure(a)), Received::Outcome("a"));
    assert_eq!(handle(1, failure(a)), Received::Ignored);
    assert_eq!(handle(1, reply(77)), Received::Ignored);
    assert_eq!(machine.stats().stray, 4);
    assert!(machine.is_idle(1) && machine.poll_timeout().is_none());
}

#[test]
fn a_request_without_a_reply_times_out_and_its_late_reply_is_ignored() {
    let mut machine = machine();
    let id = ask(&mut machine, 1, "a");
    let deadline = START + SECOND;
    assert_eq!(machine.poll_timeout(), Some(deadline));
    machine.handle_timeout(Instant::from_nanos(deadline.as_nanos() - 1));
    assert_eq!(events(&mut machine), []);
    machine.handle_timeout(deadline);
    let (peer, asker) = (1, "a");
    let id = RequestId(id);
    assert_eq!(events(&mut machine), [Event::TimedOut { peer, id, asker }]);
    let late = machine.handle_message(deadline, 1, &reply(id.0));
    assert_eq!(late, Received::Ignored);
    assert_eq!(machine.poll_timeout(), None);
}

#[test]
fn what_was_given_up_is_forgotten() {
    let mut machine = machine();
    let id = ask(&mut machine, 1, "a");
    assert_eq!(machine.give_up(1, RequestId(id)), Some("a"));
    assert_eq!(machine.give_up(1, RequestId(id)), None);
    let late = machine.handle_message(START, 1, &reply(id));
    assert_eq!(late, Received::Ignored);
    machine.handle_timeout(START + SECOND);
    assert_eq!(events(&mut machine), []);
}

#[test]
fn deadlines_are_kept_within_their_limits() {
    let mut machine = machine();
    let ask = |machine: &mut Machine, timeout| machine.ask(START, 1, timeout, "").unwrap().1;
    assert_eq!(ask(&mut machine, Duration::ZERO), 1);
    assert_eq!(machine.poll_timeout(), Some(START + TIMEOUT_MIN));
    assert_eq!(ask(&mut machine, Duration::MAX), 3_600_000);
    machine.handle_timeout(START + TIMEOUT_MIN);
    assert_eq!(machine.poll_timeout(), Some(START + TIMEOUT_MAX));
    // A peer's deadline as well, whatever it says.
    machine.handle_message(START, 2, &request(1, 0));
    assert_eq!(machine.poll_timeout(), Some(START + TIMEOUT_MIN));
    machine.handle_message(START, 3, &request(1, u32::MAX));
    machine.handle_timeout(START + TIMEOUT_MAX);
    assert_eq!((machine.poll_timeout(), machine.open()), (None, (0, 0)));
}

#[test]
fn a_request_is_answered_once() {
    let mut machine = machine();
    let received = machine.handle_message(START, 1, &request(9, 1000));
    assert_eq!(received, Received::Request);
    assert!(machine.is_wanted(1, RequestId(9)) && !machine.is_wanted(2, RequestId(9)));
    assert_eq!(machine.finish(2, RequestId(9)), None);
    assert_eq!(machine.finish(1, RequestId(9)), Some(None));
    assert_eq!(machine.finish(1, RequestId(9)), None);
    assert!(machine.is_idle(1));
    // Its number is free again.
    let again = machine.handle_message(START, 1, &request(9, 1000));
    assert_eq!(again, Received::Request);
}

#[test]
fn a_cancellation_reaches_the_watcher_and_nobody_else() {
    let mut machine = machine();
    machine.handle_message(START, 1, &request(1, 1000));
    machine.handle_message(START, 1, &request(2, 1000));
    assert_eq!(machine.watch(1, RequestId(1), "earlier"), Ok(None));
    let earlier = machine.watch(1, RequestId(1), "watcher");
    assert_eq!(earlier, Ok(Some("earlier")));
    let mut handle = |peer, message| machine.handle_message(START, peer, &message);
    assert_eq!(handle(2, cancel(1)), Received::Ignored);
    assert_eq!(handle(1, cancel(1)), Received::Cancelled(Some("watcher")));
    assert_eq!(handle(1, cancel(1)), Received::Ignored);
    assert_eq!(handle(1, cancel(2)), Received::Cancelled(None));
    assert_eq!(machine.watch(1, RequestId(1), "late"), Err("late"));
    assert_eq!(machine.finish(1, RequestId(1)), None);
    assert!(machine.is_idle(1));
    machine.handle_message(START, 1, &request(3, 1000));
    machine.watch(1, RequestId(3), "untold").unwrap();
    assert_eq!(machine.finish(1, RequestId(3)), Some(Some("untold")));
}

#[test]
fn a_number_that_is_open_is_not_opened_twice() {
    let mut machine = machine();
    machine.handle_message(START, 1, &request(1, 1000));
    let again = machine.handle_message(START, 1, &request(1, 9000));
    assert_eq!((again, machine.stats().repeated), (Received::Ignored, 1));
    assert_eq!(machine.open(), (0, 1));
    assert_eq!(machine.poll_timeout(), Some(START + SECOND));
    // Another peer's numbers are its own.
    let other = machine.handle_message(START, 2, &request(1, 1000));
    assert_eq!(other, Received::Request);
}

#[test]
fn a_flood_of_requests_is_busy_at_the_limit_and_others_are_served() {
    let mut machine = machine();
    for id in 0..OPEN_PER_PEER_MAX {
        let received = machine.handle_message(START, 1, &request(id, 60_000));
        assert_eq!(received, Received::Request);
    }
    for id in OPEN_PER_PEER_MAX..100_000 {
        let received = machine.handle_message(START, 1, &request(id, 60_000));
        assert_eq!(received, Received::Busy);
    }
    assert_eq!(machine.open(), (0, OPEN_PER_PEER_MAX as usize));
    let other = machine.handle_message(START, 2, &request(0, 1000));
    assert_eq!(other, Received::Request);
    assert!(machine.finish(1, RequestId(0)).is_some());
    let next = machine.handle_message(START, 1, &request(7_777, 1000));
    assert_eq!(next, Received::Request);
}

#[test]
fn all_peers_together_have_a_limit_too() {
    let mut machine = machine();
    let mut taken = 0;
    for peer in 0..=u8::MAX {
        for id in 0..OPEN_PER_PEER_MAX {
            match machine.handle_message(START, peer, &request(id, 60_000)) {
                Received::Request => taken += 1,
                received => assert_eq!(received, Received::Busy),
            }
        }
    }
    assert_eq!(taken, OPEN_MAX);
    machine.handle_timeout(START + SECOND * 60);
    assert_eq!(machine.open(), (0, 0));
}

#[test]
fn an_asker_has_the_same_limits() {
    let mut machine = machine();
    for _ in 0..OPEN_PER_PEER_MAX {
        ask(&mut machine, 0, "");
    }
    assert_eq!(machine.ask(START, 0, SECOND, "one more"), Err("one more"));
    for peer in 1..OPEN_MAX.div_ceil(OPEN_PER_PEER_MAX) as u8 {
        for _ in 0..OPEN_PER_PEER_MAX {
            ask(&mut machine, peer, "");
        }
    }
    assert_eq!(machine.open().0, OPEN_MAX as usize);
    let refused = machine.ask(START, 99, SECOND, "one more");
    assert_eq!(refused, Err("one more"));
    machine.handle_gone(0);
    assert!(machine.ask(START, 99, SECOND, "room again").is_ok());
}

#[test]
fn a_peer_that_goes_ends_what_is_open_both_ways_and_nothing_else() {
    let mut machine = machine();
    ask(&mut machine, 1, "a");
    ask(&mut machine, 1, "b");
    let other = ask(&mut machine, 2, "other");
    machine.handle_message(START, 1, &request(1, 1000));
    machine.handle_message(START, 1, &request(2, 1000));
    machine.watch(1, RequestId(2), "watcher").unwrap();
    machine.handle_gone(1);
    assert_eq!(
        events(&mut machine),
        [
            Event::Gone { asker: "a" },
            Event::Gone { asker: "b" },
            Event::Dropped { watcher: None },
            Event::Dropped {
                watcher: Some("watcher")
            },
        ]
    );
    assert!(machine.is_idle(1) && !machine.is_idle(2));
    let received = machine.handle_message(START, 2, &reply(other));
    assert_eq!(received, Received::Outcome("other"));
}

#[test]
fn a_request_whose_time_is_over_is_dropped_on_the_handlers_side_too() {
    let mut machine = machine();
    machine.handle_message(START, 1, &request(1, 500));
    machine.watch(1, RequestId(1), "watcher").unwrap();
    machine.handle_timeout(START + SECOND / 2);
    let watcher = Some("watcher");
    assert_eq!(events(&mut machine), [Event::Dropped { watcher }]);
    assert_eq!(machine.finish(1, RequestId(1)), None);
}

#[test]
fn numbers_start_again_without_meeting_one_that_is_open() {
    let mut machine = machine();
    let first = ask(&mut machine, 1, "first");
    machine.skip_ids(u32::MAX - 1);
    assert_eq!(ask(&mut machine, 1, "last"), u32::MAX);
    // The first of all is still open with this peer, and not with others.
    assert_eq!(ask(&mut machine, 1, "next"), first + 1);
    machine.skip_ids(u32::MAX - 1);
    assert_eq!(ask(&mut machine, 2, "other"), first);
}
