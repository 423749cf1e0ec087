//! Name resolution by the system.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use super::driver::Resolver;
use super::udp::canonical;

/// `getaddrinfo`, with all that the machine's configuration makes of it. It may take many seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    /// An IPv6 literal may stand in brackets. An address comes once.
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(vec![canonical(SocketAddr::new(ip, port))]);
        }
        let mut addrs = Vec::new();
        for addr in (bare, port).to_socket_addrs()?.map(canonical) {
            if !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
        if addrs.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{host} has no address"),
            ));
        }
        Ok(addrs)
    }
}
