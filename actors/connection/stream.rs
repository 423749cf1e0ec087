//! Windows: how many bytes may be under way on a stream. Whole records count, headers included.
//!
//! The receiver grants bytes, the sender spends them. What the receiver has granted and not seen, what it has seen and
//! not consumed, and what is consumed and not granted again always add up to the window, plus the overdraft that a
//! message larger than its window was given.

use super::error::Fault;

/// A stream, as windows and bulk data name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

impl StreamId {
    /// The application's messages.
    pub const APPLICATION: StreamId = StreamId(1);
    /// Gossip.
    pub const GOSSIP: StreamId = StreamId(2);
    /// The first bulk stream; each side counts its own up from here.
    pub const BULK_FIRST: StreamId = StreamId(16);
}

/// No window is ever lifted above this.
pub(crate) const CREDIT_MAX: u32 = 1 << 31;

/// What we may still send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SendWindow {
    credit: u32,
}

impl SendWindow {
    pub(crate) fn new(window: u32) -> SendWindow {
        SendWindow { credit: window }
    }

    pub(crate) fn credit(&self) -> usize {
        self.credit as usize
    }

    pub(crate) fn spend(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).expect("a frame is small");
        self.credit = self
            .credit
            .checked_sub(bytes)
            .expect("the queue packs no more than the credit");
    }

    pub(crate) fn grant(&mut self, bytes: u32) -> Result<(), Fault> {
        let sum = self.credit.checked_add(bytes);
        self.credit = sum.filter(|&sum| sum <= CREDIT_MAX).ok_or(Fault::Grant)?;
        Ok(())
    }
}

/// What the peer may still send. The overdraft, granted beyond the window and paid back before anything is granted again,
/// is kept by the caller: nearly always there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReceiveWindow {
    /// Granted and not yet used by the peer.
    open: u32,
    /// To be granted.
    pending: u32,
}

impl ReceiveWindow {
    pub(crate) fn new(window: u32) -> ReceiveWindow {
        ReceiveWindow {
            open: window,
            pending: 0,
        }
    }

    /// Bytes have come in.
    #[inline]
    pub(crate) fn receive(&mut self, stream: StreamId, bytes: usize) -> Result<(), Fault> {
        let bytes = u32::try_from(bytes).map_err(|_| Fault::Window(stream.0))?;
        self.open = self
            .open
            .checked_sub(bytes)
            .ok_or(Fault::Window(stream.0))?;
        Ok(())
    }

    /// Bytes that came in and were not yet consumed. `window`: with the overdraft, if there is one.
    pub(crate) fn held(&self, window: u32) -> u32 {
        window.saturating_sub(self.open + self.pending)
    }

    /// The owner is done with bytes. Returns how many of them pay the overdraft back, which falls by as much.
    pub(crate) fn consume(&mut self, window: u32, overdraft: &mut u32, bytes: u32) -> u32 {
        let held = self.held(window + *overdraft);
        debug_assert!(bytes <= held, "more is consumed than has come in");
        let bytes = bytes.min(held);
        let paid = bytes.min(*overdraft);
        *overdraft -= paid;
        self.pending += bytes - paid;
        paid
    }

    /// Lets the peer send beyond the window. The caller's overdraft grows by as much.
    pub(crate) fn overdraw(&mut self, bytes: u32) {
        self.pending += bytes;
    }

    /// What the peer may send before it has to wait for the owner.
    pub(crate) fn promised(&self) -> usize {
        self.open as usize + self.pending as usize
    }

    /// Whether anything is to be granted.
    pub(crate) fn has_grant(&self) -> bool {
        self.pending > 0
    }

    /// Whether it is time to grant: rarely enough to cost little, and often enough that a steady sender never waits.
    /// With `wanted`, as soon as less than that is open.
    #[inline]
    pub(crate) fn is_grant_due(&self, window: u32, wanted: usize) -> bool {
        self.pending > 0 && (self.pending >= window / 4 || (self.open as usize) < wanted)
    }

    /// Takes what is to be granted.
    pub(crate) fn take_grant(&mut self) -> u32 {
        let grant = std::mem::take(&mut self.pending);
        self.open += grant;
        grant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: StreamId = StreamId::APPLICATION;

    #[test]
    fn a_window_is_spent_and_granted_again() {
        let mut send = SendWindow::new(100);
        let mut receive = ReceiveWindow::new(100);
        send.spend(100);
        receive.receive(STREAM, 100).unwrap();
        assert_eq!(receive.receive(STREAM, 1), Err(Fault::Window(1)));
        assert_eq!(receive.held(100), 100);
        assert_eq!(receive.consume(100, &mut 0, 24), 0);
        assert!(!receive.is_grant_due(100, 0));
        assert!(receive.is_grant_due(100, 1), "somebody waits");
        assert_eq!(receive.consume(100, &mut 0, 1), 0);
        assert!(receive.is_grant_due(100, 0));
        send.grant(receive.take_grant()).unwrap();
        assert_eq!((send.credit(), receive.held(100)), (25, 75));
        assert!(!receive.is_grant_due(100, 1000));
    }

    #[test]
    fn an_overdraft_is_paid_back_first() {
        let mut receive = ReceiveWindow::new(100);
        receive.receive(STREAM, 60).unwrap();
        receive.overdraw(50);
        let mut overdraft = 50;
        assert_eq!(receive.take_grant(), 50);
        receive.receive(STREAM, 90).unwrap();
        assert_eq!(receive.held(100 + overdraft), 150);
        assert_eq!(receive.consume(100, &mut overdraft, 30), 30);
        assert_eq!(receive.consume(100, &mut overdraft, 120), 20);
        assert_eq!(receive.take_grant(), 100);
        assert_eq!((receive.held(100), overdraft), (0, 0));
    }

    #[test]
    fn a_grant_beyond_the_limit_is_refused() {
        let mut send = SendWindow::new(CREDIT_MAX - 1);
        assert_eq!(send.grant(1), Ok(()));
        assert_eq!(send.grant(1), Err(Fault::Grant));
        assert_eq!(send.grant(u32::MAX), Err(Fault::Grant));
        assert_eq!(send.credit(), CREDIT_MAX as usize);
    }
}
