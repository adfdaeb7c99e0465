//! Counts of the rigs: short in `make test`, full in `make soak`.

/// The full count when the environment says `SOAK=full`, a number when it names one, otherwise
/// the short count.
pub(crate) fn count(short: usize, full: usize) -> usize {
    match std::env::var("SOAK").ok().as_deref() {
        None | Some("") => short,
        Some("full") => full,
        Some(number) => number.parse().expect("SOAK is `full` or a number"),
    }
}
