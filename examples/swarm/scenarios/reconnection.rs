//! A hub that all others are connected to goes away and comes back: so do they, each by itself, and not all at once.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use mischief::{Identity, Node, NodeBuilder, WeakNode};
use mischief_reactor::Limits;
use mischief_reactor::sim::swarm::{Fault, Plan, Program, Scenario, Stage};
use mischief_reactor::sim::{Crash, SimNode, SimRuntime, Unsynced};

use super::party::{PORT, SECOND, addr};

/// A hub and its leaves.
pub(crate) struct Reconnection {
    name: &'static str,
    leaves: usize,
}

/// When the hub's machine goes off, after all are connected.
const GOES_AFTER: Duration = Duration::from_secs(70);
/// How long it is off.
const DOWN: Duration = Duration::from_secs(20);

impl Reconnection {
    pub(crate) const SMALL: Reconnection = Reconnection {
        name: "reconnection",
        leaves: 40,
    };
    pub(crate) const LARGE: Reconnection = Reconnection {
        name: "reconnection-1000",
        leaves: 1_000,
    };
}

struct Running {
    _node: Node,
    runtime: SimRuntime,
}

impl Program for Running {
    fn runtime(&self) -> Option<&SimRuntime> {
        Some(&self.runtime)
    }
}

/// The running node of a machine.
type Cell = Rc<RefCell<Option<WeakNode>>>;

fn start(
    machine: &SimNode,
    number: usize,
    cell: &Cell,
    build: &dyn Fn(NodeBuilder) -> NodeBuilder,
) -> Result<Box<dyn Program>, String> {
    let runtime = machine
        .start(1, Limits::default())
        .map_err(|error| error.to_string())?;
    let mut seed = [0x4b; 32];
    seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
    let builder = Node::builder()
        .runtime(&runtime.handle())
        .identity(Identity::from_seed(&seed))
        .listen(format!("0.0.0.0:{PORT}"))
        .protocol("swarm", "1.0");
    let node = build(builder).start().map_err(|error| error.to_string())?;
    *cell.borrow_mut() = Some(node.downgrade());
    Ok(Box::new(Running {
        _node: node,
        runtime,
    }))
}

impl Scenario for Reconnection {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        "a hub loses power and comes back: 95 of 100 leaves are back within 60 s, and no second sees a wave of them"
    }

    fn plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::new(seed);
        plan.add(
            GOES_AFTER,
            Fault::Crash {
                machine: 0,
                crash: Crash::PowerCut(Unsynced::Lost),
                down: DOWN,
            },
        );
        plan
    }

    fn run(&self, stage: &Stage) {
        let max = self.leaves as u32 + 10;
        let mut cells: Vec<Cell> = Vec::new();
        for number in 0..=self.leaves {
            let cell = Cell::default();
            let place = cell.clone();
            stage.machine(&[addr(number)], move |machine| {
                start(machine, number, &place, &|builder| {
                    let mut limits = mischief::Limits::default();
                    // A dead hub is noticed soon, and not by all at once.
                    limits.timing.keep_alive = 10 * SECOND;
                    limits.admission.handshakes_max = 256;
                    builder
                        .max_peers(if number == 0 { max } else { 8 })
                        .limits(limits)
                })
            });
            cells.push(cell);
        }
        let node = |number: usize| -> Node {
            let cell = cells[number].borrow();
            let node = cell.as_ref().and_then(WeakNode::upgrade);
            node.expect("it runs")
        };
        let hub: SocketAddr = (addr(0), PORT).into();
        // Not all at once: that is what this is about.
        let leaves: Vec<usize> = (1..=self.leaves).collect();
        for leaves in leaves.chunks(20) {
            let dial = |leaf: &usize| node(*leaf).connect(&hub.to_string());
            let calls: Vec<_> = leaves.iter().map(dial).collect();
            for call in calls {
                if let Err(error) = call.wait_for(60 * SECOND) {
                    stage.fail(&format!("a dial failed: {error}"));
                }
            }
        }
        stage.begin_faults();
        stage.run_for(GOES_AFTER + DOWN + SECOND / 2);
        let back = || node(0).peer_ids().len();
        let mut per_second = Vec::new();
        let mut before = back();
        for _ in 0..60 {
            stage.run_for(SECOND);
            let now = back();
            per_second.push(now.saturating_sub(before));
            before = now;
        }
        let wanted = self.leaves * 95 / 100;
        stage.expect(before >= wanted, || {
            format!("{before} of {} are back: {per_second:?}", self.leaves)
        });
        let most = per_second.iter().max().copied().unwrap_or(0);
        stage.expect(most <= self.leaves / 4 + 10, || {
            format!("a wave: {per_second:?}")
        });
    }
}
