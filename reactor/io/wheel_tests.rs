use std::collections::BTreeMap;
use std::time::Duration;

use super::*;

/// A small generator, so that a failure is repeated by its seed.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Below one of the bounds, in nanoseconds.
    fn duration(&mut self, bounds: &[u64]) -> Duration {
        let bound = bounds[self.below(bounds.len() as u64) as usize];
        Duration::from_nanos(self.below(bound))
    }
}

fn ms(ms: u64) -> Instant {
    Instant::from_nanos(ms * TICK)
}

fn fired(wheel: &mut Wheel, now: Instant) -> Vec<u32> {
    let mut tags = Vec::new();
    wheel.advance(now, &mut |expired| tags.push(expired.tag));
    tags
}

#[test]
fn a_timer_is_24_bytes() {
    assert_eq!(size_of::<Node>(), 24);
}

#[test]
fn never_early_not_even_by_a_nanosecond() {
    let start = Instant::from_nanos(5_300_000);
    let mut wheel = Wheel::new(start);
    let at = Instant::from_nanos(9_000_001);
    wheel.arm(at, Duration::ZERO, 1, 7);
    assert_eq!(wheel.next_deadline(), Some(ms(10)));
    assert_eq!(fired(&mut wheel, Instant::from_nanos(9_999_999)), []);
    assert_eq!(fired(&mut wheel, ms(10)), [7]);
    assert_eq!(wheel.next_deadline(), None);
}

#[test]
fn a_deadline_in_the_past_is_due_at_once() {
    let now = Instant::from_nanos(5_300_000);
    let mut wheel = Wheel::new(now);
    wheel.arm(Instant::from_nanos(5_200_000), Duration::ZERO, 0, 1);
    wheel.arm(Instant::ZERO, Duration::from_secs(1), 0, 2);
    assert!(wheel.next_deadline().expect("two are armed") <= now);
    assert_eq!(fired(&mut wheel, now), [1, 2]);
    wheel.arm(now, Duration::ZERO, 0, 3);
    assert_eq!(fired(&mut wheel, now), [3]);
    assert!(wheel.is_empty());
}

#[test]
fn ties_keep_the_order_of_arming_across_levels() {
    let mut wheel = Wheel::new(Instant::ZERO);
    wheel.arm(ms(5000), Duration::ZERO, 0, 1);
    assert_eq!(fired(&mut wheel, ms(4990)), []);
    wheel.arm(ms(5000), Duration::ZERO, 0, 2);
    assert_eq!(fired(&mut wheel, ms(4999)), []);
    wheel.arm(ms(5000), Duration::ZERO, 0, 3);
    wheel.arm(ms(5000), Duration::ZERO, 0, 4);
    assert_eq!(fired(&mut wheel, ms(6000)), [1, 2, 3, 4]);
}

#[test]
fn cancelling_is_final_and_ids_are_never_confused() {
    let mut wheel = Wheel::new(Instant::ZERO);
    let first = wheel.arm(ms(10), Duration::ZERO, 0, 1);
    assert!(wheel.cancel(first));
    assert!(!wheel.cancel(first));
    let second = wheel.arm(ms(10), Duration::ZERO, 0, 2);
    assert!(
        !wheel.cancel(first),
        "the node is used again, the id is not"
    );
    assert_eq!(fired(&mut wheel, ms(10)), [2]);
    assert!(!wheel.cancel(second));
    // After a large crowd is gone the nodes are let go, and their ids stay dead.
    let crowd: Vec<_> = (0..1000)
        .map(|tag| wheel.arm(ms(20), Duration::ZERO, 0, tag))
        .collect();
    assert_eq!(fired(&mut wheel, ms(20)).len(), 1000);
    assert_eq!(wheel.heap_bytes(), 0);
    wheel.arm(ms(30), Duration::ZERO, 0, 5);
    assert!(crowd.iter().all(|&id| !wheel.cancel(id)));
}

#[test]
fn slack_merges_neighbours_and_is_never_exceeded() {
    let mut wheel = Wheel::new(Instant::ZERO);
    let slack = Duration::from_millis(250);
    for n in 0..100 {
        wheel.arm(ms(30_000 + n), slack, 0, n as u32);
    }
    let mut wakes = 0;
    let mut count = 0;
    while let Some(at) = wheel.next_deadline() {
        wakes += 1;
        wheel.advance(at, &mut |expired| {
            count += 1;
            let due = ms(30_000 + u64::from(expired.tag));
            assert!(at >= due && at <= due + slack);
        });
    }
    assert_eq!(count, 100);
    assert!(wakes <= 2, "{wakes} wake-ups");
}

#[test]
fn slack_without_end_and_instants_without_end() {
    let mut wheel = Wheel::new(ms(77));
    wheel.arm(ms(100), Duration::MAX, 0, 1);
    wheel.arm(Instant::from_nanos(u64::MAX), Duration::MAX, 0, 2);
    assert_eq!(wheel.len(), 2);
    assert!(wheel.next_deadline().expect("armed") >= ms(100));
    assert_eq!(fired(&mut wheel, Instant::from_nanos(u64::MAX - TICK)), [1]);
}

#[test]
fn decades_away_and_a_jump_over_all_of_them() {
    let day = 24 * 3600 * 1000;
    let mut wheel = Wheel::new(ms(123_456));
    let deadlines = [
        20 * 365 * day,
        13 * day,
        12 * day,
        500 * day,
        day,
        20 * 365 * day,
        1,
    ];
    let ids: Vec<_> = deadlines
        .iter()
        .enumerate()
        .map(|(tag, &after)| wheel.arm(ms(123_456 + after), Duration::ZERO, 0, tag as u32))
        .collect();
    assert!(wheel.cancel(ids[3]));
    assert_eq!(wheel.next_deadline(), Some(ms(123_457)));
    assert_eq!(
        fired(&mut wheel, ms(123_456 + 25 * 365 * day)),
        [6, 4, 2, 1, 0, 5]
    );
}

#[test]
fn next_deadline_is_exact_so_that_an_idle_core_wakes_once() {
    for after in [1, 63, 64, 65, 4096, 30_000, 86_400_000, 40_000_000_000] {
        let mut wheel = Wheel::new(ms(1_000_003));
        wheel.arm(ms(1_000_003 + after), Duration::ZERO, 0, 0);
        let mut wakes = 0;
        while let Some(at) = wheel.next_deadline() {
            wheel.advance(at, &mut |_| ());
            wakes += 1;
        }
        assert_eq!(wakes, 1, "after {after} ms");
    }
}

#[test]
fn a_crowded_slot_whose_timers_are_cancelled_does_not_spin() {
    let mut wheel = Wheel::new(Instant::ZERO);
    let ids: Vec<_> = (0..200)
        .map(|n| wheel.arm(ms(5000), Duration::ZERO, 0, n))
        .collect();
    wheel.arm(ms(100_000), Duration::ZERO, 0, 1000);
    let bound = wheel.next_deadline().expect("armed");
    assert!(bound <= ms(5000));
    for id in ids {
        assert!(wheel.cancel(id));
    }
    assert_eq!(fired(&mut wheel, bound), []);
    assert_eq!(wheel.next_deadline(), Some(ms(100_000)));
}

#[test]
fn a_panicking_callback_loses_only_its_own_timer() {
    let mut wheel = Wheel::new(Instant::ZERO);
    for tag in 0..5 {
        wheel.arm(ms(10 + u64::from(tag) / 2), Duration::ZERO, 0, tag);
    }
    let mut seen = Vec::new();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wheel.advance(ms(50), &mut |expired| {
            assert_ne!(expired.tag, 2, "the callback's panic");
            seen.push(expired.tag);
        });
    }));
    assert!(outcome.is_err());
    assert!(wheel.next_deadline().expect("two are left") <= ms(50));
    assert_eq!(fired(&mut wheel, ms(50)), [3, 4]);
    assert_eq!(seen, [0, 1]);
}

/// What the wheel must do, said with an ordered map: key (tick, order of arming).
#[derive(Default)]
struct Model {
    timers: BTreeMap<(u64, u64), (TimerId, Instant, Duration)>,
    order: u64,
}

#[test]
fn between_two_steps_timers_are_cancelled_and_armed() {
    let mut wheel = Wheel::new(ms(0));
    for tag in 0..4 {
        wheel.arm(ms(10), Duration::ZERO, 1, tag);
    }
    let third = wheel.arm(ms(70), Duration::ZERO, 2, 4);
    wheel.begin(ms(100));
    assert_eq!(wheel.pop().map(|expired| expired.tag), Some(0));
    // Of two that are due already one is cancelled alone, the others with their owner.
    assert!(wheel.cancel(third));
    assert_eq!(wheel.cancel_where(|owner| owner == 1), 3);
    // Armed for now or for the past: the next call's, and until then the deadline has come.
    let late = wheel.arm(ms(100), Duration::ZERO, 3, 5);
    wheel.arm(ms(50), Duration::ZERO, 3, 6);
    assert_eq!(wheel.pop(), None);
    assert_eq!(
        (wheel.owner(late), wheel.due(late)),
        (Some(3), Some(ms(100)))
    );
    assert!(wheel.next_deadline().is_some_and(|at| at <= ms(100)));
    assert_eq!(fired(&mut wheel, ms(100)), [5, 6]);
    assert_eq!((wheel.owner(late), wheel.due(late)), (None, None));
    assert!(!wheel.cancel(late));
}

#[test]
fn a_timer_is_found_by_its_place_and_owner_while_it_is_armed() {
    let mut wheel = Wheel::new(ms(0));
    let one = wheel.arm(ms(10), Duration::ZERO, 1, 0);
    let two = wheel.arm(ms(20), Duration::ZERO, 2, 0);
    assert_eq!(wheel.find(one.place(), 1), Some(one));
    assert_eq!(wheel.find(two.place(), 1), None);
    assert_eq!(wheel.find(u32::MAX, 1), None);
    wheel.cancel(one);
    assert_eq!(wheel.find(one.place(), 1), None);
    let next = wheel.arm(ms(30), Duration::ZERO, 1, 0);
    assert_eq!(next.place(), one.place());
    assert_eq!(wheel.find(one.place(), 1), Some(next));
}

#[test]
fn a_timer_tells_when_it_fires_wherever_it_waits() {
    let mut wheel = Wheel::new(ms(5));
    for at in [6, 68, 5_000, 1 << 20, 1 << 29, 1 << 31, 1 << 40] {
        let timer = wheel.arm(ms(at), Duration::ZERO, 0, 0);
        assert_eq!(wheel.due(timer), Some(ms(at)));
    }
    let timer = wheel.arm(ms(1001), Duration::from_millis(100), 0, 0);
    assert_eq!(wheel.due(timer), Some(ms(1024)));
}

#[test]
fn agrees_with_a_map_on_random_runs() {
    for seed in 0..150 {
        random_run(seed);
    }
}

fn random_run(seed: u64) {
    let mut random = Seeded(seed);
    let start = random.below(1 << 40) * 1000;
    let mut now = Instant::from_nanos(start);
    let mut wheel = Wheel::new(now);
    let mut model = Model::default();
    for step in 0..400 {
        match random.below(10) {
            0..=4 => {
                let reach = [1 << 21, 1 << 26, 1 << 33, 1 << 45, 1 << 52, 1 << 58];
                let after = random.duration(&reach);
                let at = if random.below(20) == 0 {
                    now - after
                } else {
                    now + after
                };
                let at = if random.below(3) == 0 {
                    at
                } else {
                    Instant::from_nanos(at.as_nanos() / TICK * TICK)
                };
                // An exact model needs no slack; slack is drawn in a quarter of the runs and checked by bounds.
                let slack = if seed.is_multiple_of(4) {
                    Duration::from_nanos(random.below(1 << 30))
                } else {
                    Duration::ZERO
                };
                let id = wheel.arm(at, slack, step, !step);
                let tick = if at <= now {
                    now.as_nanos() / TICK
                } else {
                    at.as_nanos().div_ceil(TICK)
                };
                model.order += 1;
                model.timers.insert((tick, model.order), (id, at, slack));
            }
            5..=6 => {
                if model.timers.is_empty() {
                    continue;
                }
                let nth = random.below(model.timers.len() as u64) as usize;
                let key = *model
                    .timers
                    .keys()
                    .nth(nth)
                    .expect("nth is below the length");
                let (id, ..) = model.timers.remove(&key).expect("just found");
                assert!(wheel.cancel(id), "seed {seed} step {step}");
                assert!(!wheel.cancel(id), "seed {seed} step {step}");
            }
            action => {
                let reach = [1 << 20, 1 << 24, 1 << 31, 1 << 44, 1 << 51];
                now = match (action, wheel.next_deadline()) {
                    (7 | 8, Some(next)) => next.max(now),
                    _ => now + random.duration(&reach),
                };
                advance_both(&mut wheel, &mut model, now, seed);
            }
        }
        assert_eq!(wheel.len(), model.timers.len(), "seed {seed} step {step}");
        check_next(&mut wheel, &model, now, seed);
    }
    while let Some(next) = wheel.next_deadline() {
        now = now.max(next);
        advance_both(&mut wheel, &mut model, now, seed);
    }
    assert!(model.timers.is_empty(), "seed {seed}");
}

fn advance_both(wheel: &mut Wheel, model: &mut Model, now: Instant, seed: u64) {
    let mut got = Vec::new();
    wheel.advance(now, &mut |expired| {
        assert_eq!(expired.owner, !expired.tag);
        got.push(expired.id);
    });
    if !seed.is_multiple_of(4) {
        let tick = now.as_nanos() / TICK;
        let later = model.timers.split_off(&(tick + 1, 0));
        let due = std::mem::replace(&mut model.timers, later);
        let want: Vec<_> = due.values().map(|(id, ..)| *id).collect();
        assert_eq!(got, want, "seed {seed} at {now:?}");
        return;
    }
    for id in got {
        let key = *model
            .timers
            .iter()
            .find(|(_, timer)| timer.0 == id)
            .expect("known")
            .0;
        let (_, at, _) = model.timers.remove(&key).expect("just found");
        assert!(at <= now, "seed {seed}: early");
    }
    for (_, at, slack) in model.timers.values() {
        // A tick of rounding comes on top of the slack.
        assert!(
            *at + *slack + Duration::from_nanos(TICK) > now,
            "seed {seed}: more than the slack late"
        );
    }
}

fn check_next(wheel: &mut Wheel, model: &Model, now: Instant, seed: u64) {
    let Some((&(tick, _), _)) = model.timers.first_key_value() else {
        assert_eq!(wheel.next_deadline(), None, "seed {seed}");
        return;
    };
    let next = wheel.next_deadline().expect("timers are armed");
    if !seed.is_multiple_of(4) && model.timers.len() <= SCAN_MAX {
        assert_eq!(next, ms(tick), "seed {seed} at {now:?}");
    }
}
