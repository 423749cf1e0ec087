//! Requests between nodes that crash, lose each other and stand still: every one has exactly one outcome.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mischief::{Body, NodeBuilder, PeerId, RequestError, Requested, Responder};
use mischief_reactor::Random;
use mischief_reactor::sim::swarm::{Plan, Scenario, Stage};
use mischief_reactor::sim::{LinkOptions, Prng};

use super::party::{Desk, SECOND, SharedDesk, join, lock, watch};

/// How often the nodes look whom to dial, ask, and answer.
const BEAT: Duration = Duration::from_millis(200);

/// Nodes that all ask each other.
pub(crate) struct Asking {
    name: &'static str,
    machines: usize,
    /// Faults of each kind.
    faults: usize,
}

impl Asking {
    pub(crate) const SMALL: Asking = Asking {
        name: "asking",
        machines: 4,
        faults: 3,
    };
    pub(crate) const LARGE: Asking = Asking {
        name: "asking-40",
        machines: 40,
        faults: 30,
    };
    const ROUND: Duration = Duration::from_secs(30);
    const TIMEOUT_MAX: Duration = Duration::from_secs(12);
}

/// What the handlers of one machine share, from one start of its node to the next.
#[derive(Default)]
struct Service {
    /// Whose requests were handled, by their numbers.
    handled: BTreeSet<(PeerId, u32)>,
    /// Requests that are answered later.
    waiting: Vec<Responder>,
    wrong: Option<String>,
}

type SharedService = Arc<Mutex<Service>>;

fn serve(service: &SharedService, builder: NodeBuilder) -> NodeBuilder {
    let (now, later) = (service.clone(), service.clone());
    builder.on_start(move |node| {
        // What the last start knew went with it; its requests are nobody's.
        hold(&later).waiting.clear();
        node.on_request_typed("double", move |peer, number: u32| {
            hold(&now).note(peer, number);
            Ok(u64::from(number) * 2)
        });
        node.on_request_later("later", move |request, responder| {
            let mut service = hold(&later);
            match request.parse() {
                Ok(number) => service.note(request.peer(), number),
                Err(error) => service.wrong = Some(error.to_string()),
            }
            service.waiting.push(responder);
        });
    })
}

impl Service {
    fn note(&mut self, peer: &PeerId, number: u32) {
        if !self.handled.insert((*peer, number)) {
            let what = format!("request {number} of {} came twice", peer.short());
            self.wrong.get_or_insert(what);
        }
    }
}

fn hold(service: &SharedService) -> std::sync::MutexGuard<'_, Service> {
    service
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A request without an outcome yet.
struct Open {
    request: Requested,
    number: u32,
    from: usize,
    /// Of the asker: its requests go with it.
    incarnation: u32,
    to: usize,
}

impl Scenario for Asking {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        "requests under loss, partitions, pauses and crashes: each is handled at most once and has one outcome, in time"
    }

    fn plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::new(seed);
        let (machines, within) = (self.machines, Asking::ROUND);
        plan.crashes(machines, self.faults, within);
        plan.cuts(machines, self.faults, within);
        plan.isolations(machines, self.faults, within);
        plan.pauses(machines, self.faults.div_ceil(2), within);
        plan
    }

    fn run(&self, stage: &Stage) {
        let mut prng = stage.prng(1);
        stage.set_default_link(LinkOptions {
            delay: Duration::from_micros(200 + prng.below(20_000)),
            jitter: Duration::from_micros(prng.below(20_000)),
            loss: 0.03,
            ..LinkOptions::default()
        });
        let desks: Vec<SharedDesk> = (0..self.machines).map(Desk::new).collect();
        let services: Vec<SharedService> = desks.iter().map(|_| SharedService::default()).collect();
        for (number, desk) in desks.iter().enumerate() {
            let service = services[number].clone();
            join(stage, desk, 1 + number % 2, move |builder| {
                serve(&service, builder)
            });
        }
        watch(stage, "nodes stay who they are", &desks);
        let mut round = Round {
            stage,
            desks: &desks,
            services: &services,
            prng,
            open: Vec::new(),
            asked: 0,
            answered: 0,
        };
        for _ in 0..10 {
            round.beat();
        }
        stage.begin_faults();
        let over = stage.world().elapsed() + Asking::ROUND.max(stage.faults_last());
        while stage.world().elapsed() < over {
            round.beat();
        }
        round.end();
    }
}

struct Round<'a> {
    stage: &'a Stage,
    desks: &'a [SharedDesk],
    services: &'a [SharedService],
    prng: Prng,
    open: Vec<Open>,
    asked: u32,
    answered: u32,
}

impl Round<'_> {
    fn beat(&mut self) {
        for from in 0..self.desks.len() {
            for _ in 0..3 {
                let to = self.prng.below(self.desks.len() as u64) as usize;
                if to != from {
                    self.visit(from, to);
                }
            }
            self.answer(from);
        }
        self.stage.run_for(BEAT);
        self.look();
    }

    /// Dials a peer that is not there, and asks one that is.
    fn visit(&mut self, from: usize, to: usize) {
        let peer = lock(&self.desks[to]).id.expect("it has run");
        lock(&self.desks[from]).dial(peer, to);
        let node = lock(&self.desks[from]).node();
        let (Some(node), Some(incarnation)) = (node, self.stage.incarnation(from)) else {
            return;
        };
        self.asked += 1;
        let number = self.asked;
        let name = ["double", "double", "later"][self.prng.below(3) as usize];
        let most = Asking::TIMEOUT_MAX.as_millis() as u64;
        let timeout = Duration::from_millis(100 + self.prng.below(most - 100));
        let request = node.request(&peer, name, &number, timeout);
        // Some change their minds.
        if self.prng.below(10) == 0 {
            return;
        }
        self.open.push(Open {
            request,
            number,
            from,
            incarnation,
            to,
        });
    }

    /// Answers some of what waits, in any order; refuses some, and forgets some.
    fn answer(&mut self, machine: usize) {
        loop {
            let mut service = hold(&self.services[machine]);
            let count = service.waiting.len() as u64;
            if count == 0 || self.prng.below(4) == 0 {
                return;
            }
            let at = self.prng.below(count) as usize;
            let responder = service.waiting.swap_remove(at);
            drop(service);
            match self.prng.below(5) {
                0 => responder.refuse("no"),
                1 => drop(responder),
                // It may be larger than what waits may be, and is refused by itself then.
                2 => drop(responder.reply(&Body::bytes(vec![7; 200_000]))),
                _ => drop(responder.reply_json(&"later")),
            }
        }
    }

    fn look(&mut self) {
        let (stage, services) = (self.stage, self.services);
        let mut answered = 0;
        self.open.retain_mut(|open| {
            // Of an asker that is no more nobody expects anything.
            if stage.incarnation(open.from) != Some(open.incarnation) {
                return false;
            }
            let Some(outcome) = open.request.try_take() else {
                return true;
            };
            answered += u32::from(outcome.is_ok());
            if let Some(wrong) = judge(open.number, &outcome) {
                stage.fail(&format!("request {} to {}: {wrong}", open.number, open.to));
            }
            false
        });
        self.answered += answered;
        for service in services {
            if let Some(wrong) = hold(service).wrong.take() {
                stage.fail(&wrong);
            }
        }
    }

    /// The world is well again: whatever is open gets its outcome, and then nothing is kept.
    fn end(&mut self) {
        let deadline = self.stage.world().elapsed() + Asking::TIMEOUT_MAX + 60 * SECOND;
        while !self.open.is_empty() {
            self.stage
                .expect(self.stage.world().elapsed() < deadline, || {
                    let numbers: Vec<u32> = self.open.iter().map(|open| open.number).collect();
                    format!("requests without an outcome: {numbers:?}")
                });
            self.stage.run_for(BEAT);
            self.look();
        }
        // Handlers that have not answered are freed by the time that came with the requests.
        self.stage.run_for(Asking::TIMEOUT_MAX + 5 * SECOND);
        for (machine, desk) in self.desks.iter().enumerate() {
            let Some(node) = lock(desk).node() else {
                continue;
            };
            let stats = node.stats();
            let kept = (stats.requests_open, stats.requests_answering);
            self.stage.expect(kept == (0, 0), || {
                format!("machine {machine} keeps {kept:?}")
            });
        }
        self.stage.expect(self.answered > 20, || {
            format!("{} of {} were answered", self.answered, self.asked)
        });
    }
}

/// What is wrong with an outcome.
fn judge(number: u32, outcome: &Result<Body, RequestError>) -> Option<String> {
    match outcome {
        Ok(body) => {
            let doubled = body.parse::<u64>() == Ok(u64::from(number) * 2);
            let later = body.parse::<String>().is_ok_and(|text| text == "later");
            let large = body.as_bytes().len() == 200_000;
            (!(doubled || later || large)).then(|| "it is another's answer".to_owned())
        }
        Err(
            RequestError::TimedOut
            | RequestError::Gone(_)
            | RequestError::Busy
            | RequestError::Full
            | RequestError::Refused(_),
        ) => None,
        Err(error) => Some(error.to_string()),
    }
}
