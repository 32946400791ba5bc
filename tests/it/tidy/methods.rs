//! No type of the shard takes everything upon itself: each has at most [`MOST_METHODS`] methods.

use std::collections::BTreeMap;

use super::{Source, source, sources};

/// Methods that a type of `src/shard` has at most, in all of its files together.
const MOST_METHODS: usize = 25;

/// How many methods each type has in its own `impl` blocks; a trait's methods are the trait's.
fn methods(sources: &[Source]) -> BTreeMap<String, usize> {
    let mut methods = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.is_tests()) {
        let code = source.code();
        let mut owner = None;
        for line in code.lines() {
            // The code is formatted: what ends a block of the file stands at the margin.
            if let Some(of) = line.strip_prefix("impl").filter(|rest| rest.starts_with([' ', '<']))
            {
                owner = Some(subject(of)).filter(|_| !of.contains(" for "));
            } else if line.starts_with('}') {
                owner = None;
            }
            let words = line.trim_start().split(|c: char| !c.is_alphanumeric() && c != '_');
            let is_method = line.starts_with("    ") && !line.starts_with("     ");
            if let Some(owner) =
                owner.clone().filter(|_| is_method && words.take(6).any(|w| w == "fn"))
            {
                *methods.entry(owner).or_insert(0) += 1;
            }
        }
    }
    methods
}

/// The type that a block is of: what stands behind `impl` and its parameters.
fn subject(of: &str) -> String {
    let mut depth = 0_usize;
    let behind = of.find(|c: char| {
        match c {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            _ => return depth == 0 && !c.is_whitespace(),
        }
        false
    });
    let name = &of[behind.unwrap_or(0)..];
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    name[..end].to_owned()
}

#[test]
fn no_type_of_the_shard_has_too_many_methods() {
    let mut shard = sources();
    shard.retain(|source| source.module().is_some_and(|module| module == "shard"));
    let methods = methods(&shard);
    assert!(methods.len() > 20 && methods.contains_key("EventLoop"), "{methods:?}");
    let wide: Vec<_> = methods.iter().filter(|(_, count)| **count > MOST_METHODS).collect();
    assert!(wide.is_empty(), "more than {MOST_METHODS} methods: {wide:?}");
}

#[test]
fn methods_are_counted_over_blocks_and_files() {
    let files = [
        source(
            "src/shard/a.rs",
            "impl Wide {\n    fn a() {}\n    pub(super) const fn b() {\n        fn inner() {}\n    }\n}\n\
             impl Clone for Wide {\n    fn clone() {}\n}\nfn free() {}\n",
        ),
        source(
            "src/shard/b.rs",
            "impl<'a, T: Into<Vec<u8>>> Other<'a, T> {\n    async fn x() {}\n}\n\
             impl Wide {\n    pub fn c() {}\n}\n",
        ),
    ];
    let expected = [("Other".to_owned(), 1), ("Wide".to_owned(), 3)];
    assert_eq!(methods(&files), BTreeMap::from(expected));
}
