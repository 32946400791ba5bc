//! What the business system notes about a client: a small bag of names and values.

use crate::ids::Name;

/// A small bag of attributes, sorted by name; each name once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<(Name, Box<str>)>);

impl Attributes {
    /// No attributes.
    pub const NONE: Self = Self(Vec::new());

    /// The value of an attribute.
    pub fn get(&self, name: &str) -> Option<&str> {
        let at = self.position(name).ok()?;
        Some(&self.0[at].1)
    }

    /// Sets an attribute.
    pub fn set(&mut self, name: Name, value: Box<str>) {
        match self.position(name.as_str()) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (name, value)),
        }
    }

    /// Removes an attribute; one that is not there is left out.
    pub fn remove(&mut self, name: &str) {
        if let Ok(at) = self.position(name) {
            self.0.remove(at);
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes of all names and values.
    pub fn bytes(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), &**value))
    }

    /// Whether each of these is among the others, with the same value.
    pub fn are_in(&self, others: Option<&Self>) -> bool {
        self.iter().all(|(name, value)| others.and_then(|others| others.get(name)) == Some(value))
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.as_str().cmp(name))
    }
}

impl FromIterator<(Name, Box<str>)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (Name, Box<str>)>>(pairs: I) -> Self {
        let mut attributes = Self::default();
        for (name, value) in pairs {
            attributes.set(name, value);
        }
        attributes
    }
}

/// How attributes change: first all others go if `replace` says so, then `remove`, then `set`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retouch {
    /// Whether nothing of what was there stays.
    pub replace: bool,
    /// Names to be removed.
    pub remove: Vec<Name>,
    /// Attributes to be set.
    pub set: Attributes,
}

impl Retouch {
    /// What the change makes of some attributes.
    pub fn of(&self, before: Option<&Attributes>) -> Attributes {
        let mut after = match before {
            Some(before) if !self.replace => before.clone(),
            _ => Attributes::default(),
        };
        for name in &self.remove {
            after.remove(name.as_str());
        }
        for (name, value) in &self.set.0 {
            after.set(name.clone(), value.clone());
        }
        after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bag(pairs: &[(&str, &str)]) -> Attributes {
        let pair = |&(name, value): &(&str, &str)| {
            (Name::new(name, 64).expect("a short name"), Box::from(value))
        };
        pairs.iter().map(pair).collect()
    }

    fn names(names: &[&str]) -> Vec<Name> {
        names.iter().map(|name| Name::new(name, 64).expect("a short name")).collect()
    }

    #[test]
    fn a_bag_holds_each_name_once_and_in_order() {
        let mut bag = bag(&[("b", "2"), ("a", "1"), ("b", "3")]);
        assert_eq!(bag.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "3")]);
        assert_eq!((bag.len(), bag.bytes(), bag.get("b"), bag.get("c")), (2, 4, Some("3"), None));
        bag.remove("a");
        bag.remove("z");
        assert_eq!(bag.iter().collect::<Vec<_>>(), [("b", "3")]);
    }

    #[test]
    fn a_filter_asks_for_each_of_its_attributes() {
        let client = bag(&[("role", "admin"), ("lang", "de")]);
        assert!(bag(&[]).are_in(Some(&client)) && bag(&[]).are_in(None));
        assert!(bag(&[("lang", "de")]).are_in(Some(&client)));
        assert!(bag(&[("lang", "de"), ("role", "admin")]).are_in(Some(&client)));
        assert!(!bag(&[("lang", "en")]).are_in(Some(&client)));
        assert!(!bag(&[("lang", "de"), ("age", "7")]).are_in(Some(&client)));
        assert!(!bag(&[("lang", "de")]).are_in(None));
    }

    #[test]
    fn a_retouch_replaces_removes_and_sets_in_this_order() {
        let before = bag(&[("a", "1"), ("b", "2")]);
        let merge = Retouch { replace: false, remove: names(&["a", "c"]), set: bag(&[("c", "3")]) };
        assert_eq!(merge.of(Some(&before)), bag(&[("b", "2"), ("c", "3")]));
        assert_eq!(merge.of(None), bag(&[("c", "3")]));
        let replace = Retouch { replace: true, ..merge };
        assert_eq!(replace.of(Some(&before)), bag(&[("c", "3")]));
    }
}
