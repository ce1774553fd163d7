//! Fault 57 of `docs/track-record.md`: `kill -9` between the deed and its record, and secrets and line breaks in every
//! field. Intent precedes deed, the next start settles it, and a line is one line that holds no secret.

use std::{fs, os::unix::process::ExitStatusExt as _};

use serde_json::{Value as Json, json};

use crate::{
    audit::{file, last, whole},
    audit_faults::Tracer,
    ceremony_crashes::call,
    harness::{OPERATOR, SERVICE, World},
    trap::is_dead,
    unlock, unlocked,
};

/// A version is asked for, made and given up: `None` once the daemon is gone.
fn deeds(world: &World) -> Option<()> {
    let request = call(world, "POST", "/v1/requests", json!({"operation": "stage"}))?;
    let path = format!("/v1/requests/{}/consent", request["id"].as_str()?);
    let mut version = Json::Null;
    for holder in [1, 2] {
        let body = json!({"digest": request["digest"], "parts": {"prod-keyPart-v9": world.share(9, holder)}});
        version = call(world, "POST", &path, body)?["version"].clone();
    }
    call(world, "POST", &format!("/v1/versions/{version}/abort"), json!({}))?;
    Some(())
}

fn count(lines: &[Json], event: &str, phase: &str) -> usize {
    lines.iter().filter(|line| line["event"] == event && line["phase"] == phase).count()
}

/// What was done was intended before, and of every intent it is known what became of it.
fn is_settled(world: &World) {
    let lines = whole(world);
    let versions = world.get("/v1/versions")["versions"].as_array().unwrap().clone();
    let of = |state: &str| versions.iter().filter(|version| version["state"] == state).count();
    let (staged, aborted) = (of("staged"), of("aborted"));
    assert!(count(&lines, "consent", "intent") >= 2 * (staged + aborted), "{versions:?}");
    assert!(count(&lines, "abort", "intent") >= aborted, "{versions:?}");
    for intent in lines.iter().filter(|line| line["phase"] == "intent") {
        let seq = &intent["seq"];
        let settled =
            lines.iter().any(|line| line["facts"]["intent"] == *seq && line["seq"].as_u64() > seq.as_u64());
        assert!(settled, "{intent}");
    }
}

#[test]
fn fault_57_a_kill_at_any_write_of_the_log_leaves_no_deed_without_its_intent() {
    let mut world = unlocked(5);
    let mut settled = 0;
    for name in ["write", "fdatasync"] {
        for nth in 1.. {
            assert!(nth < 60, "{name} {nth}");
            let trap = Tracer::set(&world, name, &format!("signal=KILL:when={nth}"));
            let unharmed = deeds(&world).is_some();
            if unharmed {
                drop(trap);
                world.kill();
            } else {
                world.until("the daemon is dead", || is_dead(world.pid()).then_some(()));
                drop(trap);
                assert_eq!(world.until_ended().signal(), Some(9), "{name} {nth}");
            }
            crate::audit::start(&mut world);
            unlock(&world, &[9]);
            is_settled(&world);
            settled = count(&whole(&world), "settled", "note");
            // The way is clear for the next round.
            for version in world.get("/v1/versions")["versions"].as_array().unwrap() {
                if version["state"] == "staged" {
                    world.post(&format!("/v1/versions/{}/abort", version["version"]), json!({})).expect(200);
                }
            }
            if unharmed {
                assert!(nth > 8, "each of its records was hit: {nth}");
                break;
            }
        }
    }
    assert!(settled >= 4, "deeds were killed before their outcome was recorded: {settled}");
}

#[test]
fn a_line_that_a_kill_left_half_written_is_cut_off_and_told_of() {
    let mut world = unlocked(5);
    world.kill();
    for bytes in [1, 50, 300] {
        let text = fs::read_to_string(file(&world)).unwrap();
        let torn = &text.lines().next().unwrap()[..bytes];
        fs::write(file(&world), format!("{text}{torn}")).unwrap();
        crate::audit::start(&mut world);
        let lines = whole(&world);
        assert_eq!(last(&lines, "torn-line-cut", "note")["facts"]["bytes"], bytes);
        unlock(&world, &[9]);
        world.kill();
    }
}

#[test]
fn fault_57_secrets_and_line_breaks_in_every_field_leave_one_line_a_record_without_them() {
    let mut world = unlocked(5);
    world.rotate(9);
    let share = world.share(10, 3);
    let nasty = format!("a\nb\r\n\u{2028}{{\"seq\":1}}\\\"{share}");
    let plaintext = "plaintext-of-the-story";
    world.data("decrypt", json!({"ciphertext": plaintext}));
    let mut bodies = Vec::new();
    for text in [share.clone(), OPERATOR.to_owned(), nasty, "line\nbreak\u{7}\u{0}".into()] {
        bodies.extend([
            ("POST", "/v1/unlock/parts".to_owned(), json!({"parts": {text.clone(): "x"}})),
            ("POST", "/v1/unlock/parts".into(), json!({"parts": {"prod-keyPart-v9": text}})),
            ("POST", "/v1/prove/parts".into(), json!({"parts": {text.clone(): text}})),
            ("POST", "/v1/requests".into(), json!({"operation": "retire-override", "version": 9, "reason": text})),
            ("POST", "/v1/requests".into(), json!({"operation": "import", "version": 9, "witness": text})),
            ("POST", "/v1/versions/10/activate".into(), json!({"override": text, "dry_run": true})),
            ("POST", "/v1/versions/9/retire".into(), json!({"override": text})),
            ("POST", "/v1/requests".into(), json!({"operation": "stage", "holders": [{"name": text}]})),
        ]);
    }
    bodies.extend([
        ("DELETE", format!("/v1/requests/{share}"), Json::Null),
        (
            "POST",
            format!("/v1/requests/{share}/consent"),
            json!({"digest": "00".repeat(32), "parts": {"a": share}}),
        ),
        ("POST", format!("/v1/versions/{share}/activate"), json!({})),
        ("POST", format!("/v1/rekey/{OPERATOR}/pause"), json!({})),
        ("POST", "/v1/rekey".into(), json!({"sources": [share]})),
    ]);
    let before = whole(&world).len();
    for (number, (method, path, body)) in bodies.iter().enumerate() {
        let url = format!("{}{path}", world.control_url());
        let request = world.http().request(method.parse().unwrap(), url).body(body.to_string());
        let id = if number % 2 == 0 { OPERATOR } else { "a-b_c.1" };
        request.bearer_auth(OPERATOR).header("x-request-id", id).send().unwrap();
    }
    let lines = whole(&world);
    assert!(lines.len() > before + bodies.len() / 2, "they are recorded");
    assert!(lines[before..].iter().any(|line| line["request"] == "a-b_c.1"));
    assert!(lines[before..].iter().any(|line| line["facts"]["reason"].as_str().is_some_and(|r| r.contains('\n'))));
    world.stop();
    for path in [file(&world), world.path("log")] {
        let text = fs::read_to_string(path).unwrap();
        for line in text.lines() {
            assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
        }
        for (_, _, share) in &world.shares {
            assert!(!text.contains(&share[..40]) && !text.contains(&share[share.len() - 40..]));
        }
        for secret in [OPERATOR, SERVICE, plaintext] {
            assert!(!text.contains(secret), "{secret}");
        }
    }
}
