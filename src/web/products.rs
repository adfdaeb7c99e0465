//! A new product: an engineer names good parts among the newest pictures of a camera, and the daemon makes its first
//! recipe.
//!
//! ```text
//! POST /api/v1/products --engineer--> the daemon's `Products` --a job of learning--> recipes, with their ledger
//! GET /api/v1/learn: how far it is, and what came of it       DELETE /api/v1/learn/{name}: cancels it
//! ```

use super::auth::Engineer;
use super::error::{ApiError, Problem};
use crate::domain::learn::LearnRefusal;
use crate::domain::product::{NewProduct, ProductRefusal};
use crate::domain::rect::Rect;
use crate::domain::reference::FeatureSource;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use std::sync::{Arc, OnceLock};
use utoipa::ToSchema;

/// What the page asks of the daemon.
pub trait Products: Send + Sync {
    /// Starts a job that makes the first recipe of a product.
    ///
    /// # Errors
    /// `ProductRefusal`.
    fn make(&self, wanted: NewProduct, by: &str) -> Result<(), ProductRefusal>;
}

/// Who makes recipes of new products, once the cameras are open.
#[derive(Default)]
pub(crate) struct Maker(OnceLock<Arc<dyn Products>>);

impl Maker {
    /// From now on recipes of new products can be made. The first call counts: a page lives as long as its line.
    pub(crate) fn make_with(&self, products: Arc<dyn Products>) {
        let _ = self.0.set(products);
    }
}

/// A new product.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProductBody {
    /// Of its recipe: letters, digits, _ and -; no recipe may have it.
    #[schema(max_length = 64)]
    pub name: String,
    /// Id of the camera that has taken the pictures.
    pub camera: String,
    /// Ids of inspections whose pictures show good parts, whatever their verdicts are: 5 to 200.
    pub inspections: Vec<String>,
    /// Size of a pixel on the part, in millimetres.
    pub mm_per_px: f64,
    /// What is inspected, in pixels: left, top, right, bottom; not given: the whole picture.
    pub roi: Option<[u32; 4]>,
    /// backbone, tower; not given: the backbone's.
    pub features: Option<String>,
}

/// Makes the first recipe of a new product from pictures of good parts. It compares parts with these; its bank is learned
/// from them, and it is active from then on, for whichever camera is commanded to it. No file is written.
#[utoipa::path(post, path = "/api/v1/products", tag = "learn", request_body = ProductBody, responses(
    (status = 202), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub(crate) async fn make(
    State(maker): State<Arc<Maker>>,
    Engineer(principal): Engineer,
    Json(body): Json<ProductBody>,
) -> Result<StatusCode, ApiError> {
    let wanted = wanted(body)?;
    let products = Arc::clone(maker.0.get().ok_or(LearnRefusal::Starting)?);
    let by = format!("http:{}", principal.name);
    let make = move || products.make(wanted, &by);
    tokio::task::spawn_blocking(make).await.map_err(ApiError::internal)??;
    Ok(StatusCode::ACCEPTED)
}

fn wanted(body: ProductBody) -> Result<NewProduct, ProductRefusal> {
    let ProductBody { name, camera, inspections, mm_per_px, roi, features } = body;
    let word = |word: String| {
        let words = FeatureSource::ALL.map(FeatureSource::as_str).join(" or ");
        FeatureSource::parse(&word).ok_or_else(|| ProductRefusal::Field {
            key: "features".into(),
            value: format!("{word:?}"),
            why: format!("must be {words}"),
        })
    };
    let features = features.map(word).transpose()?.unwrap_or(FeatureSource::Backbone);
    let roi = roi.map(|[x0, y0, x1, y1]| Rect::new(x0, y0, x1, y1));
    Ok(NewProduct { name, camera, inspections, mm_per_px, roi, features })
}

impl From<ProductRefusal> for ApiError {
    fn from(refusal: ProductRefusal) -> Self {
        let (code, words) = (refusal.code(), refusal.to_string());
        match refusal {
            ProductRefusal::Field { .. } => Self::new(StatusCode::BAD_REQUEST, code, words),
            ProductRefusal::Exists { .. } => Self::new(StatusCode::CONFLICT, code, words),
            ProductRefusal::Learn(refusal) => refusal.into(),
        }
    }
}
