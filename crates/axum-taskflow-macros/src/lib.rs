//! `#[task]` of axum-taskflow.

use proc_macro::TokenStream;

mod expand;
mod options;

/// Makes a function a task.
#[proc_macro_attribute]
pub fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::task(options.into(), &item.into()).into()
}
