//! Wiping the stack that key operations have used.
//!
//! Keys lie in boxes and wipe themselves, but the code that works with them spills copies: round keys, hash blocks,
//! a cipher on its way into a map. They stay on the thread's stack until something else happens to be written there,
//! which on an idle worker is never. A dump of a sealed daemon showed data keys in this way.

use std::hint::black_box;

/// Enough for one value: the cipher's key schedules and its tables for GHASH.
pub(crate) const VALUE: usize = 8 * 1024;
/// Enough for one value that is opened, sealed and opened again.
pub(crate) const REKEY: usize = 2 * VALUE;
/// Enough for everything else.
pub(crate) const CEREMONY: usize = 64 * 1024;

/// Runs `work` further down the stack and wipes that part afterwards, `BYTES` deep. What it returns must hold its
/// secrets boxed.
pub(crate) fn wiped<const BYTES: usize, T>(work: impl FnOnce() -> T) -> T {
    let result = below(work);
    wipe::<BYTES>();
    result
}

/// A frame of its own, which begins where that of [`wipe`] will.
#[inline(never)]
fn below<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Overwrites as much of the stack below its caller's frame.
#[inline(never)]
pub fn wipe<const BYTES: usize>() {
    black_box(&mut [0_u8; BYTES]);
}
