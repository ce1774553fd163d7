//! Root keys and what is derived from them. The only crate that holds key bytes; no I/O, no clock.
//!
//! # Layout
//!
//! A key's way in: [`shamir`] rebuilds a root key from shares → [`key_check`] proves it (or, without a
//! manifest, [`recover`] and [`search`]), which makes a [`Validated`] → [`Keyring`] is built from those alone. A value's way: [`derive`] the data key → [`cipher`] →
//! [`keyring`]. A key's way out into the world: [`stage`] makes a root key, or new shares of one, and their
//! public record. From one member of a cluster to another it goes by [`hand_over`].
//!
//! Keys are boxed, zeroize when dropped, do not print, can't be copied and can't be serialized. What working with them
//! leaves on the [`stack`] is wiped by every public operation.

pub mod cipher;
pub mod derive;
pub mod hand_over;
pub mod key_check;
pub mod keyring;
pub mod recover;
pub mod search;
pub mod shamir;
pub mod sign;
pub mod stack;
pub mod stage;

pub use cipher::{DataKeyBits, OpenError, SealError};
pub use key_check::Validated;
pub use keyring::{Keyring, RekeyError};
pub use recover::WitnessError;
pub use shamir::Rebuilt;
pub use sign::verify_signature;

/// The kernel gave no randomness: nothing secret may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's random source failed: nothing was made")]
pub struct RandomError;

/// Fills a buffer straight from the kernel.
fn random(bytes: &mut [u8]) -> Result<(), RandomError> {
    getrandom::fill(bytes).map_err(|_| RandomError)
}
