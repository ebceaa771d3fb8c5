//! What commands print: tables, JSON, and the progress of a sync.

use std::io::IsTerminal;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use switchback_model::{ByteSize, UnixMillis};
use switchback_replica::CycleKind;

use crate::engine::{CycleReport, Event};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Prints rows under a header, columns aligned.
pub(crate) fn print_table(header: &[&str], rows: &[Vec<String>]) {
    print!("{}", format_table(header, rows));
}

/// Rows under a header, columns aligned.
pub(crate) fn format_table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<_> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}", width = *width))
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let rows = rows.iter().map(|row| row.iter().map(String::as_str).collect());
    std::iter::once(header.to_vec()).chain(rows).map(line).collect()
}

/// `2026-11-23 11:20:22Z`: UTC, so that the two ends of a line mean the same.
pub(crate) fn format_time(time: UnixMillis) -> String {
    // Civil from days, H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let seconds = time.0 / 1000;
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02}Z", second % 60)
}

/// Shows the progress of a sync on standard error: a bar on a terminal, lines of JSON on request.
pub(crate) struct Progress {
    json: bool,
    bar: ProgressBar,
    /// Bytes of the comparison done, and bytes sent.
    compared: u64,
    sent: u64,
}

impl Progress {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        let hidden = json || quiet || !std::io::stderr().is_terminal();
        let target =
            if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(8) };
        let bar = ProgressBar::with_draw_target(None, target);
        Self { json, bar, compared: 0, sent: 0 }
    }

    pub(crate) fn show(&mut self, event: &Event) {
        match event {
            Event::Opened { seq, kind, disk_bytes } => self.opened(seq.0, kind, *disk_bytes),
            Event::Compared { bytes } => {
                self.compared += bytes;
                self.bar.set_position(self.compared);
            }
            Event::Sent { bytes, .. } => {
                self.sent += bytes;
                self.bar.set_message(format!("sent {}", ByteSize(self.sent)));
            }
            Event::Round { number, bytes } => {
                self.json(|| json!({"event": "round", "number": number, "bytes": bytes}));
            }
            Event::MomentVoid { reason } => {
                self.json(|| json!({"event": "moment-void", "reason": reason}));
                self.note(&format!("no consistent moment yet: {reason}"));
            }
            Event::Waiting { reason, pause } => {
                self.json(|| json!({"event": "waiting", "reason": reason, "pause_ms": pause.as_millis()}));
                self.note(&format!("waiting {pause:.1?}: {reason}"));
            }
            Event::Committed(report) => self.committed(report),
        }
    }

    fn opened(&mut self, seq: u64, kind: &CycleKind, disk_bytes: u64) {
        (self.compared, self.sent) = (0, 0);
        if let CycleKind::Resync { reason } = kind {
            self.bar.set_length(disk_bytes);
            self.bar.reset();
            let template = "{prefix} {wide_bar} {percent:>3}% {binary_bytes}/{binary_total_bytes} \
                            {binary_bytes_per_sec} {msg} eta {eta}";
            self.bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
            self.bar.set_prefix(format!("point {seq}"));
            self.json(|| json!({"event": "opened", "seq": seq, "resync": reason, "disk_bytes": disk_bytes}));
            self.note(&format!("point {seq}: comparing, because: {reason}"));
        } else {
            self.bar.set_style(
                ProgressStyle::with_template("{prefix} {spinner} {msg}").expect("a valid template"),
            );
            self.bar.set_prefix(format!("point {seq}"));
            self.json(|| json!({"event": "opened", "seq": seq, "disk_bytes": disk_bytes}));
        }
    }

    fn committed(&mut self, report: &CycleReport) {
        self.bar.finish_and_clear();
        self.json(|| {
            json!({
                "event": "point", "seq": report.seq, "consistency": report.consistency,
                "compared_bytes": report.compared_bytes, "sent_bytes": report.sent_bytes,
                "stored_bytes": report.stored_bytes, "rounds": report.rounds,
                "frozen_ms": millis(report.frozen), "took_ms": millis(report.took),
                "recoverable": report.watermarks.recoverable,
            })
        });
        if !self.json {
            let rate = u128::from(report.compared_bytes.max(report.sent_bytes)) * 1_000_000
                / report.took.as_micros().max(1);
            println!(
                "point {}: {}, {} sent of {} compared in {:.1?} ({}/s), {} rounds, frozen {:.0?}",
                report.seq,
                report.consistency,
                ByteSize(report.sent_bytes),
                ByteSize(report.compared_bytes),
                report.took,
                ByteSize(u64::try_from(rate).unwrap_or(u64::MAX)),
                report.rounds,
                report.frozen,
            );
        }
    }

    fn json(&self, line: impl FnOnce() -> serde_json::Value) {
        if self.json {
            println!("{}", line());
        }
    }

    fn note(&self, text: &str) {
        if !self.json {
            self.bar.suspend(|| eprintln!("{text}"));
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use switchback_model::UnixMillis;

    use super::format_time;

    #[test]
    fn times_are_civil_utc() {
        let shown = [0, 951_782_400_000, 1_795_432_822_999].map(|ms| format_time(UnixMillis(ms)));
        assert_eq!(shown, ["1970-01-01 00:00:00Z", "2000-02-29 00:00:00Z", "2026-11-23 11:20:22Z"]);
    }
}
