use crossbeam_channel as channel;

use std::sync::Arc;

use super::block::{Block, class_capacity, class_for};
use super::pool::CACHED_SHARE;
use super::*;
use crate::io::memory::{MemoryBudget, MemoryKind};

const KIND: MemoryKind = MemoryKind::Payloads;

fn pool_of(max: usize) -> (BufferPool, Arc<MemoryBudget>) {
    let budget = Arc::new(MemoryBudget::new(max));
    (BufferPool::new(Arc::clone(&budget)), budget)
}

fn pool() -> (BufferPool, Arc<MemoryBudget>) {
    pool_of(1 << 30)
}

#[test]
fn handles_are_small() {
    assert_eq!(size_of::<Buffer>(), size_of::<usize>());
    assert_eq!(size_of::<Option<Buffer>>(), size_of::<usize>());
    assert_eq!(size_of::<Payload>(), size_of::<usize>() + 8);
    assert_eq!(size_of::<Option<Payload>>(), size_of::<usize>() + 8);
    #[cfg(target_pointer_width = "64")]
    assert_eq!(size_of::<Block>(), 40);
}

#[test]
fn a_class_holds_its_power_of_two_and_the_framing() {
    for (capacity, class) in [
        (0, Some(0)),
        (1, Some(0)),
        (192, Some(0)),
        (193, Some(1)),
        (16_384 + 64, Some(7)),
        (16_384 + 65, Some(8)),
        (POOLED_MAX, Some(9)),
        (POOLED_MAX + 1, None),
        (usize::MAX, None),
    ] {
        assert_eq!(class_for(capacity), class, "{capacity}");
        if let Some(class) = class {
            assert!(class_capacity(class) >= capacity);
        }
    }
    assert_eq!(POOLED_MAX, 65_600);
}

#[test]
fn a_buffer_is_filled_and_emptied() {
    let (mut pool, _) = pool();
    let mut buffer = pool.take(KIND, 100).expect("fits");
    assert_eq!((buffer.len(), buffer.capacity()), (0, 192));
    assert_eq!(buffer.push(b"hello world"), 11);
    buffer.spare()[0] = b'!';
    buffer.fill(1);
    buffer[0] = b'H';
    assert_eq!(&*buffer, b"Hello world!");
    buffer.consume(6);
    assert_eq!(&*buffer, b"world!");
    buffer.truncate(5);
    assert_eq!(&*buffer, b"world");
    assert_eq!(buffer.push(&[7; 1000]), 192 - 11);
    assert_eq!(buffer.spare().len(), 0);
    buffer.consume(buffer.len());
    assert_eq!(
        buffer.spare().len(),
        192,
        "an empty buffer begins at its front"
    );
    buffer.truncate(9);
    assert!(buffer.is_empty());
}

#[test]
#[should_panic(expected = "no more than the room")]
fn more_than_the_room_cannot_be_filled() {
    let (mut pool, _) = pool();
    pool.take(KIND, 10).expect("fits").fill(193);
}

#[test]
#[should_panic(expected = "no more than the contents")]
fn more_than_the_contents_cannot_be_consumed() {
    let (mut pool, _) = pool();
    pool.take(KIND, 10).expect("fits").consume(1);
}

#[test]
fn reserving_moves_or_grows() {
    let (mut pool, budget) = pool_of(2000);
    let mut buffer = pool.take(KIND, 192).expect("fits");
    buffer.push(&[1; 192]);
    buffer.consume(100);
    assert!(pool.reserve(&mut buffer, 100));
    assert_eq!(
        (buffer.len(), buffer.capacity()),
        (92, 192),
        "moved to the front"
    );
    assert!(pool.reserve(&mut buffer, 101));
    assert_eq!(
        (buffer.len(), buffer.capacity()),
        (92, 576),
        "twice as long at least"
    );
    assert_eq!(*buffer, [1; 92]);
    // The double of it does not fit any more, what is needed does.
    assert!(pool.reserve(&mut buffer, 500));
    assert_eq!(buffer.capacity(), 1088);
    assert!(!pool.reserve(&mut buffer, 1500));
    assert!(!pool.reserve(&mut buffer, usize::MAX) && !pool.reserve(&mut buffer, 3 << 29));
    assert_eq!((buffer.len(), buffer.capacity()), (92, 1088), "unchanged");
    drop(buffer);
    pool.trim();
    assert_eq!(budget.used(), 0);
}

#[test]
fn payloads_share_and_slice() {
    let (mut pool, budget) = pool();
    let payload = pool.copy(KIND, b"hello world").expect("fits");
    let clone = payload.clone();
    let world = payload.slice(6..11);
    let or = world.slice(1..3);
    assert_eq!(
        (&*payload, &*world, &*or),
        (&b"hello world"[..], &b"world"[..], &b"or"[..])
    );
    assert!(payload.slice(11..11).is_empty());
    drop(payload);
    drop(clone);
    assert_eq!(&*world, b"world");
    drop(world);
    assert_eq!(&*or, b"or");
    pool.settle();
    assert_eq!(budget.used_for(KIND), 192);
    drop(or);
    pool.trim();
    assert_eq!(budget.used(), 0);
}

#[test]
#[should_panic(expected = "within its payload")]
fn a_slice_cannot_reach_further() {
    Payload::copy_of(b"abc").slice(0..2).slice(0..3);
}

#[test]
fn payloads_without_a_pool() {
    let copied = Payload::copy_of(b"copied");
    let taken = Payload::from(b"taken over".to_vec());
    let thread = std::thread::spawn({
        let (copied, taken) = (copied.clone(), taken.slice(6..10));
        move || (&*copied == b"copied", &*taken == b"over")
    });
    assert_eq!(thread.join().expect("ends"), (true, true));
    assert_eq!((&*copied, &*taken), (&b"copied"[..], &b"taken over"[..]));
    assert!(Payload::copy_of(b"").is_empty() && Payload::from(Vec::new()).is_empty());
    assert_eq!(copied, Payload::from(b"copied".to_vec()));
}

#[test]
fn freezing_copies_nothing() {
    let (mut pool, _) = pool();
    let mut buffer = pool.take(KIND, 10).expect("fits");
    buffer.push(b"headerbody");
    buffer.consume(6);
    let place = buffer.as_ptr();
    let payload = buffer.freeze();
    assert_eq!((&*payload, payload.as_ptr()), (&b"body"[..], place));
}

#[test]
fn blocks_are_used_again() {
    let (mut pool, _) = pool();
    let first = pool.copy(KIND, b"first").expect("fits");
    let place = first.as_ptr();
    drop(first);
    let second = pool.copy(KIND, b"second").expect("fits");
    assert_eq!(second.as_ptr(), place);
    drop(second);
    let of_other_size = pool.copy(KIND, &[1; 5000]).expect("fits");
    assert_ne!(of_other_size.as_ptr(), place);
    pool.settle();
    assert_eq!(pool.cached_bytes(), 192);
}

#[test]
fn the_budget_bounds_what_is_out() {
    let (mut pool, budget) = pool_of(100_000);
    let mut held: Vec<_> = std::iter::from_fn(|| pool.take(KIND, 4000)).collect();
    assert_eq!(held.len(), 100_000 / 4160);
    assert!(pool.take(KIND, POOLED_MAX + 1).is_none());
    held.pop();
    assert!(
        pool.take(KIND, 4000).is_some(),
        "what was given back fits again"
    );
    // Another core's share of the budget counts here.
    held.clear();
    pool.settle();
    assert!(budget.try_take(MemoryKind::Queues, 97_000));
    assert!(pool.take(KIND, 4000).is_none());
    assert!(pool.take(KIND, 2000).is_some());
    budget.give(MemoryKind::Queues, 97_000);
    // What is too long for the pool is counted while it exists, and not kept.
    let long = pool.take(MemoryKind::Reassembly, 90_000).expect("fits");
    assert_eq!(long.capacity(), 90_000);
    pool.settle();
    assert_eq!(budget.used_for(MemoryKind::Reassembly), 90_000);
    drop(long);
    assert_eq!(budget.used_for(MemoryKind::Reassembly), 0);
    pool.trim();
    assert_eq!((pool.cached_bytes(), budget.used()), (0, 0));
}

#[test]
fn what_must_not_be_lost_is_held_beyond_the_budget_and_counted() {
    let (mut pool, budget) = pool_of(1000);
    let mut held = pool.hold(KIND, &[1; 900]);
    assert!(pool.take(KIND, 900).is_none());
    pool.extend(&mut held, &[2; 3000]);
    assert_eq!(held[..900], [1; 900]);
    assert_eq!(held[900..], [2; 3000]);
    // What has gone makes room without a longer block.
    let capacity = held.capacity();
    held.consume(3000);
    pool.extend(&mut held, &[3; 2000]);
    assert_eq!(held[..900], [2; 900]);
    assert_eq!((held[900..].len(), held.capacity()), (2000, capacity));
    pool.settle();
    assert_eq!(budget.used(), capacity);
    drop(held);
    pool.settle();
    assert_eq!(budget.used(), 0);
}

#[test]
fn free_blocks_are_kept_as_they_were_lately_needed() {
    let (mut pool, budget) = pool_of(64 << 20);
    let fill = |pool: &mut BufferPool, count: usize| -> Vec<Buffer> {
        (0..count)
            .map(|_| pool.take(KIND, 16_384).expect("fits"))
            .collect()
    };
    let kept = |pool: &mut BufferPool| {
        pool.settle();
        pool.cached_bytes()
    };
    // A little is kept in any case, a burst as a whole, but no more than an eighth of the budget.
    drop(fill(&mut pool, 10));
    assert_eq!(kept(&mut pool), 10 * 16_448);
    drop(fill(&mut pool, 200));
    assert_eq!(kept(&mut pool), 200 * 16_448);
    drop(fill(&mut pool, 1000));
    let cap = (64 << 20) / CACHED_SHARE;
    assert!((cap - 16_448..=cap).contains(&kept(&mut pool)));
    // Small traffic makes the burst be forgotten.
    for _ in 0..100_000 {
        drop(fill(&mut pool, 1));
    }
    drop(fill(&mut pool, 600));
    assert!(kept(&mut pool) <= 600 * 16_448);
    assert_eq!(budget.used(), 0, "free blocks do not count");
    pool.trim();
    assert_eq!(pool.cached_bytes(), 0);
}

#[test]
fn a_trimmed_pool_keeps_nothing_that_comes_back() {
    let (mut pool, budget) = pool();
    let payload = pool.copy(KIND, &[5; 1000]).expect("fits");
    let second = pool.copy(KIND, &[6; 1000]).expect("fits");
    pool.trim();
    assert_eq!(budget.used_for(KIND), 2 * 1088, "what is out stays counted");
    drop(payload);
    assert_eq!(
        budget.used(),
        1088,
        "freed at once, though the pool's core sleeps"
    );
    // Awake again, it takes what comes back.
    drop(pool.copy(KIND, &[5; 1000]).expect("fits"));
    drop(second);
    pool.settle();
    assert_eq!((pool.cached_bytes(), budget.used()), (2 * 1088, 0));
    assert_eq!(pool.out_bytes, 0);
}

#[test]
fn payloads_outlive_their_pool() {
    let (mut pool, budget) = pool();
    let payload = pool.copy(KIND, b"survivor").expect("fits");
    let long = pool.copy(KIND, &[9; 100_000]).expect("fits");
    drop(pool);
    assert_eq!((&*payload, long.len()), (&b"survivor"[..], 100_000));
    drop(payload);
    drop(long);
    assert_eq!(budget.used(), 0);
    assert_eq!(Arc::strong_count(&budget), 1, "the home is gone as well");
}

#[test]
fn many_threads_drop_what_one_core_makes() {
    let (mut pool, budget) = pool_of(1 << 30);
    let (senders, threads): (Vec<_>, Vec<_>) = (0..3)
        .map(|n| {
            let (sender, receiver) = channel::bounded::<Payload>(64);
            let thread = std::thread::spawn(move || {
                let mut kept = Vec::new();
                for payload in receiver {
                    assert!(payload.iter().all(|byte| *byte == payload[0]));
                    kept.push(payload.slice(0..1));
                    if kept.len() > 10 * (n + 1) {
                        kept.clear();
                    }
                }
            });
            (sender, thread)
        })
        .unzip();
    for n in 0..if cfg!(miri) { 300 } else { 60_000 } {
        let bytes = [n as u8; 3000];
        let payload = pool.copy(KIND, &bytes[..1 + n * 7 % 3000]).expect("fits");
        for sender in &senders[n % 3..] {
            sender.send(payload.clone()).expect("the thread listens");
        }
        if n % 1000 == 0 {
            pool.trim();
        }
    }
    drop(senders);
    for thread in threads {
        thread.join().expect("the payloads were whole");
    }
    pool.trim();
    assert_eq!((budget.used(), pool.cached_bytes()), (0, 0));
}
