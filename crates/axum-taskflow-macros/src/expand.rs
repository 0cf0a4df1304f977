//! What `#[task]` writes below the function.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::{
    Attribute, FnArg, GenericParam, Lifetime, ParenthesizedGenericArguments, Pat, PathArguments,
    ReturnType, Safety, Signature, Type, TypeFnPtr, TypeImplTrait, TypeReference, Visibility,
    ext::IdentExt,
    parse::{Parse, ParseStream},
    spanned::Spanned,
    visit::Visit,
};

use crate::{options::Options, times::Times};

/// Arguments that a task can have, and parameters that it can take before them.
const ARGS_MAX: usize = 8;
const PROVIDED_MAX: usize = 3;

/// The function as it is, and below it its registration, or everything that is wrong.
pub(crate) fn task(options: TokenStream, item: &TokenStream) -> TokenStream {
    let added = match (Options::parse(options), Function::parse(item.clone())) {
        (Ok(options), Ok(function)) => function.register(&options),
        (options, function) => {
            let errors = [options.err(), function.err()].into_iter().flatten();
            errors.map(syn::Error::into_compile_error).collect()
        }
    };
    quote!(#item #added)
}

/// The function as it is, and below it its schedule, or everything that is wrong.
pub(crate) fn schedule(options: TokenStream, item: &TokenStream) -> TokenStream {
    let function = syn::parse2::<Function>(item.clone()).map_err(|error| {
        let complaint = "`#[schedule]` can only stand on a function with `#[task]`";
        syn::Error::new(error.span(), complaint)
    });
    let added = match (Times::parse(options), function) {
        (Ok(times), Ok(function)) => function.schedule(&times),
        (times, function) => {
            let errors = [times.err(), function.err()].into_iter().flatten();
            errors.map(syn::Error::into_compile_error).collect()
        }
    };
    quote!(#item #added)
}

/// What is read of the function. Not its body: that is the compiler's business, and half a body (while it is being
/// typed) still completes in an editor.
struct Function {
    attrs: Vec<Attribute>,
    signature: Signature,
    params: Vec<Param>,
}

struct Param {
    /// Each `#[cfg]` that stands before it: what is written of the parameter is there if the parameter is.
    cfgs: Vec<Attribute>,
    pat: Pat,
    ty: Type,
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        input.parse::<Visibility>()?;
        let signature: Signature = input.parse().map_err(|error| {
            syn::Error::new(
                error.span(),
                format!("`#[task]` can only stand on a function: {error}"),
            )
        })?;
        input.parse::<TokenStream>()?;
        Ok(Self {
            attrs,
            signature,
            params: Vec::new(),
        })
    }
}

impl Function {
    fn parse(item: TokenStream) -> syn::Result<Self> {
        let mut function: Self = syn::parse2(item)?;
        function.params = params(&function.signature)?;
        Ok(function)
    }

    fn register(&self, options: &Options) -> TokenStream {
        let function = &self.signature.ident;
        let name = match &options.name {
            Some(name) => name.to_token_stream(),
            None => function.unraw().to_string().into_token_stream(),
        };
        let aliases = &options.aliases;
        let params = self.params.iter().map(|param| {
            let (cfgs, name) = (&param.cfgs, param.name());
            quote!(#(#cfgs)* #name)
        });
        let fields = options.fields();
        let options = (!fields.is_empty()).then(|| {
            quote!(.options(::axum_taskflow::TaskOptions {
                #(#fields,)*
                ..::core::default::Default::default()
            }))
        });
        let cfgs = self.attrs.iter().filter(|attr| attr.path().is_ident("cfg"));
        let checks = self.checks();
        // The user's own span: the place of the registration is the place of the function.
        let def = quote_spanned! {function.span()=>
            ::axum_taskflow::TaskDef::new(::axum_taskflow::__private::check::checked::<_, _CHECKED>(#function))
        };
        quote! {
            #(#cfgs)*
            #[allow(deprecated, clippy::needless_update)]
            const _: () = {
                const _CHECKED: usize = {
                    #checks
                    1
                };
                ::axum_taskflow::__private::inventory::submit! {
                    ::axum_taskflow::__private::Registered::new(|| {
                        #def.name(#name) #(.alias(#aliases))* .params(&[#(#params),*]) #options
                    })
                }
            };
        }
    }

    fn schedule(&self, times: &Times) -> TokenStream {
        let function = &self.signature.ident;
        let args = match &times.args {
            Some(args) => args.to_token_stream(),
            None => quote_spanned!(function.span()=> ()),
        };
        let setters = times.setters();
        let cfgs = self.attrs.iter().filter(|attr| attr.path().is_ident("cfg"));
        // As for the registration: its place is that of the function.
        let schedule = quote_spanned! {function.span()=>
            ::axum_taskflow::Schedule::new(#function, #args)
        };
        quote! {
            #(#cfgs)*
            #[allow(deprecated)]
            const _: () = {
                ::axum_taskflow::__private::inventory::submit! {
                    ::axum_taskflow::__private::Scheduled::new(|| #schedule #(#setters)*)
                }
            };
        }
    }

    /// One call for each thing that the compiler should check by itself, so that its message stands where the
    /// mistake is.
    fn checks(&self) -> TokenStream {
        let check = quote!(::axum_taskflow::__private::check);
        let mut checks = TokenStream::new();
        let too_many = self.params.len().saturating_sub(ARGS_MAX);
        for (n, param) in self.params.iter().enumerate() {
            let (cfgs, ty) = (&param.cfgs, &param.ty);
            checks.extend(quote!(#(#cfgs)*));
            checks.extend(match n {
                n if n < too_many => quote_spanned!(ty.span()=> #check::beside_eight::<#ty>();),
                _ => quote_spanned!(ty.span()=> #check::parameter::<#ty, _>();),
            });
            if n > 0 && param.is_provided() && !self.params[n - 1].is_provided() {
                let before = &self.params[n - 1].ty;
                let before_cfgs = &self.params[n - 1].cfgs;
                checks.extend(quote!(#(#before_cfgs)* #(#cfgs)*));
                checks
                    .extend(quote_spanned!(ty.span()=> #check::in_order::<#before, #ty, _, _>();));
            }
        }
        // `impl Trait` can be returned, but not be named here.
        let output = match &self.signature.output {
            ReturnType::Default => Some(quote!(())),
            ReturnType::Type(_, ty) => (!has_impl_trait(ty)).then(|| ty.to_token_stream()),
        };
        let function = &self.signature.ident;
        if self.signature.asyncness.is_some() {
            let params = self
                .params
                .iter()
                .map(|Param { cfgs, .. }| quote!(#(#cfgs)* _));
            if let Some(output) = output {
                checks.extend(quote_spanned!(output.span()=> #check::returned::<#output>();));
            }
            checks.extend(quote_spanned! {function.span()=>
                #check::task_must_be_send(#function as fn(#(#params),*) -> _);
            });
        } else if let Some(output) = output {
            checks.extend(
                quote_spanned!(output.span()=> #check::returned_or_awaited::<#output, _>();),
            );
        }
        checks
    }
}

impl Param {
    /// Its name for messages: what stands left of the colon.
    fn name(&self) -> String {
        match &self.pat {
            Pat::Ident(pat) => pat.ident.unraw().to_string(),
            pat => pat.to_token_stream().to_string(),
        }
    }

    /// What it should be, if it is a reference to what the task provides.
    fn provided_by_reference(&self) -> Option<String> {
        let Type::Reference(reference) = &self.ty else {
            return None;
        };
        is_provided(&reference.elem).then(|| owned(&reference.elem))
    }

    /// True for what is surely provided by the task. Types of the user's own may be, too: only the compiler knows.
    fn is_provided(&self) -> bool {
        is_provided(&self.ty)
    }
}

fn is_provided(mut ty: &Type) -> bool {
    // As another macro gives it.
    while let Type::Group(group) = ty {
        ty = &group.elem;
    }
    let Type::Path(path) = ty else {
        return false;
    };
    path.path.segments.last().is_some_and(|last| {
        last.ident == "TaskContext"
            || last.ident == "Data" && matches!(last.arguments, PathArguments::AngleBracketed(_))
    })
}

/// The parameters, or everything that keeps the function from being a task.
fn params(signature: &Signature) -> syn::Result<Vec<Param>> {
    let mut complaints = Complaints::default();

    if let Safety::Unsafe(unsafety) = &signature.safety {
        complaints.add(
            unsafety,
            "a task cannot be `unsafe`: when it runs, nobody is there to keep what it asks for",
        );
    }
    if let Some(abi) = &signature.abi {
        complaints.add(abi, "a task is an ordinary function: remove the `extern`");
    }
    if let Some(constness) = &signature.constness {
        complaints.add(
            constness,
            "a task is an ordinary function: remove the `const`",
        );
    }
    if let Some(variadic) = &signature.variadic {
        complaints.add(variadic, "a task cannot have a varying number of arguments");
    }
    for param in &signature.generics.params {
        complaints.add(
            param,
            match param {
                GenericParam::Lifetime(_) => {
                    "a task cannot have lifetimes: its arguments are stored and must be owned"
                }
                GenericParam::Type(_) | GenericParam::Const(_) => GENERIC,
            },
        );
    }

    let mut params = Vec::new();
    for input in &signature.inputs {
        match input {
            FnArg::Receiver(receiver) => complaints.add(
                receiver,
                "a task cannot be a method: write a function outside of the `impl`, and take what `self` has as an \
                argument, or as `Data<T>` if it is the application's state",
            ),
            FnArg::Typed(typed) => {
                let cfgs = typed.attrs.iter().filter(|attr| attr.path().is_ident("cfg"));
                let param = Param {
                    cfgs: cfgs.cloned().collect(),
                    pat: (*typed.pat).clone(),
                    ty: (*typed.ty).clone(),
                };
                // What the task provides is not stored: `Data<&'static T>` is fine.
                match param.provided_by_reference() {
                    Some(owned) => complaints.add(
                        &param.ty,
                        format!("what a task provides is given to the function: use `{owned}`"),
                    ),
                    None if param.is_provided() => {}
                    None => complaints.visit_type(&param.ty),
                }
                params.push(param);
            }
        }
    }
    if let Some(fourth) = params
        .iter()
        .filter(|param| param.is_provided())
        .nth(PROVIDED_MAX)
    {
        complaints.add(&fourth.ty, format!(
            "a task takes at most {PROVIDED_MAX} of `TaskContext` and `Data<T>`: put several states into one struct"
        ));
    }
    if let Some(last) = params.get(PROVIDED_MAX + ARGS_MAX) {
        complaints.add(&last.ty, format!(
            "a task takes at most {ARGS_MAX} arguments: put what belongs together into a struct with \
            `#[derive(serde::Serialize, serde::Deserialize)]`"
        ));
    }
    match complaints.0 {
        None => Ok(params),
        Some(complaints) => Err(complaints),
    }
}

const GENERIC: &str = "a task cannot be generic: when its arguments are read back, nothing says of which type they \
    are; write a function for each type";

/// What is wrong, all of it: one run of the compiler should be enough.
#[derive(Default)]
struct Complaints(Option<syn::Error>);

impl Complaints {
    fn add(&mut self, at: &impl ToTokens, complaint: impl std::fmt::Display) {
        let error = syn::Error::new_spanned(at, complaint);
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            None => self.0 = Some(error),
        }
    }

    fn refuse_reference(&mut self, reference: &TypeReference) {
        let owned = owned(&reference.elem);
        self.add(
            reference,
            format!("a task's arguments are stored and must be owned: use `{owned}`"),
        );
    }
}

/// Finds in a parameter's type what cannot be stored, whatever the types are.
impl<'ast> Visit<'ast> for Complaints {
    fn visit_type_reference(&mut self, reference: &'ast TypeReference) {
        self.refuse_reference(reference);
    }

    fn visit_lifetime(&mut self, lifetime: &'ast Lifetime) {
        // One with a name is declared by the function, which is refused for it already.
        if lifetime.ident == "_" {
            self.add(
                lifetime,
                "a task's arguments are stored and must be owned: use a type without a lifetime",
            );
        }
    }

    fn visit_type_impl_trait(&mut self, generic: &'ast TypeImplTrait) {
        self.add(generic, GENERIC);
    }

    // The references in `fn(&str)` and `dyn Fn(&str)` are not the argument's own.
    fn visit_type_fn_ptr(&mut self, _: &'ast TypeFnPtr) {}
    fn visit_parenthesized_generic_arguments(&mut self, _: &'ast ParenthesizedGenericArguments) {}
}

fn has_impl_trait(ty: &Type) -> bool {
    struct Found(bool);
    impl<'ast> Visit<'ast> for Found {
        fn visit_type_impl_trait(&mut self, _: &'ast TypeImplTrait) {
            self.0 = true;
        }
    }
    let mut found = Found(false);
    found.visit_type(ty);
    found.0
}

/// The owned form of what a reference points to, as somebody would write it.
fn owned(borrowed: &Type) -> String {
    match borrowed {
        Type::Slice(slice) => format!("Vec<{}>", owned(&slice.elem)),
        Type::Reference(reference) => owned(&reference.elem),
        Type::Path(path) => match path.path.segments.last() {
            Some(last) if last.ident == "str" => "String".to_owned(),
            Some(last) if last.ident == "Path" => "PathBuf".to_owned(),
            _ => {
                let tokens = path.to_token_stream().to_string();
                tokens
                    .replace(" :: ", "::")
                    .replace(" < ", "<")
                    .replace(" >", ">")
                    .replace(" ,", ",")
            }
        },
        other => other.to_token_stream().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    fn expanded(options: &str, item: &str) -> String {
        let options = TokenStream::from_str(options).unwrap();
        task(options, &TokenStream::from_str(item).unwrap()).to_string()
    }

    #[test]
    fn the_documented_expansion_is_the_real_one() {
        let page = include_str!("expansion.md");
        // Before, in and after the two blocks of code.
        let parts: Vec<String> = page
            .split("```\n")
            .map(|part| {
                part.lines()
                    .filter(|line| !line.starts_with("# "))
                    .map(|line| format!("{line}\n"))
                    .collect()
            })
            .collect();
        let [_, short, _, long, _] = &parts[..] else {
            panic!("two blocks of code, not {}", parts.len() / 2)
        };
        let (attribute, function) = short.split_once('\n').unwrap();
        let options = attribute
            .strip_prefix("#[task(")
            .and_then(|rest| rest.strip_suffix(")]"))
            .unwrap();

        let long = TokenStream::from_str(long).unwrap().to_string();

        // Without blanks: what stands close together in the text is apart in the macro's output.
        assert_eq!(
            expanded(options, function).replace(' ', ""),
            long.replace(' ', "")
        );
    }

    #[test]
    fn the_function_is_left_exactly_as_it_was() {
        let item = "/// Docs.\n#[must_use] #[inline] pub(crate) async fn f(mut a: String, (b, _): (u8, u8)) -> u8 { b }";

        let expanded = expanded("", item);

        let item = TokenStream::from_str(item).unwrap().to_string();
        assert!(expanded.starts_with(&item), "{expanded}");
    }

    #[test]
    fn the_function_is_kept_even_if_it_cannot_be_a_task() {
        let expanded = expanded("retires = 1", "fn f<T>(a: &str) {}");

        assert!(
            expanded.starts_with("fn f < T > (a : & str) { }"),
            "{expanded}"
        );
        assert_eq!(expanded.matches("compile_error").count(), 3, "{expanded}");
    }

    #[test]
    fn a_registration_comes_and_goes_with_its_function() {
        let expanded = expanded("", "#[cfg(unix)] fn f() {}");

        assert_eq!(expanded.matches("# [cfg (unix)]").count(), 2, "{expanded}");
    }

    #[test]
    fn what_is_said_of_a_parameter_comes_and_goes_with_it() {
        let expanded = expanded("", "async fn f(#[cfg(unix)] a: u8, b: u16) {}");

        for said in [
            r#"& [# [cfg (unix)] "a" , "b"]"#,
            "fn (# [cfg (unix)] _ , _) -> _",
            "# [cfg (unix)] :: axum_taskflow :: __private :: check :: parameter :: < u8 , _ > () ;",
        ] {
            assert!(expanded.contains(said), "{expanded}");
        }
    }

    #[test]
    fn parameters_are_named_by_what_stands_left_of_the_colon() {
        let expanded = expanded("", "fn f(mut a: u8, r#type: u8, Data(db): Data<Db>) {}");

        assert!(
            expanded.contains(r#"& ["a" , "type" , "Data (db)"]"#),
            "{expanded}"
        );
    }

    #[test]
    fn a_raw_name_is_stored_without_its_marks() {
        assert!(expanded("", "fn r#move() {}").contains(r#". name ("move")"#));
    }

    #[test]
    fn references_that_are_not_stored_are_left_alone() {
        for param in [
            "Data<&'static str>",
            "Data<Arc<dyn Fn(&str) + Send + Sync>>",
            "fn(&str)",
            "Callback<dyn Fn(&str) + Send>",
            "axum_taskflow::Data<&'static str>",
        ] {
            let expanded = expanded("", &format!("fn f(a: {param}) {{}}"));
            assert!(!expanded.contains("compile_error"), "{param}: {expanded}");
        }
    }

    #[test]
    fn references_that_would_be_stored_are_refused_with_the_owned_type() {
        for (param, owned) in [
            ("&str", "String"),
            ("&'static str", "String"),
            ("&mut Mail", "Mail"),
            ("&[&str]", "Vec<String>"),
            (
                "&std::collections::HashMap<String, Vec<u8>>",
                "std::collections::HashMap<String, Vec<u8>>",
            ),
            ("&std::path::Path", "PathBuf"),
            ("Option<&str>", "String"),
            ("(u8, &str)", "String"),
        ] {
            let expanded = expanded("", &format!("fn f(a: {param}) {{}}"));
            assert!(
                expanded.contains(&format!("use `{owned}`")),
                "{param}: {expanded}"
            );
        }
    }

    #[test]
    fn what_is_provided_is_not_taken_by_reference() {
        for (param, owned) in [("&TaskContext", "TaskContext"), ("&Data<Db>", "Data<Db>")] {
            let expanded = expanded("", &format!("fn f(a: {param}, n: u8) {{}}"));
            let said = format!("what a task provides is given to the function: use `{owned}`");
            assert!(expanded.contains(&said), "{param}: {expanded}");
            assert!(!expanded.contains("stored and must be owned"), "{expanded}");
        }
    }

    #[test]
    fn half_a_function_is_kept_while_it_is_typed() {
        let expanded = expanded("", "fn f(a: u8) { a. }");

        assert!(expanded.contains("Registered"), "{expanded}");
    }
}
