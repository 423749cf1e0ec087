//! Finds few faults that a failure takes: delta debugging (Zeller and Hildebrandt, 2002).

use super::Scenario;
use super::run::{Options, run};

/// Drops faults from a failing run for as long as it fails without them, in at most `runs_max` runs. The numbers of
/// those that are left, which are all of `planned` if none can be spared, and none if it fails in peace as well.
///
/// Any failure counts: what a seed does with other faults is another run, and which of its failures is met first is of
/// little interest.
pub fn shrink(scenario: &dyn Scenario, seed: u64, planned: usize, runs_max: usize) -> Vec<usize> {
    let mut runs_left = runs_max;
    let mut fails = |kept: &[usize]| {
        runs_left = runs_left.saturating_sub(1);
        let options = Options {
            kept: Some(kept.to_vec()),
            ..Options::default()
        };
        (run(scenario, seed, options).failed.is_some(), runs_left > 0)
    };
    let mut kept: Vec<usize> = (0..planned).collect();
    if runs_max == 0 || kept.is_empty() {
        return kept;
    }
    if let (true, _) = fails(&[]) {
        return Vec::new();
    }
    let mut parts = 2;
    while kept.len() > 1 {
        let size = kept.len().div_ceil(parts);
        let mut is_smaller = false;
        for part in 0..kept.len().div_ceil(size) {
            let out = part * size..kept.len().min((part + 1) * size);
            let rest: Vec<usize> = kept[..out.start]
                .iter()
                .chain(&kept[out.end..])
                .copied()
                .collect();
            let (has_failed, may_go_on) = fails(&rest);
            if has_failed {
                kept = rest;
                is_smaller = true;
            }
            if !may_go_on {
                return kept;
            }
            if has_failed {
                break;
            }
        }
        if is_smaller {
            parts = 2.max(parts - 1);
        } else if size == 1 {
            break;
        } else {
            parts = kept.len().min(parts * 2);
        }
    }
    kept
}
