//! How many events does a simulated world get through in a second, when it holds thousands of machines?
//!
//! Every machine has a core with one actor on it, which keeps eight connections and says 100 bytes on each of them every
//! five virtual seconds, as keep-alives do. There is no encryption and no peer protocol: this is the world alone, with
//! the actor framework in it. Everything runs on one thread, so the time is that of one processor.

use std::net::IpAddr;
use std::time::Duration;

use mischief_benches::harness::{Bench, Budget};
use mischief_benches::system::process_cpu;
use mischief_reactor::io::driver::ListenOptions;
use mischief_reactor::sim::{LinkOptions, SimWorld};
use mischief_reactor::{Actor, Child, Context, Event, Failure, Limits, SocketId};

const VIRTUAL: Duration = Duration::from_secs(60);
const PERIOD: Duration = Duration::from_secs(5);
const PORT: u16 = 1000;

fn main() {
    let bench = Bench::new("simulator");
    let nodes = bench.size(2000, 70);
    let lossy = LinkOptions {
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(20),
        loss: 0.01,
        ..LinkOptions::default()
    };
    for (what, link) in [("quiet links", LinkOptions::default()), ("1 % loss", lossy)] {
        let (mut rates, mut times) = (Vec::new(), Vec::new());
        for _ in 0..bench.runs() {
            let (events, time) = run(nodes, link);
            rates.push(events / time);
            times.push(time);
        }
        let what = format!("{nodes} machines, 8 connections each, {what}");
        bench.figure(&what, "events/s", Budget::None, &rates);
        let budget = Budget::AtMost(60.0);
        bench.figure(&format!("{what}, a virtual minute"), "s", budget, &times);
    }
}

/// Runs a world for a virtual minute: how many events happened, and the seconds of a processor that it took.
fn run(nodes: usize, link: LinkOptions) -> (f64, f64) {
    let world = SimWorld::new(1);
    world.set_default_link(link);
    let runtimes: Vec<_> = (0..nodes)
        .map(|number| {
            let machine = world.node(&[addr(number)]);
            let limits = Limits::default();
            let runtime = machine
                .start(1, limits)
                .expect("a simulated machine starts");
            let chatter = move || Chatter {
                number,
                nodes,
                sockets: Vec::new(),
            };
            let handle = runtime.handle();
            let spawned = handle.spawn(0, move || Child::new(chatter));
            spawned.expect("there is room for an actor");
            runtime
        })
        .collect();
    let start = process_cpu();
    world.run_for(VIRTUAL);
    let time = (process_cpu() - start).as_secs_f64();
    let stats = world.stats();
    assert_eq!(stats.tcp_endpoints, nodes * 8, "all are connected");
    drop(runtimes);
    (stats.steps as f64, time)
}

fn addr(number: usize) -> IpAddr {
    IpAddr::from([10, (number >> 16) as u8, (number >> 8) as u8, number as u8])
}

/// Dials four others, is dialled by four, and says something to all of them again and again.
struct Chatter {
    number: usize,
    nodes: usize,
    sockets: Vec<SocketId>,
}

impl Actor for Chatter {
    type Message = ();

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let own = (addr(self.number), PORT).into();
        cx.tcp_listen(own, ListenOptions::default())?;
        cx.wake_at(Some(cx.now() + Duration::from_secs(1)), Duration::ZERO);
        Ok(())
    }

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match event {
            Event::Wake => {
                if self.sockets.is_empty() {
                    for step in [1, 5, 17, 60] {
                        let to = (addr((self.number + step) % self.nodes), PORT);
                        cx.tcp_connect(to.into(), None)?;
                    }
                }
                for socket in &self.sockets {
                    cx.write(*socket, &[7; 100])?;
                }
                cx.wake_at(Some(cx.now() + PERIOD), Duration::ZERO);
            }
            Event::Connected { socket } | Event::Accepted { socket, .. } => {
                cx.resume_reading(socket);
                self.sockets.push(socket);
            }
            _ => {}
        }
        Ok(())
    }
}
