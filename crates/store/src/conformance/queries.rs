//! Queries: of an owner, in the order of the keys' bytes, page by page; and removing what is old.

use super::{Fixture, keys, one, owned, put};
use crate::{CHANGES_MAX, Expect, KEYS_MAX, Kind, LIMIT_MAX, Query, StoreError};

pub(super) fn run<F: Fixture>(fresh: &impl Fn() -> F) {
    keys_are_in_the_order_of_their_bytes(&fresh());
    pages_go_on_where_the_last_one_ended(&fresh());
    an_owner_has_his_own(&fresh());
    an_owner_can_change(&fresh());
    keys_that_are_named_are_found(&fresh());
    a_query_has_a_limit(&fresh());
    what_is_old_is_removed(&fresh());
}

/// In no language: "B" is before "a", "é" after "z", "_" between.
fn keys_are_in_the_order_of_their_bytes<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    let mut names =
        ["b", "a", "B", "A", "a-b", "a b", "ab", "aB", "_", "é", "z", "10", "9", "Z", "🦀", "\u{fffd}"];
    for name in names {
        one(&*store, put(Kind::Event, name, Expect::Absent, "1"));
    }
    names.sort_unstable();
    assert_eq!(keys(&store.list(&Query::all(Kind::Event)).unwrap()), names);
    let descending = Query { descending: true, ..Query::all(Kind::Event) };
    names.reverse();
    assert_eq!(keys(&store.list(&descending).unwrap()), names);
    for name in names {
        let after = Query { after: Some(name.to_owned()), ..Query::all(Kind::Event) };
        let found = store.list(&after).unwrap();
        let expected = names.iter().filter(|other| **other > name).count();
        assert_eq!(found.len(), expected, "after {name:?}");
    }
}

fn pages_go_on_where_the_last_one_ended<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    let names: Vec<String> = (0..25).map(|number| format!("{number:03}")).collect();
    let batch: Vec<_> = names.iter().map(|name| put(Kind::Audit, name, Expect::Absent, "1")).collect();
    store.commit(&batch).unwrap();
    for descending in [false, true] {
        let mut found = Vec::new();
        let mut query = Query { descending, limit: 10, ..Query::all(Kind::Audit) };
        loop {
            let page = store.list(&query).unwrap();
            assert!(page.len() <= 10);
            let Some(last) = page.last() else { break };
            query.after = Some(last.key.clone());
            found.extend(page.into_iter().map(|record| record.key));
        }
        if descending {
            found.reverse();
        }
        assert_eq!(found, names, "descending: {descending}");
    }
    let beyond = Query { after: Some("zzz".to_owned()), ..Query::all(Kind::Audit) };
    assert_eq!(store.list(&beyond).unwrap(), []);
}

fn an_owner_has_his_own<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    store
        .commit(&[
            owned(Kind::Job, "1", "web01"),
            owned(Kind::Job, "2", "db01"),
            owned(Kind::Job, "3", "web01"),
            owned(Kind::Job, "4", "WEB01"),
            put(Kind::Job, "5", Expect::Absent, "1"),
            owned(Kind::Job, "6", "web01"),
            owned(Kind::Event, "7", "web01"),
        ])
        .unwrap();
    let of = |owner: &str| Query { owner: Some(owner.to_owned()), ..Query::all(Kind::Job) };
    assert_eq!(keys(&store.list(&of("web01")).unwrap()), ["1", "3", "6"]);
    let newest = Query { descending: true, limit: 1, ..of("web01") };
    assert_eq!(keys(&store.list(&newest).unwrap()), ["6"]);
    let next = Query { descending: true, after: Some("6".to_owned()), limit: 1, ..of("web01") };
    assert_eq!(keys(&store.list(&next).unwrap()), ["3"]);
    assert_eq!(store.list(&of("web0")).unwrap(), []);
    assert_eq!(store.list(&Query::all(Kind::Job)).unwrap().len(), 6);
}

fn an_owner_can_change<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    let of = |owner: &str| Query { owner: Some(owner.to_owned()), ..Query::all(Kind::Item) };
    one(&*store, owned(Kind::Item, "web01", "old"));
    one(&*store, owned(Kind::Item, "web01", "new"));
    assert_eq!((store.list(&of("old")).unwrap().len(), store.list(&of("new")).unwrap().len()), (0, 1));
    one(&*store, put(Kind::Item, "web01", Expect::Any, "1"));
    assert_eq!(store.list(&of("new")).unwrap(), []);
    assert_eq!(store.get(Kind::Item, "web01").unwrap().unwrap().owner, None);
}

fn keys_that_are_named_are_found<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    let kinds = [Kind::Job, Kind::Job, Kind::Job, Kind::Event];
    let batch: Vec<_> =
        kinds.into_iter().zip(["a", "b", "c", "d"]).map(|(kind, key)| owned(kind, key, "o")).collect();
    store.commit(&batch).unwrap();
    let of = |named: &[&str]| Query {
        keys: Some(named.iter().map(ToString::to_string).collect()),
        ..Query::all(Kind::Job)
    };
    assert_eq!(keys(&store.list(&of(&["c", "x", "a", "d", "a"])).unwrap()), ["a", "c"]);
    assert_eq!(store.list(&of(&[])).unwrap(), [], "none is not all");
    let rest = Query { after: Some("a".to_owned()), owner: Some("o".to_owned()), ..of(&["a", "b", "c"]) };
    assert_eq!(keys(&store.list(&rest).unwrap()), ["b", "c"]);
    let most = vec!["b"; KEYS_MAX];
    assert_eq!(keys(&store.list(&of(&most)).unwrap()), ["b"]);
    let more = store.list(&of(&["b"; KEYS_MAX + 1]));
    assert!(matches!(more, Err(StoreError::Invalid { .. })), "{more:?}");
}

fn a_query_has_a_limit<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    let names: Vec<String> = (0..=LIMIT_MAX).map(|number| format!("{number:06}")).collect();
    for part in names.chunks(CHANGES_MAX) {
        let batch: Vec<_> = part.iter().map(|name| put(Kind::Event, name, Expect::Absent, "1")).collect();
        store.commit(&batch).unwrap();
    }
    let query = Query { limit: usize::MAX, ..Query::all(Kind::Event) };
    let found = store.list(&query).unwrap();
    assert_eq!(keys(&found), names[..LIMIT_MAX].iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(store.list(&Query { limit: 0, ..query }).unwrap(), []);
}

fn what_is_old_is_removed<F: Fixture>(fixture: &F) {
    let store = fixture.open();
    let batch: Vec<_> = ["1", "2", "3", "4"]
        .iter()
        .flat_map(|name| [put(Kind::Event, name, Expect::Any, "1"), put(Kind::Audit, name, Expect::Any, "1")])
        .collect();
    store.commit(&batch).unwrap();
    assert_eq!(store.prune(Kind::Event, "3").unwrap(), 2);
    assert_eq!(store.prune(Kind::Event, "3").unwrap(), 0);
    assert_eq!(keys(&store.list(&Query::all(Kind::Event)).unwrap()), ["3", "4"]);
    assert_eq!(store.list(&Query::all(Kind::Audit)).unwrap().len(), 4, "of another kind");
}
