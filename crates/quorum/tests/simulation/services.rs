//! What services do all the while: they encrypt at some node, keep values here and there, and decrypt at others.

use std::collections::BTreeMap;

use keymoot_types::{KeyVersion, Value, Verdict};

use crate::world::{MAX_AGE, MAX_WRITE_DELAY, NODES, World, key_name};

const VALUES_MAX: usize = 12;

/// A value that somebody may ask for.
pub(crate) struct Good {
    pub(crate) value: Value,
    place: Place,
}

enum Place {
    /// In a declared source.
    Row,
    /// On its way there.
    Writer { stored_at: u64 },
    /// In nobody's source, and not for long.
    Outside { until: u64 },
}

#[derive(Default)]
pub(crate) struct Values {
    good: Vec<Good>,
    pub(crate) verdicts: BTreeMap<&'static str, u64>,
}

impl Values {
    /// What a census finds in the source.
    pub(crate) fn counted(&self) -> Vec<(KeyVersion, u64)> {
        let mut counted = BTreeMap::new();
        for good in self.good.iter().filter(|good| matches!(good.place, Place::Row)) {
            *counted.entry(good.value.version()).or_default() += 1;
        }
        counted.into_iter().collect()
    }

    /// Whether anybody needs this version yet.
    pub(crate) fn need(&self, version: KeyVersion) -> bool {
        self.good.iter().any(|good| good.value.version() == version)
    }

    fn age(&mut self, now: u64) {
        self.good.retain(|good| !matches!(good.place, Place::Outside { until } if until <= now));
        for good in &mut self.good {
            if matches!(good.place, Place::Writer { stored_at } if stored_at <= now) {
                good.place = Place::Row;
            }
        }
        while self.good.len() > VALUES_MAX {
            self.good.remove(0);
        }
    }
}

impl World {
    pub(crate) fn serve(&mut self) {
        self.values.age(self.now);
        let calls = self.store.calls;
        let at = self.dice.below(NODES);
        if self.dice.one_in(3) {
            self.encrypt(at);
        }
        if let Some(index) = self.values.good.len().checked_sub(1).map(|last| self.dice.below(last + 1)) {
            self.decrypt(at, index);
        }
        if self.store.calls != calls {
            self.broke("a service's call reached the store");
        }
    }

    fn encrypt(&mut self, at: usize) {
        let serving = self.slots[at].serving.clone();
        let Some(keyring) = &serving.keyring else { return };
        let Ok(value) = keyring.encrypt(&key_name(), b"a plaintext", b"") else { return };
        self.check_opens(at, &value);
        let place = if self.dice.one_in(2) {
            Place::Outside { until: self.now + self.dice.between(1, MAX_AGE.as_millis() as u64) }
        } else {
            Place::Writer { stored_at: self.now + self.dice.between(0, MAX_WRITE_DELAY.as_millis() as u64) }
        };
        self.values.good.push(Good { value, place });
    }

    fn decrypt(&mut self, at: usize, index: usize) {
        let value = self.values.good[index].value.clone();
        let verdict = self.slots[at].serving.verdict(&value);
        *self.values.verdicts.entry(verdict.as_str()).or_default() += 1;
        match verdict {
            Verdict::Valid => drop(self.slots[at].used.insert(value.version(), self.now)),
            Verdict::Undetermined => {}
            _ => {
                let name = self.slots[at].name.clone();
                self.broke(format_args!("{name} calls a good value of v{} {verdict}", value.version()));
            }
        }
    }

    /// A chunk of a rekey: rows of old versions, each only if it is still what was read.
    pub(crate) fn rekey(&mut self, at: usize) {
        self.values.age(self.now);
        let serving = self.slots[at].serving.clone();
        let Some(keyring) = &serving.keyring else { return };
        for index in 0..self.values.good.len() {
            let Good { value, place } = &self.values.good[index];
            if !matches!(place, Place::Row) || Some(value.version()) == keyring.primary() {
                continue;
            }
            let Ok(anew) = keyring.rekey(&key_name(), value, b"") else { continue };
            self.check_opens(at, &anew);
            self.values.good[index].value = anew;
        }
    }
}
