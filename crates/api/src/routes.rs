//! [`Router`]: axum's, which also knows what it serves, so that the OpenAPI document can be made from it and not from a list beside it.

use axum::routing::{MethodFilter, MethodRouter};

/// The names of methods, as OpenAPI writes them.
const NAMES: [(MethodFilter, &str); 5] = [
    (MethodFilter::GET, "get"),
    (MethodFilter::PUT, "put"),
    (MethodFilter::POST, "post"),
    (MethodFilter::PATCH, "patch"),
    (MethodFilter::DELETE, "delete"),
];

/// An operation that is served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Served {
    /// As it is matched: normalised, with `{…}` for names.
    pub(crate) path: String,
    /// `get`.
    pub(crate) method: &'static str,
}

/// The methods of a path.
#[derive(Debug)]
pub(crate) struct Methods<S> {
    router: MethodRouter<S>,
    names: Vec<&'static str>,
}

impl<S> Methods<S> {
    /// What `router` has for these methods.
    pub(crate) fn new(router: MethodRouter<S>, methods: &[MethodFilter]) -> Self {
        let is_wanted = |(filter, _): &&(MethodFilter, &str)| methods.contains(filter);
        Self { router, names: NAMES.iter().filter(is_wanted).map(|(_, name)| *name).collect() }
    }
}

/// Routes and their handlers.
#[derive(Debug)]
pub(crate) struct Router<S> {
    router: axum::Router<S>,
    served: Vec<Served>,
}

impl<S: Clone + Send + Sync + 'static> Router<S> {
    pub(crate) fn new() -> Self {
        Self { router: axum::Router::new(), served: Vec::new() }
    }

    pub(crate) fn route(mut self, path: &str, methods: Methods<S>) -> Self {
        self.served.extend(methods.names.iter().map(|method| Served { path: path.to_owned(), method }));
        Self { router: self.router.route(path, methods.router), served: self.served }
    }

    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.served.extend(other.served);
        Self { router: self.router.merge(other.router), served: self.served }
    }

    /// What is served.
    pub(crate) fn served(&self) -> &[Served] {
        &self.served
    }

    /// To be served.
    pub(crate) fn into_axum(self) -> axum::Router<S> {
        self.router
    }
}
