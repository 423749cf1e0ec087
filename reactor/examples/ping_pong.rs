//! Two actors on two cores hand a ball to and fro; then a thousand balls at once.
//!
//!     cargo run --release --example ping_pong
//!
//! One ball shows what waking a sleeping core costs. With many in the air the cores do not sleep, and what was sent to
//! the other core in a turn travels as one batch.

use std::error::Error;
use std::time::{Duration, Instant};

use mischief_reactor::{Actor, Address, Child, Context, Failure, Message, Reply, Runtime};

const LONG: Duration = Duration::from_secs(60);

enum Note {
    /// Here is your opponent.
    Meet(Address<Player>),
    /// Serve so many balls, each for so many exchanges, and answer when the last has come to rest.
    Serve {
        balls: u32,
        exchanges: u32,
        done: Reply<()>,
    },
    /// A ball that may cross so many times more.
    Ball(u32),
}

impl Message for Note {}

#[derive(Default)]
struct Player {
    opponent: Option<Address<Player>>,
    in_the_air: u32,
    done: Option<Reply<()>>,
}

impl Player {
    fn hit(&mut self, left: u32, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let opponent = self.opponent.ok_or(Failure::new("no opponent"))?;
        // There are fewer balls than a mailbox holds messages, so it is never full.
        cx.send(&opponent, Note::Ball(left))?;
        Ok(())
    }
}

impl Actor for Player {
    type Message = Note;

    fn handle(&mut self, note: Note, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match note {
            Note::Meet(opponent) => self.opponent = Some(opponent),
            Note::Serve {
                balls,
                exchanges,
                done,
            } => {
                (self.in_the_air, self.done) = (balls, Some(done));
                for _ in 0..balls {
                    // An odd number of crossings is still to come when it is with the opponent: it ends here.
                    self.hit(2 * exchanges - 1, cx)?;
                }
            }
            Note::Ball(0) => {
                self.in_the_air -= 1;
                if self.in_the_air == 0
                    && let Some(done) = self.done.take()
                {
                    done.send(());
                }
            }
            Note::Ball(left) => self.hit(left - 1, cx)?,
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = Runtime::builder().cores(2).start()?;
    let handle = runtime.handle();
    let first = handle.spawn(0, || Child::once(Player::default()))?;
    let second = handle.spawn(1, || Child::once(Player::default()))?;
    handle.send(&first, Note::Meet(second), LONG)?;
    handle.send(&second, Note::Meet(first), LONG)?;

    for (balls, exchanges) in [(1, 20_000), (1_000, 1_000)] {
        let serve = |done| Note::Serve {
            balls,
            exchanges,
            done,
        };
        let start = Instant::now();
        handle.ask(&first, serve, LONG).wait()?;
        let messages = f64::from(2 * balls * exchanges);
        let nanos = start.elapsed().as_nanos() as f64 / messages;
        println!("{balls} at once: {nanos:.0} ns for each crossing");
    }
    let snapshot = handle.snapshot()?;
    for core in &snapshot.cores {
        println!(
            "core {}: {} messages in {} turns, slept {} times",
            core.core, core.messages, core.turns, core.sleeps
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs() {
        super::main().unwrap();
    }
}
