//! What a test does to the network while it runs.

use std::io::Write;
use std::ops::Range;
use std::time::Duration;

use super::link::Bandwidth;
use super::node::MachineId;
use super::state::START;
use super::world::{SimNode, SimWorld};

impl SimWorld {
    /// Lets nothing through from one machine to another any more, while the other direction stays. [`SimWorld::heal`]
    /// ends it.
    pub fn partition_one_way(&self, from: &SimNode, to: &SimNode) {
        self.state().network.set_cut(from.id(), to.id(), true);
    }

    /// Splits machines into groups that are cut off from each other; packets on their way are lost. Machines in no group
    /// still reach everybody. It takes the place of an earlier split, and [`SimWorld::unsplit`] and
    /// [`SimWorld::heal_all`] end it; partitions of pairs are not concerned.
    ///
    /// Who is behind a box is cut off from machines beyond it by its own group, whatever group the box is in.
    pub fn split(&self, groups: &[&[&SimNode]]) {
        let ids = |group: &&[&SimNode]| group.iter().map(|node| node.id()).collect();
        let sides: Vec<Vec<MachineId>> = groups.iter().map(ids).collect();
        self.state().network.split(&sides);
    }

    /// Ends a split.
    pub fn unsplit(&self) {
        self.state().network.unsplit();
    }

    /// When the link between two machines is down, in virtual time since the start of the world; packets on their way
    /// are lost. Takes the place of what was set before, and adds to the flaps of the link's options.
    pub fn set_down_times(&self, a: &SimNode, b: &SimNode, times: &[Range<Duration>]) {
        let since_start = |range: &Range<Duration>| START + range.start..START + range.end;
        let schedule = times.iter().map(since_start).collect();
        self.state()
            .network
            .set_down_times(a.id(), b.id(), schedule);
    }

    /// Writes the lines of [`SimWorld::trace_to`] to a writer, until it has an error.
    pub fn trace_to_writer(&self, mut writer: impl Write + 'static) {
        let mut is_writing = true;
        self.trace_to(Some(Box::new(move |line| {
            is_writing = is_writing && writeln!(writer, "{line}").is_ok();
        })));
    }

    /// Whether machines tell senders of packets that cannot be delivered, by ICMP: that nobody has the address, that no
    /// socket has the port, that the packet is too large for a link, that a firewall which refuses forbids it. They do
    /// not at first, as much of the internet does not.
    ///
    /// An attempt to connect then fails at once with [`HostUnreachable`](std::io::ErrorKind::HostUnreachable) where it
    /// would time out, and a connection sends smaller segments once a link carries no larger ones. UDP sockets hear
    /// nothing of it, as with real drivers.
    pub fn set_icmp(&self, is_sent: bool) {
        self.state().sends_icmp = is_sent;
    }
}

impl SimNode {
    /// Gives the machine a name for readable traces and captures; without one it is `node` and its number.
    pub fn set_name(&self, name: &str) {
        self.world().state().network.set_name(self.id(), name);
    }

    /// How much passes between this machine and the network in each direction, whoever is at the other end; `None`: any
    /// amount in no time. Bandwidths of links come on top. What a machine sends to itself is not concerned.
    pub fn set_bandwidth(&self, up: Option<Bandwidth>, down: Option<Bandwidth>) {
        let mut state = self.world().state();
        state.network.set_bandwidth(self.id(), up, down);
    }
}
