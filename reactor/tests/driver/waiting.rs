use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::time::Duration;

use mischief_reactor::Instant;
use mischief_reactor::io::driver::{ListenOptions, UdpOptions, Woken};

use crate::fixture::{Core, FAMILIES, Family, Fixture, PATIENCE};

pub(crate) fn a_deadline_is_kept_and_never_early(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let mut ready = Vec::new();
    for nanos in [1, 999_999, 1_000_000, 2_500_001, 20_000_000] {
        let deadline = core.driver.now() + Duration::from_nanos(nanos);
        let woken = fixture
            .wait(&mut *core.driver, Some(deadline), &mut ready)
            .expect("waits");
        assert!(core.driver.now() >= deadline);
        assert_eq!(woken, Woken::default());
        assert!(ready.is_empty());
    }
}

pub(crate) fn a_past_deadline_polls(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let (listener, addr) = core.listen(fixture.ip(Family::V4));
    let mut ready = Vec::new();
    for deadline in [Instant::ZERO, core.driver.now()] {
        fixture
            .wait(&mut *core.driver, Some(deadline), &mut ready)
            .expect("polls");
        assert!(ready.is_empty());
    }
    let client = core
        .driver
        .tcp_connect(addr, None)
        .expect("begins to connect");
    core.ready(fixture, listener);
    let (server, _) = core.accept(fixture, listener);
    core.connected(fixture, client);
    core.write_all(fixture, client, b"x");
    core.ready(fixture, server);
    core.write_all(fixture, server, b"y");
    if fixture.is_real() {
        // Loopback has delivered it by now, so a mere poll tells.
        fixture
            .wait(&mut *core.driver, Some(Instant::ZERO), &mut ready)
            .expect("polls");
        assert!(
            ready
                .iter()
                .any(|ready| ready.socket == client && ready.readable),
            "{ready:?}"
        );
    }
}

pub(crate) fn wakes_before_the_wait_merge(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let waker = core.driver.waker();
    let mut ready = Vec::new();
    for _ in 0..3 {
        for _ in 0..100 {
            waker.wake();
        }
        let woken = fixture
            .wait(&mut *core.driver, None, &mut ready)
            .expect("waits");
        assert!(woken.by_waker);
        let deadline = core.driver.now() + Duration::from_millis(20);
        let woken = fixture
            .wait(&mut *core.driver, Some(deadline), &mut ready)
            .expect("waits");
        assert_eq!(woken, Woken::default(), "a hundred wakes are one");
        assert!(core.driver.now() >= deadline);
    }
    assert!(ready.is_empty());
}

pub(crate) fn a_wake_ends_a_wait_without_deadline(fixture: &mut dyn Fixture) {
    if !fixture.is_real() {
        return;
    }
    let mut core = Core::new(fixture);
    let waker = core.driver.waker();
    let (begin, begun) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        while begun.recv().is_ok() {
            waker.wake();
        }
    });
    for _ in 0..200 {
        begin.send(()).expect("the thread listens");
        let woken = fixture
            .wait(&mut *core.driver, None, &mut Vec::new())
            .expect("waits");
        assert!(woken.by_waker);
    }
    drop(begin);
    thread.join().expect("ends");
    // A waker may outlive its driver.
    let waker = core.driver.waker();
    drop(core);
    waker.wake();
}

pub(crate) fn idle_is_asleep(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    // All kinds of sockets that have nothing to do.
    for family in FAMILIES {
        let ip = fixture.ip(family);
        core.listen(ip);
        core.pair(fixture, family);
        core.driver
            .udp_bind(SocketAddr::new(ip, 0), UdpOptions::default())
            .expect("binds");
    }
    if fixture.is_real() {
        let _ = core.driver.watch_interfaces();
    }
    core.pause(fixture, Duration::from_millis(20));
    let mut ready = Vec::new();
    let slept = sleeps();
    let deadline = core.driver.now() + Duration::from_millis(300);
    let woken = fixture
        .wait(&mut *core.driver, Some(deadline), &mut ready)
        .expect("waits");
    assert_eq!((woken, ready.len()), (Woken::default(), 0));
    assert!(
        core.driver.now() >= deadline,
        "one wait lasts to its deadline"
    );
    if let (Some(before), Some(after)) = (slept, sleeps()) {
        assert!(
            after - before <= 3,
            "the thread slept {} times in one wait",
            after - before
        );
    }
}

/// How often this thread has gone to sleep, on Linux.
fn sleeps() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}

pub(crate) fn clocks_and_random_bytes(fixture: &mut dyn Fixture) {
    let (mut core, mut other) = (Core::new(fixture), Core::new(fixture));
    let mut before = core.driver.now();
    for _ in 0..100 {
        let now = other.driver.now();
        assert!(now >= before, "one clock for all cores of a process");
        before = core.driver.now();
        assert!(before >= now);
    }
    let wall = core.driver.wall();
    assert!(wall <= core.driver.wall());
    let (mut first, mut second) = ([0; 32], [0; 32]);
    core.driver.random(&mut first);
    core.driver.random(&mut second);
    assert_ne!(first, second);
    core.driver.random(&mut []);
}

pub(crate) fn jobs_run_elsewhere(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let (sender, receiver) = mpsc::channel();
    let waker = core.driver.waker();
    for n in 0..5 {
        let (sender, waker) = (sender.clone(), waker.clone());
        let job = Box::new(move || {
            sender.send(n).expect("the test listens");
            waker.wake();
        });
        assert!(core.driver.offload(job).is_ok());
    }
    let mut done = Vec::new();
    let deadline = core.driver.now() + PATIENCE;
    while done.len() < 5 {
        fixture
            .wait(&mut *core.driver, Some(deadline), &mut Vec::new())
            .expect("waits");
        assert!(core.driver.now() < deadline);
        done.extend(receiver.try_iter());
    }
    if fixture.is_real() {
        assert_eq!(done, [0, 1, 2, 3, 4]);
    }
}

pub(crate) fn names_and_literals(fixture: &mut dyn Fixture) {
    let resolver = Core::new(fixture).driver.resolver();
    let addrs = resolver
        .resolve("localhost", 80)
        .expect("every machine knows it");
    assert!(!addrs.is_empty());
    assert!(
        addrs
            .iter()
            .all(|addr| addr.ip().is_loopback() && addr.port() == 80),
        "{addrs:?}"
    );
    for (text, want) in [
        ("192.0.2.7", "192.0.2.7:5"),
        ("2001:db8::7", "[2001:db8::7]:5"),
        ("[2001:db8::7]", "[2001:db8::7]:5"),
        ("::ffff:192.0.2.7", "192.0.2.7:5"),
    ] {
        let Ok(want) = want.parse::<SocketAddr>() else {
            panic!("an address")
        };
        assert_eq!(resolver.resolve(text, 5).expect("a literal"), [want]);
    }
    assert!(resolver.resolve("name.invalid", 5).is_err());
    assert!(resolver.resolve("", 5).is_err());
}

pub(crate) fn interfaces_are_listed(fixture: &mut dyn Fixture) {
    let interfaces = Core::new(fixture).driver.interfaces().expect("listed");
    for family in FAMILIES {
        let ip = fixture.ip(family);
        let has = |addrs: &[(IpAddr, u8)]| addrs.iter().any(|(addr, _)| *addr == ip);
        let interface = interfaces
            .iter()
            .find(|interface| has(&interface.addrs))
            .expect("has our address");
        assert!(interface.is_up && interface.index > 0 && !interface.name.is_empty());
        if fixture.is_real() {
            assert!(interface.is_loopback);
            let prefix = interface
                .addrs
                .iter()
                .find(|(addr, _)| *addr == ip)
                .expect("just found")
                .1;
            assert_eq!(prefix, if ip.is_ipv4() { 8 } else { 128 });
        }
    }
    assert!(
        interfaces
            .iter()
            .map(|interface| interface.index)
            .is_sorted()
    );
}

pub(crate) fn interface_changes_are_told(fixture: &mut dyn Fixture) {
    if fixture.is_real() && cfg!(target_os = "linux") {
        in_child("interface_changes_are_told", true, || {
            watch_changes(fixture)
        });
    }
}

/// In a network of its own, where the test may change what it likes.
fn watch_changes(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    core.driver.watch_interfaces().expect("watches");
    core.driver
        .watch_interfaces()
        .expect("asking twice is no error");
    assert!(!core.driver.interfaces().expect("listed")[0].is_up);
    set_loopback_up();
    let deadline = core.driver.now() + PATIENCE;
    let woken = fixture
        .wait(&mut *core.driver, Some(deadline), &mut Vec::new())
        .expect("waits");
    assert!(woken.interfaces_changed && !woken.by_waker);
    let loopback = core.driver.interfaces().expect("listed").remove(0);
    assert!(loopback.is_up && loopback.is_loopback);
    // All notices have been taken, so the next wait lasts.
    core.pause(fixture, Duration::from_millis(20));
    let deadline = core.driver.now() + Duration::from_millis(20);
    let woken = fixture
        .wait(&mut *core.driver, Some(deadline), &mut Vec::new())
        .expect("waits");
    assert_eq!(woken, Woken::default());
    let addr = SocketAddr::new(fixture.ip(Family::V4), 0);
    core.driver
        .tcp_listen(addr, ListenOptions::default())
        .expect("the interface is usable");
}

#[cfg(target_os = "linux")]
fn set_loopback_up() {
    use std::os::fd::AsRawFd;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("binds");
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the call reads one `ifreq`.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
}

#[cfg(not(target_os = "linux"))]
fn set_loopback_up() {}

/// Runs `body` in a process of its own: the test program, started again for this one test. With few descriptors, or in
/// a network of its own; where the system does not allow the latter the test is skipped.
#[cfg(target_os = "linux")]
pub(crate) fn in_child(test: &str, own_network: bool, body: impl FnOnce()) {
    use std::os::unix::process::CommandExt;
    const MARK: &str = "MISCHIEF_TEST_CHILD";
    if std::env::var_os(MARK).is_some() {
        return body();
    }
    // The thread of a test has its full name, unless the tests run one after the other.
    let name = std::thread::current()
        .name()
        .filter(|name| name.contains("::"))
        .unwrap_or(test)
        .to_owned();
    let mut command = std::process::Command::new(std::env::current_exe().expect("known"));
    command
        .args([&name, "--nocapture", "--test-threads=1"])
        .env(MARK, "1");
    // SAFETY: takes nothing.
    let user_map = format!("0 {} 1", unsafe { libc::getuid() });
    // SAFETY: between fork and exec only these system calls are made, and no memory is allocated.
    unsafe {
        command.pre_exec(move || {
            let outcome = if own_network {
                enter_own_network(&user_map)
            } else {
                let limit = libc::rlimit {
                    rlim_cur: 200,
                    rlim_max: 200,
                };
                libc::setrlimit(libc::RLIMIT_NOFILE, &limit)
            };
            if outcome == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
    match command.output() {
        Ok(output) => {
            let (out, err) = (
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
            );
            assert!(output.status.success(), "{out}{err}");
            assert!(!out.contains(" 0 passed"), "the test has run: {out}");
        }
        Err(error) if own_network => eprintln!("skipped, no network of its own: {error}"),
        Err(error) => panic!("{error}"),
    }
}

/// Moves the process into a network of its own, as whose administrator it counts.
///
/// # Safety
///
/// For a process with one thread.
#[cfg(target_os = "linux")]
unsafe fn enter_own_network(user_map: &str) -> libc::c_int {
    // SAFETY: the path has an end, and as many bytes are written as the text has.
    unsafe {
        if libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) != 0 {
            return -1;
        }
        let file = libc::open(
            c"/proc/self/uid_map".as_ptr(),
            libc::O_WRONLY | libc::O_CLOEXEC,
        );
        let written = libc::write(file, user_map.as_ptr().cast(), user_map.len());
        if written < 0 { -1 } else { 0 }
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn in_child(_test: &str, _own_network: bool, _body: impl FnOnce()) {}
