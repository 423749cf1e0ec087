//! What a link does to the packets that cross it: delay, loss, order, bandwidth, down times.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use super::prng::Prng;
use crate::time::Instant;

/// What a link does to the packets that cross it, in each direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkOptions {
    /// The least time from one end to the other.
    pub delay: Duration,
    /// How much is added to `delay`, drawn for each packet in the way that `distribution` says. Packets keep their order
    /// all the same. Zero makes the delay constant.
    pub jitter: Duration,
    /// How the jitter is spread. Evenly by default.
    pub distribution: Distribution,
    /// Probability that a packet is lost. A TCP segment is then sent again.
    pub loss: f64,
    /// Losses that come in bursts, beside those by `loss`.
    pub burst: Option<BurstLoss>,
    /// Probability that a packet arrives a second time.
    pub duplicate: f64,
    /// Probability that a packet is held up, so that later ones overtake it.
    pub reorder: f64,
    /// The most by which a packet is held up when it is.
    pub reorder_delay: Duration,
    /// The largest IP packet in bytes. A larger datagram vanishes, as behind a router that fragments nothing. TCP
    /// connections learn of it when they are made, and cut their segments accordingly.
    pub mtu: u32,
    /// How much the link carries; `None`: any amount in no time.
    pub bandwidth: Option<Bandwidth>,
    /// Down times at random. Both directions of a link are down together.
    pub flaps: Option<Flaps>,
}

impl Default for LinkOptions {
    /// A quiet local network: 1 to 1.5 ms, nothing lost, 1,500 bytes.
    fn default() -> LinkOptions {
        LinkOptions {
            delay: Duration::from_millis(1),
            jitter: Duration::from_micros(500),
            distribution: Distribution::Uniform,
            loss: 0.0,
            burst: None,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_delay: Duration::from_millis(10),
            mtu: 1500,
            bandwidth: None,
            flaps: None,
        }
    }
}

impl LinkOptions {
    /// The link of a machine with itself: 10 to 20 µs, nothing lost, whatever size.
    pub fn loopback() -> LinkOptions {
        LinkOptions {
            delay: Duration::from_micros(10),
            jitter: Duration::from_micros(10),
            mtu: u32::MAX,
            ..LinkOptions::default()
        }
    }

    /// Draws the time of a packet from one end to the other.
    fn draw_delay(&self, prng: &mut Prng) -> Duration {
        if self.jitter.is_zero() {
            return self.delay;
        }
        self.delay + self.distribution.draw(self.jitter, prng)
    }

    /// Whether packets may get out of order unless the link sees to it.
    fn needs_flow(&self) -> bool {
        !self.jitter.is_zero() || self.burst.is_some() || self.bandwidth.is_some()
    }
}

/// How a link's jitter is spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Evenly between zero and the jitter.
    Uniform,
    /// A bell: the jitter is its middle, a third of it the standard deviation; nothing is outside of zero and twice the
    /// jitter.
    Normal,
    /// Mostly small with a long tail, as queues in the open internet make it: half of the packets get less than the
    /// jitter, one in ten more than 4 times, one in a hundred more than 10 times, none more than 50 times as much.
    LongTail,
    /// Quantiles at equal distances, the least and the greatest included, in thousandths of the jitter. In between it is
    /// interpolated.
    Table(&'static [u32]),
}

/// Quantiles of the normal distribution with middle 1 and standard deviation 1/3, in thousandths, 5 % apart.
const NORMAL: [u32; 21] = [
    0, 452, 573, 655, 719, 775, 825, 872, 916, 958, 1000, 1042, 1084, 1128, 1175, 1225, 1281, 1345,
    1427, 1548, 2000,
];
/// Quantiles of the body of the long tail, in thousandths, 10 % apart, up to the ninth tenth.
const TAIL_BODY: [u32; 10] = [0, 130, 290, 490, 720, 1000, 1370, 1850, 2560, 4000];
/// Quantiles of the last tenth, 1 % apart.
const TAIL_END: [u32; 11] = [
    4000, 4250, 4540, 4880, 5290, 5800, 6450, 7300, 8400, 10_000, 50_000,
];

impl Distribution {
    fn draw(self, jitter: Duration, prng: &mut Prng) -> Duration {
        let table: &[u32] = match self {
            Distribution::Uniform => return prng.up_to(jitter),
            Distribution::Normal => &NORMAL,
            Distribution::LongTail if prng.chance(0.9) => &TAIL_BODY,
            Distribution::LongTail => &TAIL_END,
            Distribution::Table(table) => table,
        };
        let thousandths = quantile(table, prng.next_u64());
        let nanos = jitter.as_nanos() * u128::from(thousandths) / 1000;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The value at a place, given as a fraction of 2^64, of a table of quantiles at equal distances.
fn quantile(table: &[u32], place: u64) -> u64 {
    let (Some(first), Some(last)) = (table.first(), table.last()) else {
        return 0;
    };
    let steps = table.len() as u128 - 1;
    if steps == 0 {
        return u64::from(*first);
    }
    let scaled = u128::from(place) * steps;
    let (index, fraction) = ((scaled >> 64) as usize, scaled as u64 >> 32);
    let low = i64::from(table[index]);
    let high = i64::from(*table.get(index + 1).unwrap_or(last));
    let between = (i128::from(high - low) * i128::from(fraction)) >> 32;
    (i128::from(low) + between).max(0) as u64
}

/// How much passes a bottleneck, and how much waits before it. What does not fit into the queue is lost (tail drop).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bytes of IP packets per second. 0 lets nothing through.
    pub bytes_per_second: u64,
    /// The most bytes that wait.
    pub queue_bytes: u32,
    /// The most packets that wait.
    pub queue_packets: u32,
}

impl Bandwidth {
    /// So many bytes per second, with a queue of 1,000 packets (Linux's default length) and 256 KiB.
    pub fn new(bytes_per_second: u64) -> Bandwidth {
        Bandwidth {
            bytes_per_second,
            queue_bytes: 256 * 1024,
            queue_packets: 1000,
        }
    }
}

/// Losses in bursts, in the model of Gilbert and Elliott: a link is in a good or in a bad state, and changes between them
/// with a probability at each packet. A link that has carried nothing for a second is good again: else a burst would
/// outlast the ever longer pauses between the retransmissions of a connection, and end it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BurstLoss {
    /// Probability, at each packet, that a good link turns bad.
    pub enter: f64,
    /// Probability, at each packet, that a bad link turns good: bursts are `1 / leave` packets long on average.
    pub leave: f64,
    /// Probability that a packet is lost while the link is bad.
    pub loss: f64,
}

/// A link that goes down and comes back at random. The times are drawn from the seed, exponentially distributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flaps {
    /// How long it is up on average.
    pub up: Duration,
    /// How long it is down on average.
    pub down: Duration,
}

/// How long a link that carries nothing stays in a burst of losses.
const BURST_MEMORY: Duration = Duration::from_secs(1);

/// Why a link lost a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkLoss {
    Chance,
    Burst,
    QueueFull,
}

/// When a packet arrives: once, or twice if it is duplicated.
pub(super) struct Plan {
    pub(super) at: Instant,
    pub(super) again_at: Option<Instant>,
}

/// What one direction of a link remembers of earlier packets.
#[derive(Default)]
pub(super) struct Flow {
    /// When the last packet arrives: the next one does not overtake it.
    last: Instant,
    /// Whether it is in a burst of losses, as of its last packet.
    is_bad: bool,
    last_sent: Instant,
    bottleneck: Option<Box<Bottleneck>>,
}

impl Flow {
    /// Whether it remembers nothing that matters any more.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let is_free = self
            .bottleneck
            .as_ref()
            .is_none_or(|bottleneck| bottleneck.free_at <= now);
        self.last <= now && !self.is_bad(now) && is_free
    }

    fn is_bad(&self, now: Instant) -> bool {
        self.is_bad && now < self.last_sent + BURST_MEMORY
    }
}

/// Decides what a link does to a packet of so many bytes. `flow` is only asked for if something has to be remembered.
pub(super) fn plan<'a>(
    options: &LinkOptions,
    flow: impl FnOnce() -> &'a mut Flow,
    size: usize,
    now: Instant,
    prng: &mut Prng,
) -> Result<Plan, LinkLoss> {
    if prng.chance(options.loss) {
        return Err(LinkLoss::Chance);
    }
    let mut flow = if options.needs_flow() {
        Some(flow())
    } else {
        None
    };
    let mut at = now;
    if let Some(flow) = &mut flow {
        if let Some(burst) = options.burst {
            let is_bad = flow.is_bad(now);
            let turns = if is_bad { burst.leave } else { burst.enter };
            flow.is_bad = is_bad ^ prng.chance(turns);
            flow.last_sent = now;
            if flow.is_bad && prng.chance(burst.loss) {
                return Err(LinkLoss::Burst);
            }
        }
        if let Some(bandwidth) = options.bandwidth {
            let bottleneck = flow.bottleneck.get_or_insert_default();
            at = bottleneck
                .admit(bandwidth, size, now)
                .ok_or(LinkLoss::QueueFull)?;
        }
    }
    at += options.draw_delay(prng);
    let mut again_at = None;
    if prng.chance(options.duplicate) {
        again_at = Some(at + prng.up_to(options.reorder_delay));
    }
    if prng.chance(options.reorder) {
        // Off the queue: what follows does not wait for it.
        at += prng.up_to(options.reorder_delay);
    } else if let Some(flow) = flow {
        flow.last = at.max(flow.last);
        at = flow.last;
    }
    Ok(Plan { at, again_at })
}

/// A place that packets pass one after another, and the queue before it.
#[derive(Default)]
pub(super) struct Bottleneck {
    /// When the last packet admitted has passed.
    free_at: Instant,
    /// When each packet that was admitted has passed, oldest first; those that are through are forgotten.
    passing: VecDeque<Instant>,
}

impl Bottleneck {
    /// When a packet has passed; `None` if the queue has no room for it.
    pub(super) fn admit(
        &mut self,
        bandwidth: Bandwidth,
        size: usize,
        now: Instant,
    ) -> Option<Instant> {
        while self.passing.front().is_some_and(|at| *at <= now) {
            self.passing.pop_front();
        }
        let Bandwidth {
            bytes_per_second,
            queue_bytes,
            queue_packets,
        } = bandwidth;
        if bytes_per_second == 0 {
            return None;
        }
        // The one that is passing does not wait any more.
        let waiting = self.passing.len().saturating_sub(1);
        let start = self.free_at.max(now);
        let ahead = u128::from(bytes_per_second) * start.saturating_duration_since(now).as_nanos()
            / 1_000_000_000;
        let is_free = self.passing.is_empty();
        let is_full =
            waiting >= queue_packets as usize || ahead + size as u128 > u128::from(queue_bytes);
        if is_full && !is_free {
            return None;
        }
        let nanos = size as u128 * 1_000_000_000 / u128::from(bytes_per_second);
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free_at = start + time;
        self.passing.push_back(self.free_at);
        Some(self.free_at)
    }
}

/// When a link is down: by a schedule, and at random.
pub(super) struct DownTimes {
    /// In order, from the start of the world on.
    schedule: Vec<Range<Instant>>,
    random: Option<Random>,
}

/// A process of random up and down times, followed as far as somebody has asked.
struct Random {
    flaps: Flaps,
    prng: Prng,
    is_down: bool,
    /// When the present time ends.
    until: Instant,
}

impl DownTimes {
    pub(super) fn new() -> DownTimes {
        DownTimes {
            schedule: Vec::new(),
            random: None,
        }
    }

    pub(super) fn set_schedule(&mut self, mut schedule: Vec<Range<Instant>>) {
        schedule.sort_by_key(|range| range.start);
        self.schedule = schedule;
    }

    /// Whether the link is down. `flaps` are those of the link's options, and `prng` gives a generator for them: always
    /// the same for the same link, so that what is sent has no say in when it is down.
    pub(super) fn is_down(
        &mut self,
        flaps: Option<Flaps>,
        now: Instant,
        prng: impl FnOnce() -> Prng,
    ) -> bool {
        if self.schedule.iter().any(|range| range.contains(&now)) {
            return true;
        }
        let Some(flaps) = flaps else {
            self.random = None;
            return false;
        };
        if self
            .random
            .as_ref()
            .is_none_or(|random| random.flaps != flaps)
        {
            let mut prng = prng();
            let until = now + exponential(flaps.up, &mut prng);
            self.random = Some(Random {
                flaps,
                prng,
                is_down: false,
                until,
            });
        }
        let random = self.random.as_mut().expect("set above");
        while random.until <= now {
            random.is_down = !random.is_down;
            let mean = if random.is_down { flaps.down } else { flaps.up };
            // A link that is never up or never down must not turn for ever at the same instant.
            let time = exponential(mean, &mut random.prng).max(Duration::from_micros(1));
            random.until += time;
        }
        random.is_down
    }
}

/// A time drawn from the exponential distribution, by a table of its quantiles: floating-point logarithms differ between
/// machines. At most 5 times the mean.
fn exponential(mean: Duration, prng: &mut Prng) -> Duration {
    /// In thousandths of the mean, 1/16 apart.
    const TABLE: [u32; 17] = [
        0, 65, 134, 208, 288, 375, 470, 575, 693, 827, 981, 1163, 1386, 1674, 2079, 2773, 5000,
    ];
    Distribution::Table(&TABLE).draw(mean, prng)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(distribution: Distribution) -> Vec<Duration> {
        let mut prng = Prng::new(1);
        let jitter = Duration::from_millis(1);
        let mut all: Vec<_> = (0..100_000)
            .map(|_| distribution.draw(jitter, &mut prng))
            .collect();
        all.sort_unstable();
        all
    }

    #[track_caller]
    fn check(distribution: Distribution, place: f64, want_us: std::ops::Range<u128>) {
        let all = drawn(distribution);
        let index = ((all.len() - 1) as f64 * place) as usize;
        let micros = all[index].as_micros();
        assert!(
            want_us.contains(&micros),
            "{distribution:?} at {place}: {micros} µs"
        );
    }

    #[test]
    fn jitter_has_the_shape_that_was_asked_for() {
        check(Distribution::Uniform, 0.5, 490..510);
        check(Distribution::Uniform, 1.0, 990..1001);
        check(Distribution::Normal, 0.5, 990..1010);
        check(Distribution::Normal, 0.16, 650..690);
        check(Distribution::Normal, 0.84, 1310..1350);
        check(Distribution::Normal, 1.0, 1950..2001);
        check(Distribution::LongTail, 0.5, 900..1100);
        check(Distribution::LongTail, 0.9, 3_800..4_200);
        check(Distribution::LongTail, 0.99, 9_000..12_500);
        check(Distribution::LongTail, 1.0, 40_000..50_001);
        check(Distribution::Table(&[500]), 0.5, 500..501);
        check(Distribution::Table(&[2000, 3000]), 0.25, 2230..2270);
        check(Distribution::Table(&[]), 1.0, 0..1);
    }

    #[test]
    fn down_times_have_their_means_and_do_not_depend_on_who_asks() {
        let flaps = Flaps {
            up: Duration::from_secs(9),
            down: Duration::from_secs(1),
        };
        let observe = |step: u64| {
            let mut times = DownTimes::new();
            let at = |tenth: u64| Instant::from_nanos(tenth * 100_000_000);
            (0..1_000_000 / step)
                .map(|i| times.is_down(Some(flaps), at(i * step), || Prng::new(7)))
                .collect::<Vec<bool>>()
        };
        let fine = observe(1);
        let down = fine.iter().filter(|down| **down).count();
        assert!((85_000..115_000).contains(&down), "{down}");
        let coarse = observe(10);
        assert!(fine.iter().step_by(10).eq(coarse.iter()));
    }
}
