//! Who makes way when a listener is full: the oldest connection of the address that has most. A flood ends its own
//! connections so, and a newcomer always gets in, from the flooding address too.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{Limits, network};

/// The connections of one listener.
pub(super) struct Room {
    slots: Arc<Semaphore>,
    makes_room: bool,
    open: Mutex<HashMap<IpAddr, VecDeque<Arc<CancellationToken>>>>,
}

impl Room {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            slots: Arc::new(Semaphore::new(limits.connections_max)),
            makes_room: limits.makes_room,
            open: Mutex::default(),
        })
    }

    /// A place for a connection from this address; waits until another one is gone, if it has to.
    pub(super) async fn enter(self: &Arc<Self>, address: IpAddr) -> Place {
        if self.makes_room && self.slots.available_permits() == 0 {
            self.end_one();
        }
        // The semaphore is never closed.
        let slot = self.slots.clone().acquire_owned().await.ok();
        let (address, ended) = (network(address), Arc::new(CancellationToken::new()));
        if self.makes_room {
            self.open().entry(address).or_default().push_back(ended.clone());
        }
        Place { room: self.clone(), address, ended, _slot: slot }
    }

    fn end_one(&self) {
        let mut open = self.open();
        let most = open.values_mut().max_by_key(|connections| connections.len());
        if let Some(oldest) = most.and_then(VecDeque::pop_front) {
            oldest.cancel();
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, VecDeque<Arc<CancellationToken>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place, until it is dropped.
pub(super) struct Place {
    room: Arc<Room>,
    address: IpAddr,
    ended: Arc<CancellationToken>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// Waits until this connection has to make way.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.room.open();
        if let Some(connections) = open.get_mut(&self.address) {
            connections.retain(|other| !Arc::ptr_eq(other, &self.ended));
            if connections.is_empty() {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn has_to_go(place: &Place) -> bool {
        place.ended().now_or_never().is_some()
    }

    #[tokio::test]
    async fn the_oldest_connection_of_the_address_that_has_most_makes_way() {
        let room = Room::new(&Limits { connections_max: 4, ..Limits::CONTROL });
        let honest = room.enter(address(1)).await;
        let mut flood = VecDeque::new();
        for _ in 0..3 {
            flood.push_back(room.enter(address(2)).await);
        }
        for newcomer in [2, 3] {
            assert!(!has_to_go(&flood[0]));
            assert!(room.enter(address(newcomer)).now_or_never().is_none(), "one has to be gone first");
            assert!(has_to_go(&flood[0]) && !has_to_go(&flood[1]) && !has_to_go(&honest));
            drop(flood.pop_front());
            flood.push_back(room.enter(address(newcomer)).now_or_never().unwrap());
        }
        drop((honest, flood));
        assert!(room.open().is_empty() && room.slots.available_permits() == 4);
    }

    #[tokio::test]
    async fn a_listener_that_makes_no_room_waits() {
        let room = Room::new(&Limits { connections_max: 1, ..Limits::DATA });
        let only = room.enter(address(1)).await;
        assert!(room.enter(address(2)).now_or_never().is_none());
        assert!(!has_to_go(&only));
        drop(only);
        assert!(room.enter(address(2)).now_or_never().is_some());
    }
}
