//! What others have said on one link, for as long as they said that it holds.

use std::time::Duration;

use mischief_reactor::Instant;

use super::jitter::Jitter;
use super::limits::{
    CACHE_BYTES_MAX, CACHE_RECORDS_MAX, FAILURE_DELAY, GOODBYE_DELAY, INSTANCES_MAX,
    RECORDS_PER_NAME_MAX, SAME_QUERY, TTL_OTHER,
};
use super::map::Map;
use super::name::Name;
use super::record::{Kind, Record};

/// At which parts of its time a record is asked for again (RFC 6762 §5.2), in per cent.
const REFRESH_STEPS: [u32; 4] = [80, 85, 90, 95];
/// The jitter of each, in per cent of the time.
const REFRESH_JITTER: u64 = 2;

/// A record and its time.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) record: Record,
    /// When it was last heard.
    received: Instant,
    pub(crate) expires: Instant,
    /// Refreshes that have been asked for.
    step: u8,
    refresh_at: Option<Instant>,
    /// Heard twice, a second or more apart. Such a record is not thrown out for a new one.
    is_proven: bool,
    /// Its time is over, but nothing speaks against it and it is not asked for.
    pub(crate) is_stale: bool,
    /// It was taken back or flushed, and goes when its second is over.
    is_withdrawn: bool,
    /// Queries that it should have answered: the last one, and when it counts as dead if there were two.
    unanswered: Option<(Instant, Option<Instant>)>,
}

impl Entry {
    /// Whether at least half of its time is left: only then is it a known answer (RFC 6762 §7.1).
    pub(crate) fn is_half_left(&self, now: Instant) -> bool {
        let ttl = Duration::from_secs(u64::from(self.record.ttl));
        !self.is_stale
            && !self.is_withdrawn
            && self.expires.saturating_duration_since(now) * 2 >= ttl
    }

    /// Whole seconds that are left.
    pub(crate) fn ttl_left(&self, now: Instant) -> u32 {
        let left = self.expires.saturating_duration_since(now).as_secs();
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    fn size(&self) -> usize {
        size_of::<Entry>() + self.record.name.as_wire().len() + self.record.data.heap_bytes()
    }

    /// When something has to be done about it.
    fn due(&self) -> Option<Instant> {
        if self.is_stale {
            return None;
        }
        let dead = self.unanswered.and_then(|(_, dead)| dead);
        [Some(self.expires), self.refresh_at, dead]
            .into_iter()
            .flatten()
            .min()
    }

    fn plan_refresh(&mut self, jitter: &mut Jitter) {
        let ttl = u64::from(self.record.ttl) * 1000;
        self.refresh_at = REFRESH_STEPS.get(usize::from(self.step)).map(|percent| {
            let part = ttl * u64::from(*percent) / 100;
            let extra = jitter.below(ttl * REFRESH_JITTER / 100 + 1);
            self.received + Duration::from_millis(part + extra)
        });
    }
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    New,
    /// It was known and lives on.
    Known,
    /// There is no room.
    Refused,
}

/// What a look at the clock has brought.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// Records that are gone.
    pub(crate) gone: Vec<Record>,
    /// What is to be asked again.
    pub(crate) refresh: Vec<(Name, Kind)>,
}

/// The records of one link.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    records: Map<(Name, Kind), Vec<Entry>>,
    count: usize,
    bytes: usize,
    /// Not later than anything is due.
    earliest: Option<Instant>,
    /// What was thrown out since [`Cache::take_evicted`].
    evicted: Vec<Record>,
}

impl Cache {
    pub(crate) fn get(&self, name: &Name, kind: Kind) -> &[Entry] {
        let key = (name.clone(), kind);
        self.records.get(&key).map_or(&[], |entries| entries)
    }

    /// Whether this very record is there.
    pub(crate) fn has(&self, record: &Record) -> bool {
        let mut entries = self.get(&record.name, record.data.kind()).iter();
        entries.any(|entry| entry.record.data == record.data)
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.earliest
    }

    /// Takes a record that is not a goodbye.
    pub(crate) fn insert(
        &mut self,
        now: Instant,
        mut record: Record,
        jitter: &mut Jitter,
    ) -> Taken {
        record.ttl = record.ttl.min(TTL_OTHER);
        let expires = now + Duration::from_secs(u64::from(record.ttl));
        let key = (record.name.clone(), record.data.kind());
        let known = self.records.get_mut(&key).and_then(|entries| {
            entries
                .iter_mut()
                .find(|entry| entry.record.data == record.data)
        });
        if let Some(entry) = known {
            let age = now.saturating_duration_since(entry.received);
            entry.is_proven |= age >= GOODBYE_DELAY;
            (entry.received, entry.expires) = (now, expires);
            (entry.step, entry.is_stale, entry.unanswered) = (0, false, None);
            entry.is_withdrawn = false;
            entry.record.ttl = record.ttl;
            entry.plan_refresh(jitter);
            let due = entry.due();
            self.note(due);
            return Taken::Known;
        }
        let mut entry = Entry {
            record,
            received: now,
            expires,
            step: 0,
            refresh_at: None,
            is_proven: false,
            is_stale: false,
            is_withdrawn: false,
            unanswered: None,
        };
        entry.plan_refresh(jitter);
        if !self.make_room(&key, entry.size(), jitter) {
            return Taken::Refused;
        }
        self.count += 1;
        self.bytes += entry.size();
        let due = entry.due();
        self.note(due);
        self.records.get_or_insert_with(key, Vec::new).push(entry);
        Taken::New
    }

    fn note(&mut self, due: Option<Instant>) {
        self.earliest = [self.earliest, due].into_iter().flatten().min();
    }

    fn make_room(&mut self, key: &(Name, Kind), size: usize, jitter: &mut Jitter) -> bool {
        let same = self.records.get(key).map_or(0, Vec::len);
        if key.1 != Kind::PTR && same >= RECORDS_PER_NAME_MAX {
            return false;
        }
        if same >= INSTANCES_MAX && !self.evict(Some(key), jitter) {
            return false;
        }
        while self.count >= CACHE_RECORDS_MAX || self.bytes + size > CACHE_BYTES_MAX {
            if !self.evict(None, jitter) {
                return false;
            }
        }
        true
    }

    /// What has been thrown out to make room.
    pub(crate) fn take_evicted(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.evicted)
    }

    /// Throws out one record that was heard once only, chosen by chance: whoever floods cannot choose which. What depends on
    /// it is dropped by the caller.
    fn evict(&mut self, within: Option<&(Name, Kind)>, jitter: &mut Jitter) -> bool {
        let unproven = |entries: &[Entry]| entries.iter().filter(|entry| !entry.is_proven).count();
        let key = match within {
            Some(key) => Some(key.clone()),
            // A pointer takes an instance with all its records along; without one, whatever there is.
            None => {
                let lists = self.records.iter();
                let lists =
                    lists.map(|(key, entries)| ((key.1 == Kind::PTR, unproven(entries)), key));
                let most = lists
                    .filter(|((_, count), _)| *count > 0)
                    .max_by_key(|(rank, _)| *rank);
                most.map(|(_, key)| key.clone())
            }
        };
        let Some(entries) = key.as_ref().and_then(|key| self.records.get(key)) else {
            return false;
        };
        let chosen = jitter.below(unproven(entries) as u64) as usize;
        let candidates = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| !entry.is_proven);
        let index = candidates.map(|(index, _)| index).nth(chosen);
        let (Some(key), Some(index)) = (key, index) else {
            return false;
        };
        let taken = self.take(&key, |at, _| at == index);
        self.evicted.extend(taken);
        true
    }

    /// Takes out the records of a key that `is_taken` names.
    fn take(
        &mut self,
        key: &(Name, Kind),
        is_taken: impl Fn(usize, &Entry) -> bool,
    ) -> Vec<Record> {
        let Some(entries) = self.records.get_mut(key) else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        let mut at = 0;
        entries.retain(|entry| {
            let is_taken = is_taken(at, entry);
            at += 1;
            if is_taken {
                self.count -= 1;
                self.bytes -= entry.size();
                taken.push(entry.record.clone());
            }
            !is_taken
        });
        if entries.is_empty() {
            self.records.remove(key);
        }
        taken
    }

    /// Forgets all records of a name and type.
    pub(crate) fn remove(&mut self, name: &Name, kind: Kind) {
        self.take(&(name.clone(), kind), |_, _| true);
    }

    /// Forgets one record.
    pub(crate) fn remove_record(&mut self, record: &Record) {
        let key = (record.name.clone(), record.data.kind());
        self.take(&key, |_, entry| entry.record.data == record.data);
    }

    /// Somebody takes a record back: it goes in a second, in case somebody else still has it (RFC 6762 §10.1). Whether it
    /// was known.
    pub(crate) fn goodbye(&mut self, now: Instant, record: &Record) -> bool {
        let key = (record.name.clone(), record.data.kind());
        let mut is_known = false;
        let entries = self.records.get_mut(&key).into_iter().flatten();
        for entry in entries.filter(|entry| entry.record.data == record.data) {
            entry.expires = entry.expires.min(now + GOODBYE_DELAY);
            (entry.refresh_at, entry.is_stale, entry.is_withdrawn) = (None, false, true);
            is_known = true;
        }
        if is_known {
            self.note(Some(now + GOODBYE_DELAY));
        }
        is_known
    }

    /// A unique record has come: others of its name and type that are older than a second go (RFC 6762 §10.2).
    pub(crate) fn flush(&mut self, now: Instant, name: &Name, kind: Kind) {
        let entries = self.records.get_mut(&(name.clone(), kind));
        let mut is_flushed = false;
        for entry in entries.into_iter().flatten() {
            if now.saturating_duration_since(entry.received) > GOODBYE_DELAY {
                entry.expires = (now + GOODBYE_DELAY).min(entry.expires.max(now));
                (entry.refresh_at, entry.is_stale, entry.is_withdrawn) = (None, false, true);
                is_flushed = true;
            }
        }
        if is_flushed {
            self.note(Some(now + GOODBYE_DELAY));
        }
    }

    /// Somebody asks for records of this name and type, and does not know all of them: those have to be heard soon
    /// (RFC 6762 §10.5).
    pub(crate) fn expect_answer(
        &mut self,
        now: Instant,
        name: &Name,
        kind: Kind,
        is_known: impl Fn(&Record) -> bool,
    ) {
        let mut due = None;
        for entry in self
            .records
            .get_mut(&(name.clone(), kind))
            .into_iter()
            .flatten()
        {
            if entry.is_stale || is_known(&entry.record) {
                continue;
            }
            entry.unanswered = match entry.unanswered {
                None => Some((now, None)),
                Some((last, None)) if now.saturating_duration_since(last) >= SAME_QUERY => {
                    Some((now, Some(now + FAILURE_DELAY)))
                }
                other => other,
            };
            due = [due, entry.unanswered.and_then(|(_, dead)| dead)]
                .into_iter()
                .flatten()
                .min();
        }
        if due.is_some() {
            self.note(due);
        }
    }

    /// What is over and what is to be refreshed. `is_refreshed` says what somebody wants to stay, `is_kept` what stays as
    /// stale when its time is over without anybody having taken it back.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        jitter: &mut Jitter,
        is_refreshed: impl Fn(&Name, Kind) -> bool,
        is_kept: impl Fn(&Name, Kind) -> bool,
    ) -> Due {
        let mut due = Due::default();
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return due;
        }
        self.earliest = None;
        let mut earliest: Option<Instant> = None;
        let (mut count, mut bytes) = (0, 0);
        self.records.retain(|(name, kind), entries| {
            let mut wants_refresh = false;
            entries.retain_mut(|entry| {
                let dead = entry.unanswered.and_then(|(_, dead)| dead);
                let is_over = !entry.is_stale && entry.expires <= now;
                let is_gone = is_over && (entry.is_withdrawn || !is_kept(name, *kind));
                if is_gone || dead.is_some_and(|dead| dead <= now) {
                    due.gone.push(entry.record.clone());
                    return false;
                }
                entry.is_stale |= is_over;
                if !entry.is_stale && entry.refresh_at.is_some_and(|at| at <= now) {
                    wants_refresh |= is_refreshed(name, *kind);
                    entry.step += 1;
                    entry.plan_refresh(jitter);
                }
                earliest = [earliest, entry.due()].into_iter().flatten().min();
                count += 1;
                bytes += entry.size();
                true
            });
            if wants_refresh {
                due.refresh.push((name.clone(), *kind));
            }
            !entries.is_empty()
        });
        (self.count, self.bytes, self.earliest) = (count, bytes, earliest);
        due
    }
}
