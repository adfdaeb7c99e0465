//! Work that waits for the disk or computes long, away from the threads that answer.

use super::error::ApiError;
use std::sync::Arc;

/// Runs the work on a thread where waiting is allowed, with the state that it needs.
///
/// # Errors
/// Those of the work; `internal` when it panicked or was cut off.
pub(super) async fn blocking<S: Send + Sync + 'static, T: Send + 'static>(
    state: &Arc<S>,
    work: impl FnOnce(&S) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let state = Arc::clone(state);
    tokio::task::spawn_blocking(move || work(&state)).await.map_err(ApiError::internal)?
}
