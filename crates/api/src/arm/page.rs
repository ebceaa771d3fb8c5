//! Lists in pages: `{"value": […], "nextLink": "https://…"}`.
//!
//! Invariant: following `nextLink` shows every element that was there all the time exactly once, whatever comes and goes meanwhile: a page begins
//! after the *key* of the last element shown, not at a position. Keys sort the list, and no two are equal.

use serde::Serialize;
use serde_json::Value;

use super::call::Call;
use super::error::ArmError;
use super::path::encode;

/// The query's name for the token of a further page; clients of the contract also know it without the dollar sign.
const TOKEN: &str = "$skipToken";
/// The query's name for a smaller page.
const TAKE: &str = "$take";

/// A page of a list.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Page {
    value: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_link: Option<String>,
}

/// An element's key, and what it is made from.
pub(crate) type Keyed<T> = (String, T);

/// The key that sorts from the newest to the oldest, told apart by `id`.
pub(crate) fn newest_first(time_ms: u64, id: &str) -> String {
    format!("{:020}-{id}", u64::MAX - time_ms)
}

/// The page that the call asks for; only its elements are rendered.
pub(crate) fn page<T>(
    call: &Call,
    elements: Vec<Keyed<T>>,
    render: impl FnMut(T) -> Result<Value, ArmError>,
) -> Result<Page, ArmError> {
    page_at_once(call, elements, |shown| shown.into_iter().map(render).collect())
}

/// The same where what the page's elements are rendered from is looked up for all of them at once. `render` keeps their order.
pub(crate) fn page_at_once<T>(
    call: &Call,
    mut elements: Vec<Keyed<T>>,
    render: impl FnOnce(Vec<T>) -> Result<Vec<Value>, ArmError>,
) -> Result<Page, ArmError> {
    let len_max = len_max(call)?;
    elements.sort_by(|(one, _), (other, _)| one.cmp(other));
    let first = token(call).map_or(0, |token| elements.partition_point(|(key, _)| key.as_str() <= token));
    let more = elements.len() > first + len_max;
    let (keys, shown): (Vec<String>, Vec<T>) = elements.into_iter().skip(first).take(len_max).unzip();
    let next_link = keys.last().filter(|_| more).map(|key| {
        call.link_to_self(&[("$filter", call.query("$filter")), (TAKE, call.query(TAKE)), (TOKEN, Some(key))])
    });
    Ok(Page { value: render(shown)?, next_link })
}

/// Most elements of the page that the call asks for.
pub(crate) fn len_max(call: &Call) -> Result<usize, ArmError> {
    match call.query(TAKE) {
        None => Ok(call.page_len_max()),
        Some(take) => take
            .parse()
            .ok()
            .filter(|take| *take > 0)
            .map(|take: usize| take.min(call.page_len_max()))
            .ok_or_else(|| ArmError::invalid(format!("{TAKE} must be a number from 1, not {take:?}"))),
    }
}

/// The key after which the page begins that the call asks for.
pub(crate) fn token(call: &Call) -> Option<&str> {
    call.query(TOKEN).or_else(|| call.query(&TOKEN[1..]))
}

/// A query of these pairs, encoded, leading `&` included; those without a value are left out.
pub(crate) fn query_of(pairs: &[(&str, Option<&str>)]) -> String {
    pairs.iter().filter_map(|(name, value)| value.map(|value| format!("&{name}={}", encode(value)))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Page, newest_first, page};
    use crate::arm::call::Call;

    const PATH: &str = "/subscriptions/s/resourcegroups/g/providers/p/vaults/v/replicationjobs";

    fn list(query: &str, names: &[&str]) -> Page {
        let call = Call::for_test(PATH, query, 2);
        let elements = names.iter().map(|name| ((*name).to_owned(), *name)).collect();
        page(&call, elements, |name| Ok(json!(name))).unwrap()
    }

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let names = ["a b", "c", "d", "e", "f"];
        let mut seen = Vec::new();
        let mut query = "$filter=x%20eq%20'y'".to_owned();
        for _ in 0..3 {
            let page = list(&query, &names);
            seen.extend(page.value);
            let Some(link) = page.next_link else { break };
            assert!(link.starts_with("https://cs.example:443/subscriptions/s/"), "{link}");
            assert!(
                link.contains("api-version=2024-04-01") && link.contains("$filter=x%20eq%20%27y%27"),
                "{link}"
            );
            link.split_once('?').unwrap().1.clone_into(&mut query);
        }
        assert_eq!(seen, names.map(Value::from));
    }

    #[test]
    fn what_comes_and_goes_between_two_pages_neither_repeats_nor_hides_the_rest() {
        let token = "$skipToken=b";
        assert_eq!(list(token, &["a", "a2", "c", "d"]).value, [json!("c"), json!("d")]);
        assert_eq!(list(token, &["c", "d"]).value, [json!("c"), json!("d")]);
        assert_eq!(list("skipToken=z", &["c"]), Page { value: vec![], next_link: None });
    }

    #[test]
    fn a_page_can_be_smaller_but_not_larger_than_the_limit() {
        assert_eq!(list("$take=1", &["a", "b"]).value.len(), 1);
        assert_eq!(list("$take=100", &["a", "b", "c"]).value.len(), 2);
        let call = Call::for_test(PATH, "$take=0", 2);
        assert!(page(&call, vec![("a".to_owned(), ())], |()| Ok(Value::Null)).is_err());
    }

    #[test]
    fn newer_comes_first() {
        assert!(newest_first(2000, "a") < newest_first(1000, "b"));
        assert!(newest_first(2000, "a") < newest_first(2000, "b"));
    }
}
