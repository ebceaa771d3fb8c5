//! A request as the emulator sees it, and what it answers: JSON, or an error of ARM's shape.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// With the case in which it came, decoded.
    pub(super) segments: Vec<String>,
    /// Names in lower case.
    pub(super) query: BTreeMap<String, String>,
    /// Names in lower case.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// `target` is the path with its query.
    pub(super) fn new(
        method: &str,
        target: &str,
        headers: BTreeMap<String, String>,
        body: Vec<u8>,
    ) -> Option<Self> {
        let url = url::Url::parse("https://emulator").ok()?.join(target).ok()?;
        let decoded = |segment: &str| {
            // A form's decoder takes `+` for a space, which a path does not.
            let pair = segment.replace('+', "%2B");
            url::form_urlencoded::parse(pair.as_bytes())
                .next()
                .map(|(name, _)| name.into_owned())
                .unwrap_or_default()
        };
        let segments = url.path_segments()?.filter(|segment| !segment.is_empty()).map(decoded).collect();
        let query =
            url.query_pairs().map(|(name, value)| (name.to_lowercase(), value.into_owned())).collect();
        Some(Self { method: method.to_owned(), segments, query, headers, body })
    }

    pub(super) fn path(&self) -> String {
        format!("/{}", self.segments.join("/"))
    }

    pub(super) fn query(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(super) fn json(&self) -> Result<Value, ArmError> {
        if self.body.is_empty() {
            return Ok(json!({}));
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            ArmError::new(
                400,
                "InvalidRequestContent",
                format!("The request content was invalid and could not be deserialized: '{error}'."),
            )
        })
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self::empty(status)
            .header("content-type", "application/json; charset=utf-8")
            .bytes(body.to_string().into_bytes())
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn bytes(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }
}

/// An error as ARM writes it.
#[derive(Debug, Clone)]
pub(super) struct ArmError {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
    pub(super) retry_after_s: Option<u64>,
}

impl ArmError {
    pub(super) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), retry_after_s: None }
    }

    pub(super) fn not_emulated(what: &str) -> Self {
        Self::new(501, "NotEmulated", format!("The emulator does not know {what}."))
    }

    pub(super) fn body(&self) -> Value {
        json!({ "code": self.code, "message": self.message })
    }
}

impl From<ArmError> for Answer {
    fn from(error: ArmError) -> Self {
        let answer = Self::json(error.status, &json!({ "error": error.body() }));
        match error.retry_after_s {
            Some(seconds) => answer.header("retry-after", seconds.to_string()),
            None => answer,
        }
    }
}
