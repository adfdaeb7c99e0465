//! Pictures by their sha256, and small copies of them.

use super::auth::Viewer;
use super::blocking::blocking;
use super::error::{ApiError, Problem};
use crate::store::Store;
use crate::store::images::{hex, sha256 as digest};
use crate::store::proof::FileState;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use image::codecs::jpeg::JpegEncoder;
use image::{ImageReader, Limits, RgbImage};
use std::io::BufReader;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Longer side of a small copy, in pixels: sharp at 160 on a screen of double density.
const THUMB_PX: u32 = 320;
const THUMB_QUALITY: u8 = 72;
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

fn make(store: &Store, sha256: &str) -> Result<Vec<u8>, ApiError> {
    let path = store.image_path(sha256).ok_or_else(gone)?;
    let file = std::fs::File::open(path).map_err(|_| gone())?;
    let mut reader =
        ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(ApiError::internal)?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(SIDE_PX_MAX), Some(SIDE_PX_MAX));
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    reader.limits(limits);
    let picture = reader.decode().map_err(ApiError::internal)?.into_rgb8();
    let jpeg = shrink(&picture).ok_or_else(|| ApiError::internal("a picture without pixels"))?;
    store.put_thumbnail(sha256, &jpeg)?;
    Ok(jpeg)
}

/// The small copy of a picture, as JPEG.
pub(crate) fn shrink(picture: &RgbImage) -> Option<Vec<u8>> {
    let (w, h) = picture.dimensions();
    let scale = f64::from(THUMB_PX) / f64::from(w.max(h).max(1));
    let side = |x: u32| ((f64::from(x) * scale.min(1.0)).round() as u32).max(1);
    let small = image::imageops::thumbnail(picture, side(w), side(h));
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, THUMB_QUALITY).encode_image(&small).ok()?;
    Some(jpeg)
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
