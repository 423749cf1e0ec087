//! Work that blocks: jobs, files, names.

use std::net::Ipv4Addr;

use mischief_reactor::io::driver::OpenOptions;
use mischief_reactor::{Context, Failure, OffloadError};

use crate::fixture::Fixture;
use crate::puppet::{Order, Puppet, SECOND, Seen, mailboxes_of, order, puppet, tell};

fn note<T: std::fmt::Debug>(result: T) -> Order {
    let text = format!("{result:?}");
    Order::Do(Box::new(move |me, _| {
        me.log.add(Seen::Note(text));
        Ok(())
    }))
}

pub fn a_job_brings_its_result_to_a_full_mailbox<F: Fixture>() {
    let f = F::with_limits(1, mailboxes_of(1, 1));
    let (actor, log) = puppet(&f, 0);
    order(&f.handle(), &actor, |_, cx| {
        cx.offload(|_| 40 + 2, note);
        let me = cx.address();
        cx.send(&me, Order::Number(1)).expect("room");
        assert!(cx.send(&me, Order::Number(2)).is_err());
    });
    f.until(|| log.has(&Seen::Note("Ok(42)".to_owned())));
    assert!(f.shutdown(SECOND));
}

pub fn a_job_that_panics_is_an_error<F: Fixture>() {
    let f = F::start(1);
    let (actor, log) = puppet(&f, 0);
    order(&f.handle(), &actor, |_, cx| {
        cx.offload(
            |_| panic!("on purpose"),
            |result: Result<u32, _>| note(result),
        );
    });
    f.until(|| log.has(&Seen::Note("Err(Panicked(\"on purpose\"))".to_owned())));
    order(&f.handle(), &actor, |_, cx| cx.offload(|_| 1, note));
    f.until(|| log.has(&Seen::Note("Ok(1)".to_owned())));
    assert!(f.shutdown(SECOND));
}

/// More jobs than the pool takes: some are refused, every one is answered.
pub fn a_full_pool_is_an_error<F: Fixture>() {
    let f = F::start(1);
    let (actor, log) = puppet(&f, 0);
    let jobs = 10_000;
    order(&f.handle(), &actor, move |_, cx| {
        for _ in 0..jobs {
            cx.offload(
                |_| std::thread::sleep(SECOND / 100_000),
                |result| match result {
                    Ok(()) => Order::Number(1),
                    Err(OffloadError::Full) => Order::Number(0),
                    Err(error) => panic!("{error}"),
                },
            );
        }
    });
    f.until(|| log.numbers().len() == jobs);
    let done: u32 = log.numbers().iter().sum();
    assert!(done >= 64 && (done as usize) < jobs, "{done} were taken");
    assert!(f.shutdown(SECOND));
}

/// The asker ends before its job does: the result reaches nobody.
pub fn a_job_may_outlive_whoever_wanted_it<F: Fixture>() {
    let f = F::start(1);
    let (actor, log) = puppet(&f, 0);
    tell(&f.handle(), &actor, |_, cx| {
        cx.offload(|_| 1, note);
        Err(Failure::new("on purpose"))
    });
    f.until(|| f.handle().undeliverable() == 1);
    assert_eq!(log.all(), [Seen::Started, Seen::Dropped]);
    assert!(f.shutdown(SECOND));
}

pub fn names_are_resolved<F: Fixture>() {
    let f = F::start(1);
    let (actor, log) = puppet(&f, 0);
    let resolve = |host: &'static str| {
        order(&f.handle(), &actor, move |_, cx| {
            cx.resolve(host.to_owned(), 80, |result| match result {
                Ok(addrs) => note(addrs.contains(&(Ipv4Addr::LOCALHOST, 80).into())),
                Err(_) => note("no such name"),
            });
        });
    };
    resolve("localhost");
    f.until(|| log.has(&Seen::Note("true".to_owned())));
    resolve("127.0.0.1");
    f.until(|| log.count(&Seen::Note("true".to_owned())) == 2);
    resolve("nowhere.invalid");
    f.until(|| log.has(&Seen::Note("\"no such name\"".to_owned())));
    assert!(f.shutdown(SECOND));
}

pub fn jobs_reach_the_files_of_the_node<F: Fixture>() {
    let f = F::start(1);
    let (actor, log) = puppet(&f, 0);
    let path = std::env::temp_dir().join(format!("mischief-actors-{}-offload", std::process::id()));
    let path = path.to_str().expect("a path in UTF-8").to_owned();
    let directory = std::env::temp_dir()
        .to_str()
        .expect("a path in UTF-8")
        .to_owned();
    order(
        &f.handle(),
        &actor,
        move |_, cx: &mut Context<'_, Puppet>| {
            let job = move |outside: &mischief_reactor::Outside| -> std::io::Result<Vec<u8>> {
                let options = OpenOptions {
                    write: true,
                    create: true,
                    truncate: true,
                    ..OpenOptions::default()
                };
                outside.disk.create_dir_all(&directory)?;
                let file = outside.disk.open(&path, options)?;
                file.write_at(0, b"well kept")?;
                file.sync()?;
                let mut bytes = vec![0; 4];
                file.read_at(5, &mut bytes)?;
                outside.disk.remove(&path)?;
                Ok(bytes)
            };
            cx.offload(job, |result| {
                note(result.expect("no panic").expect("files work"))
            });
        },
    );
    f.until(|| log.has(&Seen::Note(format!("{:?}", b"kept"))));
    assert!(f.shutdown(SECOND));
}
