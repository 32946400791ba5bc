//! Answers of bounded size: a caller's library refuses what is larger than it expects.

use prost::Message;

use crate::{
    grpc::proto::v1::{Client, ClientEntry, GroupEntry},
    hub::{HubError, Page},
};

/// Bytes of entries in one answer, unless it is a single one. With all else that an answer may hold
/// it is less than the 4 MiB that gRPC libraries take if they are told nothing else.
const ANSWER_BYTES: usize = 2 * 1024 * 1024;

/// What an answer has many of.
pub(super) trait Part {
    /// Bytes of it by itself.
    fn bytes(&self) -> usize;
}

impl Part for Client {
    fn bytes(&self) -> usize {
        self.encoded_len()
    }
}

impl Part for ClientEntry {
    fn bytes(&self) -> usize {
        self.encoded_len()
    }
}

impl Part for GroupEntry {
    fn bytes(&self) -> usize {
        self.encoded_len()
    }
}

impl Part for String {
    fn bytes(&self) -> usize {
        self.len()
    }
}

/// Bytes in front of a part: which field it is, and its length.
const FRAMING: usize = 5;

/// What is left of an answer. The first part always fits; once one did not, none does: so an answer
/// ends somewhere, and what comes after can be asked for.
#[derive(Default)]
pub(super) struct Room {
    used: usize,
}

impl Room {
    /// Whether the part fits, too.
    pub(super) fn take(&mut self, part: &impl Part) -> bool {
        let first = self.used == 0;
        self.used = self.used.saturating_add(part.bytes() + FRAMING);
        first || self.used <= ANSWER_BYTES
    }
}

/// How many of the parts fit into one answer.
pub(super) fn fit(parts: &[impl Part]) -> usize {
    let mut room = Room::default();
    parts.iter().take_while(|part| room.take(*part)).count()
}

/// A page of at most so many entries that is no larger than an answer may be. If it would be, fewer
/// are read: where a page ends, only who reads it knows.
pub(super) async fn fitting<T, P, E, F>(
    mut most: usize,
    page: impl Fn(usize) -> F,
    entry: fn(&T) -> E,
) -> Result<Page<E, P>, HubError>
where
    E: Part,
    F: Future<Output = Result<Page<T, P>, HubError>>,
{
    loop {
        let Page { entries, next } = page(most).await?;
        let entries: Vec<E> = entries.iter().map(entry).collect();
        let fit = fit(&entries);
        if fit == entries.len() {
            return Ok(Page { entries, next });
        }
        // Who comes meanwhile may make them larger: then it takes another look.
        most = fit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_it_is_full_and_has_one_part_at_least() {
        let part = |bytes: usize| "x".repeat(bytes);
        let half = ANSWER_BYTES / 2 - FRAMING;
        assert_eq!(fit(&Vec::<String>::new()), 0);
        assert_eq!(fit(&[part(half), part(half)]), 2);
        assert_eq!(fit(&[part(half), part(half + 1), part(0)]), 1);
        assert_eq!(fit(&[part(ANSWER_BYTES * 3), part(0)]), 1);
        assert_eq!(fit(&vec![String::new(); 1_000_000]), ANSWER_BYTES / FRAMING);
    }

    #[tokio::test]
    async fn a_page_that_is_too_large_is_read_anew_with_less() {
        let lengths = [900_000usize, 900_000, 900_000, 10];
        let page = async |most: usize| {
            let entries = lengths[..most.min(4)].to_vec();
            Ok(Page { next: (entries.len() < 4).then_some(entries.len()), entries })
        };
        let entry = |length: &usize| "x".repeat(*length);
        let fitted = fitting(1000, page, entry).await.unwrap();
        assert_eq!((fitted.entries.len(), fitted.next), (2, Some(2)));
    }
}
