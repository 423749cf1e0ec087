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
        a_mailbox_of_one_between_cores_never_loses_sight_of_an_asker,
        a_full_mailbox_hands_the_message_back_by_count,
        a_full_mailbox_hands_the_message_back_by_bytes,
        a_large_message_counts_its_own_size,
        an_actor_has_bounds_of_its_own,
        the_way_between_cores_is_bounded_too,
        the_run_queue_is_bounded_too,
        asking_for_room_for_ever_holds_nobody_up,
        news_of_room_comes_once,
        news_of_room_comes_when_the_target_ends_or_has_ended,
        a_mailbox_kept_over_a_restart_is_bounded,
        room_is_shared_out_fairly,
        whoever_understands_a_message_can_be_sent_it,
        a_thread_outside_may_wait_for_room,
        a_core_thread_must_not_wait_for_room,
        two_mutually_full_actors_come_to_an_end,
    ],
}
