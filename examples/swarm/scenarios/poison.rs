//! Nodes that find each other by the exchange while others lie to them: those tell of each other, of machines that are not
//! there, and of a victim under many names.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mischief::{Direction, Identity, Node, PeerId, WeakNode};
use mischief_actors::connection::actor::{Common, Listener, ListenerMessage};
use mischief_actors::connection::admission::Admission;
use mischief_actors::connection::{
    ChannelMessage, Config, ConnectionMessage, Deliver, LargeMessage, Link, Links, ProtocolHash,
    Records, Report, StaticKey,
};
use mischief_actors::peers::{EXCHANGE_CHANNEL, ExchangeMessage, SignedRecord};
use mischief_reactor::io::driver::{ListenOptions, ReusePort};
use mischief_reactor::sim::swarm::{Plan, Program, Scenario, Stage};
use mischief_reactor::sim::{SimNode, SimRuntime};
use mischief_reactor::{Actor, ActorId, Child, Context, Event, Failure, Limits, Message, Random};

use super::party::{PORT, SECOND};

/// Honest nodes and liars.
pub(crate) struct Poison {
    name: &'static str,
    honest: usize,
    liars: usize,
    lasts: Duration,
    /// Peers that an honest node dials by itself.
    outbound: u32,
    /// Names under which the victim is told of, and machines that are not there.
    names: usize,
    /// How many of a hundred peers dialled by honest nodes have to be honest. Chance moves a few dozen connections by a
    /// tenth either way.
    honest_percent: usize,
}

impl Poison {
    pub(crate) const SMALL: Poison = Poison {
        name: "poison",
        honest: 14,
        liars: 6,
        lasts: Duration::from_secs(600),
        outbound: 4,
        names: 300,
        honest_percent: 50,
    };
    pub(crate) const LARGE: Poison = Poison {
        name: "poison-100",
        honest: 70,
        liars: 30,
        lasts: Duration::from_secs(3600),
        outbound: 8,
        names: 10_000,
        honest_percent: 60,
    };

    fn nodes(&self) -> usize {
        self.honest + self.liars
    }
}

/// Every machine is of a group of its own, and none of a private network.
fn addr(machine: usize) -> IpAddr {
    IpAddr::from([20 + (machine / 200) as u8, machine as u8, 7, 1])
}

/// Somebody who has never heard of this network.
const VICTIM: [u8; 4] = [99, 9, 9, 9];

fn identity(number: usize) -> Identity {
    let mut seed = [0x70; 32];
    seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
    Identity::from_seed(&seed)
}

struct Honest {
    _node: Node,
    runtime: SimRuntime,
}

impl Program for Honest {
    fn runtime(&self) -> Option<&SimRuntime> {
        Some(&self.runtime)
    }
}

struct Running(SimRuntime);

impl Program for Running {
    fn runtime(&self) -> Option<&SimRuntime> {
        Some(&self.0)
    }
}

/// The running node of a machine.
type Cell = Rc<RefCell<Option<WeakNode>>>;

fn node_of(cell: &Cell) -> Option<Node> {
    cell.borrow().as_ref()?.upgrade()
}

impl Scenario for Poison {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        "three of ten nodes lie in the exchange: most peers of the honest ones are honest, and a victim is hardly dialled"
    }

    fn plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::new(seed);
        // Peers go and have to be replaced all the time.
        plan.crashes(self.nodes(), self.nodes() / 2, self.lasts / 2);
        plan
    }

    fn run(&self, stage: &Stage) {
        let poison = Arc::new(self.poison());
        let mut cells: Vec<Cell> = Vec::new();
        for number in 0..self.nodes() {
            let cell = Cell::default();
            let (place, poison, outbound) = (cell.clone(), poison.clone(), self.outbound);
            let is_honest = number < self.honest;
            stage.machine(&[addr(number)], move |machine| match is_honest {
                true => start_honest(machine, number, outbound, &place),
                false => start_liar(machine, number, &poison),
            });
            cells.push(cell);
        }
        let victim = start_victim(stage);
        // Each knows two honest ones and a liar.
        let mut prng = stage.prng(1);
        for (number, cell) in cells.iter().enumerate().take(self.honest) {
            let node = node_of(cell).expect("it has started");
            let others = [
                (number + 1) % self.honest,
                prng.below(self.honest as u64) as usize,
                self.honest + prng.below(self.liars as u64) as usize,
            ];
            for other in others.into_iter().filter(|other| *other != number) {
                // Whether it is there now is not what this is about.
                drop(node.connect(&SocketAddr::new(addr(other), PORT).to_string()));
            }
        }
        stage.begin_faults();
        stage.run_for(self.lasts);
        self.check(stage, &cells, &victim);
    }
}

impl Poison {
    /// What every liar tells: all liars, the victim under many names, and machines that are not there.
    fn poison(&self) -> Vec<SignedRecord> {
        let liars = (self.honest..self.nodes()).map(|number| (number, addr(number)));
        let victims = (0..self.names).map(|n| (1_000_000 + n, IpAddr::from(VICTIM)));
        let absent = (0..self.names).map(|n| {
            let ip = IpAddr::from([150 + (n / 250) as u8 % 50, n as u8, 1, 1]);
            (2_000_000 + n, ip)
        });
        let told = liars.chain(victims).chain(absent);
        let sign = |(who, ip)| SignedRecord::sign(&identity(who), 1, [SocketAddr::new(ip, PORT)]);
        told.filter_map(sign).collect()
    }

    fn check(&self, stage: &Stage, cells: &[Cell], victim: &AtomicUsize) {
        let liars: Vec<PeerId> = (self.honest..self.nodes())
            .map(|number| identity(number).peer_id())
            .collect();
        let (mut good, mut bad, mut lonely) = (0, 0, 0);
        for cell in &cells[..self.honest] {
            // Some may be down just now.
            let Some(Ok(peers)) = node_of(cell).map(|node| node.peers().wait_for(SECOND)) else {
                continue;
            };
            let outbound = peers
                .iter()
                .filter(|peer| peer.direction == Direction::Outbound);
            let (liar, honest): (Vec<_>, Vec<_>) =
                outbound.partition(|peer| liars.contains(&peer.peer));
            good += honest.len();
            bad += liar.len();
            lonely += usize::from(honest.is_empty());
        }
        stage.expect(lonely == 0, || format!("{lonely} nodes have only liars"));
        stage.expect(good >= self.honest, || {
            format!("only {good} honest outbound peers")
        });
        stage.expect(good * 100 >= (good + bad) * self.honest_percent, || {
            format!("{good} honest outbound peers and {bad} liars")
        });
        let dialled = victim.load(Ordering::Relaxed);
        let hours = self.lasts.as_secs() as usize / 3600 + 1;
        stage.expect(dialled <= self.honest * hours * 2, || {
            format!("the victim was dialled {dialled} times")
        });
    }
}

fn start_honest(
    machine: &SimNode,
    number: usize,
    outbound: u32,
    cell: &Cell,
) -> Result<Box<dyn Program>, String> {
    let runtime = machine
        .start(1, Limits::default())
        .map_err(|error| error.to_string())?;
    let node = Node::builder()
        .runtime(&runtime.handle())
        .data_dir("/data")
        .identity(identity(number))
        .listen(SocketAddr::new(addr(number), PORT).to_string())
        .protocol("swarm", "1.0")
        .exchange(true)
        .outbound_target(outbound)
        .start()
        .map_err(|error| error.to_string())?;
    *cell.borrow_mut() = Some(node.downgrade());
    Ok(Box::new(Honest {
        _node: node,
        runtime,
    }))
}

/// Takes every connection and answers every question with lies.
struct Liar {
    poison: Arc<Vec<SignedRecord>>,
    liars: usize,
    next: usize,
}

enum LiarMessage {
    Report(Report),
}

impl Message for LiarMessage {}

impl From<Report> for LiarMessage {
    fn from(report: Report) -> LiarMessage {
        LiarMessage::Report(report)
    }
}

impl Actor for Liar {
    type Message = LiarMessage;

    fn handle(
        &mut self,
        LiarMessage::Report(report): LiarMessage,
        cx: &mut Context<'_, Self>,
    ) -> Result<(), Failure> {
        match report {
            Report::Identified(identified) => {
                // One that has gone already needs no answer.
                let _ = cx.send(&identified.connection, ConnectionMessage::Keep);
            }
            Report::Channel(connection, bytes) => {
                let Some(ExchangeMessage::Ask { token, .. }) = ExchangeMessage::decode(&bytes)
                else {
                    return Ok(());
                };
                let mut records: Vec<SignedRecord> = self.poison[..self.liars.min(30)].to_vec();
                let rest = &self.poison[self.liars..];
                for _ in records.len()..50 {
                    self.next = (self.next + 1) % rest.len();
                    records.push(rest[self.next].clone());
                }
                for part in ExchangeMessage::tell(token, &records) {
                    let message = ConnectionMessage::Channel(EXCHANGE_CHANNEL, part.into());
                    let _ = cx.send(&connection, message);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// No thread has anything to say to a liar's peers.
struct Nobody;

impl Links for Nobody {
    fn open(&self, _: ActorId) -> Option<Arc<Link>> {
        None
    }

    fn find(&self, _: ActorId) -> Option<Arc<Link>> {
        None
    }

    fn close(&self, _: ActorId) -> Option<Arc<Link>> {
        None
    }

    fn release(&self, link: Arc<Link>) -> Option<Arc<Link>> {
        Some(link)
    }

    fn set_message_max(&self, _: ActorId, _: u32) {}
}

impl Deliver for Nobody {
    fn records(&self, _: &Arc<Link>, _: Records<'_>) {}

    fn large(&self, _: &Arc<Link>, _: LargeMessage) {}

    fn channel(&self, _: &Arc<Link>, _: ChannelMessage<'_>) {}

    fn failed(&self, _: &str) {}
}

fn start_liar(
    machine: &SimNode,
    number: usize,
    poison: &Arc<Vec<SignedRecord>>,
) -> Result<Box<dyn Program>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let runtime = machine
        .start(1, Limits::default())
        .map_err(|error| text(&error))?;
    let handle = runtime.handle();
    let own = Arc::new(identity(number));
    let is_liar = |record: &&SignedRecord| record.addrs()[0].ip() != IpAddr::from(VICTIM);
    let liar = Liar {
        liars: poison.iter().take_while(is_liar).count(),
        next: number * 7,
        poison: poison.clone(),
    };
    let judge = handle
        .spawn(0, move || Child::once(liar))
        .map_err(|error| text(&error))?;
    let protocol = ProtocolHash::new("swarm", "1.0").ok_or("the protocol's name is short")?;
    let config = Config::new(own, StaticKey::from_secret(&[3; 32]), protocol);
    let common = Arc::new(Common {
        config: parking_lot::Mutex::new(Arc::new(config)),
        deliver: Arc::new(Nobody),
        links: Arc::new(Nobody),
        judge: judge.recipient(),
        admission: Admission::new(Default::default()),
        handle: handle.clone(),
        fallen: Default::default(),
    });
    let listener = handle
        .spawn(0, move || Child::once(Listener::new(common)))
        .map_err(|error| text(&error))?;
    let listen = |reply| ListenerMessage::Listen {
        addr: ([0, 0, 0, 0], PORT).into(),
        reuse_port: ReusePort::No,
        reply,
    };
    let listened = handle.ask(&listener, listen, SECOND).wait();
    listened
        .map_err(|error| text(&error))?
        .map_err(|error| text(&error))?;
    Ok(Box::new(Running(runtime)))
}

/// Counts who connects.
struct Victim(Arc<AtomicUsize>);

impl Actor for Victim {
    type Message = ();

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        cx.tcp_listen(([0, 0, 0, 0], PORT).into(), ListenOptions::default())?;
        Ok(())
    }

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        if let Event::Accepted { socket, .. } = event {
            self.0.fetch_add(1, Ordering::Relaxed);
            cx.close(socket, true);
        }
        Ok(())
    }
}

fn start_victim(stage: &Stage) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counting = count.clone();
    stage.machine(&[IpAddr::from(VICTIM)], move |machine| {
        let runtime = machine
            .start(1, Limits::default())
            .map_err(|error| error.to_string())?;
        let victim = Victim(counting.clone());
        let spawned = runtime.handle().spawn(0, move || Child::once(victim));
        spawned.map_err(|error| error.to_string())?;
        Ok(Box::new(Running(runtime)))
    });
    count
}
