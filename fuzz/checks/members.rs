//! JSON objects as they are written: with each member as often as it is there.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

/// The members of an object, each as often as it is written.
pub(super) struct Members(pub(super) Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        from.deserialize_map(Object)
    }
}

/// Whether a text is beyond this reader, and may be fine for who skips what doesn't matter: it has a
/// number that is out of range, or is nested deeply.
pub(super) fn are_beyond(text: &[u8]) -> bool {
    let fault = serde_json::from_slice::<Members>(text).err().map(|error| error.to_string());
    fault.is_some_and(|it| it.starts_with("number out of range") || it.starts_with("recursion"))
}
