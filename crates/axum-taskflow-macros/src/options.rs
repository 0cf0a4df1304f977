//! What can stand between the brackets of `#[task(…)]`.

use std::{fmt, str::FromStr, time::Duration};

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
    pub(crate) fn parse(tokens: TokenStream) -> syn::Result<Self> {
        parse(tokens, "#[task]")
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
            field(&quote!(retries), retries, |n| {
                tokens(Literal::u32_unsuffixed(n))
            }),
            field(&quote!(delay), delay, duration),
            field(&quote!(backoff), backoff, |n| {
                tokens(Literal::f64_unsuffixed(n))
            }),
            field(&quote!(max_delay), max_delay, duration),
            field(&quote!(jitter), jitter, |n| {
                tokens(Literal::f64_unsuffixed(n))
            }),
            field(&quote!(timeout), timeout, duration),
            field(&quote!(priority), priority, |n| {
                tokens(Literal::i32_unsuffixed(n))
            }),
            field(&quote!(requeue_on_interrupt), requeue_on_interrupt, tokens),
            field(&quote!(idempotency_ttl), idempotency_ttl, duration),
        ];
        fields.into_iter().flatten().collect()
    }
}

/// Reads what stands between the brackets of an attribute, or says everything that is wrong with it.
pub(crate) fn parse<T: FromMeta>(tokens: TokenStream, attribute: &str) -> syn::Result<T> {
    let parsed = NestedMeta::parse_meta_list(tokens)
        .map_err(Error::from)
        .and_then(
            |items| match items.iter().find(|item| matches!(item, NestedMeta::Lit(_))) {
                None => T::from_list(&items),
                Some(bare) => {
                    let option = meant_by(bare, attribute);
                    Err(Error::custom(format!("an option has a name: `{option}`")).with_span(bare))
                }
            },
        );
    parsed.map_err(|errors| {
        let errors = errors.flatten().into_iter();
        let mut errors = errors.map(|error| in_our_words(error, attribute));
        let first = errors.next().expect("an error has at least one part");
        errors.fold(first, |mut all, error| {
            all.combine(error);
            all
        })
    })
}

/// The option that somebody has most likely in mind who writes only its value.
fn meant_by(bare: &NestedMeta, attribute: &str) -> String {
    let text = match bare {
        NestedMeta::Lit(Lit::Str(text)) => Some(text.value()),
        _ => None,
    };
    match (attribute, text) {
        ("#[schedule]", Some(text)) if humantime::parse_duration(&text).is_err() => {
            format!("cron = {text:?}")
        }
        ("#[schedule]", text) => format!("every = {:?}", text.as_deref().unwrap_or("5m")),
        (_, Some(text)) => format!("name = {text:?}"),
        _ => "retries = 3".to_owned(),
    }
}

/// What others call an option of `#[schedule]`, among them our own `Schedule`.
const OTHER_WORDS: [(&str, &[&str]); 2] = [
    ("tz", &["zone", "timezone", "time_zone"]),
    ("every", &["interval", "period"]),
];

/// What only one of the two attributes has: whoever writes it into the other one is told.
const ONLY: [(&str, &[&str]); 2] = [
    (
        "#[task]",
        &[
            "aliases",
            "retries",
            "delay",
            "backoff",
            "max_delay",
            "timeout",
            "priority",
            "requeue_on_interrupt",
            "idempotency_ttl",
        ],
    ),
    (
        "#[schedule]",
        &[
            "cron",
            "tz",
            "every",
            "args",
            "missed",
            "overlap",
            "tolerance",
            "run_on_startup",
        ],
    ),
];

/// darling knows fields, and users know options.
fn in_our_words(error: Error, attribute: &str) -> syn::Error {
    // As syn's error it says no more than the message; the place is its span.
    let error = syn::Error::from(error);
    let text = error.to_string();
    match (
        text.strip_prefix("Unknown field: "),
        text.strip_prefix("Duplicate field "),
    ) {
        (Some(unknown), _) => {
            let name = unknown.split('`').nth(1).unwrap_or_default();
            let home = ONLY.iter().find(|(_, names)| names.contains(&name));
            let ours = OTHER_WORDS.iter().find(|(_, words)| words.contains(&name));
            let complaint = match (home, ours) {
                (Some((home, _)), _) => {
                    format!("`{attribute}` has no option `{name}`: it belongs into `{home}`")
                }
                (_, Some((ours, _))) if attribute == "#[schedule]" => {
                    format!("`{attribute}` has no option `{name}`: it is called `{ours}`")
                }
                _ => format!("`{attribute}` has no option {unknown}"),
            };
            syn::Error::new(error.span(), complaint)
        }
        (_, Some(twice)) => {
            syn::Error::new(error.span(), format!("the option {twice} is given twice"))
        }
        _ => error,
    }
}

fn field<T: Copy>(
    name: &TokenStream,
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
pub(crate) fn duration(value: Duration) -> TokenStream {
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
    name_of("task", "send_email", meta)
}

pub(crate) fn name_of(what: &str, example: &str, meta: &Meta) -> Result<Option<LitStr>> {
    match value(meta) {
        Value::Text(name) => checked_name(what, name).map(Some),
        _ => Err(wrong(
            meta,
            format!("the name is a string: `name = {example:?}`"),
        )),
    }
}

fn read_aliases(meta: &Meta) -> Result<Vec<LitStr>> {
    let form = "the aliases are strings in brackets: `aliases(\"old_name\", \"older_name\")`";
    let Meta::List(list) = meta else {
        return Err(wrong(meta, form));
    };
    let items = NestedMeta::parse_meta_list(list.tokens.clone())?;
    if items.is_empty() {
        return Err(wrong(meta, form));
    }
    let mut errors = Error::accumulator();
    let names = items.iter().filter_map(|item| {
        errors.handle(match item {
            NestedMeta::Lit(Lit::Str(name)) => checked_name("task", name),
            other => Err(Error::custom(form).with_span(other)),
        })
    });
    let names = names.collect();
    errors.finish_with(names)
}

fn checked_name(what: &str, name: &LitStr) -> Result<LitStr> {
    let value = name.value();
    let complaint = if value.is_empty() {
        format!("a {what}'s name must not be empty")
    } else if value.len() > NAME_BYTES_MAX {
        format!(
            "a {what}'s name must have at most {NAME_BYTES_MAX} bytes, and this one has {}",
            value.len()
        )
    } else if value.chars().any(char::is_control) {
        format!("a {what}'s name must not have control characters")
    } else {
        return Ok(name.clone());
    };
    Err(Error::custom(complaint).with_span(name))
}

fn read_retries(meta: &Meta) -> Result<Option<u32>> {
    let form = format!(
        "`retries` is how many attempts may follow the first one, a whole number from 0 to {}: `retries = 3`",
        u32::MAX
    );
    number(meta, form, |_| true)
}

fn read_priority(meta: &Meta) -> Result<Option<i32>> {
    let form = format!(
        "`priority` is a whole number from {} to {}, and higher runs first: `priority = 5`",
        i32::MIN,
        i32::MAX
    );
    number(meta, form, |_| true)
}

fn read_backoff(meta: &Meta) -> Result<Option<f64>> {
    let form = "`backoff` is how many times longer each wait is than the one before, a number of at least 1: \
        `backoff = 2.0`";
    number(meta, form, |n: &f64| *n >= 1.0 && n.is_finite())
}

fn read_jitter(meta: &Meta) -> Result<Option<f64>> {
    let form = "`jitter` is the part of each wait that is left to chance, a number from 0 to 1: `jitter = 0.2`";
    number(meta, form, |n| (0.0..=1.0).contains(n))
}

pub(crate) fn read_switch(meta: &Meta) -> Result<Option<bool>> {
    match (meta, value(meta)) {
        (Meta::Path(_), _) => Ok(Some(true)),
        (_, Value::Switch(on)) => Ok(Some(on)),
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
            "`timeout` must be longer than zero; for no limit, leave it out",
        )),
        timeout => Ok(timeout),
    }
}

pub(crate) fn read_wait(meta: &Meta) -> Result<Option<Duration>> {
    let option = option(meta);
    let form = format!(
        "write `{option} = \"500ms\"`, `\"30s\"`, `\"5m\"`, `\"2h 30m\"` or a number of seconds"
    );
    let wait = match value(meta) {
        Value::Text(text) => humantime::parse_duration(&text.value())
            .map_err(|error| format!("{:?} is not a duration ({error}); {form}", text.value())),
        Value::Number { digits, suffix: "" } if digits.starts_with('-') => {
            Err(format!("`{option}` must not be negative"))
        }
        // Whole seconds first: a float would round those beyond 2^53.
        Value::Number { digits, suffix: "" } => match (digits.parse(), digits.parse()) {
            (Ok(seconds), _) => Ok(Duration::from_secs(seconds)),
            (_, Ok(seconds)) => Duration::try_from_secs_f64(seconds)
                .map_err(|_| format!("`{option}` is longer than any clock counts")),
            _ => Err(format!("`{option}` is a duration: {form}")),
        },
        Value::Number { digits, suffix } => Err(format!(
            "a duration with a unit stands in quotes: `{option} = \"{digits}{suffix}\"`"
        )),
        _ => Err(format!("`{option}` is a duration: {form}")),
    };
    wait.map(Some).map_err(|complaint| wrong(meta, complaint))
}

fn number<T: FromStr>(
    meta: &Meta,
    form: impl fmt::Display,
    allowed: impl Fn(&T) -> bool,
) -> Result<Option<T>> {
    match value(meta) {
        Value::Number { digits, suffix: "" } => digits.parse().ok().filter(allowed),
        _ => None,
    }
    .map(Some)
    .ok_or_else(|| wrong(meta, form))
}

/// What stands right of `=`.
pub(crate) enum Value<'a> {
    Text(&'a LitStr),
    Switch(bool),
    /// In decimal, with its sign; `5s` has the suffix `s`.
    Number {
        digits: String,
        suffix: &'a str,
    },
    /// Nothing, or nothing that an option can be.
    Other,
}

pub(crate) fn value(meta: &Meta) -> Value<'_> {
    let Meta::NameValue(pair) = meta else {
        return Value::Other;
    };
    let mut expr = &pair.value;
    let mut sign = "";
    loop {
        expr = match expr {
            Expr::Lit(lit) => return literal(sign, &lit.lit),
            // What a `macro_rules!` passes on as `$delay:expr` may come in an invisible group.
            Expr::Group(group) => &group.expr,
            // The minus is part of the literal in the last option, and an operator in those before.
            Expr::Unary(unary) if sign.is_empty() && matches!(unary.op, UnOp::Neg(_)) => {
                sign = "-";
                &unary.expr
            }
            _ => return Value::Other,
        }
    }
}

fn literal<'a>(sign: &str, lit: &'a Lit) -> Value<'a> {
    match lit {
        Lit::Str(text) if sign.is_empty() => Value::Text(text),
        Lit::Bool(on) if sign.is_empty() => Value::Switch(on.value),
        Lit::Int(n) => Value::Number {
            digits: format!("{sign}{}", n.base10_digits()),
            suffix: n.suffix(),
        },
        Lit::Float(n) => Value::Number {
            digits: format!("{sign}{}", n.base10_digits()),
            suffix: n.suffix(),
        },
        _ => Value::Other,
    }
}

/// The name of the option.
fn option(meta: &Meta) -> String {
    darling::util::path_to_string(meta.path())
}

/// A complaint that points at what stands right of `=`, or at the whole option.
pub(crate) fn wrong(meta: &Meta, complaint: impl fmt::Display) -> Error {
    let error = Error::custom(complaint);
    match meta {
        Meta::NameValue(pair) => error.with_span(&pair.value),
        _ => error.with_span(meta),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> std::result::Result<Options, Vec<String>> {
        Options::parse(text.parse().unwrap())
            .map_err(|errors| errors.into_iter().map(|error| error.to_string()).collect())
    }

    fn fields(text: &str) -> String {
        let fields = parsed(text).unwrap().fields();
        quote!(#(#fields),*).to_string().replace(' ', "")
    }

    #[test]
    fn a_duration_is_a_string_with_units_or_a_number_of_seconds() {
        for (written, duration) in [
            ("\"500ms\"", Duration::from_millis(500)),
            ("\"1s\"", Duration::from_secs(1)),
            ("\"5m\"", Duration::from_secs(300)),
            ("\"2h 30m\"", Duration::from_secs(9_000)),
            ("\"1d\"", Duration::from_secs(86_400)),
            ("5", Duration::from_secs(5)),
            ("0.5", Duration::from_millis(500)),
            ("0", Duration::ZERO),
            ("1e3", Duration::from_secs(1_000)),
            ("1_000", Duration::from_secs(1_000)),
            ("18446744073709551615", Duration::from_secs(u64::MAX)),
        ] {
            for option in ["delay", "max_delay", "idempotency_ttl"] {
                let options = parsed(&format!("{option} = {written}")).unwrap();
                let read = [options.delay, options.max_delay, options.idempotency_ttl];
                assert_eq!(
                    read.into_iter().flatten().collect::<Vec<_>>(),
                    [duration],
                    "{option} = {written}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for written in [
            "\"\"",
            "\"5\"",
            "\"-5s\"",
            "\"soon\"",
            "\"1 fortnight\"",
            "-1",
            "-0.5",
            "1e30",
            "5s",
            "1.5h",
            "f64::NAN",
            "true",
            "'5'",
            "99999999999999999999999999",
        ] {
            let errors = parsed(&format!("delay = {written}")).unwrap_err();
            assert_eq!(errors.len(), 1, "{written}: {errors:?}");
        }
        assert!(parsed("delay").is_err());
        assert!(parsed("delay(5)").is_err());
        assert!(parsed("timeout = 0").is_err());
        assert!(parsed("timeout = \"0s\"").is_err());
    }

    #[test]
    fn numbers_are_read_within_their_bounds() {
        let options =
            parsed("retries = 4294967295, priority = -2147483648, backoff = 1, jitter = 0.0")
                .unwrap();

        assert_eq!(options.retries, Some(u32::MAX));
        assert_eq!(options.priority, Some(i32::MIN));
        assert_eq!(options.backoff, Some(1.0));
        assert_eq!(options.jitter, Some(0.0));
    }

    #[test]
    fn numbers_out_of_bounds_are_refused() {
        for written in [
            "retries = -1",
            "retries = 4294967296",
            "retries = 1.5",
            "retries = \"3\"",
            "retries = 3u8",
            "retries",
            "priority = 2147483648",
            "priority = 0.5",
            "backoff = 0.9",
            "backoff = -2.0",
            "backoff = 1e999",
            "backoff = f64::NAN",
            "backoff = \"2\"",
            "jitter = 1.1",
            "jitter = -0.1",
            "jitter = f64::NAN",
            "requeue_on_interrupt = 1",
            "requeue_on_interrupt()",
        ] {
            assert!(parsed(written).is_err(), "{written}");
        }
    }

    #[test]
    fn a_negative_number_that_came_through_another_macro_is_read_too() {
        let five: Expr = syn::parse_quote!(5);
        let group = proc_macro2::Group::new(proc_macro2::Delimiter::None, quote!(-#five));

        // syn reads the last option and those before it in different ways.
        let last = Options::parse(quote!(priority = #group)).unwrap();
        let first = Options::parse(quote!(priority = #group, retries = 1)).unwrap();

        assert_eq!([last.priority, first.priority], [Some(-5), Some(-5)]);
    }

    #[test]
    fn a_switch_is_a_word_or_a_bool() {
        let read = |text| parsed(text).unwrap().requeue_on_interrupt;

        assert_eq!(read("requeue_on_interrupt"), Some(true));
        assert_eq!(read("requeue_on_interrupt = true"), Some(true));
        assert_eq!(read("requeue_on_interrupt = false"), Some(false));
        assert_eq!(read(""), None);
    }

    #[test]
    fn names_that_the_engine_would_refuse_are_refused_here() {
        let longest = "x".repeat(NAME_BYTES_MAX);

        assert!(parsed(&format!("name = {longest:?}")).is_ok());
        for bad in [format!("{longest}x"), String::new(), "a\nb".to_owned()] {
            assert!(parsed(&format!("name = {bad:?}")).is_err());
            assert!(parsed(&format!("aliases({bad:?})")).is_err());
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let errors =
            parsed("retires = 1, delay = \"x\", retries = 1, retries = 2, aliases(old, \"\")")
                .unwrap_err();

        assert_eq!(errors.len(), 5, "{errors:#?}");
    }

    #[test]
    fn what_belongs_into_one_attribute_is_an_option_of_it_alone() {
        let unknown = |attribute, name: &str| {
            let tokens = name.parse().unwrap();
            let error = match attribute {
                "#[task]" => Options::parse(tokens).err(),
                _ => crate::times::Times::parse(tokens).err(),
            };
            error.is_some_and(|error| error.to_string().contains("has no option"))
        };

        for (home, names) in ONLY {
            for name in names {
                for (attribute, _) in ONLY {
                    assert_eq!(unknown(attribute, name), attribute != home, "{name}");
                }
            }
        }
    }

    #[test]
    fn an_option_that_was_not_written_says_nothing() {
        assert_eq!(fields(""), "");
        assert_eq!(fields("name = \"x\""), "");
    }

    #[test]
    fn durations_are_written_as_somebody_would_write_them() {
        for (written, expanded) in [
            ("60", "from_secs(60)"),
            ("0.25", "from_millis(250)"),
            ("\"1s 5ns\"", "new(1,5)"),
            ("\"1s 5us\"", "new(1,5000)"),
        ] {
            assert_eq!(
                fields(&format!("delay = {written}")),
                format!("delay:::core::option::Option::Some(::core::time::Duration::{expanded})")
            );
        }
    }
}
