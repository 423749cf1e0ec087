//! The world's name table.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard};

use crate::io::driver::Resolver;

/// The names of a world: the same for all its nodes.
#[derive(Default)]
pub(super) struct SimResolver {
    names: Mutex<BTreeMap<String, Vec<IpAddr>>>,
}

impl SimResolver {
    /// Gives a name its addresses, in order of preference. None at all removes it.
    pub(super) fn set(&self, name: &str, addrs: &[IpAddr]) {
        let key = key(name);
        if addrs.is_empty() {
            self.names().remove(&key);
        } else {
            self.names().insert(key, addrs.to_vec());
        }
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<String, Vec<IpAddr>>> {
        self.names
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Resolver for SimResolver {
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let with_port = |addr: &IpAddr| SocketAddr::new(*addr, port);
        // An IPv6 literal may stand in brackets.
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if let Ok(addr) = bare.parse::<IpAddr>() {
            return Ok(vec![with_port(&addr.to_canonical())]);
        }
        let key = key(host);
        if let Some(addrs) = self.names().get(&key) {
            return Ok(addrs.iter().map(with_port).collect());
        }
        if key == "localhost" {
            let both = [
                IpAddr::from(Ipv6Addr::LOCALHOST),
                Ipv4Addr::LOCALHOST.into(),
            ];
            return Ok(both.iter().map(with_port).collect());
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("no address for the name {host:?}"),
        ))
    }
}

/// Names are compared without case, and a dot at the end says nothing new (RFC 1034 §3.1).
fn key(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
