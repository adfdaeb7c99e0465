//! Prometheus' text form (version 0.0.4): families in the order of writing, each with the HELP and TYPE lines of its
//! row in the contract.

use super::contract::Series;
use super::histogram::Histogram;
use std::fmt::Write as _;

/// The text as far as it is written.
#[derive(Default)]
pub(super) struct Exposition(String);

impl Exposition {
    /// A family without labels.
    pub(super) fn one(&mut self, row: &Series, value: f64) {
        self.family(row, [([], value)]);
    }

    /// A family by the values of its labels.
    pub(super) fn family<'a, const N: usize>(
        &mut self,
        row: &Series,
        samples: impl IntoIterator<Item = ([&'a str; N], f64)>,
    ) {
        self.head(row);
        for (labels, value) in samples {
            self.sample(row, "", &labels, None, value);
        }
    }

    /// A family of histograms by the values of their labels.
    pub(super) fn histograms<'a, const N: usize>(
        &mut self,
        row: &Series,
        samples: impl IntoIterator<Item = ([&'a str; N], &'a Histogram)>,
    ) {
        self.head(row);
        for (labels, histogram) in samples {
            for (bound, n) in histogram.bounds.iter().zip(&histogram.buckets) {
                self.sample(row, "_bucket", &labels, Some(&number(*bound)), *n as f64);
            }
            self.sample(row, "_bucket", &labels, Some("+Inf"), histogram.count as f64);
            self.sample(row, "_sum", &labels, None, histogram.sum);
            self.sample(row, "_count", &labels, None, histogram.count as f64);
        }
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.0
    }

    fn head(&mut self, row: &Series) {
        let (name, kind) = (row.name, row.kind.as_str());
        let _ = writeln!(self.0, "# HELP {name} {}\n# TYPE {name} {kind}", row.meaning);
    }

    fn sample(&mut self, row: &Series, suffix: &str, labels: &[&str], le: Option<&str>, value: f64) {
        assert_eq!(labels.len(), row.labels.len(), "{}: a value for each label", row.name);
        let named = row.labels.iter().copied().zip(labels.iter().copied()).chain(le.map(|le| ("le", le)));
        let named: Vec<String> =
            named.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let _ = write!(self.0, "{}{suffix}", row.name);
        if !named.is_empty() {
            let _ = write!(self.0, "{{{}}}", named.join(","));
        }
        let _ = writeln!(self.0, " {}", number(value));
    }
}

/// 1 for yes, 0 for no.
pub(super) fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn number(value: f64) -> String {
    if value == f64::INFINITY {
        "+Inf".to_owned()
    } else if value == f64::NEG_INFINITY {
        "-Inf".to_owned()
    } else {
        // Not a number is NaN in both languages.
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::{BUILD, DURATION, OUTBOX};
    use super::*;

    #[test]
    fn families_have_their_heads_and_labels_are_escaped() {
        let mut out = Exposition::default();
        out.one(&OUTBOX, 3.0);
        out.family(&BUILD, [(["a\"b\\c\nd"], f64::NAN)]);
        let mut seconds = Histogram::new(&[0.5, 1.0]);
        [0.5, 0.75, 2.0, f64::NAN].into_iter().for_each(|s| seconds.observe(s));
        out.histograms(&DURATION, [(["cam1", "plate"], &seconds)]);
        let by_hand = format!(
            "# HELP inspectd_outbox_entries {}\n# TYPE inspectd_outbox_entries gauge\ninspectd_outbox_entries 3\n\
             # HELP inspectd_build_info {}\n# TYPE inspectd_build_info gauge\n\
             inspectd_build_info{{version=\"a\\\"b\\\\c\\nd\"}} NaN\n\
             # HELP inspectd_inspection_duration_seconds {}\n# TYPE inspectd_inspection_duration_seconds histogram\n\
             inspectd_inspection_duration_seconds_bucket{{camera=\"cam1\",recipe=\"plate\",le=\"0.5\"}} 1\n\
             inspectd_inspection_duration_seconds_bucket{{camera=\"cam1\",recipe=\"plate\",le=\"1\"}} 2\n\
             inspectd_inspection_duration_seconds_bucket{{camera=\"cam1\",recipe=\"plate\",le=\"+Inf\"}} 3\n\
             inspectd_inspection_duration_seconds_sum{{camera=\"cam1\",recipe=\"plate\"}} 3.25\n\
             inspectd_inspection_duration_seconds_count{{camera=\"cam1\",recipe=\"plate\"}} 3\n",
            OUTBOX.meaning, BUILD.meaning, DURATION.meaning
        );
        assert_eq!(out.finish(), by_hand);
    }
}
