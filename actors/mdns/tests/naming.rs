//! RFC 6762 §8 (probing, announcing), §9 (conflicts), §10.1 (goodbye).

use super::*;

#[test]
fn three_probes_250_ms_apart_and_then_two_announcements_a_second_apart() {
    for seed in 0..50 {
        let mut rig = Rig::new(seed);
        rig.register("a");
        rig.run_for(10 * SECOND);
        let sent = rig.take();
        let (probes, rest): (Vec<_>, Vec<_>) = sent.into_iter().partition(Sent::is_probe);
        assert_eq!(
            probes.len(),
            3,
            "host and service in one packet: {probes:#?}"
        );
        assert!(probes[0].at <= 250 * MS, "{:?}", probes[0].at);
        for pair in probes.windows(2) {
            assert_eq!(pair[1].at - pair[0].at, 250 * MS);
        }
        assert_eq!(rest.len(), 2, "{rest:#?}");
        assert_eq!(rest[0].at - probes[2].at, 250 * MS);
        assert_eq!(rest[1].at - rest[0].at, SECOND);
        assert!(rest.iter().all(|sent| sent.packet.is_response));
    }
}

#[test]
fn the_first_probe_waits_for_a_time_by_chance() {
    let mut waits: Vec<Duration> = (0..200)
        .map(|seed| {
            let mut rig = Rig::new(seed);
            rig.register("a");
            rig.run_for(SECOND);
            rig.sent[0].at
        })
        .collect();
    waits.sort_unstable();
    assert!(waits[0] < 20 * MS && waits[199] > 230 * MS);
    assert!(
        is_between(waits[100], 90 * MS, 160 * MS),
        "{:?}",
        waits[100]
    );
}

#[test]
fn a_probe_asks_for_any_by_unicast_and_claims_records_without_the_flush_bit() {
    let mut rig = Rig::new(1);
    rig.register("a");
    rig.run_for(300 * MS);
    let probe = rig.sent[0].clone();
    assert_eq!(probe.to, "224.0.0.251:5353".parse().unwrap());
    let asked: Vec<_> = probe
        .packet
        .questions
        .iter()
        .map(|q| q.name.to_string())
        .collect();
    assert_eq!(asked, ["h.local", "a._rats._tcp.local"]);
    assert!(
        probe
            .packet
            .questions
            .iter()
            .all(|q| q.kind == Kind::ANY && q.wants_unicast)
    );
    let claimed: Vec<_> = probe
        .packet
        .authorities
        .iter()
        .map(|r| r.data.kind())
        .collect();
    assert_eq!(claimed, [Kind::A, Kind::SRV, Kind::TXT]);
    assert!(
        probe
            .packet
            .authorities
            .iter()
            .all(|record| !record.is_flush)
    );
    assert!(probe.packet.answers.is_empty());
}

#[test]
fn who_shares_the_port_with_another_program_does_not_ask_for_unicast() {
    let mut rig = Rig::with(1, false, &[link(LINK, &[("192.0.2.1", 24)])]);
    rig.register("a");
    rig.browse();
    rig.run_for(10 * SECOND);
    let queries = rig.sent.iter().filter(|sent| sent.is_query());
    let mut questions = queries.flat_map(|sent| &sent.packet.questions);
    assert!(questions.all(|question| !question.wants_unicast));
}

#[test]
fn announcements_flush_unique_records_and_never_shared_ones() {
    let mut rig = Rig::new(1);
    rig.register("a");
    rig.run_for(5 * SECOND);
    let announcement = rig
        .sent
        .iter()
        .find(|sent| sent.packet.is_response)
        .unwrap();
    let kinds: Vec<_> = announcement
        .packet
        .answers
        .iter()
        .map(|record| (record.data.kind(), record.is_flush, record.ttl))
        .collect();
    assert_eq!(
        kinds,
        [
            (Kind::A, true, 120),
            (Kind::PTR, false, 4500),
            (Kind::PTR, false, 4500),
            (Kind::SRV, true, 120),
            (Kind::TXT, true, 4500),
        ]
    );
    assert!(
        announcement.packet.questions.is_empty(),
        "RFC 6762 §6: no questions in a response"
    );
}

#[test]
fn a_name_that_is_being_probed_for_is_not_answered_for() {
    let mut rig = Rig::new(1);
    rig.register("a");
    rig.run_for(300 * MS);
    rig.sent.clear();
    rig.deliver(&query("a._rats._tcp.local", Kind::SRV));
    rig.deliver(&query("_rats._tcp.local", Kind::PTR));
    rig.run_for(150 * MS);
    assert!(rig.take().iter().all(Sent::is_probe));
}

#[test]
fn an_answer_to_a_probe_makes_us_take_another_name() {
    let mut rig = Rig::new(1);
    rig.register("a");
    rig.run_for(300 * MS);
    rig.deliver(&response([srv("A._rats._tcp.local", 1, "other.local")]));
    rig.run_for(10 * SECOND);
    assert_eq!(rig.instance(), "a (2)");
    let renamed = |event: &MdnsEvent| matches!(event, MdnsEvent::Renamed { old, new, .. } if old == "a" && new == "a (2)");
    assert!(rig.events.iter().any(renamed), "{:?}", rig.events);
    let announced = |event: &MdnsEvent| matches!(event, MdnsEvent::Registered { instance, .. } if instance == "a (2)");
    assert!(rig.events.iter().any(announced), "{:?}", rig.events);
    let probes = rig.sent.iter().filter(|sent| {
        sent.is_probe()
            && sent
                .packet
                .questions
                .iter()
                .any(|q| q.name.first_label() == "a (2)")
    });
    assert_eq!(
        probes.count(),
        3,
        "the new name is probed for as the old one"
    );
}

#[test]
fn a_host_name_that_is_taken_gets_a_number_and_services_point_to_it() {
    let mut rig = Rig::new(1);
    rig.register("a");
    rig.run_for(300 * MS);
    rig.deliver(&response([address("h.local", "192.0.2.77")]));
    rig.run_for(10 * SECOND);
    assert_eq!(rig.mdns.host(), "h-2.local");
    let last = rig
        .sent
        .iter()
        .rfind(|sent| sent.has("a._rats._tcp.local", Kind::SRV))
        .unwrap();
    let srv = last.answers("a._rats._tcp.local", Kind::SRV)[0];
    assert!(matches!(&srv.data, Data::Srv { host, .. } if *host == plain("h-2.local")));
}

#[test]
fn a_goodbye_is_no_conflict() {
    let mut rig = Rig::new(1);
    rig.register("a");
    rig.run_for(300 * MS);
    let mut gone = srv("a._rats._tcp.local", 1, "other.local");
    gone.ttl = 0;
    rig.deliver(&response([gone]));
    rig.run_for(10 * SECOND);
    assert_eq!(rig.instance(), "a");
}

#[test]
fn the_lesser_claim_waits_for_a_second_and_probes_again() {
    let mut rig = Rig::new(1);
    rig.register("a");
    rig.run_for(300 * MS);
    rig.sent.clear();
    let lost = rig.at();
    // Our port is 9000: 9001 is lexicographically later, so the other one wins.
    rig.deliver(&probe("a", 9001, "h.local"));
    rig.run_for(10 * SECOND);
    let probes: Vec<_> = rig
        .sent
        .iter()
        .filter(|sent| {
            sent.is_probe()
                && sent
                    .packet
                    .questions
                    .iter()
                    .any(|q| q.name == plain("a._rats._tcp.local"))
        })
        .collect();
    assert_eq!(probes.len(), 3);
    assert_eq!(probes[0].at - lost, SECOND);
    assert_eq!(
        rig.instance(),
        "a",
        "the other one did not answer the second time"
    );
}

#[test]
fn the_greater_claim_goes_on() {
    let mut rig = Rig::new(1);
    rig.register("a");
    rig.run_for(300 * MS);
    rig.deliver(&probe("a", 8999, "h.local"));
    rig.run_for(2 * SECOND);
    let probes = rig.sent.iter().filter(|sent| sent.is_probe()).count();
    assert_eq!(probes, 3);
    assert!(
        rig.sent
            .iter()
            .any(|sent| sent.has("a._rats._tcp.local", Kind::SRV))
    );
}

#[test]
fn claims_are_compared_by_type_before_data_and_longer_ones_win() {
    // An A record is type 1, so ours, which begins with it, is less than a claim of TXT alone.
    let host_probe = |records: Vec<Record>| {
        let mut packet = query("h.local", Kind::ANY);
        packet.authorities = records;
        packet
    };
    let check = |records: Vec<Record>, wins: bool| {
        let mut rig = Rig::new(1);
        rig.run_for(300 * MS);
        rig.sent.clear();
        rig.deliver(&host_probe(records));
        rig.run_for(900 * MS);
        let announced = rig.sent.iter().any(|sent| sent.has("h.local", Kind::A));
        assert_eq!(announced, wins);
    };
    check(vec![txt("h.local", b"\x01x")], false);
    check(vec![address("h.local", "192.0.2.1")], true);
    check(vec![address("h.local", "192.0.2.0")], true);
    check(
        vec![
            address("h.local", "192.0.2.1"),
            address("h.local", "fe80::1"),
        ],
        false,
    );
    // Bytes are compared without a sign.
    check(vec![address("h.local", "200.0.2.1")], false);
    check(vec![], true);
}

#[test]
fn a_conflict_later_makes_us_probe_and_defer() {
    let (mut rig, _) = Rig::established(1);
    rig.deliver(&response([srv("a._rats._tcp.local", 1, "other.local")]));
    rig.run_for(600 * MS);
    assert!(
        rig.sent.iter().any(Sent::is_probe),
        "RFC 6762 §9: back to probing"
    );
    assert_eq!(rig.instance(), "a");
    rig.deliver(&response([srv("a._rats._tcp.local", 1, "other.local")]));
    rig.run_for(10 * SECOND);
    assert_eq!(rig.instance(), "a (2)");
    let goodbye = rig
        .sent
        .iter()
        .flat_map(|sent| &sent.packet.answers)
        .find(|record| record.ttl == 0);
    let Some(Data::Ptr(target)) = goodbye.map(|record| &record.data) else {
        panic!("the pointer to the old name is taken back");
    };
    assert_eq!(*target, plain("a._rats._tcp.local"));
}

#[test]
fn a_conflict_that_does_not_last_leaves_the_name() {
    let (mut rig, _) = Rig::established(1);
    rig.deliver(&response([srv("a._rats._tcp.local", 1, "other.local")]));
    rig.run_for(10 * SECOND);
    assert_eq!(rig.instance(), "a");
    assert!(
        rig.sent
            .iter()
            .any(|sent| sent.has("a._rats._tcp.local", Kind::SRV)),
        "announced again"
    );
}

#[test]
fn a_record_of_another_type_or_a_like_one_is_no_conflict() {
    let (mut rig, _) = Rig::established(1);
    rig.deliver(&response([
        record(
            "a._rats._tcp.local",
            120,
            Data::Other(Kind(13), b"\x01x".as_slice().into()),
        ),
        srv("a._rats._tcp.local", 9000, "H.local"),
        address("h.local", "192.0.2.1"),
    ]));
    rig.run_for(3 * SECOND);
    assert!(!rig.sent.iter().any(Sent::is_probe));
}

#[test]
fn after_fifteen_conflicts_every_probe_waits_for_five_seconds() {
    let mut rig = Rig::new(1);
    rig.register("a");
    let mut renames = 0;
    while renames < 15 {
        rig.run_for(260 * MS);
        let name = format!("{}._rats._tcp.local", rig.instance());
        rig.deliver(&response([srv(&name, 1, "other.local")]));
        renames = rig
            .events
            .iter()
            .filter(|event| matches!(event, MdnsEvent::Renamed { .. }))
            .count();
    }
    rig.sent.clear();
    let then = rig.at();
    rig.run_for(10 * SECOND);
    let first = rig.sent.iter().find(|sent| sent.is_probe()).unwrap();
    assert!(first.at - then >= 5 * SECOND, "{:?}", first.at - then);
}

#[test]
fn what_is_unregistered_is_taken_back_at_once() {
    let (mut rig, id) = Rig::established(1);
    rig.mdns.unregister(rig.now, id).unwrap();
    rig.drain();
    let sent = rig.only();
    assert!(sent.packet.answers.iter().all(|record| record.ttl == 0));
    let kinds: Vec<_> = sent
        .packet
        .answers
        .iter()
        .map(|record| record.data.kind())
        .collect();
    assert_eq!(kinds, [Kind::PTR, Kind::PTR, Kind::SRV, Kind::TXT]);
    rig.deliver(&query("_rats._tcp.local", Kind::PTR));
    rig.run_for(SECOND);
    assert!(rig.take().is_empty());
    assert!(rig.mdns.unregister(rig.now, id).is_err());
}

#[test]
fn a_type_that_another_service_still_has_is_not_taken_back() {
    let (mut rig, id) = Rig::established(1);
    rig.register("b");
    rig.run_for(5 * SECOND);
    rig.sent.clear();
    rig.mdns.unregister(rig.now, id).unwrap();
    rig.drain();
    let sent = rig.only();
    assert!(
        sent.answers("_services._dns-sd._udp.local", Kind::PTR)
            .is_empty()
    );
    assert_eq!(sent.answers("_rats._tcp.local", Kind::PTR).len(), 1);
}

#[test]
fn a_machine_that_stops_takes_everything_back_and_says_no_more() {
    let (mut rig, _) = Rig::established(1);
    rig.mdns.stop(rig.now);
    rig.drain();
    let sent = rig.take();
    let records: Vec<_> = sent.iter().flat_map(|sent| &sent.packet.answers).collect();
    assert!(records.iter().all(|record| record.ttl == 0));
    assert_eq!(records.len(), 5, "with the address of the host");
    rig.deliver(&query("_rats._tcp.local", Kind::PTR));
    rig.run_for(10 * SECOND);
    assert!(rig.take().is_empty());
    assert_eq!(rig.mdns.poll_timeout(), None);
}

#[test]
fn nothing_is_taken_back_that_was_never_announced() {
    let mut rig = Rig::new(1);
    let id = rig.register("a");
    rig.run_for(300 * MS);
    rig.sent.clear();
    rig.mdns.unregister(rig.now, id).unwrap();
    rig.drain();
    assert!(rig.take().is_empty());
}

#[test]
fn a_changed_text_is_announced_with_the_flush_bit_and_not_probed_for() {
    let (mut rig, id) = Rig::established(1);
    let text = Txt::new([("id", Some(&b"8"[..]))]).unwrap();
    rig.mdns.update(rig.now, id, text).unwrap();
    rig.run_for(5 * SECOND);
    assert!(!rig.sent.iter().any(Sent::is_probe));
    let announced: Vec<_> = rig
        .sent
        .iter()
        .filter(|sent| sent.has("a._rats._tcp.local", Kind::TXT))
        .collect();
    assert_eq!(announced.len(), 2);
    let text = announced[0].answers("a._rats._tcp.local", Kind::TXT)[0];
    assert!(text.is_flush);
    assert_eq!(text.data, Data::Txt(b"\x04id=8".as_slice().into()));
}

#[test]
fn after_sleep_everything_is_probed_and_announced_again() {
    let (mut rig, _) = Rig::established(1);
    rig.browse();
    rig.run_for(20 * SECOND);
    rig.sent.clear();
    rig.now += 3600 * SECOND;
    rig.mdns.handle_resumed(rig.now);
    rig.run_for(5 * SECOND);
    assert_eq!(rig.sent.iter().filter(|sent| sent.is_probe()).count(), 3);
    assert_eq!(
        rig.sent
            .iter()
            .filter(|sent| sent.has("h.local", Kind::A))
            .count(),
        2
    );
    let asks = rig
        .sent
        .iter()
        .filter(|sent| sent.is_query() && !sent.is_probe());
    assert!(asks.count() >= 2, "questions begin anew");
}

#[test]
fn a_new_address_is_probed_and_announced_on_its_link_alone() {
    let links = [
        link(2, &[("192.0.2.1", 24)]),
        link(3, &[("198.51.100.1", 24)]),
    ];
    let mut rig = Rig::with(1, true, &links);
    rig.register("a");
    rig.run_for(5 * SECOND);
    rig.sent.clear();
    let changed = [links[0].clone(), link(3, &[("198.51.100.7", 24)])];
    rig.mdns.handle_links(rig.now, &changed);
    rig.run_for(5 * SECOND);
    assert!(
        rig.sent.iter().all(|sent| sent.interface == 3),
        "{:#?}",
        rig.sent
    );
    assert_eq!(rig.sent.iter().filter(|sent| sent.is_probe()).count(), 3);
    let announced = rig
        .sent
        .iter()
        .find(|sent| sent.has("h.local", Kind::A))
        .unwrap();
    assert_eq!(
        announced.answers("h.local", Kind::A)[0].data,
        Data::address(ip("198.51.100.7"))
    );
    rig.sent.clear();
    rig.mdns.handle_links(rig.now, &changed);
    rig.run_for(5 * SECOND);
    assert!(rig.take().is_empty(), "nothing has changed");
}

#[test]
fn each_link_is_told_the_addresses_of_its_own() {
    let links = [
        link(2, &[("192.0.2.1", 24)]),
        link(3, &[("198.51.100.1", 24)]),
    ];
    let mut rig = Rig::with(1, true, &links);
    rig.run_for(5 * SECOND);
    for (index, addr) in [(2, "192.0.2.1"), (3, "198.51.100.1")] {
        let announced = rig
            .sent
            .iter()
            .filter(|sent| sent.interface == index && sent.packet.is_response);
        for sent in announced {
            let addrs: Vec<_> = sent
                .packet
                .answers
                .iter()
                .map(|record| &record.data)
                .collect();
            assert_eq!(addrs, [&Data::address(ip(addr))]);
        }
    }
}

#[test]
fn two_interfaces_on_one_network_are_no_conflict() {
    let links = [link(2, &[("192.0.2.1", 24)]), link(3, &[("192.0.2.2", 24)])];
    let mut rig = Rig::with(1, true, &links);
    rig.register("a");
    // What goes out on one comes in on both.
    for _ in 0..40 {
        rig.run_for(100 * MS);
        for sent in rig.take() {
            let from = if sent.interface == 2 {
                "192.0.2.1:5353"
            } else {
                "192.0.2.2:5353"
            };
            let bytes = sent.packet.encode(wire::SENT_BYTES_MAX).unwrap();
            for interface in [2, 3] {
                rig.deliver_bytes(interface, from, Some("224.0.0.251"), &bytes);
            }
        }
    }
    assert_eq!(rig.instance(), "a");
    assert_eq!(rig.mdns.host(), "h.local");
    let is_announced = |event: &MdnsEvent| matches!(event, MdnsEvent::Registered { .. });
    assert!(rig.events.iter().any(is_announced));
}

#[test]
fn services_have_a_limit_and_no_doubles() {
    let mut rig = Rig::new(1);
    rig.register("a");
    let error = rig.mdns.register(rig.now, service("A")).unwrap_err();
    assert_eq!(error.kind(), "duplicate");
    for index in 1..SERVICES_MAX {
        rig.register(&format!("service {index}"));
    }
    let error = rig.mdns.register(rig.now, service("b")).unwrap_err();
    assert_eq!(error.kind(), "full");
    rig.run_for(10 * SECOND);
    assert!(
        rig.sent
            .iter()
            .all(|sent| sent.bytes <= wire::SENT_BYTES_MAX)
    );
    let registered = rig
        .events
        .iter()
        .filter(|event| matches!(event, MdnsEvent::Registered { .. }));
    assert_eq!(registered.count(), SERVICES_MAX);
}
