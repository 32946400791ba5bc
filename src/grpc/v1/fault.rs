//! What is wrong: with a request, field by field; with one item of it; with the gateway.
//!
//! Statuses carry the details of google.rpc (`error_details.proto`), so that programs can read what
//! the text tells people.

use std::fmt::Display;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use super::{super::limit, proto::Failure};
use crate::{change::Refusal, config::Config, hub::HubError};

/// Most faults of one request that are named; the others are counted.
const MOST_NAMED: usize = 100;

/// Most bytes of their paths and descriptions: they travel in a header, and many gRPC clients take
/// 8 KiB of these, in which a byte counts for 4/3.
const MOST_BYTES: usize = 4096;

/// What is wrong with one request.
#[derive(Debug, Default)]
pub(super) struct Faults {
    named: Vec<FieldViolation>,
    bytes: usize,
    more: usize,
}

impl Faults {
    /// Notes what is wrong with a field, which is told by its path in the request.
    pub(super) fn add(&mut self, field: impl Into<String>, why: impl Display) {
        let fault = FieldViolation::new(field, why.to_string());
        self.bytes += fault.field.len() + fault.description.len();
        if self.named.len() < MOST_NAMED && (self.bytes <= MOST_BYTES || self.named.is_empty()) {
            self.named.push(fault);
        } else {
            self.more += 1;
        }
    }

    /// Refuses the request if anything is wrong with it.
    pub(super) fn check(self) -> Result<(), Status> {
        if self.is_empty() { Ok(()) } else { Err(self.into()) }
    }

    /// Whether nothing is wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// One of them, as path and description.
    pub(super) fn first(&self) -> (&str, &str) {
        let first = self.named.first();
        first.map_or(("", ""), |fault| (&fault.field, &fault.description))
    }
}

impl From<Faults> for Status {
    fn from(faults: Faults) -> Self {
        let (field, why) = faults.first();
        let text = match (faults.named.len() + faults.more).saturating_sub(1) {
            0 => format!("{field}: {why}"),
            1 => format!("{field}: {why} (and 1 more error)"),
            more => format!("{field}: {why} (and {more} more errors)"),
        };
        let details = ErrorDetails::with_bad_request(faults.named);
        Self::with_error_details(Code::InvalidArgument, text, details)
    }
}

/// The status of a call that the hub did not do.
pub(super) fn status(error: &HubError) -> Status {
    let text = error.to_string();
    match error {
        HubError::UnknownClient(_) => Status::not_found(text),
        HubError::Refused(refusal) => {
            let key = key_of(refusal).unwrap_or_default();
            let details = ErrorDetails::with_precondition_failure_violation("LIMIT", key, &text);
            Status::with_error_details(Code::FailedPrecondition, text, details)
        }
        HubError::Busy { what, .. } => exhausted(what, text),
        HubError::Stopped => Status::unavailable(text),
    }
}

/// The status of a call for which there was no room, by the key of the limit.
pub(super) fn exhausted(key: &str, text: String) -> Status {
    let details = ErrorDetails::with_quota_failure_violation(key, &text);
    Status::with_error_details(Code::ResourceExhausted, text, details)
}

/// The status of a stream of requests one of which can't be read.
pub(super) fn unread(status: Status, config: &Config) -> Status {
    if limit::says_too_large(&status) {
        limit::too_large(config.grpc.max_message.bytes())
    } else {
        status
    }
}

/// What is told of an item that could not be done.
pub(super) fn failure(field: String, refusal: &Refusal) -> Failure {
    let code = match key_of(refusal) {
        None => Code::NotFound,
        Some(_) => Code::FailedPrecondition,
    };
    Failure { field, code: code as i32, message: refusal.to_string() }
}

/// The limit for which a change was refused, if it was one.
fn key_of(refusal: &Refusal) -> Option<&'static str> {
    match refusal {
        Refusal::UnknownClient => None,
        Refusal::TooManyGroups { .. } => Some("limits.groups_per_client"),
        Refusal::TooManyAttributes { .. } => Some("limits.attributes"),
        Refusal::LargeAttributes { .. } => Some("limits.attribute_bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_within_bounds_and_counted_beyond() {
        let mut faults = Faults::default();
        assert!(faults.is_empty());
        for index in 0..1000 {
            faults.add(format!("target.clients[{index}]"), "is wrong");
        }
        assert_eq!(faults.first(), ("target.clients[0]", "is wrong"));
        let status = Status::from(faults);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "target.clients[0]: is wrong (and 999 more errors)");
        let named = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(named.len(), MOST_NAMED);
        assert_eq!(named[99].field, "target.clients[99]");

        let mut faults = Faults::default();
        for _ in 0..MOST_NAMED {
            faults.add("x".repeat(1000), "is wrong");
        }
        let status = Status::from(faults);
        assert!(status.message().ends_with(" (and 99 more errors)"));
        assert!(status.details().len() < 6 * 1024, "{} bytes", status.details().len());
    }

    #[test]
    fn what_the_hub_does_not_do_has_a_status_that_names_the_limit() {
        let busy = status(&HubError::Busy { shard: 0, what: "limits.inbox" });
        assert_eq!(busy.code(), Code::ResourceExhausted);
        assert_eq!(busy.get_details_quota_failure().unwrap().violations[0].subject, "limits.inbox");
        assert_eq!(status(&HubError::Stopped).code(), Code::Unavailable);
        let refused = Refusal::TooManyGroups { groups: 2, limit: 1 };
        let refused = status(&HubError::Refused(refused));
        assert_eq!(refused.code(), Code::FailedPrecondition);
        let violations = refused.get_details_precondition_failure().unwrap().violations;
        assert_eq!(violations[0].subject, "limits.groups_per_client");
        let client = crate::ids::ClientId::new(0, 1, 2, 3);
        assert_eq!(status(&HubError::UnknownClient(client)).code(), Code::NotFound);
    }
}
