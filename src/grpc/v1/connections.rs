//! `gateway.v1.Connections`: ending.

use tonic::{Request, Response, Status};

use super::{
    V1,
    convert::Reading,
    count, fault,
    proto::{CloseRequest, CloseResponse, Pending, Target, connections_server::Connections},
};
use crate::{
    access::{AUDIT, Caller},
    close::{Cause, Close},
};

/// Names of one sort that an audit line tells; the others are counted.
const MOST_TOLD: usize = 10;

#[tonic::async_trait]
impl Connections for V1 {
    async fn close(
        &self,
        request: Request<CloseRequest>,
    ) -> Result<Response<CloseResponse>, Status> {
        let config = self.live.snapshot();
        let (_, extensions, request) = request.into_parts();
        let mut reading = Reading::new(&config);
        let whom = request.target.as_ref().map(told).unwrap_or_default();
        let target = reading.target(request.target);
        let last = request.last_message.map(|it| reading.message("last_message", Some(it)));
        let close = Close {
            cause: Cause::Api,
            code: reading.close_code(request.code),
            reason: reading.close_reason(request.reason).into(),
            last: last.flatten(),
            drop_pending: match Pending::try_from(request.pending) {
                Ok(Pending::Unspecified | Pending::Flush) => false,
                Ok(Pending::Drop) => true,
                Err(_) => {
                    reading.fault("pending", "unknown value");
                    false
                }
            },
        };
        let target = reading.done(target)?;
        // Before it is done, since a caller who hangs up afterwards must not go unnamed.
        tracing::info!(
            target: AUDIT, caller = extensions.get::<Caller>().map(tracing::field::display),
            call = "Connections.Close", whom, code = close.code, reason = &*close.reason,
            "clients are closed"
        );
        let closed = self.hub.close(target, close).await.map_err(|error| fault::status(&error))?;
        Ok(Response::new(CloseResponse { closed: count(closed) }))
    }
}

/// A target as the audit log tells it.
fn told(target: &Target) -> String {
    let mut parts = Vec::new();
    if target.all {
        parts.push("all".to_owned());
    }
    for (sort, names) in [
        ("clients", &target.clients),
        ("uids", &target.uids),
        ("groups", &target.groups),
        ("except clients", &target.except_clients),
        ("except uids", &target.except_uids),
    ] {
        if !names.is_empty() {
            parts.push(format!("{sort} {}", few(names)));
        }
    }
    if !target.attributes.is_empty() {
        let pairs = target.attributes.iter().map(|(key, value)| format!("{key}={value}"));
        let pairs: Vec<_> = pairs.collect();
        parts.push(format!("with attributes {}", few(&pairs)));
    }
    parts.join("; ")
}

/// The first of the names, and how many there are besides.
pub(super) fn few(names: &[String]) -> String {
    let shown = &names[..names.len().min(MOST_TOLD)];
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_line_tells_whom_and_does_not_grow_without_end() {
        let names = |count: usize| (0..count).map(|number| number.to_string()).collect();
        assert_eq!(told(&Target { all: true, ..Target::default() }), "all");
        let target = Target {
            uids: names(2),
            groups: names(1000),
            except_clients: names(1),
            attributes: [("a".to_owned(), "1".to_owned())].into(),
            ..Target::default()
        };
        assert_eq!(
            told(&target),
            "uids 0, 1; groups 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 990 more; except clients 0; \
             with attributes a=1"
        );
    }
}
