//! One suite for the actor framework on all drivers. A test joins by a line in [`suite!`].

// The modules are private to this test program, so `pub` reaches no further than it.
#![allow(unreachable_pub)]

mod fixture;
mod messages;
mod puppet;

/// Makes the tests of the suite for every driver.
macro_rules! suite {
    ($($file:ident: [$($test:ident),* $(,)?],)*) => {
        #[cfg(feature = "driver-mio")]
        mod mio {
            type Fixture = crate::fixture::Real<crate::fixture::Mio>;
            $(mod $file { $(#[test] fn $test() { crate::$file::$test::<super::Fixture>(); })* })*
        }

        #[cfg(feature = "driver-polling")]
        mod polling {
            type Fixture = crate::fixture::Real<crate::fixture::Polling>;
            $(mod $file { $(#[test] fn $test() { crate::$file::$test::<super::Fixture>(); })* })*
        }

        #[cfg(feature = "sim")]
        mod sim {
            type Fixture = crate::fixture::Sim;
            $(mod $file { $(#[test] fn $test() {
                let name = concat!("sim::", stringify!($file), "::", stringify!($test));
                crate::fixture::in_worlds(name, crate::$file::$test::<super::Fixture>);
            })* })*
        }
    };
}

suite! {
    messages: [
        a_core_keeps_the_order_of_its_own_messages,
        cores_flooding_each_other_keep_the_order,
        a_full_mailbox_hands_the_message_back_by_count,
        a_full_mailbox_hands_the_message_back_by_bytes,
    ],
}
