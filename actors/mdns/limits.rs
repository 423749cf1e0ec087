//! Every number: those of the specification with their sections, and those that bound what others can make us keep.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// The port of multicast DNS (RFC 6762 §3).
pub const PORT: u16 = 5353;
/// The group over IPv4 (RFC 6762 §3).
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
/// The group over IPv6 (RFC 6762 §3).
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// Seconds that records with a host name in them may be kept (RFC 6762 §10).
pub(crate) const TTL_HOST: u32 = 120;
/// Seconds that all other records may be kept (RFC 6762 §10: 75 minutes).
pub(crate) const TTL_OTHER: u32 = 4500;
/// The most seconds that a legacy querier is told (RFC 6762 §6.7).
pub(crate) const TTL_LEGACY: u32 = 10;

/// Between two probes, and the most that the first one waits (RFC 6762 §8.1).
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_millis(250);
/// Probes before a name is ours (RFC 6762 §8.1).
pub(crate) const PROBES: u8 = 3;
/// How long the loser of a tie-break waits (RFC 6762 §8.2).
pub(crate) const PROBE_DEFER: Duration = Duration::from_secs(1);
/// So many conflicts within [`CONFLICT_WINDOW`] make every further probe wait for [`CONFLICT_WAIT`] (RFC 6762 §8.1).
pub(crate) const CONFLICTS_MAX: usize = 15;
/// See [`CONFLICTS_MAX`].
pub(crate) const CONFLICT_WINDOW: Duration = Duration::from_secs(10);
/// See [`CONFLICTS_MAX`].
pub(crate) const CONFLICT_WAIT: Duration = Duration::from_secs(5);
/// Unsolicited announcements (RFC 6762 §8.3: two at least).
pub(crate) const ANNOUNCEMENTS: u8 = 2;
/// Between the first two announcements (RFC 6762 §8.3).
pub(crate) const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(1);

/// The least and the most that an answer with shared records waits (RFC 6762 §6); also the first query (§5.2).
pub(crate) const SHARED_DELAY: (Duration, Duration) =
    (Duration::from_millis(20), Duration::from_millis(120));
/// The same when more known answers follow (RFC 6762 §7.2).
pub(crate) const TRUNCATED_DELAY: (Duration, Duration) =
    (Duration::from_millis(400), Duration::from_millis(500));
/// A record is multicast on a link at most this often (RFC 6762 §6).
pub(crate) const REPEAT_INTERVAL: Duration = Duration::from_secs(1);
/// The same when it is defended against a probe (RFC 6762 §6).
pub(crate) const DEFEND_INTERVAL: Duration = Duration::from_millis(250);

/// Between the first two queries for one thing; doubled for each further one (RFC 6762 §5.2).
pub(crate) const QUERY_INTERVAL: Duration = Duration::from_secs(1);
/// The longest interval (RFC 6762 §5.2).
pub(crate) const QUERY_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// Queries for the details of an instance that nobody answers; then its next announcement is waited for.
pub(crate) const RESOLVE_TRIES: u8 = 4;
/// Packets with questions on one link are at least so far apart, whatever is found meanwhile.
pub(crate) const QUERY_GAP: Duration = Duration::from_millis(100);
/// What is taken back, and what a flush makes stale, stays for so long (RFC 6762 §10.1, §10.2).
pub(crate) const GOODBYE_DELAY: Duration = Duration::from_secs(1);
/// How long queries for a record may stay without an answer until it is taken for dead (RFC 6762 §10.4, §10.5).
pub(crate) const FAILURE_DELAY: Duration = Duration::from_secs(10);
/// Copies of one query over both families arrive closer together than two queries.
pub(crate) const SAME_QUERY: Duration = Duration::from_millis(900);
/// How long a packet of ours may take to come back through the loop.
pub(crate) const ECHO_WINDOW: Duration = Duration::from_secs(2);
/// Packets of ours that are remembered so as to know their echoes. The oldest are forgotten.
pub(crate) const ECHOES_MAX: usize = 64;

/// Interfaces that are used; of more, those with the lowest indices.
pub const LINKS_MAX: usize = 16;
/// Addresses of one interface that are announced, and addresses of a found service that are told.
pub const ADDRS_MAX: usize = 8;
/// Services that can be registered at once.
pub const SERVICES_MAX: usize = 64;
/// Browses and resolutions that can run at once.
pub const INTERESTS_MAX: usize = 32;
/// Records that are kept for each interface. Beyond it a record that was seen once makes room by chance; if there is none,
/// nothing new is taken.
pub const CACHE_RECORDS_MAX: usize = 1024;
/// Bytes of these records. At the limit as with [`CACHE_RECORDS_MAX`].
pub const CACHE_BYTES_MAX: usize = 192 << 10;
/// Instances of one type that are kept for each interface. At the limit as with [`CACHE_RECORDS_MAX`].
pub const INSTANCES_MAX: usize = 256;
/// Records of one name and type other than PTR. Further ones are not taken.
pub const RECORDS_PER_NAME_MAX: usize = 16;
/// Questions that wait or are repeated on one interface. Further ones are not asked until there is room.
pub const ASKS_MAX: usize = 256;
/// Unicast answers that wait on one interface. Further queriers get theirs by multicast.
pub const REPLIES_MAX: usize = 32;
/// Sources of records that are told apart; of more, the one that was heard longest ago is forgotten.
pub const SOURCES_MAX: usize = 64;
/// New records that a source may bring at once, and
pub const SOURCE_BURST: u32 = 160;
/// how many more a second after that. Known records are not counted.
pub const SOURCE_RATE: u32 = 20;
