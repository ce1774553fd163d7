//! Chunks of one source that are in flight at once, and the order in which they count.
//!
//! A cursor may only stand where every chunk before it is settled. That is held by taking them out in the order in
//! which they were read: one that is settled early waits for those before it.

use std::{collections::VecDeque, future::pending};

use tokio_util::task::AbortOnDropHandle;

use crate::chunk::Halt;

/// Work in flight, in order. Dropping it stops all of it.
pub(crate) struct Flight<T>(VecDeque<AbortOnDropHandle<Result<T, Halt>>>);

impl<T: Send + 'static> Flight<T> {
    pub(crate) fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Begins work behind all that was begun before. It goes on by itself, whoever looks.
    pub(crate) fn begin(&mut self, work: impl Future<Output = Result<T, Halt>> + Send + 'static) {
        self.0.push_back(AbortOnDropHandle::new(tokio::spawn(work)));
    }

    /// The first one's outcome, once it has come; without one it never comes. Nothing is lost where this is dropped.
    pub(crate) async fn first(&mut self) -> Result<T, Halt> {
        let Some(first) = self.0.front_mut() else { return pending().await };
        let ended = first.await;
        self.0.pop_front();
        ended.unwrap_or_else(|error| Err(Halt::Fail(format!("a defect: {error}"))))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{sync::oneshot, time::timeout};

    use super::*;

    /// A permutation of `0..n`, another one for each number below `n!`.
    fn permutation(n: usize, mut number: usize) -> Vec<usize> {
        let mut left: Vec<usize> = (0..n).collect();
        (1..=n)
            .rev()
            .map(|choices| {
                let at = number % choices;
                number /= choices;
                left.remove(at)
            })
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn in_every_order_of_completion_what_was_taken_out_is_the_settled_prefix() {
        const CHUNKS: usize = 6;
        for number in 0..720 {
            let mut flight = Flight::new();
            let mut settle = Vec::new();
            for chunk in 0..CHUNKS {
                let (send, receive) = oneshot::channel::<()>();
                settle.push(Some(send));
                flight.begin(async move {
                    receive.await.unwrap();
                    Ok(chunk)
                });
            }
            let (mut settled, mut taken) = ([false; CHUNKS], 0);
            for chunk in permutation(CHUNKS, number) {
                settle[chunk].take().unwrap().send(()).unwrap();
                settled[chunk] = true;
                let prefix = settled.iter().take_while(|settled| **settled).count();
                while taken < prefix {
                    assert_eq!(timeout(Duration::from_secs(1), flight.first()).await, Ok(Ok(taken)));
                    taken += 1;
                }
                tokio::task::yield_now().await;
                let early =
                    tokio::select! { biased; chunk = flight.first() => Some(chunk), () = async {} => None };
                assert_eq!(early, None, "behind {settled:?}");
            }
            assert_eq!((taken, flight.len()), (CHUNKS, 0));
        }
    }

    #[tokio::test]
    async fn what_is_in_flight_stops_when_the_flight_is_dropped() {
        let mut flight = Flight::new();
        let (send, receive) = oneshot::channel::<()>();
        flight.begin(async move {
            let _held = send;
            pending::<Result<(), Halt>>().await
        });
        drop(flight);
        assert!(receive.await.is_err());
    }

    #[tokio::test]
    async fn a_panic_in_flight_is_an_end_and_no_silence() {
        let mut flight = Flight::<()>::new();
        flight.begin(async { panic!("on purpose") });
        assert!(matches!(flight.first().await, Err(Halt::Fail(_))));
    }
}
