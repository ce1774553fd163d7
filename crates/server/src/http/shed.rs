//! Shedding: what can't be done at once is refused at once, so that memory and waiting stay bounded.

use std::sync::Arc;

use keymoot_api::Problem;
use keymoot_types::ErrorCode;
use metrics::{Counter, counter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::later;
use crate::listen::Limits;

/// The budget is counted in these.
const UNIT_BYTES: usize = 1024;

/// What a body of the control listener may have without room in the budget: as much as any holder's parts. A flood of
/// long bodies so keeps no short one out.
const CONTROL_FREE_BYTES: usize = 4 * UNIT_BYTES;

/// How much a listener takes on.
#[derive(Debug)]
pub struct Shed {
    requests: Arc<Semaphore>,
    /// Units of [`UNIT_BYTES`] of bodies in memory.
    memory: Arc<Semaphore>,
    free_bytes: usize,
    refused: Counter,
}

impl std::default::Default for Shed {
    /// 1,024 requests and 48 MiB of bodies: with what is made of them about 200 MB at the very worst, and one
    /// batch of 32 MiB always has room.
    fn default() -> Self {
        Self::new(1_024, 48 * 1024 * 1024)
    }
}

impl Shed {
    /// So many requests, and so many bytes of bodies, at once.
    pub fn new(requests_max: usize, bytes_max: usize) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(requests_max)),
            memory: Arc::new(Semaphore::new(bytes_max / UNIT_BYTES)),
            free_bytes: 0,
            refused: counter!("keymoot_requests_shed_total"),
        }
    }

    /// Of the control listener: 64 MiB of long bodies, and as many short ones as its connections can have open.
    pub fn control() -> Self {
        let requests_max = Limits::CONTROL.connections_max * Limits::CONTROL.streams_max as usize;
        Self { free_bytes: CONTROL_FREE_BYTES, ..Self::new(requests_max, 64 * 1024 * 1024) }
    }

    /// Takes a request on, or refuses it as `overloaded`.
    pub fn admit(&self) -> Result<Admitted, Problem> {
        let request = self.requests.clone().try_acquire_owned().map_err(|_| self.overloaded())?;
        Ok(Admitted {
            _request: request,
            memory: None,
            budget: self.memory.clone(),
            free_bytes: self.free_bytes,
            refused: self.refused.clone(),
        })
    }

    fn overloaded(&self) -> Problem {
        overloaded(&self.refused)
    }
}

fn overloaded(refused: &Counter) -> Problem {
    refused.increment(1);
    later(ErrorCode::Overloaded, "more requests are open than can be answered soon")
}

/// A request that was taken on; its share of the budget comes back when it is dropped.
#[derive(Debug)]
pub struct Admitted {
    _request: OwnedSemaphorePermit,
    memory: Option<OwnedSemaphorePermit>,
    budget: Arc<Semaphore>,
    free_bytes: usize,
    refused: Counter,
}

impl Admitted {
    /// Its body has come to so many bytes.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), Problem> {
        let held = self.memory.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let counted = bytes.saturating_sub(self.free_bytes);
        let Some(lacking) = counted.div_ceil(UNIT_BYTES).checked_sub(held).filter(|lacking| *lacking > 0) else {
            return Ok(());
        };
        let lacking = u32::try_from(lacking).map_err(|_| overloaded(&self.refused))?;
        let more = self.budget.clone().try_acquire_many_owned(lacking).map_err(|_| overloaded(&self.refused))?;
        match &mut self.memory {
            Some(memory) => memory.merge(more),
            None => self.memory = Some(more),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_the_limit_is_refused_at_once_with_a_time_to_come_back() {
        let shed = Shed::new(2, 4 * UNIT_BYTES);
        let mut first = shed.admit().unwrap();
        let mut second = shed.admit().unwrap();
        let problem = shed.admit().unwrap_err();
        assert_eq!(problem.code, ErrorCode::Overloaded);
        assert!((1_000..3_000).contains(&problem.retry_after_ms.unwrap()));

        first.grow_to(3 * UNIT_BYTES).unwrap();
        second.grow_to(UNIT_BYTES).unwrap();
        assert_eq!(second.grow_to(UNIT_BYTES + 1).unwrap_err().code, ErrorCode::Overloaded);
        drop(first);
        second.grow_to(4 * UNIT_BYTES).unwrap();
        assert!(shed.admit().is_ok());
    }

    #[test]
    fn long_bodies_on_the_control_listener_keep_no_short_one_out() {
        let shed = Shed::control();
        let mut long = shed.admit().unwrap();
        long.grow_to(64 * 1024 * 1024 + CONTROL_FREE_BYTES).unwrap();
        let mut short = shed.admit().unwrap();
        short.grow_to(CONTROL_FREE_BYTES).unwrap();
        assert_eq!(short.grow_to(CONTROL_FREE_BYTES + 1).unwrap_err().code, ErrorCode::Overloaded);
    }
}
