//! Whole nodes on simulated networks that find each other with nothing but multicast DNS.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mischief::network_key::NetworkKey;
use mischief::reactor::Limits;
use mischief::reactor::sim::{SimNode, SimRuntime, SimWorld};
use mischief::{MdnsEvent, Node, NodeBuilder, NodeEvent, Service, Source, Txt};

const SECOND: Duration = Duration::from_secs(1);

struct Machine {
    node: Node,
    events: Arc<Mutex<Vec<NodeEvent>>>,
    _runtime: SimRuntime,
    _sim: SimNode,
}

impl Machine {
    fn new(world: &SimWorld, ip: &str, build: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Machine {
        let ip: IpAddr = ip.parse().expect("it is an address");
        let sim = world.node(&[ip]);
        let runtime = sim.start(1, Limits::default()).expect("it starts");
        let builder = Node::builder()
            .runtime(&runtime.handle())
            .listen("0.0.0.0:9000")
            .protocol("chat", "1.0")
            .mdns(true);
        let node = build(builder).start().expect("it starts");
        let events = Arc::new(Mutex::new(Vec::new()));
        let log = events.clone();
        node.on_event(move |event| log.lock().expect("no panic").push(event.clone()));
        Machine {
            node,
            events,
            _runtime: runtime,
            _sim: sim,
        }
    }

    fn count(&self, is_it: impl Fn(&NodeEvent) -> bool) -> usize {
        let events = self.events.lock().expect("no panic");
        events.iter().filter(|event| is_it(event)).count()
    }
}

#[test]
fn nodes_find_each_other_and_connect_once() {
    for seed in 0..8 {
        let world = SimWorld::new(seed);
        let machines: Vec<Machine> = (1..=4)
            .map(|number| Machine::new(&world, &format!("10.0.0.{number}"), |builder| builder))
            .collect();
        world.run_for(5 * SECOND);
        for machine in &machines {
            assert_eq!(machine.node.peer_ids().len(), 3, "seed {seed}");
            let connected = |event: &NodeEvent| matches!(event, NodeEvent::PeerConnected { .. });
            assert_eq!(machine.count(connected), 3, "nobody twice");
            let found = machine.node.found_peers().wait().expect("it runs");
            assert_eq!(found.len(), 3);
            for candidate in found {
                assert_eq!(candidate.sources, [Source::Mdns]);
                assert!(candidate.is_connected);
                assert_ne!(candidate.peer_id, Some(machine.node.id()), "never itself");
            }
        }
    }
}

#[test]
fn nodes_of_other_protocols_and_networks_are_not_dialled() {
    let world = SimWorld::new(1);
    let one = Machine::new(&world, "10.0.0.1", |builder| builder);
    let other = Machine::new(&world, "10.0.0.2", |builder| {
        builder.protocol("chat", "2.0")
    });
    let key = || NetworkKey::new([7; 32]);
    let private = Machine::new(&world, "10.0.0.3", |builder| builder.network_key(key()));
    let friend = Machine::new(&world, "10.0.0.4", |builder| builder.network_key(key()));
    world.run_for(30 * SECOND);
    assert_eq!(private.node.peer_ids(), [friend.node.id()]);
    assert!(one.node.peer_ids().is_empty() && other.node.peer_ids().is_empty());
    let found = one.node.found_peers().wait().expect("it runs");
    assert!(found.is_empty(), "not even candidates: {found:?}");
    let services = one.node.mdns().report().wait().expect("it runs");
    assert_eq!(services.found.len(), 3, "but they are seen");
}

#[test]
fn a_node_on_loopback_alone_says_nothing() {
    let world = SimWorld::new(2);
    let other = Machine::new(&world, "10.0.0.1", |builder| builder);
    let sim = world.node(&["10.0.0.2".parse().expect("an address")]);
    let runtime = sim.start(1, Limits::default()).expect("it starts");
    let builder = Node::builder()
        .runtime(&runtime.handle())
        .listen("127.0.0.1:9000");
    let local = builder
        .protocol("chat", "1.0")
        .mdns(true)
        .start()
        .expect("it starts");
    world.run_for(10 * SECOND);
    assert!(!local.mdns().is_running());
    assert!(local.peer_ids().is_empty() && other.node.peer_ids().is_empty());
}

#[test]
fn a_node_that_stops_is_lost_and_one_that_comes_back_is_found_again() {
    let world = SimWorld::new(3);
    let one = Machine::new(&world, "10.0.0.1", |builder| builder);
    let two = Machine::new(&world, "10.0.0.2", |builder| builder);
    world.run_for(5 * SECOND);
    assert_eq!(one.node.peer_ids(), [two.node.id()]);
    two.node.mdns().stop();
    world.run_for(2 * SECOND);
    let lost = |event: &NodeEvent| matches!(event, NodeEvent::Mdns(MdnsEvent::Lost { .. }));
    assert_eq!(one.count(lost), 1);
    assert_eq!(one.node.peer_ids().len(), 1, "the connection stays");
    two.node.mdns().start().expect("it runs");
    world.run_for(5 * SECOND);
    let found = |event: &NodeEvent| matches!(event, NodeEvent::Mdns(MdnsEvent::Found(_)));
    assert_eq!(one.count(found), 2);
}

#[test]
fn a_node_has_as_many_peers_as_it_may_and_no_more() {
    let world = SimWorld::new(4);
    let modest = Machine::new(&world, "10.0.0.1", |builder| builder.max_peers(2));
    let _others: Vec<Machine> = (2..=6)
        .map(|number| Machine::new(&world, &format!("10.0.0.{number}"), |builder| builder))
        .collect();
    world.run_for(60 * SECOND);
    assert_eq!(modest.node.peer_ids().len(), 2);
}

#[test]
fn services_of_programs_are_registered_found_and_taken_back() {
    let world = SimWorld::new(5);
    let one = Machine::new(&world, "10.0.0.1", |builder| builder);
    let two = Machine::new(&world, "10.0.0.2", |builder| builder);
    let kind: mischief::ServiceType = "_http._tcp".parse().expect("it is a type");
    let service = Service {
        instance: "Attic".to_owned(),
        service_type: kind.clone(),
        port: 8080,
        txt: Txt::new([("path", Some(&b"/"[..]))]).expect("it is small"),
    };
    let id = one
        .node
        .mdns()
        .register(service.clone())
        .wait()
        .expect("there is room");
    let error = one
        .node
        .mdns()
        .register(service)
        .wait()
        .expect_err("it is there");
    assert_eq!(error.kind(), "duplicate");
    let browse = two
        .node
        .mdns()
        .browse(kind.clone())
        .wait()
        .expect("there is room");
    world.run_for(3 * SECOND);
    let is_attic = |event: &NodeEvent| matches!(event, NodeEvent::Mdns(MdnsEvent::Found(found)) if found.instance == "Attic" && found.port == 8080);
    assert_eq!(two.count(is_attic), 1);
    two.node
        .mdns()
        .verify("Attic", kind.clone())
        .wait()
        .expect("it is known");
    world.run_for(15 * SECOND);
    let lost = |event: &NodeEvent| matches!(event, NodeEvent::Mdns(MdnsEvent::Lost { .. }));
    assert_eq!(two.count(lost), 0, "it has answered");
    one.node
        .mdns()
        .unregister(id)
        .wait()
        .expect("it is registered");
    world.run_for(2 * SECOND);
    assert_eq!(two.count(lost), 1);
    two.node.mdns().stop_browse(browse).wait().expect("it runs");
    let error = two
        .node
        .mdns()
        .stop_browse(browse)
        .wait()
        .expect_err("it has ended");
    assert_eq!(error.kind(), "gone");
}
