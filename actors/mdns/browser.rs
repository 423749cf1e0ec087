//! Questions of our own, and what becomes of what others say (RFC 6762 §5, §7, §10; RFC 6763 §4, §9).

use std::net::IpAddr;

use mischief_reactor::Instant;

use super::cache::Taken;
use super::limits::{
    ADDRS_MAX, ASKS_MAX, FAILURE_DELAY, QUERY_GAP, QUERY_INTERVAL, QUERY_INTERVAL_MAX,
    RESOLVE_TRIES, SHARED_DELAY,
};
use super::link::{Ask, Instance, Link, Part};
use super::machine::{Interest, Mdns, MdnsEvent};
use super::map::sorted;
use super::name::Name;
use super::record::{Data, Kind, Packet, Question, Record};
use super::service::{Found, ServiceType, Txt};

/// Questions in one packet at most; others follow in the next.
const QUESTIONS_A_PACKET: usize = 24;

impl Mdns {
    // What is wanted.

    /// The name and type that an interest asks for all the time.
    fn asked(&self, interest: &Interest) -> (Name, Kind) {
        match interest {
            Interest::Type(service_type) => (service_type.name().clone(), Kind::PTR),
            Interest::Instance(name) => (name.clone(), Kind::SRV),
            Interest::Types => (self.all_types.clone(), Kind::PTR),
        }
    }

    fn is_browsed(&self, name: &Name) -> bool {
        let mut interests = self.interests.values();
        interests.any(|interest| match interest {
            Interest::Type(service_type) => service_type.name() == name,
            Interest::Types => self.all_types == *name,
            Interest::Instance(_) => false,
        })
    }

    fn is_followed(&self, instance: &Name) -> bool {
        let mut interests = self.interests.values();
        interests.any(|interest| matches!(interest, Interest::Instance(name) if name == instance))
    }

    /// Instances that are followed by name are there from the start, found or not.
    pub(crate) fn add_instances(&mut self, index: u32) {
        let interests = self.interests.values();
        let names: Vec<Name> = interests
            .filter_map(|interest| match interest {
                Interest::Instance(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        if let Some(link) = self.links.get_mut(&index) {
            for name in names {
                link.instances.get_or_insert_with(name, Instance::default);
            }
        }
    }

    pub(crate) fn start_asking_all(&mut self, now: Instant, index: u32) {
        let asked: Vec<_> = self
            .interests
            .values()
            .map(|interest| self.asked(interest))
            .collect();
        let at = now + self.jitter.between(SHARED_DELAY);
        if let Some(link) = self.links.get_mut(&index) {
            for (name, kind) in asked {
                link.asks.remove(&(name.clone(), kind));
                link.ask(name, kind, at, None);
            }
        }
    }

    pub(crate) fn start_interest(&mut self, now: Instant, interest: &Interest) {
        let (name, kind) = self.asked(interest);
        let at = now + self.jitter.between(SHARED_DELAY);
        for link in self.links.values_mut() {
            if let Interest::Instance(name) = interest {
                link.instances
                    .get_or_insert_with(name.clone(), Instance::default);
                link.ask(name.clone(), Kind::TXT, at, Some(RESOLVE_TRIES));
            }
            link.asks.remove(&(name.clone(), kind));
            link.ask(name.clone(), kind, at, None);
        }
    }

    /// Tells a new interest what older ones have found.
    pub(crate) fn tell_known(&mut self, interest: &Interest) {
        for link in self.links.values() {
            if *interest == Interest::Types {
                for entry in link.cache.get(&self.all_types, Kind::PTR) {
                    let event = type_found(&entry.record, link.info.index);
                    self.events.extend(event);
                }
            }
            for (name, instance) in link.instances.iter() {
                let is_meant = match interest {
                    Interest::Type(service_type) => {
                        name.parent().as_ref() == Some(service_type.name())
                    }
                    Interest::Instance(other) => other == name,
                    Interest::Types => false,
                };
                if let Some(found) = instance.found.clone().filter(|_| is_meant) {
                    self.events.push_back(MdnsEvent::Found(found));
                }
            }
        }
    }

    pub(crate) fn end_interest(&mut self, interest: &Interest) {
        let (asked, kind) = self.asked(interest);
        let all: Vec<u32> = self.links.keys().copied().collect();
        for index in all {
            let Some(link) = self.links.get_mut(&index) else {
                continue;
            };
            link.asks.remove(&(asked.clone(), kind));
            if kind == Kind::PTR {
                link.cache.remove(&asked, Kind::PTR);
            }
            let names: Vec<Name> = link.instances.keys().cloned().collect();
            for name in names {
                if !self.is_wanted(index, &name) {
                    self.forget_instance(index, &name);
                }
            }
        }
    }

    /// Whether somebody follows the instance, or a type that is browsed points to it.
    fn is_wanted(&self, index: u32, name: &Name) -> bool {
        if self.is_followed(name) {
            return true;
        }
        let (Some(link), Some(parent)) = (self.links.get(&index), name.parent()) else {
            return false;
        };
        let pointers = link.cache.get(&parent, Kind::PTR).iter();
        let is_it = |record: &Record| matches!(&record.data, Data::Ptr(target) if target == name);
        pointers.map(|entry| &entry.record).any(is_it)
    }

    /// Drops an instance with everything that is known of it. What had been found of it.
    fn forget_instance(&mut self, index: u32, name: &Name) -> Option<Found> {
        let link = self.links.get_mut(&index)?;
        let instance = link.instances.remove(name)?;
        for kind in [Kind::SRV, Kind::TXT] {
            link.cache.remove(name, kind);
            link.asks.remove(&(name.clone(), kind));
        }
        link.set_host(&instance.host, None);
        instance.found
    }

    fn lose(&mut self, index: u32, name: &Name) {
        if let Some(found) = self.forget_instance(index, name) {
            self.events.push_back(MdnsEvent::Lost {
                instance: found.instance,
                service_type: found.service_type,
                interface: index,
            });
        }
    }

    /// An interface has gone, and with it all that was found on it.
    pub(crate) fn forget_link(&mut self, index: u32) {
        let link = self.links.get(&index);
        let names: Vec<Name> =
            link.map_or_else(Vec::new, |link| link.instances.keys().cloned().collect());
        for name in names {
            self.lose(index, &name);
        }
        self.links.remove(&index);
    }

    pub(crate) fn start_verify(&mut self, now: Instant, name: &Name) -> bool {
        let mut is_known = false;
        for link in self.links.values_mut() {
            if let Some(instance) = link.instances.get_mut(name) {
                instance.verify.get_or_insert(now + FAILURE_DELAY);
                link.ask(name.clone(), Kind::SRV, now, Some(RESOLVE_TRIES));
                is_known = true;
            }
        }
        is_known
    }

    // What others say.

    /// A response, from the link.
    pub(crate) fn handle_response(
        &mut self,
        now: Instant,
        index: u32,
        from: IpAddr,
        packet: Packet,
    ) {
        let records = || packet.answers.iter().chain(&packet.additionals);
        for record in records() {
            self.check_conflict(now, index, record);
            self.handle_own_record_of_others(now, index, record);
        }
        let mut touched: Vec<Name> = Vec::new();
        // What is pointed to is of interest only after what points to it.
        for kinds in [
            &[Kind::PTR][..],
            &[Kind::SRV, Kind::TXT],
            &[Kind::A, Kind::AAAA],
        ] {
            for record in records().filter(|record| kinds.contains(&record.data.kind())) {
                self.take_record(now, index, from, record, &mut touched);
            }
        }
        for record in records() {
            if let Data::Nsec { kinds, .. } = &record.data
                && let Some(link) = self.links.get_mut(&index)
            {
                // RFC 6762 §6.1: what does not exist need not be asked for again.
                let is_missing = |kind: Kind| !kinds.contains(&kind);
                link.asks.retain(|(name, kind), ask| {
                    ask.left.is_none() || *name != record.name || !is_missing(*kind)
                });
            }
        }
        for name in sorted(touched) {
            self.evaluate(now, index, &name);
        }
    }

    /// Keeps a record if somebody wants it.
    fn take_record(
        &mut self,
        now: Instant,
        index: u32,
        from: IpAddr,
        record: &Record,
        touched: &mut Vec<Name>,
    ) {
        let Some(link) = self.links.get(&index) else {
            return;
        };
        let is_relevant = match &record.data {
            Data::Ptr(target) => {
                self.is_browsed(&record.name)
                    && !self.services.values().any(|own| own.name == *target)
                    && (target.parent().as_ref() == Some(&record.name)
                        || record.name == self.all_types)
            }
            Data::Srv { .. } | Data::Txt(_) => link.instances.contains_key(&record.name),
            _ => link.hosts.contains_key(&record.name),
        };
        if !is_relevant {
            return;
        }
        let is_known = link.cache.has(record);
        if record.ttl > 0 && !is_known && !self.spend(now, from) {
            return;
        }
        let Some(link) = self.links.get_mut(&index) else {
            return;
        };
        if record.ttl == 0 {
            link.cache.goodbye(now, record);
            return;
        }
        let taken = link.cache.insert(now, record.clone(), &mut self.jitter);
        let evicted = link.cache.take_evicted();
        for record in evicted {
            // An instance goes with what vouched for it.
            if let Data::Ptr(target) = &record.data
                && !self.is_wanted(index, target)
            {
                self.lose(index, target);
            }
        }
        if taken == Taken::Refused {
            self.stats.refused = self.stats.refused.wrapping_add(1);
            return;
        }
        let Some(link) = self.links.get_mut(&index) else {
            return;
        };
        match &record.data {
            Data::Ptr(_) if record.name == self.all_types => {
                if !is_known {
                    self.events.extend(type_found(record, index));
                }
                return;
            }
            Data::Ptr(target) => {
                link.asks_answered(&record.name, Kind::PTR);
                link.instances
                    .get_or_insert_with(target.clone(), Instance::default);
                touched.push(target.clone());
                return;
            }
            Data::Srv { host, .. } => {
                link.asks_answered(&record.name, Kind::SRV);
                let host = Some(host.clone());
                if let Some(instance) = link.instances.get_mut(&record.name) {
                    instance.verify = None;
                    let old = std::mem::replace(&mut instance.host, host.clone());
                    link.set_host(&old, host);
                }
                touched.push(record.name.clone());
            }
            Data::Txt(_) => {
                link.asks_answered(&record.name, Kind::TXT);
                touched.push(record.name.clone());
            }
            data => {
                link.asks_answered(&record.name, data.kind());
                let instances = link.instances.iter();
                let on_host =
                    instances.filter(|(_, instance)| instance.host.as_ref() == Some(&record.name));
                touched.extend(on_host.map(|(name, _)| name.clone()));
            }
        }
        // A pointer is shared, and whoever sets the bit on one must not make us forget the others.
        if record.is_flush {
            link.cache.flush(now, &record.name, record.data.kind());
        }
    }

    /// Tells what is new about an instance, or asks for what is missing.
    fn evaluate(&mut self, now: Instant, index: u32, name: &Name) {
        let is_followed = self.is_followed(name);
        let at = now + self.jitter.between(SHARED_DELAY);
        let Some(link) = self.links.get_mut(&index) else {
            return;
        };
        let Some(instance) = link.instances.get(name) else {
            return;
        };
        let Some(found) = link.look_up(name) else {
            let has = |name: &Name, kind| !link.cache.get(name, kind).is_empty();
            let mut missing = Vec::new();
            for kind in [Kind::SRV, Kind::TXT] {
                if !has(name, kind) {
                    missing.push((name.clone(), kind));
                }
            }
            if let Some(host) = instance.host.clone()
                && !has(&host, Kind::A)
                && !has(&host, Kind::AAAA)
            {
                missing.push((host.clone(), Kind::A));
                missing.push((host, Kind::AAAA));
            }
            for (name, kind) in missing {
                link.ask(name, kind, at, Some(RESOLVE_TRIES));
            }
            return;
        };
        let old = instance.found.clone();
        if old.as_ref() == Some(&found) || !(is_followed || self.is_wanted(index, name)) {
            return;
        }
        if let Some(link) = self.links.get_mut(&index)
            && let Some(instance) = link.instances.get_mut(name)
        {
            instance.found = Some(found.clone());
        }
        self.events.push_back(match old {
            None => MdnsEvent::Found(found),
            Some(_) => MdnsEvent::Updated(found),
        });
    }

    /// Somebody else asks. If it is what we would ask next, its answers do for us (RFC 6762 §7.3); and what should answer
    /// it and does not is dead (§10.5).
    pub(crate) fn handle_foreign_question(
        &mut self,
        now: Instant,
        index: u32,
        from: IpAddr,
        packet: &Packet,
    ) {
        let own = self.own_pointers(index);
        let Some(link) = self.links.get_mut(&index) else {
            return;
        };
        // Nobody answers a question of his own.
        let is_of_asker = |instance: &Instance| {
            let found = instance.found.as_ref();
            found.is_some_and(|found| found.addrs.contains(&from))
        };
        let instances = link.instances.iter();
        let of_asker: Vec<Name> = instances
            .filter(|(_, instance)| is_of_asker(instance))
            .map(|(name, _)| name.clone())
            .collect();
        for question in &packet.questions {
            let known = || {
                packet
                    .answers
                    .iter()
                    .filter(|record| record.name == question.name)
            };
            let key = (question.name.clone(), question.kind);
            let is_known_here = |record: &Record| {
                let mut entries = link.cache.get(&record.name, record.data.kind()).iter();
                entries.any(|entry| entry.record.data == record.data && entry.is_half_left(now))
                    || own.iter().any(|own| own.is_same(record))
            };
            // RFC 6762 §7.3 speaks of questions whose answers all get; a list that goes on is not known.
            if !question.wants_unicast
                && !packet.is_truncated
                && known().all(is_known_here)
                && let Some(ask) = link.asks.get_mut(&key)
            {
                ask.at = now + ask.interval;
                ask.interval = (ask.interval * 2).min(QUERY_INTERVAL_MAX);
                ask.is_repeated = true;
            }
            if !packet.is_truncated {
                let is_known = |record: &Record| {
                    known().any(|other| other.data == record.data)
                        || matches!(&record.data, Data::Ptr(target) if of_asker.contains(target))
                        || of_asker.contains(&record.name)
                };
                for kind in [Kind::PTR, Kind::SRV, Kind::TXT, Kind::A, Kind::AAAA] {
                    if question.kind.covers(kind) {
                        link.cache
                            .expect_answer(now, &question.name, kind, is_known);
                    }
                }
            }
        }
    }

    // The clock.

    /// Drops what is over and plans to ask for what will be.
    pub(crate) fn expire(&mut self, now: Instant, index: u32) {
        let browsed: Vec<Name> = self
            .interests
            .values()
            .filter(|interest| !matches!(interest, Interest::Instance(_)))
            .map(|interest| self.asked(interest).0)
            .collect();
        let interests = self.interests.values();
        let followed: Vec<Name> = interests
            .filter_map(|interest| match interest {
                Interest::Instance(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        let Some(link) = self.links.get_mut(&index) else {
            return;
        };
        let instances = link.instances.iter();
        let followed_hosts: Vec<Name> = instances
            .filter(|(name, _)| followed.contains(name))
            .filter_map(|(_, instance)| instance.host.clone())
            .collect();
        let is_followed = |name: &Name| followed.contains(name) || followed_hosts.contains(name);
        let due = link.cache.handle_timeout(
            now,
            &mut self.jitter,
            |name, kind| match kind {
                Kind::PTR => browsed.contains(name),
                _ => is_followed(name),
            },
            // An instance that its pointer still vouches for keeps the details that were found.
            |name, kind| kind != Kind::PTR && !is_followed(name),
        );
        for (name, kind) in due.refresh {
            link.ask(name, kind, now, Some(1));
        }
        let verified = link.instances.iter();
        let mut lost: Vec<Name> = verified
            .filter(|(_, instance)| instance.verify.is_some_and(|at| at <= now))
            .map(|(name, _)| name.clone())
            .collect();
        let mut touched = Vec::new();
        for record in &due.gone {
            match &record.data {
                Data::Ptr(target) => lost.push(target.clone()),
                Data::Srv { .. } if link.cache.get(&record.name, Kind::SRV).is_empty() => {
                    lost.push(record.name.clone());
                }
                Data::Srv { .. } | Data::Txt(_) => touched.push(record.name.clone()),
                _ => {
                    let instances = link.instances.iter();
                    let on_host =
                        instances.filter(|(_, one)| one.host.as_ref() == Some(&record.name));
                    touched.extend(on_host.map(|(name, _)| name.clone()));
                }
            }
        }
        for name in lost {
            let pointer = name.parent().map(|parent| Record {
                name: parent,
                is_flush: false,
                ttl: 0,
                data: Data::Ptr(name.clone()),
            });
            if let (Some(link), Some(pointer)) = (self.links.get_mut(&index), pointer) {
                link.cache.remove_record(&pointer);
            }
            self.lose(index, &name);
            if followed.contains(&name)
                && let Some(link) = self.links.get_mut(&index)
            {
                link.instances
                    .get_or_insert_with(name.clone(), Instance::default);
                link.ask(name, Kind::SRV, now + QUERY_INTERVAL, None);
            }
        }
        for name in touched {
            self.evaluate(now, index, &name);
        }
    }

    /// Asks what is due, with what is known (RFC 6762 §5.2, §5.3, §7.1).
    pub(crate) fn send_questions(&mut self, now: Instant, index: u32) {
        let takes_unicast = self.takes_unicast;
        let Some(link) = self.links.get_mut(&index) else {
            return;
        };
        if link.quiet_until > now {
            return;
        }
        let mut packet = Packet::default();
        let mut done = Vec::new();
        for ((name, kind), ask) in link.asks.iter_mut() {
            if ask.at > now || packet.questions.len() >= QUESTIONS_A_PACKET {
                continue;
            }
            packet.questions.push(Question {
                name: name.clone(),
                kind: *kind,
                // RFC 6762 §5.4: who has just come has to be told what all others know.
                wants_unicast: takes_unicast && !ask.is_repeated && ask.left.is_none(),
            });
            ask.left = ask.left.map(|left| left.saturating_sub(1));
            if ask.left == Some(0) {
                done.push((name.clone(), *kind));
            }
            ask.is_repeated = true;
            ask.at = now + ask.interval;
            ask.interval = (ask.interval * 2).min(QUERY_INTERVAL_MAX);
        }
        for key in done {
            link.asks.remove(&key);
        }
        if packet.questions.is_empty() {
            return;
        }
        link.quiet_until = now + QUERY_GAP;
        let own = self.own_pointers(index);
        let Some(link) = self.links.get(&index) else {
            return;
        };
        let pointers = packet.questions.iter();
        for question in pointers.filter(|question| question.kind == Kind::PTR) {
            // We do not answer ourselves; others would take ours for dead.
            let own = own.iter().filter(|record| record.name == question.name);
            packet.answers.extend(own.cloned());
            let entries = link.cache.get(&question.name, Kind::PTR).iter();
            for entry in entries.filter(|entry| entry.is_half_left(now)) {
                packet.answers.push(Record {
                    ttl: entry.ttl_left(now),
                    // RFC 6762 §10.2: never set in a list of known answers.
                    is_flush: false,
                    ..entry.record.clone()
                });
            }
        }
        let families = link.info.families();
        self.multicast(now, index, families, packet);
    }
}

impl Mdns {
    /// The pointers to our own services on a link, each once.
    fn own_pointers(&self, index: u32) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        let Some(link) = self.links.get(&index) else {
            return records;
        };
        for entity in self.entities().filter(|entity| link.is_ours(*entity)) {
            for part in [Part::Ptr, Part::TypePtr] {
                if let Some(record) = self.own_record(link, (entity, part))
                    && !records.iter().any(|other| other.is_same(&record))
                {
                    records.push(record);
                }
            }
        }
        records
    }
}

fn type_found(record: &Record, interface: u32) -> Option<MdnsEvent> {
    let Data::Ptr(target) = &record.data else {
        return None;
    };
    let service_type = ServiceType::from_name(target)?;
    Some(MdnsEvent::TypeFound {
        service_type,
        interface,
    })
}

impl Link {
    /// Plans a question. One that is planned already comes at the earlier time of the two.
    pub(crate) fn ask(&mut self, name: Name, kind: Kind, at: Instant, left: Option<u8>) {
        let key = (name, kind);
        if let Some(ask) = self.asks.get_mut(&key) {
            if ask.left.is_some() {
                ask.left = left.and_then(|left| ask.left.map(|other| other.max(left)));
                ask.at = ask.at.min(at);
            } else if left == Some(1) {
                // A refresh of what is asked for all the time.
                ask.at = ask.at.min(at);
            }
            return;
        }
        if left.is_some() && self.asks.len() >= ASKS_MAX {
            return;
        }
        let ask = Ask {
            at,
            interval: QUERY_INTERVAL,
            left,
            is_repeated: false,
        };
        self.asks.insert(key, ask);
    }

    /// What was asked for a few times only has been answered.
    fn asks_answered(&mut self, name: &Name, kind: Kind) {
        let key = (name.clone(), kind);
        if self.asks.get(&key).is_some_and(|ask| ask.left.is_some()) {
            self.asks.remove(&key);
        }
    }

    /// An instance has moved from one host to another. What is known of a host is kept while an instance runs there.
    fn set_host(&mut self, old: &Option<Name>, new: Option<Name>) {
        if let Some(new) = new {
            *self.hosts.get_or_insert_with(new, || 0) += 1;
        }
        let Some(old) = old else {
            return;
        };
        if let Some(count) = self.hosts.get_mut(old) {
            *count -= 1;
            if *count == 0 {
                self.hosts.remove(old);
                for kind in [Kind::A, Kind::AAAA] {
                    self.cache.remove(old, kind);
                    self.asks.remove(&(old.clone(), kind));
                }
            }
        }
    }

    /// What is known of an instance, if it is enough to reach it.
    fn look_up(&self, name: &Name) -> Option<Found> {
        let service_type = ServiceType::from_name(&name.parent()?)?;
        // The newest is what holds when two contradict each other.
        let srv = self
            .cache
            .get(name, Kind::SRV)
            .iter()
            .max_by_key(|entry| entry.expires)?;
        let Data::Srv { port, host, .. } = &srv.record.data else {
            return None;
        };
        let txt = self
            .cache
            .get(name, Kind::TXT)
            .iter()
            .max_by_key(|entry| entry.expires)?;
        let Data::Txt(txt) = &txt.record.data else {
            return None;
        };
        let kinds = [Kind::A, Kind::AAAA];
        let addrs = kinds.iter().flat_map(|kind| self.cache.get(host, *kind));
        let addrs = addrs
            .filter_map(|entry| match &entry.record.data {
                Data::A(ip) => Some(IpAddr::from(*ip)),
                Data::Aaaa(ip) => Some(IpAddr::from(*ip)),
                _ => None,
            })
            .filter(|ip| !ip.is_multicast() && !ip.is_unspecified());
        let mut addrs = sorted(addrs);
        addrs.truncate(ADDRS_MAX);
        if addrs.is_empty() {
            return None;
        }
        Some(Found {
            instance: name.first_label(),
            service_type,
            host: host.to_host_text(),
            port: *port,
            addrs,
            txt: Txt::from_wire(txt),
            interface: self.info.index,
        })
    }
}
