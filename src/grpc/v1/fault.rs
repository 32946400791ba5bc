//! What is wrong with a request, told field by field, and what the hub could not do.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::hub::HubError;

/// What is wrong with a request.
#[derive(Debug, Default)]
pub(super) struct Faults {
    violations: Vec<(String, String)>,
    /// Faults beyond those that are told.
    more: usize,
}

/// Faults that are told one by one: details travel in a header, and those have their bounds.
const TOLD: usize = 16;

impl Faults {
    /// Notes a fault of the field with this path, such as `filter.uid_prefix` or `clients[3]`.
    pub(super) fn add(&mut self, field: impl Into<String>, description: impl ToString) {
        if self.violations.len() < TOLD {
            self.violations.push((field.into(), description.to_string()));
        } else {
            self.more += 1;
        }
    }

    /// Refuses the request if anything is wrong with it.
    pub(super) fn check(self) -> Result<(), Status> {
        if self.violations.is_empty() { Ok(()) } else { Err(self.into_status()) }
    }

    /// `INVALID_ARGUMENT` with a `google.rpc.BadRequest`.
    pub(super) fn into_status(self) -> Status {
        let told = self.violations.iter().map(|(field, what)| format!("{field}: {what}"));
        let mut message = told.collect::<Vec<_>>().join("; ");
        if self.more > 0 {
            message = format!("{message}; and {} faults more", self.more);
        }
        let mut details = ErrorDetails::new();
        for (field, description) in self.violations {
            details.add_bad_request_violation(field, description);
        }
        Status::with_error_details(Code::InvalidArgument, message, details)
    }
}

/// What the hub could not do, as a status.
pub(super) fn status(error: &HubError) -> Status {
    let code = match error {
        HubError::UnknownClient(_) => Code::NotFound,
        HubError::Refused(_) => Code::FailedPrecondition,
        HubError::Busy { .. } => Code::ResourceExhausted,
        HubError::Stopped => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_by_field_and_not_without_end() {
        Faults::default().check().expect("nothing is wrong");
        let mut faults = Faults::default();
        for number in 0..TOLD + 3 {
            faults.add(format!("clients[{number}]"), "is wrong");
        }
        let status = faults.check().unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("clients[0]: is wrong; "), "{status:?}");
        assert!(status.message().ends_with("and 3 faults more"), "{status:?}");
        let details = status.get_details_bad_request().expect("details");
        assert_eq!(details.field_violations.len(), TOLD);
        assert_eq!(details.field_violations[2].field, "clients[2]");
    }
}
