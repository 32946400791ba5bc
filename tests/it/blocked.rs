//! Calls whose answers nobody reads, beside others on the same HTTP/2 connection: each blocks itself.

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use gateway_websocket::grpc::proto::v1::{Message, SendRequest, SendStreamRequest, Target};
use prost::Message as _;
use tokio::task::JoinSet;

use crate::{
    client::soon,
    gateway::Gateway,
    h2c::{Begun, Http2, SEND_STREAM},
};

/// An item of a stream, with a message for nobody, as gRPC frames it.
fn item(sequence: u64) -> Vec<u8> {
    let send = SendRequest {
        target: Some(Target { groups: vec!["nobody".into()], ..Target::default() }),
        message: Some(Message { kind: 1, data: vec![b'x'; 8 << 10].into() }),
        ..SendRequest::default()
    };
    let item = SendStreamRequest { sequence, sends: vec![send] }.encode_to_vec();
    let len = u32::try_from(item.len()).unwrap().to_be_bytes();
    [&[0], &len[..], &item].concat()
}

/// Sends items until no more are taken; answers the call, and how many bytes were.
async fn fill(mut call: Begun) -> (Begun, usize) {
    let mut taken = 0;
    for sequence in 1..10_000 {
        let mut bytes = Bytes::from(item(sequence));
        while !bytes.is_empty() {
            call.body.reserve_capacity(bytes.len());
            let room = poll_fn(|context| call.body.poll_capacity(context));
            // Nobody tells that nothing more is going to be taken.
            let Ok(room) = tokio::time::timeout(Duration::from_secs(1), room).await else {
                return (call, taken);
            };
            let part = bytes.split_to(room.unwrap().unwrap().min(bytes.len()));
            taken += part.len();
            call.body.send_data(part, false).unwrap();
        }
    }
    panic!("{taken} bytes were taken, and no answer was read");
}

#[tokio::test]
async fn streams_whose_answers_nobody_reads_leave_the_calls_beside_them_alone() {
    const STREAMS: usize = 16;
    let streams = format!("api.max_streams={STREAMS}");
    let calls = format!("grpc.max_streams={}", STREAMS + 1);
    let gateway = Gateway::with(&[&streams, &calls]).await;
    // Room for a short answer in each call, and for one or two of a stream.
    let mut settings = h2::client::Builder::new();
    settings.initial_window_size(64);
    let mut line = Http2::with(gateway.grpc(), &settings).await;
    line.count().await;

    let mut filling = JoinSet::new();
    for _ in 0..STREAMS {
        filling.spawn(fill(line.begin(SEND_STREAM, &[]).await));
    }
    let blocked = soon("all of them are stopped", filling.join_all()).await;
    assert!(blocked.iter().all(|(_, taken)| *taken > 0));

    // Each of these needs room for its request as well.
    for _ in 0..3 {
        line.count().await;
    }
    drop(blocked);
}
