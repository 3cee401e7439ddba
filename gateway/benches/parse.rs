//! How long does an event of about 500 bytes take: to parse and validate, and all the way to a
//! record that is masked, stamped and routed? One core, no log.

use std::fmt::Write as _;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nilometer_event::{PartitionCount, ReceiveTime};
use nilometer_gateway::bench::{Pipeline, parse};
use nilometer_gateway::{GatewayPlan, GatewaySettings, Limits};

const EVENTS: usize = 1_000;

/// A batch of events of the common shape; `user` makes the user's id.
fn body(user: fn(usize) -> String) -> String {
    let mut body = String::from("[");
    for n in 0..EVENTS {
        if n > 0 {
            body.push(',');
        }
        write!(
            body,
            r#"{{"event_id":"018f3c1e-7d1a-7bd0-9f5e-{n:012x}","event_type":"play_complete","user_id":"{}","session_id":"s-{:08x}","timestamp":"2026-11-21T20:15:{:02}.120Z","country":"DE","device_type":"tv","app_version":"5.2.0","content_id":"c-{n}","content_category":"drama","subscription_tier":"premium","channel":"organic","session_duration_sec":{}.5,"completed":true,"properties":{{"player":"web","bitrate_kbps":4200,"title":"Some title of a film","autoplay":false,"position":{n},"referrer":"https://shop.example/films/{n}"}}}}"#,
            user(n),
            n * 7_919,
            n % 60,
            n % 4_000,
        )
        .expect("a string takes any text");
    }
    body.push(']');
    body
}

fn bench(criterion: &mut Criterion) {
    let plain = body(|n| format!("u-{n}"));
    let emails = body(|n| format!("user{n}@mail.example"));
    let limits = Limits::default();
    let plan = GatewayPlan::try_from(GatewaySettings::default()).expect("the defaults are a plan");
    let pipeline = Pipeline::new(plan);
    let partitions = PartitionCount::new(4).expect("4 is not 0");
    let now = ReceiveTime::from_ms(1_795_291_200_000);

    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(u64::try_from(EVENTS).expect("small")));
    group.sample_size(30);
    group.bench_function(format!("parse_{}_bytes", plain.len() / EVENTS), |bencher| {
        bencher.iter(|| {
            let good = parse(plain.as_bytes(), &limits).expect("the body is JSON");
            assert_eq!(good, EVENTS);
        });
    });
    for (name, body) in [("whole", &plain), ("whole_email_users", &emails)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (answer, bytes) =
                    pipeline.take(body.as_bytes(), partitions, now).expect("the body is JSON");
                assert_eq!(answer.accepted, EVENTS);
                bytes
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
