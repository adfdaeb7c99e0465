//! Ground-truth records written next to the images.

/// The defect labels, spelled exactly as in the output.
pub const LABELS: [&str; 8] =
    ["scratch", "dent", "crack", "pit", "stain", "chip", "misprint", "missing_screw"];

/// One defect.
#[derive(Clone, Debug, PartialEq)]
pub struct Defect {
    /// One of `LABELS`.
    pub label: &'static str,
    /// x1, y1, x2, y2 in pixels of the picture.
    pub bbox: [i32; 4],
    /// minor, major or critical.
    pub severity: &'static str,
}

/// One character of a text line.
#[derive(Clone, Debug, PartialEq)]
pub struct CharBox {
    pub(crate) c: char,
    pub(crate) bbox: [i32; 4],
}

/// One readable text line.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    pub(crate) text: String,
    pub(crate) bbox: [i32; 4],
    pub(crate) style: &'static str,
    pub(crate) chars: Vec<CharBox>,
}

/// Ground truth of one tile.
#[derive(Clone, Debug, PartialEq)]
pub struct Truth {
    /// Index of the tile in its seed.
    pub i: u64,
    /// Width in pixels.
    pub w: usize,
    /// Height in pixels.
    pub h: usize,
    /// Material of the part.
    pub surface: &'static str,
    /// All that are really there.
    pub defects: Vec<Defect>,
    /// Readable lines, from top to bottom.
    pub texts: Vec<Text>,
}

/// Severity of a defect.
///
/// `long` is the longer side of the box in reference pixels (256-pixel tile),
/// `area` the box area in square reference pixels, `count` the number of pits.
///
/// | label           | minor        | major        | critical |
/// |-----------------|--------------|--------------|----------|
/// | pit             | 1 hole       | 2-3 holes    | 4+ holes |
/// | stain           | area < 1200  | area < 6400  | larger   |
/// | misprint        |              | always       |          |
/// | missing_screw   |              |              | always   |
/// | any other label | long < 40    | long < 110   | longer   |
pub(super) fn severity(label: &str, long: f32, area: f32, count: usize) -> &'static str {
    let rank = |v: f32, major: f32, critical: f32| match v {
        v if v < major => "minor",
        v if v < critical => "major",
        _ => "critical",
    };
    match label {
        "pit" => rank(count as f32, 2.0, 4.0),
        "stain" => rank(area, 1200.0, 6400.0),
        "misprint" => "major",
        "missing_screw" => "critical",
        _ => rank(long, 40.0, 110.0),
    }
}

/// The worst severity of a list, or "none".
pub(super) fn worst(defects: &[Defect]) -> &'static str {
    ["critical", "major", "minor"]
        .into_iter()
        .find(|s| defects.iter().any(|d| d.severity == *s))
        .unwrap_or("none")
}

#[cfg(test)]
mod tests {
    use super::severity;

    #[test]
    fn table_is_kept() {
        assert_eq!(severity("scratch", 39.0, 0.0, 1), "minor");
        assert_eq!(severity("crack", 40.0, 0.0, 1), "major");
        assert_eq!(severity("dent", 110.0, 0.0, 1), "critical");
        assert_eq!(severity("pit", 200.0, 0.0, 3), "major");
        assert_eq!(severity("missing_screw", 1.0, 1.0, 1), "critical");
    }
}
