//! `Messages.SendStream`.

use std::pin::Pin;

use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    V1,
    proto::{SendStreamRequest, SendStreamResponse},
};

/// The acknowledgements of one stream.
pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<SendStreamResponse, Status>> + Send>>;

/// Serves one stream.
#[expect(clippy::unused_async, reason = "it will wait for room")]
pub(super) async fn serve(
    _api: &V1,
    _request: Request<Streaming<SendStreamRequest>>,
) -> Result<Response<Answers>, Status> {
    Err(Status::unimplemented("SendStream"))
}
