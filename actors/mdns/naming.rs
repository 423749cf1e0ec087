//! How names become ours and stay so: probing, tie-break, announcing, conflicts, goodbye (RFC 6762 §8, §9, §10.1).

use std::time::Duration;

use mischief_reactor::Instant;

use super::limits::{
    ANNOUNCE_INTERVAL, ANNOUNCEMENTS, CONFLICT_WAIT, CONFLICT_WINDOW, CONFLICTS_MAX, PROBE_DEFER,
    PROBE_INTERVAL, PROBES, TTL_HOST, TTL_OTHER,
};
use super::link::{Entity, Link, OwnRef, Part, Phase};
use super::machine::{Mdns, MdnsEvent};
use super::map::sorted;
use super::name::{Name, renamed};
use super::record::{Data, Kind, Packet, Question, Record};

/// Names that are probed for in one packet.
const PROBES_A_PACKET: usize = 8;

impl Mdns {
    // Our records.

    /// The name that an entity alone may have.
    pub(crate) fn unique_name(&self, entity: Entity) -> Option<&Name> {
        match entity {
            Entity::Host => Some(&self.host),
            Entity::Service(id) => self.services.get(&id).map(|own| &own.name),
        }
    }

    /// Whether an entity has a record of this name.
    pub(crate) fn has_name(&self, entity: Entity, name: &Name) -> bool {
        match entity {
            Entity::Host => self.host == *name,
            Entity::Service(id) => self.services.get(&id).is_some_and(|own| {
                own.name == *name
                    || own.service.service_type.name() == name
                    || self.all_types == *name
            }),
        }
    }

    /// The records of an entity on a link, but for those that say what there is not.
    pub(crate) fn parts(link: &Link, entity: Entity) -> Vec<Part> {
        match entity {
            Entity::Host => {
                let addrs = link.info.addrs.iter();
                addrs.map(|(ip, _)| Part::Address(*ip)).collect()
            }
            Entity::Service(_) => vec![Part::Ptr, Part::TypePtr, Part::Srv, Part::Txt],
        }
    }

    /// One of our records as it is multicast; `None` if there is no such entity any more.
    pub(crate) fn own_record(&self, link: &Link, (entity, part): OwnRef) -> Option<Record> {
        let (name, data, ttl) = match (entity, part) {
            (Entity::Host, Part::Address(ip)) => (&self.host, Data::address(ip), TTL_HOST),
            (Entity::Host, Part::Nsec) => {
                let addrs = link
                    .info
                    .addrs
                    .iter()
                    .map(|(ip, _)| Data::address(*ip).kind());
                let kinds = sorted(addrs);
                let next = self.host.clone();
                (&self.host, Data::Nsec { next, kinds }, TTL_HOST)
            }
            (Entity::Service(id), part) => {
                let own = self.services.get(&id)?;
                let type_name = own.service.service_type.name();
                match part {
                    Part::Ptr => (type_name, Data::Ptr(own.name.clone()), TTL_OTHER),
                    Part::TypePtr => (&self.all_types, Data::Ptr(type_name.clone()), TTL_OTHER),
                    Part::Srv => {
                        let srv = Data::Srv {
                            priority: 0,
                            weight: 0,
                            port: own.service.port,
                            host: self.host.clone(),
                        };
                        (&own.name, srv, TTL_HOST)
                    }
                    Part::Txt => {
                        let txt = Data::Txt(own.service.txt.as_wire().into());
                        (&own.name, txt, TTL_OTHER)
                    }
                    Part::Nsec => {
                        let next = own.name.clone();
                        let kinds = vec![Kind::TXT, Kind::SRV];
                        (&own.name, Data::Nsec { next, kinds }, TTL_OTHER)
                    }
                    Part::Address(_) => return None,
                }
            }
            (Entity::Host, _) => return None,
        };
        Some(Record {
            name: name.clone(),
            is_flush: !part.is_shared(),
            ttl,
            data,
        })
    }

    /// The unique records of an entity: what is claimed in a probe.
    fn unique_records(&self, link: &Link, entity: Entity) -> Vec<Record> {
        let parts = Mdns::parts(link, entity).into_iter();
        let unique = parts.filter(|part| !part.is_shared());
        unique
            .filter_map(|part| self.own_record(link, (entity, part)))
            .collect()
    }

    pub(crate) fn entities(&self) -> impl Iterator<Item = Entity> {
        let services = self.services.keys().map(|id| Entity::Service(*id));
        std::iter::once(Entity::Host).chain(services)
    }

    // Probing and announcing.

    /// Probes for everything on a link.
    pub(crate) fn start_probing_all(&mut self, now: Instant, index: u32) {
        let at = now + self.probe_delay(now);
        let all: Vec<Entity> = self.entities().collect();
        if let Some(link) = self.links.get_mut(&index) {
            link.answers.clear();
            link.replies.clear();
            let phase = Phase::Probing { sent: 0, at };
            link.phases.clear();
            for entity in all {
                link.phases.insert(entity, phase);
            }
        }
    }

    /// Probes for one name on every link.
    pub(crate) fn start_probing(&mut self, now: Instant, entity: Entity) {
        let at = now + self.probe_delay(now);
        for link in self.links.values_mut() {
            // What is about to be probed for anyway goes into the same packets.
            let waiting = link.phases.values().find_map(|phase| match phase {
                Phase::Probing { sent: 0, at } if *at > now => Some(*at),
                _ => None,
            });
            let at = waiting.unwrap_or(at);
            link.phases.insert(entity, Phase::Probing { sent: 0, at });
        }
    }

    /// How long the first probe waits: a little, so that machines that were switched on together do not all speak at once,
    /// and long when names keep being taken (RFC 6762 §8.1).
    fn probe_delay(&mut self, now: Instant) -> Duration {
        let recent = |at: &&Instant| now.saturating_duration_since(**at) < CONFLICT_WINDOW;
        if self.conflicts.iter().filter(recent).count() >= CONFLICTS_MAX {
            return CONFLICT_WAIT;
        }
        self.jitter.between((Duration::ZERO, PROBE_INTERVAL))
    }

    /// Sends the probes and announcements that are due.
    pub(crate) fn advance_phases(&mut self, now: Instant, index: u32) {
        let Some(link) = self.links.get_mut(&index) else {
            return;
        };
        let (mut probes, mut announcements) = (Vec::new(), Vec::new());
        for (entity, phase) in link.phases.iter_mut() {
            match *phase {
                Phase::Probing { sent, at } if at <= now => {
                    if sent < PROBES {
                        let at = now + PROBE_INTERVAL;
                        *phase = Phase::Probing { sent: sent + 1, at };
                        probes.push(*entity);
                    } else {
                        *phase = Phase::Waiting;
                    }
                }
                _ => {}
            }
        }
        if link.phases.get(&Entity::Host) == Some(&Phase::Waiting) {
            let phase = Phase::Announcing { sent: 0, at: now };
            link.phases.insert(Entity::Host, phase);
        }
        let has_host = link.is_ours(Entity::Host);
        for (entity, phase) in link.phases.iter_mut() {
            if *phase == Phase::Waiting && has_host {
                *phase = Phase::Announcing { sent: 0, at: now };
            }
            if let Phase::Announcing { sent, at } = *phase
                && at <= now
            {
                announcements.push(*entity);
                let sent = sent + 1;
                *phase = if sent < ANNOUNCEMENTS {
                    let at = now + ANNOUNCE_INTERVAL;
                    Phase::Announcing { sent, at }
                } else {
                    Phase::Established
                };
            }
        }
        for some in probes.chunks(PROBES_A_PACKET) {
            self.send_probe(now, index, some);
        }
        self.announce(now, index, &announcements);
    }

    fn send_probe(&mut self, now: Instant, index: u32, entities: &[Entity]) {
        let Some(link) = self.links.get(&index) else {
            return;
        };
        let mut packet = Packet::default();
        for entity in entities {
            let Some(name) = self.unique_name(*entity) else {
                continue;
            };
            packet.questions.push(Question {
                name: name.clone(),
                kind: Kind::ANY,
                wants_unicast: self.takes_unicast,
            });
            let mut claimed = self.unique_records(link, *entity);
            for record in &mut claimed {
                // RFC 6762 §10.2: the flush bit is for answers and additionals of responses.
                record.is_flush = false;
            }
            packet.authorities.extend(claimed);
        }
        let families = link.info.families();
        if !packet.questions.is_empty() {
            self.multicast(now, index, families, packet);
        }
    }

    fn announce(&mut self, now: Instant, index: u32, entities: &[Entity]) {
        let Some(link) = self.links.get(&index) else {
            return;
        };
        let refs = entities.iter().flat_map(|entity| {
            let parts = Mdns::parts(link, *entity).into_iter();
            parts.map(|part| (*entity, part))
        });
        let refs: Vec<OwnRef> = refs.collect();
        self.multicast_records(now, index, &refs);
        for entity in entities {
            let Entity::Service(id) = entity else {
                continue;
            };
            if let Some(own) = self.services.get_mut(id)
                && !std::mem::replace(&mut own.is_announced, true)
            {
                let instance = own.service.instance.clone();
                self.events
                    .push_back(MdnsEvent::Registered { id: *id, instance });
            }
        }
    }

    /// Multicasts exactly these records as answers.
    fn multicast_records(&mut self, now: Instant, index: u32, refs: &[OwnRef]) {
        let Some(link) = self.links.get(&index) else {
            return;
        };
        let mut answers: Vec<Record> = Vec::new();
        for one in refs {
            if let Some(record) = self.own_record(link, *one)
                && !answers.iter().any(|other| other.is_same(&record))
            {
                answers.push(record);
            }
        }
        if answers.is_empty() {
            return;
        }
        let families = link.info.families();
        if let Some(link) = self.links.get_mut(&index) {
            for one in refs {
                link.sent.insert(*one, now);
            }
            // What is multicast now answers those who wait as well.
            link.answers.retain(|pending| !refs.contains(&pending.what));
        }
        let packet = Packet {
            is_response: true,
            answers,
            ..Packet::default()
        };
        self.multicast(now, index, families, packet);
    }

    // Conflicts.

    /// Somebody probes. What that one claims is compared with what we claim or have (RFC 6762 §8.2).
    pub(crate) fn handle_foreign_probe(&mut self, now: Instant, index: u32, packet: &Packet) {
        for question in &packet.questions {
            let Some(entity) = self.entity_of(&question.name) else {
                continue;
            };
            let Some(link) = self.links.get(&index) else {
                return;
            };
            if !matches!(link.phases.get(&entity), Some(Phase::Probing { .. })) {
                continue;
            }
            let ours = comparable(self.unique_records(link, entity).iter());
            let is_theirs = |record: &&Record| record.name == question.name;
            let theirs = comparable(packet.authorities.iter().filter(is_theirs));
            // Theirs being the same as ours, it may be our own probe that came back in another shape.
            if !theirs.is_empty() && ours < theirs {
                let at = now + PROBE_DEFER;
                if let Some(link) = self.links.get_mut(&index) {
                    link.phases.insert(entity, Phase::Probing { sent: 0, at });
                }
            }
        }
    }

    pub(crate) fn entity_of(&self, name: &Name) -> Option<Entity> {
        self.entities()
            .find(|entity| self.unique_name(*entity) == Some(name))
    }

    /// A response has a record of a name that is ours, or that we want (RFC 6762 §8.1, §9).
    pub(crate) fn check_conflict(&mut self, now: Instant, index: u32, record: &Record) {
        let kind = record.data.kind();
        if record.ttl == 0 || kind == Kind::NSEC {
            return;
        }
        let Some(entity) = self.entity_of(&record.name) else {
            return;
        };
        let Some(link) = self.links.get(&index) else {
            return;
        };
        let is_ours = match record.data {
            // On another interface of this machine the name has other addresses.
            Data::A(ip) => self.is_own_address(ip.into()),
            Data::Aaaa(ip) => self.is_own_address(ip.into()),
            _ => {
                let ours = self.unique_records(link, entity);
                ours.iter().any(|own| own.is_same(record))
            }
        };
        let Some(phase) = link.phases.get(&entity).copied().filter(|_| !is_ours) else {
            return;
        };
        if matches!(phase, Phase::Probing { .. }) {
            self.note_conflict(now);
            self.rename(now, entity);
        } else if self.has_kind(entity, kind) {
            // RFC 6762 §9: whoever of the two is right turns out when both probe again.
            self.note_conflict(now);
            let at = now + self.probe_delay(now);
            if let Some(link) = self.links.get_mut(&index) {
                link.phases.insert(entity, Phase::Probing { sent: 0, at });
            }
        }
    }

    fn has_kind(&self, entity: Entity, kind: Kind) -> bool {
        match entity {
            Entity::Host => matches!(kind, Kind::A | Kind::AAAA),
            Entity::Service(_) => matches!(kind, Kind::SRV | Kind::TXT),
        }
    }

    fn note_conflict(&mut self, now: Instant) {
        if self.conflicts.len() >= CONFLICTS_MAX {
            self.conflicts.pop_front();
        }
        self.conflicts.push_back(now);
    }

    /// Takes another name and begins anew with it.
    fn rename(&mut self, now: Instant, entity: Entity) {
        let old = self
            .unique_name(entity)
            .map(Name::first_label)
            .unwrap_or_default();
        let new = renamed(&old, entity == Entity::Host);
        match entity {
            Entity::Host => {
                let Ok(name) = Name::from_labels([new.as_bytes(), b"local"]) else {
                    return;
                };
                self.host = name;
                let host = self.host();
                self.events.push_back(MdnsEvent::HostRenamed { host });
                // What points to the host has to be said again, under the new name.
                for link in self.links.values_mut() {
                    for phase in link.phases.values_mut().filter(|phase| phase.is_ours()) {
                        *phase = Phase::Waiting;
                    }
                }
            }
            Entity::Service(id) => {
                // Whoever knows the old name as ours is told that it is not any more.
                self.say_goodbye_to_pointer(now, entity);
                let Some(own) = self.services.get_mut(&id) else {
                    return;
                };
                let Ok(name) = own.service.service_type.instance(&new) else {
                    return;
                };
                own.name = name;
                own.service.instance.clone_from(&new);
                self.events.push_back(MdnsEvent::Renamed { id, old, new });
            }
        }
        for link in self.links.values_mut() {
            link.sent.retain(|(other, _), _| *other != entity);
            link.answers.retain(|pending| pending.what.0 != entity);
        }
        self.start_probing(now, entity);
    }

    // Goodbye.

    /// Takes back everything of an entity on every link where it was said.
    pub(crate) fn say_goodbye(&mut self, now: Instant, entity: Entity) {
        let all: Vec<u32> = self.links.keys().copied().collect();
        for index in all {
            let Some(link) = self.links.get(&index).filter(|link| link.is_ours(entity)) else {
                continue;
            };
            let parts = Mdns::parts(link, entity).into_iter();
            // Other services of the same type still have the type.
            let parts = parts.filter(|part| *part != Part::TypePtr || self.is_last_of_type(entity));
            let refs: Vec<OwnRef> = parts.map(|part| (entity, part)).collect();
            self.take_back(now, index, &refs);
        }
    }

    fn is_last_of_type(&self, entity: Entity) -> bool {
        let Entity::Service(id) = entity else {
            return true;
        };
        let own = self.services.get(&id).map(|own| &own.service.service_type);
        let mut others = self.services.iter().filter(|(other, _)| **other != id);
        !others.any(|(_, other)| Some(&other.service.service_type) == own)
    }

    fn say_goodbye_to_pointer(&mut self, now: Instant, entity: Entity) {
        let one = (entity, Part::Ptr);
        let all: Vec<u32> = self.links.keys().copied().collect();
        for index in all {
            if self
                .links
                .get(&index)
                .is_some_and(|link| link.sent.contains_key(&one))
            {
                self.take_back(now, index, &[one]);
            }
        }
    }

    fn take_back(&mut self, now: Instant, index: u32, refs: &[OwnRef]) {
        let Some(link) = self.links.get(&index) else {
            return;
        };
        let records = refs.iter().filter_map(|one| self.own_record(link, *one));
        let answers: Vec<Record> = records.map(|record| Record { ttl: 0, ..record }).collect();
        let families = link.info.families();
        let packet = Packet {
            is_response: true,
            answers,
            ..Packet::default()
        };
        self.multicast(now, index, families, packet);
    }

    /// Nothing is said of an entity any more.
    pub(crate) fn forget_entity(&mut self, entity: Entity) {
        for link in self.links.values_mut() {
            link.phases.remove(&entity);
            link.sent.retain(|(other, _), _| *other != entity);
            link.answers.retain(|pending| pending.what.0 != entity);
            for reply in &mut link.replies {
                reply.refs.retain(|(other, _)| *other != entity);
            }
        }
    }
}

/// Records in the order and the form in which two claims are compared: class, type, data (RFC 6762 §8.2.1). All have the
/// class IN. Of two lists that begin alike the longer one is greater.
fn comparable<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<(Kind, Vec<u8>)> {
    let key = |record: &Record| (record.data.kind(), record.data.to_bytes());
    sorted(records.map(key))
}
