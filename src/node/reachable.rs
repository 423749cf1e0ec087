//! Which addresses to type on another machine.

use std::net::{IpAddr, SocketAddr};

use mischief_reactor::io::driver::Interface;

/// The addresses of `listen`, those of every interface standing for the unspecified ones: IPv4 first, none twice.
pub(crate) fn expand(listen: &[SocketAddr], interfaces: &[Interface]) -> Vec<SocketAddr> {
    let own: Vec<IpAddr> = interfaces
        .iter()
        .filter(|interface| interface.is_up && !interface.is_loopback)
        .flat_map(|interface| interface.addrs.iter().map(|(ip, _)| *ip))
        .collect();
    let mut found: Vec<SocketAddr> = Vec::new();
    for addr in listen {
        let ips = match addr.ip().is_unspecified() {
            true => own.as_slice(),
            false => &[addr.ip()],
        };
        let same_family = ips.iter().filter(|ip| ip.is_ipv4() == addr.is_ipv4());
        found.extend(
            same_family
                .filter(|ip| leads_here(ip))
                .map(|ip| SocketAddr::new(*ip, addr.port())),
        );
    }
    found.sort_by_key(SocketAddr::is_ipv6);
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|addr| seen.insert(*addr));
    found
}

/// Whether an address means this machine when it is used on another one.
fn leads_here(ip: &IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        // Which link it is on has to be said on the other machine, in that machine's words.
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_loopback() || is_link_local || ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, is_up: bool, addrs: &[&str]) -> Interface {
        Interface {
            name: name.to_owned(),
            index: 1,
            is_up,
            is_loopback: name == "lo",
            is_multicast: true,
            addrs: addrs
                .iter()
                .map(|addr| (addr.parse().unwrap(), 24))
                .collect(),
        }
    }

    #[track_caller]
    fn check(listen: &[&str], want: &[&str]) {
        let interfaces = [
            interface("lo", true, &["127.0.0.1", "::1"]),
            interface(
                "eth0",
                true,
                &["192.0.2.7", "fe80::1", "2001:db8::7", "169.254.3.4"],
            ),
            interface("eth1", false, &["198.51.100.1"]),
        ];
        let listen: Vec<SocketAddr> = listen.iter().map(|addr| addr.parse().unwrap()).collect();
        let found: Vec<String> = expand(&listen, &interfaces)
            .iter()
            .map(SocketAddr::to_string)
            .collect();
        assert_eq!(found, want);
    }

    #[test]
    fn unspecified_addresses_stand_for_those_of_the_interfaces() {
        check(
            &["[::]:9000", "0.0.0.0:9000"],
            &["192.0.2.7:9000", "[2001:db8::7]:9000"],
        );
        check(&["0.0.0.0:1", "0.0.0.0:1"], &["192.0.2.7:1"]);
    }

    #[test]
    fn named_addresses_stay_unless_they_lead_nowhere() {
        check(&["192.0.2.9:5", "127.0.0.1:5", "[::1]:5"], &["192.0.2.9:5"]);
        check(&[], &[]);
    }
}
