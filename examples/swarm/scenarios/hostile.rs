//! Sockets that mean ill, and peers that are slow or greedy: every cap holds after every step, and good peers get in.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use mischief_actors::connection::Kind;
use mischief_actors::connection::admission::AdmissionLimits;
use mischief_actors::connection::{LINK_QUEUE_HIGH, Preface, ProtocolHash, WIRE_VERSIONS};
use mischief_reactor::sim::swarm::{Fault, Plan, Scenario, Stage};
use mischief_reactor::sim::{Pause, Prng};
use mischief_reactor::{Actor, Child, Context, Event, Failure, Limits, Random, SocketId};

use super::bare::{self, Bare, Setup};
use super::party::{Desk, Footprint, PORT, SECOND, SharedDesk, addr, join, lock, watch};

/// The memory that the runtime under attack may use.
const MEMORY_MAX: usize = 8 << 20;
/// What comes in one go when the bound has just not been reached: what one turn reads of one socket.
const MEMORY_SLACK: usize = 512 << 10;
const REASSEMBLY_MAX: usize = 3 << 20;
/// Authenticated peers.
const PEERS: usize = 4;
/// Beside connections and those that wait: listeners, and sockets that were just accepted or are being closed.
const SOCKETS_SPARE: u32 = 80;

/// One target and many that mean ill.
pub(crate) struct Hostile {
    name: &'static str,
    intruders: usize,
    sockets: usize,
    lasts: Duration,
}

impl Hostile {
    pub(crate) const SMALL: Hostile = Hostile {
        name: "hostile",
        intruders: 8,
        sockets: 25,
        lasts: Duration::from_secs(4),
    };
    pub(crate) const LARGE: Hostile = Hostile {
        name: "hostile-5000",
        intruders: 50,
        sockets: 100,
        lasts: Duration::from_secs(60),
    };
}

impl Scenario for Hostile {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        "floods, slowloris, garbage, slow readers, greedy senders: every cap holds at every step, good peers get in"
    }

    fn plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::new(seed);
        // Peers that stop reading: their kernels take what there is room for, and then nobody takes anything.
        for machine in 1..=PEERS {
            let at = plan.prng().up_to(self.lasts / 2);
            let lasts = plan.prng().up_to(self.lasts);
            let pause = Pause::Stop;
            plan.add(
                at,
                Fault::Pause {
                    machine,
                    pause,
                    lasts,
                },
            );
        }
        plan
    }

    fn run(&self, stage: &Stage) {
        let mut prng = stage.prng(1);
        let target = start_target(stage);
        let idle = Footprint::of(&target.handle.snapshot().expect("it runs"));
        watch_caps(stage, &target, idle.sockets);
        let desks: Vec<SharedDesk> = (1..=PEERS).map(Desk::new).collect();
        for desk in &desks {
            lock(desk).takes_anything = true;
            join(stage, desk, 1, |builder| builder);
        }
        watch(stage, "the peers see nothing wrong", &desks);
        let hoarder = bare::identity().peer_id();
        for desk in &desks {
            lock(desk).dial(hoarder, 0);
        }
        let connected = || target.peers() == PEERS;
        stage.eventually("the peers are connected", 20 * SECOND, connected);
        for intruder in 0..self.intruders {
            // Several prefixes, and several addresses in each.
            let number = (100 + intruder % 5) << 8 | intruder;
            let sockets = 1 + prng.below(self.sockets as u64) as usize;
            start_intruder(stage, number, sockets, &mut prng);
        }
        stage.begin_faults();
        let over = stage.world().elapsed() + self.lasts;
        while stage.world().elapsed() < over {
            for desk in &desks {
                let size = [100, 10_000, 900_000][prng.below(3) as usize];
                let _ = lock(desk).send(&hoarder, size);
            }
            for link in target.links() {
                let body = vec![7; prng.below(60_000) as usize];
                let _ = link.queue(&target.handle, Kind::Bytes, "", &body);
            }
            stage.run_for(Duration::from_millis(20 + prng.below(200)));
            target.hoard.consume(prng.below(4) as usize);
        }
        self.let_a_good_peer_in(stage);
        self.clean_up(stage, &target, &idle);
    }
}

impl Hostile {
    fn let_a_good_peer_in(&self, stage: &Stage) {
        let number = 200 << 8;
        let good = Desk::new(number);
        join(stage, &good, 1, |builder| builder);
        let node = lock(&good).node().expect("it has just started");
        let began = stage.world().elapsed();
        let connected = node
            .connect(&format!("{}:{PORT}", addr(0)))
            .wait_for(10 * SECOND);
        let took = stage.world().elapsed() - began;
        stage.expect(connected.is_ok() && took < 2 * SECOND, || {
            format!("a good peer got {connected:?} after {took:?}")
        });
    }

    /// Everybody goes; nothing is left of them.
    fn clean_up(&self, stage: &Stage, target: &Bare, idle: &Footprint) {
        for machine in 1..stage.machines() {
            stage
                .node(machine)
                .crash(mischief_reactor::sim::Crash::Kill);
        }
        let footprint = || Footprint::of(&target.handle.snapshot().expect("it runs"));
        stage.run_for(60 * SECOND);
        target.hoard.consume(usize::MAX);
        stage.run_for(30 * SECOND);
        stage.expect(footprint() == *idle, || {
            format!("it keeps {:?}, more than {idle:?}", footprint())
        });
        let counts = target.common.admission.counts();
        let used = target.reassembly.used();
        stage.expect(counts.sockets == 0 && used == 0, || {
            format!("{counts:?}, {used} bytes of reassembly")
        });
    }
}

fn start_target(stage: &Stage) -> Bare {
    let started: Rc<RefCell<Option<Bare>>> = Rc::default();
    let starting = started.clone();
    stage.machine(&[addr(0)], move |machine| {
        let mut runtime = Limits::default();
        runtime.memory_max = MEMORY_MAX;
        let setup = Setup {
            runtime,
            timing: bare::timing(),
            reassembly_bytes_max: REASSEMBLY_MAX,
        };
        let (bare, program) = Bare::start(machine, &setup)?;
        *starting.borrow_mut() = Some(bare);
        Ok(program)
    });
    let bare = started.borrow_mut().take();
    bare.expect("it has just started")
}

fn watch_caps(stage: &Stage, target: &Bare, sockets_idle: u32) {
    let admission = target.common.admission.clone();
    let (handle, reassembly) = (target.handle.clone(), target.reassembly.clone());
    let (hoard, waiting_max) = (target.hoard.clone(), target.waiting_max());
    let node = stage.node(0).id();
    let limits = AdmissionLimits::default();
    let sockets_max = sockets_idle + limits.sockets_max + PEERS as u32 + 1 + SOCKETS_SPARE;
    stage.always("every cap holds", move |world| {
        if world.last_run() != Some(node) {
            return Ok(());
        }
        let counts = admission.counts();
        let crowd = admission.crowd();
        let open = world.open_sockets(node);
        let caps = [
            (
                "sockets that wait",
                counts.sockets as usize,
                limits.sockets_max as usize,
            ),
            (
                "handshakes",
                counts.running as usize,
                limits.handshakes_max as usize,
            ),
            (
                "handshakes of one address",
                crowd.running_of_address as usize,
                limits.handshakes_per_address_max as usize,
            ),
            (
                "handshakes of one prefix",
                crowd.running_of_prefix as usize,
                limits.handshakes_per_prefix_max as usize,
            ),
            ("sockets", open as usize, sockets_max as usize),
            (
                "bytes of memory",
                handle.memory().used(),
                MEMORY_MAX + MEMORY_SLACK,
            ),
            ("bytes of reassembly", reassembly.used(), REASSEMBLY_MAX),
            (
                "bytes owed to one peer",
                hoard.owed_max(),
                (256 << 10) + REASSEMBLY_MAX,
            ),
        ];
        for (what, value, max) in caps {
            if value > max {
                return Err(format!("{value} {what}, more than {max}"));
            }
        }
        if waiting_max() > LINK_QUEUE_HIGH + 60_100 {
            return Err(format!("{} bytes wait for one peer", waiting_max()));
        }
        hoard.failed().map_or(Ok(()), Err)
    });
}

/// How often an intruder opens sockets in place of those that were closed, and says a byte on the others.
const BEAT: Duration = Duration::from_millis(100);

/// What a bad socket says, and whether something more and again.
#[derive(Clone)]
struct Manners {
    first: Vec<u8>,
    says_more: bool,
    again: bool,
}

/// Opens sockets, misbehaves on each, and opens another when one is closed.
struct Intruder {
    to: SocketAddr,
    sockets: usize,
    manners: Manners,
    open: Vec<SocketId>,
    /// How many were closed and are to be opened again.
    missing: usize,
}

fn start_intruder(stage: &Stage, number: usize, sockets: usize, prng: &mut Prng) {
    let mut garbage = vec![0; prng.below(70_000) as usize];
    prng.fill(&mut garbage);
    let first = match prng.below(6) {
        0 => Vec::new(),
        1 => preface()[..20].to_vec(),
        2 => preface(),
        3 => first_flight(),
        4 => [first_flight(), garbage].concat(),
        _ => garbage,
    };
    let manners = Manners {
        first,
        says_more: prng.below(2) == 0,
        again: prng.below(3) != 0,
    };
    stage.machine(&[addr(number)], move |machine| {
        let runtime = machine
            .start(1, Limits::default())
            .map_err(|error| error.to_string())?;
        let intruder = Intruder {
            to: (addr(0), PORT).into(),
            sockets,
            manners: manners.clone(),
            open: Vec::new(),
            missing: 0,
        };
        let spawned = runtime.handle().spawn(0, move || Child::once(intruder));
        spawned.map_err(|error| error.to_string())?;
        Ok(Box::new(runtime))
    });
}

fn preface() -> Vec<u8> {
    let protocol = ProtocolHash::new("swarm", "1.0").expect("it is short");
    Preface::new(WIRE_VERSIONS, protocol).as_bytes().to_vec()
}

/// The first flight of a dialler whose handshake does not go on: the preface and an ephemeral key.
fn first_flight() -> Vec<u8> {
    let mut flight = preface();
    flight.extend_from_slice(&[0, 32]);
    // Any 32 bytes are a point of the curve or of its twist.
    flight.extend_from_slice(&[9; 32]);
    flight
}

impl Actor for Intruder {
    type Message = ();

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        for _ in 0..self.sockets {
            cx.tcp_connect(self.to, None)?;
        }
        cx.wake_at(Some(cx.now() + BEAT), Duration::ZERO);
        Ok(())
    }

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match event {
            Event::Connected { socket } => {
                cx.resume_reading(socket);
                self.open.push(socket);
                if !self.manners.first.is_empty() {
                    // A socket that broke meanwhile says so by itself.
                    let _ = cx.write(socket, &self.manners.first);
                }
            }
            Event::ReadClosed { socket } | Event::Closed { socket, .. } => {
                self.open.retain(|open| *open != socket);
                cx.close(socket, true);
                self.missing += usize::from(self.manners.again);
            }
            Event::Wake => {
                for _ in 0..std::mem::take(&mut self.missing) {
                    cx.tcp_connect(self.to, None)?;
                }
                if self.manners.says_more {
                    for socket in self.open.clone() {
                        let _ = cx.write(socket, b"m");
                    }
                }
                cx.wake_at(Some(cx.now() + BEAT), Duration::ZERO);
            }
            _ => {}
        }
        Ok(())
    }
}
