//! The first recipe of a new product, from pictures that an engineer calls good.
//!
//! ```text
//! pictures --does each show anything?--> text --engine: features--> bank --recipes: checked--> active | refused
//! ```

use super::{Draft, Ended, Job};
use crate::daemon::learning::product::{Good, Ground};
use crate::daemon::learning::taught::Taught;
use crate::daemon::learning::{Request, ask};
use crate::daemon::recipes::{Confirmed, Learned, picture};
use crate::domain::learn::LearnStep;
use crate::evaluate::gate::Part;
use crate::learn::example::Example;
use crate::learn::product::Parts;
use crate::store::recipes::GoodPart;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Job<'_> {
    /// The recipe with its bank.
    pub(super) fn first(&mut self, ground: &Ground) -> Result<Learned, Ended> {
        let Request { pipeline: name, by, .. } = self.request;
        let (parts, proper) = self.proper(ground)?;
        let draft = Draft::first(name, parts.recipe(&ground.product)?)?;
        let model = {
            let go_on = || self.is_wanted();
            ask::ready(self.engine, &go_on)?.ok_or(Ended::Unwanted)?
        };
        let examples = self.examples(&draft, proper.iter().map(|good| confirmed(good)).collect(), &model)?;
        self.shared.set_progress(LearnStep::Learning, 0, 0);
        let Taught { bytes, figures } = self.taught(&draft, &examples, &model)?;
        let words = figures.in_words();
        self.outcome.figures = Some(figures);
        let (base, made_of) = (draft.base.clone(), made_of(&proper, &examples));
        let (text, files) = draft.with_file(bytes);
        let (by, cancel) = (format!("{by}, new product"), Arc::clone(&self.request.cancel));
        Ok(Learned { pipeline: name.clone(), base, text, files, by, words, cancel, made_of })
    }

    /// The pictures that show anything, and what is measured on them; the others are left out and named.
    fn proper<'g>(&mut self, ground: &'g Ground) -> Result<(Parts, Vec<&'g Good>), Ended> {
        let (mut parts, mut proper) = (Parts::new(ground.roi), vec![]);
        for (done, good) in ground.good.iter().enumerate() {
            if !self.is_wanted() {
                return Err(Ended::Unwanted);
            }
            self.shared.set_progress(LearnStep::Looking, done, ground.good.len());
            let id = || good.inspection.id.clone();
            match picture(&self.shared.store, &good.image) {
                None => self.leave_out(id(), "its picture is missing or damaged".into()),
                Some(pixels) => match parts.add(&pixels) {
                    Ok(()) => proper.push(good),
                    Err(unfit) => self.leave_out(id(), unfit.to_string()),
                },
            }
        }
        Ok((parts, proper))
    }
}

fn confirmed(good: &Good) -> Confirmed {
    let Good { inspection, image, size } = good;
    Confirmed { part: Part::good(inspection, *size), inspection: inspection.clone(), image: image.clone() }
}

/// The parts that the bank was learned from.
fn made_of(proper: &[&Good], examples: &[Example]) -> Vec<GoodPart> {
    let learned: BTreeSet<&str> = examples.iter().map(|example| example.name.as_str()).collect();
    let of = |good: &&Good| {
        let (id, sha256) = (good.inspection.id.clone(), good.image.sha256.clone());
        learned.contains(id.as_str()).then_some(GoodPart { id, sha256 })
    };
    proper.iter().filter_map(of).collect()
}
