//! Long lists: what was asked for of them (find, filters, order, page), and the addresses of the same list asked otherwise. Everything is in the
//! address, so it can be kept and handed on.

use crate::visit::Visit;
use switchback_api::encode;

/// Rows of a page.
pub(crate) const PAGE_LEN: usize = 50;

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) q: String,
    pub(crate) state: String,
    pub(crate) health: String,
    pub(crate) sort: String,
    pub(crate) severity: String,
    pub(crate) object: String,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct List {
    path: String,
    /// What its elements are called: `machines`.
    what: &'static str,
    pub(crate) asked: Asked,
    /// Which page, from 1.
    pub(crate) page: usize,
    /// How many there are, whatever was asked for.
    pub(crate) total: usize,
    /// How many are as was asked for.
    pub(crate) found: usize,
}

impl List {
    /// What was asked for of the list at `path`; nothing has been found yet.
    pub(crate) fn asked(visit: &Visit, path: impl Into<String>, what: &'static str) -> Self {
        let said = |name: &str| visit.query(name).to_owned();
        let asked = Asked {
            q: said("q"),
            state: said("state"),
            health: said("health"),
            sort: said("sort"),
            severity: said("severity"),
            object: said("object"),
        };
        let page = visit.query("page").parse().unwrap_or(1).max(1);
        Self { path: path.into(), what, asked, page, total: 0, found: 0 }
    }

    /// Keeps of all that were found those of the page that was asked for.
    pub(crate) fn cut<T>(&mut self, found: Vec<T>) -> Vec<T> {
        self.found = found.len();
        self.page = self.page.min(self.pages());
        found.into_iter().skip((self.page - 1) * PAGE_LEN).take(PAGE_LEN).collect()
    }

    pub(crate) fn pages(&self) -> usize {
        self.found.div_ceil(PAGE_LEN).max(1)
    }

    /// Whether all that is looked for is in one of some texts, in whatever case.
    pub(crate) fn finds(&self, texts: &[&str]) -> bool {
        let wanted = self.asked.q.to_lowercase();
        wanted.split_whitespace().all(|word| texts.iter().any(|text| text.to_lowercase().contains(word)))
    }

    pub(crate) fn caption(&self) -> String {
        let (total, found) = (self.total, self.found);
        let what = if total == 1 { self.what.trim_end_matches('s') } else { self.what };
        if found == total { format!("{total} {what}") } else { format!("{found} of {total} {what}") }
    }

    pub(crate) fn is_sorted(&self, key: &str) -> bool {
        !key.is_empty() && self.asked.sort == key
    }

    /// The same list in another order.
    pub(crate) fn sorted(&self, key: &str) -> String {
        self.address(key, 1)
    }

    pub(crate) fn previous(&self) -> Option<String> {
        (self.page > 1).then(|| self.address(&self.asked.sort, self.page - 1))
    }

    pub(crate) fn next(&self) -> Option<String> {
        (self.page < self.pages()).then(|| self.address(&self.asked.sort, self.page + 1))
    }

    fn address(&self, sort: &str, page: usize) -> String {
        let Asked { q, state, health, severity, object, .. } = &self.asked;
        let page = if page > 1 { page.to_string() } else { String::new() };
        let said = [
            ("q", q.as_str()),
            ("state", state),
            ("health", health),
            ("severity", severity),
            ("object", object),
            ("sort", sort),
            ("page", &page),
        ];
        let said = said.iter().filter(|(_, value)| !value.is_empty());
        let said: Vec<_> = said.map(|(name, value)| format!("{name}={}", encode(value))).collect();
        if said.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, said.join("&")) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Asked, List, PAGE_LEN};

    fn list(q: &str, page: usize) -> List {
        let asked = Asked { q: q.into(), sort: "name".into(), ..Asked::default() };
        List { path: "/portal/things".into(), what: "things", asked, page, total: 120, found: 0 }
    }

    #[test]
    fn a_list_is_cut_into_pages_and_none_is_beyond_the_last() {
        let mut first = list("", 1);
        assert_eq!(first.cut((0..120).collect()).len(), PAGE_LEN);
        assert_eq!((first.previous(), first.next()), (None, Some("/portal/things?sort=name&page=2".into())));
        let mut beyond = list("", 99);
        assert_eq!(beyond.cut((0..120).collect()), (100..120).collect::<Vec<_>>());
        assert_eq!((beyond.page, beyond.next()), (3, None));
        let mut none = list("", 5);
        assert_eq!((none.cut(Vec::<u8>::new()).len(), none.pages(), none.page), (0, 1, 1));
    }

    #[test]
    fn every_word_is_looked_for_in_whatever_case_and_survives_in_addresses() {
        let list = list("WEB <b>&", 1);
        assert!(list.finds(&["web01", "<B>&"]) && !list.finds(&["web01"]));
        assert_eq!(list.sorted("rpo"), "/portal/things?q=WEB%20%3Cb%3E%26&sort=rpo");
        assert_eq!(list.caption(), "0 of 120 things");
        assert_eq!(List { total: 1, found: 1, ..list }.caption(), "1 thing");
    }
}
