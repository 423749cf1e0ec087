//! The actor framework on simulated machines: what holds on real cores holds here, from one seed.

use std::net::SocketAddr;
use std::time::Duration;

use super::ip;
use crate::actor::{
    Actor, Address, AskError, Child, Context, Event, Failure, Handle, Limits, Message, Reply,
    StopReason,
};
use crate::io::driver::{ListenOptions, OpenOptions, SocketId};
use crate::sim::{LinkOptions, SimRuntime, SimWorld};

const SECOND: Duration = Duration::from_secs(1);

/// Sends back every byte it is sent over TCP.
struct Echo {
    to: SocketAddr,
}

impl Actor for Echo {
    type Message = ();

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        cx.tcp_listen(self.to, ListenOptions::default())?;
        cx.register("echo")?;
        Ok(())
    }

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match event {
            Event::Accepted { socket, .. } => cx.resume_reading(socket),
            Event::Data { socket, bytes } => drop(cx.write(socket, bytes)?),
            Event::ReadClosed { socket } => cx.close(socket, false),
            _ => {}
        }
        Ok(())
    }
}

/// Dials, sends `want` bytes, and answers its question once all have come back.
struct Client {
    to: SocketAddr,
    want: usize,
    got: usize,
    socket: Option<SocketId>,
    reply: Option<Reply<Result<usize, String>>>,
}

struct Ask(Reply<Result<usize, String>>);

impl Message for Ask {}

impl Actor for Client {
    type Message = Ask;

    fn handle(&mut self, ask: Ask, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        self.reply = Some(ask.0);
        self.socket = Some(cx.tcp_connect(self.to, None)?);
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match event {
            Event::Connected { socket } => {
                cx.resume_reading(socket);
                cx.write(socket, &super::pattern(self.want))?;
            }
            Event::Data { bytes, .. } => {
                self.got += bytes.len();
                if self.got == self.want {
                    self.answer(Ok(self.got));
                    cx.stop();
                }
            }
            Event::ConnectFailed { error, .. } | Event::Closed { error, .. } => {
                self.answer(Err(error.kind().to_string()));
            }
            _ => {}
        }
        Ok(())
    }
}

impl Client {
    fn answer(&mut self, result: Result<usize, String>) {
        if let Some(reply) = self.reply.take() {
            reply.send(result);
        }
    }
}

fn client(handle: &Handle, core: usize, to: SocketAddr, want: usize) -> Address<Client> {
    let client = Client {
        to,
        want,
        got: 0,
        socket: None,
        reply: None,
    };
    handle.spawn(core, move || Child::once(client)).unwrap()
}

/// A server and a machine of clients, two cores each.
fn echo_world(seed: u64) -> (SimWorld, SocketAddr, [SimRuntime; 2]) {
    let world = SimWorld::new(seed);
    let server = world.node(&[ip("10.0.0.1")]);
    let clients = world.node(&[ip("10.0.0.2")]);
    let to = server.addr(7);
    let runtimes = [&server, &clients].map(|node| node.start(2, Limits::default()).unwrap());
    let child = move || Child::new(move || Echo { to });
    runtimes[0].handle().spawn(0, child).unwrap();
    world.run_for(SECOND);
    (world, to, runtimes)
}

fn echo_run(seed: u64) -> u64 {
    let (world, to, runtimes) = echo_world(seed);
    world.set_default_link(LinkOptions {
        loss: 0.02,
        ..LinkOptions::default()
    });
    let handle = runtimes[1].handle();
    let answers: Vec<_> = (0..10)
        .map(|number| {
            let client = client(&handle, number % 2, to, 100_000);
            handle.ask(&client, Ask, 60 * SECOND)
        })
        .collect();
    for answer in answers {
        assert_eq!(answer.wait().unwrap(), Ok(100_000), "seed {seed}");
    }
    for runtime in runtimes {
        assert!(runtime.shutdown(5 * SECOND), "seed {seed}");
    }
    world.run_for(300 * SECOND);
    assert_eq!(world.stats().tcp_endpoints, 0, "seed {seed}");
    world.trace_hash()
}

#[test]
fn actors_echo_over_lossy_links_and_their_runs_repeat() {
    let mut hashes: Vec<u64> = (0..10)
        .map(|seed| {
            let hash = echo_run(seed);
            let again = std::thread::spawn(move || echo_run(seed)).join().unwrap();
            assert_eq!(hash, again, "seed {seed}");
            hash
        })
        .collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 10);
}

#[test]
fn actors_learn_that_nobody_listens() {
    let (_world, to, runtimes) = echo_world(1);
    let nowhere = SocketAddr::new(to.ip(), 8);
    let handle = runtimes[1].handle();
    let client = client(&handle, 1, nowhere, 1);
    let answer = handle.ask(&client, Ask, SECOND).wait().unwrap();
    assert_eq!(answer, Err("connection refused".to_owned()));
}

#[test]
fn an_answer_that_never_comes_times_out_in_virtual_time() {
    let (world, _, runtimes) = echo_world(2);
    let handle = runtimes[1].handle();
    let far = SocketAddr::from(([10, 0, 0, 99], 1));
    let lost = client(&handle, 0, far, 1);
    let asked = world.elapsed();
    let error = handle.ask(&lost, Ask, 30 * SECOND).wait().unwrap_err();
    assert!(matches!(error, AskError::TimedOut { .. }), "{error}");
    let waited = world.elapsed() - asked;
    assert!(waited >= 30 * SECOND && waited < 31 * SECOND, "{waited:?}");
    handle.stop(lost.id());
    let reason = handle.stopped(lost.id()).wait().unwrap();
    assert!(matches!(
        reason,
        StopReason::Requested | StopReason::Unknown
    ));
}

/// Waits on a core, which is an error, and writes a file on the offload pool, which is not.
struct Waits;

enum Order {
    Wait(Reply<Result<(), AskError>>),
    Save(Reply<usize>),
    Saved(usize, Reply<usize>),
}

impl Message for Order {}

impl Actor for Waits {
    type Message = Order;

    fn handle(&mut self, order: Order, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match order {
            Order::Wait(reply) => {
                let answer = cx.handle().ask(&cx.address(), Order::Save, SECOND);
                reply.send(answer.wait().map(drop));
            }
            Order::Save(reply) => {
                let job = |outside: &crate::actor::Outside| {
                    let options = OpenOptions {
                        write: true,
                        create: true,
                        ..OpenOptions::default()
                    };
                    let file = outside.disk.open("/state", options).unwrap();
                    file.write_at(0, b"saved").unwrap();
                    file.sync().unwrap();
                    file.len().unwrap() as usize
                };
                cx.offload(job, |size| Order::Saved(size.unwrap(), reply));
            }
            Order::Saved(size, reply) => reply.send(size),
        }
        Ok(())
    }
}

#[test]
fn a_core_must_not_wait_and_the_offload_pool_may_work() {
    let world = SimWorld::new(3);
    let node = world.node(&[]);
    let runtime = node.start(1, Limits::default()).unwrap();
    let handle = runtime.handle();
    let waits = handle.spawn(0, || Child::once(Waits)).unwrap();
    let answer = handle.ask(&waits, Order::Wait, SECOND).wait().unwrap();
    assert!(matches!(answer, Err(AskError::OnCoreThread)), "{answer:?}");
    assert_eq!(handle.ask(&waits, Order::Save, SECOND).wait().unwrap(), 5);
    assert_eq!(node.disk().used(), 5);
}

#[test]
fn a_dropped_runtime_is_gone_and_the_machine_can_start_another() {
    let (world, to, [server, clients]) = echo_world(4);
    let cores = server.cores().to_vec();
    assert!(server.is_running());
    drop(server);
    assert!(cores.iter().all(|core| !world.is_running(*core)));
    let handle = clients.handle();
    let refused = client(&handle, 0, to, 10);
    assert!(handle.ask(&refused, Ask, SECOND).wait().unwrap().is_err());
    assert!(clients.shutdown(SECOND));
}
