//! The daemon's memory: out of core dumps, closed to debuggers, out of swap.
//!
//! Keys wipe themselves, and the binary's allocator wipes whatever else is freed. What is alive must not get onto a
//! disk either: no core dump is written (`RLIMIT_CORE` 0, which a pipe in `core_pattern` ignores, and
//! `PR_SET_DUMPABLE` 0, which it doesn't), and all pages are locked.
//!
//! Pages are locked only where the kernel will lock *any* number of them: without a limit, or with `CAP_IPC_LOCK`.
//! Under a limit, `MCL_FUTURE` makes it a limit of the address space, as mappings count by their size and not by
//! what is used of them: the stack of one more thread, or a long request, would not be allocated and end the
//! daemon hours later. A warning, or a refusal to start, is better than that. `MCL_ONFAULT` locks a page when it is
//! first used, so that reserved and unused memory costs nothing.
//!
//! The house allows this module to be unsafe; `rustix` makes it needless.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use rustix::{
    io::{self, Errno},
    mm::{MlockAllFlags, mlockall},
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
};

const NO_CORE: Rlimit = Rlimit { current: Some(0), maximum: Some(0) };

/// Why the daemon does not start with its memory as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Core dumps could not be forbidden.
    #[error("core dumps could not be forbidden: {0}")]
    Dumpable(Errno),
    /// `memory.require_lock` is set.
    #[error("{0}; `memory.require_lock` does not let the daemon start so")]
    NotLocked(NotLocked),
}

/// Pages that may reach a swap device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotLocked {
    /// `RLIMIT_MEMLOCK`, in bytes.
    #[error(
        "memory is not locked and keys may reach the swap: RLIMIT_MEMLOCK is {0} bytes and must be unlimited; \
         write LimitMEMLOCK=infinity into the [Service] section of the systemd unit (or `ulimit -l unlimited`, or \
         grant CAP_IPC_LOCK), or run without swap"
    )]
    Limit(u64),
    /// The kernel has another reason.
    #[error("memory is not locked and keys may reach the swap: {0}; run without swap")]
    Kernel(Errno),
}

/// Forbids dumps and debuggers, and locks all pages, now and later. To be called before there are keys and threads.
pub(crate) fn protect(require_lock: bool) -> Result<(), MemoryError> {
    forbid_dumps()?;
    match lock() {
        Ok(()) => tracing::info!("memory is locked, core dumps are off"),
        Err(reason) if require_lock => return Err(MemoryError::NotLocked(reason)),
        Err(reason) => tracing::warn!("{reason}"),
    }
    Ok(())
}

/// Forbids core dumps and debuggers alone: for a command that holds keys for seconds.
///
/// # Errors
/// The kernel refuses.
pub fn forbid_dumps() -> Result<(), MemoryError> {
    setrlimit(Resource::Core, NO_CORE)
        .and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable))
        .map_err(MemoryError::Dumpable)
}

fn lock() -> Result<(), NotLocked> {
    let limit = getrlimit(Resource::Memlock);
    let locked = match limit.maximum {
        None => set_soft_limit(limit, None).and_then(|()| lock_all()),
        // A limit of 0 lets nobody lock but whom no limit binds. So the kernel itself says whether CAP_IPC_LOCK is
        // there and counts: within a user namespace a capability may be there and count for nothing.
        Some(_) => {
            let locked = set_soft_limit(limit, Some(0)).and_then(|()| lock_all());
            set_soft_limit(limit, limit.current).and(locked)
        }
    };
    locked.map_err(|error| match limit.maximum {
        Some(bytes) if [Errno::PERM, Errno::NOMEM].contains(&error) => NotLocked::Limit(bytes),
        _ => NotLocked::Kernel(error),
    })
}

/// How deep a request's handler goes down the stack.
const REQUEST_STACK_BYTES: usize = 128 * 1024;

/// Answers a request with shares in it, and wipes whatever it left on the stack of each thread that worked on it: the
/// parsers of JSON and of shares know nothing of secrets.
pub(crate) struct WipingStack<F>(Pin<Box<F>>);

impl<F: Future> WipingStack<F> {
    pub(crate) fn new(answering: F) -> Self {
        Self(Box::pin(answering))
    }
}

impl<F: Future> Future for WipingStack<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let polled = self.0.as_mut().poll(context);
        keymoot_keyring::stack::wipe::<REQUEST_STACK_BYTES>();
        polled
    }
}

fn set_soft_limit(limit: Rlimit, current: Option<u64>) -> io::Result<()> {
    setrlimit(Resource::Memlock, Rlimit { current, maximum: limit.maximum })
}

fn lock_all() -> io::Result<()> {
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
}
