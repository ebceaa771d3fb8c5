//! Pictures of a machine: its recovery points on a line of time, and how its replication went. Here are the numbers; templates draw them.
//!
//! Invariant: a picture has a bounded number of marks, however much there is to show, and says in words what it shows.

use switchback_control::Sample;
use switchback_model::{ByteSize, Consistency, RecoveryPoint, UnixMillis};

use crate::shown::{Moment, span};

/// The width that pictures are drawn at; they are shown as wide as there is room.
pub(crate) const WIDTH: u64 = 720;
/// Marks of a line of time at most: neighbours that would lie on each other are drawn once.
const MARKS_MAX: usize = 360;

/// A recovery point on the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) x: u64,
    /// Which lane: crash-consistent, app-consistent, multi-VM.
    pub(crate) y: u64,
    pub(crate) kind: &'static str,
}

/// Recovery points on a line of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timeline {
    pub(crate) marks: Vec<Mark>,
    pub(crate) oldest: String,
    pub(crate) newest: String,
    /// How many of each kind.
    pub(crate) crash: usize,
    pub(crate) app: usize,
    pub(crate) multi_vm: usize,
}

/// A curve: `points` of a polyline below `HEIGHT`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chart {
    pub(crate) points: String,
    pub(crate) largest: String,
    pub(crate) last: String,
    pub(crate) since: String,
    /// Where the target lies, if it is within the picture.
    pub(crate) target_y: Option<u64>,
}

/// The height that a chart is drawn at.
pub(crate) const HEIGHT: u64 = 120;

/// A part of all, on a picture's length. Times and sizes come from agents: nothing here may overflow.
fn scaled(part: u64, all: u64, length: u64) -> u64 {
    let scaled = u128::from(part.min(all)) * u128::from(length) / u128::from(all.max(1));
    u64::try_from(scaled).unwrap_or(length)
}

/// Where a moment lies between two.
fn place(time: UnixMillis, (from, to): (UnixMillis, UnixMillis)) -> u64 {
    scaled(time.0.saturating_sub(from.0), to.0.saturating_sub(from.0), WIDTH)
}

/// Points, oldest first.
pub(super) fn timeline(points: &[RecoveryPoint], now: UnixMillis) -> Timeline {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Timeline::default() };
    let mut line = Timeline {
        oldest: Moment::of(first.time, now).ago,
        newest: Moment::of(last.time, now).ago,
        ..Timeline::default()
    };
    for point in points {
        let (kind, y) = match (point.consistency, &point.group_tag) {
            (Consistency::AppConsistent, _) => ("app", 40),
            (_, Some(_)) => ("multi-vm", 64),
            _ => ("crash", 16),
        };
        match kind {
            "app" => line.app += 1,
            "multi-vm" => line.multi_vm += 1,
            _ => line.crash += 1,
        }
        let mark = Mark { x: place(point.time, (first.time, last.time)), y, kind };
        // Newer ones of a lane come later in it.
        let is_there =
            line.marks.iter().rev().take(8).any(|drawn| drawn.y == y && drawn.x.abs_diff(mark.x) < 3);
        if !is_there {
            line.marks.push(mark);
        }
    }
    let drop = line.marks.len().saturating_sub(MARKS_MAX);
    line.marks.drain(..drop);
    line
}

/// The age of the newest recovery point over time, against what the policy allows. `None`: there is not enough to draw.
pub(super) fn rpo_chart(samples: &[Sample], target_ms: u64, now: UnixMillis) -> Option<Chart> {
    let values: Vec<_> = samples.iter().filter_map(|sample| Some((sample.time, sample.rpo_ms?))).collect();
    let largest = values.iter().map(|(_, rpo)| *rpo).max()?;
    // The target is drawn where it does not press the curve flat.
    let top = if target_ms <= largest.saturating_mul(8) { largest.max(target_ms) } else { largest };
    let mut chart = curve(&values, top, now)?;
    chart.target_y = (target_ms <= top).then(|| HEIGHT - scaled(target_ms, top, HEIGHT));
    (chart.largest, chart.last) = (span(largest), span(values.last()?.1));
    Some(chart)
}

/// By how much a count of bytes has grown in each minute.
pub(super) fn growth_chart(
    samples: &[Sample],
    now: UnixMillis,
    bytes: impl Fn(&Sample) -> u64,
) -> Option<Chart> {
    let growth = |pair: &[Sample]| (pair[1].time, bytes(&pair[1]).saturating_sub(bytes(&pair[0])));
    let values: Vec<_> = samples.windows(2).map(growth).collect();
    let largest = values.iter().map(|(_, bytes)| *bytes).max()?;
    let mut chart = curve(&values, largest, now)?;
    (chart.largest, chart.last) = (ByteSize(largest).to_string(), ByteSize(values.last()?.1).to_string());
    Some(chart)
}

fn curve(values: &[(UnixMillis, u64)], top: u64, now: UnixMillis) -> Option<Chart> {
    let (first, last) = (values.first()?.0, values.last()?.0);
    if values.len() < 2 {
        return None;
    }
    let y = |value: u64| HEIGHT - scaled(value, top, HEIGHT);
    let points = values.iter().map(|(time, value)| format!("{},{}", place(*time, (first, last)), y(*value)));
    let since = Moment::of(first, now).ago;
    Some(Chart { points: points.collect::<Vec<_>>().join(" "), since, ..Chart::default() })
}

#[cfg(test)]
mod tests {
    use switchback_control::Sample;
    use switchback_model::{Consistency, RecoveryPoint, Seq, UnixMillis};

    use super::{MARKS_MAX, WIDTH, growth_chart, rpo_chart, timeline};

    fn point(seq: u64, consistency: Consistency, tag: Option<&str>) -> RecoveryPoint {
        RecoveryPoint {
            seq: Seq(seq),
            time: UnixMillis(seq * 1000),
            consistency,
            group_tag: tag.map(Into::into),
            lacks: Vec::new(),
        }
    }

    #[test]
    fn points_lie_on_their_lanes_from_the_oldest_to_the_newest() {
        let points = [
            point(0, Consistency::CrashConsistent, None),
            point(50, Consistency::AppConsistent, Some("t")),
            point(100, Consistency::CrashConsistent, Some("t")),
        ];
        let line = timeline(&points, UnixMillis(160_000));
        let places: Vec<_> = line.marks.iter().map(|mark| (mark.x, mark.kind)).collect();
        assert_eq!(places, [(0, "crash"), (WIDTH / 2, "app"), (WIDTH, "multi-vm")]);
        assert_eq!((line.oldest.as_str(), line.newest.as_str()), ("2 min ago", "60 s ago"));
        assert_eq!(timeline(&[], UnixMillis(0)).marks.len(), 0);
        assert_eq!(timeline(&points[..1], UnixMillis(0)).marks.len(), 1);
        let many: Vec<_> = (0..100_000).map(|seq| point(seq, Consistency::CrashConsistent, None)).collect();
        let line = timeline(&many, UnixMillis(0));
        assert!(line.marks.len() <= MARKS_MAX && line.crash == 100_000, "{}", line.marks.len());
    }

    fn sample(minute: u64, rpo_ms: Option<u64>, changed_bytes: u64) -> Sample {
        Sample { time: UnixMillis(minute * 60_000), rpo_ms, changed_bytes, transferred_bytes: 0 }
    }

    #[test]
    fn curves_are_within_their_picture() {
        let samples = [
            sample(0, Some(0), 0),
            sample(1, None, 512),
            sample(2, Some(60_000), 512),
            sample(4, Some(30_000), 0),
        ];
        let rpo = rpo_chart(&samples, 120_000, UnixMillis(300_000)).unwrap();
        assert_eq!(rpo.points, "0,120 360,60 720,90");
        assert_eq!((rpo.target_y, rpo.largest.as_str(), rpo.last.as_str()), (Some(0), "60 s", "30 s"));
        assert_eq!(rpo_chart(&samples, 900_000, UnixMillis(0)).unwrap().target_y, None, "too far above");
        let changed = |sample: &Sample| sample.changed_bytes;
        let churn = growth_chart(&samples, UnixMillis(300_000), changed).unwrap();
        assert_eq!((churn.points.as_str(), churn.last.as_str()), ("0,0 240,120 720,120", "0 B"));
        assert_eq!(
            (rpo_chart(&samples[..1], 1, UnixMillis(0)), growth_chart(&[], UnixMillis(0), changed)),
            (None, None)
        );
    }
}
