//! The house rules that a machine can check: imports go down the layers, files are small and say
//! what they are for, and nothing unfinished or unsafe slips in.

mod circles;
mod methods;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The layers of ARCHITECTURE.md, from the bottom up.
const LAYERS: [&[&str]; 6] = [
    &[
        "ids",
        "attributes",
        "about",
        "message",
        "change",
        "close",
        "metrics",
        "sink",
        "file",
        "proto",
        "timestamp",
    ],
    &["access", "config", "tls", "wire", "net", "directory"],
    &["shard"],
    &["hub", "lifecycle", "status", "events", "identity", "hook"],
    &["ws", "grpc", "admin", "control"],
    &["app", "telemetry", "cli", "main"],
];

/// Layers whose modules may use each other, as long as there is no circle.
const SOCIABLE: [usize; 4] = [0, 1, 3, 5];

const MOST_LINES: usize = 800;

/// A Rust file of the project.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The top-level module that the file belongs to, if it is part of the library.
    fn module(&self) -> Option<String> {
        let inside = self.path.strip_prefix("src").ok()?;
        let first = inside.components().next()?.as_os_str().to_str()?;
        Some(first.trim_end_matches(".rs").to_owned()).filter(|name| name != "lib")
    }

    /// The code without comments, and without the tests at the end.
    fn code(&self) -> String {
        let before_tests = self.text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let uncommented = before_tests.lines().map(|line| match line.find("//") {
            // Not the `//` of an address in a string.
            Some(at) if !line[..at].ends_with(':') => &line[..at],
            _ => line,
        });
        uncommented.collect::<Vec<_>>().join("\n")
    }

    /// Whether the whole file is tests.
    fn is_tests(&self) -> bool {
        self.path.components().any(|part| {
            let name = part.as_os_str().to_string_lossy();
            name == "tests" || name == "tests.rs"
        })
    }

    fn uses(&self) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        let code = self.code();
        for (at, _) in code.match_indices("crate::") {
            let rest = &code[at + "crate::".len()..];
            match rest.strip_prefix('{') {
                Some(list) => used.extend(heads_of(list)),
                None => used.extend(head(rest)),
            }
        }
        // As many steps up as the file is deep lead to the root as well.
        let depth = self.path.components().count() - 1;
        let root = "super::".repeat(depth);
        for (at, _) in code.match_indices(&root) {
            let rest = &code[at + root.len()..];
            if !code[..at].ends_with("super::") && !rest.starts_with("super::") {
                match rest.strip_prefix('{') {
                    Some(list) => used.extend(heads_of(list)),
                    None => used.extend(head(rest)),
                }
            }
        }
        used
    }
}

/// The first name of a path.
fn head(path: &str) -> Option<String> {
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    Some(path[..end].to_owned()).filter(|name| !name.is_empty())
}

/// The first names in `{a::b, c::{d, e}}`, given from behind the opening brace.
fn heads_of(list: &str) -> Vec<String> {
    let (mut depth, mut heads, mut begin) = (0, Vec::new(), 0);
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.extend(head(list[begin..at].trim()));
                return heads;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.extend(head(list[begin..at].trim()));
                begin = at + 1;
            }
            _ => {}
        }
    }
    heads
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// What is wrong with the imports of these files.
fn wrong_imports(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut edges = BTreeSet::new();
    for source in sources.iter().filter(|source| !source.is_tests()) {
        let Some(module) = source.module() else { continue };
        let path = source.path.display();
        let Some(from) = layer(&module) else {
            wrong.push(format!("{path}: the module {module} is in no layer"));
            continue;
        };
        for used in source.uses().into_iter().filter(|used| *used != module) {
            match layer(&used) {
                Some(to) if to < from => {}
                Some(to) if to == from && SOCIABLE.contains(&to) => {
                    edges.insert((module.clone(), used));
                }
                Some(_) => wrong.push(format!("{path}: {module} must not use {used}")),
                None => wrong.push(format!("{path}: uses {used}, which is in no layer")),
            }
        }
    }
    for (a, b) in &edges {
        if reaches(&edges, b, a, &mut BTreeSet::new()) {
            wrong.push(format!("{a} and {b} use each other in a circle"));
        }
    }
    wrong
}

fn reaches(
    edges: &BTreeSet<(String, String)>,
    from: &str,
    to: &str,
    seen: &mut BTreeSet<String>,
) -> bool {
    from == to
        || seen.insert(from.to_owned())
            && edges.iter().any(|(a, b)| a == from && reaches(edges, b, to, seen))
}

/// What is wrong with one file by itself.
fn wrong_in(source: &Source) -> Vec<String> {
    let path = source.path.display();
    let mut wrong = Vec::new();
    if !source.text.starts_with("//!") {
        wrong.push(format!("{path}: says not in its first line (//!) what it is for"));
    }
    let lines = source.text.lines().count();
    if lines > MOST_LINES {
        wrong.push(format!("{path}: has {lines} lines, {MOST_LINES} are allowed"));
    }
    let code = source.code();
    for unfinished in ["todo!", "unimplemented!", "dbg!"] {
        if source.path.starts_with("src") && code.contains(&format!("{unfinished}(")) {
            wrong.push(format!("{path}: {unfinished}"));
        }
    }
    let lib = source.path.starts_with("src") && !source.is_tests();
    if lib && code.contains(".unwrap()") {
        wrong.push(format!("{path}: unwrap() outside of tests"));
    }
    if lib && code.contains("unsafe ") && !code.contains("unsafe_code") {
        wrong.push(format!("{path}: unsafe without a stated reason"));
    }
    if path.to_string().starts_with("src/wire") {
        for io in ["tokio", "mio::", "std::net", "hyper"] {
            if !source.is_tests() && code.contains(io) {
                wrong.push(format!("{path}: the codec must not know {io}"));
            }
        }
    }
    wrong
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["src", "tests", "benches", "examples", "fuzz"] {
        collect(root, &root.join(folder), &mut found);
    }
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") {
                collect(root, &path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push(Source { path: path.strip_prefix(root).unwrap().to_owned(), text });
        }
    }
}

#[test]
fn imports_go_down_the_layers_and_never_between_surfaces() {
    let sources = sources();
    assert!(sources.len() > 40, "the tree was not found: {} files", sources.len());
    assert_eq!(wrong_imports(&sources), Vec::<String>::new());
}

#[test]
fn every_file_is_small_finished_and_says_what_it_is_for() {
    let wrong: Vec<_> = sources().iter().flat_map(wrong_in).collect();
    assert_eq!(wrong, Vec::<String>::new());
}

fn source(path: &str, text: &str) -> Source {
    Source { path: path.into(), text: text.to_owned() }
}

#[test]
fn the_checks_see_what_they_look_for() {
    let bad = [
        source("src/wire/frame.rs", "//! x\nuse crate::{close::code, shard::ConnectionPermit};\n"),
        source("src/ws.rs", "//! x\nfn f() { crate::grpc::serve() }\n"),
        source(
            "src/hub/x.rs",
            "//! x\nuse crate::{\n    config::{Live, app},\n    app::Gateway,\n};\n",
        ),
        source("src/stray.rs", "//! x\n"),
        source("src/admin.rs", "//! x\nuse super::control;\n"),
        source("src/control/a.rs", "//! x\nuse super::super::admin::{self, b};\n"),
        source("src/config.rs", "//! x\nuse crate::net::bind;\n"),
        source("src/net.rs", "//! x\nuse crate::config::Live;\n"),
    ];
    let wrong = wrong_imports(&bad).join("\n");
    for expected in [
        "wire must not use shard",
        "ws must not use grpc",
        "hub must not use app",
        "stray is in no layer",
        "admin must not use control",
        "control must not use admin",
        "config and net use each other in a circle",
    ] {
        assert!(wrong.contains(expected), "{expected} is not in\n{wrong}");
    }
    let good = source(
        "src/grpc.rs",
        "//! x\n// crate::ws\nuse crate::{hub::Hub, ids};\n#[cfg(test)]\nmod tests { use crate::ws; }",
    );
    assert_eq!(wrong_imports(&[good]), Vec::<String>::new());

    let long = format!("//! x\n{}", "\n".repeat(MOST_LINES));
    for (path, text, expected) in [
        ("src/a.rs", "fn f() {}", "says not"),
        ("src/a.rs", long.as_str(), "lines"),
        ("src/a.rs", "//! x\nfn f() { todo!() }", "todo!"),
        ("src/a.rs", "//! x\nfn f() { g().unwrap() }", "unwrap()"),
        ("src/a.rs", "//! x\nfn f() { unsafe { g() } }", "unsafe"),
        ("src/wire/a.rs", "//! x\nuse tokio::net;", "tokio"),
    ] {
        let wrong = wrong_in(&source(path, text)).join("\n");
        assert!(wrong.contains(expected), "{text:?} gives {wrong:?}");
    }
}
