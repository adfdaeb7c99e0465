//! A simulated line camera with exact ground truth. Imports nothing else of ours.
//!
//! ```text
//! seed, i --> random numbers --> Look --paint--> Layers (colour, relief, gloss)
//!                                  \--light--> Lighting        |
//!                                                              v
//! truth <-- record <-- change, look at the difference, undo if it cannot be seen
//!                                                              |
//! RGB bytes <-- Sensor (defocus, noise) <-- shade <------------'
//! ```
//!
//! A defect is in the truth only if its change shows after lighting, and a text only if each of its
//! characters has enough contrast: what the truth says can be seen.
//!
//! Three kinds of pictures:
//! - `tile`: a close-up, as a model sees one tile of a frame;
//! - `frame`: a whole part of a random design;
//! - [`part`]: a whole part of a [`Product`], whose parts share everything but pose, light, noise,
//!   defects and text, so that a pipeline's regions of interest mean something.
//!
//! Invariant: the same seed and index give the same pixels and the same truth, always. Models were
//! trained and scores are quoted on these pictures; the golden tests below hold them.

mod compose;
mod defects;
mod frame;
mod geom;
mod label;
mod layers;
mod light;
mod noise;
mod parts;
mod product;
mod scene;
mod sensor;
mod surface;
mod text;
mod tile;

pub use compose::FrameTruth;
pub use frame::frame;
pub use label::{CharBox, Defect, LABELS, Text, Truth};
pub use product::{Product, part};
pub use tile::{Mix, tile};

/// Fewest pixels a side that can hold a scene.
pub const SIDE_MIN_PX: usize = 32;
/// Most pixels a side: larger pictures than any camera of a line takes.
pub const SIDE_MAX_PX: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};
    use std::fmt::Write;

    fn words(defects: &[Defect], texts: &[Text]) -> String {
        let mut s = String::new();
        for d in defects {
            writeln!(s, "{} {:?} {}", d.label, d.bbox, d.severity).unwrap();
        }
        for t in texts {
            writeln!(s, "{} {:?} {} {}", t.text, t.bbox, t.style, t.chars.len()).unwrap();
        }
        s
    }

    fn hex(hash: Sha256) -> String {
        hash.finalize().iter().fold(String::new(), |mut s, b| {
            write!(s, "{b:02x}").unwrap();
            s
        })
    }

    /// Pixels and truth of the first tiles and frames of a seed, as the generator that the shipped
    /// model was trained on renders them.
    #[test]
    fn golden_tiles() {
        let want = [
            (Mix::Defect, "d03c2b6e489e20dd0d2c27936d3eff00493571ad97f0e745f2d6cfae13770a9e"),
            (Mix::Text, "ea9fe4198f7bc5d119f1ea9ddac72cc71150746d9a1b4b1ccba7cca767dd0d37"),
            (Mix::Both, "25565f87fd4bbf979830316b8e19177ffe88cadbe6bfcc163b6a34d981a3df17"),
            (Mix::CleanHeavy, "254b60e4ee4f3ce46c088574f795a6dab181700cde71267156efed5569a2ea19"),
        ];
        for (mix, golden) in want {
            let mut hash = Sha256::new();
            for i in 0..24 {
                let (w, h) = if i % 3 == 2 { (96, 32) } else { (72, 64) };
                let (rgb, t) = tile(9, i, w, h, mix);
                hash.update(&rgb);
                hash.update(words(&t.defects, &t.texts));
            }
            assert_eq!(hex(hash), golden, "{mix:?}");
        }
    }

    #[test]
    fn golden_frames() {
        let mut hash = Sha256::new();
        for i in 0..12 {
            let (rgb, t) = frame(9, i, 245, 205);
            hash.update(&rgb);
            hash.update(words(&t.defects, &t.texts));
            hash.update(format!("{} {:?} {} {}\n", t.part_id, t.nameplate, t.worst, t.surface));
        }
        assert_eq!(hex(hash), "678550901a7eb77856d0d7a95f8af30e09382211349c999a46da1155d243164c");
    }
}
