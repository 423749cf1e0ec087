//! RFC 6762 §5.2 (refresh), §10 (time, flush, failures), and the limits of what is kept.

use super::*;

/// The times at which the type is asked for.
fn asked_at(sent: &[Sent]) -> Vec<Duration> {
    let is_asked = |sent: &&Sent| {
        let mut questions = sent.packet.questions.iter();
        sent.is_query() && questions.any(|q| q.kind == Kind::PTR)
    };
    sent.iter().filter(is_asked).map(|sent| sent.at).collect()
}

#[test]
fn a_pointer_is_refreshed_at_80_85_90_and_95_per_cent() {
    let mut rig = Rig::browsing(1);
    // The intervals of the browse itself have grown long by then.
    rig.run_for(40_000 * SECOND);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.take();
    let then = rig.at();
    rig.run_for(4600 * SECOND);
    let times = asked_at(&rig.sent);
    for percent in [80, 85, 90, 95] {
        let least = then + 45 * percent * SECOND;
        assert!(
            times
                .iter()
                .any(|at| is_between(*at, least, least + 91 * SECOND)),
            "{percent} per cent: {times:?}"
        );
    }
    let lost = rig.events.last();
    assert!(matches!(lost, Some(MdnsEvent::Lost { .. })), "{lost:?}");
}

#[test]
fn a_refreshed_pointer_lives_on() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    for _ in 0..5 {
        rig.run_for(4000 * SECOND);
        rig.deliver(&response([ptr("_rats._tcp.local", "b")]));
    }
    assert_eq!(rig.found().len(), 1);
    assert_eq!(rig.events.len(), 1, "found once: {:?}", rig.events);
}

#[test]
fn a_record_of_a_longer_time_is_kept_for_75_minutes() {
    let mut rig = Rig::browsing(1);
    let mut packet = announcement("b", "x.local", "192.0.2.9");
    packet.answers[0].ttl = u32::MAX;
    rig.deliver(&packet);
    rig.run_for(4501 * SECOND);
    assert!(rig.found().is_empty());
}

#[test]
fn a_flush_drops_what_is_older_than_a_second() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.run_for(1500 * MS);
    rig.deliver(&response([address("x.local", "192.0.2.10")]));
    rig.run_for(500 * MS);
    assert_eq!(rig.found()[0].addrs.len(), 2, "a second is left to protest");
    rig.run_for(600 * MS);
    assert_eq!(rig.found()[0].addrs, [ip("192.0.2.10")]);
}

#[test]
fn a_flush_spares_what_came_within_the_second() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.run_for(500 * MS);
    // As a machine with two interfaces on the network does, or a bridge that is slow.
    rig.deliver(&response([address("x.local", "192.0.2.10")]));
    rig.run_for(10 * SECOND);
    assert_eq!(rig.found()[0].addrs.len(), 2);
}

#[test]
fn without_the_bit_nothing_is_dropped() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.run_for(5 * SECOND);
    let other = Record {
        is_flush: false,
        ..address("x.local", "192.0.2.10")
    };
    rig.deliver(&response([other]));
    rig.run_for(5 * SECOND);
    assert_eq!(rig.found()[0].addrs.len(), 2);
}

#[test]
fn a_flush_bit_on_a_pointer_erases_nobody() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.run_for(5 * SECOND);
    let mut packet = announcement("c", "y.local", "192.0.2.10");
    packet.answers[0].is_flush = true;
    rig.deliver(&packet);
    rig.run_for(5 * SECOND);
    assert_eq!(rig.found().len(), 2);
}

#[test]
fn details_stay_while_the_pointer_lives() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.run_for(2000 * SECOND);
    assert_eq!(rig.found().len(), 1);
    assert_eq!(rig.events.len(), 1, "{:?}", rig.events);
    // And what is new of them counts.
    rig.deliver(&response([address("x.local", "192.0.2.20")]));
    rig.run_for(2 * SECOND);
    assert_eq!(rig.found()[0].addrs, [ip("192.0.2.20")]);
}

#[test]
fn a_killed_peer_is_gone_ten_seconds_after_the_second_unanswered_question() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.run_for(10 * SECOND);
    let then = rig.at();
    rig.deliver_from("192.0.2.50:5353", &query("_rats._tcp.local", Kind::PTR));
    rig.run_for(SECOND);
    rig.deliver_from("192.0.2.50:5353", &query("_rats._tcp.local", Kind::PTR));
    while !rig.found().is_empty() {
        rig.run_for(100 * MS);
    }
    assert!(
        is_between(rig.at() - then, 10 * SECOND, 12 * SECOND),
        "{:?}",
        rig.at() - then
    );
    assert!(matches!(rig.events.last(), Some(MdnsEvent::Lost { .. })));
}

#[test]
fn who_answers_in_time_stays() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    for _ in 0..5 {
        rig.deliver_from("192.0.2.50:5353", &query("_rats._tcp.local", Kind::PTR));
        rig.run_for(SECOND);
    }
    rig.deliver(&response([ptr("_rats._tcp.local", "b")]));
    rig.run_for(60 * SECOND);
    assert_eq!(rig.found().len(), 1);
}

#[test]
fn one_question_over_both_families_is_one_question() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.deliver_from("192.0.2.50:5353", &query("_rats._tcp.local", Kind::PTR));
    rig.run_for(5 * MS);
    rig.deliver_from("192.0.2.50:5353", &query("_rats._tcp.local", Kind::PTR));
    rig.run_for(60 * SECOND);
    assert_eq!(rig.found().len(), 1);
}

#[test]
fn who_is_on_the_list_of_known_answers_need_not_answer() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    let mut packet = query("_rats._tcp.local", Kind::PTR);
    packet.answers = vec![ptr("_rats._tcp.local", "b")];
    for _ in 0..5 {
        rig.deliver_from("192.0.2.50:5353", &packet);
        rig.run_for(5 * SECOND);
    }
    assert_eq!(rig.found().len(), 1);
}

#[test]
fn who_asks_need_not_answer_itself() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.50"));
    for _ in 0..5 {
        rig.deliver_from("192.0.2.50:5353", &query("_rats._tcp.local", Kind::PTR));
        rig.run_for(5 * SECOND);
    }
    assert_eq!(rig.found().len(), 1);
}

#[test]
fn an_instance_that_does_not_answer_when_verified_is_lost_after_ten_seconds() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.take_events();
    let kind = "_rats._tcp".parse().unwrap();
    assert!(rig.mdns.verify(rig.now, "nobody", &kind).is_err());
    rig.mdns.verify(rig.now, "b", &kind).unwrap();
    rig.run_for(9900 * MS);
    let is_srv = |sent: &&Sent| sent.packet.questions.iter().any(|q| q.kind == Kind::SRV);
    assert!(
        rig.sent.iter().filter(is_srv).count() >= 2,
        "RFC 6762 §10.4: asked at least twice"
    );
    assert!(rig.take_events().is_empty());
    rig.run_for(200 * MS);
    assert!(matches!(&rig.take_events()[..], [MdnsEvent::Lost { .. }]));
}

#[test]
fn an_instance_that_answers_when_verified_stays() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.take_events();
    rig.mdns
        .verify(rig.now, "b", &"_rats._tcp".parse().unwrap())
        .unwrap();
    rig.run_for(SECOND);
    rig.deliver(&response([srv("b._rats._tcp.local", 7000, "x.local")]));
    rig.run_for(60 * SECOND);
    assert!(rig.take_events().is_empty());
    assert_eq!(rig.found().len(), 1);
}

#[test]
fn what_was_found_on_an_interface_goes_with_it() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.take_events();
    rig.mdns.handle_links(rig.now, &[]);
    rig.drain();
    assert!(matches!(
        &rig.take_events()[..],
        [MdnsEvent::Lost {
            interface: LINK,
            ..
        }]
    ));
    assert_eq!(rig.mdns.poll_timeout(), None);
    rig.mdns
        .handle_links(rig.now, &[link(LINK, &[("192.0.2.1", 24)])]);
    rig.run_for(SECOND);
    assert!(
        !asked_at(&rig.sent).is_empty(),
        "and is asked for when it comes back"
    );
}

#[test]
fn each_link_has_a_memory_of_its_own() {
    let links = [
        link(2, &[("192.0.2.1", 24)]),
        link(3, &[("198.51.100.1", 24)]),
    ];
    let mut rig = Rig::with(1, true, &links);
    rig.browse();
    rig.run_for(200 * MS);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.take();
    rig.run_for(30 * SECOND);
    for sent in rig
        .sent
        .iter()
        .filter(|sent| sent.is_query() && !sent.is_probe())
    {
        // Otherwise the list would silence those on the other link that have never been heard there.
        assert_eq!(sent.packet.answers.len(), usize::from(sent.interface == 2));
    }
    let bytes = announcement("b", "x.local", "192.0.2.9")
        .encode(1400)
        .unwrap();
    rig.deliver_bytes(3, "198.51.100.9:5353", Some("224.0.0.251"), &bytes);
    let interfaces: Vec<_> = rig.found().iter().map(|found| found.interface).collect();
    assert_eq!(interfaces, [2, 3]);
}

#[test]
fn time_that_passed_in_sleep_has_passed() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.now += 10_000 * SECOND;
    rig.mdns.handle_resumed(rig.now);
    rig.mdns.handle_timeout(rig.now);
    rig.drain();
    assert!(rig.found().is_empty());
}

/// Records as somebody forges them, each with another name and source.
fn forged(index: u32) -> (String, Packet) {
    let from = format!("192.0.2.{}:5353", 100 + index % 150);
    let instance = format!("forged {index}");
    let host = format!("f{index}.local");
    (from, announcement(&instance, &host, "192.0.2.66"))
}

#[test]
fn a_flood_fills_the_cache_to_its_limit_and_spares_who_is_proven() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.run_for(SECOND + MS);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    let mut most = 0;
    for index in 0..4000 {
        let (_, packet) = forged(index);
        // Sources by chance: nobody's measure is ever full.
        let from = format!("10.{}.{}.9:5353", index / 250 % 250, index % 250);
        rig.deliver_from(&from, &packet);
        if index % 10 == 0 {
            rig.run_for(2 * MS);
        }
        most = most.max(rig.mdns.stats().cached);
        assert!(rig.found().len() <= INSTANCES_MAX);
    }
    assert!(most > 700 && most <= CACHE_RECORDS_MAX as u32, "{most}");
    assert!(
        rig.found().iter().any(|found| found.instance == "b"),
        "the genuine one is still there"
    );
    let heap = rig.mdns.heap_bytes();
    println!("heap after the flood: {heap} bytes");
    assert!(heap < 512 << 10, "{heap}");
    let asked = rig.sent.iter().filter(|sent| sent.is_query()).count();
    assert!(asked < 40, "a flood does not make us ask more: {asked}");
}

#[test]
fn a_source_may_bring_so_much_and_no_more() {
    let mut rig = Rig::browsing(1);
    for index in 0..1000 {
        let (_, packet) = forged(index);
        rig.deliver(&packet);
    }
    let cached = rig.mdns.stats().cached;
    assert_eq!(cached, SOURCE_BURST);
    rig.run_for(2 * SECOND);
    for index in 2000..3000 {
        let (_, packet) = forged(index);
        rig.deliver(&packet);
    }
    assert_eq!(rig.mdns.stats().cached, SOURCE_BURST + 2 * SOURCE_RATE);
    assert!(rig.mdns.stats().refused > 1000);
}

#[test]
fn a_name_has_so_many_addresses_and_no_more() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    for host in 0..100 {
        let mut one = address("x.local", &format!("192.0.2.{}", host + 10));
        one.is_flush = false;
        rig.deliver(&response([one]));
    }
    assert_eq!(rig.found()[0].addrs.len(), ADDRS_MAX);
    assert!(rig.mdns.stats().cached <= 3 + RECORDS_PER_NAME_MAX as u32);
}

#[test]
fn after_a_flood_there_is_room_for_newcomers() {
    let mut rig = Rig::browsing(1);
    for index in 0..2000 {
        let (_, packet) = forged(index);
        let from = format!("10.{}.{}.9:5353", index / 250 % 250, index % 250);
        rig.deliver_from(&from, &packet);
    }
    rig.run_for(SECOND);
    rig.deliver(&announcement("new", "n.local", "192.0.2.99"));
    rig.run_for(SECOND + MS);
    rig.deliver(&announcement("new", "n.local", "192.0.2.99"));
    assert!(rig.found().iter().any(|found| found.instance == "new"));
}
