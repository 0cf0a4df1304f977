//! Reads Rust source as the compiler does, so that comments and strings do not count: which modules a file names.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A module that a file names, and the line where it does.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) module: String,
    pub(crate) line: usize,
}

/// The modules of one crate, in the order of their `mod` lines, and what the root re-exports of which module.
pub(crate) struct Modules {
    pub(crate) order: Vec<String>,
    re_exported: BTreeMap<String, String>,
}

impl Modules {
    /// Of the crate or module whose root is this file.
    pub(crate) fn of(root: &Path) -> Self {
        let tokens: Vec<TokenTree> = without_tests(parse(root)).into_iter().collect();
        let order = tokens
            .windows(3)
            .filter(|three| is_ident(&three[0], "mod") && is_punct(&three[2], ';'))
            .map(|three| three[1].to_string())
            .collect();
        let mut re_exported = BTreeMap::new();
        for (at, token) in tokens.iter().enumerate() {
            if is_ident(token, "pub") && tokens.get(at + 1).is_some_and(|t| is_ident(t, "use")) {
                let path = tokens[at + 2..]
                    .iter()
                    .take_while(|token| !is_punct(token, ';'))
                    .cloned();
                leaves(&path.collect::<Vec<_>>(), None, &mut re_exported);
            }
        }
        Self { order, re_exported }
    }

    /// The place of a module in the order.
    pub(crate) fn place(&self, module: &str) -> Option<usize> {
        self.order.iter().position(|name| name == module)
    }

    /// The modules that a file names behind `crate::` (or `super::`), itself or by what the root re-exports.
    pub(crate) fn named_by(&self, file: &Path, root: &str) -> Vec<Named> {
        let mut named = Vec::new();
        walk(without_tests(parse(file)), root, &mut |name, line| {
            let module = match self.re_exported.get(name) {
                Some(module) => module,
                None => name,
            };
            if self.place(module).is_some() {
                named.push(Named {
                    module: module.to_owned(),
                    line,
                });
            }
        });
        named
    }
}

/// All files with this ending below a folder, sorted; none if there is no such folder.
pub(crate) fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return found;
    };
    for entry in entries {
        let entry = entry.unwrap();
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().unwrap().is_dir() {
            let made_by_tools = ["target", "node_modules", "site", "venv", "__pycache__"];
            if !name.starts_with('.') && !made_by_tools.contains(&&*name) || name == ".ci" {
                found.extend(files(&path, ending));
            }
        } else if name.ends_with(ending) && name != ".git" {
            // (in a work tree, `.git` is a file)
            found.push(path);
        }
    }
    found.sort();
    found
}

fn parse(file: &Path) -> TokenStream {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    text.parse()
        .unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// Everything but `#[cfg(test)] mod …`: unit tests may use what they like.
fn without_tests(tokens: TokenStream) -> TokenStream {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_test = is_punct(&tokens[at], '#')
            && tokens.get(at + 1).is_some_and(|t| {
                let text: String = t.to_string().split_whitespace().collect();
                text == "[cfg(test)]"
            })
            && tokens.get(at + 2).is_some_and(|t| is_ident(t, "mod"));
        if is_test {
            at += 5; // `#`, `[cfg(test)]`, `mod`, the name, and the block
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept.into_iter().collect()
}

/// Calls `found` with each name that follows `root::`, and with the first name of each branch of `root::{…}`.
fn walk(tokens: TokenStream, root: &str, found: &mut impl FnMut(&str, usize)) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        if let TokenTree::Group(group) = token {
            walk(group.stream(), root, found);
        }
        if !is_ident(token, root) || !is_path_separator(&tokens, at + 1) {
            continue;
        }
        match tokens.get(at + 3) {
            Some(TokenTree::Ident(name)) => found(&name.to_string(), name.span().start().line),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                for branch in branches(group.stream()) {
                    if let Some(TokenTree::Ident(name)) = branch.first() {
                        found(&name.to_string(), name.span().start().line);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The names at the ends of a `use` path, each with the first module of its path.
fn leaves(path: &[TokenTree], module: Option<&str>, found: &mut BTreeMap<String, String>) {
    let starts_at_root = path.first().is_some_and(|t| is_ident(t, "crate"));
    if starts_at_root && is_path_separator(path, 1) {
        return leaves(&path[3..], module, found);
    }
    match path {
        [TokenTree::Group(group)] => {
            for branch in branches(group.stream()) {
                leaves(&branch, module, found);
            }
        }
        [TokenTree::Ident(name), rest @ ..] if is_path_separator(rest, 0) => {
            let first = name.to_string();
            leaves(&rest[2..], Some(module.unwrap_or(&first)), found);
        }
        [.., TokenTree::Ident(name)] => {
            if let Some(module) = module {
                found.insert(name.to_string(), module.to_owned());
            }
        }
        _ => {}
    }
}

fn branches(tokens: TokenStream) -> Vec<Vec<TokenTree>> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    tokens
        .split(|token| is_punct(token, ','))
        .map(<[_]>::to_vec)
        .collect()
}

fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    let is_colon = |at: usize| tokens.get(at).is_some_and(|token| is_punct(token, ':'));
    is_colon(at) && is_colon(at + 1)
}

fn is_ident(token: &TokenTree, text: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == text)
}

fn is_punct(token: &TokenTree, c: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == c)
}
