//! Tests of review.
