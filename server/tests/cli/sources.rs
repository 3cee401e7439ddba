//! Keys with a source: what one of them sends makes no event of another's a repeat.

use std::time::Duration;

use serde_json::{Value, json};

use crate::server::{READ_TOKEN, Server, WRITE_KEY, run};

/// A key with these options, once it is in force.
async fn key(server: &Server, options: &[&str]) -> String {
    let (code, key, error) =
        run(&mut server.beside(&[&["keys", "create", "write"], options].concat()));
    assert_eq!(code, 0, "{error}");
    let key = key.trim().to_owned();
    for _ in 0..200 {
        // Who may send is told that nothing came.
        let nothing = server.client.post(format!("{}/v1/events", server.url)).bearer_auth(&key);
        if nothing.send().await.unwrap().status() == 400 {
            return key;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the key is not in force");
}

async fn post(server: &Server, key: &str, path: &str, body: &Value) -> (u16, Value) {
    let request = server.client.post(format!("{}{path}", server.url)).bearer_auth(key);
    let answer = request.json(body).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
}

fn order(event_type: &str, price: u32) -> Value {
    let now_ms = jiff::Timestamp::now().as_millisecond();
    json!({
        "event_id": "order-1001", "user_id": "alice", "event_type": event_type,
        "timestamp": now_ms - 60_000, "properties": { "price": price },
    })
}

/// Once all of it is counted.
async fn totals(server: &Server, received: u64) -> Value {
    for _ in 0..300 {
        let pipeline = server.json("/v1/pipeline").await;
        let totals = &pipeline["totals"];
        if totals["received"] == received && totals["in_flight"] == 0 {
            assert_eq!(pipeline["residual"], 0);
            return pipeline;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it is not counted: {}", server.json("/v1/pipeline").await);
}

async fn purchases(server: &Server) -> u64 {
    let path = "/v1/query?metrics=events&filter=event_type:purchase&last=1d&granularity=total";
    let answer = server.json(path).await;
    answer["rows"][0]["events"].as_u64().unwrap_or_default()
}

/// Catches: a public key that takes others' ids before they come.
#[tokio::test]
async fn a_key_of_another_source_cannot_make_the_owners_purchase_a_repeat() {
    let server = Server::start().await;
    let spam =
        key(&server, &["--event-type", "spam", "--source", "pages", "--label", "pages"]).await;
    let accepted =
        |answer: (u16, Value)| assert_eq!((answer.0, &answer.1["accepted"]), (200, &json!(1)));
    accepted(post(&server, &spam, "/v1/events", &order("spam", 0)).await);
    totals(&server, 1).await;
    let mine = order("purchase", 25);
    accepted(post(&server, WRITE_KEY, "/v1/events", &mine).await);
    let pipeline = totals(&server, 2).await;
    assert_eq!(pipeline["totals"]["unique"], 2, "{pipeline}");
    assert_eq!(purchases(&server).await, 1, "{pipeline}");

    // History of the owner's source meets its live event; the other source's does not.
    accepted(post(&server, WRITE_KEY, "/v1/imports/orders/events", &mine).await);
    let pipeline = totals(&server, 3).await;
    assert_eq!(
        (&pipeline["totals"]["unique"], &pipeline["totals"]["conflicts"]),
        (&json!(2), &json!(0))
    );
    accepted(post(&server, &spam, "/v1/imports/orders/events", &order("spam", 0)).await);
    accepted(post(&server, &spam, "/v1/events", &order("spam", 1)).await);
    let pipeline = totals(&server, 5).await;
    assert_eq!(pipeline["totals"]["duplicate"], 3, "{pipeline}");
    let by_source = &pipeline["conflicts_by_source"];
    assert_eq!(
        (&by_source["default"], by_source["pages"].as_u64()),
        (&json!(0), pipeline["totals"]["conflicts"].as_u64())
    );
    assert!(by_source["pages"].as_u64() > Some(0), "{pipeline}");
    let metrics = server.get("/metrics", READ_TOKEN).await.text().await.unwrap();
    let line = format!(
        "nilometer_stream_conflicts_by_source_total{{source=\"pages\"}} {}",
        by_source["pages"]
    );
    assert!(metrics.contains(&line), "{metrics}");

    // The trace tells the two apart, and who sent each copy.
    let trace = server.json("/v1/events/order-1001/trace").await;
    let told = |event: &Value| {
        (
            event["source"].clone(),
            event["counted"].clone(),
            event["copies"].as_array().unwrap().len(),
        )
    };
    let events: Vec<_> = trace["events"].as_array().unwrap().iter().map(told).collect();
    assert_eq!(events, [(Value::Null, json!(1), 2), (json!("pages"), json!(1), 3)]);
    let (_, list, _) = run(&mut server.beside(&["keys", "list"]));
    let line = list.lines().find(|line| line.contains(" pages")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[words.len() - 4..], ["pages", "pages", "(for", "spam)"], "{line}");
    assert_eq!(trace["events"][1]["copies"][0]["key"], words[0]);
}

/// Catches: a letter that is replayed into the source of nobody, where it meets others' ids.
#[tokio::test]
async fn a_replayed_letter_stays_in_the_source_of_its_sender() {
    let server = Server::start().await;
    let pages = key(&server, &["--source", "pages"]).await;
    let (_, answer) = post(&server, &pages, "/v1/events", &{
        let mut bad = order("purchase", 1);
        bad["country"] = json!(7);
        bad
    })
    .await;
    assert_eq!(answer["rejected"], 1);
    post(&server, WRITE_KEY, "/v1/events", &order("purchase", 2)).await;
    let letters = server.json("/v1/dead-letters?filter=key_source:pages").await;
    let id = &letters["letters"][0]["id"];
    let mended = json!({ "id": id, "event": order("purchase", 3) });
    let path = "/v1/dead-letters/replay";
    let (status, answer) = post(&server, crate::server::ADMIN_TOKEN, path, &mended).await;
    assert_eq!((status, &answer["accepted"]), (200, &json!(1)), "{answer}");
    let pipeline = totals(&server, 3).await;
    assert_eq!(
        (&pipeline["totals"]["unique"], purchases(&server).await),
        (&json!(2), 2),
        "{pipeline}"
    );
}

#[tokio::test]
async fn a_source_is_a_short_plain_name_of_keys_that_send() {
    let server = Server::start().await;
    for (options, told) in [
        (&["write", "--source", "My Shop"][..], "1 to 64 of a to z"),
        (&["read", "--source", "shop"], "which write keys send"),
    ] {
        let (code, out, error) = run(&mut server.beside(&[&["keys", "create"], options].concat()));
        assert_eq!((code, out.as_str()), (1, ""), "{error}");
        assert!(error.contains(told), "{error}");
    }
    let (code, ..) = run(&mut server.beside(&["keys", "create", "read", "--source", "default"]));
    assert_eq!(code, 0);
}
