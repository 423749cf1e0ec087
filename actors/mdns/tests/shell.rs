//! The actor on simulated machines: sockets, groups, interfaces.

use std::sync::{Arc, Mutex};

use mischief_reactor::Driver;
use mischief_reactor::io::driver::UdpOptions;
use mischief_reactor::sim::{SimNode, SimRuntime, SimWorld};
use mischief_reactor::{Address, Child, Limits};

use super::*;
use crate::actor::{MdnsActor, MdnsMessage, MdnsReport, Observer};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<MdnsEvent>>>);

impl Observer for Log {
    fn event(&self, event: &MdnsEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

struct Machine {
    sim: SimNode,
    runtime: SimRuntime,
    actor: Address<MdnsActor>,
    log: Log,
}

impl Machine {
    fn new(world: &SimWorld, addrs: &[&str], seed: u64) -> Machine {
        let addrs: Vec<IpAddr> = addrs.iter().map(|text| ip(text)).collect();
        Machine::on(world.node(&addrs), seed)
    }

    fn on(sim: SimNode, seed: u64) -> Machine {
        let runtime = sim.start(1, Limits::default()).unwrap();
        let log = Log::default();
        let observer = Arc::new(log.clone());
        let config = Config {
            host: format!("h{seed}"),
            takes_unicast: false,
            seed,
        };
        let make = move || {
            let machine = Mdns::new(config).unwrap();
            Child::once(MdnsActor::new(machine, observer)).name("mdns")
        };
        let actor = runtime.handle().spawn(0, make).unwrap();
        Machine {
            sim,
            runtime,
            actor,
            log,
        }
    }

    fn register(&self, instance: &str) -> ServiceId {
        let service = service(instance);
        let ask = |reply| MdnsMessage::Register { service, reply };
        self.ask(ask).unwrap()
    }

    fn browse(&self) {
        let service_type = "_rats._tcp".parse().unwrap();
        self.ask(|reply| MdnsMessage::Browse {
            service_type,
            reply,
        })
        .unwrap();
    }

    fn report(&self) -> MdnsReport {
        self.ask(|reply| MdnsMessage::Report { reply }).unwrap()
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(mischief_reactor::Reply<T>) -> MdnsMessage + Send + 'static,
    ) -> T {
        self.runtime
            .handle()
            .ask(&self.actor, question, SECOND)
            .wait()
            .expect("it answers")
    }

    fn found(&self) -> Vec<Found> {
        self.report().found
    }
}

#[test]
fn actors_find_each_other_over_both_families_and_lose_each_other() {
    let world = SimWorld::new(1);
    let one = Machine::new(&world, &["10.0.0.1", "fe80::1"], 1);
    let two = Machine::new(&world, &["10.0.0.2", "fe80::2"], 2);
    one.register("one");
    two.browse();
    world.run_for(2 * SECOND);
    let found = two.found();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].addrs, [ip("10.0.0.1"), ip("fe80::1")]);
    assert_eq!(found[0].interface, mischief_reactor::sim::NETWORK_INTERFACE);
    assert_eq!(one.report().host, "h1.local");
    assert_eq!(one.report().interfaces, [found[0].interface]);
    assert!(one.runtime.shutdown(SECOND));
    world.run_for(1500 * MS);
    assert!(two.found().is_empty(), "the goodbye has come");
    let log = two.log.0.lock().unwrap();
    assert!(
        matches!(log.last(), Some(MdnsEvent::Lost { .. })),
        "{log:?}"
    );
}

#[test]
fn a_changed_address_is_told_to_everybody() {
    let world = SimWorld::new(2);
    let one = Machine::new(&world, &["10.0.0.1"], 1);
    let two = Machine::new(&world, &["10.0.0.2"], 2);
    one.register("one");
    two.browse();
    world.run_for(3 * SECOND);
    one.sim.change_addrs(&[ip("10.0.0.9")]);
    world.run_for(5 * SECOND);
    assert_eq!(two.found()[0].addrs, [ip("10.0.0.9")]);
}

#[test]
fn two_actors_on_one_machine_share_the_port() {
    let world = SimWorld::new(3);
    let one = Machine::new(&world, &["10.0.0.1"], 1);
    let log = Log::default();
    let observer = Arc::new(log.clone());
    let config = Config {
        host: "other".to_owned(),
        takes_unicast: false,
        seed: 9,
    };
    let make = move || Child::once(MdnsActor::new(Mdns::new(config).unwrap(), observer));
    let other = one.runtime.handle().spawn(0, make).unwrap();
    one.browse();
    let service = service("other");
    let register = |reply| MdnsMessage::Register { service, reply };
    let id = one
        .runtime
        .handle()
        .ask(&other, register, SECOND)
        .wait()
        .unwrap();
    id.expect("it can be registered");
    world.run_for(3 * SECOND);
    assert_eq!(one.found().len(), 1);
}

#[test]
fn a_port_that_another_program_does_not_share_is_borne() {
    let world = SimWorld::new(4);
    let sim = world.node(&[ip("10.0.0.1")]);
    let mut other = sim.driver();
    let port = "0.0.0.0:5353".parse().unwrap();
    let taken = other.udp_bind(port, UdpOptions::default()).unwrap();
    let one = Machine::on(sim, 1);
    one.register("one");
    world.run_for(3 * SECOND);
    assert!(one.report().interfaces.is_empty());
    other.close(taken, false);
    world.run_for(20 * SECOND);
    assert_eq!(one.report().interfaces.len(), 1, "it is tried again");
    assert!(one.runtime.shutdown(SECOND));
}

#[test]
fn a_machine_without_a_network_waits_for_one() {
    let world = SimWorld::new(5);
    let one = Machine::new(&world, &["10.0.0.1"], 1);
    let two = Machine::new(&world, &["10.0.0.2"], 2);
    one.sim.remove_addr(ip("10.0.0.1"));
    one.register("one");
    two.browse();
    world.run_for(10 * SECOND);
    assert!(two.found().is_empty() && one.report().interfaces.is_empty());
    one.sim.add_addr(ip("10.0.0.3"));
    world.run_for(3 * SECOND);
    assert_eq!(two.found()[0].addrs, [ip("10.0.0.3")]);
}
