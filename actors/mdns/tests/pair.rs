//! Machines among themselves, on a wire that carries everything to everybody.

use super::*;

/// Machines on one link, each with an address of its own.
struct Lan {
    rigs: Vec<Rig>,
}

impl Lan {
    fn new(count: u8) -> Lan {
        let rig = |number: u8| {
            let addr = format!("192.0.2.{}", number + 1);
            let mut rig = Rig::with(u64::from(number), true, &[link(LINK, &[(&addr, 24)])]);
            rig.mdns = Mdns::new(Config {
                host: format!("h{number}"),
                takes_unicast: true,
                seed: u64::from(number),
            })
            .unwrap();
            rig.mdns
                .handle_links(rig.now, &[link(LINK, &[(&addr, 24)])]);
            rig
        };
        Lan {
            rigs: (0..count).map(rig).collect(),
        }
    }

    /// Everything that is due, and half a millisecond on the way.
    fn run_for(&mut self, duration: Duration) {
        for _ in 0..duration.as_millis() {
            for from in 0..self.rigs.len() {
                self.rigs[from].run_for(MS);
                let source = format!("192.0.2.{}:5353", from + 1);
                for sent in self.rigs[from].take() {
                    let bytes = sent.packet.encode(wire::SENT_BYTES_MAX).unwrap();
                    let to = sent.to.ip().to_string();
                    for (number, rig) in self.rigs.iter_mut().enumerate() {
                        let own = format!("192.0.2.{}", number + 1);
                        if sent.to.ip().is_multicast() || own == to {
                            let arrival = Arrival {
                                interface: LINK,
                                from: source.parse().unwrap(),
                                to: Some(sent.to.ip()),
                                data: &bytes,
                            };
                            rig.mdns.handle_datagram(rig.now, arrival);
                            rig.drain();
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn machines_find_each_other_within_a_second_of_being_announced() {
    let mut lan = Lan::new(4);
    for (number, rig) in lan.rigs.iter_mut().enumerate() {
        rig.register(&format!("service {number}"));
        rig.browse();
    }
    lan.run_for(2 * SECOND);
    for rig in &lan.rigs {
        assert_eq!(rig.found().len(), 3, "{:?}", rig.found());
    }
}

#[test]
fn who_comes_later_is_told_within_a_quarter_of_a_second() {
    let mut lan = Lan::new(2);
    lan.rigs[0].register("early");
    lan.run_for(10 * SECOND);
    lan.rigs[1].browse();
    lan.run_for(250 * MS);
    assert_eq!(lan.rigs[1].found().len(), 1);
}

#[test]
fn one_name_twice_becomes_two_names() {
    let mut lan = Lan::new(3);
    for rig in &mut lan.rigs {
        rig.register("same");
    }
    lan.run_for(10 * SECOND);
    let mut names: Vec<String> = lan.rigs.iter().map(Rig::instance).collect();
    names.sort_unstable();
    assert_eq!(names, ["same", "same (2)", "same (3)"]);
}

#[test]
fn who_comes_later_with_a_name_that_is_taken_gets_the_other() {
    let mut lan = Lan::new(2);
    lan.rigs[0].register("same");
    lan.run_for(5 * SECOND);
    lan.rigs[1].register("same");
    lan.run_for(5 * SECOND);
    assert_eq!(lan.rigs[0].instance(), "same");
    assert_eq!(lan.rigs[1].instance(), "same (2)");
}

#[test]
fn a_goodbye_is_seen_within_a_second_and_a_half() {
    let mut lan = Lan::new(2);
    lan.rigs[0].register("a");
    lan.rigs[1].browse();
    lan.run_for(3 * SECOND);
    assert_eq!(lan.rigs[1].found().len(), 1);
    let now = lan.rigs[0].now;
    lan.rigs[0].mdns.stop(now);
    lan.rigs[0].drain();
    lan.run_for(1500 * MS);
    assert!(lan.rigs[1].found().is_empty());
}

#[test]
fn a_killed_machine_is_forgotten_when_somebody_new_asks() {
    let mut lan = Lan::new(3);
    lan.rigs[0].register("a");
    lan.rigs[1].browse();
    lan.run_for(5 * SECOND);
    let now = lan.rigs[0].now;
    lan.rigs[0].mdns.handle_links(now, &[]);
    lan.rigs[2].browse();
    lan.run_for(13 * SECOND);
    assert!(lan.rigs[1].found().is_empty());
}

#[test]
fn a_quiet_network_stays_quiet() {
    let mut lan = Lan::new(3);
    for (number, rig) in lan.rigs.iter_mut().enumerate() {
        rig.register(&format!("service {number}"));
        rig.browse();
    }
    lan.run_for(300 * SECOND);
    for rig in &lan.rigs {
        let lost = |event: &MdnsEvent| matches!(event, MdnsEvent::Lost { .. });
        assert!(!rig.events.iter().any(lost), "{:?}", rig.events);
    }
    let before: Vec<u32> = lan
        .rigs
        .iter()
        .map(|rig| rig.mdns.stats().packets_out)
        .collect();
    lan.run_for(120 * SECOND);
    for (rig, before) in lan.rigs.iter().zip(before) {
        let sent = rig.mdns.stats().packets_out - before;
        assert!(sent <= 2, "{sent} packets in two minutes");
        assert_eq!(rig.found().len(), 2);
    }
}

#[test]
fn an_instance_that_is_verified_answers() {
    let mut lan = Lan::new(2);
    lan.rigs[0].register("a");
    lan.rigs[1].browse();
    lan.run_for(3 * SECOND);
    let now = lan.rigs[1].now;
    let kind = "_rats._tcp".parse().unwrap();
    lan.rigs[1].mdns.verify(now, "a", &kind).unwrap();
    lan.run_for(20 * SECOND);
    assert_eq!(lan.rigs[1].found().len(), 1);
}
