//! Thousands of nodes in one world.

use std::time::Duration;

use mischief::{Identity, Node, NodeBuilder};
use mischief_reactor::Limits;
use mischief_reactor::sim::swarm::{Program, Scenario, Stage};
use mischief_reactor::sim::{SimNode, SimRuntime};

use super::party::{PORT, SECOND, addr};

/// Nodes in a ring, each connected to some before it and some after it.
pub(crate) struct Scale {
    name: &'static str,
    nodes: usize,
    lasts: Duration,
}

impl Scale {
    pub(crate) const LARGE: Scale = Scale {
        name: "scale-2000",
        nodes: 2_000,
        lasts: Duration::from_secs(60),
    };
    /// Each node dials those that are so many places further, so it has twice as many connections.
    const STEPS: [usize; 4] = [1, 7, 61, 499];
}

struct Running {
    node: Node,
    runtime: SimRuntime,
}

impl Program for Running {
    fn runtime(&self) -> Option<&SimRuntime> {
        Some(&self.runtime)
    }
}

fn start(machine: &SimNode, number: usize) -> Result<Running, String> {
    let runtime = machine
        .start(1, Limits::default())
        .map_err(|error| error.to_string())?;
    let mut seed = [0x5c; 32];
    seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
    let mut limits = mischief::Limits::default();
    limits.timing.keep_alive = 10 * SECOND;
    let builder: NodeBuilder = Node::builder()
        .runtime(&runtime.handle())
        .identity(Identity::from_seed(&seed))
        .limits(limits)
        .listen(format!("0.0.0.0:{PORT}"))
        .protocol("swarm", "1.0");
    let node = builder.start().map_err(|error| error.to_string())?;
    Ok(Running { node, runtime })
}

impl Scenario for Scale {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        "nodes with eight connections each and keep-alives, real handshakes and ciphers included"
    }

    fn run(&self, stage: &Stage) {
        let nodes: Vec<Node> = (0..self.nodes)
            .map(|number| {
                let started = std::rc::Rc::new(std::cell::RefCell::new(None));
                let starting = started.clone();
                stage.machine(&[addr(number)], move |machine| {
                    let running = start(machine, number)?;
                    *starting.borrow_mut() = Some(running.node.clone());
                    Ok(Box::new(running))
                });
                let node = started.borrow_mut().take();
                node.expect("it has just started")
            })
            .collect();
        let calls: Vec<_> = (0..self.nodes)
            .flat_map(|number| Scale::STEPS.map(|step| (number, (number + step) % self.nodes)))
            .map(|(from, to)| nodes[from].connect(&format!("{}:{PORT}", addr(to))))
            .collect();
        for call in calls {
            if let Err(error) = call.wait_for(60 * SECOND) {
                stage.fail(&format!("a dial failed: {error}"));
            }
        }
        let all = 2 * Scale::STEPS.len();
        let is_whole = || nodes.iter().all(|node| node.peer_ids().len() == all);
        // Counting all nodes at every step would take longer than all that they do.
        for _ in 0..10 {
            stage.run_for(SECOND);
            if is_whole() {
                break;
            }
        }
        stage.run_for(self.lasts.saturating_sub(stage.world().elapsed()));
        stage.expect(is_whole(), || "a connection is missing".to_owned());
    }
}
