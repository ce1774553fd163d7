//! Fault 12 of `docs/track-record.md`: `kill -9` at enumerated crash points of making a version and of making new
//! shares. At none of them is there no set of shares that unlocks.

use std::{collections::BTreeMap, os::unix::process::ExitStatusExt as _};

use serde_json::{Value as Json, json};

use crate::{
    harness::{OPERATOR, World},
    trap::{Trap, dies},
    unlocked,
};

const CALLS: [&str; 3] = ["pwrite64", "fsync", "rename"];
/// Far behind the last of any of these calls that a ceremony makes.
const NTH_MAX: usize = 80;

type Shares = Vec<(u32, String, String)>;

/// Any call of a daemon that may die under it.
pub fn call(world: &World, method: &str, path: &str, body: Json) -> Option<Json> {
    let body = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
    let url = format!("{}{path}", world.control_url());
    // What was not recorded in time was not done: it is asked again, as no kill is to be blamed for it.
    let answer = world.until("the call is taken, or the daemon is gone", || {
        let answer = world.try_raw(url.clone(), method, Some(OPERATOR), body.clone());
        (!answer.as_ref().is_ok_and(|answer| answer.status == 503)).then_some(answer)
    });
    Some(answer.ok()?.json)
}

fn consents(world: &World, shares: &Shares, request: Json) -> Option<()> {
    let request = call(world, "POST", "/v1/requests", request)?;
    let path = format!("/v1/requests/{}/consent", request["id"].as_str()?);
    for (_, _, share) in &shares[..2] {
        let body = json!({"digest": request["digest"], "parts": {"prod-keyPart-v9": share}});
        call(world, "POST", &path, body)?;
    }
    Some(())
}

fn packages(world: &World, version: u32) -> Option<Shares> {
    let answer = call(world, "GET", &format!("/v1/versions/{version}/packages"), Json::Null)?;
    let share = |package: &Json| {
        let (_, share) = package["package"].as_str()?.trim().split_once(": ")?;
        Some((version, package["holder"].as_str()?.to_owned(), share.to_owned()))
    };
    answer["packages"].as_array()?.iter().map(share).collect()
}

/// Kills at the first, second, … such call until the ceremony comes to its end unharmed; `ceremony` begins anew each
/// time, and `after` looks at what is left of it.
fn at_every_point(
    world: &mut World,
    mut ceremony: impl FnMut(&World) -> Option<()>,
    mut after: impl FnMut(&mut World),
) -> BTreeMap<&'static str, usize> {
    let mut kills = BTreeMap::new();
    for name in CALLS {
        let (mut nth, mut unclear) = (1, 0);
        loop {
            assert!(nth < NTH_MAX, "{name} {nth}");
            let trap = Trap::set(world, name, nth);
            let unharmed = ceremony(world).is_some();
            // The background makes such calls as well: unharmed is what came to its end before them.
            if !unharmed && !dies(world.pid()) {
                // No kill: new shares that were proved before the last one came into force meanwhile, so that those
                // before are refused; or a connection broke under the tracer. The same point once more.
                unclear += 1;
                assert!(unclear < 5, "{name} {nth}: calls fail and nothing is killed");
                drop(trap);
                world.kill();
                world.start();
                after(world);
                continue;
            }
            if !unharmed {
                let line = trap.last_call(world);
                assert_eq!(world.until_ended().signal(), Some(9), "it died by the injected signal");
                assert!(line.contains(name), "{name} {nth}: {line}");
                *kills.entry(name).or_insert(0) += 1;
            } else {
                drop(trap);
                world.kill();
            }
            world.start();
            after(world);
            if unharmed {
                break;
            }
            (nth, unclear) = (nth + 1, 0);
        }
    }
    kills
}

fn refused_as(world: &World, share: &str) -> Option<String> {
    let body = json!({"parts": {"prod-keyPart-v9": share}});
    let answer = world.control("POST", "/v1/unlock/parts", None, body).json;
    answer["rejected"][0]["code"].as_str().map(str::to_owned)
}

#[test]
fn fault_12_a_kill_at_any_point_of_a_staging_leaves_the_version_before_usable() {
    let mut world = unlocked(4);
    let value = world.encrypt(b"kept");
    let shares = world.shares.clone();
    let mut versions = 1;
    let kills = at_every_point(
        &mut world,
        |world| {
            consents(world, &shares, json!({"operation": "stage"}))?;
            let staged =
                call(world, "GET", "/v1/versions", Json::Null)?["versions"].as_array()?.last()?["version"].clone();
            let staged = u32::try_from(staged.as_u64()?).ok()?;
            for (_, _, share) in packages(world, staged)? {
                let name = format!("prod-keyPart-v{staged}");
                call(world, "POST", "/v1/prove/parts", json!({"parts": {name: share}}))?;
            }
            Some(())
        },
        |world| {
            // One staged or not at all; v9 alone unlocks, and the next one can be asked for.
            world.unlock_by(9, &[1, 2]);
            assert_eq!(world.state(), "unlocked");
            assert_eq!(world.open(&value), b"kept");
            let known = world.get("/v1/versions")["versions"].as_array().unwrap().clone();
            assert!(known.len() == versions || known.len() == versions + 1, "{known:?}");
            versions = known.len();
            if let Some(staged) = known.iter().find(|version| version["state"] == "staged") {
                let path = format!("/v1/versions/{}/abort", staged["version"]);
                world.post(&path, Json::Null).expect(200);
            }
        },
    );
    println!("kills by call: {kills:?}; {versions} versions");
    assert!(kills.values().sum::<usize>() >= 20, "{kills:?}");
}

#[test]
fn fault_12_a_kill_at_any_point_of_a_reshare_leaves_exactly_one_set_of_shares_in_force() {
    let mut world = unlocked(4);
    let value = world.encrypt(b"kept");
    let holders: Json = (1..=4).map(|n| json!({"name": format!("h{n}")})).collect();
    // Every set that came out, the newest last; which of them counts the daemon says.
    let sets = std::cell::RefCell::new(vec![world.shares.clone()]);
    let in_force = std::cell::Cell::new(0);
    let (mut stayed, mut moved) = (0, 0);
    let kills = at_every_point(
        &mut world,
        |world| {
            let current = sets.borrow()[in_force.get()].clone();
            consents(world, &current, json!({"operation": "reshare", "version": 9, "holders": holders}))?;
            let new = packages(world, 9)?;
            sets.borrow_mut().push(new.clone());
            for (_, _, share) in new {
                call(world, "POST", "/v1/prove/parts", json!({"parts": {"prod-keyPart-v9": share}}))?;
            }
            Some(())
        },
        |world| {
            let sets = sets.borrow();
            let counts: Vec<usize> =
                (0..sets.len()).filter(|set| refused_as(world, &sets[*set][2].2).is_none()).collect();
            assert_eq!(counts.len(), 1, "one set of shares counts, and no other: {counts:?}");
            if counts[0] == in_force.get() {
                stayed += 1
            } else {
                moved += 1
            }
            in_force.set(counts[0]);
            assert_eq!(refused_as(world, &sets[counts[0]][3].2), None);
            assert_eq!(world.state(), "unlocked");
            assert_eq!(world.open(&value), b"kept");
        },
    );
    println!(
        "kills by call: {kills:?}; the old set stayed {stayed} times, the new one came into force {moved} times"
    );
    assert!(kills.values().sum::<usize>() >= 20, "{kills:?}");
    assert!(stayed >= 5 && moved >= 3, "both sides of the swap were hit");
}
