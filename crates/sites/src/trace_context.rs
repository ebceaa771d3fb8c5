//! Whose trace something is a part of, as text: W3C Trace Context (<https://www.w3.org/TR/trace-context/>, sections 3.2 and 3.3).
//!
//! What it is: the two headers of a request that came or goes, against the spans of `tracing`. What it never does: make a trace: where none is sent to a
//! collector, what is asked of others carries nothing, and what came with a request is forgotten.
//!
//! A request comes with `traceparent`: [`follow`] makes its span a child of that; what is sent while the span is entered has [`current`] in its headers, and
//! so has the job that it began, whose tasks follow it in their turn.

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The header that says whose child a request is.
pub const TRACEPARENT: &str = "traceparent";
/// The header of what else collectors keep with a trace.
pub const TRACESTATE: &str = "tracestate";

/// The headers, by their names.
pub type TraceHeaders = HashMap<String, String>;

/// Makes a span that nobody has entered yet a part of the trace that these name, sampled if that is. What is malformed names none.
pub fn follow(span: &Span, headers: &TraceHeaders) {
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), headers);
    if parent.span().span_context().is_valid() {
        // Refused by a span that is entered already, or where nothing is traced.
        let _ = span.set_parent(parent);
    }
}

/// What says to others that they work for the current span; empty where nothing is traced.
#[must_use]
pub fn current() -> TraceHeaders {
    let mut headers = TraceHeaders::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut headers);
    headers.retain(|_, value| !value.is_empty());
    headers
}

#[cfg(test)]
mod tests {
    use super::{current, follow};

    #[test]
    fn without_a_collector_nothing_is_carried() {
        let span = tracing::info_span!("request");
        follow(
            &span,
            &[("traceparent".into(), format!("00-{}-{}-01", "a".repeat(32), "b".repeat(16)))].into(),
        );
        assert!(span.in_scope(current).is_empty());
    }
}
