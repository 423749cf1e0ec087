//! Lost peers that are to be dialled again, and when. What is dialled is the business of [`Network`](super::Network).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mischief_reactor::Instant;

use super::PeerId;
use super::backoff::ReconnectPolicy;
use super::chance::Chance;
use crate::connection::Endpoint;

/// Lost peers that are waited for at a time. Of more, the one that has been away longest is given up.
pub const RECONNECT_MAX: usize = 16 * 1024;

/// How far apart the attempts are begun after the network changed or the machine woke: many machines of one network notice
/// it at the same moment.
const WAKE_SPREAD: Duration = Duration::from_secs(1);

/// Why a peer is not waited for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaveUp {
    /// It was not reached in as many attempts, or in as long a time, as the policy allows.
    NotReached {
        /// Attempts that failed.
        attempts: u32,
    },
    /// It, or who is at its address now, does not want this node.
    Unwanted,
    /// Too many others are waited for.
    NoRoom,
    /// It was banned, forgotten or disconnected here.
    CalledOff,
}

impl GaveUp {
    /// The stable name for programs: part of the JSON interface.
    pub const fn kind(self) -> &'static str {
        match self {
            GaveUp::NotReached { .. } => "not_reached",
            GaveUp::Unwanted => "unwanted",
            GaveUp::NoRoom => "no_room",
            GaveUp::CalledOff => "called_off",
        }
    }
}

impl std::fmt::Display for GaveUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            GaveUp::NotReached { attempts } => write!(f, "not reached in {attempts} attempts"),
            GaveUp::Unwanted => f.write_str("it does not want this node"),
            GaveUp::NoRoom => f.write_str("too many other lost peers are waited for"),
            GaveUp::CalledOff => f.write_str("called off here"),
        }
    }
}

/// A lost peer, as the queue is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Who.
    pub peer: PeerId,
    /// Where it is dialled.
    pub endpoint: Endpoint,
    /// Attempts that failed.
    pub attempts: u32,
    /// How long until the next; `None` while one is under way.
    pub next_in: Option<Duration>,
    /// How long it has been away.
    pub away: Duration,
}

#[derive(Clone, Debug)]
struct Entry {
    endpoint: Endpoint,
    failed: u32,
    lost_at: Instant,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not connected; dialled at this time.
    Waits(Instant),
    /// An attempt is under way.
    Dialled,
    /// Connected again, and kept here until this time, when the connection will have proved good.
    Back(Instant),
}

/// All lost peers.
#[derive(Clone, Debug, Default)]
pub(super) struct ReconnectQueue {
    entries: BTreeMap<PeerId, Entry>,
    /// Those that wait, by their time.
    due: BTreeSet<(Instant, PeerId)>,
    /// Those that are back, by when their connections will have proved good.
    proving: BTreeSet<(Instant, PeerId)>,
}

impl ReconnectQueue {
    /// A peer is lost that had been connected for so long. Returns who is given up for it, if that is one too many.
    pub(super) fn lose(
        &mut self,
        now: Instant,
        peer: PeerId,
        endpoint: Endpoint,
        connected_for: Duration,
        policy: &ReconnectPolicy,
        chance: &mut Chance,
    ) -> Option<PeerId> {
        let is_stable = connected_for >= policy.stable_after;
        let earlier = self.take(&peer).filter(|_| !is_stable);
        let failed = earlier.as_ref().map_or(0, |earlier| earlier.failed);
        let entry = Entry {
            endpoint,
            failed,
            lost_at: earlier.map_or(now, |earlier| earlier.lost_at),
            state: State::Waits(now + chance.up_to(policy.bound(failed, is_stable))),
        };
        self.put(peer, entry);
        if self.entries.len() <= RECONNECT_MAX {
            return None;
        }
        let not_back = self
            .entries
            .iter()
            .filter(|(_, entry)| !matches!(entry.state, State::Back(_)));
        let (longest, _) = not_back.min_by_key(|(_, entry)| entry.lost_at)?;
        let longest = *longest;
        self.take(&longest);
        Some(longest)
    }

    /// A peer of the last run is to be dialled again, at a time within `within`.
    pub(super) fn resume(
        &mut self,
        now: Instant,
        peer: PeerId,
        endpoint: Endpoint,
        within: Duration,
        chance: &mut Chance,
    ) {
        if self.entries.contains_key(&peer) || self.entries.len() >= RECONNECT_MAX {
            return;
        }
        let entry = Entry {
            endpoint,
            failed: 0,
            lost_at: now,
            state: State::Waits(now + chance.up_to(within)),
        };
        self.put(peer, entry);
    }

    /// The peer whose time has come, and where to dial it. From now on it counts as being dialled.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(PeerId, Endpoint)> {
        let &(at, peer) = self.due.first()?;
        if at > now {
            return None;
        }
        self.due.remove(&(at, peer));
        let entry = self
            .entries
            .get_mut(&peer)
            .expect("whoever is due is there");
        entry.state = State::Dialled;
        Some((peer, entry.endpoint.clone()))
    }

    /// An attempt was not even begun, because there is too much to do here: it is made a little later.
    pub(super) fn put_off(
        &mut self,
        now: Instant,
        peer: &PeerId,
        policy: &ReconnectPolicy,
        chance: &mut Chance,
    ) {
        if let Some(mut entry) = self.take(peer) {
            let bound = policy.bound(entry.failed.max(1), false);
            entry.state = State::Waits(now + chance.up_to(bound) + Duration::from_millis(100));
            self.put(*peer, entry);
        }
    }

    /// An attempt has failed. `Some`: the peer is given up after so many.
    pub(super) fn fail(
        &mut self,
        now: Instant,
        peer: &PeerId,
        is_protected: bool,
        policy: &ReconnectPolicy,
        chance: &mut Chance,
    ) -> Option<u32> {
        let mut entry = self.take(peer)?;
        if matches!(entry.state, State::Back(_)) {
            self.put(*peer, entry);
            return None;
        }
        entry.failed = entry.failed.saturating_add(1);
        let away = now.saturating_duration_since(entry.lost_at);
        if policy.gives_up(entry.failed, away) && !is_protected {
            return Some(entry.failed);
        }
        entry.state = State::Waits(now + chance.up_to(policy.bound(entry.failed, false)));
        self.put(*peer, entry);
        None
    }

    /// A peer is connected. What is known of its attempts stays until the connection has proved good.
    pub(super) fn connected(&mut self, now: Instant, peer: &PeerId, policy: &ReconnectPolicy) {
        if let Some(mut entry) = self.take(peer) {
            entry.state = State::Back(now + policy.stable_after);
            self.put(*peer, entry);
        }
    }

    /// Forgets about connections that have proved good.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(at, peer)) = self.proving.first() {
            if at > now {
                break;
            }
            self.take(&peer);
        }
    }

    /// The network has changed or the machine has woken: everybody who waits is tried within a second, once.
    pub(super) fn hurry(&mut self, now: Instant, chance: &mut Chance) {
        let waiting = std::mem::take(&mut self.due);
        for (at, peer) in waiting {
            let soon = at.min(now + chance.up_to(WAKE_SPREAD));
            let entry = self
                .entries
                .get_mut(&peer)
                .expect("whoever is due is there");
            entry.state = State::Waits(soon);
            self.due.insert((soon, peer));
        }
    }

    /// A peer is not waited for any more. `false` if it was not, or is connected.
    pub(super) fn forget(&mut self, peer: &PeerId) -> bool {
        let entry = self.take(peer);
        entry.is_some_and(|entry| !matches!(entry.state, State::Back(_)))
    }

    /// Nobody is waited for any more. Who was.
    pub(super) fn clear(&mut self) -> Vec<PeerId> {
        let is_lost = |entry: &Entry| !matches!(entry.state, State::Back(_));
        let lost = self.entries.iter().filter(|(_, entry)| is_lost(entry));
        let lost: Vec<PeerId> = lost.map(|(peer, _)| *peer).collect();
        for peer in &lost {
            self.take(peer);
        }
        lost
    }

    /// Whether a peer is lost and waited for.
    pub(super) fn waits_for(&self, peer: &PeerId) -> bool {
        let entry = self.entries.get(peer);
        entry.is_some_and(|entry| !matches!(entry.state, State::Back(_)))
    }

    /// Where a lost peer is dialled.
    pub(super) fn endpoint(&self, peer: &PeerId) -> Option<&Endpoint> {
        self.entries.get(peer).map(|entry| &entry.endpoint)
    }

    /// The lost peers, soonest first.
    pub(super) fn list(&self, now: Instant) -> Vec<Waiting> {
        let lost = self.entries.iter().filter_map(|(peer, entry)| {
            let next_in = match entry.state {
                State::Waits(at) => Some(at.saturating_duration_since(now)),
                State::Dialled => None,
                State::Back(_) => return None,
            };
            Some(Waiting {
                peer: *peer,
                endpoint: entry.endpoint.clone(),
                attempts: entry.failed,
                next_in,
                away: now.saturating_duration_since(entry.lost_at),
            })
        });
        let mut list: Vec<Waiting> = lost.collect();
        list.sort_by_key(|waiting| (waiting.next_in, waiting.peer));
        list
    }

    /// When something is to be done: the next attempt, and the next connection that has proved good.
    pub(super) fn deadlines(&self) -> [Option<Instant>; 2] {
        [&self.due, &self.proving].map(|set| set.first().map(|(at, _)| *at))
    }

    fn put(&mut self, peer: PeerId, entry: Entry) {
        match entry.state {
            State::Waits(at) => drop(self.due.insert((at, peer))),
            State::Back(until) => drop(self.proving.insert((until, peer))),
            State::Dialled => {}
        }
        self.entries.insert(peer, entry);
    }

    fn take(&mut self, peer: &PeerId) -> Option<Entry> {
        let entry = self.entries.remove(peer)?;
        match entry.state {
            State::Waits(at) => drop(self.due.remove(&(at, *peer))),
            State::Back(until) => drop(self.proving.remove(&(until, *peer))),
            State::Dialled => {}
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::parse_addr;
    use crate::peers::Waits;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(1000 + seconds)
    }

    fn peer(n: u32) -> PeerId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        PeerId::from_bytes(bytes)
    }

    fn endpoint() -> Endpoint {
        parse_addr("192.0.2.1:9000").unwrap()
    }

    struct Queue {
        queue: ReconnectQueue,
        policy: ReconnectPolicy,
        chance: Chance,
    }

    impl Queue {
        fn new(policy: ReconnectPolicy) -> Queue {
            Queue {
                queue: ReconnectQueue::default(),
                policy,
                chance: Chance::new(7),
            }
        }

        fn lose(&mut self, now: Instant, n: u32, connected_for: u64) -> Option<PeerId> {
            let connected_for = Duration::from_secs(connected_for);
            self.queue.lose(
                now,
                peer(n),
                endpoint(),
                connected_for,
                &self.policy,
                &mut self.chance,
            )
        }

        fn fail(&mut self, now: Instant, n: u32) -> Option<u32> {
            self.queue
                .fail(now, &peer(n), false, &self.policy, &mut self.chance)
        }

        /// Lets time pass until the next attempt.
        fn next(&mut self) -> (Instant, PeerId) {
            let now = self.queue.deadlines()[0].unwrap();
            (now, self.queue.take_due(now).unwrap().0)
        }
    }

    #[test]
    fn attempts_go_on_until_the_policy_ends_them() {
        let mut queue = Queue::new(ReconnectPolicy::librats());
        queue.lose(at(0), 1, 3600);
        assert!(queue.queue.waits_for(&peer(1)));
        let (now, who) = queue.next();
        assert_eq!(who, peer(1));
        assert!(
            now <= at(1),
            "after a good connection the first attempt comes soon"
        );
        assert_eq!(queue.fail(now, 1), None);
        let (later, _) = queue.next();
        assert!(later <= now + Duration::from_secs(30));
        assert_eq!(queue.fail(later, 1), None);
        let (last, _) = queue.next();
        assert_eq!(queue.fail(last, 1), Some(3));
        assert!(!queue.queue.waits_for(&peer(1)));
        assert_eq!(queue.queue.deadlines(), [None; 2]);
    }

    #[test]
    fn a_short_connection_does_not_begin_the_count_anew() {
        let mut queue = Queue::new(ReconnectPolicy::librats());
        queue.lose(at(0), 1, 3600);
        for round in 0..3 {
            let (now, _) = queue.next();
            assert_eq!(queue.fail(now, 1), (round == 2).then_some(3));
            if round < 2 {
                let policy = queue.policy;
                queue.queue.connected(now, &peer(1), &policy);
                assert!(!queue.queue.waits_for(&peer(1)));
                queue.lose(now + Duration::from_secs(5), 1, 5);
            }
        }
        // A good one does.
        queue.lose(at(5000), 1, 60);
        assert_eq!(queue.queue.list(at(5000))[0].attempts, 0);
        let policy = queue.policy;
        queue.queue.connected(at(5001), &peer(1), &policy);
        assert_eq!(queue.queue.deadlines(), [None, Some(at(5061))]);
        queue.queue.expire(at(5061));
        assert_eq!(queue.queue.deadlines(), [None; 2]);
        assert!(queue.queue.entries.is_empty());
    }

    #[test]
    fn waits_are_spread_evenly_and_not_alike() {
        let mut queue = Queue::new(ReconnectPolicy {
            waits: Waits::Doubling {
                first: Duration::from_secs(1),
                max: Duration::from_secs(300),
            },
            ..ReconnectPolicy::default()
        });
        for n in 0..1000 {
            queue.lose(at(0), n, 5);
            queue.queue.take_due(at(2));
            queue.fail(at(2), n);
        }
        // The bound of the second attempt is two seconds.
        let mut tenths = [0; 20];
        for waiting in queue.queue.list(at(2)) {
            let next = waiting.next_in.unwrap();
            tenths[(next.as_millis() as usize / 100).min(19)] += 1;
        }
        assert!(
            tenths.iter().all(|&count| (25..=80).contains(&count)),
            "{tenths:?}"
        );
    }

    #[test]
    fn a_change_of_the_network_hurries_everybody_once() {
        let mut queue = Queue::new(ReconnectPolicy::default());
        let policy = queue.policy;
        for n in 0..100 {
            queue.lose(at(0), n, 5);
        }
        for _ in 0..800 {
            let (now, who) = queue.next();
            queue
                .queue
                .fail(now, &who, false, &policy, &mut queue.chance);
        }
        let now = queue.queue.deadlines()[0].unwrap();
        queue.queue.hurry(now, &mut queue.chance);
        let list = queue.queue.list(now);
        assert!(
            list.iter()
                .all(|waiting| waiting.next_in.unwrap() <= WAKE_SPREAD)
        );
        let attempts: u32 = list.iter().map(|waiting| waiting.attempts).sum();
        assert_eq!(attempts, 800, "it is no failure");
        let later = now + WAKE_SPREAD;
        while let Some((who, _)) = queue.queue.take_due(later) {
            queue
                .queue
                .fail(later, &who, false, &policy, &mut queue.chance);
        }
        let list = queue.queue.list(later);
        let soon = list
            .iter()
            .filter(|waiting| waiting.next_in.unwrap() < Duration::from_secs(2));
        let soon = soon.count();
        assert!(soon < 25, "then they wait as before: {soon}");
    }

    #[test]
    fn a_protected_peer_is_never_given_up() {
        let mut queue = Queue::new(ReconnectPolicy::librats());
        queue.lose(at(0), 1, 5);
        for _ in 0..100 {
            let (now, _) = queue.next();
            let policy = queue.policy;
            assert_eq!(
                queue
                    .queue
                    .fail(now, &peer(1), true, &policy, &mut queue.chance),
                None
            );
        }
    }

    #[test]
    fn at_the_limit_the_longest_away_is_given_up() {
        let mut queue = Queue::new(ReconnectPolicy::default());
        for n in 0..RECONNECT_MAX as u32 {
            assert_eq!(queue.lose(at(u64::from(n)), n, 5), None);
        }
        assert_eq!(queue.lose(at(20_000), 99_999, 5), Some(peer(0)));
        assert_eq!(queue.queue.entries.len(), RECONNECT_MAX);
        assert_eq!(queue.queue.clear().len(), RECONNECT_MAX);
        assert_eq!(queue.queue.deadlines(), [None; 2]);
    }
}
