//! A hundred censuses, each with one old value hidden from it in one of many ways: none may conclude that there is none.

use std::{collections::BTreeMap, thread, time::Duration};

use serde_json::{Value as Json, json};

use crate::{
    database::{Client, Database},
    faults::{census, conclusive_census, of_v9},
    harness::World,
    hidden_ways::{GALERA, MARIADB, NOTHING, POSTGRES, SQLITE, Way},
    unlocked,
};

const RUNS: usize = 100;
const SEED: u64 = 0x006b_6579_6d6f_6f74;

/// How often each way was used, and how often the census did not conclude.
type Used = BTreeMap<(&'static str, &'static str), (usize, usize)>;

/// A database, and a daemon at v10 that knows v9.
struct Scene {
    kind: &'static str,
    database: Database,
    world: World,
    old: String,
    new: String,
    random: u64,
}

#[test]
fn fault_38_a_hundred_censuses_with_a_hidden_old_value_never_conclude_that_there_is_none() {
    let lanes = [
        ("PostgreSQL", Database::prepared_postgres as fn() -> Database, POSTGRES, 36),
        ("MariaDB", Database::mariadb, MARIADB, 26),
        ("Galera", Database::galera, GALERA, 18),
        ("SQLite", Database::sqlite, SQLITE, 20),
    ];
    let lanes = lanes.map(|(kind, database, ways, runs)| {
        thread::spawn(move || Scene::new(kind, database(), SEED).runs(ways, runs))
    });
    let mut used = Used::new();
    for lane in lanes {
        used.append(&mut lane.join().unwrap());
    }
    println!("seed {SEED:#x}; runs, and those of them that did not conclude:");
    used.iter().for_each(|((kind, way), (runs, refused))| println!("{runs:3} {refused:3}  {kind}: {way}"));
    let runs: usize = used.iter().filter(|((_, way), _)| *way != NOTHING.name).map(|(_, (runs, _))| runs).sum();
    assert_eq!(runs, RUNS);
}

impl Scene {
    fn new(kind: &'static str, database: Database, seed: u64) -> Self {
        let mut world = unlocked(&database);
        let old = world.encrypt(b"hidden");
        world.rotate(9);
        let new = world.encrypt(b"in sight");
        let random = kind.bytes().fold(seed, |random, byte| random.wrapping_mul(31) ^ u64::from(byte));
        Self { kind, database, world, old, new, random }
    }

    /// The ways in turn, each lot of them in another order.
    fn runs(mut self, ways: &[Way], runs: usize) -> Used {
        let mut used = Used::new();
        let mut left: Vec<Way> = Vec::new();
        for run in 0..runs {
            if left.is_empty() {
                left = ways.to_vec();
                self.run(&NOTHING, run, &mut used);
            }
            let at = usize::try_from(self.below(left.len() as u64)).unwrap();
            let way = left.swap_remove(at);
            self.run(&way, run, &mut used);
        }
        used
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % limit
    }

    fn run(&mut self, way: &Way, run: usize, used: &mut Used) {
        let (rows, delay) = (self.below(3000) + 1, Duration::from_millis(self.below(900)));
        let told = |sql: &str| {
            let sql = sql.replace("{old}", &self.old).replace("{new}", &self.new);
            sql.replace("{text}", self.database.text()).replace("{name}", &format!("run{run}"))
        };
        let mut plain = self.database.connect();
        plain.run(&told(way.table));
        plain.run(&self.database.fill(rows, &self.new));
        let mut open = self.database.connect_to(way.node);
        say(&mut open, &told(way.open));
        say(&mut plain, &told(way.plain));
        if way.paused {
            self.database.pause(way.node);
        }
        let first = census(&self.world, || {
            if !way.during.is_empty() {
                thread::sleep(delay);
                open.run(&told(way.during));
            }
        });
        if way.paused {
            self.database.go_on(way.node);
        }
        say(&mut open, &told(way.finish));
        if !way.truth.is_empty() {
            assert_ne!(open.number(way.truth), 0, "{}: {} hides nothing", self.kind, way.name);
        }
        let seen = if way.later { census(&self.world, || ()) } else { first.clone() };
        // A doubt is never wrong, as of a server that was slow: that there is none shows once it concludes.
        let doubts = way.concludes == Some(true) && seen["conclusive"] == false;
        let seen = if doubts { conclusive_census(&self.world) } else { seen };
        self.judge(way, &first, &seen, &mut plain);
        drop(open);
        say(&mut plain, way.clean);
        plain.run("DROP TABLE IF EXISTS tokens");
        let (runs, refused) = used.entry((self.kind, way.name)).or_default();
        *runs += 1;
        *refused += usize::from(first["conclusive"] == false);
    }

    fn judge(&self, way: &Way, first: &Json, seen: &Json, bare: &mut Client) {
        let context = || format!("{}: {}\n{first}\n{seen}", self.kind, way.name);
        if let Some(concludes) = way.concludes {
            assert_eq!(seen["conclusive"], concludes, "{}", context());
        }
        if seen["conclusive"] == false {
            assert!(!seen["why_not"].as_str().unwrap().is_empty(), "{}", context());
            return;
        }
        let none = of_v9(seen) == 0 && seen["unreadable"] == 0;
        assert_eq!(none, way.name == NOTHING.name, "a false zero: {}", context());
        // Nobody has written since: a plain count finds the same.
        assert_eq!(classes(seen), counted(&bare.ask(seen["sql"].as_str().unwrap())), "{}", context());
    }
}

fn say(client: &mut Client, sql: &str) {
    if !sql.is_empty() {
        client.run(sql);
    }
}

/// A census's classes. What begins as a value does is one class: the plain count does not look behind the beginning.
fn classes(source: &Json) -> BTreeMap<String, u64> {
    let of = |class: &str| source[class].as_u64().unwrap();
    let versions = source["versions"].as_array().unwrap();
    let values: u64 = versions.iter().map(|version| version["count"].as_u64().unwrap()).sum();
    let found = [("values", values + of("unreadable")), ("null", of("null")), ("empty", of("empty"))];
    let found = found.into_iter().chain([("foreign", of("foreign"))]).filter(|(_, rows)| *rows > 0);
    found.map(|(class, rows)| (class.to_owned(), rows)).collect()
}

fn counted(rows: &[(String, u64)]) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for (class, rows) in rows {
        let class = if ["null", "empty", "foreign"].contains(&class.as_str()) { class } else { "values" };
        *found.entry(class.to_owned()).or_default() += rows;
    }
    found
}

#[test]
fn a_plain_count_and_a_census_are_compared_class_by_class() {
    let census = json!({"versions": [{"version": 9, "count": 2}, {"version": 10, "count": 3}], "unreadable": 1,
        "null": 0, "empty": 4, "foreign": 5});
    let rows =
        [("km:v9:", 3), ("km:v10:", 3), ("empty", 4), ("foreign", 5)].map(|(class, n)| (class.to_owned(), n));
    assert_eq!(classes(&census), counted(&rows));
}
