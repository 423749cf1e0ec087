//! One suite for all drivers. A driver joins by a fixture and a line at the end of this file.

mod files;
mod fixture;
#[cfg(feature = "sim")]
mod simulated;
mod tcp;
mod udp;
mod waiting;

use fixture::{Fixture, Real};

/// Runs every test of the suite on what `$fixture` makes.
macro_rules! suite {
    ($name:ident, $fixture:expr) => {
        mod $name {
            use super::*;

            tests! { $fixture,
                tcp::echo_in_both_families,
                tcp::half_close_leaves_the_other_half_open,
                tcp::a_refused_connection_is_told_as_such,
                tcp::aborting_resets_the_connection,
                tcp::closing_delivers_what_was_written,
                tcp::no_edge_without_news_and_one_for_each,
                tcp::room_to_write_makes_an_edge,
                tcp::ids_of_closed_sockets_are_dead,
                tcp::a_connection_moves_to_another_core,
                tcp::only_connections_can_be_detached,
                tcp::a_port_in_use_is_noticed,
                tcp::cores_share_a_port,
                tcp::both_families_on_one_port,
                tcp::a_local_address_can_be_chosen,
                tcp::a_crowd_of_connections,
                tcp::no_descriptors_left_is_told_and_passes,
                udp::both_families_with_all_details,
                udp::the_source_can_be_chosen,
                udp::an_address_of_the_other_family_is_an_error,
                udp::many_at_once_stay_in_order,
                udp::runs_of_equal_datagrams,
                udp::datagrams_of_every_size_arrive_whole,
                udp::large_ones_among_small_ones_stay_in_order,
                udp::what_waits_for_a_closed_socket_is_gone,
                udp::nobody_there_is_no_error,
                udp::sending_makes_no_edges,
                udp::ports_in_use_and_shared_ports,
                udp::multicast_reaches_members_only,
                udp::socket_kinds_are_not_mixed_up,
                files::reading_and_writing_at_offsets,
                files::options_of_opening,
                files::replacing_a_file,
                files::directories,
                files::locks_exclude_and_end,
                files::private_files,
                waiting::a_deadline_is_kept_and_never_early,
                waiting::a_past_deadline_polls,
                waiting::wakes_before_the_wait_merge,
                waiting::a_wake_ends_a_wait_without_deadline,
                waiting::idle_is_asleep,
                waiting::clocks_and_random_bytes,
                waiting::jobs_run_elsewhere,
                waiting::names_and_literals,
                waiting::interfaces_are_listed,
                waiting::interface_changes_are_told,
            }
        }
    };
}

macro_rules! tests {
    ($fixture:expr, $($module:ident::$test:ident,)*) => {
        $(#[test] fn $test() { $module::$test(&mut $fixture) })*
    };
}

#[cfg(feature = "driver-mio")]
fn mio_fixture() -> impl Fixture {
    let shared = mischief_reactor::io::Shared::new();
    Real::new(move || Ok(Box::new(mischief_reactor::io::MioDriver::new(&shared)?)))
}

#[cfg(feature = "driver-mio")]
suite!(mio, mio_fixture());

#[cfg(feature = "driver-polling")]
fn polling_fixture() -> impl Fixture {
    let shared = mischief_reactor::io::Shared::new();
    Real::new(move || Ok(Box::new(mischief_reactor::io::PollingDriver::new(&shared)?)))
}

#[cfg(feature = "driver-polling")]
suite!(polling, polling_fixture());

#[cfg(feature = "driver-polling")]
fn polling_without_edges_fixture() -> impl Fixture {
    let shared = mischief_reactor::io::Shared::new();
    let make = move || mischief_reactor::io::PollingDriver::without_edges(&shared);
    Real::new(move || Ok(Box::new(make()?)))
}

#[cfg(feature = "driver-polling")]
suite!(polling_without_edges, polling_without_edges_fixture());

#[cfg(feature = "sim")]
suite!(sim, simulated::Simulated::new(1));
