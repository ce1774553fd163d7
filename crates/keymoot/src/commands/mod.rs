//! One file a command.

pub mod census;
pub mod certificate;
pub mod completions;
pub mod config;
pub mod decrypt;
pub mod encrypt;
pub mod holder;
pub mod init;
pub mod inspect;
pub mod man;
pub mod rekey;
pub mod retire;
pub mod rotate;
pub mod seal;
pub mod server;
pub mod status;
pub mod token;
pub mod unlock;
pub mod versions;

mod packages;
mod parts;
mod rekey_watch;
mod steps;
mod value;
