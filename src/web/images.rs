//! Pictures by their sha256, and small copies of them.

use super::auth::Viewer;
use super::blocking::blocking;
use super::error::{ApiError, Problem};
use crate::pixels;
use crate::store::Store;
use crate::store::images::{hex, sha256 as digest};
use crate::store::proof::FileState;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use image::{ImageReader, Limits, RgbImage};
use serde::Deserialize;
use std::io::BufReader;
use std::sync::Arc;
use tokio::sync::Semaphore;
use utoipa::IntoParams;

/// Longer side of a small copy, in pixels: sharp at 160 on a screen of double density.
const THUMB_PX: u32 = 320;
const THUMB_QUALITY: u8 = 72;
/// Shortest side of a crop before it is scaled: a small defect is shown with its surroundings.
const CROP_PX_MIN: u32 = 96;
/// Limits of what is decoded; a camera's frame is far below.
const SIDE_PX_MAX: u32 = 16_384;
const DECODE_BYTES_MAX: u64 = 512 << 20;
/// A picture never changes under its name.
const FOR_EVER: &str = "private, max-age=31536000, immutable";

/// The pictures of a store.
pub struct Pictures {
    store: Arc<Store>,
    /// One small copy is made at a time.
    drawing: Semaphore,
}

impl Pictures {
    /// No copy is being made.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, drawing: Semaphore::new(1) }
    }
}

/// A picture.
#[utoipa::path(get, path = "/api/v1/images/{sha256}", tag = "pictures", params(("sha256" = String, Path)), responses(
    (status = 200, description = "JPEG or PNG", content_type = "image/jpeg", body = Vec<u8>),
    (status = 304, description = "unchanged"), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(crate) async fn full(
    State(store): State<Arc<Store>>,
    _: Viewer,
    Path(sha256): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if is_known(&headers) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let (bytes, kind) = blocking(&store, move |store| {
        let path = store.image_path(&sha256).ok_or_else(gone)?;
        let kind = if path.extension().is_some_and(|e| e == "png") { "image/png" } else { "image/jpeg" };
        let bytes = std::fs::read(path).map_err(|_| gone())?;
        // What is sent is what was hashed.
        if !hex(&digest(&bytes)).eq_ignore_ascii_case(&sha256) {
            return Err(wrong(&sha256));
        }
        Ok((bytes, kind))
    })
    .await?;
    Ok(picture(bytes, kind))
}

/// The same under the address that `result` messages name.
#[utoipa::path(get, path = "/images/{sha256}", tag = "pictures", params(("sha256" = String, Path)), responses(
    (status = 200, description = "JPEG or PNG", content_type = "image/jpeg", body = Vec<u8>),
    (status = 304, description = "unchanged"), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(crate) async fn by_message(
    store: State<Arc<Store>>,
    viewer: Viewer,
    path: Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    full(store, viewer, path, headers).await
}

/// A small copy of a picture; made now when it was not made yet.
#[utoipa::path(get, path = "/api/v1/thumbs/{sha256}", tag = "pictures", params(("sha256" = String, Path)), responses(
    (status = 200, description = "JPEG", content_type = "image/jpeg", body = Vec<u8>),
    (status = 304, description = "unchanged"), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(crate) async fn thumb(
    State(pictures): State<Arc<Pictures>>,
    _: Viewer,
    Path(sha256): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if is_known(&headers) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let kept = |pictures: &Pictures, sha256: &str| {
        pictures.store.thumbnail_path(sha256).and_then(|p| std::fs::read(p).ok())
    };
    let wanted = sha256.clone();
    let look = move |pictures: &Pictures| {
        // A small copy stands for its picture, and only as long as that is what it was.
        match pictures.store.picture_file(&wanted) {
            FileState::Whole(_) => Ok(kept(pictures, &wanted)),
            FileState::Missing => Err(gone()),
            FileState::Wrong { .. } => Err(wrong(&wanted)),
        }
    };
    if let Some(bytes) = blocking(&pictures, look).await? {
        return Ok(picture(bytes, "image/jpeg"));
    }
    let _turn = pictures.drawing.acquire().await.map_err(ApiError::internal)?;
    let bytes = blocking(&pictures, move |pictures| match kept(pictures, &sha256) {
        Some(bytes) => Ok(bytes),
        None => make(&pictures.store, &sha256),
    })
    .await?;
    Ok(picture(bytes, "image/jpeg"))
}

/// Where a crop lies, in pixels of the picture.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    pub x0: u32,
    pub y0: u32,
    pub x1: u32,
    pub y1: u32,
}

/// A box of a picture with what is around it, as large as a thumbnail.
#[utoipa::path(get, path = "/api/v1/crops/{sha256}", tag = "pictures", params(("sha256" = String, Path), Place), responses(
    (status = 200, description = "JPEG", content_type = "image/jpeg", body = Vec<u8>),
    (status = 304, description = "unchanged"), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 404, body = Problem)))]
pub(crate) async fn crop(
    State(pictures): State<Arc<Pictures>>,
    _: Viewer,
    Path(sha256): Path<String>,
    Query(place): Query<Place>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if is_known(&headers) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    if place.x0 >= place.x1 || place.y0 >= place.y1 {
        return Err(ApiError::bad("x0, y0, x1, y1: the box is empty"));
    }
    let _turn = pictures.drawing.acquire().await.map_err(ApiError::internal)?;
    let draw = move |pictures: &Pictures| match pictures.store.picture_file(&sha256) {
        FileState::Whole(_) => cut(&decoded(&pictures.store, &sha256)?, place),
        FileState::Missing => Err(gone()),
        FileState::Wrong { .. } => Err(wrong(&sha256)),
    };
    Ok(picture(blocking(&pictures, draw).await?, "image/jpeg"))
}

/// The box in the middle of a square that leaves half of the box's side free around it, as JPEG.
fn cut(picture: &RgbImage, place: Place) -> Result<Vec<u8>, ApiError> {
    let (width, height) = picture.dimensions();
    if place.x1 > width.saturating_add(1) || place.y1 > height.saturating_add(1) {
        return Err(ApiError::bad(format!("x1, y1: the box leaves the picture of {width}x{height}")));
    }
    let longer = (place.x1 - place.x0).max(place.y1 - place.y0);
    let side = (longer * 2).max(CROP_PX_MIN).min(width.min(height));
    let start =
        |from: u32, to: u32, max: u32| (u32::midpoint(from, to).saturating_sub(side / 2)).min(max - side);
    let (x, y) = (start(place.x0, place.x1, width), start(place.y0, place.y1, height));
    let crop = pixels::cut(picture, (x, y), (side, side));
    shrink(&crop).ok_or_else(|| ApiError::internal("a picture without pixels"))
}

fn make(store: &Store, sha256: &str) -> Result<Vec<u8>, ApiError> {
    let jpeg =
        shrink(&decoded(store, sha256)?).ok_or_else(|| ApiError::internal("a picture without pixels"))?;
    store.put_thumbnail(sha256, &jpeg)?;
    Ok(jpeg)
}

fn decoded(store: &Store, sha256: &str) -> Result<RgbImage, ApiError> {
    let path = store.image_path(sha256).ok_or_else(gone)?;
    let file = std::fs::File::open(path).map_err(|_| gone())?;
    let mut reader =
        ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(ApiError::internal)?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(SIDE_PX_MAX), Some(SIDE_PX_MAX));
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    reader.limits(limits);
    Ok(reader.decode().map_err(ApiError::internal)?.into_rgb8())
}

/// The small copy of a picture, as JPEG.
pub(crate) fn shrink(picture: &RgbImage) -> Option<Vec<u8>> {
    let (w, h) = picture.dimensions();
    let scale = f64::from(THUMB_PX) / f64::from(w.max(h).max(1));
    let side = |x: u32| ((f64::from(x) * scale.min(1.0)).round() as u32).max(1);
    let small = pixels::shrink(picture, side(w), side(h))?;
    pixels::jpeg(&small, THUMB_QUALITY).ok()
}

fn gone() -> ApiError {
    ApiError::not_found("there is no such picture (any more)")
}

/// Not shown: a decision would be about another picture.
fn wrong(sha256: &str) -> ApiError {
    tracing::error!(sha256, "a picture is not the one that its record names");
    ApiError::new(
        StatusCode::NOT_FOUND,
        "picture_wrong",
        "the file of this picture is another one, or is damaged",
    )
}

/// The name is the content, so whoever has something under it has it all.
fn is_known(headers: &HeaderMap) -> bool {
    headers.contains_key(header::IF_NONE_MATCH)
}

fn picture(bytes: Vec<u8>, kind: &'static str) -> Response {
    let headers =
        [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, FOR_EVER), (header::ETAG, "\"same\"")];
    (headers, Body::from(bytes)).into_response()
}
