//! How long recovery points are kept: by age and by a thinning schedule.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{RecoveryPoint, Seq, UnixMillis, duration};

const HOUR_MS: u64 = 3_600_000;

/// One step of a thinning schedule: of the points up to `until_age_ms` old, keep one per `every_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thinning {
    /// Points younger than this (and older than the step before reaches) fall under this step.
    pub until_age_ms: u64,
    /// One point is kept in each such span of time; 0 keeps all.
    pub every_ms: u64,
}

/// Which recovery points to keep.
///
/// The newest point is always kept, whatever the policy says: a replica without a point is not a
/// replica. Ages are measured against the newest point, not against a clock: a machine that has been
/// off for a month still has the history of its last day, and a clock that jumps deletes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionPolicy {
    /// Steps in order of age. Points older than the last step reaches are pruned.
    pub steps: Vec<Thinning>,
    /// Limit for what retention (staged and reverse deltas) may take on its drive; the oldest points go
    /// first. `None`: the drive's free space is the only limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u64>,
}

impl Default for RetentionPolicy {
    /// All points for 24 hours, then hourly for 3 days, then daily for 15 (ASR's longest retention).
    fn default() -> Self {
        let step = |hours: u64, every_hours: u64| Thinning {
            until_age_ms: hours * HOUR_MS,
            every_ms: every_hours * HOUR_MS,
        };
        Self { steps: vec![step(24, 0), step(72, 1), step(15 * 24, 24)], bytes_max: None }
    }
}

impl RetentionPolicy {
    /// Steps as people write them, AGE:EVERY: `1d:0s,3d:1h,15d:1d` keeps all of one day, hourly ones of three, daily ones of fifteen.
    ///
    /// # Errors
    /// How they are to be written.
    pub fn read_steps(text: &str) -> Result<Vec<Thinning>, String> {
        let step = |step: &str| {
            let (age, every) = step.split_once(':').ok_or_else(|| format!("{step:?} is not AGE:EVERY"))?;
            Ok(Thinning { until_age_ms: duration::parse(age)?, every_ms: duration::parse(every)? })
        };
        let steps: Vec<Thinning> = text.split(',').map(step).collect::<Result<_, String>>()?;
        let grows = steps.windows(2).all(|pair| pair[0].until_age_ms < pair[1].until_age_ms);
        if steps.iter().all(|step| step.until_age_ms > 0) && grows {
            Ok(steps)
        } else {
            Err("ages must grow from step to step".into())
        }
    }

    /// The same written; what [`Self::read_steps`] reads, but for ages that nobody writes.
    #[must_use]
    pub fn write_steps(&self) -> String {
        let step = |step: &Thinning| {
            format!("{}:{}", duration::show(step.until_age_ms), duration::show(step.every_ms))
        };
        self.steps.iter().map(step).collect::<Vec<_>>().join(",")
    }

    /// Keeps everything.
    #[must_use]
    pub fn keep_all() -> Self {
        Self { steps: vec![Thinning { until_age_ms: u64::MAX, every_ms: 0 }], bytes_max: None }
    }

    /// The points of `points` (in order of [`Seq`]) that the schedule lets go, oldest first.
    ///
    /// Of the points in one span the oldest is kept, and a span is thinned only when all of it has come of
    /// age: the choice is stable while newer points arrive, and each span costs one merge of reverse
    /// deltas, not one for each of its points.
    #[must_use]
    pub fn expired(&self, points: &[RecoveryPoint]) -> Vec<Seq> {
        let Some(newest) = points.last() else { return Vec::new() };
        let mut kept: BTreeMap<(usize, u64), Seq> = BTreeMap::new();
        let mut expired = Vec::new();
        for point in &points[..points.len() - 1] {
            match self.span_of(point.time, newest.time) {
                Some(span) if *kept.entry(span).or_insert(point.seq) != point.seq => expired.push(point.seq),
                Some(_) => {}
                None if self.is_past(point.time, newest.time) => expired.push(point.seq),
                None => {}
            }
        }
        expired
    }

    /// Whether a point is older than the schedule reaches.
    fn is_past(&self, time: UnixMillis, newest: UnixMillis) -> bool {
        let reach = self.steps.last().map_or(0, |step| step.until_age_ms);
        newest.0.saturating_sub(time.0) >= reach
    }

    /// The step and span of which one point is kept; `None` when all are, or when the point is past the
    /// schedule.
    fn span_of(&self, time: UnixMillis, newest: UnixMillis) -> Option<(usize, u64)> {
        if self.is_past(time, newest) {
            return None;
        }
        (0..self.steps.len()).rev().find_map(|index| {
            let from_age = index.checked_sub(1).map_or(0, |before| self.steps[before].until_age_ms);
            let span = time.0.checked_div(self.steps[index].every_ms)?;
            let span_end = (span + 1).saturating_mul(self.steps[index].every_ms);
            (span_end.saturating_add(from_age) <= newest.0).then_some((index, span))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{HOUR_MS, RetentionPolicy};
    use crate::{Consistency, RecoveryPoint, Seq, UnixMillis};

    fn points(times: impl IntoIterator<Item = u64>) -> Vec<RecoveryPoint> {
        let point = |(n, time)| RecoveryPoint {
            seq: Seq(n),
            time: UnixMillis(time),
            consistency: Consistency::CrashConsistent,
            group_tag: None,
            lacks: Vec::new(),
        };
        (0..).zip(times).map(point).collect()
    }

    #[test]
    fn steps_are_read_and_written_and_must_make_sense() {
        let standard = RetentionPolicy::default();
        assert_eq!(standard.write_steps(), "1d:0s,3d:1h,15d:1d");
        assert_eq!(RetentionPolicy::read_steps(&standard.write_steps()), Ok(standard.steps));
        for bad in ["", "1h", "1h:1s,1h:2s", "2h:0s,1h:0s", "0s:1s", "1h:x"] {
            assert!(RetentionPolicy::read_steps(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn all_for_a_day_then_hourly_then_daily_then_gone() {
        let every_10_minutes = points((0..30 * 24 * 6).map(|n| n * HOUR_MS / 6));
        let expired = RetentionPolicy::default().expired(&every_10_minutes);
        let kept: Vec<_> = every_10_minutes.iter().filter(|point| !expired.contains(&point.seq)).collect();
        let newest = every_10_minutes.last().unwrap().time.0;
        let age_hours = |point: &RecoveryPoint| (newest - point.time.0) / HOUR_MS;
        assert_eq!(kept.iter().filter(|point| age_hours(point) < 24).count(), 24 * 6);
        // The span that is only partly of age is still whole.
        assert!((47..=54).contains(&kept.iter().filter(|p| (24..72).contains(&age_hours(p))).count()));
        assert!((11..=37).contains(&kept.iter().filter(|p| (72..360).contains(&age_hours(p))).count()));
        assert_eq!(kept.iter().filter(|point| age_hours(point) >= 360).count(), 0);
    }

    proptest! {
        #[test]
        fn the_newest_stays_and_nothing_kept_is_lost_by_asking_again(
            times in proptest::collection::vec(0_u64..40 * 24 * HOUR_MS, 1..60),
        ) {
            let all = points(times);
            let policy = RetentionPolicy::default();
            let expired = policy.expired(&all);
            prop_assert!(!expired.contains(&all.last().unwrap().seq));
            let kept: Vec<_> = all.into_iter().filter(|point| !expired.contains(&point.seq)).collect();
            prop_assert_eq!(policy.expired(&kept), Vec::new());
            prop_assert_eq!(RetentionPolicy::keep_all().expired(&kept), Vec::new());
        }
    }
}
