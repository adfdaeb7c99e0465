//! How the daemon's heap gives memory back.
//!
//! Pictures of many megabytes live beside small records, on several threads. glibc's allocator moves its limit
//! for what is mapped apart up to the largest block ever freed, and keeps a heap for every thread: the records
//! then pin the holes that pictures leave, and over 5,000 frames of 250 KB the daemon grew by 35 MiB.

/// A block of this size or larger is mapped apart, and goes back to the system when it is freed. Setting it
/// stops glibc from moving it.
#[cfg(target_env = "gnu")]
const MAPPED_MIN_BYTES: i32 = 128 * 1024;

/// Bounds what the process keeps of freed memory. The engine's process does without: it frees and takes the
/// same large blocks all the time.
pub fn bound() {
    // SAFETY: sets numbers of the allocator, which takes its own lock.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_MIN_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, MAPPED_MIN_BYTES);
    }
}
