use super::*;

fn at_ms(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

#[test]
fn a_socket_costs_its_driver_12_bytes() {
    #[cfg(all(feature = "driver-mio", unix))]
    assert_eq!(
        size_of::<Slot<<crate::io::MioSelector as Selector>::Source>>(),
        12
    );
    #[cfg(all(feature = "driver-polling", unix))]
    assert!(size_of::<Slot<<crate::io::PollingSelector as Selector>::Source>>() <= 16);
}

#[test]
fn drivers_can_be_moved_to_their_cores() {
    fn is_send<T: Send>() {}
    #[cfg(feature = "driver-mio")]
    is_send::<crate::io::MioDriver>();
    #[cfg(feature = "driver-polling")]
    is_send::<crate::io::PollingDriver>();
}

#[test]
fn timeouts_are_rounded_up_and_bounded() {
    let now = Instant::from_nanos(5_000_001);
    assert_eq!(timeout(now, at_ms(3)), Duration::ZERO);
    assert_eq!(timeout(now, now), Duration::ZERO);
    assert_eq!(
        timeout(now, now + Duration::from_nanos(1)),
        Duration::from_millis(1)
    );
    assert_eq!(timeout(now, at_ms(7)), Duration::from_millis(2));
    assert_eq!(
        timeout(now, Instant::from_nanos(u64::MAX)),
        Duration::from_secs(24 * 3600)
    );
}

#[test]
fn only_a_wait_that_overshoots_tells_of_a_standstill() {
    assert!(!has_stood_still(at_ms(0), at_ms(100), at_ms(101)));
    assert!(has_stood_still(at_ms(0), at_ms(100), at_ms(5100)));
    // The deadline was missed before the wait began: the core was busy.
    assert!(!has_stood_still(at_ms(60_000), at_ms(100), at_ms(60_001)));
}
