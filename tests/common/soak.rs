//! Counts of the rigs: short in `make test`, full in `make soak`; and where a rig leaves what it measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What the rigs measured at their full counts. Below `LAST` each has one line, which begins with its name and a colon.
const FIGURES: &str = "tests/rigs/FIGURES.md";
const LAST: &str = "## Last full counts\n";

fn wanted() -> Option<String> {
    std::env::var("SOAK").ok().filter(|soak| !soak.is_empty())
}

/// The full count when the environment says `SOAK=full`, a number when it names one, otherwise
/// the short count.
pub(crate) fn count(short: usize, full: usize) -> usize {
    match wanted().as_deref() {
        None => short,
        Some("full") => full,
        Some(number) => number.parse().expect("SOAK is `full` or a number"),
    }
}

/// Prints a rig's figures on one line and, at the full count, keeps them in `FIGURES`.
pub(crate) fn report(figures: &str) {
    println!("\n{figures}");
    if wanted().as_deref() == Some("full") {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FIGURES);
        let text = fs::read_to_string(&path).expect("the figures can be read");
        let day = jiff::Timestamp::now().to_string();
        let circumstances = format!("{}, {}", &day[.."2026-01-01".len()], processor());
        fs::write(&path, kept(&text, figures, &circumstances)).expect("the figures can be written");
    }
}

/// The file with a rig's line in the place of its line before.
fn kept(text: &str, figures: &str, circumstances: &str) -> String {
    let (before, lines) = text.split_once(LAST).expect("a section of the last full counts");
    let rig = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    let lines = lines.lines().filter_map(|line| line.strip_prefix("- "));
    let mut lines: BTreeMap<String, String> = lines.map(|line| (rig(line), line.to_owned())).collect();
    let figures = figures.split_whitespace().collect::<Vec<_>>().join(" ");
    lines.insert(rig(&figures), format!("{figures} ({circumstances})"));
    let lines: String = lines.into_values().map(|line| format!("- {line}\n")).collect();
    format!("{before}{LAST}\n{lines}")
}

/// The name of this machine's processor, and how many threads of it there are.
fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let threads = std::thread::available_parallelism().map_or(0, |threads| threads.get());
    format!("{threads} threads of {}", name.map_or("an unknown processor", |(_, name)| name))
}

#[test]
fn a_rig_has_one_line_of_figures() {
    let file = format!("# Figures\n\n{LAST}\n- P2: 1 lost (a day, a box)\n- P3: 0 lost (a day, a box)\n");
    let file = kept(&file, "P2: 0 lost,\n  7 s", "another day, a box");
    assert_eq!(
        file,
        format!("# Figures\n\n{LAST}\n- P2: 0 lost, 7 s (another day, a box)\n- P3: 0 lost (a day, a box)\n")
    );
    let file = kept(&file, "P2 banks: 0 cut", "that day, a box");
    assert!(file.ends_with("- P2 banks: 0 cut (that day, a box)\n- P3: 0 lost (a day, a box)\n"), "{file}");
    let kept_in =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(FIGURES)).expect("the figures");
    assert!(kept_in.contains(LAST) && !processor().is_empty());
}
