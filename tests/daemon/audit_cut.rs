//! Fault 55 of `docs/track-record.md`: the log's tail is cut, or the whole of it is written anew with a chain that is
//! right in itself. The head that the metadata store remembers finds both.

use std::{fs, io::Write as _, path::Path};

use keymoot_types::audit::{Chain, Entry, Phase, Tip};
use serde_json::{Value as Json, json};

use crate::{
    audit::{file, files, last, lines, metric, needs, report, stored_head, whole},
    harness::World,
    unlock, unlocked,
};

/// A daemon whose log ends a little behind its newest signed head, and that head's number.
fn signed(world: &World) -> u64 {
    world.post("/v1/versions/77/abort", json!({}));
    world.post("/v1/reload", Json::Null).expect(200);
    world.until("the end is signed", || {
        let end = whole(world).last()?.clone();
        let head = stored_head(world)["head"]["seq"].as_u64()?;
        (end["event"] == "checkpoint" && end["seq"] == head + 1).then_some(head)
    })
}

fn write_lines(path: &Path, lines: &[&str]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(path, text).unwrap();
}

/// A log of as many lines that is whole in itself and tells another story.
fn rebuilt(count: u64) -> String {
    let mut chain = Chain::new("local".parse().unwrap(), "00000000-0000-4000-8000-000000000000", Tip::START);
    let mut text = String::new();
    while chain.tip().seq < count {
        let entry = Entry::new("unlock-parts", Phase::Done).fact("accepted", json!([]));
        let made = chain.next("2026-11-21T07:00:00Z".parse().unwrap(), &entry).unwrap();
        chain.advance(&made);
        text.push_str(std::str::from_utf8(&made.bytes).unwrap());
    }
    text
}

/// It is said aloud, and the log goes on behind what was signed.
#[track_caller]
fn is_found_at_the_start(world: &mut World, head: u64, what: &str) {
    crate::audit::start(world);
    assert!(needs(world).contains("were lost or altered"), "{what}: {}", needs(world));
    assert_eq!(metric(world, "keymoot_audit_ok"), Some(0.0), "{what}");
    assert!(world.log().contains("lines of the audit log were lost"), "{what}");
    let files = files(&world.data_dir());
    let found = lines(&files);
    let lost = last(&found, "log-lost", "note");
    assert_eq!(lost["facts"]["remembered"]["head"]["seq"], head, "{what}");
    assert!(lost["seq"].as_u64().unwrap() > head, "no number is used again");
    let report = report(&files);
    assert!(report.first_bad.is_none() && report.losses > 0 && !report.is_whole(), "{what}: {report:?}");
    // It is written on, and guarded calls are let through: the loss is known.
    unlock(world, &[9]);
    assert_eq!(world.post("/v1/versions/77/abort", json!({})).status, 404);
}

#[test]
fn fault_55_a_tail_that_was_cut_and_a_log_that_was_rebuilt_under_a_stopped_daemon_are_found() {
    let mut world = unlocked(5);
    let head = signed(&world);
    world.kill();
    let whole = fs::read_to_string(file(&world)).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let (store, saved) = (world.data_dir().join("meta.db"), world.path("saved.db"));
    rusqlite::Connection::open(&store).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    fs::copy(&store, &saved).unwrap();
    let before = |world: &mut World| {
        world.kill();
        for name in ["meta.db-wal", "meta.db-shm"] {
            let _none = fs::remove_file(world.data_dir().join(name));
        }
        fs::copy(&saved, &store).unwrap();
        let _none = fs::remove_file(world.path("log"));
    };
    // At its very end nothing is missed: what was signed is there, and the checkpoint behind it says no more.
    for count in [lines.len(), lines.len() - 1] {
        write_lines(&file(&world), &lines[..count]);
        crate::audit::start(&mut world);
        assert!(!needs(&world).contains("audit"), "{}", needs(&world));
        before(&mut world);
    }
    let head_at = usize::try_from(head).unwrap();
    for count in [0, 1, 2, head_at / 2, head_at - 1] {
        write_lines(&file(&world), &lines[..count]);
        is_found_at_the_start(&mut world, head, &format!("cut behind line {count}"));
        before(&mut world);
    }
    fs::remove_file(file(&world)).unwrap();
    is_found_at_the_start(&mut world, head, "removed");
    before(&mut world);
    for count in [head, head + 1, head + 50] {
        fs::write(file(&world), rebuilt(count)).unwrap();
        is_found_at_the_start(&mut world, head, &format!("rebuilt with {count} lines"));
        before(&mut world);
    }
}

#[test]
fn fault_55_a_tail_that_was_cut_while_the_store_was_away_is_found_however_soon_the_daemon_ends() {
    let mut world = unlocked(5);
    let head = signed(&world);
    world.stop();
    let head = stored_head(&world)["head"]["seq"].as_u64().unwrap_or(head);
    let whole = fs::read_to_string(file(&world)).unwrap();
    let lines_of_it: Vec<&str> = whole.lines().collect();
    write_lines(&file(&world), &lines_of_it[..lines_of_it.len() / 2]);
    let (store, aside) = (world.data_dir().join("meta.db"), world.path("aside.db"));
    fs::rename(&store, &aside).unwrap();
    fs::create_dir(&store).unwrap();
    crate::audit::start(&mut world);
    unlock(&world, &[9]);
    fs::remove_dir(&store).unwrap();
    fs::rename(&aside, &store).unwrap();
    world.until("the store is there again", || (world.get("/v1/status")["manifest"] == "store").then_some(()));
    // What it signs at its end does not take the place of what nobody looked at.
    world.stop();
    crate::audit::start(&mut world);
    let found = lines(&files(&world.data_dir()));
    assert_eq!(last(&found, "log-lost", "note")["facts"]["remembered"]["head"]["seq"], head);
}

#[test]
fn fault_55_a_tail_that_was_cut_and_a_log_that_was_rebuilt_under_a_running_daemon_are_found() {
    let world = unlocked(5);
    signed(&world);
    let aside = world.path("aside");
    let back = |world: &World| {
        // In place: the daemon has this very file open.
        fs::write(file(world), fs::read(&aside).unwrap()).unwrap();
        world.until("it is written again", || (metric(world, "keymoot_audit_ok") == Some(1.0)).then_some(()));
    };
    let cut = |bytes: u64| {
        let file = fs::OpenOptions::new().write(true).open(file(&world)).unwrap();
        file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
    };
    let end = || u64::try_from(lines(&files(&world.data_dir())).last().unwrap().to_string().len()).unwrap();
    let last_line_altered = || {
        let text = fs::read_to_string(file(&world)).unwrap();
        let (before, last) = text.trim_end().rsplit_once('\n').unwrap();
        let altered = last.replace("\"node\":\"local\"", "\"node\":\"lokal\"");
        fs::write(file(&world), format!("{before}\n{altered}\n")).unwrap();
    };
    let appended = || {
        let mut file = fs::OpenOptions::new().append(true).open(file(&world)).unwrap();
        file.write_all(b"{}\n").unwrap();
    };
    for (what, harm, cause) in [
        ("the last line is cut off", &(|| cut(end() + 1)) as &dyn Fn(), "was cut"),
        ("half of it is cut off", &|| cut(10), "was cut"),
        ("all of it is cut off", &|| fs::write(file(&world), "").unwrap(), "was cut"),
        ("its last line is altered", &last_line_altered, "was altered"),
        ("somebody else writes to it", &appended, "somebody else"),
        ("it is rebuilt", &|| fs::write(file(&world), rebuilt(1000)).unwrap(), "somebody else"),
    ] {
        fs::copy(file(&world), &aside).unwrap();
        harm();
        let found = world.until(what, || {
            let needs = needs(&world);
            needs.contains("the audit log can't be written").then_some(needs)
        });
        assert!(found.contains(cause), "{what}: {found}");
        let refused = world.post("/v1/requests", json!({"operation": "stage"}));
        assert_eq!(refused.code(), "audit_unavailable", "{what}");
        back(&world);
    }
    whole(&world);
    // A line far from the end, as long as it was: what was signed is compared while the daemon runs.
    let head = signed(&world);
    let text = fs::read_to_string(file(&world)).unwrap();
    let altered: String = text
        .lines()
        .map(|line| {
            let json: Json = serde_json::from_str(line).unwrap();
            let line = if json["seq"] == head {
                line.replace("\"node\":\"local\"", "\"node\":\"lokal\"")
            } else {
                line.into()
            };
            line + "\n"
        })
        .collect();
    fs::write(file(&world), altered).unwrap();
    world.until("it is found", || needs(&world).contains("were lost or altered").then_some(()));
    assert_eq!(metric(&world, "keymoot_audit_ok"), Some(0.0));
    last(&lines(&files(&world.data_dir())), "log-lost", "note");
}

#[test]
fn an_older_head_in_the_store_is_no_alarm_and_is_replaced() {
    let mut world = unlocked(5);
    signed(&world);
    let store = world.data_dir().join("meta.db");
    let older: Vec<u8> = rusqlite::Connection::open(&store)
        .unwrap()
        .query_row("SELECT value FROM records WHERE key = 'audit/local'", (), |row| row.get(0))
        .unwrap();
    let newer = signed(&world);
    world.kill();
    let connection = rusqlite::Connection::open(&store).unwrap();
    connection.execute("UPDATE records SET value = ?1 WHERE key = 'audit/local'", [older]).unwrap();
    drop(connection);
    crate::audit::start(&mut world);
    assert!(!needs(&world).contains("audit"), "{}", needs(&world));
    unlock(&world, &[9]);
    world.until("the store has the newest", || {
        (world.get("/v1/audit")["head"]["head"]["seq"].as_u64()? > newer).then_some(())
    });
    whole(&world);
}
