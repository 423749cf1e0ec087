//! What stands below the suite: how to get drivers, and how time passes for them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use mischief_reactor::Instant;
use mischief_reactor::io::driver::{Driver, ListenOptions, Ready, SocketId, Woken};

/// No test waits longer than this for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A machine with drivers: the real one or a simulated one.
pub(crate) trait Fixture {
    /// A driver for a further core of the machine.
    fn driver(&mut self) -> Box<dyn Driver>;

    /// Lets a driver wait. A simulation moves its world on until the driver has something or the deadline has come.
    fn wait(
        &mut self,
        driver: &mut dyn Driver,
        deadline: Option<Instant>,
        ready: &mut Vec<Ready>,
    ) -> io::Result<Woken>;

    /// An address of the machine to bind to.
    fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// A directory for one test, which is there and empty.
    fn directory(&mut self) -> String;

    /// Whether the kernel of a real machine answers: then what only a kernel does is tested too.
    fn is_real(&self) -> bool;

    /// Whether datagrams tell their destination, interface, hop limit and congestion bits.
    fn has_packet_info(&self) -> bool;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// One core: a driver and what it has reported.
pub(crate) struct Core {
    pub(crate) driver: Box<dyn Driver>,
    ready: Vec<Ready>,
}

impl Core {
    pub(crate) fn new(fixture: &mut dyn Fixture) -> Core {
        Core {
            driver: fixture.driver(),
            ready: Vec::new(),
        }
    }

    /// Waits until the driver reports `socket`.
    #[track_caller]
    pub(crate) fn ready(&mut self, fixture: &mut dyn Fixture, socket: SocketId) -> Ready {
        let deadline = self.driver.now() + PATIENCE;
        loop {
            if let Some(at) = self.ready.iter().position(|ready| ready.socket == socket) {
                return self.ready.remove(at);
            }
            fixture
                .wait(&mut *self.driver, Some(deadline), &mut self.ready)
                .expect("waits");
            assert!(
                self.driver.now() < deadline,
                "nothing happened to {socket:?}; {:?}",
                self.ready
            );
        }
    }

    /// Repeats `attempt` after each report of `socket` until it gives something else than `WouldBlock`. The first
    /// attempt comes before any wait.
    #[track_caller]
    pub(crate) fn until<T>(
        &mut self,
        fixture: &mut dyn Fixture,
        socket: SocketId,
        mut attempt: impl FnMut(&mut dyn Driver) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match attempt(&mut *self.driver) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready(fixture, socket)
                }
                outcome => return outcome,
            };
        }
    }

    /// Waits for `duration`, and returns what was reported until then.
    pub(crate) fn pause(&mut self, fixture: &mut dyn Fixture, duration: Duration) -> Vec<Ready> {
        let deadline = self.driver.now() + duration;
        while self.driver.now() < deadline {
            fixture
                .wait(&mut *self.driver, Some(deadline), &mut self.ready)
                .expect("waits");
        }
        std::mem::take(&mut self.ready)
    }

    #[track_caller]
    pub(crate) fn listen(&mut self, ip: IpAddr) -> (SocketId, SocketAddr) {
        let listener = self
            .driver
            .tcp_listen(SocketAddr::new(ip, 0), ListenOptions::default())
            .expect("listens");
        let addr = self.driver.local_addr(listener).expect("bound");
        assert_ne!(addr.port(), 0);
        (listener, addr)
    }

    #[track_caller]
    pub(crate) fn accept(
        &mut self,
        fixture: &mut dyn Fixture,
        listener: SocketId,
    ) -> (SocketId, SocketAddr) {
        self.until(fixture, listener, |driver| driver.tcp_accept(listener))
            .expect("accepts")
    }

    /// Waits for the outcome of a connect.
    #[track_caller]
    pub(crate) fn connected(
        &mut self,
        fixture: &mut dyn Fixture,
        socket: SocketId,
    ) -> Option<io::Error> {
        while !self.ready(fixture, socket).writable {}
        self.driver.take_error(socket)
    }

    /// A connection whose ends both belong to this core: the dialler's and the listener's.
    #[track_caller]
    pub(crate) fn pair(
        &mut self,
        fixture: &mut dyn Fixture,
        family: Family,
    ) -> (SocketId, SocketId) {
        let (listener, addr) = self.listen(fixture.ip(family));
        let client = self
            .driver
            .tcp_connect(addr, None)
            .expect("begins to connect");
        let (server, _) = self.accept(fixture, listener);
        assert!(self.connected(fixture, client).is_none());
        self.driver.close(listener, false);
        (client, server)
    }

    #[track_caller]
    pub(crate) fn write_all(
        &mut self,
        fixture: &mut dyn Fixture,
        socket: SocketId,
        mut bytes: &[u8],
    ) {
        while !bytes.is_empty() {
            let written = self
                .until(fixture, socket, |driver| driver.write(socket, bytes))
                .expect("writes");
            bytes = &bytes[written..];
        }
    }

    #[track_caller]
    pub(crate) fn read_exact(
        &mut self,
        fixture: &mut dyn Fixture,
        socket: SocketId,
        len: usize,
    ) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while filled < len {
            let room = &mut bytes[filled..];
            let read = self
                .until(fixture, socket, |driver| driver.read(socket, room))
                .expect("reads");
            assert_ne!(read, 0, "the stream ended after {filled} of {len} bytes");
            filled += read;
        }
        bytes
    }

    /// One read, waiting for it: 0 is the end of the stream.
    pub(crate) fn read_some(
        &mut self,
        fixture: &mut dyn Fixture,
        socket: SocketId,
    ) -> io::Result<usize> {
        let mut bytes = [0; 4096];
        self.until(fixture, socket, |driver| driver.read(socket, &mut bytes))
    }

    /// Reads and throws away until `WouldBlock`. How much it was.
    #[track_caller]
    pub(crate) fn drain(&mut self, socket: SocketId) -> usize {
        let mut bytes = vec![0; 65536];
        let mut total = 0;
        loop {
            match self.driver.read(socket, &mut bytes) {
                Ok(0) => panic!("the stream ended"),
                Ok(read) => total += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return total,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// The machine that runs the tests.
pub(crate) struct Real {
    make: Box<dyn FnMut() -> io::Result<Box<dyn Driver>>>,
    directories: Vec<String>,
}

impl Real {
    pub(crate) fn new(make: impl FnMut() -> io::Result<Box<dyn Driver>> + 'static) -> Real {
        Real {
            make: Box::new(make),
            directories: Vec::new(),
        }
    }
}

impl Fixture for Real {
    fn driver(&mut self) -> Box<dyn Driver> {
        (self.make)().expect("the system has room for a driver")
    }

    fn wait(
        &mut self,
        driver: &mut dyn Driver,
        deadline: Option<Instant>,
        ready: &mut Vec<Ready>,
    ) -> io::Result<Woken> {
        driver.wait(deadline, ready)
    }

    fn directory(&mut self) -> String {
        let mut random = [0; 8];
        self.driver().random(&mut random);
        let name = format!("mischief-driver-{:016x}", u64::from_le_bytes(random));
        let path = std::env::temp_dir()
            .join(name)
            .to_str()
            .expect("a temporary directory in Unicode")
            .to_owned();
        std::fs::create_dir(&path).expect("the temporary directory can be written");
        self.directories.push(path.clone());
        path
    }

    fn is_real(&self) -> bool {
        true
    }

    fn has_packet_info(&self) -> bool {
        cfg!(any(target_os = "linux", target_os = "android"))
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        for directory in &self.directories {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}
