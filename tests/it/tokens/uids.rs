//! How many clients there may be of one uid.

use gateway_websocket::close::Cause;
use serde_json::json;

use super::{SECRET, answer, bearer, enter, keyed};
use crate::{
    client::soon,
    gateway::Gateway,
    mint::by_secret,
    raw::{CLOSE, Raw, frame},
};

fn ada() -> String {
    by_secret(SECRET, &json!({}))
}

/// Says goodbye and waits until the place is given back.
async fn leave(gateway: &Gateway, mut raw: Raw) {
    let before = gateway.hub().count_clients();
    raw.send(frame(CLOSE, &1000u16.to_be_bytes())).await;
    raw.ended().await;
    assert_eq!(gateway.hub().count_clients(), before - 1);
}

#[tokio::test]
async fn one_more_of_a_uid_is_refused_until_another_has_gone() {
    let (gateway, _files) = keyed(&["auth.max_clients_per_uid=2"]).await;
    let (first, _) = enter(&gateway, &ada()).await;
    let (_second, _) = enter(&gateway, &ada()).await;
    let (_, head) = answer(&gateway, &[&bearer(&ada())]).await;
    assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
    assert_eq!(gateway.hub().handshakes().uid.get(), 1);
    let (_other, _) = enter(&gateway, &by_secret(SECRET, &json!({"sub": "bob"}))).await;
    leave(&gateway, first).await;
    let (_third, _) = enter(&gateway, &ada()).await;
    let (_, head) = answer(&gateway, &[&bearer(&ada())]).await;
    assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
}

/// Who is told that it may go on can go on at once: the place is free when the close is answered,
/// and not only when the socket is.
#[tokio::test]
async fn who_was_closed_has_its_place_free_though_it_does_not_answer() {
    let sets = ["auth.max_clients_per_uid=1", "limits.close_wait=1h"];
    let (gateway, _files) = keyed(&sets).await;
    let (_silent, id) = enter(&gateway, &ada()).await;
    gateway.clonse_client(&id.to_string()).await;
    assert_eq!(gateway.hub().count_sockets(), 1, "it doesn't answer the close");
    enter(&gateway, &ada()).await;
}

#[tokio::test]
async fn the_oldest_makes_room_and_is_gone_before_the_new_one_is_answered() {
    let sets = ["auth.max_clients_per_uid=1", "auth.when_uid_is_full=close-oldest"];
    let (gateway, _files) = keyed(&sets).await;
    let (mut last, mut id) = enter(&gateway, &ada()).await;
    for closed in 1..=20 {
        let (mut raw, head) = answer(&gateway, &[&bearer(&ada())]).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        // The answer is read, so the old one is off every list.
        assert!(!gateway.hub().is_online(id).await.unwrap());
        assert_eq!(gateway.closed(Cause::Replaced), closed);
        id = raw.data().await.text().parse().unwrap();
        assert_eq!(gateway.hub().clients_of("ada").await.unwrap(), [id]);
        assert_eq!(soon("the close", last.close_code()).await, 3001);
        last = raw;
    }
}

/// A hundred come at once, and whoever looks sees three at most.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_that_comes_at_once_is_never_too_many() {
    let sets = ["auth.max_clients_per_uid=3", "auth.when_uid_is_full=close-oldest"];
    let (gateway, _files) = keyed(&sets).await;
    let gateway = std::sync::Arc::new(gateway);
    let crowd: Vec<_> = (0..100)
        .map(|_| {
            let gateway = std::sync::Arc::clone(&gateway);
            tokio::spawn(async move {
                let (mut raw, head) = answer(&gateway, &[&bearer(&ada())]).await;
                assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
                raw.rest().await;
            })
        })
        .collect();
    let closed = async {
        loop {
            let now = gateway.hub().clients_of("ada").await.unwrap().len();
            assert!(now <= 3, "{now} can be addressed");
            if now == 3 && gateway.closed(Cause::Replaced) == 97 {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    soon("the others' close", closed).await;
    for one in crowd {
        one.abort();
    }
}

#[tokio::test]
async fn who_has_no_uid_is_not_counted() {
    let (gateway, _files) = keyed(&["auth.max_clients_per_uid=1", "auth.required=false"]).await;
    let _clients = gateway.connect_n::<3>().await;
    let (_one, _) = enter(&gateway, &ada()).await;
}
