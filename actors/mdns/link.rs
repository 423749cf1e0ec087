//! One interface: its addresses, how far its names are ours, what waits to be sent, what was heard.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use mischief_reactor::Instant;

use super::ServiceId;
use super::cache::Cache;
use super::limits::{GROUP_V4, GROUP_V6, PORT};
use super::map::Map;
use super::name::Name;
use super::record::{Kind, Question};
use super::service::Found;

/// An interface that can multicast, with the families for which there is a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The system's index of it.
    pub index: u32,
    /// Its addresses with prefix lengths, in an order that does not change by itself.
    pub addrs: Vec<(IpAddr, u8)>,
    /// Whether it can be used over IPv4.
    pub has_ipv4: bool,
    /// Whether it can be used over IPv6.
    pub has_ipv6: bool,
}

impl LinkInfo {
    pub(crate) fn families(&self) -> Families {
        Families {
            v4: self.has_ipv4,
            v6: self.has_ipv6,
        }
    }

    /// Whether an address belongs to a network of this interface (RFC 6762 §11).
    pub(crate) fn is_on_link(&self, ip: IpAddr) -> bool {
        if matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            return true;
        }
        let mut addrs = self.addrs.iter();
        addrs.any(|(own, prefix)| is_same_network(*own, ip, *prefix))
    }
}

/// Whether two addresses have the first `prefix` bits in common.
fn is_same_network(a: IpAddr, b: IpAddr, prefix: u8) -> bool {
    let (a, b, width) = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    let differing = width - u32::from(prefix).min(width);
    (a ^ b).checked_shr(differing).unwrap_or(0) == 0
}

/// Over which of the two a packet goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Families {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

impl Families {
    /// The family of an address.
    pub(crate) fn of(ip: IpAddr) -> Families {
        Families {
            v4: ip.is_ipv4(),
            v6: ip.is_ipv6(),
        }
    }

    pub(crate) fn or(self, other: Families) -> Families {
        Families {
            v4: self.v4 || other.v4,
            v6: self.v6 || other.v6,
        }
    }

    /// The groups to send to on an interface.
    pub(crate) fn groups(self, index: u32) -> impl Iterator<Item = SocketAddr> {
        let v4 = self.v4.then(|| SocketAddr::from((GROUP_V4, PORT)));
        let v6 = self
            .v6
            .then(|| SocketAddrV6::new(GROUP_V6, PORT, 0, index).into());
        v4.into_iter().chain(v6)
    }
}

/// Who has a unique name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entity {
    Host,
    Service(ServiceId),
}

/// One record of an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// Shared: the type's pointer to the instance.
    Ptr,
    /// Shared: the pointer of all types to this type (RFC 6763 §9).
    TypePtr,
    Srv,
    Txt,
    Address(IpAddr),
    /// That there is nothing else.
    Nsec,
}

impl Part {
    /// Whether others may have records of the same name and type.
    pub(crate) fn is_shared(self) -> bool {
        matches!(self, Part::Ptr | Part::TypePtr)
    }
}

/// Names one of our records on a link.
pub(crate) type OwnRef = (Entity, Part);

/// How far an entity has come on a link (RFC 6762 §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// So many probes are sent, and when the next is due.
    Probing { sent: u8, at: Instant },
    /// The name is ours, but not yet that of the host that it points to.
    Waiting,
    /// So many announcements are sent, and when the next is due.
    Announcing { sent: u8, at: Instant },
    /// Everybody has been told.
    Established,
}

impl Phase {
    /// Whether we answer for it.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Phase::Announcing { .. } | Phase::Established)
    }

    fn at(self) -> Option<Instant> {
        match self {
            Phase::Probing { at, .. } | Phase::Announcing { at, .. } => Some(at),
            Phase::Waiting | Phase::Established => None,
        }
    }
}

/// An answer that waits to be multicast.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) what: OwnRef,
    /// When it has to go.
    pub(crate) at: Instant,
    /// From when on it may go along with others.
    pub(crate) not_before: Instant,
    pub(crate) families: Families,
    /// The only one who asked, if more known answers are to come from there.
    pub(crate) asker: Option<IpAddr>,
    pub(crate) is_defence: bool,
}

/// An answer that waits to be sent to one querier.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) to: SocketAddr,
    pub(crate) at: Instant,
    pub(crate) refs: Vec<OwnRef>,
    /// For a querier that knows nothing of multicast DNS: its id and questions (RFC 6762 §6.7).
    pub(crate) legacy: Option<(u16, Vec<Question>)>,
}

/// A question that is to be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) at: Instant,
    pub(crate) interval: std::time::Duration,
    /// How often still; `None` for ever.
    pub(crate) left: Option<u8>,
    /// Whether it was asked before.
    pub(crate) is_repeated: bool,
}

/// An instance that somebody wants to know about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Instance {
    /// What was told of it last; `None` as long as something is missing.
    pub(crate) found: Option<Found>,
    /// Its host, once that is known.
    pub(crate) host: Option<Name>,
    /// When it is lost unless it answers (RFC 6762 §10.4).
    pub(crate) verify: Option<Instant>,
}

/// One interface.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) info: LinkInfo,
    pub(crate) phases: Map<Entity, Phase>,
    /// When each record was last multicast.
    pub(crate) sent: Map<OwnRef, Instant>,
    pub(crate) answers: Vec<Pending>,
    pub(crate) replies: Vec<Reply>,
    pub(crate) cache: Cache,
    pub(crate) asks: Map<(Name, Kind), Ask>,
    /// No questions before this.
    pub(crate) quiet_until: Instant,
    pub(crate) instances: Map<Name, Instance>,
    /// How many instances run on a host.
    pub(crate) hosts: Map<Name, u32>,
}

impl Link {
    pub(crate) fn new(info: LinkInfo) -> Link {
        Link {
            info,
            phases: Map::new(),
            sent: Map::new(),
            answers: Vec::new(),
            replies: Vec::new(),
            cache: Cache::default(),
            asks: Map::new(),
            quiet_until: Instant::ZERO,
            instances: Map::new(),
            hosts: Map::new(),
        }
    }

    pub(crate) fn is_ours(&self, entity: Entity) -> bool {
        self.phases
            .get(&entity)
            .is_some_and(|phase| phase.is_ours())
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let phases = self.phases.values().filter_map(|phase| phase.at());
        let answers = self.answers.iter().map(|pending| pending.at);
        let replies = self.replies.iter().map(|reply| reply.at);
        let asks = self.asks.values().map(|ask| ask.at.max(self.quiet_until));
        let verify = self
            .instances
            .values()
            .filter_map(|instance| instance.verify);
        let due = phases
            .chain(answers)
            .chain(replies)
            .chain(asks)
            .chain(verify);
        due.chain(self.cache.poll_timeout()).min()
    }

    /// Bytes it holds, roughly.
    pub(crate) fn heap_bytes(&self) -> usize {
        let found = |instance: &Instance| {
            let found = instance.found.as_ref();
            found.map_or(0, |found| found.host.len() + found.txt.as_wire().len() + 64)
        };
        let instances: usize = self.instances.values().map(|one| found(one) + 160).sum();
        let asks = self.asks.len() * 128;
        self.cache.heap_bytes() + instances + asks + self.hosts.len() * 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_on_link_if_a_network_of_the_interface_has_it() {
        let info = LinkInfo {
            index: 2,
            addrs: vec![
                ("192.0.2.9".parse().unwrap(), 24),
                ("2001:db8:1::9".parse().unwrap(), 64),
                ("10.0.0.1".parse().unwrap(), 32),
            ],
            has_ipv4: true,
            has_ipv6: true,
        };
        let is_on_link = |ip: &str| info.is_on_link(ip.parse().unwrap());
        assert!(is_on_link("192.0.2.200"));
        assert!(!is_on_link("192.0.3.200"));
        assert!(is_on_link("2001:db8:1::1"));
        assert!(!is_on_link("2001:db8:2::1"));
        assert!(
            is_on_link("fe80::1"),
            "link-local is on the link by its nature"
        );
        assert!(is_on_link("10.0.0.1"));
        assert!(!is_on_link("10.0.0.2"));
        assert!(is_same_network(
            "1.2.3.4".parse().unwrap(),
            "9.9.9.9".parse().unwrap(),
            0
        ));
    }
}
