//! The camera's clock on ours.
//!
//! ```text
//! camera's stamp + (arrival - stamp of the picture that was fastest on its way) = exposure on our clock
//! ```
//!
//! GenICam cameras stamp each exposure with a clock of their own, which began at any time and runs a little fast
//! or slow. The picture that was the fastest to arrive shows how far the two clocks are apart; later ones that took
//! longer were exposed earlier than they arrived. What is seen of the distance is allowed to grow by [`DRIFT_PPM`],
//! more than any quartz is off, so that an old observation does not hold for ever.
//!
//! Invariants:
//! - A stamp is never later than the arrival.
//! - A clock that was reset, or that runs at another rate, costs at most `LATE_MAX` of exactness: a picture that
//!   would have been on its way for longer is stamped with its arrival, and the distance is taken anew.

/// Parts in a million by which the two clocks may run apart.
const DRIFT_PPM: u64 = 200;

/// Longest time that a picture is believed to have been on its way, in nanoseconds. GigE Vision receivers give up
/// on a picture's packets far earlier.
const LATE_MAX_NS: i128 = 2_000_000_000;

/// Exposures of one camera.
#[derive(Debug, Default)]
pub(super) struct CameraClock {
    /// Our clock minus the camera's, in nanoseconds, and the arrival at which that was seen.
    apart: Option<(i128, u64)>,
}

impl CameraClock {
    /// The exposure on our monotonic clock, from the camera's stamp (0: it has none) and the arrival; nanoseconds.
    pub(super) fn stamp(&mut self, camera_ns: u64, arrival_ns: u64) -> u64 {
        if camera_ns == 0 {
            return arrival_ns;
        }
        let seen = i128::from(arrival_ns) - i128::from(camera_ns);
        let kept = self.apart.map(|(apart, at)| {
            apart + i128::from(arrival_ns.saturating_sub(at)) * i128::from(DRIFT_PPM) / 1_000_000
        });
        match kept.filter(|kept| *kept <= seen && seen - kept <= LATE_MAX_NS) {
            Some(kept) => u64::try_from(i128::from(camera_ns) + kept).unwrap_or(arrival_ns).min(arrival_ns),
            None => {
                self.apart = Some((seen, arrival_ns));
                arrival_ns
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const MS: u64 = 1_000_000;

    #[test]
    fn a_picture_that_was_long_on_its_way_has_the_stamp_of_its_exposure() {
        let mut clock = CameraClock::default();
        assert_eq!(clock.stamp(5 * S, 100 * S), 100 * S);
        let late = clock.stamp(6 * S, 101 * S + 20 * MS);
        assert!((101 * S..101 * S + MS).contains(&late), "20 ms late, less the drift allowed: {late}");
        assert_eq!(clock.stamp(7 * S, 102 * S - 5 * MS), 102 * S - 5 * MS, "a faster one sets the distance");
        let late = clock.stamp(8 * S, 103 * S + 900 * MS);
        assert!(late.abs_diff(103 * S - 5 * MS) < MS, "{late}");
    }

    #[test]
    fn a_reset_and_a_missing_clock_give_the_arrival() {
        let mut clock = CameraClock::default();
        clock.stamp(500 * S, 1_000 * S);
        assert_eq!(clock.stamp(S, 1_001 * S), 1_001 * S, "the camera was started anew");
        assert_eq!(clock.stamp(2 * S, 1_002 * S + MS / 10), 1_002 * S + MS / 10);
        assert_eq!(clock.stamp(0, 1_003 * S), 1_003 * S);
    }

    #[test]
    fn a_clock_that_runs_slow_or_fast_stays_near_the_arrival() {
        for ppm in [-100_i64, 100] {
            let mut clock = CameraClock::default();
            for second in 1..10_000_u64 {
                let camera = (second * S).saturating_add_signed(ppm * second as i64 * 1_000);
                let arrival = 50 * S + second * S;
                let stamp = clock.stamp(camera, arrival);
                assert!(
                    stamp <= arrival && arrival - stamp < MS,
                    "{ppm} ppm, {second} s: {}",
                    arrival - stamp
                );
            }
        }
    }
}
