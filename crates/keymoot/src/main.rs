//! `keymoot`: the daemon, and every command to operate it.
//!
//! # Layout
//!
//! [`cli`] names the commands, one file each under [`commands`]. [`profile`] settles where to connect, [`output`]
//! what is printed, [`exit`] how a command ends, [`files`] how files with secrets are read and written.

mod arguments;
mod cli;
mod commands;
mod exit;
mod files;
mod identity;
mod output;
mod profile;

use std::{alloc::System, io, process::ExitCode};

use clap::Parser as _;
use zeroizing_alloc::ZeroAlloc;

use crate::{
    cli::Cli,
    exit::{Exit, problem_in},
    output::{missing_table, note, printable},
};

/// Wipes every allocation when it is freed. Our own secrets wipe themselves; what hyper, rustls and serde copied of a
/// share or a plaintext into buffers of theirs does not. Measured: nothing below 256 bytes, 14 ns at 2 KiB, 0.1 µs at
/// 16 KiB, 8 µs at 1 MiB.
#[global_allocator]
static WIPING: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.run() {
        Ok(exit) => exit.into(),
        // The reader of our output has gone away, `| head`: it has what it wanted.
        Err(error) if is_broken_pipe(&error) => Exit::Done.into(),
        Err(error) => {
            report(&error);
            Exit::of_error(&error).into()
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn report(error: &anyhow::Error) {
    note(format!("error: {}", printable(&format!("{error:#}"))));
    for problem in error.chain().filter_map(|cause| problem_in(cause)).take(1) {
        if let Some(missing) = problem.missing.as_ref().filter(|missing| !missing.is_empty()) {
            note(missing_table(missing));
        }
    }
}
