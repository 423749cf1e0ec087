//! RFC 6762 §5.4, §6, §7 (as responder), §18; RFC 6763 §4, §9, §12.

use super::*;

#[test]
fn a_pointer_is_answered_after_20_to_120_ms_evenly_spread() {
    let mut delays = Vec::new();
    for seed in 0..500 {
        let (mut rig, _) = Rig::established(seed);
        let asked = rig.at();
        rig.deliver(&query("_rats._tcp.local", Kind::PTR));
        rig.run_for(SECOND);
        delays.push(rig.only().at - asked);
    }
    delays.sort_unstable();
    assert!(delays[0] >= 20 * MS && delays[499] <= 120 * MS);
    // Kolmogorov-Smirnov with n = 500: 1.63 / sqrt(n) at one per cent, which is 0.073.
    for (index, delay) in delays.iter().enumerate() {
        let expected = (delay.as_secs_f64() - 0.020) / 0.100;
        let seen = (index as f64 + 0.5) / 500.0;
        assert!((expected - seen).abs() < 0.073, "{index}: {delay:?}");
    }
}

#[test]
fn a_pointer_brings_everything_that_is_needed_to_connect() {
    let (mut rig, _) = Rig::established(1);
    rig.deliver(&query("_RATS._tcp.LOCAL", Kind::PTR));
    rig.run_for(SECOND);
    let sent = rig.only();
    assert_eq!(sent.to, "224.0.0.251:5353".parse().unwrap());
    assert_eq!(sent.packet.id, 0, "RFC 6762 §18.1");
    assert!(sent.packet.questions.is_empty());
    assert_eq!(sent.answers("_rats._tcp.local", Kind::PTR).len(), 1);
    let more: Vec<_> = sent
        .packet
        .additionals
        .iter()
        .map(|record| record.data.kind())
        .collect();
    assert_eq!(more, [Kind::SRV, Kind::TXT, Kind::A, Kind::NSEC]);
}

#[test]
fn what_is_ours_alone_is_answered_at_once() {
    for (name, kind) in [
        ("a._rats._tcp.local", Kind::SRV),
        ("a._rats._tcp.local", Kind::TXT),
        ("h.local", Kind::A),
    ] {
        let (mut rig, _) = Rig::established(1);
        let asked = rig.at();
        rig.deliver(&query(name, kind));
        let sent = rig.only();
        assert_eq!(sent.at, asked, "{name} {kind:?}");
        assert!(sent.answers(name, kind)[0].is_flush);
    }
}

#[test]
fn any_is_answered_with_everything_of_the_name() {
    let (mut rig, _) = Rig::established(1);
    rig.deliver(&query("a._rats._tcp.local", Kind::ANY));
    let sent = rig.only();
    assert_eq!(sent.packet.answers.len(), 2);
    assert!(sent.has("a._rats._tcp.local", Kind::SRV));
    assert!(sent.has("a._rats._tcp.local", Kind::TXT));
}

#[test]
fn what_does_not_exist_of_our_names_is_denied() {
    let (mut rig, _) = Rig::established(1);
    rig.deliver(&query("h.local", Kind::AAAA));
    let sent = rig.only();
    let denial = sent.answers("h.local", Kind::NSEC)[0];
    assert!(denial.is_flush);
    let Data::Nsec { next, kinds } = &denial.data else {
        panic!("an NSEC record");
    };
    assert_eq!((next, &kinds[..]), (&plain("h.local"), &[Kind::A][..]));
    let more: Vec<_> = sent
        .packet
        .additionals
        .iter()
        .map(|record| record.data.kind())
        .collect();
    assert_eq!(more, [Kind::A], "RFC 6762 §6.2");
    rig.run_for(2 * SECOND);
    rig.deliver(&query("a._rats._tcp.local", Kind::A));
    let denial = rig.only().answers("a._rats._tcp.local", Kind::NSEC)[0].clone();
    assert!(matches!(denial.data, Data::Nsec { kinds, .. } if kinds == [Kind::TXT, Kind::SRV]));
}

#[test]
fn nothing_is_said_about_names_of_others() {
    let (mut rig, _) = Rig::established(1);
    for (name, kind) in [
        ("other.local", Kind::A),
        ("b._rats._tcp.local", Kind::SRV),
        ("_other._tcp.local", Kind::PTR),
        ("h.example", Kind::A),
        ("local", Kind::ANY),
    ] {
        rig.deliver(&query(name, kind));
    }
    rig.run_for(2 * SECOND);
    assert!(rig.take().is_empty());
}

#[test]
fn types_are_told_to_who_asks_for_all_types() {
    let (mut rig, _) = Rig::established(1);
    rig.register("b");
    rig.run_for(5 * SECOND);
    rig.sent.clear();
    rig.deliver(&query("_services._dns-sd._udp.local", Kind::PTR));
    rig.run_for(SECOND);
    let sent = rig.only();
    let types = sent.answers("_services._dns-sd._udp.local", Kind::PTR);
    assert_eq!(types.len(), 1, "two services of one type are one type");
    assert_eq!(types[0].data, Data::Ptr(plain("_rats._tcp.local")));
    assert!(!types[0].is_flush);
}

#[test]
fn known_answers_with_half_their_time_are_left_out() {
    for (ttl, is_answered) in [(4500, false), (2250, false), (2249, true), (1, true)] {
        let (mut rig, _) = Rig::established(1);
        let mut packet = query("_rats._tcp.local", Kind::PTR);
        packet.answers = vec![Record {
            ttl,
            ..ptr("_rats._tcp.local", "a")
        }];
        rig.deliver(&packet);
        rig.run_for(SECOND);
        assert_eq!(!rig.take().is_empty(), is_answered, "{ttl}");
    }
}

#[test]
fn a_known_answer_of_another_instance_changes_nothing() {
    let (mut rig, _) = Rig::established(1);
    let mut packet = query("_rats._tcp.local", Kind::PTR);
    packet.answers = vec![ptr("_rats._tcp.local", "b")];
    rig.deliver(&packet);
    rig.run_for(SECOND);
    assert!(rig.only().has("_rats._tcp.local", Kind::PTR));
}

#[test]
fn a_truncated_query_is_answered_after_400_to_500_ms() {
    for seed in 0..40 {
        let (mut rig, _) = Rig::established(seed);
        let asked = rig.at();
        let mut packet = query("_rats._tcp.local", Kind::PTR);
        packet.is_truncated = true;
        rig.deliver(&packet);
        rig.run_for(SECOND);
        let delay = rig.only().at - asked;
        assert!(is_between(delay, 400 * MS, 500 * MS), "{delay:?}");
    }
}

#[test]
fn known_answers_may_come_in_several_packets() {
    let (mut rig, _) = Rig::established(1);
    let mut packet = query("_rats._tcp.local", Kind::PTR);
    packet.is_truncated = true;
    rig.deliver(&packet);
    rig.run_for(300 * MS);
    // One with others that announces another one, and with that the wait begins anew.
    let mut more = Packet {
        is_truncated: true,
        answers: vec![ptr("_rats._tcp.local", "b")],
        ..Packet::default()
    };
    rig.deliver(&more);
    rig.run_for(350 * MS);
    assert!(rig.sent.is_empty());
    more.is_truncated = false;
    more.answers = vec![ptr("_rats._tcp.local", "a")];
    rig.deliver(&more);
    rig.run_for(2 * SECOND);
    assert!(rig.take().is_empty());
}

#[test]
fn known_answers_of_somebody_else_do_not_count() {
    let (mut rig, _) = Rig::established(1);
    let mut packet = query("_rats._tcp.local", Kind::PTR);
    packet.is_truncated = true;
    rig.deliver_from("192.0.2.9:5353", &packet);
    let more = Packet {
        answers: vec![ptr("_rats._tcp.local", "a")],
        ..Packet::default()
    };
    rig.deliver_from("192.0.2.10:5353", &more);
    rig.run_for(SECOND);
    assert!(rig.only().has("_rats._tcp.local", Kind::PTR));
}

#[test]
fn a_second_querier_is_not_robbed_by_the_list_of_the_first() {
    let (mut rig, _) = Rig::established(1);
    let mut packet = query("_rats._tcp.local", Kind::PTR);
    packet.is_truncated = true;
    rig.deliver_from("192.0.2.9:5353", &packet);
    rig.deliver_from("192.0.2.10:5353", &query("_rats._tcp.local", Kind::PTR));
    let more = Packet {
        answers: vec![ptr("_rats._tcp.local", "a")],
        ..Packet::default()
    };
    rig.deliver_from("192.0.2.9:5353", &more);
    rig.run_for(SECOND);
    assert!(rig.only().has("_rats._tcp.local", Kind::PTR));
}

#[test]
fn an_answer_that_somebody_else_gives_is_not_given_again() {
    let (mut rig, _) = Rig::established(1);
    rig.deliver(&query("_services._dns-sd._udp.local", Kind::PTR));
    rig.deliver(&response([record(
        "_services._dns-sd._udp.local",
        4500,
        Data::Ptr(plain("_rats._tcp.local")),
    )]));
    rig.run_for(SECOND);
    assert!(rig.take().is_empty());
}

#[test]
fn an_answer_of_somebody_else_with_less_time_does_not_do() {
    let (mut rig, _) = Rig::established(1);
    rig.deliver(&query("_services._dns-sd._udp.local", Kind::PTR));
    rig.deliver(&response([record(
        "_services._dns-sd._udp.local",
        4499,
        Data::Ptr(plain("_rats._tcp.local")),
    )]));
    rig.run_for(SECOND);
    assert!(rig.only().has("_services._dns-sd._udp.local", Kind::PTR));
}

#[test]
fn a_record_of_ours_that_others_tell_with_too_little_time_is_told_again() {
    let (mut rig, _) = Rig::established(1);
    let short = Record {
        ttl: 50,
        ..srv("a._rats._tcp.local", 9000, "h.local")
    };
    rig.deliver(&response([short]));
    rig.run_for(SECOND);
    let sent = rig.only();
    assert_eq!(sent.answers("a._rats._tcp.local", Kind::SRV)[0].ttl, 120);
    // A goodbye for it from somebody else is the extreme of it.
    rig.run_for(2 * SECOND);
    let gone = Record {
        ttl: 0,
        ..ptr("_rats._tcp.local", "a")
    };
    rig.deliver(&response([gone]));
    rig.run_for(SECOND);
    assert_eq!(
        rig.only().answers("_rats._tcp.local", Kind::PTR)[0].ttl,
        4500
    );
}

#[test]
fn a_record_is_multicast_at_most_once_a_second() {
    let (mut rig, _) = Rig::established(1);
    for _ in 0..100 {
        rig.deliver(&query("a._rats._tcp.local", Kind::SRV));
        rig.run_for(50 * MS);
    }
    rig.run_for(2 * SECOND);
    let sent: Vec<_> = rig.take().into_iter().map(|sent| sent.at).collect();
    assert!(
        is_between(SECOND * sent.len() as u32, 5 * SECOND, 7 * SECOND),
        "{sent:?}"
    );
    for pair in sent.windows(2) {
        assert!(pair[1] - pair[0] >= SECOND, "{sent:?}");
    }
}

#[test]
fn additional_records_keep_to_the_second_too() {
    let (mut rig, _) = Rig::established(1);
    rig.deliver(&query("h.local", Kind::A));
    rig.take();
    rig.deliver(&query("a._rats._tcp.local", Kind::SRV));
    let sent = rig.only();
    assert!(sent.packet.additionals.is_empty(), "{sent:?}");
}

#[test]
fn a_name_is_defended_against_a_probe_every_250_ms() {
    let (mut rig, _) = Rig::established(1);
    rig.deliver(&query("a._rats._tcp.local", Kind::ANY));
    rig.take();
    let asked = rig.at();
    rig.run_for(100 * MS);
    rig.deliver(&probe("a", 1, "other.local"));
    rig.run_for(SECOND);
    let sent = rig.only();
    assert_eq!(sent.at - asked, 250 * MS, "not a second");
    assert!(sent.has("a._rats._tcp.local", Kind::SRV) && sent.has("a._rats._tcp.local", Kind::TXT));
    assert_eq!(rig.instance(), "a");
}

#[test]
fn answers_to_several_questions_go_together() {
    let (mut rig, _) = Rig::established(1);
    let mut packet = query("_rats._tcp.local", Kind::PTR);
    packet.questions.push(question("h.local", Kind::A));
    packet.questions.push(question("other.local", Kind::A));
    rig.deliver(&packet);
    rig.run_for(SECOND);
    let sent = rig.only();
    assert!(sent.has("_rats._tcp.local", Kind::PTR) && sent.has("h.local", Kind::A));
}

#[test]
fn answers_to_several_queriers_go_together() {
    let (mut rig, _) = Rig::established(1);
    rig.deliver_from("192.0.2.9:5353", &query("_rats._tcp.local", Kind::PTR));
    rig.run_for(10 * MS);
    rig.deliver_from(
        "192.0.2.10:5353",
        &query("_services._dns-sd._udp.local", Kind::PTR),
    );
    rig.run_for(SECOND);
    let sent = rig.only();
    assert_eq!(sent.packet.answers.len(), 2);
}

#[test]
fn a_unicast_answer_will_do_if_all_have_been_told_lately() {
    let (mut rig, _) = Rig::established(1);
    let mut packet = query("a._rats._tcp.local", Kind::SRV);
    packet.questions[0].wants_unicast = true;
    rig.deliver(&packet);
    let sent = rig.only();
    assert_eq!(sent.to, "192.0.2.9:5353".parse().unwrap());
    assert!(sent.packet.questions.is_empty());
    assert_eq!(sent.packet.id, 0);
    let answer = sent.answers("a._rats._tcp.local", Kind::SRV)[0];
    assert!(answer.is_flush && answer.ttl == 120);
    // A quarter of 120 seconds later the others are due.
    rig.run_for(31 * SECOND);
    rig.deliver(&packet);
    assert_eq!(rig.only().to, "224.0.0.251:5353".parse().unwrap());
}

#[test]
fn a_query_by_unicast_is_answered_by_unicast() {
    let (mut rig, _) = Rig::established(1);
    rig.run_for(100 * SECOND);
    rig.deliver_unicast("192.0.2.9:5353", &query("h.local", Kind::A));
    assert_eq!(rig.only().to, "192.0.2.9:5353".parse().unwrap());
}

#[test]
fn a_resolver_of_the_old_kind_gets_its_kind_of_answer() {
    let (mut rig, _) = Rig::established(1);
    let asked = rig.at();
    let mut packet = query("_rats._tcp.local", Kind::PTR);
    packet.id = 0x1234;
    rig.deliver_from("192.0.2.9:40000", &packet);
    let sent = rig.only();
    assert_eq!(sent.at, asked, "it asks one and waits for nobody");
    assert_eq!(sent.to, "192.0.2.9:40000".parse().unwrap());
    assert_eq!(sent.packet.id, 0x1234);
    assert_eq!(sent.packet.questions, packet.questions);
    let records = sent.packet.answers.iter().chain(&sent.packet.additionals);
    for record in records {
        assert!(!record.is_flush && record.ttl <= 10, "{record:?}");
    }
    assert_eq!(sent.packet.additionals.len(), 4);
}

#[test]
fn more_queriers_than_there_is_room_for_are_answered_by_multicast() {
    let (mut rig, _) = Rig::established(1);
    let mut packet = query("_rats._tcp.local", Kind::PTR);
    packet.questions[0].wants_unicast = true;
    for host in 0..REPLIES_MAX + 5 {
        rig.deliver_from(&format!("192.0.2.{}:5353", host + 10), &packet);
    }
    rig.run_for(SECOND);
    let (to_all, to_one): (Vec<_>, Vec<_>) = rig
        .take()
        .into_iter()
        .partition(|sent| sent.to.ip().is_multicast());
    assert_eq!((to_one.len(), to_all.len()), (REPLIES_MAX, 1));
}

#[test]
fn answers_go_out_over_the_family_of_the_question() {
    let links = [link(LINK, &[("192.0.2.1", 24), ("fe80::1", 64)])];
    let mut rig = Rig::with(1, true, &links);
    rig.register("a");
    rig.run_for(5 * SECOND);
    let groups = |sent: &[Sent]| {
        let v4 = sent.iter().filter(|sent| sent.to.is_ipv4()).count();
        (v4, sent.len() - v4)
    };
    assert_eq!(
        groups(&rig.take()),
        (5, 5),
        "probes and announcements over both"
    );
    let bytes = query("h.local", Kind::A).encode(1000).unwrap();
    rig.deliver_bytes(LINK, "[fe80::9%2]:5353", Some("ff02::fb"), &bytes);
    let sent = rig.only();
    assert_eq!(sent.to, "[ff02::fb%2]:5353".parse().unwrap());
    let kinds: Vec<_> = sent
        .packet
        .additionals
        .iter()
        .map(|record| record.data.kind())
        .collect();
    assert_eq!(
        kinds,
        [Kind::AAAA],
        "both families, whatever the question came by"
    );
}

#[test]
fn a_dual_query_has_one_answer_a_family() {
    let links = [link(LINK, &[("192.0.2.1", 24), ("fe80::1", 64)])];
    let mut rig = Rig::with(1, true, &links);
    rig.register("a");
    rig.run_for(5 * SECOND);
    rig.take();
    let bytes = query("_rats._tcp.local", Kind::PTR).encode(1000).unwrap();
    rig.deliver_bytes(LINK, "[fe80::9%2]:5353", Some("ff02::fb"), &bytes);
    rig.deliver_bytes(LINK, "192.0.2.9:5353", Some("224.0.0.251"), &bytes);
    rig.run_for(SECOND);
    assert_eq!(rig.take().len(), 2);
}

#[test]
fn classes_other_than_in_and_any_are_not_ours() {
    let (mut rig, _) = Rig::established(1);
    let mut bytes = query("h.local", Kind::A).encode(1000).unwrap();
    let at = bytes.len() - 1;
    bytes[at] = 3;
    rig.deliver_bytes(LINK, "192.0.2.9:5353", Some("224.0.0.251"), &bytes);
    assert!(rig.take().is_empty());
    bytes[at] = 255;
    rig.deliver_bytes(LINK, "192.0.2.9:5353", Some("224.0.0.251"), &bytes);
    assert!(rig.only().has("h.local", Kind::A));
}

#[test]
fn an_instance_name_may_have_dots_blanks_and_letters_of_all_kinds() {
    let mut rig = Rig::new(1);
    let name = r"Tom's. Rät \ 1";
    rig.register(name);
    rig.run_for(5 * SECOND);
    rig.sent.clear();
    let full = plain("_rats._tcp.local").child(name.as_bytes()).unwrap();
    let mut packet = query("_rats._tcp.local", Kind::SRV);
    packet.questions[0].name = full.clone();
    rig.deliver(&packet);
    let sent = rig.only();
    assert_eq!(sent.packet.answers[0].name, full);
    assert_eq!(full.labels().count(), 4);
}
