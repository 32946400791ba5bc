//! What acknowledgements want to be done: changes one after the other, then messages.
//!
//! Several acknowledgements are worked on together if only the first of them brings changes: then
//! their messages make one `send_all`, and the order is that of the stream all the same.

use std::pin::Pin;

use super::{
    super::{
        fault,
        proto::{Done, Failure},
    },
    Hub, HubError,
    asked::Step,
};
use crate::{
    change::{Change, Refusal},
    ids::ClientId,
    message::{Payload, Target},
};

/// Work, collected and then under way.
#[derive(Default)]
pub(super) struct Work {
    applies: Vec<(ClientId, Change)>,
    sends: Vec<(Target, Payload)>,
    /// Epochs and cursors that are acknowledged by it, in order; changes are the first one's.
    acknowledges: Vec<(u64, u64)>,
    doing: Option<Doing>,
}

type Doing = Pin<Box<dyn Future<Output = Result<Vec<Failure>, HubError>> + Send>>;

/// What has come of it.
#[derive(Default)]
pub(super) struct Outcome {
    /// Epochs and cursors that are acknowledged now, in order.
    pub(super) acknowledged: Vec<(u64, u64)>,
    /// What failed, if something did.
    pub(super) told: Option<Done>,
}

impl Work {
    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.acknowledges.is_empty()
    }

    /// Takes one more acknowledgement in.
    pub(super) fn add(&mut self, step: Step) {
        self.acknowledges.push(step.at());
        self.applies.extend(step.applies);
        self.sends.extend(step.sends);
    }

    /// Begins.
    pub(super) fn begin(&mut self, hub: Hub) {
        let (applies, sends) = (std::mem::take(&mut self.applies), std::mem::take(&mut self.sends));
        self.doing = Some(Box::pin(carry_out(hub, applies, sends)));
    }
}

/// Waits until the work is done. Dropped before, it has lost nothing.
pub(super) async fn done(work: &mut Option<Work>) -> Result<Outcome, HubError> {
    let Some(Work { acknowledges, doing: Some(doing), .. }) = work else {
        return Ok(Outcome::default());
    };
    let failures = doing.as_mut().await?;
    let acknowledged = std::mem::take(acknowledges);
    let first = acknowledged.first().filter(|_| !failures.is_empty());
    let told = first.map(|(_, cursor)| Done { cursor: *cursor, failures });
    Ok(Outcome { acknowledged, told })
}

/// Makes the changes and puts the messages on their way: from there each shard goes through them in
/// order, and nothing that is sent later comes before them. Both wait for room.
async fn carry_out(
    hub: Hub,
    applies: Vec<(ClientId, Change)>,
    sends: Vec<(Target, Payload)>,
) -> Result<Vec<Failure>, HubError> {
    let mut failures = Vec::new();
    for (index, (client, change)) in applies.into_iter().enumerate() {
        match hub.change_patiently(client, change).await {
            Ok(_) => {}
            Err(HubError::UnknownClient(_)) => {
                let field = format!("applies[{index}].client");
                failures.push(fault::failure(field, &Refusal::UnknownClient));
            }
            Err(HubError::Refused(refusal)) => {
                failures.push(fault::failure(format!("applies[{index}]"), &refusal));
            }
            Err(error) => return Err(error),
        }
    }
    if !sends.is_empty() {
        // How many clients that were is asked by nobody.
        drop(hub.send_all(sends).await?);
    }
    Ok(failures)
}
