//! Answers: which, when, to whom, and which not (RFC 6762 §6, §7).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mischief_reactor::Instant;

use super::limits::{
    DEFEND_INTERVAL, PORT, REPEAT_INTERVAL, REPLIES_MAX, SHARED_DELAY, TRUNCATED_DELAY, TTL_LEGACY,
};
use super::link::{Entity, Families, Link, OwnRef, Part, Pending, Reply};
use super::machine::Mdns;
use super::record::{Packet, Question, Record};

/// How an answer is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Multicast,
    Unicast,
    Legacy,
}

/// A query with what has to be known to answer it.
struct Query<'a> {
    from: SocketAddr,
    is_multicast: bool,
    is_legacy: bool,
    packet: &'a Packet,
}

impl Mdns {
    /// A query, from the link.
    pub(crate) fn handle_query(
        &mut self,
        now: Instant,
        index: u32,
        from: SocketAddr,
        is_multicast: bool,
        packet: Packet,
    ) {
        if packet.questions.is_empty() {
            return self.handle_more_known_answers(now, index, from.ip(), &packet);
        }
        let is_legacy = from.port() != PORT;
        if is_multicast && !is_legacy {
            self.handle_foreign_question(now, index, from.ip(), &packet);
        }
        if !packet.authorities.is_empty() {
            self.handle_foreign_probe(now, index, &packet);
        }
        let query = Query {
            from,
            is_multicast,
            is_legacy,
            packet: &packet,
        };
        self.answer(now, index, &query);
    }

    fn answer(&mut self, now: Instant, index: u32, query: &Query<'_>) {
        let Some(link) = self.links.get(&index) else {
            return;
        };
        let packet = query.packet;
        let is_probe = !packet.authorities.is_empty();
        // Whoever is not on the link gets nothing sent: the source may be a lie, and its owner far away (RFC 6762 §11).
        let is_near = link.info.is_on_link(query.from.ip());
        if !is_near && (query.is_legacy || !query.is_multicast) {
            self.stats.foreign = self.stats.foreign.wrapping_add(1);
            return;
        }
        let (mut to_all, mut to_one) = (Vec::new(), Vec::new());
        for question in &packet.questions {
            for one in self.answers_to(link, question) {
                if !query.is_legacy && self.is_known_answer(link, one, &packet.answers) {
                    continue;
                }
                let by_unicast = query.is_legacy
                    || !query.is_multicast
                    || (is_near
                        && question.wants_unicast
                        && was_multicast_lately(self, link, one, now));
                let into = if by_unicast { &mut to_one } else { &mut to_all };
                if !into.contains(&one) {
                    into.push(one);
                }
            }
        }
        let is_shared = |refs: &[OwnRef]| refs.iter().any(|(_, part)| part.is_shared());
        let (all_shared, one_shared) = (is_shared(&to_all), is_shared(&to_one));
        let is_truncated = packet.is_truncated && !query.is_legacy;
        let families = Families::of(query.from.ip());
        if !to_one.is_empty() {
            // A legacy querier takes the first answer and asks nobody else (RFC 6762 §6.7).
            let delay = self.answer_delay(one_shared && !query.is_legacy, is_truncated);
            let legacy = query
                .is_legacy
                .then(|| (packet.id, packet.questions.clone()));
            let reply = Reply {
                to: query.from,
                at: now + delay,
                refs: to_one,
                legacy,
            };
            self.add_reply(now, index, reply, families);
        }
        if !to_all.is_empty() {
            let delay = self.answer_delay(all_shared, is_truncated);
            let not_before = if is_truncated { now + delay } else { now };
            for what in to_all {
                self.add_answer(
                    index,
                    Pending {
                        what,
                        at: now + delay,
                        not_before,
                        families,
                        asker: is_truncated.then_some(query.from.ip()),
                        is_defence: is_probe,
                    },
                );
            }
        }
    }

    /// RFC 6762 §6: what we alone can answer goes at once, what others may answer too waits for a time by chance.
    fn answer_delay(&mut self, is_shared: bool, is_truncated: bool) -> Duration {
        match (is_truncated, is_shared) {
            (true, _) => self.jitter.between(TRUNCATED_DELAY),
            (false, true) => self.jitter.between(SHARED_DELAY),
            (false, false) => Duration::ZERO,
        }
    }

    /// Which of our records answer a question (RFC 6762 §6, §6.1, §6.5).
    fn answers_to(&self, link: &Link, question: &Question) -> Vec<OwnRef> {
        let mut found: Vec<OwnRef> = Vec::new();
        let mut records: Vec<Record> = Vec::new();
        let entities = self.entities().filter(|entity| link.is_ours(*entity));
        for entity in entities.filter(|entity| self.has_name(*entity, &question.name)) {
            let mut is_answered = false;
            for part in Mdns::parts(link, entity) {
                let Some(record) = self.own_record(link, (entity, part)) else {
                    continue;
                };
                if record.name != question.name || !question.kind.covers(record.data.kind()) {
                    continue;
                }
                is_answered = true;
                // Two services of one type say the same of their type.
                if !records.iter().any(|other| other.is_same(&record)) {
                    records.push(record);
                    found.push((entity, part));
                }
            }
            if !is_answered && self.unique_name(entity) == Some(&question.name) {
                found.push((entity, Part::Nsec));
            }
        }
        found
    }

    /// Whether the querier has the record, with at least half of its time (RFC 6762 §7.1).
    fn is_known_answer(&self, link: &Link, one: OwnRef, known: &[Record]) -> bool {
        let Some(record) = self.own_record(link, one) else {
            return true;
        };
        known
            .iter()
            .any(|other| other.is_same(&record) && other.ttl >= record.ttl / 2)
    }

    /// The rest of a list of known answers (RFC 6762 §7.2).
    fn handle_more_known_answers(
        &mut self,
        now: Instant,
        index: u32,
        from: IpAddr,
        packet: &Packet,
    ) {
        let Some(link) = self.links.get(&index) else {
            return;
        };
        let is_known = |one: OwnRef| self.is_known_answer(link, one, &packet.answers);
        let known: Vec<OwnRef> = link
            .answers
            .iter()
            .filter(|pending| pending.asker == Some(from))
            .map(|pending| pending.what)
            .chain(
                link.replies
                    .iter()
                    .filter(|reply| reply.to.ip() == from)
                    .flat_map(|reply| reply.refs.iter().copied()),
            )
            .filter(|one| is_known(*one))
            .collect();
        let at = now + self.jitter.between(TRUNCATED_DELAY);
        let Some(link) = self.links.get_mut(&index) else {
            return;
        };
        let is_from = |pending: &Pending| pending.asker == Some(from);
        link.answers
            .retain(|pending| !(is_from(pending) && known.contains(&pending.what)));
        for reply in link
            .replies
            .iter_mut()
            .filter(|reply| reply.to.ip() == from)
        {
            reply.refs.retain(|one| !known.contains(one));
        }
        if packet.is_truncated {
            for pending in link.answers.iter_mut().filter(|pending| is_from(pending)) {
                (pending.at, pending.not_before) = (at, at);
            }
        }
    }

    /// Somebody else multicasts a record of ours. Who waits for it has it now (RFC 6762 §7.4); but if its time is short,
    /// others would drop it too early, so it is said again (§6.6).
    pub(crate) fn handle_own_record_of_others(
        &mut self,
        now: Instant,
        index: u32,
        record: &Record,
    ) {
        let Some(link) = self.links.get(&index) else {
            return;
        };
        let mut found = None;
        let entities = self.entities().filter(|entity| link.is_ours(*entity));
        for entity in entities.filter(|entity| self.has_name(*entity, &record.name)) {
            for part in Mdns::parts(link, entity) {
                let own = self.own_record(link, (entity, part));
                if let Some(own) = own.filter(|own| own.is_same(record)) {
                    found = Some(((entity, part), own.ttl));
                }
            }
        }
        let Some((what, ttl)) = found else {
            return;
        };
        let families = link.info.families();
        if record.ttl >= ttl {
            if let Some(link) = self.links.get_mut(&index) {
                link.answers.retain(|pending| pending.what != what);
            }
        } else if record.ttl < ttl / 2 {
            let pending = Pending {
                what,
                at: now,
                not_before: now,
                families,
                asker: None,
                is_defence: false,
            };
            self.add_answer(index, pending);
        }
    }

    fn add_answer(&mut self, index: u32, pending: Pending) {
        let Some(link) = self.links.get_mut(&index) else {
            return;
        };
        let mut waiting = link.answers.iter_mut();
        match waiting.find(|other| other.what == pending.what) {
            Some(other) => {
                other.at = other.at.min(pending.at);
                other.not_before = other.not_before.min(pending.not_before);
                other.families = other.families.or(pending.families);
                other.is_defence |= pending.is_defence;
                if other.asker != pending.asker {
                    other.asker = None;
                }
            }
            None => link.answers.push(pending),
        }
    }

    fn add_reply(&mut self, now: Instant, index: u32, reply: Reply, families: Families) {
        let Some(link) = self.links.get_mut(&index) else {
            return;
        };
        if link.replies.len() < REPLIES_MAX {
            return link.replies.push(reply);
        }
        if reply.legacy.is_none() {
            for what in reply.refs {
                let pending = Pending {
                    what,
                    at: reply.at,
                    not_before: now,
                    families,
                    asker: None,
                    is_defence: false,
                };
                self.add_answer(index, pending);
            }
        }
    }

    // Sending.

    /// Multicasts the answers that are due, and along with them those that may go.
    pub(crate) fn send_answers(&mut self, now: Instant, index: u32) {
        let Some(link) = self.links.get_mut(&index) else {
            return;
        };
        for pending in &mut link.answers {
            let interval = if pending.is_defence {
                DEFEND_INTERVAL
            } else {
                REPEAT_INTERVAL
            };
            // RFC 6762 §6: never twice within a second. Who asked meanwhile gets it when the second is over.
            if let Some(sent) = link.sent.get(&pending.what) {
                let least = *sent + interval;
                pending.at = pending.at.max(least);
                pending.not_before = pending.not_before.max(least);
            }
        }
        if !link.answers.iter().any(|pending| pending.at <= now) {
            return;
        }
        let mut due = Vec::new();
        link.answers.retain(|pending| {
            let is_due = pending.not_before <= now;
            if is_due {
                due.push((pending.what, pending.families));
            }
            !is_due
        });
        // A record goes to whom it is asked for; those for both families go together.
        for families in [(true, true), (true, false), (false, true)] {
            let wanted = due
                .iter()
                .filter(|(_, other)| (other.v4, other.v6) == families);
            let refs: Vec<OwnRef> = wanted.map(|(what, _)| *what).collect();
            let (v4, v6) = families;
            if !refs.is_empty() {
                self.send_multicast_answer(now, index, &refs, Families { v4, v6 });
            }
        }
    }

    fn send_multicast_answer(
        &mut self,
        now: Instant,
        index: u32,
        refs: &[OwnRef],
        families: Families,
    ) {
        let Some(link) = self.links.get(&index) else {
            return;
        };
        let (packet, sent) = self.response(now, link, refs, Mode::Multicast);
        if packet.answers.is_empty() {
            return;
        }
        if let Some(link) = self.links.get_mut(&index) {
            for one in sent {
                link.sent.insert(one, now);
            }
        }
        self.multicast(now, index, families, packet);
    }

    /// Sends the unicast answers that are due.
    pub(crate) fn send_replies(&mut self, now: Instant, index: u32) {
        let Some(link) = self.links.get_mut(&index) else {
            return;
        };
        let (due, waiting): (Vec<Reply>, Vec<Reply>) =
            link.replies.drain(..).partition(|reply| reply.at <= now);
        link.replies = waiting;
        for reply in due {
            let Some(link) = self.links.get(&index) else {
                return;
            };
            let mode = if reply.legacy.is_some() {
                Mode::Legacy
            } else {
                Mode::Unicast
            };
            let (mut packet, _) = self.response(now, link, &reply.refs, mode);
            if packet.answers.is_empty() {
                continue;
            }
            if let Some((id, questions)) = reply.legacy {
                packet.id = id;
                packet.questions = questions;
                for question in &mut packet.questions {
                    question.wants_unicast = false;
                }
            }
            self.unicast(index, reply.to, packet);
        }
    }

    /// A response with these answers and what whoever asked will need next (RFC 6763 §12), and all that it says of ours.
    fn response(
        &self,
        now: Instant,
        link: &Link,
        refs: &[OwnRef],
        mode: Mode,
    ) -> (Packet, Vec<OwnRef>) {
        let mut packet = Packet {
            is_response: true,
            ..Packet::default()
        };
        let mut said: Vec<OwnRef> = Vec::new();
        let legacy = |mut record: Record| {
            if mode == Mode::Legacy {
                // RFC 6762 §6.7: a resolver of the old kind does not know the bit, and must not keep what it gets.
                record.is_flush = false;
                record.ttl = record.ttl.min(TTL_LEGACY);
            }
            record
        };
        for one in refs {
            if let Some(record) = self.own_record(link, *one) {
                packet.answers.push(legacy(record));
                said.push(*one);
            }
        }
        for one in self.additionals(link, refs) {
            let was_sent = link
                .sent
                .get(&one)
                .is_some_and(|sent| *sent + REPEAT_INTERVAL > now);
            if said.contains(&one) || (mode == Mode::Multicast && was_sent) {
                continue;
            }
            if let Some(record) = self.own_record(link, one) {
                packet.additionals.push(legacy(record));
                said.push(one);
            }
        }
        (packet, said)
    }

    fn additionals(&self, link: &Link, refs: &[OwnRef]) -> Vec<OwnRef> {
        let mut more = Vec::new();
        let mut wants_host = false;
        for (entity, part) in refs {
            match part {
                Part::Ptr => {
                    more.extend([(*entity, Part::Srv), (*entity, Part::Txt)]);
                    wants_host = true;
                }
                Part::Srv | Part::Address(_) => wants_host = true,
                Part::Nsec => wants_host |= *entity == Entity::Host,
                Part::Txt | Part::TypePtr => {}
            }
        }
        if wants_host && link.is_ours(Entity::Host) {
            let addrs = Mdns::parts(link, Entity::Host);
            let kinds = |is_v4: bool| {
                let mut addrs = link.info.addrs.iter();
                addrs.any(|(ip, _)| ip.is_ipv4() == is_v4)
            };
            let lacks_family = !(kinds(true) && kinds(false));
            more.extend(addrs.into_iter().map(|part| (Entity::Host, part)));
            if lacks_family {
                // RFC 6762 §6.2: so nobody asks for addresses of the other family.
                more.push((Entity::Host, Part::Nsec));
            }
        }
        more
    }
}

/// RFC 6762 §5.4: a unicast answer leaves the caches of all others as they are, so it will only do if those have been
/// refreshed within a quarter of the record's time.
fn was_multicast_lately(mdns: &Mdns, link: &Link, one: OwnRef, now: Instant) -> bool {
    let Some(ttl) = mdns.own_record(link, one).map(|record| record.ttl) else {
        return false;
    };
    let quarter = Duration::from_secs(u64::from(ttl)) / 4;
    let sent = link.sent.get(&one);
    sent.is_some_and(|sent| now.saturating_duration_since(*sent) < quarter)
}
