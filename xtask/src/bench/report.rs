//! Results: medians, ratios against their targets, as a table and as JSON.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

/// Seconds of several runs of one side.
#[derive(Default)]
pub(super) struct Samples {
    pub(super) wall_s: Vec<f64>,
    pub(super) cpu_s: Vec<f64>,
}

impl Samples {
    pub(super) fn push(&mut self, wall_s: f64, cpu_s: f64) {
        self.wall_s.push(wall_s);
        self.cpu_s.push(cpu_s);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.wall_s.is_empty()
    }

    pub(super) fn json(&self) -> Value {
        json!({"wall_s": self.wall_s, "cpu_s": self.cpu_s})
    }
}

/// The middle one; of an even number, the mean of the two in the middle. Not a number when there is none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (len, middle) if len % 2 == 1 => sorted[middle],
        (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// What a result is held against.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    AtMost(f64),
    AtLeast(f64),
    /// For information.
    None,
}

impl Limit {
    fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(limit) => Some(value <= limit),
            Self::AtLeast(limit) => Some(value >= limit),
            Self::None => None,
        }
    }

    fn shown(self) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {limit}"),
            Self::AtLeast(limit) => format!("≥ {limit}"),
            Self::None => "–".to_owned(),
        }
    }
}

/// One line of the table.
pub(super) struct Line {
    measure: String,
    ours: String,
    peer: String,
    value: f64,
    limit: Limit,
}

/// One kind of work.
pub(super) struct Row {
    name: &'static str,
    title: String,
    lines: Vec<Line>,
    samples: Map<String, Value>,
    /// Why the row, or its peer, could not be measured; or what must be known to read it.
    notes: Vec<String>,
}

impl Row {
    pub(super) fn new(name: &'static str, title: impl Into<String>) -> Self {
        Self { name, title: title.into(), lines: Vec::new(), samples: Map::new(), notes: Vec::new() }
    }

    /// `ours` divided by `peer`, in `unit`, against a limit.
    pub(super) fn ratio(&mut self, measure: &str, unit: &str, ours: &[f64], peer: &[f64], limit: Limit) {
        let (ours, peer) = (median(ours), median(peer));
        let shown = |value: f64| if value.is_nan() { "–".to_owned() } else { format!("{value:.2} {unit}") };
        let measure = format!("{measure}, ours ÷ peer");
        self.lines.push(Line { measure, ours: shown(ours), peer: shown(peer), value: ours / peer, limit });
    }

    /// A number of ours alone, against a limit.
    pub(super) fn value(&mut self, measure: &str, ours: &[f64], limit: Limit) {
        let value = median(ours);
        self.lines.push(Line {
            measure: measure.to_owned(),
            ours: format!("{value:.4}"),
            peer: "–".to_owned(),
            value,
            limit,
        });
    }

    pub(super) fn samples(&mut self, name: &str, value: Value) {
        self.samples.insert(name.to_owned(), value);
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    fn json(&self) -> Value {
        let lines: Vec<Value> = self.lines.iter().map(Line::json).collect();
        json!({"name": self.name, "title": self.title, "results": lines, "samples": self.samples, "notes": self.notes})
    }
}

impl Line {
    fn verdict(&self) -> &'static str {
        match (self.value.is_nan(), self.limit.is_met(self.value)) {
            (true, _) => "not measured",
            (_, Some(true)) => "met",
            (_, Some(false)) => "MISSED",
            (_, None) => "for information",
        }
    }

    fn json(&self) -> Value {
        json!({
            "measure": self.measure, "ours": self.ours, "peer": self.peer, "value": self.value,
            "target": self.limit.shown(), "verdict": self.verdict(),
        })
    }

    fn cells(&self) -> [String; 6] {
        let value = if self.value.is_nan() { "–".to_owned() } else { format!("{:.3}", self.value) };
        let (ours, peer) = (self.ours.clone(), self.peer.clone());
        [self.measure.clone(), ours, peer, value, self.limit.shown(), self.verdict().to_owned()]
    }
}

/// Prints all rows as one table in Markdown.
pub(super) fn print(rows: &[Row]) {
    let header = ["measure", "ours", "peer", "result", "target", ""].map(str::to_owned);
    let cells = || rows.iter().flat_map(|row| &row.lines).map(Line::cells).chain([header.clone()]);
    let width = |column: usize| cells().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let print = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width));
        println!("| {} |", padded.collect::<Vec<_>>().join(" | "));
    };
    for row in rows {
        println!("\n**{}: {}**\n", row.name, row.title);
        if !row.lines.is_empty() {
            print(&header);
            print(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>());
            row.lines.iter().for_each(|line| print(&line.cells()));
        }
        if !row.notes.is_empty() {
            println!();
        }
        row.notes.iter().for_each(|note| println!("- {note}"));
    }
}

/// Writes all rows, with what is needed to judge them, to `bench-results/NAME.json` below `root`.
pub(super) fn save(root: &Path, name: &str, about: Value, rows: &[Row]) -> anyhow::Result<()> {
    let directory = root.join("bench-results");
    fs::create_dir_all(&directory)?;
    let rows: Vec<Value> = rows.iter().map(Row::json).collect();
    let text = serde_json::to_string_pretty(&json!({"about": about, "rows": rows}))?;
    let path = directory.join(format!("{name}.json"));
    fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    println!("\nWritten to {}.", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Limit, Row, median};

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!([median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0])], [2.0, 2.5]);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_peer_that_is_missing_is_no_success() {
        let mut row = Row::new("a", "b");
        row.ratio("wall", "s", &[1.0], &[], Limit::AtMost(1.0));
        row.ratio("wall", "s", &[1.0], &[1.0], Limit::AtMost(1.0));
        row.ratio("wall", "s", &[1.1], &[1.0], Limit::AtMost(1.0));
        row.value("speed", &[0.7], Limit::AtLeast(0.8));
        let verdicts: Vec<_> = row.lines.iter().map(super::Line::verdict).collect();
        assert_eq!(verdicts, ["not measured", "met", "MISSED", "MISSED"]);
    }
}
