//! [`Operation`]: a route of ours with its handler and what the OpenAPI document says of it, in one place: none is without the other.

use serde_json::Value;

use super::schema;
use crate::service::Handler;

/// Larger numbers make no sense, and some of them are refused.
const TAKE_MAX: u32 = u32::MAX;

/// What an operation answers when it succeeds.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// 200 and JSON.
    Body(Value),
    /// 200 and something else, of a media type.
    Other(&'static str),
    /// 202: a job.
    Accepted,
    /// 202 while it runs, then 200 and JSON, or 204.
    Result(Value),
    /// 204.
    NoContent,
}

/// What the document says of an operation.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    /// As people write it; it is normalised to be matched. Without a slash before it: below the vault.
    pub(crate) path: &'static str,
    /// `get`.
    pub(crate) method: &'static str,
    pub(crate) summary: &'static str,
    /// Parameters of the query: name, schema, what for.
    pub(crate) query: Vec<(&'static str, Value, &'static str)>,
    pub(crate) body: Option<Value>,
    pub(crate) outcome: Outcome,
}

impl Description {
    pub(crate) fn new(
        method: &'static str,
        path: &'static str,
        summary: &'static str,
        outcome: Outcome,
    ) -> Self {
        Self { path, method, summary, query: Vec::new(), body: None, outcome }
    }

    pub(crate) fn query(mut self, name: &'static str, schema: Value, what: &'static str) -> Self {
        self.query.push((name, schema, what));
        self
    }

    pub(crate) fn takes(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }
}

/// A route of ours.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) handler: Handler,
    pub(crate) description: Description,
}

impl Operation {
    /// One that takes a parameter in its query.
    pub(crate) fn query(mut self, name: &'static str, schema: Value, what: &'static str) -> Self {
        self.description = self.description.query(name, schema, what);
        self
    }

    /// One that takes `{"properties": …}`.
    pub(crate) fn takes(mut self, properties: Value) -> Self {
        self.description = self.description.takes(schema::body(properties));
        self
    }
}

fn operation(
    method: &'static str,
    path: &'static str,
    handler: Handler,
    summary: &'static str,
    outcome: Outcome,
) -> Operation {
    Operation { handler, description: Description::new(method, path, summary, outcome) }
}

/// Shows something.
pub(crate) fn get(path: &'static str, handler: Handler, summary: &'static str, answer: Value) -> Operation {
    operation("get", path, handler, summary, Outcome::Body(answer))
}

/// Shows a list, in pages.
pub(crate) fn get_page(
    path: &'static str,
    handler: Handler,
    summary: &'static str,
    element: Value,
) -> Operation {
    get(path, handler, summary, schema::page(element))
        .query("$take", schema::count_within(1, TAKE_MAX), "elements of a page, at most")
        .query("$skipToken", schema::text(), "from a `nextLink`")
}

/// Shows plain text.
pub(crate) fn get_text(path: &'static str, handler: Handler, summary: &'static str) -> Operation {
    operation("get", path, handler, summary, Outcome::Other("text/plain"))
}

/// Gives a file of a media type.
pub(crate) fn get_file(
    path: &'static str,
    handler: Handler,
    summary: &'static str,
    media_type: &'static str,
) -> Operation {
    operation("get", path, handler, summary, Outcome::Other(media_type))
}

/// Makes or changes something.
pub(crate) fn put(path: &'static str, handler: Handler, summary: &'static str, answer: Value) -> Operation {
    operation("put", path, handler, summary, Outcome::Body(answer))
}

/// Does something at once.
pub(crate) fn post(path: &'static str, handler: Handler, summary: &'static str, answer: Value) -> Operation {
    operation("post", path, handler, summary, Outcome::Body(answer))
}

/// Removes something; that it is not there is no error.
pub(crate) fn delete(path: &'static str, handler: Handler, summary: &'static str) -> Operation {
    operation("delete", path, handler, summary, Outcome::NoContent)
}

/// Begins a job.
pub(crate) fn begin(
    method: &'static str,
    path: &'static str,
    handler: Handler,
    summary: &'static str,
) -> Operation {
    operation(method, path, handler, summary, Outcome::Accepted)
}

/// Shows a job's result.
pub(crate) fn get_result(
    path: &'static str,
    handler: Handler,
    summary: &'static str,
    answer: Value,
) -> Operation {
    operation("get", path, handler, summary, Outcome::Result(answer))
}
