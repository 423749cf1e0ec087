//! Many machines in one world.

use std::net::IpAddr;
use std::time::Duration;

use crate::actor::{Actor, Child, Context, Event, Failure, Limits};
use crate::io::driver::{ListenOptions, SocketId};
use crate::sim::SimWorld;

/// Keeps eight connections and says something on each every five seconds.
struct Chatter {
    number: usize,
    nodes: usize,
    sockets: Vec<SocketId>,
}

fn addr(number: usize) -> IpAddr {
    IpAddr::from([10, (number >> 16) as u8, (number >> 8) as u8, number as u8])
}

impl Actor for Chatter {
    type Message = ();

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let own = (addr(self.number), 1000).into();
        cx.tcp_listen(own, ListenOptions::default())?;
        cx.wake_at(Some(cx.now() + Duration::from_secs(1)), Duration::ZERO);
        Ok(())
    }

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match event {
            Event::Wake => {
                if self.sockets.is_empty() {
                    for step in [1, 5, 17, 60] {
                        let to = (addr((self.number + step) % self.nodes), 1000);
                        cx.tcp_connect(to.into(), None)?;
                    }
                }
                for socket in &self.sockets {
                    cx.write(*socket, &[7; 100])?;
                }
                cx.wake_at(Some(cx.now() + Duration::from_secs(5)), Duration::ZERO);
            }
            Event::Connected { socket } | Event::Accepted { socket, .. } => {
                cx.resume_reading(socket);
                self.sockets.push(socket);
            }
            _ => {}
        }
        Ok(())
    }
}

#[test]
fn hundreds_of_machines_share_a_world() {
    let nodes = 200;
    let world = SimWorld::new(1);
    let runtimes: Vec<_> = (0..nodes)
        .map(|number| {
            let runtime = world
                .node(&[addr(number)])
                .start(1, Limits::default())
                .unwrap();
            let chatter = move || Chatter {
                number,
                nodes,
                sockets: Vec::new(),
            };
            runtime
                .handle()
                .spawn(0, move || Child::new(chatter))
                .unwrap();
            runtime
        })
        .collect();
    world.run_for(Duration::from_secs(60));
    let stats = world.stats();
    assert_eq!(stats.tcp_endpoints, nodes * 8);
    drop(runtimes);
    world.run_for(Duration::from_secs(120));
    assert_eq!(world.stats().tcp_endpoints, 0);
}
