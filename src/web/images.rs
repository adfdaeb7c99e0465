//! Pictures by their sha256, and small copies of them.

use super::App;
use super::accounts::blocking;
use super::auth::Viewer;
use super::error::{ApiError, Problem};
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

/// Longer side of a small copy, in pixels: sharp at 160 on a screen of double density.
const THUMB_PX: u32 = 320;
const THUMB_QUALITY: u8 = 72;
/// Limits of what is decoded; a camera's frame is far below.
const SIDE_PX_MAX: u32 = 16_384;
const DECODE_BYTES_MAX: u64 = 512 << 20;
/// A picture never changes under its name.
const FOR_EVER: &str = "private, max-age=31536000, immutable";

/// A picture.
#[utoipa::path(get, path = "/api/v1/images/{sha256}", tag = "pictures", params(("sha256" = String, Path)), responses(
    (status = 200, description = "JPEG or PNG", content_type = "image/jpeg", body = Vec<u8>),
    (status = 304, description = "unchanged"), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub async fn full(
    State(app): State<Arc<App>>,
    _: Viewer,
    Path(sha256): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if is_known(&headers) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let (bytes, kind) = blocking(&app, move |app| {
        let path = app.store.image_path(&sha256).ok_or_else(gone)?;
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
pub async fn by_message(
    state: State<Arc<App>>,
    viewer: Viewer,
    path: Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    full(state, viewer, path, headers).await
}

/// A small copy of a picture; made now when it was not made yet.
#[utoipa::path(get, path = "/api/v1/thumbs/{sha256}", tag = "pictures", params(("sha256" = String, Path)), responses(
    (status = 200, description = "JPEG", content_type = "image/jpeg", body = Vec<u8>),
    (status = 304, description = "unchanged"), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub async fn thumb(
    State(app): State<Arc<App>>,
    _: Viewer,
    Path(sha256): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if is_known(&headers) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let kept = |app: &App, sha256: &str| app.store.thumbnail_path(sha256).and_then(|p| std::fs::read(p).ok());
    let wanted = sha256.clone();
    let look = move |app: &App| {
        // A small copy stands for its picture, and only as long as that is what it was.
        match app.store.picture_file(&wanted) {
            FileState::Whole(_) => Ok(kept(app, &wanted)),
            FileState::Missing => Err(gone()),
            FileState::Wrong { .. } => Err(wrong(&wanted)),
        }
    };
    if let Some(bytes) = blocking(&app, look).await? {
        return Ok(picture(bytes, "image/jpeg"));
    }
    let _turn = app.drawing.acquire().await.map_err(ApiError::internal)?;
    let bytes = blocking(&app, move |app| match kept(app, &sha256) {
        Some(bytes) => Ok(bytes),
        None => make(app, &sha256),
    })
    .await?;
    Ok(picture(bytes, "image/jpeg"))
}

fn make(app: &App, sha256: &str) -> Result<Vec<u8>, ApiError> {
    let path = app.store.image_path(sha256).ok_or_else(gone)?;
    let file = std::fs::File::open(path).map_err(|_| gone())?;
    let mut reader =
        ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(ApiError::internal)?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(SIDE_PX_MAX), Some(SIDE_PX_MAX));
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    reader.limits(limits);
    let picture = reader.decode().map_err(ApiError::internal)?.into_rgb8();
    let jpeg = shrink(&picture).ok_or_else(|| ApiError::internal("a picture without pixels"))?;
    app.store.put_thumbnail(sha256, &jpeg)?;
    Ok(jpeg)
}

/// The small copy of a picture, as JPEG.
pub fn shrink(picture: &RgbImage) -> Option<Vec<u8>> {
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
