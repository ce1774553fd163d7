//! Nobody fills the disk through the audit log: not who guesses, and not a holder who gives a right share for ever.

use std::time::Instant;

use serde_json::{Value as Json, json};

use crate::{
    audit::{last, whole},
    harness::{Answer, World},
    unlocked,
};

fn consent(world: &World, request: &Json, share: &str) -> Answer {
    let path = format!("/v1/requests/{}/consent", request["id"].as_str().unwrap());
    let body = json!({"digest": request["digest"], "parts": {"prod-keyPart-v9": share}});
    world.control("POST", &path, None, body)
}

fn of<'a>(lines: &'a [Json], event: &'a str) -> impl Iterator<Item = &'a Json> {
    lines.iter().filter(move |line| line["event"] == event)
}

/// The room of so many lines is given anew each minute: how many times it may have been given since then.
fn rooms(since: Instant) -> usize {
    usize::try_from(since.elapsed().as_secs() / 60 + 1).unwrap()
}

#[test]
fn a_flood_of_consents_becomes_a_few_lines_whether_the_request_is_open_done_or_none() {
    let mut world = unlocked(5);
    let began = Instant::now();
    let request = world.ask(json!({"operation": "stage"}));
    let stranger = json!({"id": "01938f00-0000-7000-8000-000000000000", "digest": request["digest"]});
    // What is wrong, for a request that is open, is no intent.
    for request in [&request, &stranger] {
        for _ in 0..60 {
            assert!(consent(&world, request, "kmshare1nonsense").status >= 400);
        }
    }
    assert!(of(&whole(&world), "consent").all(|line| line["phase"] == "refused"));
    assert!(of(&whole(&world), "consent").count() <= 20 * rooms(began));
    // What is right is one, and then it is a refusal that is written so often.
    consent(&world, &request, &world.share(9, 1)).expect(200);
    // Until there is no room, however long a slow disk takes to get there.
    let mut turned_away = 0;
    world.until("this holder's room is used up", || {
        let again: Vec<u16> = (0..60).map(|_| consent(&world, &request, &world.share(9, 1)).status).collect();
        assert!(again.iter().all(|status| [422, 429].contains(status)), "{again:?}");
        turned_away += again.iter().filter(|status| **status == 429).count();
        (turned_away >= 60).then_some(())
    });
    let intents = of(&whole(&world), "consent").filter(|line| line["phase"] == "intent").count();
    assert!((240..=240 * rooms(began)).contains(&intents), "{intents} of this holder");
    // Who has not consented yet is heard.
    let done = consent(&world, &request, &world.share(9, 2)).expect(200);
    assert_eq!(done["version"], 10);
    assert_eq!(last(&whole(&world), "consent", "done")["facts"]["accepted"][0]["holder"], "h2");
    world.take_packages(10);
    // The request is done: nothing can become of it any longer.
    let (before, began) = (of(&whole(&world), "consent").count(), Instant::now());
    for holder in [1, 2, 3] {
        for _ in 0..20 {
            assert_eq!(consent(&world, &request, &world.share(9, holder)).status, 409);
        }
    }
    assert!(of(&whole(&world), "consent").count() <= before + 20 * (rooms(began) + 1));
}

#[test]
fn a_holder_who_proves_for_ever_is_answered_and_becomes_a_few_lines() {
    let world = unlocked(5);
    let (began, mut given) = (Instant::now(), 0);
    let written = world.until("not all of them are written", || {
        for _ in 0..60 {
            world.submit("/v1/prove/parts", &[(9, 3)]).expect(200);
        }
        given += 60;
        let written = of(&whole(&world), "prove-parts").count();
        (written + 60 <= given).then_some(written)
    });
    assert!((240..=240 * rooms(began)).contains(&written), "{written} of this holder");
    world.submit("/v1/prove/parts", &[(9, 4)]).expect(200);
    assert_eq!(last(&whole(&world), "prove-parts", "done")["facts"]["accepted"][0]["holder"], "h4");
}
