//! No two modules that stand beside each other import each other in a circle.
//!
//! The rule, for the children of each module: if `a`, or a file below it, imports something of `b`
//! or below it, then nothing of `b` leads back to `a`, by however many steps.
//!
//! * **What is re-exported counts as where it is defined.** A façade (`x.rs` with `pub use`) hides no
//!   circle: `super::Ended` is an import of the sibling that defines `Ended`.
//! * **A file and its own ancestors are not judged.** A parent composes its children, and they use the
//!   nouns and private fields that it defines: together they are one owner. So whatever two children
//!   both need moves up into the parent or into a file of its own.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, source, sources};

/// Circles that are still there, as the members of each. This list only becomes shorter.
const KNOWN: &[&[&str]] = &[&["hook/call", "hook/line"]];

/// The place of a module in the crate: `["shard", "inbox"]`.
type Module = Vec<String>;

/// What one file imports and mentions.
#[derive(Default)]
struct Imports {
    /// Paths as they are written, from `crate`, `self` or `super`.
    paths: Vec<Vec<String>>,
    /// Names that `use` brings into the file, and what they stand for.
    names: BTreeMap<String, Vec<String>>,
}

/// Reads the paths out of a file's tokens.
struct Reader<'a> {
    tokens: Vec<&'a str>,
    at: usize,
    found: Imports,
}

impl<'a> Reader<'a> {
    fn new(code: &'a str) -> Self {
        Self { tokens: tokens(code), at: 0, found: Imports::default() }
    }

    fn read(mut self) -> Imports {
        while self.at < self.tokens.len() {
            let before = self.at.checked_sub(1).map_or("", |at| self.tokens[at]);
            let is_root = matches!(self.tokens[self.at], "crate" | "self" | "super");
            if self.tokens[self.at] == "use" {
                self.at += 1;
                self.tree(&[], true);
            } else if is_root && before != "::" && self.peek(1) == "::" {
                self.tree(&[], false);
            } else {
                self.at += 1;
            }
        }
        self.found
    }

    fn peek(&self, ahead: usize) -> &'a str {
        self.tokens.get(self.at + ahead).copied().unwrap_or_default()
    }

    /// A path, or in a `use` all the paths of its tree.
    fn tree(&mut self, prefix: &[String], is_use: bool) {
        let mut path = prefix.to_vec();
        loop {
            match self.peek(0) {
                "{" if is_use => {
                    self.at += 1;
                    while !matches!(self.peek(0), "}" | "") {
                        let before = self.at;
                        self.tree(&path, true);
                        self.at += usize::from(self.at == before || self.peek(0) == ",");
                    }
                    self.at += 1;
                    return;
                }
                word if is_word(word) => {
                    path.push(word.to_owned());
                    self.at += 1;
                }
                _ => break,
            }
            if self.peek(0) != "::" {
                break;
            }
            self.at += 1;
        }
        if is_use && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        if is_use && let Some(last) = path.last().cloned() {
            let is_renamed = self.peek(0) == "as";
            let name = if is_renamed { self.peek(1).to_owned() } else { last };
            self.at += if is_renamed { 2 } else { 0 };
            self.found.names.insert(name, path.clone());
        }
        self.found.paths.push(path);
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let in_word = |c: char| c.is_alphanumeric() || c == '_';
        let end = if rest.starts_with("::") {
            2
        } else if in_word(first) {
            rest.find(|c| !in_word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        tokens.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    tokens
}

/// All modules of the library and what they import.
struct Crate(BTreeMap<Module, Imports>);

impl Crate {
    fn of(sources: &[Source]) -> Self {
        let library = sources.iter().filter(|source| !source.is_tests());
        let modules = library.filter_map(|source| {
            let inside = source.path.strip_prefix("src").ok()?.with_extension("");
            let parts =
                inside.components().map(|part| part.as_os_str().to_str().map(str::to_owned));
            let module = parts.collect::<Option<Module>>()?;
            let is_root = matches!(module[0].as_str(), "lib" | "main");
            (!is_root).then(|| (module, Reader::new(&source.code()).read()))
        });
        Self(modules.collect())
    }

    /// The module that defines what `path` names where it stands in `from`.
    fn target(&self, from: &Module, path: &[String], steps: usize) -> Option<Module> {
        let mut path = path.iter().peekable();
        let mut at = match path.peek()?.as_str() {
            "crate" => {
                path.next();
                Module::new()
            }
            "self" => {
                path.next();
                from.clone()
            }
            "super" => from.clone(),
            // A child of this module, or another crate.
            child if self.0.contains_key(&below(from, child)) => from.clone(),
            _ => return None,
        };
        while path.next_if(|word| *word == "super").is_some() {
            at.pop();
        }
        while let Some(word) = path.next() {
            let child = below(&at, word);
            if self.0.contains_key(&child) {
                at = child;
                continue;
            }
            let stands_for = self.0.get(&at).and_then(|imports| imports.names.get(word));
            let Some(stands_for) = stands_for.filter(|_| steps > 0 && at != *from) else { break };
            let full: Vec<String> = stands_for.iter().chain(path).cloned().collect();
            return self.target(&at, &full, steps - 1).or(Some(at));
        }
        Some(at)
    }

    /// Who imports whom among modules that stand beside each other, and by which path in which file.
    fn edges(&self) -> BTreeMap<(Module, Module), String> {
        let mut edges = BTreeMap::new();
        for (from, imports) in &self.0 {
            for path in &imports.paths {
                let Some(to) = self.target(from, path, 8) else { continue };
                let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                // The top-level modules have layers, which are stricter.
                if shared > 0 && shared < from.len().min(to.len()) {
                    let beside = (from[..=shared].to_vec(), to[..=shared].to_vec());
                    let evidence = format!("src/{}.rs: {}", from.join("/"), path.join("::"));
                    edges.entry(beside).or_insert(evidence);
                }
            }
        }
        edges
    }

    /// The members of each circle, and the imports that make it.
    fn circles(&self) -> BTreeMap<Vec<String>, Vec<String>> {
        let edges = self.edges();
        let mut circles = BTreeMap::new();
        for (from, _) in edges.keys() {
            let onward = reached(&edges, from, |(a, b)| (a, b));
            let back = reached(&edges, from, |(a, b)| (b, a));
            let members: BTreeSet<&Module> = onward.intersection(&back).copied().collect();
            if members.len() < 2 {
                continue;
            }
            let among =
                edges.iter().filter(|((a, b), _)| members.contains(a) && members.contains(b));
            let evidence = among.map(|(_, evidence)| evidence.clone()).collect();
            circles.insert(members.iter().map(|module| module.join("/")).collect(), evidence);
        }
        circles
    }
}

fn below(module: &Module, child: &str) -> Module {
    module.iter().cloned().chain([child.to_owned()]).collect()
}

/// All that can be reached from here, with where it begins.
fn reached<'a>(
    edges: &'a BTreeMap<(Module, Module), String>,
    from: &'a Module,
    direct: impl Fn(&'a (Module, Module)) -> (&'a Module, &'a Module),
) -> BTreeSet<&'a Module> {
    let (mut seen, mut next) = (BTreeSet::from([from]), vec![from]);
    while let Some(module) = next.pop() {
        let steps = edges.keys().map(&direct).filter(|(a, _)| *a == module);
        next.extend(steps.map(|(_, b)| b).filter(|b| seen.insert(*b)));
    }
    seen
}

#[test]
fn no_modules_side_by_side_import_each_other_in_a_circle() {
    let library = Crate::of(&sources());
    let edges = library.edges();
    assert!(edges.len() > 200, "the imports were not found: {}", edges.len());
    let mut circles = library.circles();
    for known in KNOWN {
        let known: Vec<String> = known.iter().map(|&module| module.to_owned()).collect();
        assert!(circles.remove(&known).is_some(), "mended, strike it off the list: {known:?}");
    }
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn circles_are_seen_however_they_are_written() {
    let circles = |files: &[(&str, &str)]| -> Vec<Vec<String>> {
        let parent = [("src/m.rs", "mod a;\nmod b;\n")];
        let files = parent.iter().chain(files);
        let sources: Vec<Source> = files.map(|(path, text)| source(path, text)).collect();
        Crate::of(&sources).circles().into_keys().collect()
    };
    let ab = vec![vec!["m/a".to_owned(), "m/b".to_owned()]];
    // By `super`, by `crate` in a nested tree, and in an expression.
    let a = ("src/m/a.rs", "use super::b::B;\n");
    for b in [
        "use super::a::A;\n",
        "use crate::{x::{self, Y}, m::{c::C, a::{A as Other, Z}}};\n",
        "use super::{a};\n",
        "fn f() { crate::m::a::f() }\n",
        "fn f(a: super::a::A<'_>) {}\n",
    ] {
        assert_eq!(circles(&[a, ("src/m/b.rs", b)]), ab, "{b}");
    }
    // Behind a façade, under another name, and in a file below.
    let facade = ("src/m.rs", "mod a;\nmod b;\npub use a::A as Fine;\nuse b::B;\n");
    assert_eq!(circles(&[facade, a, ("src/m/b.rs", "use super::Fine;\n")]), ab);
    assert_eq!(circles(&[a, ("src/m/b.rs", ""), ("src/m/b/deep.rs", "use crate::m::a;\n")]), ab);
    let deep = ("src/m/b/deep.rs", "use super::super::a::A;\n");
    assert_eq!(circles(&[a, ("src/m/b.rs", ""), deep]), ab);
    // The long way round.
    let around = [
        a,
        ("src/m/b.rs", "use super::c::C;\n"),
        ("src/m/c.rs", "use super::a::A;\n"),
        ("src/m/d.rs", "use super::a::A;\n"),
    ];
    assert_eq!(circles(&around), [["m/a", "m/b", "m/c"].map(str::to_owned).to_vec()]);
    // A parent and its children are one owner; one way, comments and tests are no circle.
    let parent = ("src/m.rs", "mod b;\nuse b::B;\npub struct Noun;\n");
    let fine = "use super::Noun;\n// super::a::A\n#[cfg(test)]\nmod tests { use super::a::A; }\n";
    assert_eq!(circles(&[parent, a, ("src/m/b.rs", fine)]), Vec::<Vec<String>>::new());
}
