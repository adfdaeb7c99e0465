//! The disk form of what was not asked, since version 2 of a record: the tiles of each question together.

use super::finite32;
use crate::domain::inspection::SkippedTile;
use crate::domain::rect::Rect;
use serde::{Deserialize, Serialize};

/// The tiles of which one question was not asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SkippedV2 {
    prompt: String,
    by: String,
    below: Option<f32>,
    tiles: Vec<TileV2>,
}

/// Index, then x0, y0, x1, y1 in frame pixels, then how sure the bank was.
type TileV2 = (usize, [u32; 4], Option<f32>);

/// The questions in the order in which their first tile was skipped.
pub(super) fn from_domain(skipped: &[SkippedTile]) -> Vec<SkippedV2> {
    let mut all: Vec<SkippedV2> = vec![];
    for one in skipped {
        let SkippedTile { prompt, tile, rect, by, doubt, below } = one;
        let tile = (*tile, [rect.x0, rect.y0, rect.x1, rect.y1], finite32(*doubt));
        match all.iter_mut().find(|question| question.prompt == *prompt) {
            Some(question) => question.tiles.push(tile),
            None => all.push(SkippedV2 {
                prompt: prompt.clone(),
                by: by.clone(),
                below: finite32(*below),
                tiles: vec![tile],
            }),
        }
    }
    all
}

/// Question by question.
pub(super) fn into_domain(all: Vec<SkippedV2>) -> Vec<SkippedTile> {
    let of = |SkippedV2 { prompt, by, below, tiles }: SkippedV2| {
        tiles.into_iter().map(move |(tile, [x0, y0, x1, y1], doubt)| SkippedTile {
            prompt: prompt.clone(),
            tile,
            rect: Rect::new(x0, y0, x1, y1),
            by: by.clone(),
            doubt: doubt.unwrap_or(f32::NAN),
            below: below.unwrap_or(f32::NAN),
        })
    };
    all.into_iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::inspection::Inspection;
    use crate::store::record::{Draft, decode};
    use crate::store::tests::sample;

    #[test]
    fn a_record_without_skipped_tiles_has_the_bytes_that_it_had_before_there_were_any() {
        let bytes =
            |inspection: &Inspection| Draft::new(inspection, None).unwrap().seal(1, &[0; 32]).unwrap();
        let old = sample(1);
        let text = String::from_utf8_lossy(&bytes(&old)).into_owned();
        assert!(old.skipped.is_empty() && !text.contains("skipped"), "{text}");
        let skipped = SkippedTile {
            prompt: "surface".into(),
            tile: 7,
            rect: Rect::new(512, 0, 1024, 512),
            by: "like-good-parts".into(),
            doubt: 0.0625,
            below: 0.2,
        };
        let new = Inspection { skipped: vec![skipped], ..old };
        let read = decode(1, &bytes(&new)).unwrap().into_stored(None).unwrap();
        assert_eq!((read.inspection.tiles_skipped(), read.inspection.skipped), (1, new.skipped));
    }

    #[test]
    fn what_was_not_asked_comes_back_question_by_question() {
        let one = |prompt: &str, tile: usize, doubt| SkippedTile {
            prompt: prompt.into(),
            tile,
            rect: Rect::new(64 * tile as u32, 0, 64 * tile as u32 + 64, 48),
            by: "like-good-parts".into(),
            doubt,
            below: 0.2,
        };
        let skipped = [one("a", 0, 0.03), one("b", 0, 0.03), one("a", 2, 0.125)];
        let stored = from_domain(&skipped);
        assert_eq!(stored.iter().map(|q| q.tiles.len()).collect::<Vec<_>>(), [2, 1]);
        let text = serde_json::to_string(&stored).unwrap();
        let read: Vec<SkippedV2> = serde_json::from_str(&text).unwrap();
        assert_eq!(into_domain(read), [one("a", 0, 0.03), one("a", 2, 0.125), one("b", 0, 0.03)]);
        assert!(text.starts_with(
            r#"[{"prompt":"a","by":"like-good-parts","below":0.2,"tiles":[[0,[0,0,64,48],0.03],"#
        ));
    }
}
