//! Machines that change their addresses and their place in the network while they run.

use std::net::IpAddr;

use super::network::PUBLIC;
use super::router::SimRouter;
use super::world::SimNode;

impl SimNode {
    /// Moves a running machine behind a box, as a phone that finds a wireless network: all its addresses go, these come,
    /// and drivers that watch interfaces are told. Sockets stay as they are; what those bound to an old address
    /// send goes nowhere, and connections time out, as on Linux. [`SimNode::abort_stranded`] lets them fail instead.
    ///
    /// # Panics
    /// As [`SimNode::add_addr`].
    pub fn move_behind(&self, router: &SimRouter, addrs: &[IpAddr]) {
        self.move_to(Some(router), addrs);
    }

    /// Moves a running machine into the public network, in the same way.
    ///
    /// # Panics
    /// As [`SimNode::add_addr`].
    pub fn move_out(&self, addrs: &[IpAddr]) {
        self.move_to(None, addrs);
    }

    /// Gives a running machine other addresses, where it is.
    ///
    /// # Panics
    /// As [`SimNode::add_addr`].
    pub fn change_addrs(&self, addrs: &[IpAddr]) {
        for addr in self.addrs() {
            if !addrs.contains(&addr) {
                self.remove_addr(addr);
            }
        }
        for addr in addrs {
            self.add_addr(*addr);
        }
    }

    /// Lets every TCP connection whose local address the machine no longer has fail at once with
    /// [`ConnectionAborted`](std::io::ErrorKind::ConnectionAborted), as phones do. Tells how many.
    pub fn abort_stranded(&self) -> usize {
        self.world().state().abort_stranded(self.id())
    }

    pub(super) fn move_to(&self, router: Option<&SimRouter>, addrs: &[IpAddr]) {
        for addr in self.addrs() {
            self.remove_addr(addr);
        }
        let realm = router.map_or(PUBLIC, SimRouter::inner);
        {
            let mut state = self.world().state();
            let is_router = state.network.router_of(self.id()).is_some();
            assert!(!is_router, "a box stays where it is");
            let joined = state.network.leave_all(self.id());
            state.network.set_realm(self.id(), realm);
            state.network.join_all(self.id(), joined);
        }
        for addr in addrs {
            self.add_addr(*addr);
        }
    }
}
