//! RFC 6762 §5 and §7 as querier; RFC 6763 §4, §6, §9.

use super::*;

fn asks(sent: &[Sent]) -> Vec<&Sent> {
    let queries = sent
        .iter()
        .filter(|sent| sent.is_query() && !sent.is_probe());
    queries.collect()
}

#[test]
fn questions_come_after_20_to_120_ms_and_then_at_intervals_that_double() {
    for seed in 0..30 {
        let mut rig = Rig::new(seed);
        rig.browse();
        rig.run_for(300 * SECOND);
        let asks = asks(&rig.sent);
        assert!(
            is_between(asks[0].at, 20 * MS, 120 * MS),
            "{:?}",
            asks[0].at
        );
        let gaps: Vec<_> = asks
            .windows(2)
            .map(|pair| (pair[1].at - pair[0].at).as_secs())
            .collect();
        assert_eq!(gaps, [1, 2, 4, 8, 16, 32, 64, 128]);
        for ask in &asks {
            assert_eq!(ask.packet.questions.len(), 1);
            assert_eq!(ask.packet.questions[0].kind, Kind::PTR);
            assert_eq!(ask.to.port(), 5353);
        }
        assert!(asks[0].packet.questions[0].wants_unicast, "RFC 6762 §5.4");
        assert!(
            asks[1..]
                .iter()
                .all(|ask| !ask.packet.questions[0].wants_unicast)
        );
    }
}

#[test]
fn intervals_end_at_an_hour() {
    let mut rig = Rig::new(1);
    rig.browse();
    rig.run_for(30 * 3600 * SECOND);
    let asks = asks(&rig.sent);
    let last = &asks[asks.len() - 2..];
    assert_eq!(last[1].at - last[0].at, 3600 * SECOND);
}

#[test]
fn an_instance_is_found_when_it_can_be_reached() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    let events = rig.take_events();
    let [MdnsEvent::Found(found)] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(found.instance, "b");
    assert_eq!(found.service_type.to_string(), "_rats._tcp");
    assert_eq!((found.host.as_str(), found.port), ("x.local", 7000));
    assert_eq!(found.addrs, [ip("192.0.2.9")]);
    assert_eq!(found.txt.get("id"), Some(&b"9"[..]));
    assert_eq!(found.interface, LINK);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    assert!(rig.take_events().is_empty(), "nothing new");
}

#[test]
fn what_a_pointer_does_not_bring_is_asked_for() {
    let mut rig = Rig::browsing(1);
    let then = rig.at();
    rig.deliver(&response([ptr("_rats._tcp.local", "b")]));
    rig.run_for(150 * MS);
    let sent = rig.only();
    assert!(is_between(sent.at - then, 20 * MS, 120 * MS));
    let kinds: Vec<_> = sent.packet.questions.iter().map(|q| q.kind).collect();
    assert_eq!(kinds, [Kind::TXT, Kind::SRV], "in one packet");
    rig.deliver(&response([
        srv("b._rats._tcp.local", 7000, "x.local"),
        txt("b._rats._tcp.local", b"\x04id=9"),
    ]));
    assert!(rig.take_events().is_empty());
    rig.run_for(150 * MS);
    let kinds: Vec<_> = rig.only().packet.questions.iter().map(|q| q.kind).collect();
    assert_eq!(kinds, [Kind::A, Kind::AAAA]);
    rig.deliver(&response([address("x.local", "fe80::9")]));
    assert!(matches!(&rig.take_events()[..], [MdnsEvent::Found(_)]));
    rig.run_for(60 * SECOND);
    let names: Vec<_> = asks(&rig.sent)
        .iter()
        .flat_map(|ask| &ask.packet.questions)
        .map(|q| q.kind)
        .collect();
    assert!(
        names
            .iter()
            .all(|kind| matches!(*kind, Kind::PTR | Kind::A)),
        "{names:?}"
    );
}

#[test]
fn nobody_is_asked_for_ever() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&response([ptr("_rats._tcp.local", "b")]));
    rig.run_for(600 * SECOND);
    let asked = asks(&rig.sent);
    let questions = asked.iter().flat_map(|ask| &ask.packet.questions);
    assert_eq!(questions.filter(|q| q.kind == Kind::SRV).count(), 4);
}

#[test]
fn what_does_not_exist_is_not_asked_for_again() {
    let mut rig = Rig::browsing(1);
    let host = plain("x.local");
    let mut packet = announcement("b", "x.local", "192.0.2.9");
    packet.answers.pop();
    rig.deliver(&packet);
    rig.run_for(150 * MS);
    rig.take();
    rig.deliver(&response([record(
        "x.local",
        120,
        Data::Nsec {
            next: host.clone(),
            kinds: vec![Kind::AAAA],
        },
    )]));
    rig.run_for(60 * SECOND);
    let asked = asks(&rig.sent);
    let questions = asked.iter().flat_map(|ask| &ask.packet.questions);
    let kinds: Vec<_> = questions
        .filter(|q| q.name == host)
        .map(|q| q.kind)
        .collect();
    assert!(
        !kinds.is_empty() && kinds.iter().all(|kind| *kind == Kind::AAAA),
        "{kinds:?}"
    );
}

#[test]
fn known_answers_go_along_with_a_question_while_half_their_time_is_left() {
    let mut rig = Rig::new(1);
    rig.browse();
    rig.run_for(500 * MS);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.take();
    rig.run_for(2000 * SECOND);
    for sent in asks(&rig.sent) {
        let [known] = &sent.packet.answers[..] else {
            panic!("{sent:?}");
        };
        assert!(known.is_same(&ptr("_rats._tcp.local", "b")));
        assert!(!known.is_flush, "RFC 6762 §10.2");
        assert!(known.ttl >= 2250 && known.ttl < 4500);
    }
    rig.run_for(300 * SECOND);
    rig.take();
    rig.run_for(1500 * SECOND);
    let later = asks(&rig.sent);
    assert!(!later.is_empty(), "it is refreshed");
    assert!(later.iter().all(|sent| sent.packet.answers.is_empty()));
}

#[test]
fn our_own_services_are_known_answers_of_ours() {
    let (mut rig, _) = Rig::established(1);
    rig.browse();
    rig.run_for(200 * MS);
    let asked = asks(&rig.sent)[0];
    assert_eq!(asked.answers("_rats._tcp.local", Kind::PTR).len(), 1);
    assert!(asked.packet.answers[0].is_same(&ptr("_rats._tcp.local", "a")));
}

#[test]
fn unique_records_are_no_known_answers() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.run_for(60 * SECOND);
    let known = rig.sent.iter().flat_map(|sent| &sent.packet.answers);
    assert!(
        known
            .map(|record| record.data.kind())
            .all(|kind| kind == Kind::PTR)
    );
}

#[test]
fn known_answers_that_do_not_fit_follow_at_once() {
    let mut rig = Rig::new(1);
    rig.browse();
    for index in 0..100 {
        let one = ptr(
            "_rats._tcp.local",
            &format!("an instance with a long name {index}"),
        );
        rig.deliver(&response([one]));
    }
    rig.run_for(10 * MS);
    rig.take();
    rig.run_for(150 * MS);
    let sent: Vec<_> = rig.take();
    let query: Vec<_> = sent
        .iter()
        .filter(|sent| {
            let mut questions = sent.packet.questions.iter();
            !sent.packet.answers.is_empty() || questions.any(|q| q.kind == Kind::PTR)
        })
        .collect();
    assert!(query.len() >= 3, "{}", query.len());
    assert!(
        query
            .iter()
            .all(|sent| sent.at == query[0].at && sent.bytes <= 1440)
    );
    let (last, first) = query.split_last().unwrap();
    assert!(first.iter().all(|sent| sent.packet.is_truncated) && !last.packet.is_truncated);
    assert!(
        query[1..]
            .iter()
            .all(|sent| sent.packet.questions.is_empty())
    );
    let known: usize = query.iter().map(|sent| sent.packet.answers.len()).sum();
    assert_eq!(known, 100);
}

#[test]
fn a_question_that_somebody_else_asks_is_not_asked_again() {
    let mut rig = Rig::new(1);
    rig.browse();
    rig.deliver(&query("_rats._tcp.local", Kind::PTR));
    rig.run_for(900 * MS);
    assert!(asks(&rig.sent).is_empty());
    rig.run_for(SECOND);
    assert_eq!(asks(&rig.sent).len(), 1);
}

#[test]
fn a_question_of_somebody_who_knows_more_is_asked_all_the_same() {
    let mut rig = Rig::new(1);
    rig.browse();
    let mut packet = query("_rats._tcp.local", Kind::PTR);
    packet.answers = vec![ptr("_rats._tcp.local", "b")];
    rig.deliver(&packet);
    rig.run_for(200 * MS);
    assert_eq!(asks(&rig.sent).len(), 1);
    assert!(
        rig.found().is_empty() && rig.mdns.stats().cached == 0,
        "a known answer is not kept"
    );
}

#[test]
fn a_question_that_wants_unicast_is_no_reason_to_be_silent() {
    let mut rig = Rig::new(1);
    rig.browse();
    let mut packet = query("_rats._tcp.local", Kind::PTR);
    packet.questions[0].wants_unicast = true;
    rig.deliver(&packet);
    rig.run_for(200 * MS);
    assert_eq!(asks(&rig.sent).len(), 1);
}

#[test]
fn what_is_not_wanted_is_not_kept() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&response([
        ptr("_other._tcp.local", "b"),
        srv("b._rats._tcp.local", 1, "x.local"),
        address("x.local", "192.0.2.9"),
    ]));
    assert_eq!(rig.mdns.stats().cached, 0);
    // A pointer whose target is of another type is none.
    let target = plain("b._other._tcp.local");
    rig.deliver(&response([record(
        "_rats._tcp.local",
        4500,
        Data::Ptr(target),
    )]));
    assert_eq!(rig.mdns.stats().cached, 0);
}

#[test]
fn changes_are_told() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.take_events();
    rig.run_for(2 * SECOND);
    rig.deliver(&response([txt("b._rats._tcp.local", b"\x05id=10")]));
    let events = rig.take_events();
    assert!(
        matches!(&events[..], [MdnsEvent::Updated(found)] if found.txt.get("id") == Some(b"10")),
        "{events:?}"
    );
    rig.run_for(2 * SECOND);
    rig.deliver(&response([srv("b._rats._tcp.local", 7001, "x.local")]));
    rig.run_for(2 * SECOND);
    let last = rig.take_events().pop();
    assert!(matches!(last, Some(MdnsEvent::Updated(found)) if found.port == 7001));
    rig.deliver(&response([address("x.local", "192.0.2.10")]));
    rig.run_for(2 * SECOND);
    let last = rig.take_events().pop();
    assert!(matches!(last, Some(MdnsEvent::Updated(found)) if found.addrs == [ip("192.0.2.10")]));
}

#[test]
fn what_is_taken_back_is_lost_a_second_later() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.take_events();
    let gone = Record {
        ttl: 0,
        ..ptr("_rats._tcp.local", "b")
    };
    rig.deliver(&response([gone.clone()]));
    rig.run_for(990 * MS);
    assert!(rig.take_events().is_empty());
    rig.run_for(20 * MS);
    assert!(
        matches!(&rig.take_events()[..], [MdnsEvent::Lost { instance, .. }] if instance == "b")
    );
    assert!(rig.found().is_empty());
    assert_eq!(rig.mdns.stats().cached, 0, "nothing is left of it");
}

#[test]
fn who_comes_back_within_the_second_was_never_lost() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.take_events();
    let gone = Record {
        ttl: 0,
        ..ptr("_rats._tcp.local", "b")
    };
    rig.deliver(&response([gone]));
    rig.run_for(500 * MS);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.run_for(10 * SECOND);
    assert!(rig.take_events().is_empty());
}

#[test]
fn types_are_found_that_are_told() {
    let mut rig = Rig::new(1);
    rig.mdns.browse_types(rig.now).unwrap();
    rig.run_for(200 * MS);
    let asked = asks(&rig.sent)[0];
    assert_eq!(
        asked.packet.questions[0].name,
        plain("_services._dns-sd._udp.local")
    );
    let all = |target: &str| {
        record(
            "_services._dns-sd._udp.local",
            4500,
            Data::Ptr(plain(target)),
        )
    };
    rig.deliver(&response([
        all("_http._tcp.local"),
        all("_http._tcp.local"),
        all("nonsense.local"),
    ]));
    let events = rig.take_events();
    assert!(
        matches!(&events[..], [MdnsEvent::TypeFound { service_type, .. }] if service_type.to_string() == "_http._tcp"),
        "{events:?}"
    );
}

#[test]
fn an_instance_that_is_followed_is_kept_fresh() {
    let mut rig = Rig::new(1);
    let kind = "_rats._tcp".parse().unwrap();
    rig.mdns.resolve(rig.now, "b", &kind).unwrap();
    rig.run_for(200 * MS);
    let asked: Vec<_> = rig
        .only_query()
        .packet
        .questions
        .iter()
        .map(|q| q.kind)
        .collect();
    assert_eq!(asked, [Kind::TXT, Kind::SRV]);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    assert!(matches!(&rig.take_events()[..], [MdnsEvent::Found(_)]));
    let then = rig.at();
    rig.run_for(95 * SECOND);
    rig.take();
    rig.run_for(4 * SECOND);
    let kinds: Vec<_> = asks(&rig.sent)
        .iter()
        .flat_map(|ask| &ask.packet.questions)
        .map(|q| q.kind)
        .collect();
    assert!(
        kinds.contains(&Kind::SRV) && kinds.contains(&Kind::A),
        "{kinds:?} at 80 per cent"
    );
    assert!(rig.sent[0].at - then >= 96 * SECOND);
    rig.run_for(30 * SECOND);
    assert!(
        matches!(&rig.take_events()[..], [MdnsEvent::Lost { .. }]),
        "it has not answered"
    );
}

impl Rig {
    fn only_query(&mut self) -> Sent {
        self.sent.retain(|sent| sent.is_query() && !sent.is_probe());
        self.only()
    }
}

#[test]
fn a_second_browse_is_told_what_the_first_has_found() {
    let mut rig = Rig::browsing(1);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.take_events();
    let second = rig.browse();
    assert!(matches!(&rig.take_events()[..], [MdnsEvent::Found(_)]));
    rig.mdns.stop_interest(second).unwrap();
    assert_eq!(rig.found().len(), 1, "the first one goes on");
    assert!(rig.mdns.stop_interest(second).is_err());
}

#[test]
fn what_only_an_ended_browse_wanted_is_forgotten() {
    let mut rig = Rig::new(1);
    let id = rig.browse();
    rig.run_for(SECOND);
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.take_events();
    rig.mdns.stop_interest(id).unwrap();
    rig.run_for(20 * SECOND);
    assert!(rig.found().is_empty() && rig.take_events().is_empty());
    assert_eq!(rig.mdns.stats().cached, 0);
    rig.take();
    rig.run_for(7200 * SECOND);
    assert!(rig.take().is_empty());
    assert_eq!(rig.mdns.poll_timeout(), None);
}

#[test]
fn our_own_services_are_not_found() {
    let mut rig = Rig::browsing(1);
    rig.register("a");
    rig.run_for(5 * SECOND);
    rig.deliver(&response([ptr("_rats._tcp.local", "a")]));
    assert!(rig.found().is_empty());
}

#[test]
fn interests_have_a_limit() {
    let mut rig = Rig::new(1);
    for _ in 0..INTERESTS_MAX {
        rig.browse();
    }
    let error = rig
        .mdns
        .browse(rig.now, "_a._tcp".parse().unwrap())
        .unwrap_err();
    assert_eq!(error.kind(), "full");
}

#[test]
fn steady_browsing_costs_less_than_a_packet_a_minute() {
    let (mut rig, _) = Rig::established(1);
    rig.browse();
    rig.deliver(&announcement("b", "x.local", "192.0.2.9"));
    rig.run_for(3600 * SECOND);
    rig.take();
    rig.run_for(3600 * SECOND);
    assert!(rig.sent.len() <= 60, "{}", rig.sent.len());
    println!("packets in the second hour: {}", rig.sent.len());
    assert!(rig.mdns.heap_bytes() < 8192, "{}", rig.mdns.heap_bytes());
}
