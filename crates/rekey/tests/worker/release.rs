//! The way back: values become plaintext again where the holders consented, and stay so.

use std::time::Duration;

use keymoot_keyring::DataKeyBits;
use keymoot_rekey::{JobState, Reason, Start};
use keymoot_storage::source::{Cell, Source as _, SourceSpec};
use keymoot_types::value::Form;

use crate::support::*;

fn release(world: &World) {
    world.keys.release(world.table().table.spec());
}

#[tokio::test(start_paused = true)]
async fn a_released_column_is_plaintext_again_and_is_not_adopted_a_second_time() {
    let world = World::adopting();
    for n in 1..=4 {
        world.put(n, if n % 2 == 0 { 9 } else { 10 });
    }
    let binary = world.keys.ring(&[10], 10).encrypt(&key(), b"text 5\xff", b"customers/5").unwrap();
    world.table().table.write(row(5, Cell::Bytes(binary.to_bytes(Form::Binary))));
    world.table().table.write(row(6, Cell::Null));
    release(&world);
    let (jobs, _) = world.process();
    let rehearsed = jobs.start(Start { dry_run: true, ..Start::default() }).await.unwrap().id;
    assert_eq!(ended(&jobs, rehearsed).await.sources[0].rekeyed, 5);
    assert_ne!(world.table().table.rows()[0].cell, Cell::Text(b"text 1".to_vec()));
    for rekeyed in [5, 0] {
        let job = jobs.start(Start::default()).await.unwrap().id;
        let view = ended(&jobs, job).await;
        completed(&view);
        adds_up(&view);
        assert_eq!((view.sources[0].rekeyed, view.sources[0].adopted), (rekeyed, 0));
        let cells: Vec<_> = world.table().table.rows().into_iter().map(|row| row.cell).collect();
        let mut plain: Vec<_> = (1..=4).map(|n| Cell::Text(format!("text {n}").into_bytes())).collect();
        plain.extend([Cell::Bytes(b"text 5\xff".to_vec()), Cell::Null]);
        assert_eq!(cells, plain);
    }
}

#[tokio::test(start_paused = true)]
async fn what_could_be_taken_for_a_value_or_is_no_text_is_not_released() {
    let world = World::with_rows(1);
    let table = &world.table().table;
    let ring = world.keys.ring(&[9], 9);
    let sealed = |n: i64, plaintext: &[u8]| {
        let value = ring.encrypt(&key(), plaintext, format!("customers/{n}").as_bytes()).unwrap();
        row(n, Cell::Text(value.to_bytes(Form::Text)))
    };
    let inner = world.keys.value(9, 2, "x");
    for stays in [sealed(2, &inner), sealed(3, b"km:vintage"), sealed(4, b"\xff"), sealed(5, b"a\0b")] {
        table.write(stays);
    }
    let (wrapped, _) = ring.wrap_data_key(&key(), DataKeyBits::B256).unwrap();
    table.write(row(6, Cell::Text(wrapped.to_bytes(Form::Text))));
    table.write(row(7, Cell::Text(world.keys.value(9, 1, "moved"))));
    let before = table.rows();
    release(&world);
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    let view = ended(&jobs, job).await;
    assert_eq!(view.state, JobState::CompletedWithQuarantine);
    adds_up(&view);
    let after = table.rows();
    assert_eq!(after[0].cell, Cell::Text(b"text 1".to_vec()));
    assert_eq!(after[1..], before[1..]);
    let listed = jobs.quarantine(job, None, 100).await.unwrap().rows;
    let reasons: Vec<_> = listed.iter().map(|row| row.reason).collect();
    let looks = Reason::LooksLikeValue;
    assert_eq!(
        reasons,
        [looks, looks, Reason::NotText, Reason::NotText, Reason::DataKey, Reason::AuthenticationFailed]
    );
}

#[tokio::test(start_paused = true)]
async fn a_release_in_the_middle_of_a_job_turns_it_round_and_a_job_alone_releases_nothing() {
    let world = World::with_rows(3000);
    let (table, keys) = (world.table(), world.keys.clone());
    *table.before_swap.lock().unwrap() = Some(Box::new(move |number, _| {
        if number == 3 {
            keys.release(&spec("c.ssn"));
        }
    }));
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    let view = ended(&jobs, job).await;
    completed(&view);
    adds_up(&view);
    for (n, row) in (1..).zip(table.table.rows()) {
        assert_eq!(row.cell, Cell::Text(format!("text {n}").into_bytes()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_not_heard_of_a_release_does_not_take_it_back() {
    let mut world = World::adopting();
    (1..=9000).for_each(|n| world.put(n, 10));
    let lagging = world.keys.followed_by(&[9, 10], 10);
    world.keys.serve(&[9, 10], 10);
    world.keys.serve(&[9, 10], 10);
    release(&world);
    let plain = |world: &World| {
        let rows = world.table().table.rows();
        rows.iter().filter(|row| row.cell.bytes().is_some_and(|bytes| bytes.starts_with(b"text"))).count()
    };
    let death = Death::at(20, false);
    let (jobs, _) = world.mortal_process(death.clone());
    let job = jobs.start(Start::default()).await.unwrap().id;
    while !death.dead() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = plain(&world);
    assert!((1..9000).contains(&before), "{before}");
    world.keys = lagging;
    let other = world.node("db2", Death::never());
    other.resume_all().await.unwrap();
    let waits = until(&other, job, |view| view.throttled.is_some()).await;
    assert!(waits.throttled.unwrap().contains("has not adopted revision"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(plain(&world), before);
}

#[tokio::test(start_paused = true)]
async fn another_column_under_the_name_of_a_released_one_is_not_decrypted() {
    for adopt in [false, true] {
        let mut world = World::new(&[]);
        let other = SourceSpec { table: "other".into(), adopt, ..spec("c.ssn") };
        world.tables.insert(other.name.clone(), std::sync::Arc::new(Watched::of(other)));
        (1..=3).for_each(|n| world.put(n, 9));
        let before = world.table().table.rows();
        world.keys.release(&spec("c.ssn"));
        let (jobs, _) = world.process();
        let job = jobs.start(Start::default()).await.unwrap().id;
        let view = ended(&jobs, job).await;
        assert_eq!(view.state, JobState::Failed);
        assert!(view.reason.unwrap().contains("declared otherwise now"));
        assert_eq!(world.table().table.rows(), before);
    }
}
