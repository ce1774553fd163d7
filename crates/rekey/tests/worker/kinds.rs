//! Values of every kind: bound to their row, binary, and wrapped data keys.

use keymoot_keyring::DataKeyBits;
use keymoot_rekey::{JobState, Reason, Start};
use keymoot_storage::source::{Cell, Row, SourceSpec};
use keymoot_types::{
    Value,
    associated_data::ColumnValue,
    value::{BodyKind, Form},
};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn a_wrapped_data_key_is_wrapped_anew_and_opens_to_the_same_key() {
    let world = World::with_rows(2);
    let ring = world.keys.ring(&[9], 9);
    let cases = [
        (3, DataKeyBits::B256, Form::Text),
        (4, DataKeyBits::B512, Form::Text),
        (5, DataKeyBits::B512, Form::Binary),
    ];
    let mut data_keys = Vec::new();
    for (n, bits, form) in cases {
        let (wrapped, data_key) = ring.wrap_data_key(&key(), bits).unwrap();
        let bytes = wrapped.to_bytes(form);
        let cell = if form == Form::Text { Cell::Text(bytes) } else { Cell::Bytes(bytes) };
        world.table().table.write(row(n, cell));
        data_keys.push((n, data_key));
    }
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    let view = ended(&jobs, job).await;
    completed(&view);
    assert_eq!(view.sources[0].rekeyed, 5);
    let rows = world.table().table.rows();
    for ((row, (_, data_key)), (_, _, form)) in rows[2..].iter().zip(&data_keys).zip(cases) {
        let (value, found) = Value::parse_bytes(row.cell.bytes().unwrap()).unwrap();
        assert_eq!((value.version(), value.kind(), found), (v(10), BodyKind::DataKey, form));
        assert_eq!(world.keys.ring(&[10], 10).unwrap_data_key(&key(), &value).unwrap(), *data_key);
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_in_binary_form_and_one_in_text_form_in_a_column_of_bytes_stay_in_their_form() {
    let world = World::new(&["c.ssn"]);
    let table = &world.table().table;
    let text = world.keys.value(9, 1, "text 1");
    let (value, _) = Value::parse_bytes(&world.keys.value(9, 2, "text 2")).unwrap();
    table.write(row(1, Cell::Bytes(text)));
    table.write(row(2, Cell::Bytes(value.to_bytes(Form::Binary))));
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    completed(&ended(&jobs, job).await);
    world.all_are(10);
    let forms: Vec<_> = table
        .rows()
        .iter()
        .map(|row| {
            assert!(matches!(row.cell, Cell::Bytes(_)));
            Value::parse_bytes(row.cell.bytes().unwrap()).unwrap().1
        })
        .collect();
    assert_eq!(forms, [Form::Text, Form::Binary]);
}

#[tokio::test(start_paused = true)]
async fn fault_22_a_value_that_was_moved_to_another_row_tenant_or_key_is_not_rewritten() {
    let mut world = World::new(&[]);
    let template = "{tenant}/customers/{id}".parse().unwrap();
    let bound = SourceSpec { associated_data: template, ..spec("c.ssn") };
    world.tables.insert(bound.name.clone(), std::sync::Arc::new(Watched::of(bound)));
    let ring = world.keys.ring(&[9], 9);
    let of = |n: i64, tenant: &str, associated_data: &str| {
        let value = ring.encrypt(&key(), b"plain", associated_data.as_bytes()).unwrap();
        let columns =
            vec![("id".into(), ColumnValue::Integer(n)), ("tenant".into(), ColumnValue::Text(tenant.into()))];
        Row { columns, ..row(n, Cell::Text(value.to_bytes(Form::Text))) }
    };
    let table = &world.table().table;
    table.write(of(1, "a/b", "a%2Fb/customers/1"));
    table.write(of(2, "a", "a/customers/1"));
    table.write(of(3, "a", "b/customers/3"));
    table.write(of(4, "a", "a/orders/4"));
    table.write(of(5, "a", ""));
    let before = table.rows();
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    let view = ended(&jobs, job).await;
    assert_eq!((view.state, view.sources[0].rekeyed), (JobState::CompletedWithQuarantine, 1));
    assert_eq!(table.rows()[1..], before[1..]);
    let listed = jobs.quarantine(job, None, 10).await.unwrap().rows;
    assert_eq!(listed.len(), 4);
    assert!(listed.iter().all(|row| row.reason == Reason::AuthenticationFailed));
}
