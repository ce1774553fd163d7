use super::done;
use crate::metadata::{Existing, Metadata, MetadataError, Stamp, VALUE_BYTES_MAX};

/// What [`Metadata`] promises. The store must be empty.
///
/// # Panics
/// Where a promise is broken.
pub async fn metadata(store: &dyn Metadata) {
    absent_is_an_answer(store).await;
    what_was_written_is_read_back(store).await;
    a_swap_writes_only_over_what_was_expected(store).await;
    a_remove_needs_the_present_state(store).await;
    no_stamp_ever_returns(store).await;
    a_list_is_ordered_by_bytes_and_holds_the_prefix_only(store).await;
    a_value_that_is_too_long_is_refused_and_changes_nothing(store).await;
    of_many_swaps_at_once_one_wins(store).await;
    a_store_is_filled_whole_or_not_at_all(store).await;
    no_list_shows_a_part_of_what_was_filled(store).await;
}

fn changed(key: &str) -> MetadataError {
    MetadataError::Changed { key: key.to_owned() }
}

async fn absent_is_an_answer(store: &dyn Metadata) {
    assert_eq!(store.get("absent").await, Ok(None));
    assert_eq!(store.list("").await, Ok(Vec::new()));
    assert_eq!(store.remove("absent", Stamp(1)).await, Err(changed("absent")));
    assert_eq!(store.swap("absent", Some(Stamp(1)), b"x").await, Err(changed("absent")));
    assert_eq!(store.swap("absent", Some(Stamp(u64::MAX)), b"x").await, Err(changed("absent")));
    assert_eq!(store.get("absent").await, Ok(None));
}

async fn what_was_written_is_read_back(store: &dyn Metadata) {
    for (key, value) in
        [("kept/text", &b"{}"[..]), ("kept/empty", b""), ("kept/bytes", b"\0\xff\0"), ("kept/ключ 'n\"", b"1")]
    {
        let stamp = done(store.put(key, value).await);
        let record = done(store.get(key).await);
        let read = record.as_ref().map(|record| (record.key.as_str(), record.value.as_slice(), record.stamp));
        assert_eq!(read, Some((key, value, stamp)));
        let longest = vec![7; VALUE_BYTES_MAX];
        let over = done(store.put(key, &longest).await);
        assert_ne!(over, stamp);
        assert!(done(store.get(key).await).is_some_and(|record| record.value == longest));
    }
}

async fn a_swap_writes_only_over_what_was_expected(store: &dyn Metadata) {
    let first = done(store.swap("swap", None, b"1").await);
    assert_eq!(store.swap("swap", None, b"2").await, Err(changed("swap")));
    let second = done(store.swap("swap", Some(first), b"2").await);
    assert_eq!(store.swap("swap", Some(first), b"3").await, Err(changed("swap")));
    let read = done(store.get("swap").await);
    assert_eq!(read.map(|record| (record.value, record.stamp)), Some((b"2".to_vec(), second)));
    // The same value again is another state.
    assert_ne!(done(store.swap("swap", Some(second), b"2").await), second);
}

async fn a_remove_needs_the_present_state(store: &dyn Metadata) {
    let first = done(store.put("remove", b"1").await);
    let second = done(store.put("remove", b"2").await);
    assert_eq!(store.remove("remove", first).await, Err(changed("remove")));
    assert!(done(store.get("remove").await).is_some());
    assert_eq!(store.remove("remove", second).await, Ok(()));
    assert_eq!(store.get("remove").await, Ok(None));
    assert_eq!(store.remove("remove", second).await, Err(changed("remove")));
}

async fn no_stamp_ever_returns(store: &dyn Metadata) {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let stamp = done(store.swap("again", None, b"same").await);
        assert!(!seen.contains(&stamp), "{stamp:?} was given out before");
        seen.push(stamp);
        done(store.remove("again", stamp).await);
    }
    for old in seen {
        assert_eq!(store.swap("again", Some(old), b"x").await, Err(changed("again")));
    }
}

async fn a_list_is_ordered_by_bytes_and_holds_the_prefix_only(store: &dyn Metadata) {
    let inside = ["list/", "list/10", "list/9", "list/A", "list/_", "list/a", "list/é", "list/\u{10ffff}"];
    for key in inside.iter().rev().chain(&["lis", "list", "list0", "LIST/9", "list.", "mist/"]) {
        done(store.put(key, key.as_bytes()).await);
    }
    let listed = done(store.list("list/").await);
    let keys: Vec<&str> = listed.iter().map(|record| record.key.as_str()).collect();
    assert_eq!(keys, inside);
    assert!(listed.iter().all(|record| record.value == record.key.as_bytes()));
    assert_eq!(done(store.list("list/\u{10ffff}").await).len(), 1);
    // A wildcard of SQL is a character like any other.
    assert_eq!(store.list("list%").await, Ok(Vec::new()));
    assert_eq!(done(store.list("list/_").await).len(), 1);
    let all = done(store.list("").await);
    assert!(all.len() > inside.len() && all.is_sorted_by_key(|record| record.key.clone().into_bytes()));
}

async fn a_value_that_is_too_long_is_refused_and_changes_nothing(store: &dyn Metadata) {
    let stamp = done(store.put("long", b"short").await);
    let long = vec![0; VALUE_BYTES_MAX + 1];
    assert!(matches!(store.put("long", &long).await, Err(MetadataError::Unavailable(_))));
    assert!(matches!(store.swap("long", Some(stamp), &long).await, Err(MetadataError::Unavailable(_))));
    assert_eq!(done(store.get("long").await).map(|record| record.stamp), Some(stamp));
}

async fn of_many_swaps_at_once_one_wins(store: &dyn Metadata) {
    let mut stamp = done(store.put("race", b"0").await);
    for _ in 0..10 {
        let expected = Some(stamp);
        let (a, b, c) = tokio::join!(
            store.swap("race", expected, b"a"),
            store.swap("race", expected, b"b"),
            store.swap("race", expected, b"c")
        );
        let won: Vec<Stamp> = [&a, &b, &c].into_iter().flatten().copied().collect();
        assert_eq!(won.len(), 1, "{a:?} {b:?} {c:?}");
        for new in won {
            stamp = new;
        }
    }
    assert_eq!(done(store.get("race").await).map(|record| record.stamp), Some(stamp));
}

async fn contents(store: &dyn Metadata) -> Vec<(String, Vec<u8>)> {
    done(store.list("").await).into_iter().map(|record| (record.key, record.value)).collect()
}

async fn a_store_is_filled_whole_or_not_at_all(store: &dyn Metadata) {
    let before = contents(store).await;
    let stamp = done(store.put("filled/1", b"before").await);
    let one = vec![("filled/1".to_owned(), b"1".to_vec()), ("filled/2".to_owned(), Vec::new())];
    let refused = store.fill(one.clone(), Existing::Refuse).await;
    assert!(matches!(refused, Err(MetadataError::Changed { .. })), "{refused:?}");
    let long = [&one[..], &[("long".to_owned(), vec![0; VALUE_BYTES_MAX + 1])]].concat();
    assert!(matches!(store.fill(long, Existing::Replace).await, Err(MetadataError::Unavailable(_))));
    assert_eq!(contents(store).await.len(), before.len() + 1);
    assert_eq!(done(store.get("filled/1").await).map(|record| record.stamp), Some(stamp));

    assert_eq!(store.fill(one.clone(), Existing::Replace).await, Ok(()));
    assert_eq!(contents(store).await, one);
    assert_eq!(store.swap("filled/1", Some(stamp), b"x").await, Err(changed("filled/1")));
    assert_eq!(store.fill(Vec::new(), Existing::Replace).await, Ok(()));
    assert_eq!(store.fill(one.clone(), Existing::Refuse).await, Ok(()));
    assert_eq!(contents(store).await, one);
}

async fn no_list_shows_a_part_of_what_was_filled(store: &dyn Metadata) {
    let all = |value: u8| (0..200).map(|n| (format!("moment/{n:03}"), vec![value])).collect::<Vec<_>>();
    done(store.fill(all(0), Existing::Replace).await);
    for value in 1..10 {
        let (filled, one, two) =
            tokio::join!(store.fill(all(value), Existing::Replace), store.list(""), store.list(""));
        done(filled);
        for listed in [one, two] {
            let values: Vec<_> = done(listed).into_iter().map(|record| record.value).collect();
            assert!(values.len() == 200 && values.windows(2).all(|pair| pair.first() == pair.last()));
        }
    }
}
