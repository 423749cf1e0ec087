//! Tests of the simulator through its public face, driving the drivers by hand.

mod actors;
mod capture;
mod disk;
mod links;
mod nats;
mod power;
mod run;
mod scale;
mod streams;
mod swarm;
mod udp;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{SimDriver, SimNode, SimWorld};
use crate::io::driver::{Driver, ListenOptions, Ready, SocketId, Woken};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Two machines with a driver each.
struct Pair {
    world: SimWorld,
    left: SimNode,
    right: SimNode,
    a: SimDriver,
    b: SimDriver,
}

impl Pair {
    fn new(seed: u64) -> Pair {
        let world = SimWorld::new(seed);
        let left = world.node(&[ip("10.0.0.1"), ip("fd00::1")]);
        let right = world.node(&[ip("10.0.0.2"), ip("fd00::2")]);
        let (a, b) = (left.driver(), right.driver());
        Pair {
            world,
            left,
            right,
            a,
            b,
        }
    }

    /// A connection from `a` to `b`: the socket at each.
    fn connected(&mut self) -> (SocketId, SocketId) {
        let (to, _) = self.listener();
        self.connected_to(to)
    }

    fn listener(&mut self) -> (SocketAddr, SocketId) {
        let to = self.right.addr(0);
        let listener = self.b.tcp_listen(to, ListenOptions::default()).unwrap();
        (self.b.local_addr(listener).unwrap(), listener)
    }

    fn connected_to(&mut self, to: SocketAddr) -> (SocketId, SocketId) {
        let dialled = self.a.tcp_connect(to, None).unwrap();
        let ready = wait(&mut self.b);
        let (accepted, from) = self.b.tcp_accept(ready.socket).unwrap();
        assert_eq!(from, self.a.local_addr(dialled).unwrap());
        assert!(wait_for(&mut self.a, dialled).writable);
        assert!(self.a.take_error(dialled).is_none());
        assert!(wait_for(&mut self.b, accepted).writable);
        (dialled, accepted)
    }
}

/// What one wait of at most ten seconds reports.
fn wait_all(driver: &mut SimDriver) -> (Vec<Ready>, Woken) {
    let deadline = driver.now() + Duration::from_secs(10);
    let mut ready = Vec::new();
    let woken = driver.wait(Some(deadline), &mut ready).unwrap();
    (ready, woken)
}

/// The one socket that becomes ready within ten seconds.
fn wait(driver: &mut SimDriver) -> Ready {
    let (ready, _) = wait_all(driver);
    assert_eq!(ready.len(), 1, "{ready:?}");
    ready[0]
}

/// What becomes ready on `socket`, passing over others, within ten seconds.
fn wait_for(driver: &mut SimDriver, socket: SocketId) -> Ready {
    loop {
        let (ready, _) = wait_all(driver);
        assert!(!ready.is_empty(), "nothing became ready");
        if let Some(found) = ready.iter().find(|ready| ready.socket == socket) {
            return *found;
        }
    }
}

/// Asserts that nothing becomes ready within ten seconds.
fn assert_quiet(driver: &mut SimDriver) {
    let (ready, woken) = wait_all(driver);
    assert_eq!((ready, woken), (Vec::new(), Woken::default()));
}

/// Bytes that show where they belong.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 251 + i) as u8).collect()
}
