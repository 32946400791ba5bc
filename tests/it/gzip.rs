//! gRPC messages may be compressed with gzip: both ways for who compresses, for nobody else, and
//! never beyond `grpc.max_message`.

use std::io::{Read as _, Write as _};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use gateway_websocket::grpc::proto::{
    CountOnlineClientRequest,
    count_online_client_client::CountOnlineClientClient,
    v1::{SendStreamRequest, StreamClientsRequest, directory_client::DirectoryClient},
};
use prost::Message as _;
use tonic::{Code, codec::CompressionEncoding, codegen::http::HeaderMap};

use crate::{
    client::soon,
    gateway::Gateway,
    h2c::{Begun, COUNT, Http2, framed, status},
    v1::{clients, send},
};

const GZIP: &[(&str, &str)] =
    &[("grpc-encoding", "gzip"), ("grpc-accept-encoding", "identity,deflate,gzip")];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

fn send_gzip(call: &mut Begun, message: &[u8]) {
    call.body.send_data(framed(1, &gzip(message)).into(), true).unwrap();
}

fn says(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| value.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn every_service_takes_what_is_compressed_and_answers_so() {
    let gateway = Gateway::start().await;
    let mut caller = Http2::connect(gateway.grpc()).await;
    for (path, answers) in [
        (COUNT, true),
        ("/proto.GetAllOnlineClient/GetAllOnlineClient", true),
        ("/proto.UnGroup/UnGroup", true),
        ("/gateway.v1.Directory/Count", true),
        ("/gateway.v1.Directory/StreamClients", false),
        ("/gateway.v1.Messages/Send", false),
        ("/gateway.v1.Messages/SendStream", false),
        ("/gateway.v1.Membership/Apply", false),
        ("/gateway.v1.Connections/Close", false),
        ("/gateway.v1.Events/Subscribe", false),
        ("/grpc.health.v1.Health/Check", true),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", false),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", false),
    ] {
        let mut call = caller.begin(path, GZIP).await;
        send_gzip(&mut call, &[]);
        let (head, body, trailers) = call.whole().await;
        let headers = if trailers.is_empty() { &head.headers } else { &trailers };
        let (code, why) = status(headers);
        assert!(![Code::Unimplemented, Code::Internal].contains(&code), "{path}: {code:?} {why}");
        assert_eq!(says(&head.headers, "grpc-accept-encoding").as_deref(), Some("gzip"), "{path}");
        if answers {
            assert_eq!(code, Code::Ok, "{path}: {why}");
            assert_eq!(says(&head.headers, "grpc-encoding").as_deref(), Some("gzip"), "{path}");
            assert_eq!(body[0], 1, "{path}");
            gunzip(&body[5..]);
        }
    }
}

#[tokio::test]
async fn who_only_lists_gzip_is_answered_without() {
    let gateway = Gateway::start().await;
    let mut caller = Http2::connect(gateway.grpc()).await;
    for headers in [&GZIP[1..], &[("grpc-encoding", "identity"), GZIP[1]], &[]] {
        let mut call = caller.begin(COUNT, headers).await;
        call.complete();
        let (head, body, _) = call.whole().await;
        assert_eq!(says(&head.headers, "grpc-encoding"), None, "{headers:?}");
        assert_eq!(body[0], 0, "{headers:?}");
        assert_eq!(says(&head.headers, "grpc-accept-encoding").as_deref(), Some("gzip"));
    }
    // What isn't known is said, with what is.
    let mut call = caller.begin(COUNT, &[("grpc-encoding", "br")]).await;
    call.complete();
    let (head, _, _) = call.whole().await;
    let (code, why) = status(&head.headers);
    assert!(code == Code::Unimplemented && why.contains("`br`"), "{code:?} {why}");
    assert!(says(&head.headers, "grpc-accept-encoding").unwrap().contains("gzip"));
}

#[tokio::test]
async fn a_library_that_compresses_is_served() {
    let gateway = Gateway::start().await;
    let _clients = gateway.connect_n::<3>().await;
    let gzip = CompressionEncoding::Gzip;
    let mut count = CountOnlineClientClient::new(gateway.channel())
        .send_compressed(gzip)
        .accept_compressed(gzip);
    let answer = count.count_online_client(CountOnlineClientRequest {}).await.unwrap();
    assert_eq!(answer.into_inner().count, 3);
    let mut directory =
        DirectoryClient::new(gateway.channel()).send_compressed(gzip).accept_compressed(gzip);
    let answer = directory.stream_clients(StreamClientsRequest::default()).await.unwrap();
    assert_eq!(answer.metadata().get("grpc-encoding").unwrap(), "gzip");
    let mut list = answer.into_inner();
    let mut listed = 0;
    while let Some(part) = soon("a part", list.message()).await.unwrap() {
        listed += part.clients.len();
    }
    assert_eq!(listed, 3);
}

#[tokio::test]
async fn what_becomes_too_large_is_refused_as_it_is_decompressed() {
    let gateway = Gateway::with(&["grpc.max_message=64 KiB"]).await;
    let client = gateway.connect().await;
    let mut caller = Http2::connect(gateway.grpc()).await;
    let bomb = send(clients([client.id()]), &"x".repeat(16 << 20));
    assert!(gzip(&bomb.encode_to_vec()).len() < 64 << 10, "it is small on the wire");
    let item = SendStreamRequest { sequence: 1, sends: vec![bomb.clone()] };
    for (path, message) in [
        ("/gateway.v1.Messages/Send", bomb.encode_to_vec()),
        ("/gateway.v1.Messages/SendStream", item.encode_to_vec()),
        ("/gateway.v1.Events/Subscribe", bomb.encode_to_vec()),
        ("/proto.SendMessageToClient/SendMessageToClient", bomb.encode_to_vec()),
    ] {
        let mut call = caller.begin(path, GZIP).await;
        send_gzip(&mut call, &message);
        let (code, why) = call.status().await.unwrap();
        assert_eq!(code, Code::ResourceExhausted, "{path}: {why}");
        assert!(why.contains("grpc.max_message (65536 bytes)"), "{path}: {why}");
    }
    let mut call = caller.begin("/grpc.health.v1.Health/Check", GZIP).await;
    send_gzip(&mut call, &vec![0; 1 << 20]);
    assert_eq!(call.status().await.unwrap().0, Code::ResourceExhausted);
    // One that is too large as it is gets the same words, in a stream as well.
    for (path, message) in [
        ("/gateway.v1.Messages/Send", vec![0; 100 << 10]),
        ("/gateway.v1.Messages/SendStream", vec![0; 100 << 10]),
    ] {
        let mut call = caller.begin(path, &[]).await;
        call.send(&message);
        let (code, why) = call.status().await.unwrap();
        assert_eq!(code, Code::ResourceExhausted, "{path}: {why}");
        assert!(why.contains("grpc.max_message (65536 bytes)"), "{path}: {why}");
    }
    caller.count().await;
}
