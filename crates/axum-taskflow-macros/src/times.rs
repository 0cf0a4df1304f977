//! What can stand between the brackets of `#[schedule(…)]`.

use std::time::Duration;

use darling::{Error, FromMeta, Result};
use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::{Expr, ExprCall, Lit, LitStr, Meta};

use crate::options::{self, Value, duration, name_of, read_switch, read_wait, value, wrong};

/// The options as they were written. Whether an expression and a zone make sense is for the builder to say, which has
/// the calendar.
#[derive(Debug, Default, FromMeta)]
#[darling(default)]
pub(crate) struct Times {
    #[darling(with = read_name)]
    name: Option<LitStr>,
    #[darling(with = read_cron)]
    cron: Option<LitStr>,
    #[darling(with = read_tz)]
    tz: Option<LitStr>,
    #[darling(with = read_wait)]
    every: Option<Duration>,
    #[darling(with = read_args)]
    pub(crate) args: Option<Expr>,
    #[darling(with = read_missed)]
    missed: Option<Missed>,
    #[darling(with = read_overlap)]
    overlap: Option<&'static str>,
    #[darling(with = read_wait)]
    tolerance: Option<Duration>,
    #[darling(with = read_wait)]
    jitter: Option<Duration>,
    #[darling(with = read_switch)]
    run_on_startup: Option<bool>,
}

#[derive(Clone, Copy, Debug)]
enum Missed {
    FireOnce,
    Skip,
    FireAll { max: usize, within: Duration },
}

impl Times {
    pub(crate) fn parse(tokens: TokenStream) -> syn::Result<Self> {
        let times: Self = options::parse(tokens, "#[schedule]")?;
        let complaint = match (&times.cron, times.every, &times.tz) {
            (None, None, _) => {
                "when? `#[schedule(cron = \"0 9 * * *\")]` or `#[schedule(every = \"5m\")]`"
            }
            (Some(_), Some(_), _) => {
                "a schedule has either `cron` or `every`: write two schedules, with a `name` each"
            }
            (None, Some(_), Some(_)) => "`tz` is for `cron`: `every` is the same in all zones",
            _ => return Ok(times),
        };
        let span = times.tz.as_ref().or(times.cron.as_ref());
        let span = span.map_or_else(Span::call_site, LitStr::span);
        Err(syn::Error::new(span, complaint))
    }

    /// The calls on a `Schedule` that say what was written.
    pub(crate) fn setters(&self) -> Vec<TokenStream> {
        // All of them by name: a new option that is forgotten here does not compile.
        let Self {
            name,
            cron,
            tz,
            every,
            args: _,
            missed,
            overlap,
            tolerance,
            jitter,
            run_on_startup,
        } = self;
        let overlap = overlap.map(|variant| {
            let variant = syn::Ident::new(variant, Span::call_site());
            quote!(::axum_taskflow::Overlap::#variant)
        });
        let setters = [
            name.as_ref().map(|name| quote!(.name(#name))),
            cron.as_ref().map(|cron| quote!(.cron(#cron))),
            tz.as_ref().map(|tz| quote!(.zone(#tz))),
            every.map(duration).map(|every| quote!(.every(#every))),
            missed.map(Missed::written).map(|it| quote!(.missed(#it))),
            overlap.map(|overlap| quote!(.overlap(#overlap))),
            tolerance.map(duration).map(|it| quote!(.tolerance(#it))),
            jitter.map(duration).map(|it| quote!(.jitter(#it))),
            run_on_startup.map(|it| quote!(.run_on_startup(#it))),
        ];
        setters.into_iter().flatten().collect()
    }
}

impl Missed {
    fn written(self) -> TokenStream {
        match self {
            Self::FireOnce => quote!(::axum_taskflow::Missed::FireOnce),
            Self::Skip => quote!(::axum_taskflow::Missed::Skip),
            Self::FireAll { max, within } => {
                let within = duration(within);
                quote!(::axum_taskflow::Missed::FireAll { max: #max, within: #within })
            }
        }
    }
}

fn read_name(meta: &Meta) -> Result<Option<LitStr>> {
    name_of("schedule", "morning report", meta)
}

fn read_cron(meta: &Meta) -> Result<Option<LitStr>> {
    text(
        meta,
        "the expression is a string of five fields, or of six with seconds in front: `cron = \"0 9 * * Mon-Fri\"`",
    )
}

fn read_tz(meta: &Meta) -> Result<Option<LitStr>> {
    text(
        meta,
        "the time zone is a string, by its IANA name: `tz = \"Europe/Berlin\"`",
    )
}

fn text(meta: &Meta, form: &str) -> Result<Option<LitStr>> {
    match value(meta) {
        Value::Text(text) => Ok(Some(text.clone())),
        _ => Err(wrong(meta, form)),
    }
}

fn read_args(meta: &Meta) -> Result<Option<Expr>> {
    match meta {
        Meta::NameValue(pair) => Ok(Some(pair.value.clone())),
        _ => Err(wrong(
            meta,
            "the arguments are one value, or a tuple: `args = (\"report\".to_owned(), 3)`",
        )),
    }
}

fn read_overlap(meta: &Meta) -> Result<Option<&'static str>> {
    let word = match value(meta) {
        Value::Text(word) => word.value(),
        _ => String::new(),
    };
    match &*word {
        "skip" => Ok(Some("Skip")),
        "allow" => Ok(Some("Allow")),
        "queue_one" => Ok(Some("QueueOne")),
        _ => Err(wrong(
            meta,
            "`overlap` is `\"skip\"`, `\"allow\"` or `\"queue_one\"`",
        )),
    }
}

fn read_missed(meta: &Meta) -> Result<Option<Missed>> {
    let missed = match (meta, value(meta)) {
        (_, Value::Text(word)) => match &*word.value() {
            "fire_once" => Some(Missed::FireOnce),
            "skip" => Some(Missed::Skip),
            _ => None,
        },
        (Meta::NameValue(pair), _) => match &pair.value {
            Expr::Call(call) => fire_all(call),
            _ => None,
        },
        _ => None,
    };
    missed.map(Some).ok_or_else(|| {
        Error::custom(
            "`missed` is `\"fire_once\"`, `\"skip\"` or `fire_all(max = 10, within = \"1h\")`",
        )
        .with_span(meta)
    })
}

/// `fire_all(max = 10, within = "1h")`.
fn fire_all(call: &ExprCall) -> Option<Missed> {
    let is_ident = |expr: &Expr, name| matches!(expr, Expr::Path(path) if path.path.is_ident(name));
    if !is_ident(&call.func, "fire_all") {
        return None;
    }
    let (mut max, mut within) = (None, None);
    for arg in &call.args {
        let Expr::Assign(pair) = arg else {
            return None;
        };
        let Expr::Lit(literal) = &*pair.right else {
            return None;
        };
        match &literal.lit {
            Lit::Int(n) if is_ident(&pair.left, "max") => max = Some(n.base10_parse().ok()?),
            Lit::Str(text) if is_ident(&pair.left, "within") => {
                within = Some(humantime::parse_duration(&text.value()).ok()?);
            }
            _ => return None,
        }
    }
    Some(Missed::FireAll {
        max: max?,
        within: within?,
    })
}
