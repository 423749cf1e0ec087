//! Dialling: order and times of attempts, the end of a race, and random histories.

use super::*;
use crate::connection::reason::RefusedReason;

const MS: Duration = Duration::from_millis(1);

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(100) + MS * ms as u32
}

fn v6(n: u16) -> SocketAddr {
    format!("[2001:db8::{n:x}]:9000").parse().unwrap()
}

fn v4(n: u8) -> SocketAddr {
    format!("192.0.2.{n}:9000").parse().unwrap()
}

fn new() -> Dial {
    Dial::new(at(0), DialConfig::default())
}

/// The addresses that are to be connected to now.
fn connects(dial: &mut Dial) -> Vec<SocketAddr> {
    std::iter::from_fn(|| dial.poll_action())
        .map(|action| match action {
            DialAction::Connect { addr, .. } => addr,
            DialAction::Cancel { attempt } => panic!("cancelled {attempt:?}"),
        })
        .collect()
}

fn cancels(dial: &mut Dial) -> Vec<u8> {
    std::iter::from_fn(|| dial.poll_action())
        .map(|action| match action {
            DialAction::Cancel { attempt } => attempt.0,
            DialAction::Connect { addr, .. } => panic!("connected {addr}"),
        })
        .collect()
}

/// Runs to the next timeout, which has to be at `ms`.
#[track_caller]
fn run_to(dial: &mut Dial, ms: u64) {
    assert_eq!(dial.poll_timeout(), Some(at(ms)));
    dial.handle_timeout(at(ms));
}

fn failed(dial: &mut Dial) -> DialError {
    match dial.poll_event() {
        Some(DialEvent::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn families_take_turns_at_the_attempt_delay() {
    let mut dial = new();
    dial.handle_addresses(at(0), Families::Both, &[v4(1), v4(2), v6(1), v6(2), v6(3)]);
    assert_eq!(connects(&mut dial), [v6(1)]);
    for (ms, addr) in [(250, v4(1)), (500, v6(2)), (750, v4(2)), (1000, v6(3))] {
        run_to(&mut dial, ms);
        assert_eq!(connects(&mut dial), [addr]);
    }
    // Nothing is left to start: the next thing to happen is the deadline of the first attempt.
    assert_eq!(dial.poll_timeout(), Some(at(10_000)));
}

#[test]
fn ipv4_waits_the_resolution_delay_for_ipv6() {
    let mut dial = new();
    dial.handle_addresses(at(0), Families::V4, &[v4(1)]);
    assert_eq!(connects(&mut dial), []);
    run_to(&mut dial, 50);
    assert_eq!(connects(&mut dial), [v4(1)]);
    // IPv6 answers after all: it is next.
    dial.handle_addresses(at(80), Families::V6, &[v6(1)]);
    assert_eq!(connects(&mut dial), []);
    run_to(&mut dial, 300);
    assert_eq!(connects(&mut dial), [v6(1)]);
}

#[test]
fn ipv6_within_the_resolution_delay_goes_first_and_at_once() {
    let mut dial = new();
    dial.handle_addresses(at(0), Families::V4, &[v4(1)]);
    dial.handle_addresses(at(30), Families::V6, &[v6(1)]);
    assert_eq!(connects(&mut dial), [v6(1)]);
    run_to(&mut dial, 280);
    assert_eq!(connects(&mut dial), [v4(1)]);
}

#[test]
fn a_negative_ipv6_answer_ends_the_resolution_delay() {
    let mut dial = new();
    dial.handle_addresses(at(0), Families::V4, &[v4(1)]);
    dial.handle_resolve_failed(at(10), Families::V6, io::ErrorKind::NotFound);
    assert_eq!(connects(&mut dial), [v4(1)]);

    let mut dial = new();
    dial.handle_addresses(at(0), Families::V6, &[]);
    dial.handle_addresses(at(400), Families::V4, &[v4(1)]);
    assert_eq!(connects(&mut dial), [v4(1)]);
}

#[test]
fn a_failed_attempt_brings_the_next_forward_but_not_below_ten_milliseconds() {
    let mut dial = new();
    dial.handle_addresses(at(0), Families::Both, &[v6(1), v4(1), v6(2)]);
    assert_eq!(connects(&mut dial), [v6(1)]);
    dial.handle_failed(at(1), AttemptId(0), AttemptFailure::ConnectionRefused);
    assert_eq!(connects(&mut dial), []);
    run_to(&mut dial, 10);
    assert_eq!(connects(&mut dial), [v4(1)]);
    dial.handle_failed(at(60), AttemptId(1), AttemptFailure::Unreachable);
    assert_eq!(connects(&mut dial), [v6(2)]);
    dial.handle_failed(at(90), AttemptId(2), AttemptFailure::ConnectionRefused);
    let error = failed(&mut dial);
    assert_eq!(error.kind(), "unreachable");
    assert_eq!(
        error.to_string(),
        "[2001:db8::1]:9000: connection refused, nothing listens there; 192.0.2.1:9000: no route to that address; \
         [2001:db8::2]:9000: connection refused, nothing listens there"
    );
    assert!(dial.is_over());
    assert_eq!(dial.poll_timeout(), None);
}

#[test]
fn the_first_to_connect_wins_and_the_others_are_cancelled() {
    let mut dial = new();
    dial.handle_addresses(at(0), Families::Both, &[v6(1), v4(1), v6(2)]);
    run_to(&mut dial, 250);
    assert_eq!(connects(&mut dial), [v6(1), v4(1)]);
    dial.handle_connected(at(300), AttemptId(1));
    assert_eq!(
        dial.poll_event(),
        Some(DialEvent::Won {
            attempt: AttemptId(1),
            addr: v4(1)
        })
    );
    assert_eq!(cancels(&mut dial), [0]);
    // The loser was faster than the order to close it.
    dial.handle_connected(at(301), AttemptId(0));
    assert_eq!(dial.poll_event(), None);
    // While the handshake runs the dial waits for nothing.
    assert_eq!(dial.poll_timeout(), None);
    dial.handle_handshake_done();
    assert!(dial.is_over());
}

#[test]
fn goes_on_when_the_handshake_fails_for_a_reason_of_that_address() {
    let mut dial = new();
    dial.handle_addresses(at(0), Families::Both, &[v6(1), v6(2), v4(1), v4(2)]);
    run_to(&mut dial, 250);
    run_to(&mut dial, 500);
    assert_eq!(connects(&mut dial), [v6(1), v4(1), v6(2)]);
    dial.handle_connected(at(600), AttemptId(1));
    assert_eq!(cancels(&mut dial), [2, 0]);
    dial.poll_event().unwrap();
    dial.handle_handshake_failed(at(700), AttemptId(1), AttemptFailure::BadHandshake);
    // Those that were cancelled come before the one never tried, and IPv4 is next in turn.
    assert_eq!(connects(&mut dial), [v4(2)]);
    run_to(&mut dial, 950);
    run_to(&mut dial, 1200);
    assert_eq!(connects(&mut dial), [v6(1), v6(2)]);
    dial.handle_connected(at(1300), AttemptId(5));
    assert_eq!(
        dial.poll_event(),
        Some(DialEvent::Won {
            attempt: AttemptId(5),
            addr: v6(2)
        })
    );
}

#[test]
fn a_refusal_by_the_peer_itself_is_final() {
    let mut dial = new();
    dial.handle_addresses(at(0), Families::Both, &[v6(1), v4(1)]);
    dial.handle_connected(at(10), AttemptId(0));
    dial.poll_event().unwrap();
    dial.handle_handshake_failed(
        at(20),
        AttemptId(0),
        AttemptFailure::Refused(RefusedReason::Full),
    );
    let error = failed(&mut dial);
    assert_eq!(error.kind(), "full");
    assert_eq!(error.refused(), Some(RefusedReason::Full));
}

#[test]
fn without_the_flag_the_winner_ends_the_dial() {
    let config = DialConfig {
        goes_on_after_handshake: false,
        ..DialConfig::default()
    };
    let mut dial = Dial::new(at(0), config);
    dial.handle_addresses(at(0), Families::Both, &[v6(1), v4(1)]);
    dial.handle_connected(at(10), AttemptId(0));
    assert!(matches!(dial.poll_event(), Some(DialEvent::Won { .. })));
    assert!(dial.is_over());
}

#[test]
fn an_attempt_ends_after_its_deadline() {
    let mut dial = new();
    dial.handle_addresses(at(0), Families::Both, &[v4(1)]);
    assert_eq!(connects(&mut dial), [v4(1)]);
    run_to(&mut dial, 10_000);
    assert_eq!(cancels(&mut dial), [0]);
    let error = failed(&mut dial);
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        ("timeout", "192.0.2.1:9000: no answer")
    );
}

#[test]
fn the_total_deadline_ends_everything() {
    let config = DialConfig {
        total_deadline: MS * 600,
        ..DialConfig::default()
    };
    let mut dial = Dial::new(at(0), config);
    dial.handle_addresses(at(0), Families::V4, &[v4(1), v4(2), v4(3), v4(4)]);
    for ms in [50, 300, 550, 600] {
        run_to(&mut dial, ms);
    }
    let actions: Vec<_> = std::iter::from_fn(|| dial.poll_action()).collect();
    assert_eq!(
        actions.len(),
        6,
        "three started, three cancelled: {actions:?}"
    );
    let error = failed(&mut dial);
    assert_eq!(error.kind(), "timeout");
    assert!(matches!(error, DialError::TimedOut { attempts } if attempts.len() == 3));

    let mut dial = Dial::new(at(0), config);
    run_to(&mut dial, 600);
    assert_eq!(
        failed(&mut dial).to_string(),
        "the name could not be looked up in time"
    );
}

#[test]
fn a_name_without_addresses_says_so() {
    let mut dial = new();
    dial.handle_addresses(at(0), Families::Both, &[]);
    assert_eq!(failed(&mut dial).to_string(), "the name has no address");

    let mut dial = new();
    dial.handle_resolve_failed(at(0), Families::Both, io::ErrorKind::NotFound);
    let error = failed(&mut dial);
    assert_eq!(error.kind(), "unreachable");
    assert!(
        error
            .to_string()
            .starts_with("the name could not be looked up"),
        "{error}"
    );
}

#[test]
fn every_lookup_is_waited_for() {
    let mut dial = new();
    dial.handle_lookup();
    dial.handle_addresses(at(0), Families::Both, &[v6(1)]);
    dial.handle_addresses(at(0), Families::None, &[v4(7)]);
    dial.handle_failed(at(20), AttemptId(0), AttemptFailure::ConnectionRefused);
    dial.handle_failed(at(40), AttemptId(1), AttemptFailure::ConnectionRefused);
    assert_eq!(connects(&mut dial), [v6(1), v4(7)]);
    assert_eq!(dial.poll_event(), None, "the second name is not known yet");
    dial.handle_addresses(at(5000), Families::Both, &[v4(1)]);
    assert_eq!(connects(&mut dial), [v4(1)]);
    dial.handle_failed(at(5001), AttemptId(2), AttemptFailure::Unreachable);
    assert!(
        matches!(failed(&mut dial), DialError::AllFailed { attempts, .. } if attempts.len() == 3)
    );
}

#[test]
fn at_most_eight_addresses_are_tried_and_each_once() {
    let mut dial = new();
    let mut addrs: Vec<SocketAddr> = (1..=30).flat_map(|n| [v6(n), v6(n)]).collect();
    addrs.extend((1..=2).map(v4));
    addrs.push("[::ffff:192.0.2.1]:9000".parse().unwrap());
    dial.handle_addresses(at(0), Families::Both, &addrs);
    let mut started = Vec::new();
    let mut ms = 0;
    loop {
        started.extend(connects(&mut dial));
        let attempt = AttemptId(started.len() as u8 - 1);
        dial.handle_failed(at(ms), attempt, AttemptFailure::ConnectionRefused);
        match dial.poll_timeout() {
            Some(next) => {
                ms = next.saturating_duration_since(at(0)).as_millis() as u64;
                dial.handle_timeout(next);
            }
            None => break,
        }
    }
    assert_eq!(
        started,
        [v6(1), v4(1), v6(2), v4(2), v6(3), v6(4), v6(5), v6(6)]
    );
    let error = failed(&mut dial);
    assert!(
        error
            .to_string()
            .ends_with("; further addresses were not tried"),
        "{error}"
    );
}

#[test]
fn failures_of_the_system_are_named() {
    let failure = AttemptFailure::from_io(&io::Error::from(io::ErrorKind::ConnectionRefused));
    assert_eq!(failure, AttemptFailure::ConnectionRefused);
    let failure = AttemptFailure::from_io(&io::Error::from_raw_os_error(24));
    assert!(failure.to_string().contains("24"), "{failure}");
    let failure = AttemptFailure::from_io(&io::Error::from(io::ErrorKind::NetworkUnreachable));
    assert_eq!(failure.kind(), "unreachable");
}

/// 20,000 random histories: every attempt ends once, starts keep their distance, and the dial ends once.
#[test]
fn random_histories_end_once_and_leave_nothing_open() {
    for seed in 0..20_000 {
        history(seed);
    }
}

fn history(seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut below = |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let mut now = at(0);
    let mut dial = Dial::new(
        now,
        DialConfig {
            goes_on_after_handshake: below(2) == 0,
            ..DialConfig::default()
        },
    );
    let mut open: Vec<AttemptId> = Vec::new();
    let mut starts: Vec<Instant> = Vec::new();
    let mut addrs: Vec<SocketAddr> = Vec::new();
    let mut shaking = None;
    let mut ends = 0;
    for _ in 0..200 {
        match below(6) {
            0 => {
                let families =
                    [Families::Both, Families::V4, Families::V6, Families::None][below(4) as usize];
                let found: Vec<_> = (0..below(4))
                    .map(|_| {
                        if below(2) == 0 {
                            v4(below(12) as u8)
                        } else {
                            v6(below(12) as u16)
                        }
                    })
                    .collect();
                dial.handle_addresses(now, families, &found);
            }
            1 if !open.is_empty() => {
                let attempt = open.swap_remove(below(open.len() as u64) as usize);
                dial.handle_failed(now, attempt, AttemptFailure::ConnectionRefused);
            }
            2 if !open.is_empty() => {
                let attempt = open.swap_remove(below(open.len() as u64) as usize);
                dial.handle_connected(now, attempt);
            }
            3 if shaking.is_some() => {
                let failure = match below(3) {
                    0 => AttemptFailure::Refused(RefusedReason::Banned),
                    _ => AttemptFailure::ClosedEarly,
                };
                dial.handle_handshake_failed(now, shaking.take().unwrap(), failure);
            }
            4 => {
                if let Some(deadline) = dial.poll_timeout() {
                    now = now.max(deadline);
                    dial.handle_timeout(now);
                }
            }
            _ => now += MS * below(40) as u32,
        }
        while let Some(action) = dial.poll_action() {
            match action {
                DialAction::Connect { attempt, addr } => {
                    assert!(shaking.is_none(), "seed {seed}: an attempt beside a winner");
                    assert!(!open.contains(&attempt));
                    if let Some(&last) = starts.last() {
                        assert!(
                            now.saturating_duration_since(last) >= ATTEMPT_DELAY_MIN,
                            "seed {seed}"
                        );
                    }
                    starts.push(now);
                    addrs.push(addr);
                    open.push(attempt);
                }
                DialAction::Cancel { attempt } => {
                    let index = open.iter().position(|&id| id == attempt);
                    open.swap_remove(
                        index.unwrap_or_else(|| panic!("seed {seed}: cancelled what is not open")),
                    );
                }
            }
        }
        match dial.poll_event() {
            Some(DialEvent::Won { attempt, .. }) => {
                assert!(
                    open.is_empty(),
                    "seed {seed}: others are open beside the winner"
                );
                shaking = (!dial.is_over()).then_some(attempt);
                ends += u32::from(dial.is_over());
            }
            Some(DialEvent::Failed(error)) => {
                assert!(open.is_empty(), "seed {seed}: open after the end");
                assert!(!error.to_string().is_empty());
                ends += 1;
            }
            None => {}
        }
        // Whatever is undecided has a deadline.
        assert!(
            dial.is_over() || shaking.is_some() || dial.poll_timeout().is_some(),
            "seed {seed}"
        );
    }
    assert!(ends <= 1, "seed {seed}");
    addrs.sort_unstable();
    addrs.dedup();
    assert!(addrs.len() <= ADDRESSES_MAX, "seed {seed}");
}
