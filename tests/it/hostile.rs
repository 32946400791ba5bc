//! What bad frames get: the right close code, and nobody else pays for it.

use gateway_websocket::close::Cause;

use crate::{
    client::{Client, soon},
    gateway::Gateway,
    raw::{BINARY, CLOSE, PING, Raw, TEXT, frame, head},
};

/// A first fragment of text, and a continuation that is not the last.
const FIRST: u8 = 0x01;
const MIDDLE: u8 = 0x00;
const LAST: u8 = 0x80;

/// A client that was there before still hears and is heard, and another one may come.
async fn still_works(gateway: &Gateway, polite: &mut Client) {
    for client in [polite, &mut gateway.connect().await] {
        gateway.send_message_to_client(client.id(), "marker").await;
        assert_eq!(client.next_text().await, "marker");
        client.say("ping").await;
        assert_eq!(client.next_text().await, "pong");
    }
}

/// What `bytes` get from a gateway with the settings: a close frame with the code, counted once for
/// the cause, and the end of the stream.
async fn get_from(sets: &[&str], bytes: &[u8], code: u16, cause: Cause) {
    let gateway = Gateway::with(sets).await;
    let mut polite = gateway.connect().await;
    let (mut raw, id) = Raw::welcomed(gateway.websocket()).await;
    gateway.join_group(id.as_str(), "lobby").await;
    raw.send(bytes).await;
    assert_eq!(raw.close_code().await, code);
    // What is known of the client ends when the closing begins, not when the socket does.
    assert!(!gateway.client_is_online(id).await.isonline);
    assert_eq!(gateway.count_group().await.count, 0);
    raw.try_send(frame(CLOSE, &code.to_be_bytes())).await.ok();
    raw.hang_up().await.ok();
    raw.ended().await;
    assert_eq!(gateway.closed(cause), 1);
    assert_eq!(gateway.sum(|stats| stats.panics.get()), 0);
    still_works(&gateway, &mut polite).await;
}

async fn get(bytes: &[u8], code: u16, cause: Cause) {
    get_from(&[], bytes, code, cause).await;
}

#[tokio::test]
async fn a_message_that_declares_itself_too_large_gets_1009_before_it_is_sent() {
    let sets = ["limits.max_message=1KiB"];
    get_from(&sets, &head(TEXT, 1025), 1009, Cause::TooBig).await;
    get_from(&sets, &head(BINARY, 1 << 40), 1009, Cause::TooBig).await;
}

#[tokio::test]
async fn a_message_that_grows_too_large_by_its_fragments_gets_1009() {
    let sets = ["limits.max_message=1KiB"];
    let bytes = [frame(FIRST, &[b'a'; 600]), frame(LAST, &[b'a'; 425])].concat();
    get_from(&sets, &bytes, 1009, Cause::TooBig).await;
}

#[tokio::test]
async fn a_message_of_just_the_limit_is_welcome() {
    let sets = ["limits.max_message=1KiB", "websocket.messages=echo"];
    let gateway = Gateway::with(&sets).await;
    let (mut raw, _) = Raw::welcomed(gateway.websocket()).await;
    raw.send(frame(TEXT, &[b'a'; 1024])).await;
    assert_eq!(raw.data().await.payload, [b'a'; 1024]);
    raw.send([frame(FIRST, &[b'b'; 600]), frame(LAST, &[b'b'; 424])].concat()).await;
    assert_eq!(raw.data().await.payload, [b'b'; 1024]);
}

#[tokio::test]
async fn a_frame_that_is_not_masked_gets_1002() {
    get(b"\x81\x02hi", 1002, Cause::Protocol).await;
}

#[tokio::test]
async fn reserved_bits_get_1002() {
    for bit in [0x40, 0x20, 0x10] {
        get(&frame(TEXT | bit, b"hi"), 1002, Cause::Protocol).await;
    }
}

#[tokio::test]
async fn a_reserved_opcode_gets_1002() {
    for opcode in [0x3, 0x7, 0xb, 0xf] {
        get(&frame(0x80 | opcode, b""), 1002, Cause::Protocol).await;
    }
}

#[tokio::test]
async fn text_that_is_not_utf_8_gets_1007() {
    get(&frame(TEXT, b"caf\xe9"), 1007, Cause::BadText).await;
    let halves = [frame(FIRST, b"caf\xc3"), frame(LAST, b"e")].concat();
    get(&halves, 1007, Cause::BadText).await;
}

#[tokio::test]
async fn text_that_is_not_utf_8_gets_1007_before_its_frame_is_complete() {
    let mut bytes = frame(TEXT, b"bad: \xff and so on");
    bytes.truncate(bytes.len() - 5);
    get(&bytes, 1007, Cause::BadText).await;
}

#[tokio::test]
async fn a_control_frame_that_is_too_long_gets_1002() {
    get(&frame(PING, &[0; 126]), 1002, Cause::Protocol).await;
}

#[tokio::test]
async fn a_fragmented_control_frame_gets_1002() {
    get(&frame(PING & 0x7f, b"hi"), 1002, Cause::Protocol).await;
}

#[tokio::test]
async fn a_bad_close_frame_gets_1002_and_a_reason_that_is_no_text_1007() {
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        get(&frame(CLOSE, &code.to_be_bytes()), 1002, Cause::Protocol).await;
    }
    get(&frame(CLOSE, &[3]), 1002, Cause::Protocol).await;
    get(&frame(CLOSE, b"\x03\xe8\xff"), 1007, Cause::BadText).await;
}

#[tokio::test]
async fn a_continuation_of_nothing_gets_1002() {
    get(&frame(LAST, b"more"), 1002, Cause::Protocol).await;
}

#[tokio::test]
async fn a_message_inside_another_gets_1002() {
    let bytes = [frame(FIRST, b"one"), frame(TEXT, b"two")].concat();
    get(&bytes, 1002, Cause::Protocol).await;
}

#[tokio::test]
async fn a_length_in_more_bytes_than_it_needs_gets_1002() {
    get(b"\x81\xfe\x00\x05abcdhello", 1002, Cause::Protocol).await;
    get(b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff", 1002, Cause::Protocol).await;
}

#[tokio::test]
async fn a_million_tiny_fragments_get_1008() {
    let gateway = Gateway::start().await;
    let mut polite = gateway.connect().await;
    let (mut raw, _) = Raw::welcomed(gateway.websocket()).await;
    raw.send(frame(FIRST, b"a")).await;
    let thousand = frame(MIDDLE, b"a").repeat(1000);
    let mut sent = 0;
    while sent < 1000 && raw.try_send(&thousand).await.is_ok() {
        sent += 1;
    }
    assert_eq!(raw.close_code().await, 1008);
    assert_eq!(gateway.closed(Cause::Policy), 1);
    assert_eq!(gateway.sum(|stats| stats.partial_bytes.get()), 0);
    still_works(&gateway, &mut polite).await;
}

#[tokio::test]
async fn as_many_fragments_as_are_allowed_are_welcome() {
    let sets = ["limits.max_fragments=5", "websocket.messages=echo"];
    let gateway = Gateway::with(&sets).await;
    let (mut raw, _) = Raw::welcomed(gateway.websocket()).await;
    let middle = frame(MIDDLE, b"b").repeat(3);
    raw.send([frame(FIRST, b"a"), middle.clone(), frame(LAST, b"c")].concat()).await;
    assert_eq!(raw.data().await.text(), "abbbc");
    let six = [frame(FIRST, b"a"), middle, frame(MIDDLE, b"b"), frame(LAST, b"c")].concat();
    raw.send(six).await;
    assert_eq!(raw.close_code().await, 1008);
}

#[tokio::test]
async fn a_message_that_is_never_finished_gets_1008() {
    let sets = ["limits.message_deadline=300ms"];
    get_from(&sets, &head(TEXT, 100), 1008, Cause::Policy).await;
    get_from(&sets, &frame(FIRST, b"to be continued"), 1008, Cause::Policy).await;
    get_from(&sets, &[TEXT], 1008, Cause::Policy).await;
}

#[tokio::test]
async fn more_messages_than_allowed_get_1008() {
    let sets = ["limits.client_messages=3"];
    let bytes = frame(TEXT, b"again").repeat(8);
    get_from(&sets, &bytes, 1008, Cause::Policy).await;
}

#[tokio::test]
async fn more_bytes_than_allowed_get_1008() {
    let sets = ["limits.client_bytes=1KiB"];
    get_from(&sets, &frame(BINARY, &[0; 4000]), 1008, Cause::Policy).await;
}

/// The close frame may come in the middle of the client's own frame; its answer comes after it.
#[tokio::test]
async fn a_client_over_its_bytes_is_let_go_when_it_answers() {
    let sets = ["limits.client_bytes=1KiB", "limits.close_wait=1h"];
    let gateway = Gateway::with(&sets).await;
    let mut polite = gateway.connect().await;
    let (mut raw, _) = Raw::welcomed(gateway.websocket()).await;
    let message = frame(BINARY, &[0xff; 4000]);
    raw.send(&message[..2000]).await;
    assert_eq!(raw.close_code().await, 1008);
    raw.send(&message[2000..]).await;
    raw.send(frame(CLOSE, &1008u16.to_be_bytes())).await;
    raw.ended().await;
    still_works(&gateway, &mut polite).await;
}

#[tokio::test]
async fn the_close_frame_reaches_a_client_that_goes_on_sending_megabytes() {
    for bad in [frame(TEXT, b"\xff"), b"\x81\x02hi".to_vec(), head(TEXT, 1 << 30)] {
        let gateway = Gateway::start().await;
        let mut polite = gateway.connect().await;
        let (mut raw, _) = Raw::welcomed(gateway.websocket()).await;
        let rubbish = vec![0x55; 1 << 20];
        raw.send(bad).await;
        for _ in 0..8 {
            raw.send(&rubbish).await;
        }
        let code = raw.close_code().await;
        assert!([1007, 1002, 1009].contains(&code), "{code}");
        raw.hang_up().await.unwrap();
        assert_eq!(raw.next().await, None);
        still_works(&gateway, &mut polite).await;
    }
}

#[tokio::test]
async fn pings_without_end_that_nobody_reads_the_answers_of_take_no_memory() {
    let gateway =
        Gateway::with(&["websocket.send_buffer=16KiB", "shards=1", "limits.client_messages=0"])
            .await;
    let mut polite = gateway.connect().await;
    let (mut raw, _) = Raw::narrow(gateway.websocket()).await;
    let pings = frame(PING, &[b'x'; 125]).repeat(1000);
    for _ in 0..40 {
        raw.send(&pings).await;
    }
    let queued = gateway.sum(|stats| stats.queued_bytes.get());
    assert!(queued < 64 * 1024, "{queued} bytes wait");
    raw.send(frame(PING, b"the last")).await;
    let last = async { while raw.next().await.expect("a pong").payload != b"the last" {} };
    soon("the last pong", last).await;
    still_works(&gateway, &mut polite).await;
}

/// The client has our close frame and answers it with something that is no frame.
#[tokio::test]
async fn a_violation_after_our_close_frame_is_not_waited_upon() {
    let sets = ["limits.close_wait=1h", "compression.enabled=true"];
    let gateway = Gateway::with(&sets).await;
    let mut polite = gateway.connect().await;
    let broken = [0x40 | TEXT, 0x84, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
    for bad in [&b"\x81\x02hi"[..], &frame(TEXT, b"\xff"), &broken] {
        let (mut raw, response) = Raw::compressing(gateway.websocket()).await;
        assert!(response.contains("permessage-deflate"), "{response}");
        let id = raw.data().await.text().to_owned();
        gateway.clonse_client(id).await;
        assert_eq!(raw.close_code().await, 1000);
        raw.send(bad).await;
        assert_eq!(soon("the end", raw.next()).await, None);
        drop(raw);
        let gone = async {
            while gateway.hub().count_sockets() > 1 {
                gateway.count_online_client().await;
            }
        };
        soon("the end of the socket", gone).await;
    }
    still_works(&gateway, &mut polite).await;
}

#[tokio::test]
async fn a_violation_before_our_close_frame_went_out_ends_with_it() {
    let sets =
        ["limits.close_wait=1h", "websocket.send_buffer=16KiB", "limits.queue_messages=100000"];
    let gateway = Gateway::with(&sets).await;
    let mut polite = gateway.connect().await;
    let (mut raw, id) = Raw::narrow(gateway.websocket()).await;
    let message = "x".repeat(4096);
    for _ in 0..200 {
        gateway.send_message_to_client(id.as_str(), message.as_str()).await;
    }
    gateway.clonse_client(id.as_str()).await;
    raw.send(b"\x81\x02hi").await;
    polite.say("ping").await;
    assert_eq!(polite.next_text().await, "pong");
    for _ in 0..200 {
        assert_eq!(raw.data().await.payload.len(), message.len());
    }
    assert_eq!(raw.close_code().await, 1000);
    assert_eq!(soon("the end", raw.next()).await, None);
    still_works(&gateway, &mut polite).await;
}
