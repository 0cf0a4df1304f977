//! Spans of OpenTelemetry: where a task was added is stored with it, and the span of each attempt points there.

use std::{str::FromStr, sync::Arc};

use opentelemetry::trace::{
    SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{change::Change, trace_context::TraceContext};

/// The current span as it is stored; nothing if no trace is recorded here.
pub(crate) fn current() -> Option<Arc<str>> {
    let context = Span::current().context();
    let span = context.span();
    let here = span.span_context();
    if !here.is_valid() {
        return None;
    }
    let (trace_id, span_id) = (here.trace_id().to_string(), here.span_id().to_string());
    let parent = format!("00-{trace_id}-{span_id}-{:02x}", here.trace_flags().to_u8());
    let state = here.trace_state().header();
    Some(TraceContext::parse(&parent, &state)?.to_store())
}

/// Links the span of an attempt to the span in which its task was added. No child of it: that one is long over by the
/// time many tasks run.
pub(crate) fn link(span: &Span, stored: &str) {
    if let Some(context) = TraceContext::stored(stored).and_then(span_context) {
        span.add_link(context);
    }
}

fn span_context(stored: TraceContext<'_>) -> Option<SpanContext> {
    let is_remote = true; // another process may have added the task
    Some(SpanContext::new(
        TraceId::from_hex(stored.trace_id).ok()?,
        SpanId::from_hex(stored.span_id).ok()?,
        TraceFlags::new(stored.flags),
        is_remote,
        TraceState::from_str(stored.state).unwrap_or_default(),
    ))
}

/// Says on the current span, which is that of an attempt, if the attempt has failed.
pub(crate) fn ended(change: &Change) {
    if let Some(error) = &change.life.error {
        Span::current().set_status(Status::error(error.message.clone()));
    }
}
