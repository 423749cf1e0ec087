//! Who holds how much: slow consumers, large messages, many peers at once.

use std::time::Duration;

use mischief::SendError;
use mischief_reactor::Limits;

use crate::bare::{Bare, Hoarding, SETTLED};
use crate::net::{Machine, SECOND, each_seed, inbox, new_world};

const SEEDS: std::ops::Range<u64> = 1..4;
const MIB: usize = 1 << 20;

#[test]
fn a_consumer_that_takes_nothing_stops_its_sender_and_nobody_else() {
    let test = "flow::a_consumer_that_takes_nothing_stops_its_sender_and_nobody_else";
    each_seed(test, SEEDS, |seed| {
        let world = new_world(seed);
        let hoarding = Hoarding::new();
        let bare = Bare::new(&world, "10.0.0.1", hoarding.clone());
        *hoarding.handle.lock().unwrap() = Some(bare.handle());
        let idle = bare.footprint();
        let sender = Machine::new(&world, "10.0.0.2");
        let peer = sender
            .node
            .connect(&bare.addr.to_string())
            .wait()
            .expect("it listens");
        let outgoing = sender.node.outgoing(&peer).expect("it is connected");
        let mut sent = 0;
        let mut was_full = 0;
        while was_full < 20 {
            match outgoing.send_bytes(&[7; 1000]) {
                Ok(()) => sent += 1,
                Err(SendError::Full) => {
                    was_full += 1;
                    world.run_for(SECOND);
                }
                Err(error) => panic!("{error}"),
            }
            if sent % 100 == 0 {
                world.run_for(Duration::from_millis(1));
            }
        }
        // The window of the stream is all that the other side has taken.
        assert!(
            hoarding.hoarder.owed() <= 256 << 10,
            "{}",
            hoarding.hoarder.owed()
        );
        assert!(hoarding.hoarder.messages() > 200);
        // The sender holds one high mark in the link and another in the connection, and a message over each.
        assert!(sent * 1004 < 3 * MIB, "{sent} messages");
        let info = sender.node.peer(&peer).wait().expect("it is connected");
        let pings = info.bytes_in;
        // Keep-alives are not held up by it, on either side.
        world.run_for(300 * SECOND);
        let info = sender
            .node
            .peer(&peer)
            .wait()
            .expect("it is still connected");
        assert!(info.bytes_in > pings, "pings and their answers");
        assert_eq!(sender.comings_and_goings(), (1, 0));
        assert!(bare.reasons().is_empty());
        // And others are served meanwhile.
        let other = Machine::new(&world, "10.0.0.3");
        let before = hoarding.hoarder.messages();
        let peer = other
            .node
            .connect(&bare.addr.to_string())
            .wait()
            .expect("it listens");
        other
            .node
            .send_bytes(&peer, b"hello")
            .wait()
            .expect("it is connected");
        let arrived = || hoarding.hoarder.messages() == before + 1;
        world.run_until(arrived, SECOND).expect("it arrives");
        // It goes on as soon as something is taken.
        hoarding.hoarder.open(&bare.handle());
        let all = || hoarding.hoarder.messages() == sent + 1;
        world
            .run_until(all, 30 * SECOND)
            .expect("all of it arrives");
        drop((sender, other));
        world.run_for(SETTLED);
        assert_eq!(bare.footprint(), idle);
    });
}

#[test]
fn large_messages_pass_up_to_their_limit_and_beyond_it_for_trusted_peers() {
    let test = "flow::large_messages_pass_up_to_their_limit_and_beyond_it_for_trusted_peers";
    each_seed(test, SEEDS, |seed| {
        let world = new_world(seed);
        let a = Machine::new(&world, "10.0.0.1");
        let b = Machine::new(&world, "10.0.0.2");
        let inbox = inbox(&b);
        let peer = a.connect(&b);
        a.node
            .send_bytes(&peer, &vec![1; MIB])
            .wait()
            .expect("it is within the limit");
        let error = a
            .node
            .send_bytes(&peer, &vec![2; MIB + 1])
            .wait()
            .expect_err("a byte more");
        assert_eq!(error.kind(), "too_large", "{error}");
        b.node.trust(&a.id()).wait().expect("it runs");
        world.run_for(SECOND);
        a.node
            .send_bytes(&peer, &vec![3; 16 * MIB])
            .wait()
            .expect("b trusts a");
        let error = a.node.send_bytes(&peer, &vec![4; 16 * MIB + 1]).wait();
        assert_eq!(error.expect_err("a byte more").kind(), "too_large");
        a.node
            .send_bytes(&peer, b"last")
            .wait()
            .expect("it is connected");
        let is_done = || inbox.lock().unwrap().len() == 3;
        world.run_until(is_done, 60 * SECOND).expect("all arrive");
        {
            let inbox = inbox.lock().unwrap();
            assert!(inbox[0] == vec![1; MIB] && inbox[1] == vec![3; 16 * MIB]);
            assert_eq!(inbox[2], b"last");
        }
        // Trust is remembered for the next connection, and is one-sided.
        a.node.disconnect(&peer).wait().expect("it is connected");
        world.run_for(SECOND);
        a.connect(&b);
        world.run_for(SECOND);
        a.node
            .send_bytes(&peer, &vec![5; 2 * MIB])
            .wait()
            .expect("b still trusts a");
        let error = b.node.send_bytes(&a.id(), &vec![6; 2 * MIB]).wait();
        assert_eq!(error.expect_err("a does not trust b").kind(), "too_large");
        let is_done = || inbox.lock().unwrap().len() == 4;
        world.run_until(is_done, 60 * SECOND).expect("it arrives");
    });
}

#[test]
fn many_peers_share_the_memory_for_large_messages() {
    let test = "flow::many_peers_share_the_memory_for_large_messages";
    each_seed(test, SEEDS, |seed| {
        let world = new_world(seed);
        let hub = Machine::with(&world, "10.0.0.1", 2, Limits::default(), |builder| {
            let mut limits = mischief::Limits::default();
            limits.reassembly_bytes_max = 2 * MIB;
            builder.limits(limits)
        });
        let idle = hub.footprint();
        let inbox = inbox(&hub);
        let others: Vec<_> = (2..14)
            .map(|number| Machine::new(&world, &format!("10.0.{number}.1")))
            .collect();
        for other in &others {
            other.connect(&hub);
        }
        for round in 0..2 {
            for (number, other) in others.iter().enumerate() {
                let message = vec![(2 * number + round) as u8; MIB - 1];
                let sent = other.node.send_bytes(&hub.id(), &message);
                assert!(
                    !matches!(sent.try_result(), Some(Err(_))),
                    "there is room for one"
                );
            }
            let is_done = || inbox.lock().unwrap().len() == (round + 1) * others.len();
            let all = world.run_until(is_done, 600 * SECOND);
            all.expect("all arrive, some later than others");
        }
        let inbox = std::mem::take(&mut *inbox.lock().unwrap());
        let mut firsts: Vec<u8> = inbox.iter().map(|message| message[0]).collect();
        firsts.sort_unstable();
        assert_eq!(firsts, (0..24).collect::<Vec<u8>>());
        assert!(inbox.iter().all(|message| message.len() == MIB - 1));
        assert_eq!(hub.comings_and_goings(), (12, 0), "{:?}", hub.reasons());
        drop(others);
        world.run_for(SETTLED);
        assert_eq!(hub.footprint(), idle);
    });
}
