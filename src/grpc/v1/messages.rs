//! `gateway.v1.Messages`: sending.

use prost::Message as _;
use ring::digest::{SHA256, digest};
use tonic::{Request, Response, Status, Streaming};

use super::{
    V1,
    convert::Reading,
    count, fault,
    once::{Content, Denied},
    proto::{Delivery, SendRequest, SendResponse, SendStreamRequest, messages_server::Messages},
    stream,
};
use crate::message::Receipt;

#[tonic::async_trait]
impl Messages for V1 {
    type SendStreamStream = stream::Answers;

    async fn send(&self, request: Request<SendRequest>) -> Result<Response<SendResponse>, Status> {
        let config = self.live.snapshot();
        let mut request = request.into_inner();
        let key = std::mem::take(&mut request.idempotency_key);
        let content = (!key.is_empty()).then(|| content_of(&request));
        let mut reading = Reading::new(&config);
        let addressed = reading.send(request);
        let key =
            content.and_then(|content| Some((reading.name("idempotency_key", &key)?, content)));
        let (target, payload) = reading.done(addressed)?;
        let sent = match key {
            None => self.hub.send(target, payload).await,
            Some(call) => {
                let hub = self.hub.clone();
                let sending = async move { hub.send(target, payload).await };
                self.once.send(call, &config.api, sending).await.map_err(|why| denied(&why))?
            }
        };
        let receipt = sent.map_err(|error| fault::status(&error))?;
        Ok(Response::new(SendResponse { delivery: Some(receipt.into()) }))
    }

    async fn send_stream(
        &self,
        request: Request<Streaming<SendStreamRequest>>,
    ) -> Result<Response<stream::Answers>, Status> {
        stream::serve(self, request)
    }
}

/// What makes two calls the same: all that they say, but for the key.
fn content_of(request: &SendRequest) -> Content {
    let mut content = Content::default();
    content.copy_from_slice(digest(&SHA256, &request.encode_to_vec()).as_ref());
    content
}

fn denied(denied: &Denied) -> Status {
    let text = denied.to_string();
    match denied {
        Denied::OtherContent => {
            let mut faults = fault::Faults::default();
            faults.add("idempotency_key", text);
            faults.into()
        }
        Denied::Full { .. } => fault::exhausted("api.idempotency_keys", text),
    }
}

impl From<Receipt> for Delivery {
    fn from(receipt: Receipt) -> Self {
        Self {
            matched: count(receipt.matched),
            queued: count(receipt.queued),
            dropped_behind: count(receipt.behind),
            dropped_full: count(receipt.full),
            dropped_closed: count(receipt.closed),
            replaced: count(receipt.replaced),
        }
    }
}
