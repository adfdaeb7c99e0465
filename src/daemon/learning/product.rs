//! A new product: what an engineer asks for, checked before a job begins.
//!
//! ```text
//! name, camera, ids, mm per pixel, region --is it free? are the pictures there?--> Ground --job `first`--> recipe
//! ```

use super::{Jobs, Learning, Request, not_stored};
use crate::domain::inspection::{ImageRef, Inspection};
use crate::domain::learn::{LearnWanted, Learnable};
use crate::domain::pipeline::Repeats;
use crate::domain::product::{NewProduct, ProductRefusal};
use crate::domain::rect::Rect;
use crate::learn::head::{KIND_FEW, KIND_MIN};
use crate::learn::product::{MM_PER_PX, Product, check_name, region};
use crate::learn::references::{GOOD_FEW, GOOD_MIN};
use crate::recipe::registry::Registry;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::web::products as web;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Pictures of one product.
const PICTURES_MAX: usize = 200;
/// Recipes that one station knows, as for files.
const RECIPES_MAX: usize = 256;

/// What the first recipe of a product is made of.
pub(super) struct Ground {
    pub product: Product,
    pub roi: Option<Rect>,
    pub good: Vec<Good>,
}

/// The picture of a good part.
pub(super) struct Good {
    pub inspection: Inspection,
    pub image: ImageRef,
    /// In pixels.
    pub size: (u32, u32),
}

impl web::Products for Learning {
    fn make(&self, wanted: NewProduct, by: &str) -> Result<(), ProductRefusal> {
        let shared = &self.shared;
        check_name(&wanted.name).map_err(|why| field("name", format!("{:?}", wanted.name), why))?;
        if shared.recipes.is_known(&wanted.name).map_err(not_stored)? {
            return Err(ProductRefusal::Exists { name: wanted.name });
        }
        let known = shared.registry.names().len();
        if known >= RECIPES_MAX {
            let why = format!("the station knows {known} recipes, and at most {RECIPES_MAX} are possible");
            return Err(field("name", format!("{:?}", wanted.name), why));
        }
        let ground = Ground::of(&wanted, &shared.registry, &shared.store)?;
        let request = Request {
            pipeline: wanted.name,
            wanted: LearnWanted::default(),
            product: Some(ground),
            by: by.to_owned(),
            cancel: Arc::default(),
        };
        Ok(self.begin(&mut shared.jobs(), request)?)
    }
}

fn field(key: impl Into<String>, value: String, why: impl Into<String>) -> ProductRefusal {
    ProductRefusal::Field { key: key.into(), value, why: why.into() }
}

impl Ground {
    fn of(wanted: &NewProduct, registry: &Registry, store: &Store) -> Result<Self, ProductRefusal> {
        let NewProduct { name, camera, inspections, mm_per_px, roi, features } = wanted;
        if !MM_PER_PX.contains(mm_per_px) {
            let why = format!("must be from {} to {}", MM_PER_PX.start(), MM_PER_PX.end());
            return Err(field("mm_per_px", mm_per_px.to_string(), why));
        }
        let good = good(camera, inspections, store)?;
        let size = good.first().map_or((0, 0), |first| first.size);
        let corners = |roi: &Rect| format!("[{}, {}, {}, {}]", roi.x0, roi.y0, roi.x1, roi.y1);
        let shown = roi.as_ref().map_or_else(|| "the whole picture".to_owned(), corners);
        region(*roi, size).map_err(|unfit| field("roi", shown, unfit.to_string()))?;
        // What the camera delivers stays as it is: its present recipe knows.
        let present = good.first().and_then(|first| registry.pipeline(&first.inspection.pipeline));
        let product = Product {
            name: name.clone(),
            mm_per_px: *mm_per_px,
            features: *features,
            fixed_mm: None,
            depth_bits: present.as_ref().and_then(|pipeline| pipeline.frame.depth_bits),
            repeats: present.map_or(Repeats::default(), |pipeline| pipeline.frame.repeats),
        };
        Ok(Self { product, roi: *roi, good })
    }
}

/// The pictures of these inspections, each once, of one camera and of one size.
fn good(camera: &str, ids: &[String], store: &Store) -> Result<Vec<Good>, ProductRefusal> {
    if !(GOOD_MIN..=PICTURES_MAX).contains(&ids.len()) {
        let why = format!("{GOOD_MIN} to {PICTURES_MAX} pictures of good parts are needed, better 20");
        return Err(field("inspections", format!("{} ids", ids.len()), why));
    }
    let (mut seen, mut all) = (BTreeSet::new(), Vec::<Good>::with_capacity(ids.len()));
    for (at, id) in ids.iter().enumerate() {
        let refused = |why: String| field(format!("inspections[{at}]"), format!("{id:?}"), why);
        if !seen.insert(id) {
            return Err(refused("stands there twice".to_owned()));
        }
        let one = one(id, store)?.map_err(&refused)?;
        if one.inspection.camera != camera {
            return Err(refused(format!("is of the camera {:?}, not of {camera:?}", one.inspection.camera)));
        }
        if let Some(first) = all.first().filter(|first| first.size != one.size) {
            let ((w, h), (w0, h0)) = (one.size, first.size);
            return Err(refused(format!("its picture is {w}x{h}, and that of {:?} is {w0}x{h0}", ids[0])));
        }
        all.push(one);
    }
    Ok(all)
}

/// The picture of one inspection, or why it is not used.
fn one(id: &str, store: &Store) -> Result<Result<Good, String>, ProductRefusal> {
    let stored = match store.get_by_id(id) {
        Ok(stored) => stored,
        Err(StoreError::InvalidId { .. } | StoreError::BadRecord { .. }) => None,
        Err(error) => return Err(not_stored(error).into()),
    };
    let Some(stored) = stored else { return Ok(Err("there is no such inspection".to_owned())) };
    if !stored.inspection.clip.is_empty() {
        return Ok(Err("is a clip, and single pictures are compared".to_owned()));
    }
    let image = stored.image.map(|kept| kept.image);
    let size = image.as_ref().and_then(|image| store.picture_size(&image.sha256));
    Ok(match (image, size) {
        (Some(image), Some(size)) => Ok(Good { inspection: stored.inspection, image, size }),
        _ => Err("its picture is not kept any more".to_owned()),
    })
}

/// Jobs about products that have no recipe yet, or got none.
pub(super) fn without_recipe(registry: &Registry, jobs: &Jobs) -> Vec<Learnable> {
    let now = jobs.now.as_ref().map(|(job, _)| job);
    let names: BTreeSet<&String> = now.into_iter().map(|job| &job.pipeline).chain(jobs.last.keys()).collect();
    let of = |name: &String| Learnable {
        pipeline: name.clone(),
        active: String::new(),
        is_gated: false,
        good: 0,
        bad: 0,
        good_min: GOOD_MIN,
        good_few: GOOD_FEW,
        kind_min: KIND_MIN,
        kind_few: KIND_FEW,
        banks: vec![],
        heads: vec![],
        job: now.filter(|job| job.pipeline == *name).cloned(),
        last: jobs.last.get(name).cloned(),
    };
    names.into_iter().filter(|name| registry.get(name).is_none()).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::reference::FeatureSource;
    use crate::store::StoreOptions;

    #[test]
    fn every_field_that_is_refused_is_named_with_its_value() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let sound = NewProduct {
            name: "nut".into(),
            camera: "cam1".into(),
            inspections: (0..5).map(|n| format!("id-{n}")).collect(),
            mm_per_px: 0.1,
            roi: None,
            features: FeatureSource::Backbone,
        };
        let refused = |wanted: &NewProduct| {
            Ground::of(wanted, &Registry::default(), &store).err().expect("it is refused").to_string()
        };
        assert_eq!(refused(&sound), "inspections[0] = \"id-0\": there is no such inspection");
        let few = NewProduct { inspections: vec!["id-0".into()], ..sound.clone() };
        assert!(refused(&few).starts_with("inspections = 1 ids: 5 to 200 pictures"), "{}", refused(&few));
        let small = NewProduct { mm_per_px: 0.0, ..sound.clone() };
        assert!(refused(&small).starts_with("mm_per_px = 0: must be from"), "{}", refused(&small));
        let nan = NewProduct { mm_per_px: f64::NAN, ..sound };
        assert!(refused(&nan).starts_with("mm_per_px = NaN"), "{}", refused(&nan));
    }
}
