//! Ceremonies among wrong parts, other ceremonies, kills and clocks that jump: the right shares do their work.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};

use crate::{
    harness::{AUDITOR, KEY, OPERATOR, SERVICE, World},
    oracle,
    secrets::{files, hits},
};

const EXPIRED: &str = "km_eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee";
const UNLOCK: &str = "/v1/unlock/parts";

fn sealed() -> World {
    let mut world = World::new("");
    world.start();
    world.init(5, 9);
    world
}

/// Gives parts with these names in this order.
fn give(world: &World, parts: &[(&str, &str)]) -> crate::harness::Answer {
    let parts: Vec<_> = parts.iter().map(|(name, share)| format!("{}:{}", json!(name), json!(share))).collect();
    let body = format!("{{\"parts\":{{{}}}}}", parts.join(","));
    world.raw(format!("{}{UNLOCK}", world.control_url()), "POST", None, body.into_bytes())
}

fn codes(answer: &Json) -> Vec<String> {
    let rejected = answer["rejected"].as_array().unwrap();
    rejected.iter().map(|part| part["code"].as_str().unwrap().to_owned()).collect()
}

fn have(answer: &Json, version: u32) -> u64 {
    let versions = answer["versions"].as_array().unwrap();
    versions.iter().find(|entry| entry["version"] == version).unwrap()["have"].as_u64().unwrap()
}

fn seal(world: &World) {
    assert_eq!(world.control("POST", "/v1/seal", Some(OPERATOR), Json::Null).status, 204);
}

/// Wrong parts of every kind, with a right shape or none: code, name, share.
fn wrong(world: &World) -> Vec<(&'static str, &'static str, String)> {
    let id = world.get("/v1/status")["keyring_id"].clone();
    let y = "07".repeat(32);
    let share = |id: &Json, version: u32, x: u8| json!({"keyring_id": id, "version": version, "x": x, "y": y});
    let mut crafted = oracle::crafted(&json!([
        share(&id, 9, 0),
        share(&json!("0011223344556677"), 9, 1),
        share(&id, 77, 1),
        share(&id, 9, 255),
        share(&id, 9, 1),
        share(&id, 9, 2),
    ]))
    .into_iter();
    let mut next = || crafted.next().unwrap();
    let (v9, other) = ("prod-keyPart-v9", world.share(9, 4));
    let end = if other.ends_with('q') { "p" } else { "q" };
    vec![
        ("malformed_share", v9, other[..60].into()),
        ("malformed_share", v9, next()),
        ("checksum_failed", v9, format!("{}{end}", &other[..87])),
        ("wrong_keyring", v9, next()),
        ("name_mismatch", "prod-keyPart-v10", other),
        ("unknown_version", "prod-keyPart-v77", next()),
        ("unknown_holder", v9, next()),
        // Of the same x as a right one that comes before or after it.
        ("share_mismatch", v9, next()),
        ("share_mismatch", v9, next()),
    ]
}

#[test]
fn fault_08_a_wrong_part_in_any_position_spoils_no_ceremony() {
    let world = sealed();
    let right = [world.share(9, 1), world.share(9, 2)];
    let mut value = None;
    for (code, name, share) in wrong(&world) {
        for position in 0..=right.len() {
            seal(&world);
            for (at, one) in right.iter().enumerate() {
                if at == position {
                    let refused = give(&world, &[(name, &share)]).expect(422);
                    assert_eq!((codes(&refused), have(&refused, 9)), (vec![code.into()], at as u64), "{refused}");
                }
                let taken = give(&world, &[("prod-keyPart-v9", one)]).expect(200);
                assert_eq!(have(&taken, 9), at as u64 + 1, "{code} at {position}");
            }
            if position == right.len() {
                assert_eq!(codes(&give(&world, &[(name, &share)]).expect(422)), [code]);
            }
            assert_eq!(world.state(), "unlocked", "{code} at {position}");
            let value = value.get_or_insert_with(|| world.encrypt(b"kept"));
            assert_eq!(world.open(value), b"kept");
        }
    }
}

#[test]
fn fault_04_repeated_and_superfluous_shares_are_refused_by_name_and_the_given_ones_stay() {
    let world = sealed();
    let (first, second, third) = (world.share(9, 1), world.share(9, 2), world.share(9, 3));
    let v9 = "prod-keyPart-v9";
    assert_eq!(have(&give(&world, &[(v9, &first)]).expect(200), 9), 1);
    for _ in 0..3 {
        let again = give(&world, &[(v9, &first)]).expect(422);
        assert_eq!((codes(&again), have(&again, 9)), (vec!["duplicate_share".into()], 1));
        assert_eq!(again["rejected"][0]["holder"], "h1");
    }
    // One name twice could be meant in two ways: nothing of such a call is taken.
    assert_eq!(give(&world, &[(v9, &first), (v9, &second)]).code(), "bad_request");
    // 300 parts are more than any holder has.
    let names: Vec<_> = (0..300).map(|n| format!("prod-keyPart-v{}", 100 + n)).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), second.as_str())).collect();
    assert_eq!(give(&world, &many).code(), "bad_request");
    // The right one among more wrong ones than are ever needed, at the head, in the middle and at the end.
    for position in [0, 10, 20] {
        let mut parts: Vec<_> = many[..20].to_vec();
        let share = if position == 0 { &second } else { &third };
        parts.insert(position, (v9, share));
        let answer = give(&world, &parts).expect(422);
        if position == 0 {
            assert_eq!((answer["accepted"][0]["holder"].as_str(), codes(&answer).len()), (Some("h2"), 20));
        } else {
            let already = answer["rejected"].as_array().unwrap().iter().find(|part| part["name"] == v9).unwrap();
            assert_eq!((&already["code"], &already["holder"]), (&json!("already_loaded"), &json!("h3")));
        }
        assert_eq!(answer["state"], "unlocked");
    }
}

#[test]
fn fault_03_shares_of_two_versions_make_no_key_in_whatever_order_they_are_named() {
    let mut world = sealed();
    world.unlock_by(9, &[1, 2]);
    world.rotate(9);
    let (v9, v10) = ("prod-keyPart-v9", "prod-keyPart-v10");
    let (of_9, of_10) = (world.share(9, 1), world.share(10, 2));
    let foreign = &oracle::crafted(
        &json!([{"keyring_id": "0011223344556677", "version": 10, "x": 2, "y": "07".repeat(32)}]),
    )[0];
    for parts in [[(v9, &of_10), (v10, &of_9)], [(v10, &of_9), (v9, &of_10)]] {
        seal(&world);
        let parts = parts.map(|(name, share)| (name, share.as_str()));
        let crossed = give(&world, &parts).expect(422);
        assert_eq!((codes(&crossed), &crossed["state"]), (vec!["name_mismatch".to_owned(); 2], &json!("sealed")));
    }
    for foreign_first in [true, false] {
        seal(&world);
        let mut parts = [(v9, of_9.as_str()), (v10, foreign)];
        if foreign_first {
            parts.reverse();
        }
        let answer = give(&world, &parts).expect(422);
        assert_eq!((codes(&answer), have(&answer, 9), have(&answer, 10)), (vec!["wrong_keyring".into()], 1, 0));
        // One share of each: two shares, and no key.
        let pair = give(&world, &[(v10, &of_10)]).expect(200);
        assert_eq!((have(&pair, 9), have(&pair, 10), &pair["state"]), (1, 1, &json!("unlocking")));
        assert!(
            pair["versions"].as_array().unwrap().iter().all(|version| version["validated"] == false),
            "{pair}"
        );
    }
}

/// Every order of `left`.
fn orders<T: Copy>(left: &[T]) -> Vec<Vec<T>> {
    if left.is_empty() {
        return vec![vec![]];
    }
    let mut all = Vec::new();
    for (at, first) in left.iter().enumerate() {
        let rest = [&left[..at], &left[at + 1..]].concat();
        all.extend(orders(&rest).into_iter().map(|rest| [&[*first], rest.as_slice()].concat()));
    }
    all
}

#[test]
fn fault_10_two_unlocks_interleaved_in_every_order_both_come_to_their_end() {
    let mut world = sealed();
    world.unlock_by(9, &[1, 2]);
    assert_eq!(world.stage(9), 10);
    let all = orders(&[(9, 1), (9, 2), (10, 3), (10, 4)]);
    assert_eq!(all.len(), 24);
    for order in all {
        seal(&world);
        let mut given = [0, 0];
        for part in &order {
            let answer = world.unlock(&[*part]).expect(200);
            given[usize::from(part.0 == 10)] += 1;
            assert_eq!((have(&answer, 9), have(&answer, 10)), (given[0], given[1]), "{order:?}");
            // v10 is staged: what unlocks the node is v9 alone.
            assert_eq!(answer["state"], if given[0] == 2 { "unlocked" } else { "unlocking" }, "{order:?}");
        }
        let versions = world.get("/v1/status")["versions"].clone();
        assert!(versions.as_array().unwrap().iter().all(|version| version["validated"] == true), "{order:?}");
    }
}

#[test]
fn fault_10_an_unlock_and_a_consent_interleaved_in_every_order_take_nothing_from_each_other() {
    #[derive(Debug, Clone, Copy)]
    enum Give {
        Unlock(usize),
        Consent(usize),
    }
    let mut world = sealed();
    world.unlock_by(9, &[1, 2]);
    assert_eq!(world.stage(9), 10);
    let holders: Json = (1..=5).map(|n| json!({"name": format!("h{n}")})).collect();
    for order in orders(&[Give::Unlock(1), Give::Unlock(2), Give::Consent(1), Give::Consent(2)]) {
        seal(&world);
        world.unlock_by(9, &[1, 2]);
        let request = world.ask(json!({"operation": "reshare", "version": 9, "holders": holders}));
        let (mut unlocks, mut consents) = (0, 0);
        for one in &order {
            match one {
                Give::Unlock(holder) => {
                    unlocks += 1;
                    let answer = world.unlock(&[(10, *holder)]).expect(200);
                    assert_eq!(have(&answer, 10), unlocks, "{order:?}");
                }
                Give::Consent(holder) => {
                    consents += 1;
                    let answer = world.consent(&request, &[(9, *holder)]).expect(200);
                    assert_eq!(answer["have"], consents, "{order:?}");
                    assert_eq!(answer["version"].is_null(), consents < 2, "{order:?}");
                    assert_eq!(have(&answer, 10), unlocks, "{order:?}");
                }
            }
        }
        let status = world.get("/v1/status");
        assert_eq!(status["versions"][1]["validated"], true, "{order:?}");
        let done = world.get(&format!("/v1/requests/{}", request["id"].as_str().unwrap()));
        assert_eq!(done["state"], "done", "{order:?}");
    }
}

#[test]
fn fault_09_only_an_operator_cancels() {
    let expired = format!(
        "[[token]]\nname = \"expired\"\nrole = \"operator\"\nsha256 = \"{}\"\nexpires = \"2020-01-01T00:00:00Z\"\n\
         [[token]]\nname = \"reader\"\nrole = \"service\"\nsha256 = \"{}\"\nkeys = [\"{KEY}\"]\n\
         operations = [\"decrypt\"]\n",
        hex::encode(Sha256::digest(EXPIRED)),
        hex::encode(Sha256::digest(EXPIRED.replace('e', "r"))),
    );
    let mut world = World::new(&expired);
    world.start();
    world.init(5, 9);
    let reader = EXPIRED.replace('e', "r");
    let nobodys = OPERATOR.replace('o', "x");
    let others = [
        (None, 401),
        (Some(""), 401),
        (Some("km_short"), 401),
        (Some(nobodys.as_str()), 401),
        (Some(EXPIRED), 401),
        (Some(SERVICE), 403),
        (Some(reader.as_str()), 403),
        (Some(AUDITOR), 403),
    ];
    world.unlock(&[(9, 1)]).expect(200);
    for (token, status) in others {
        for (method, path) in [("DELETE", "/v1/unlock"), ("POST", "/v1/seal"), ("POST", "/v1/unlock/degraded")] {
            assert_eq!(world.control(method, path, token, Json::Null).status, status, "{method} {path} {token:?}");
        }
        assert_eq!(have(&world.get("/v1/status"), 9), 1);
    }
    world.unlock(&[(9, 2)]).expect(200);
    let request = world.ask(json!({"operation": "stage"}));
    world.consent(&request, &[(9, 1)]).expect(200);
    let path = format!("/v1/requests/{}", request["id"].as_str().unwrap());
    for (token, status) in others {
        assert_eq!(world.control("DELETE", &path, token, Json::Null).status, status, "{token:?}");
        assert_eq!((&world.get(&path)["state"], &world.get(&path)["have"]), (&json!("open"), &json!(1)));
    }
    assert_eq!(world.control("DELETE", &path, Some(OPERATOR), Json::Null).status, 204);
    assert_eq!(world.consent(&request, &[(9, 2)]).status, 404);
}

#[test]
fn fault_11_after_a_kill_between_two_shares_no_byte_of_the_first_is_on_disk() {
    let mut world = sealed();
    world.unlock_by(9, &[1, 2]);
    let mut secrets = oracle::secrets(&world, &[9], &[]);
    seal(&world);
    assert_eq!(have(&world.unlock(&[(9, 1)]).expect(200), 9), 1);
    // Refused and cut ones leave no trace either.
    give(&world, &[("prod-keyPart-v10", &world.share(9, 3))]).expect(422);
    world.kill();

    secrets.extend(world.shares.iter().map(|(_, holder, text)| (holder.clone(), text.as_bytes()[14..].to_vec())));
    for (name, secret) in &secrets {
        assert!(hits(secret, &secrets).contains(name), "the search finds {name} where it is");
    }
    let searched = files(world.dir.path());
    assert!(searched.len() > 4, "{searched:?}");
    for path in searched {
        let found = hits(&fs::read(&path).unwrap(), &secrets);
        assert!(found.is_empty(), "{} holds {found:?}", path.display());
    }
    world.start();
    let status = world.get("/v1/status");
    assert_eq!((&status["state"], have(&status, 9)), (&json!("sealed"), 0));
    assert_eq!(have(&world.unlock(&[(9, 2)]).expect(200), 9), 1);
    assert_eq!(world.unlock(&[(9, 1)]).expect(200)["state"], "unlocked");
}

/// A daemon whose clocks are set through a file, by Debian's `libfaketime`.
struct Clock {
    file: PathBuf,
}

impl Clock {
    /// Starts the daemon so. Its monotonic clock jumps along only if `monotonic` says so.
    fn start(world: &mut World, monotonic: bool) -> Self {
        let library = ["/usr/lib", "/usr/lib64"]
            .iter()
            .flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten())
            .map(|dir| dir.path().join("faketime/libfaketimeMT.so.1"))
            .find(|path| path.exists())
            .expect("libfaketime is installed (apt-get install faketime)");
        let clock = Self { file: world.path("clock") };
        clock.set("+0");
        let mut command = Command::new(env!("CARGO_BIN_EXE_keymoot"));
        command.arg("server").arg("--config").arg(world.config_file());
        command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &clock.file);
        command.env("FAKETIME_NO_CACHE", "1");
        if !monotonic {
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        world.start_as(command);
        clock
    }

    fn set(&self, offset: &str) {
        // In one step: the daemon never reads half of it.
        let new = self.file.with_extension("new");
        fs::write(&new, offset).unwrap();
        fs::rename(new, &self.file).unwrap();
    }
}

/// The year of a line that is logged now, as the daemon's wall clock has it.
fn year(world: &World) -> u32 {
    let refused =
        |log: &str| log.lines().filter(|line| line.contains("part refused")).map(str::to_owned).collect();
    let before: Vec<String> = refused(&world.log());
    world.control("POST", UNLOCK, None, json!({"parts": {"x": "y"}})).expect(422);
    // The log is written to the file by another thread.
    let line = world.until("the refusal is logged", || {
        let now: Vec<String> = refused(&world.log());
        (now.len() > before.len()).then(|| now.last().unwrap().clone())
    });
    let line: Json = serde_json::from_str(&line).unwrap();
    line["timestamp"].as_str().unwrap()[..4].parse().unwrap()
}

#[test]
fn fault_11_a_wall_clock_that_jumps_neither_ends_nor_lengthens_a_part() {
    let mut world = World::new("");
    let clock = Clock::start(&mut world, false);
    world.init(5, 9);
    world.unlock(&[(9, 1)]).expect(200);
    let now = year(&world);
    for (offset, there) in [("+3650d", now + 9..now + 12), ("-3650d", now - 12..now - 8), ("+0", now..now + 2)] {
        clock.set(offset);
        world.until("the jump is seen", || there.contains(&year(&world)).then_some(()));
        // Parts expire with the pulse, which beats once a second.
        std::thread::sleep(Duration::from_millis(2_500));
        let status = world.get("/v1/status");
        assert_eq!((have(&status, 9), &status["state"]), (1, &json!("unlocking")), "{offset}");
    }
    assert!(!world.log().contains("a part expired"));
    assert_eq!(world.unlock(&[(9, 2)]).expect(200)["state"], "unlocked");
}

#[test]
fn fault_11_a_part_ends_alone_after_its_ten_minutes_and_is_wiped() {
    let mut world = World::new("");
    let clock = Clock::start(&mut world, true);
    world.init(5, 9);
    world.unlock(&[(9, 1)]).expect(200);
    clock.set("+400");
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(have(&world.get("/v1/status"), 9), 1, "it lives for ten minutes");
    clock.set("+601");
    let status = world.until("the part has expired", || {
        let status = world.get("/v1/status");
        (have(&status, 9) == 0).then_some(status)
    });
    assert_eq!(status["state"], "sealed");
    let said = || world.log().contains("a part expired and was wiped").then_some(());
    world.until("the log says so", said);
    // A later one does not wait for the first, and each has its own ten minutes.
    assert_eq!(world.unlock(&[(9, 2)]).expect(200)["state"], "unlocking");
    clock.set("+1100");
    assert_eq!(world.unlock(&[(9, 1)]).expect(200)["state"], "unlocked");
}
