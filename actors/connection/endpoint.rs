//! What a user types as an address, and errors that say what is wrong with it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Longest host name in characters (RFC 1035 §2.3.4: 255 octets on the wire, which is 253 in text).
pub const HOST_CHARS_MAX: usize = 253;
/// Longest label of a host name in characters (RFC 1035 §2.3.4).
pub const LABEL_CHARS_MAX: usize = 63;
/// Longest interface name in characters that is accepted as an IPv6 zone; systems allow 15 to 255.
pub const ZONE_CHARS_MAX: usize = 64;

/// Somewhere to connect to, as far as the text of it tells.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// An address that can be connected to as it is. Never a v4-mapped one, never the unspecified address.
    Address(SocketAddr),
    /// A link-local address on an interface that is given by name: `[fe80::1%eth0]:9000`.
    Zoned {
        /// The address.
        ip: Ipv6Addr,
        /// Name of the interface.
        zone: Box<str>,
        /// The port, never 0.
        port: u16,
    },
    /// A name that has to be resolved first.
    Name {
        /// The host name, in lower case and without a final dot.
        host: Box<str>,
        /// The port, never 0.
        port: u16,
    },
}

impl Endpoint {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Endpoint::Address(addr) => addr.port(),
            Endpoint::Zoned { port, .. } | Endpoint::Name { port, .. } => *port,
        }
    }

    /// The address, if no name has to be resolved. `index_of` gives an interface's index by its name and is asked only
    /// for [`Endpoint::Zoned`]. `Ok(None)` means that this is a host name.
    pub fn resolved(
        &self,
        index_of: impl FnOnce(&str) -> Option<u32>,
    ) -> Result<Option<SocketAddr>, AddrError> {
        match self {
            Endpoint::Address(addr) => Ok(Some(*addr)),
            Endpoint::Name { .. } => Ok(None),
            Endpoint::Zoned { ip, zone, port } => match index_of(zone) {
                Some(index) => Ok(Some(SocketAddrV6::new(*ip, *port, 0, index).into())),
                None => Err(AddrError::ZoneUnknown { zone: zone.clone() }),
            },
        }
    }
}

impl From<SocketAddr> for Endpoint {
    /// The unspecified address becomes the loopback address of its family, as for [`parse_addr`].
    fn from(addr: SocketAddr) -> Endpoint {
        Endpoint::Address(connectable(addr))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Address(addr) => addr.fmt(f),
            Endpoint::Zoned { ip, zone, port } => write!(f, "[{ip}%{zone}]:{port}"),
            Endpoint::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// What is wrong with a typed address. The texts say what to write instead.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddrError {
    /// Nothing was typed.
    #[error(
        "the address is empty; write for example 192.0.2.1:9000, [2001:db8::1]:9000 or host:9000"
    )]
    Empty,
    /// There is no port.
    #[error("the port is missing; write {host}:9000")]
    PortMissing {
        /// What stands where the host belongs.
        host: Box<str>,
    },
    /// The port is no number from 1 to 65535.
    #[error("\"{port}\" is not a port; a port is a number from 1 to 65535")]
    PortInvalid {
        /// What stands where the port belongs.
        port: Box<str>,
    },
    /// Port 0 means "any free port" and cannot be connected to.
    #[error("port 0 cannot be connected to; write the port that the other node listens on")]
    PortZero,
    /// An IPv6 address without brackets: where it ends and the port begins is a guess.
    #[error("an IPv6 address is written in brackets: [::1]:9000")]
    BracketsMissing,
    /// `[` without `]`, or something else than `:port` after it.
    #[error("the brackets do not match; an IPv6 address is written as [::1]:9000")]
    BracketsUnmatched,
    /// What stands in the brackets is no IPv6 address.
    #[error("\"{text}\" is not an IPv6 address")]
    Ipv6Invalid {
        /// What stands in the brackets.
        text: Box<str>,
    },
    /// Numbers and dots, but no IPv4 address.
    #[error("\"{text}\" is not an IPv4 address")]
    Ipv4Invalid {
        /// What stands where the host belongs.
        text: Box<str>,
    },
    /// An interface given for an address that belongs to no single link.
    #[error("only link-local addresses (fe80::…) take an interface after %")]
    ZoneNotAllowed,
    /// The interface after `%` is empty or too long.
    #[error("the interface name after % is empty or too long")]
    ZoneInvalid,
    /// No interface of this machine has that name.
    #[error("this machine has no network interface \"{zone}\"")]
    ZoneUnknown {
        /// The name of the interface.
        zone: Box<str>,
    },
    /// A character that no host name has.
    #[error("a host name cannot contain {character:?}")]
    HostCharacter {
        /// The first such character.
        character: char,
    },
    /// A host name with letters beyond ASCII.
    #[error("a host name beyond ASCII is written in its xn-- form")]
    HostNotAscii,
    /// A label is empty, too long, or begins or ends with a hyphen; or the whole name is too long.
    #[error("\"{host}\" is not a host name")]
    HostInvalid {
        /// The name, cut to its first characters.
        host: Box<str>,
    },
    /// A URL was typed.
    #[error("an address is no URL; leave out \"{scheme}://\"")]
    Scheme {
        /// What stands before `://`.
        scheme: Box<str>,
    },
    /// Multicast and broadcast addresses belong to no single node.
    #[error("{ip} is a group address; no node can be connected to there")]
    NotOneNode {
        /// The address.
        ip: IpAddr,
    },
}

impl AddrError {
    /// The stable name for programs: part of the JSON interface.
    pub const fn kind(&self) -> &'static str {
        "bad_request"
    }
}

/// Reads an address to connect to: `192.0.2.1:9000`, `[2001:db8::1]:9000`, `[fe80::1%eth0]:9000` or `host:9000`.
///
/// The unspecified addresses `0.0.0.0` and `[::]`, which a node may print as where it listens, become the loopback
/// address: Linux connects there, other systems would give an error.
pub fn parse_addr(text: &str) -> Result<Endpoint, AddrError> {
    let text = text.trim();
    let (host, port) = split(text)?;
    let port = parse_port(port)?;
    if port == 0 {
        return Err(AddrError::PortZero);
    }
    let ip = match host {
        Host::Bracketed(inside) => match parse_bracketed(inside)? {
            (ip, Zone::None) => IpAddr::V6(ip),
            (ip, Zone::Index(index)) => {
                return Ok(Endpoint::Address(
                    SocketAddrV6::new(ip, port, 0, index).into(),
                ));
            }
            (ip, Zone::Name(zone)) => {
                return Ok(Endpoint::Zoned {
                    ip,
                    zone: zone.into(),
                    port,
                });
            }
        },
        Host::Plain(plain) => match parse_plain(plain)? {
            Plain::Ipv4(ip) => IpAddr::V4(ip),
            Plain::Name(host) => return Ok(Endpoint::Name { host, port }),
        },
    };
    let is_group = ip.to_canonical().is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    if is_group {
        return Err(AddrError::NotOneNode { ip });
    }
    Ok(Endpoint::from(SocketAddr::new(ip, port)))
}

/// Reads an address to listen on: an IP address and a port, where port 0 asks for a free one. `:9000` is every IPv4
/// address of the machine.
pub fn parse_listen_addr(text: &str) -> Result<SocketAddr, AddrError> {
    let text = text.trim();
    if let Some(port) = text.strip_prefix(':')
        && !port.contains(':')
    {
        return Ok(SocketAddr::new(
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            parse_port(port)?,
        ));
    }
    let (host, port) = split(text)?;
    let port = parse_port(port)?;
    let ip = match host {
        Host::Bracketed(inside) => match parse_bracketed(inside)? {
            (ip, Zone::None) => IpAddr::V6(ip),
            (ip, Zone::Index(index)) => return Ok(SocketAddrV6::new(ip, port, 0, index).into()),
            (_, Zone::Name(zone)) => return Err(AddrError::ZoneUnknown { zone: zone.into() }),
        },
        Host::Plain(plain) => match parse_plain(plain)? {
            Plain::Ipv4(ip) => IpAddr::V4(ip),
            Plain::Name(host) => return Err(AddrError::Ipv4Invalid { text: host }),
        },
    };
    Ok(SocketAddr::new(ip.to_canonical(), port))
}

enum Host<'a> {
    Bracketed(&'a str),
    Plain(&'a str),
}

enum Plain {
    Ipv4(Ipv4Addr),
    Name(Box<str>),
}

enum Zone<'a> {
    None,
    Index(u32),
    Name(&'a str),
}

/// Parts host and port. Nothing is checked but the brackets and the number of colons.
fn split(text: &str) -> Result<(Host<'_>, &str), AddrError> {
    if text.is_empty() {
        return Err(AddrError::Empty);
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(AddrError::Scheme {
            scheme: cut(scheme),
        });
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, after) = rest.split_once(']').ok_or(AddrError::BracketsUnmatched)?;
        if after.is_empty() {
            return Err(AddrError::PortMissing { host: cut(text) });
        }
        let port = after
            .strip_prefix(':')
            .ok_or(AddrError::BracketsUnmatched)?;
        return Ok((Host::Bracketed(inside), port));
    }
    match text.matches(':').count() {
        0 => Err(AddrError::PortMissing { host: cut(text) }),
        1 => {
            let (host, port) = text.split_once(':').expect("one colon was counted");
            Ok((Host::Plain(host), port))
        }
        _ => Err(AddrError::BracketsMissing),
    }
}

fn parse_port(port: &str) -> Result<u16, AddrError> {
    // `u16::from_str` accepts a plus sign.
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(AddrError::PortInvalid { port: cut(port) });
    }
    port.parse()
        .map_err(|_| AddrError::PortInvalid { port: cut(port) })
}

fn parse_bracketed(inside: &str) -> Result<(Ipv6Addr, Zone<'_>), AddrError> {
    let (ip, zone) = match inside.split_once('%') {
        Some((ip, zone)) => (ip, Some(zone)),
        None => (inside, None),
    };
    let ip: Ipv6Addr = ip
        .parse()
        .map_err(|_| AddrError::Ipv6Invalid { text: cut(inside) })?;
    let Some(zone) = zone else {
        return Ok((ip, Zone::None));
    };
    let is_link_local = ip.segments()[0] & 0xffc0 == 0xfe80;
    if !is_link_local {
        return Err(AddrError::ZoneNotAllowed);
    }
    if zone.is_empty()
        || zone.len() > ZONE_CHARS_MAX
        || zone.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        return Err(AddrError::ZoneInvalid);
    }
    // RFC 4007 §11.2: a zone is written as the interface's name or as its index.
    match zone.parse::<u32>() {
        Ok(index) => Ok((ip, Zone::Index(index))),
        Err(_) => Ok((ip, Zone::Name(zone))),
    }
}

fn parse_plain(plain: &str) -> Result<Plain, AddrError> {
    if plain.is_empty() {
        return Err(AddrError::Empty);
    }
    if let Ok(ip) = plain.parse::<Ipv4Addr>() {
        return Ok(Plain::Ipv4(ip));
    }
    // RFC 1123 §2.1: the last label of a name is never all digits, so this was meant as an address.
    let last = plain.trim_end_matches('.').rsplit('.').next().unwrap_or("");
    if !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(AddrError::Ipv4Invalid { text: cut(plain) });
    }
    parse_name(plain).map(Plain::Name)
}

fn parse_name(name: &str) -> Result<Box<str>, AddrError> {
    if !name.is_ascii() {
        return Err(AddrError::HostNotAscii);
    }
    // The underscore is no letter of host names, but resolvers and private networks use it.
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(character) = name.chars().find(|&c| !is_allowed(c)) {
        return Err(AddrError::HostCharacter { character });
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=LABEL_CHARS_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > HOST_CHARS_MAX || !name.split('.').all(is_label) {
        return Err(AddrError::HostInvalid { host: cut(name) });
    }
    Ok(name.to_ascii_lowercase().into())
}

/// The canonical form of an address to connect to: v4-mapped becomes IPv4, unspecified becomes loopback.
fn connectable(addr: SocketAddr) -> SocketAddr {
    match addr {
        // Rebuilding it would lose the scope of a link-local address.
        SocketAddr::V6(v6) if v6.scope_id() != 0 => addr,
        _ => {
            let ip = match addr.ip().to_canonical() {
                IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
                ip => ip,
            };
            SocketAddr::new(ip, addr.port())
        }
    }
}

/// At most the first 64 characters, so that an error about 5 MB of input stays short.
fn cut(text: &str) -> Box<str> {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn good(text: &str, want: &str) {
        let endpoint = parse_addr(text).unwrap();
        assert_eq!(endpoint.to_string(), want);
        assert_eq!(
            parse_addr(&endpoint.to_string()).unwrap(),
            endpoint,
            "reads back"
        );
    }

    #[track_caller]
    fn bad(text: &str, want: &str) {
        let error = parse_addr(text).unwrap_err();
        assert!(error.to_string().contains(want), "{text:?}: {error}");
        assert!(error.to_string().len() < 400);
    }

    #[test]
    fn reads_what_users_type() {
        good("127.0.0.1:9000", "127.0.0.1:9000");
        good("  127.0.0.1:9000\n", "127.0.0.1:9000");
        good("[::1]:9000", "[::1]:9000");
        good("[2001:DB8::1]:1", "[2001:db8::1]:1");
        good("[::ffff:192.0.2.1]:65535", "192.0.2.1:65535");
        good("host:9000", "host:9000");
        good("Host.Example.:9000", "host.example:9000");
        good("my_host-2.local:9000", "my_host-2.local:9000");
        good("[fe80::1%eth0]:9000", "[fe80::1%eth0]:9000");
        good("[fe80::1%3]:9000", "[fe80::1%3]:9000");
        good("[fe80::1]:9000", "[fe80::1]:9000");
        good("0.0.0.0:9000", "127.0.0.1:9000");
        good("[::]:9000", "[::1]:9000");
    }

    #[test]
    fn says_what_is_wrong() {
        bad("", "empty");
        bad("   ", "empty");
        bad(":9000", "empty");
        bad("host", "write host:9000");
        bad("[::1]", "write [::1]:9000");
        bad("host:", "not a port");
        bad("host:http", "\"http\" is not a port");
        bad("host:65536", "65535");
        bad("host:+80", "not a port");
        bad("host:-1", "not a port");
        bad("host:0", "port 0");
        bad("::1:9000", "brackets");
        bad("::1", "brackets");
        bad("2001:db8::1:9000", "brackets");
        bad("[::1:9000", "brackets do not match");
        bad("[::1]9000", "brackets do not match");
        bad("[::g]:9000", "not an IPv6 address");
        bad("[127.0.0.1]:9000", "not an IPv6 address");
        bad("[]:9000", "not an IPv6 address");
        bad("300.1.1.1:9000", "not an IPv4 address");
        bad("1.2.3:9000", "not an IPv4 address");
        bad("[2001:db8::1%eth0]:9000", "link-local");
        bad("[fe80::1%]:9000", "interface name");
        bad("ho st:9000", "cannot contain ' '");
        bad("user@host:9000", "cannot contain '@'");
        bad("bücher.example:9000", "xn--");
        bad("-a:9000", "not a host name");
        bad("a..b:9000", "not a host name");
        bad("tcp://host:9000", "leave out \"tcp://\"");
        bad("224.0.0.1:9000", "group address");
        bad("[ff02::1]:9000", "group address");
        bad("255.255.255.255:9000", "group address");
        bad(&format!("{}:9000", "a".repeat(64)), "not a host name");
        bad(&"a".repeat(5_000_000), "port is missing");
        bad(&format!("{}:1", "a.".repeat(2_500_000)), "not a host name");
    }

    #[test]
    fn resolves_interfaces_by_name() {
        let endpoint = parse_addr("[fe80::1%eth0]:9000").unwrap();
        let addr = endpoint
            .resolved(|name| (name == "eth0").then_some(7))
            .unwrap()
            .unwrap();
        assert_eq!(addr.to_string(), "[fe80::1%7]:9000");
        let error = endpoint.resolved(|_| None).unwrap_err();
        assert!(error.to_string().contains("no network interface \"eth0\""));
        assert_eq!(parse_addr("host:1").unwrap().resolved(|_| None), Ok(None));
    }

    #[test]
    fn reads_where_to_listen() {
        assert_eq!(parse_listen_addr("[::]:0").unwrap().to_string(), "[::]:0");
        assert_eq!(
            parse_listen_addr("0.0.0.0:9000").unwrap().to_string(),
            "0.0.0.0:9000"
        );
        assert_eq!(
            parse_listen_addr(":9000").unwrap().to_string(),
            "0.0.0.0:9000"
        );
        assert!(parse_listen_addr("localhost:9000").is_err());
        assert!(parse_listen_addr("::9000").is_err());
    }

    #[test]
    fn never_panics_on_noise() {
        let alphabet: Vec<char> = "[]%:.0129af-_ x\u{fc}\u{1f600}/".chars().collect();
        let mut state = 1u64;
        for _ in 0..200_000 {
            let mut text = String::new();
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            for step in 0..(state >> 60) {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(step);
                text.push(alphabet[(state >> 33) as usize % alphabet.len()]);
            }
            if let Ok(endpoint) = parse_addr(&text) {
                assert_eq!(
                    parse_addr(&endpoint.to_string()).unwrap(),
                    endpoint,
                    "{text:?}"
                );
            }
            let _ = parse_listen_addr(&text);
        }
    }
}
