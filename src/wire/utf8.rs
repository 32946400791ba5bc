//! Checks text while it arrives, and fails at the first byte that no continuation can mend.
//!
//! Text that is incomplete is kept by the decoder anyhow, so a character cut in two by a read
//! needs no place of its own: the check simply resumes before it.
//!
//! ```text
//!   ├──────── checked ────────┤├ cut ┤◄─ next bytes
//! ```

use simdutf8::{basic, compat};

use super::Violation;

/// The text, if `bytes` are UTF-8 from end to end.
pub(super) fn whole(bytes: &[u8]) -> Option<&str> {
    basic::from_utf8(bytes).ok()
}

/// Goes on checking `text`, of which the first `checked` bytes are known to be whole characters.
///
/// Returns how many are known now: all of them, or all but a character that is still incomplete
/// (at most three bytes).
pub(super) fn advance(text: &[u8], checked: usize) -> Result<usize, Violation> {
    match compat::from_utf8(text.get(checked..).unwrap_or_default()) {
        Ok(_) => Ok(text.len()),
        Err(fault) if fault.error_len().is_none() => Ok(checked + fault.valid_up_to()),
        Err(_) => Err(Violation::BadText),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that are often nearly UTF-8: real characters, their pieces, and the bytes that matter.
    fn nearly_text() -> impl Strategy<Value = Vec<u8>> {
        let edge = prop::sample::select(vec![
            0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1,
            0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff,
        ]);
        let piece = prop_oneof![
            6 => any::<char>().prop_map(|c| c.to_string().into_bytes()),
            4 => "[a-zé€𝄞]{0,40}".prop_map(String::into_bytes),
            1 => edge.prop_map(|byte| vec![byte]),
            1 => (any::<char>(), 1usize..4).prop_map(|(c, most)| {
                c.to_string().into_bytes()[..most.min(c.len_utf8())].to_vec()
            }),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    /// The first length at which no continuation could make the prefix UTF-8, found the slow way.
    fn hopeless_at(bytes: &[u8]) -> Option<usize> {
        (0..=bytes.len()).find(|&end| {
            std::str::from_utf8(&bytes[..end]).is_err_and(|fault| fault.error_len().is_some())
        })
    }

    /// Feeds `bytes` in pieces; `Err` holds how many bytes had been fed when the check failed.
    fn feed(bytes: &[u8], mut ends: Vec<usize>) -> Result<usize, usize> {
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut checked = 0;
        for end in ends {
            checked = advance(&bytes[..end], checked).map_err(|_| end)?;
            assert!(end - checked <= 3, "at most three bytes are open");
        }
        Ok(checked)
    }

    proptest! {
        #[test]
        fn the_verdict_is_that_of_std(
            bytes in prop_oneof![nearly_text(), prop::collection::vec(any::<u8>(), 0..40)],
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let ends = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            let verdict = std::str::from_utf8(&bytes).is_ok();
            prop_assert_eq!(feed(&bytes, ends) == Ok(bytes.len()), verdict);
            prop_assert_eq!(whole(&bytes).is_some(), verdict);
        }

        #[test]
        fn byte_by_byte_it_fails_where_hope_ends(
            bytes in prop_oneof![nearly_text(), prop::collection::vec(any::<u8>(), 0..8)],
        ) {
            let ends = (0..bytes.len()).collect();
            prop_assert_eq!(feed(&bytes, ends).err(), hopeless_at(&bytes));
        }
    }

    #[test]
    fn all_short_sequences_fail_where_hope_ends() {
        // Four bytes cover every lead; the middle two run over all values, the edges over a few.
        for lead in 0x80..=0xffu8 {
            for second in 0..=0xffu8 {
                for rest in [[0x80, 0x80], [0xbf, 0xbf], [0x41, 0x80], [0x80, 0x41]] {
                    let bytes = [lead, second, rest[0], rest[1]];
                    let found = feed(&bytes, vec![0, 1, 2, 3]).err();
                    assert_eq!(found, hopeless_at(&bytes), "{bytes:x?}");
                }
            }
        }
    }

    #[test]
    fn impossible_beginnings_fail_at_once() {
        let hopeless: [&[u8]; 8] = [
            &[0xc0],
            &[0xc1],
            &[0xf5],
            &[0x80],
            &[0xe0, 0x80],
            &[0xed, 0xa0],
            &[0xf0, 0x80],
            &[0xf4, 0x90],
        ];
        for bytes in hopeless {
            let long = [b"x".repeat(100).as_slice(), bytes].concat();
            assert_eq!(advance(bytes, 0), Err(Violation::BadText), "{bytes:x?}");
            assert_eq!(advance(&long, 0), Err(Violation::BadText), "{bytes:x?}");
            let (_, hopeful) = long.split_last().unwrap();
            assert!(advance(hopeful, 0).is_ok(), "{bytes:x?}");
        }
    }
}
