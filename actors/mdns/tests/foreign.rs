//! RFC 6762 §6 (ports), §11 (sources), §18 (message format), and packets that nobody honest sends.

use super::*;

#[test]
fn a_response_from_another_port_is_not_heard() {
    let mut rig = Rig::browsing(1);
    rig.deliver_from("192.0.2.9:5354", &announcement("b", "x.local", "192.0.2.9"));
    assert!(rig.found().is_empty());
    assert_eq!(rig.mdns.stats().foreign, 1);
}

#[test]
fn a_unicast_response_has_to_come_from_the_link() {
    let mut rig = Rig::browsing(1);
    rig.deliver_unicast(
        "198.51.100.9:5353",
        &announcement("b", "x.local", "192.0.2.9"),
    );
    assert!(rig.found().is_empty());
    assert_eq!(rig.mdns.stats().foreign, 1);
    rig.deliver_unicast("192.0.2.9:5353", &announcement("b", "x.local", "192.0.2.9"));
    assert_eq!(rig.found().len(), 1);
}

#[test]
fn what_was_sent_to_the_group_is_from_the_link_whatever_its_source() {
    let mut rig = Rig::browsing(1);
    rig.deliver_from(
        "198.51.100.9:5353",
        &announcement("b", "x.local", "198.51.100.9"),
    );
    assert_eq!(rig.found().len(), 1, "two networks on one wire");
}

#[test]
fn a_source_that_is_not_on_the_link_gets_nothing_sent() {
    let (mut rig, _) = Rig::established(1);
    let query = query("h.local", Kind::A);
    rig.deliver_unicast("198.51.100.9:5353", &query);
    rig.deliver_unicast("198.51.100.9:40000", &query);
    rig.deliver_from("198.51.100.9:40000", &query);
    assert!(rig.take().is_empty());
    let mut wants_unicast = query.clone();
    wants_unicast.questions[0].wants_unicast = true;
    rig.deliver_from("198.51.100.9:5353", &wants_unicast);
    assert_eq!(rig.only().to, "224.0.0.251:5353".parse().unwrap());
}

#[test]
fn a_datagram_of_which_nobody_knows_the_target_is_taken_for_unicast() {
    let mut rig = Rig::browsing(1);
    let bytes = announcement("b", "x.local", "192.0.2.9")
        .encode(1400)
        .unwrap();
    rig.deliver_bytes(LINK, "198.51.100.9:5353", None, &bytes);
    assert!(rig.found().is_empty());
    rig.deliver_bytes(9, "192.0.2.9:5353", Some("224.0.0.251"), &bytes);
    assert!(rig.found().is_empty(), "an interface that is not used");
}

#[test]
fn other_operations_and_answer_codes_are_not_heard() {
    let (mut rig, _) = Rig::established(1);
    let bytes = query("h.local", Kind::A).encode(1400).unwrap();
    for (at, bits) in [(2, 0x28), (3, 0x03)] {
        let mut bytes = bytes.clone();
        bytes[at] |= bits;
        rig.deliver_bytes(LINK, "192.0.2.9:5353", Some("224.0.0.251"), &bytes);
    }
    assert!(rig.take().is_empty());
    assert_eq!(rig.mdns.stats().malformed, 2);
    // The id and the other bits say nothing (§18.1, §18.6).
    let mut odd = bytes.clone();
    odd[..4].copy_from_slice(&[0x12, 0x34, 0x01, 0x70]);
    rig.deliver_bytes(LINK, "192.0.2.9:5353", Some("224.0.0.251"), &odd);
    assert!(rig.only().has("h.local", Kind::A));
}

#[test]
fn questions_in_a_response_are_not_answered() {
    let (mut rig, _) = Rig::established(1);
    let mut packet = query("h.local", Kind::A);
    packet.is_response = true;
    rig.deliver(&packet);
    rig.run_for(SECOND);
    assert!(rig.take().is_empty());
}

#[test]
fn our_own_packets_come_back_and_change_nothing() {
    let mut rig = Rig::new(1);
    rig.register("a");
    rig.browse();
    let mut copies = 0;
    for _ in 0..100 {
        rig.run_for(50 * MS);
        for sent in rig.take() {
            let bytes = sent.packet.encode(wire::SENT_BYTES_MAX).unwrap();
            rig.deliver_bytes(LINK, "192.0.2.1:5353", Some("224.0.0.251"), &bytes);
            copies += 1;
        }
    }
    assert!(
        copies >= 8,
        "three probes, two announcements, three questions: {copies}"
    );
    assert_eq!(rig.mdns.stats().packets_in, 0);
    assert_eq!(
        copies,
        rig.mdns.stats().packets_out,
        "no question of ours is answered by us"
    );
    assert!(rig.found().is_empty());
}

#[test]
fn another_program_on_this_machine_is_heard() {
    let (mut rig, _) = Rig::established(1);
    rig.deliver_from("192.0.2.1:5353", &query("_rats._tcp.local", Kind::PTR));
    rig.run_for(SECOND);
    assert!(rig.only().has("_rats._tcp.local", Kind::PTR));
    rig.browse();
    rig.run_for(SECOND);
    rig.deliver_from("192.0.2.1:5353", &announcement("b", "x.local", "192.0.2.1"));
    assert_eq!(rig.found().len(), 1);
    // It asks the same as we do: one copy of it is ours, the other is not.
    rig.run_for(10 * SECOND);
    rig.take();
    rig.mdns.handle_resumed(rig.now);
    rig.run_for(130 * MS);
    let ask = rig
        .sent
        .iter()
        .find(|sent| sent.is_query() && !sent.is_probe())
        .unwrap();
    let bytes = ask.packet.encode(1400).unwrap();
    let before = rig.mdns.stats().packets_in;
    rig.deliver_bytes(LINK, "192.0.2.1:5353", Some("224.0.0.251"), &bytes);
    rig.deliver_bytes(LINK, "192.0.2.1:5353", Some("224.0.0.251"), &bytes);
    assert_eq!(rig.mdns.stats().packets_in - before, 1);
}

#[test]
fn a_packet_with_a_damaged_record_is_refused_as_a_whole() {
    let mut rig = Rig::browsing(1);
    let bytes = announcement("b", "x.local", "192.0.2.9")
        .encode(1400)
        .unwrap();
    for len in 0..bytes.len() {
        rig.deliver_bytes(LINK, "192.0.2.9:5353", Some("224.0.0.251"), &bytes[..len]);
    }
    assert!(rig.found().is_empty());
    assert_eq!(rig.mdns.stats().malformed as usize, bytes.len());
}

#[test]
fn packets_beyond_9000_bytes_are_refused() {
    let mut rig = Rig::browsing(1);
    let bytes = vec![0; wire::PACKET_BYTES_MAX + 1];
    rig.deliver_bytes(LINK, "192.0.2.9:5353", Some("224.0.0.251"), &bytes);
    assert_eq!(rig.mdns.stats().malformed, 1);
}

#[test]
fn addresses_that_lead_nowhere_are_not_told() {
    let mut rig = Rig::browsing(1);
    for addr in ["224.0.0.1", "0.0.0.0", "ff02::1", "::"] {
        rig.deliver(&announcement("b", "x.local", addr));
    }
    assert!(rig.found().is_empty());
}

#[test]
fn an_instance_that_points_to_our_host_or_to_itself_does_no_harm() {
    let (mut rig, _) = Rig::established(1);
    rig.browse();
    rig.run_for(SECOND);
    rig.deliver(&announcement("b", "h.local", "192.0.2.1"));
    rig.deliver(&announcement("c", "c._rats._tcp.local", "192.0.2.9"));
    rig.run_for(10 * SECOND);
    assert_eq!(rig.mdns.host(), "h.local");
    assert_eq!(rig.found().len(), 2);
}

#[test]
fn packets_by_chance_never_break_anything() {
    use crate::jitter::Jitter;
    let mut jitter = Jitter::new(9);
    let (mut rig, _) = Rig::established(1);
    rig.browse();
    rig.mdns.browse_types(rig.now).unwrap();
    rig.mdns
        .resolve(rig.now, "b", &"_rats._tcp".parse().unwrap())
        .unwrap();
    let seeds = [
        announcement("b", "x.local", "192.0.2.9"),
        announcement("a", "h.local", "192.0.2.9"),
        probe("a", 9001, "h.local"),
        query("_rats._tcp.local", Kind::PTR),
        query("h.local", Kind::ANY),
    ];
    for round in 0..4000 {
        let which = jitter.below(seeds.len() as u64) as usize;
        let mut bytes = seeds[which].encode(1400).unwrap();
        for _ in 0..jitter.below(4) {
            let at = jitter.below(bytes.len() as u64) as usize;
            bytes[at] = jitter.below(256) as u8;
        }
        if jitter.below(4) == 0 {
            bytes.truncate(jitter.below(bytes.len() as u64) as usize);
        }
        let from = ["192.0.2.9:5353", "192.0.2.8:40000", "192.0.2.1:5353"][round % 3];
        rig.deliver_bytes(LINK, from, Some("224.0.0.251"), &bytes);
        if round % 16 == 0 {
            rig.run_for(Duration::from_millis(jitter.below(400)));
        }
        rig.sent.clear();
        rig.events.clear();
    }
    assert!(rig.mdns.heap_bytes() < 512 << 10);
}
