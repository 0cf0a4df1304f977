//! What scripts answer, as words.

use axum_taskflow_core::BackendError;
use redis::Value;

/// An answer of the wrong shape: not from our scripts.
pub(crate) fn strange() -> BackendError {
    BackendError::unavailable("Redis gave an answer of an unknown shape")
}

pub(crate) fn list(value: Value) -> Result<Vec<Value>, BackendError> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(strange()),
    }
}

pub(crate) fn bytes(value: Value) -> Result<Vec<u8>, BackendError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        value => text(value).map(String::into_bytes),
    }
}

pub(crate) fn text(value: Value) -> Result<String, BackendError> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).map_err(|error| {
            BackendError::unavailable("Redis holds text that is not UTF-8").with_source(error)
        }),
        Value::SimpleString(text) => Ok(text),
        Value::Int(number) => Ok(number.to_string()),
        _ => Err(strange()),
    }
}

/// Nothing if the server says nil.
pub(crate) fn text_or_nothing(value: Value) -> Result<Option<String>, BackendError> {
    match value {
        Value::Nil | Value::Boolean(false) => Ok(None),
        value => text(value).map(Some),
    }
}

/// Text, and true; or what can be read of it, and false.
pub(crate) fn text_in_part(value: Value) -> Result<(String, bool), BackendError> {
    match value {
        Value::BulkString(bytes) => Ok(match String::from_utf8(bytes) {
            Ok(text) => (text, true),
            Err(error) => (
                String::from_utf8_lossy(error.as_bytes()).into_owned(),
                false,
            ),
        }),
        value => Ok((text(value)?, true)),
    }
}

/// Without the beginning of a character at the end of text that was cut anywhere.
pub(crate) fn whole_characters(mut value: Value) -> Value {
    if let Value::BulkString(bytes) = &mut value
        && let Err(error) = std::str::from_utf8(bytes)
        && error.error_len().is_none()
    {
        bytes.truncate(error.valid_up_to());
    }
    value
}

pub(crate) fn number(value: Value) -> Result<i64, BackendError> {
    match value {
        Value::Int(number) => Ok(number),
        value => crate::record::number(&text(value)?),
    }
}

/// The values in groups of `N`.
pub(crate) fn groups<const N: usize>(
    values: impl IntoIterator<Item = Value>,
) -> impl Iterator<Item = [Value; N]> {
    let mut values = values.into_iter();
    std::iter::from_fn(move || {
        let group: Vec<Value> = values.by_ref().take(N).collect();
        group.try_into().ok()
    })
}
