//! The program whose table it is: it writes all the while and knows what was acknowledged.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::{Value as Json, json};

use crate::{
    database::Client,
    harness::{Background, World},
};

/// Values that it has ready, as a program has that encrypted before the daemon went away.
const POOL: usize = 3_000;

/// What the application has acknowledged: the plaintext of every row that it knows.
pub type Known = BTreeMap<i64, String>;

pub struct Application {
    /// Whether values of the old version are still written by a writer that lags behind.
    lagging: Arc<AtomicBool>,
    pub writes: Arc<AtomicU32>,
    background: Background<Known>,
}

impl Application {
    pub fn start(
        mut client: Client,
        mut known: Known,
        old: Vec<(String, String)>,
        new: Vec<(String, String)>,
    ) -> Self {
        let lagging = Arc::new(AtomicBool::new(true));
        let writes = Arc::new(AtomicU32::new(0));
        let (lagging_in, writes_in) = (lagging.clone(), writes.clone());
        let background = Background::start(move |stop| {
            let (mut old, mut new) = (old.into_iter().cycle(), new.into_iter().cycle());
            let mut next_id = 1_000_000;
            let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
            while !stop.load(Ordering::Relaxed) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let dice = random >> 33;
                let lags = dice.is_multiple_of(8) && lagging_in.load(Ordering::Relaxed);
                let (plaintext, value) = if lags { old.next() } else { new.next() }.unwrap();
                let ids: Vec<i64> = known.keys().copied().collect();
                let id = ids[usize::try_from(dice).unwrap() / 16 % ids.len()];
                match dice % 16 {
                    1 => {
                        if client.write(&format!("INSERT INTO tokens (id, token) VALUES ({next_id}, '{value}')")) {
                            known.insert(next_id, plaintext);
                        }
                        next_id += 1;
                    }
                    2 => {
                        if client.write(&format!("DELETE FROM tokens WHERE id = {id}")) {
                            known.remove(&id);
                        }
                    }
                    // A row that moves between the worker's reading and its writing.
                    3 => {
                        if client.write(&format!("UPDATE tokens SET id = {next_id} WHERE id = {id}")) {
                            let moved = known.remove(&id).unwrap();
                            known.insert(next_id, moved);
                        }
                        next_id += 1;
                    }
                    _ => {
                        if client.write(&format!("UPDATE tokens SET token = '{value}' WHERE id = {id}")) {
                            known.insert(id, plaintext);
                        }
                    }
                }
                writes_in.fetch_add(1, Ordering::Relaxed);
                // A steady writer, not one that owns the database.
                std::thread::sleep(Duration::from_millis(2));
            }
            known
        });
        Self { lagging, writes, background }
    }

    /// From now on the lagging writer writes new values too, and no old one is under way.
    pub fn catch_up(&self, world: &World) {
        self.lagging.store(false, Ordering::Relaxed);
        self.until_it_writes(world);
    }

    /// Waits for the end of a write.
    pub fn until_it_writes(&self, world: &World) {
        let before = self.writes.load(Ordering::Relaxed);
        world.until("the application writes", || (self.writes.load(Ordering::Relaxed) > before).then_some(()));
    }

    pub fn end(self) -> Known {
        self.background.end()
    }
}

/// Plaintexts with their values under the present primary.
pub fn pool(world: &World, name: &str) -> Vec<(String, String)> {
    let plaintexts: Vec<String> = (0..POOL).map(|n| format!("{name} {n}")).collect();
    let values = world.encrypt_all(&plaintexts);
    plaintexts.into_iter().zip(values).collect()
}

/// What the oracle is to find in the rows.
pub fn facts(known: &Known) -> Vec<Json> {
    known.iter().map(|(id, text)| json!([id, {"plaintext": text}])).collect()
}

#[test]
fn what_writes_beside_a_test_ends_with_it_also_where_it_fails() {
    let writes = Arc::new(AtomicU32::new(0));
    let written = writes.clone();
    let failed = std::panic::catch_unwind(move || {
        let _background = Background::start(move |stop| {
            while !stop.load(Ordering::Relaxed) {
                written.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        panic!("a test fails");
    });
    assert!(failed.is_err());
    assert_eq!(Arc::strong_count(&writes), 1, "the thread is gone, and what it held");
}
