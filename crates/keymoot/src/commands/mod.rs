//! One file a command.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod census;
pub(crate) mod certificate;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod decrypt;
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod encrypt;
pub(crate) mod holder;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod man;
pub(crate) mod manifest;
pub(crate) mod recover;
pub(crate) mod rekey;
pub(crate) mod restore_backup;
pub(crate) mod retire;
pub(crate) mod rotate;
pub(crate) mod seal;
pub(crate) mod server;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod unlock;
pub(crate) mod versions;

mod changes;
mod fan_out;
mod packages;
mod parts;
mod rekey_watch;
mod steps;
mod value;
