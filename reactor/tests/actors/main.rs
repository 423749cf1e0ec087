//! One suite for the actor framework on all drivers. A test joins by a line in [`suite!`].

// The modules are private to this test program, so `pub` reaches no further than it.
#![allow(unreachable_pub)]

mod asking;
mod fixture;
mod life;
mod messages;
mod offload;
mod puppet;
mod sight;
mod supervision;
mod tcp;
mod time;
mod udp;

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
    asking: [
        an_actor_asks_actors_of_both_cores,
        an_answer_that_does_not_come_in_time_is_an_error_that_names_all,
        a_time_out_tells_how_many_messages_waited,
        a_question_dropped_unanswered_is_told_at_once,
        a_question_to_a_full_mailbox_is_refused,
        questions_in_flight_are_bounded,
        answers_reach_an_actor_whose_mailbox_is_full,
        an_actor_made_anew_gets_no_answers_to_questions_of_the_old_one,
        a_thread_outside_waits_for_an_answer,
        a_pair_without_a_question_is_waited_for_the_same_way,
        a_core_thread_must_not_wait_for_an_answer,
        a_thread_outside_is_served_in_its_order,
        an_answer_is_a_future_of_any_executor,
        an_answer_polled_by_hand_wakes_the_last_who_polled,
        deadlines_of_answered_questions_are_forgotten,
        a_runtime_that_ends_leaves_no_question_open,
        threads_ask_at_the_same_time,
        a_standing_core_keeps_nobody_longer_than_the_deadline,
    ],
    supervision: [
        a_restart_keeps_address_and_mailbox_and_drops_the_failing_message,
        restarts_leave_the_order_alone,
        a_restart_makes_the_state_anew,
        a_restart_closes_sockets_and_timers_of_the_old_incarnation,
        restarts_are_limited_within_a_window,
        the_pause_before_a_restart_doubles_up_to_its_bound,
        an_actor_made_once_is_not_made_again,
        an_escalating_child_fails_its_parent,
        a_child_that_stops_for_good_leaves_its_parent_alone,
        children_end_before_their_parent_is_made_anew,
        a_start_that_fails_is_a_failure,
        a_factory_that_panics_is_a_failure,
        a_failing_event_is_a_failure,
        a_failing_answer_is_a_failure,
        a_panic_in_a_drop_harms_nobody_else,
        a_panic_while_stopping_ends_the_actor,
        a_failing_actor_costs_the_others_nothing,
        an_actor_can_be_stopped_while_it_waits_to_be_made_anew,
    ],
    life: [
        a_spawn_does_not_recurse,
        spawns_are_bounded,
        deaths_are_told_to_watchers,
        a_watch_can_be_taken_back,
        a_watcher_may_end_before_the_watched,
        ends_are_told_to_threads_outside,
        children_stop_before_their_parents,
        a_long_line_of_descendants_ends_without_a_deep_stack,
        a_drain_goes_on_until_its_deadline,
        a_drain_ends_early_when_the_actor_says_so,
        a_stopping_parent_has_no_more_children,
        who_is_stopped_right_after_its_birth_has_a_whole_life,
        names_belong_to_a_node_and_are_freed_at_death,
        what_reaches_nobody_is_counted,
        an_address_of_another_runtime_is_harmless,
        an_address_never_means_the_next_tenant_of_a_place,
        a_poke_is_an_event,
        a_shutdown_stops_everybody_and_answers_in_time,
        a_hanging_drain_is_cut_short,
        while_shutting_down_nobody_is_born,
        a_core_that_has_ended_is_known_to_the_others,
        watches_race_with_the_end_of_a_core,
    ],
    time: [
        a_deadline_comes_once_and_never_early,
        a_later_deadline_is_only_stored,
        a_deadline_can_be_cleared,
        a_deadline_set_again_at_once_holds_nobody_up,
        timers_bring_their_tags_in_order,
        a_cancelled_timer_does_not_come,
        a_timer_can_be_cancelled_until_it_comes,
        timers_never_reach_the_next_tenant_of_a_place,
        timers_of_the_dead_are_cleared_away,
        a_hundred_thousand_timers,
        a_flush_comes_once_at_the_end_of_the_turn,
        a_flush_asked_for_in_a_flush_comes_in_the_next_turn,
        a_flush_is_forgotten_by_a_restart,
        an_idle_core_does_not_wake,
        a_spinning_core_falls_asleep_in_the_end,
    ],
    offload: [
        a_job_brings_its_result_to_a_full_mailbox,
        a_job_that_panics_is_an_error,
        a_full_pool_is_an_error,
        a_job_may_outlive_whoever_wanted_it,
        names_are_resolved,
        jobs_reach_the_files_of_the_node,
    ],
    sight: [
        a_snapshot_tells_of_every_actor,
        waiting_messages_are_seen_with_their_bytes,
        a_stall_names_actor_and_message,
        busy_time_is_told,
        bounds_and_cores_are_told,
    ],
    tcp: [
        an_echo_brings_everything_back_in_order,
        a_half_close_leaves_the_other_half_open,
        where_nobody_listens_a_connection_fails,
        a_peer_that_closes_ends_the_stream_and_one_that_aborts_breaks_it,
        a_break_after_the_end_of_the_stream_is_told,
        what_is_written_while_connecting_arrives,
        a_slow_reader_pushes_back,
        a_large_write_is_kept_whole,
        two_busy_connections_are_read_in_turns,
        a_pause_loses_nothing,
        a_connection_is_given_to_an_actor_of_either_core,
        a_connection_is_not_given_where_it_would_be_lost,
        a_connection_given_to_an_actor_in_the_making_closes,
        a_thousand_connections,
        without_memory_nothing_is_read,
        out_of_descriptors_accepting_rests_and_goes_on,
        sockets_close_in_any_handler,
        sockets_obey_their_owner_alone,
        a_peer_that_never_catches_up_costs_no_more_than_the_bound,
    ],
    udp: [
        datagrams_come_with_their_sender,
        several_datagrams_go_in_one_call,
        routes_part_protocols_by_their_first_byte,
        routes_have_their_limits,
        a_paused_socket_keeps_its_datagrams,
    ],
}
