//! Figures on the way out: each is written and flushed when its case is done.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::json;

/// For programs or for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// One JSON object a line.
    Json,
    /// Columns, with each figure's ratio to ours.
    Human,
}

/// Writes the rows of one table.
pub(crate) struct Report<W> {
    out: W,
    format: Format,
    table: &'static str,
    /// The system that the others are compared with.
    ours: &'static str,
    runs: u32,
    /// Our figures, by case and metric.
    figures: BTreeMap<(&'static str, &'static str), f64>,
    last_case: Option<&'static str>,
    failures: usize,
}

impl<W: Write> Report<W> {
    pub(crate) fn new(out: W, format: Format, table: &'static str, ours: &'static str, runs: u32) -> Self {
        Self { out, format, table, ours, runs, figures: BTreeMap::new(), last_case: None, failures: 0 }
    }

    /// A figure.
    pub(crate) fn row(
        &mut self,
        system: &'static str,
        case: &'static str,
        metric: &'static str,
        value: f64,
        unit: &'static str,
    ) -> io::Result<()> {
        // Three decimals are more than any of this is good for.
        let value = (value * 1000.0).round() / 1000.0;
        match self.format {
            Format::Json => {
                let row = json!({
                    "event": "row", "table": self.table, "system": system, "case": case, "metric": metric,
                    "value": value, "unit": unit, "runs": self.runs,
                });
                writeln!(self.out, "{row}")?;
            }
            Format::Human => {
                self.heading(case)?;
                let ratio = if system == self.ours {
                    self.figures.insert((case, metric), value);
                    String::new()
                } else {
                    match self.figures.get(&(case, metric)) {
                        Some(ours) if *ours > 0.0 => format!("{:>10.1}x", value / ours),
                        _ => String::new(),
                    }
                };
                let line = format!("  {system:16} {metric:18} {:>14} {unit:4}{ratio}", short(value));
                writeln!(self.out, "{}", line.trim_end())?;
            }
        }
        self.out.flush()
    }

    /// No figure, and why.
    pub(crate) fn skip(&mut self, system: &'static str, case: &'static str, reason: &str) -> io::Result<()> {
        self.without_figure("skip", "skipped", (system, case), reason)
    }

    /// No figure, because something went wrong.
    pub(crate) fn fail(&mut self, system: &'static str, case: &'static str, reason: &str) -> io::Result<()> {
        self.failures += 1;
        self.without_figure("failure", "failed", (system, case), reason)
    }

    fn without_figure(
        &mut self,
        event: &str,
        word: &str,
        (system, case): (&'static str, &'static str),
        reason: &str,
    ) -> io::Result<()> {
        match self.format {
            Format::Json => {
                let row = json!({
                    "event": event, "table": self.table, "system": system, "case": case, "reason": reason,
                });
                writeln!(self.out, "{row}")?;
            }
            Format::Human => {
                self.heading(case)?;
                writeln!(self.out, "  {system:16} {word}: {reason}")?;
            }
        }
        self.out.flush()
    }

    /// How often something went wrong.
    pub(crate) const fn failures(&self) -> usize {
        self.failures
    }

    /// To be called after the last row.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if self.format == Format::Human {
            writeln!(self.out, "\nMedians of {} runs; x: how many times ours.", self.runs)?;
        }
        self.out.flush()
    }

    fn heading(&mut self, case: &'static str) -> io::Result<()> {
        if self.last_case.replace(case) != Some(case) {
            writeln!(self.out, "{} {case}", self.table)?;
        }
        Ok(())
    }
}

/// As many decimals as a person wants to see.
fn short(value: f64) -> String {
    let decimals = if value >= 100.0 { 0 } else { 2 };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format) -> String {
        let mut report = Report::new(Vec::new(), format, "alloc", "lbcore", 3);
        report.row("lbcore", "small", "allocate", 123.456_789, "ns").unwrap();
        report.row("peer", "small", "allocate", 1_234.5, "ns").unwrap();
        report.skip("peer", "large", "it would take minutes").unwrap();
        assert_eq!(report.failures(), 0);
        report.fail("other", "large", "it does not start").unwrap();
        assert_eq!(report.failures(), 1);
        report.finish().unwrap();
        String::from_utf8(report.out).unwrap()
    }

    #[test]
    fn one_json_object_a_line() {
        let rows: Vec<serde_json::Value> =
            written(Format::Json).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            rows[0],
            json!({
                "event": "row", "table": "alloc", "system": "lbcore", "case": "small", "metric": "allocate",
                "value": 123.457, "unit": "ns", "runs": 3,
            })
        );
        assert_eq!(rows[2]["event"], "skip");
        assert_eq!(rows[2]["reason"], "it would take minutes");
        assert_eq!(rows[3]["event"], "failure");
        assert_eq!(rows[3]["reason"], "it does not start");
        assert_eq!(rows.len(), 4);
    }

    #[test]
    fn a_table_with_ratios_for_people() {
        assert_eq!(
            written(Format::Human),
            "alloc small\n  lbcore           allocate                      123 ns\n  peer             \
             allocate                     1234 ns        10.0x\nalloc large\n  peer             skipped: it \
             would take minutes\n  other            failed: it does not start\n\nMedians of 3 runs; x: how many times ours.\n"
        );
    }
}
