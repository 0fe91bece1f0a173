//! Which connection should go to which worker, so that none waits behind a busy one while a worker has nothing to do.
//!
//! Each move makes the larger of two loads smaller and no other load larger, so loads that stay as they are come to rest.
//!
//! Not here: measuring and moving.

use std::time::Duration;

/// Percent of the time for which a worker has to be busy before anything is taken from it.
const BUSY_PERCENT: u32 = 60;
/// Percent of the time by which another worker has to be less busy.
const DIFFERENCE_PERCENT: u32 = 25;
/// Percent of the time by which a move has to make the busier of the two workers less busy.
const GAIN_PERCENT: u32 = 5;

/// A connection and the worker that it should go to, if a move is worth it. `workers` tells of each how long each of
/// its connections was busy in the last `period`.
pub(crate) fn choose<C>(workers: &[Vec<(C, Duration)>], period: Duration) -> Option<(&C, usize)> {
    let percent = |percent: u32| period * percent / 100;
    let loads: Vec<Duration> =
        workers.iter().map(|connections| connections.iter().map(|(_, busy)| *busy).sum()).collect();
    let target = (0..loads.len()).min_by_key(|worker| loads[*worker])?;
    let mut sources: Vec<usize> = (0..loads.len())
        .filter(|source| loads[*source] > percent(BUSY_PERCENT))
        .filter(|source| loads[*source] - loads[target] > percent(DIFFERENCE_PERCENT))
        .collect();
    sources.sort_by_key(|source| std::cmp::Reverse(loads[*source]));
    // The busiest may have one connection only, and the next one two.
    sources.into_iter().find_map(|source| {
        let difference = loads[source] - loads[target];
        // What the busier of the two has less after the move: most if half of the difference moves.
        let gain = |busy: Duration| busy.min(difference.saturating_sub(busy));
        let (connection, busy) = workers[source].iter().max_by_key(|(_, busy)| gain(*busy))?;
        (gain(*busy) >= percent(GAIN_PERCENT)).then_some((connection, target))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(1000);

    /// Loads in percent, each connection named by its worker and place.
    fn measured(loads: &[&[u64]]) -> Vec<Vec<((usize, usize), Duration)>> {
        let place = |worker, place, load| ((worker, place), PERIOD * load as u32 / 100);
        loads
            .iter()
            .enumerate()
            .map(|(worker, loads)| {
                loads.iter().enumerate().map(|(n, load)| place(worker, n, *load)).collect()
            })
            .collect()
    }

    #[test]
    fn the_connection_that_evens_out_best_moves_and_only_if_that_is_worth_it() {
        type Case = (&'static [&'static [u64]], Option<((usize, usize), usize)>, &'static str);
        let cases: [Case; 14] = [
            (&[], None, "no workers"),
            (&[&[60, 35]], None, "nowhere to go"),
            (&[&[], &[]], None, "nothing to do"),
            (&[&[95], &[]], None, "alone: it would only be busy elsewhere"),
            (&[&[50, 45], &[]], Some(((0, 1), 1)), "two busy ones part"),
            (&[&[], &[50, 45]], Some(((1, 1), 0)), "whichever worker they are on"),
            (&[&[30, 28], &[]], None, "the busiest is not busy"),
            (&[&[50, 45], &[40, 35]], None, "the idlest is as busy"),
            (&[&[5, 10, 40, 20, 25], &[]], Some(((0, 2), 1)), "closest to half of the difference"),
            (&[&[70, 28, 1], &[20]], Some(((0, 1), 1)), "not so much that the other gets the larger load"),
            (&[&[95, 1, 1, 1], &[]], None, "nearly alone: the few others gain little"),
            (&[&[90, 2, 3, 2], &[]], Some(((0, 0), 1)), "the large one leaves several small ones"),
            (&[&[40, 40], &[50], &[10, 5]], Some(((0, 1), 2)), "from the busiest to the idlest"),
            (&[&[99], &[45, 50], &[]], Some(((1, 1), 2)), "from the next one where the busiest cannot"),
        ];
        for (loads, expected, case) in cases {
            let measured = measured(loads);
            let chosen = choose(&measured, PERIOD).map(|(connection, to)| (*connection, to));
            assert_eq!(chosen, expected, "{case}");
        }
    }

    /// Moves until nothing moves; returns how often.
    fn settle(workers: &mut [Vec<(u32, Duration)>]) -> usize {
        for moves in 0.. {
            let Some((connection, to)) = choose(workers, PERIOD).map(|(connection, to)| (*connection, to))
            else {
                return moves;
            };
            let of = |workers: &[Vec<(u32, Duration)>]| -> Vec<Duration> {
                let mut sums: Vec<_> =
                    workers.iter().map(|load| load.iter().map(|(_, busy)| *busy).sum()).collect();
                sums.sort_unstable_by_key(|load| std::cmp::Reverse(*load));
                sums
            };
            let before = of(workers);
            let from = workers.iter().position(|all| all.iter().any(|(one, _)| *one == connection)).unwrap();
            let place = workers[from].iter().position(|(one, _)| *one == connection).unwrap();
            let moved = workers[from].remove(place);
            workers[to].push(moved);
            assert!(of(workers) < before, "each move evens out");
            assert!(moves < 100, "no end of moves");
        }
        unreachable!("the loop ends by itself")
    }

    #[test]
    fn loads_that_stay_as_they_are_come_to_rest() {
        let mut random = 7u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut moved = 0;
        for _ in 0..2000 {
            let mut workers = vec![Vec::new(); 1 + next(8) as usize];
            let (count, most) = (next(40) as u32, 1 + next(300));
            for connection in 0..count {
                // All on few workers to begin with.
                let at = next(workers.len() as u64).min(next(3)) as usize;
                workers[at].push((connection, Duration::from_millis(next(most))));
            }
            moved += settle(&mut workers);
            assert_eq!(settle(&mut workers), 0);
            assert_eq!(workers.iter().map(Vec::len).sum::<usize>(), count as usize, "none is lost");
        }
        assert!(moved > 1000, "{moved} moves are too few to tell");
    }
}
