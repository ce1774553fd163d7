//! What operators do: each is done once or not at all.

use serde_json::{Value as Json, json};

use super::sweep::{again, request, sweep};
use crate::harness::{
    OPERATOR, SOURCE, World, make_table,
    proxy::{COARSE, RARE},
};

fn operator(path: &str) -> Vec<u8> {
    request("POST", path, Some(OPERATOR), "{}")
}

fn revision(world: &World) -> u64 {
    world.get("/v1/status")["revision"].as_u64().unwrap()
}

#[test]
fn fault_60_an_activation_that_is_cut_behind_any_byte_is_done_once_or_not_at_all() {
    let mut world = crate::unlocked(5);
    world.rotate(9);
    let values = [world.encrypt(b"of v10")];
    // There and back again: the older one's is the rollback.
    let next = || if world.state_of(9) == "primary" { 10 } else { 9 };
    let before = revision(&world);
    world.post("/v1/versions/9/activate", Json::Null).expect(200);
    let steps = revision(&world) - before;
    let (target, before) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let met = sweep(
        &world,
        world.control_url(),
        COARSE,
        || {
            target.set(next());
            before.set(revision(&world));
            operator(&format!("/v1/versions/{}/activate", target.get()))
        },
        |said| {
            let state = world.state_of(target.get());
            assert!(said.is_none() || state == "primary", "{state}");
            let again =
                again(&world, || world.post(&format!("/v1/versions/{}/activate", target.get()), Json::Null));
            assert_eq!(again.status, 200, "{}", again.json);
            assert_eq!(revision(&world), before.get() + steps, "it was done more than once");
            assert_eq!(world.open(&values[0]), b"of v10");
            state == "primary"
        },
    );
    assert!(met.done > 0, "{met:?}");
}

#[test]
fn fault_60_a_rekey_and_a_census_whose_start_is_cut_behind_any_byte_run_once_at_a_time() {
    let mut world = World::new(SOURCE);
    world.start();
    world.init(5, 9);
    crate::unlock(&world, &[9]);
    let table = make_table(&world.path("app.db"), &world.encrypt_all(&["a".to_owned(), "b".to_owned()]));
    world.rotate(9);
    sweep(
        &world,
        world.control_url(),
        COARSE,
        || operator("/v1/rekey"),
        |said| {
            assert!(said.is_none_or(|said| said.status == 202));
            let again = again(&world, || world.post("/v1/rekey", json!({})));
            // The first is not done yet and is named; or it is, and this is the next.
            assert!([202, 409].contains(&again.status), "{}", again.json);
            let id = world.get("/v1/rekey")["id"].as_str().unwrap().to_owned();
            assert_eq!(world.job_end(&id)["state"], "completed");
            false
        },
    );
    for id in 1..=2 {
        let value: String =
            table.query_row("SELECT token FROM tokens WHERE id = ?1", [id], |row| row.get(0)).unwrap();
        assert!(value.starts_with("km:v10:"));
        world.open(&value);
    }
    let idle = || world.until("no census runs", || (world.get("/v1/census")["running"] == false).then_some(()));
    sweep(
        &world,
        world.control_url(),
        COARSE,
        || {
            idle();
            operator("/v1/census")
        },
        |said| {
            assert!(said.is_none_or(|said| said.status == 202));
            again(&world, || world.post("/v1/census", json!({}))).expect(202);
            idle();
            let counted = world.get("/v1/census")["sources"][0].clone();
            assert_eq!((&counted["rows"], &counted["conclusive"]), (&json!(2), &json!(true)), "{counted}");
            false
        },
    );
}

#[test]
fn fault_60_a_retirement_that_is_cut_behind_any_byte_is_done_once_or_not_at_all() {
    let mut world = World::new("[retire]\nquiet = \"1ms\"\nmax_write_delay = \"1ms\"\nhold = \"1h\"\n");
    world.start();
    world.init(5, 9);
    crate::unlock(&world, &[9]);
    world.rotate(9);
    let ready = || {
        if world.state_of(9) == "retired" {
            world.post("/v1/versions/9/restore", json!({})).expect(200);
            crate::unlock(&world, &[9]);
        }
        world.until("nothing is missing", || {
            let rehearsed = world.post("/v1/versions/9/retire", json!({"dry_run": true})).expect(200);
            if rehearsed["missing"].as_array().is_none_or(Vec::is_empty) {
                return Some(());
            }
            if world.get("/v1/census")["running"] == false {
                world.post("/v1/census", json!({})).expect(202);
            }
            None
        });
    };
    let before = std::cell::Cell::new(0);
    sweep(
        &world,
        world.control_url(),
        RARE,
        || {
            ready();
            before.set(revision(&world));
            operator("/v1/versions/9/retire")
        },
        |said| {
            let state = world.state_of(9);
            assert!(said.is_none() || state == "retired", "{state}");
            assert!(["decrypt-only", "retired"].contains(&state.as_str()), "{state}");
            let again = world.retire(9);
            assert_eq!((again["state"].as_str(), revision(&world)), (Some("retired"), before.get() + 1));
            assert_eq!(world.get("/v1/certificates")["certificates"].as_array().unwrap().len(), 1);
            state == "retired"
        },
    );
}
