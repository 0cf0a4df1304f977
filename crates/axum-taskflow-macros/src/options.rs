//! What can stand between the brackets of `#[task(…)]`.

use std::time::Duration;

use darling::{Error, FromMeta, Result, ast::NestedMeta};
use proc_macro2::{Literal, TokenStream};
use quote::{ToTokens, quote};
use syn::{Expr, Lit, LitStr, Meta, UnOp};

/// The options as they were written; what was not written says nothing.
#[derive(Debug, Default, FromMeta)]
#[darling(default)]
pub(crate) struct Options {
    #[darling(with = read_name)]
    pub(crate) name: Option<LitStr>,
    #[darling(with = read_aliases)]
    pub(crate) aliases: Vec<LitStr>,
    #[darling(with = read_retries)]
    retries: Option<u32>,
    #[darling(with = read_wait)]
    delay: Option<Duration>,
    #[darling(with = read_backoff)]
    backoff: Option<f64>,
    #[darling(with = read_wait)]
    max_delay: Option<Duration>,
    #[darling(with = read_jitter)]
    jitter: Option<f64>,
    #[darling(with = read_timeout)]
    timeout: Option<Duration>,
    #[darling(with = read_priority)]
    priority: Option<i32>,
    #[darling(with = read_switch)]
    requeue_on_interrupt: Option<bool>,
    #[darling(with = read_wait)]
    idempotency_ttl: Option<Duration>,
}

impl Options {
    pub(crate) fn parse(tokens: TokenStream) -> Result<Self> {
        Self::from_list(&NestedMeta::parse_meta_list(tokens)?)
    }

    /// The fields of a `TaskOptions` that were written, in that type's order.
    pub(crate) fn fields(&self) -> Vec<TokenStream> {
        // All of them by name: a new option that is forgotten here does not compile.
        let Self {
            name: _,
            aliases: _,
            retries,
            delay,
            backoff,
            max_delay,
            jitter,
            timeout,
            priority,
            requeue_on_interrupt,
            idempotency_ttl,
        } = self;
        let fields = [
            field(quote!(retries), retries, |n| {
                tokens(Literal::u32_unsuffixed(n))
            }),
            field(quote!(delay), delay, duration),
            field(quote!(backoff), backoff, |n| {
                tokens(Literal::f64_unsuffixed(n))
            }),
            field(quote!(max_delay), max_delay, duration),
            field(quote!(jitter), jitter, |n| {
                tokens(Literal::f64_unsuffixed(n))
            }),
            field(quote!(timeout), timeout, duration),
            field(quote!(priority), priority, |n| {
                tokens(Literal::i32_unsuffixed(n))
            }),
            field(quote!(requeue_on_interrupt), requeue_on_interrupt, tokens),
            field(quote!(idempotency_ttl), idempotency_ttl, duration),
        ];
        fields.into_iter().flatten().collect()
    }
}

fn field<T: Copy>(
    name: TokenStream,
    value: &Option<T>,
    write: impl Fn(T) -> TokenStream,
) -> Option<TokenStream> {
    let value = write((*value)?);
    Some(quote!(#name: ::core::option::Option::Some(#value)))
}

fn tokens(value: impl ToTokens) -> TokenStream {
    value.into_token_stream()
}

/// As somebody would write it: in seconds if they are whole.
fn duration(value: Duration) -> TokenStream {
    let seconds = Literal::u64_unsuffixed(value.as_secs());
    match (value.subsec_nanos(), u64::try_from(value.as_millis())) {
        (0, _) => quote!(::core::time::Duration::from_secs(#seconds)),
        (nanos, Ok(millis)) if nanos % 1_000_000 == 0 => {
            let millis = Literal::u64_unsuffixed(millis);
            quote!(::core::time::Duration::from_millis(#millis))
        }
        (nanos, _) => {
            let nanos = Literal::u32_unsuffixed(nanos);
            quote!(::core::time::Duration::new(#seconds, #nanos))
        }
    }
}

/// Longest name of a function, in bytes; the engine refuses longer ones when the program starts.
const NAME_BYTES_MAX: usize = 256;

fn read_name(meta: &Meta) -> Result<Option<LitStr>> {
    match literal(meta) {
        Some((false, Lit::Str(name))) => checked_name(name).map(Some),
        _ => Err(wrong(meta, "the name is a string: `name = \"send_email\"`")),
    }
}

fn read_aliases(meta: &Meta) -> Result<Vec<LitStr>> {
    let form = "the aliases are strings in brackets: `aliases(\"old_name\", \"older_name\")`";
    let Meta::List(list) = meta else {
        return Err(wrong(meta, form));
    };
    let mut errors = Error::accumulator();
    let mut names = Vec::new();
    for item in NestedMeta::parse_meta_list(list.tokens.clone())? {
        let name = match &item {
            NestedMeta::Lit(Lit::Str(name)) => checked_name(name),
            other => Err(Error::custom(form).with_span(other)),
        };
        names.extend(errors.handle(name));
    }
    if names.is_empty() && list.tokens.is_empty() {
        errors.push(wrong(meta, form));
    }
    errors.finish_with(names)
}

fn checked_name(name: &LitStr) -> Result<LitStr> {
    let value = name.value();
    let complaint = if value.is_empty() {
        "a task's name must not be empty".to_owned()
    } else if value.len() > NAME_BYTES_MAX {
        format!(
            "a task's name must have at most {NAME_BYTES_MAX} bytes, and this one has {}",
            value.len()
        )
    } else if value.chars().any(char::is_control) {
        "a task's name must not have control characters".to_owned()
    } else {
        return Ok(name.clone());
    };
    Err(Error::custom(complaint).with_span(name))
}

fn read_retries(meta: &Meta) -> Result<Option<u32>> {
    match literal(meta) {
        Some((false, Lit::Int(n))) if n.suffix().is_empty() => match n.base10_parse() {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(wrong(meta, format!("`retries` is at most {}", u32::MAX))),
        },
        _ => Err(wrong(
            meta,
            "`retries` is how many attempts may follow the first one, a whole number from 0 up: `retries = 3`",
        )),
    }
}

fn read_priority(meta: &Meta) -> Result<Option<i32>> {
    match literal(meta) {
        Some((negative, Lit::Int(n))) if n.suffix().is_empty() => {
            let sign = if negative { "-" } else { "" };
            match format!("{sign}{}", n.base10_digits()).parse() {
                Ok(n) => Ok(Some(n)),
                Err(_) => Err(wrong(
                    meta,
                    format!("`priority` lies between {} and {}", i32::MIN, i32::MAX),
                )),
            }
        }
        _ => Err(wrong(
            meta,
            "`priority` is a whole number, higher runs first: `priority = 5`",
        )),
    }
}

fn read_backoff(meta: &Meta) -> Result<Option<f64>> {
    match float(meta) {
        Some(n) if n >= 1.0 && n.is_finite() => Ok(Some(n)),
        _ => Err(wrong(
            meta,
            "`backoff` is how many times longer each wait is than the one before, a number of at least 1: `backoff = 2.0`",
        )),
    }
}

fn read_jitter(meta: &Meta) -> Result<Option<f64>> {
    match float(meta) {
        Some(n) if (0.0..=1.0).contains(&n) => Ok(Some(n)),
        _ => Err(wrong(
            meta,
            "`jitter` is the part of each wait that is left to chance, a number from 0 to 1: `jitter = 0.2`",
        )),
    }
}

fn read_switch(meta: &Meta) -> Result<Option<bool>> {
    match (meta, literal(meta)) {
        (Meta::Path(_), _) => Ok(Some(true)),
        (_, Some((false, Lit::Bool(on)))) => Ok(Some(on.value)),
        _ => Err(wrong(
            meta,
            format!("write `{0}`, or `{0} = false`", option(meta)),
        )),
    }
}

fn read_timeout(meta: &Meta) -> Result<Option<Duration>> {
    match read_wait(meta)? {
        Some(Duration::ZERO) => Err(wrong(
            meta,
            "`timeout` must be longer than zero; without the option there is no limit",
        )),
        timeout => Ok(timeout),
    }
}

fn read_wait(meta: &Meta) -> Result<Option<Duration>> {
    let option = option(meta);
    let forms = format!(
        "write `{option} = \"500ms\"`, `\"30s\"`, `\"5m\"`, `\"2h 30m\"` or a number of seconds"
    );
    let wait = match literal(meta) {
        Some((false, Lit::Str(text))) => humantime::parse_duration(&text.value())
            .map_err(|error| format!("{:?} is not a duration: {error}; {forms}", text.value())),
        Some((_, Lit::Int(n))) if !n.suffix().is_empty() => Err(format!(
            "a duration with a unit stands in quotes: `{option} = \"{n}\"`"
        )),
        Some((_, Lit::Float(n))) if !n.suffix().is_empty() => Err(format!(
            "a duration with a unit stands in quotes: `{option} = \"{n}\"`"
        )),
        Some((true, Lit::Int(_) | Lit::Float(_))) => {
            Err(format!("`{option}` must not be negative"))
        }
        Some((false, Lit::Int(n))) => n
            .base10_parse()
            .map(Duration::from_secs)
            .map_err(|_| format!("`{option}` is too long")),
        Some((false, Lit::Float(n))) => n
            .base10_parse()
            .map_err(|error| error.to_string())
            .and_then(|n| {
                Duration::try_from_secs_f64(n).map_err(|_| format!("`{option}` is too long"))
            }),
        _ => Err(format!("`{option}` is a duration: {forms}")),
    };
    wait.map(Some).map_err(|complaint| wrong(meta, complaint))
}

/// The number that was written, whole or not.
fn float(meta: &Meta) -> Option<f64> {
    let (negative, n): (bool, f64) = match literal(meta)? {
        (negative, Lit::Int(n)) if n.suffix().is_empty() => (negative, n.base10_parse().ok()?),
        (negative, Lit::Float(n)) if n.suffix().is_empty() => (negative, n.base10_parse().ok()?),
        _ => return None,
    };
    Some(if negative { -n } else { n })
}

/// The literal right of `=`, and whether a minus stands before it.
fn literal(meta: &Meta) -> Option<(bool, &Lit)> {
    let Meta::NameValue(pair) = meta else {
        return None;
    };
    let mut expr = &pair.value;
    let mut negative = false;
    loop {
        expr = match expr {
            Expr::Lit(lit) => return Some((negative, &lit.lit)),
            // What a macro_rules! passed on as `$delay:expr` comes in an invisible group.
            Expr::Group(group) => &group.expr,
            Expr::Unary(unary) if !negative && matches!(unary.op, UnOp::Neg(_)) => {
                negative = true;
                &unary.expr
            }
            _ => return None,
        }
    }
}

/// The name of the option.
fn option(meta: &Meta) -> String {
    darling::util::path_to_string(meta.path())
}

/// A complaint that points at what stands right of `=`, or at the whole option.
fn wrong(meta: &Meta, complaint: impl std::fmt::Display) -> Error {
    let error = Error::custom(complaint);
    match meta {
        Meta::NameValue(pair) => error.with_span(&pair.value),
        _ => error.with_span(meta),
    }
}
