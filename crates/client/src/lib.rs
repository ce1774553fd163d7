//! What services and the command line link to talk to Keymoot.
//!
//! ```no_run
//! # async fn example(name: &keymoot_types::KeyName, token: String) -> Result<(), Box<dyn std::error::Error>> {
//! use keymoot_client::{Client, Options, Verdict};
//!
//! let client = Client::new(&Options::new("https://keymoot:8200"))?;
//! match client.decrypt(name, token, None).await {
//!     Verdict::Valid(answer) => println!("{} bytes", answer.plaintext.len()),
//!     Verdict::Invalid(problem) => println!("log out: {problem}"),
//!     // Trouble with Keymoot, not with the token: keep the session, try again later.
//!     Verdict::Undetermined(trouble) => println!("try again: {trouble}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! [`options`] (where, with which token and roots) → [`transport`] (one request over TLS) → [`verdict`] (what an
//! answer says about a value) → [`data`] (the data API, with retries) and [`control`] (the control API, without).

pub mod control;
pub mod data;
pub mod options;
pub mod transport;
pub mod verdict;

pub use control::{Control, ControlError};
pub use data::Client;
pub use options::{Options, OptionsError};
pub use transport::TransportError;
pub use verdict::{Trouble, Verdict};
