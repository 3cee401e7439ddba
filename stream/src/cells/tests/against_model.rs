//! Random events and sessions in any order, split into entries and layers.

use std::sync::Arc;

use super::model::{Fact, Model, Rng, SessionFactOf, plan, scan};
use crate::cells::{
    CellSource, DimFilter, DimValues, Layer, LayerFile, OwnedDimValue, ScanRequest, Tallies,
    layer_bytes, write_layer,
};
use crate::declare::{Decimal, MetricContext, MetricValue, Plan, SetKind};
use nilometer_event::{Event, EventTime, Granularity, TimeRange};
use nilometer_log::Disk as _;
use nilometer_log::disk::sim::SimDisk;

enum Step {
    Event(Fact),
    Session(SessionFactOf, i64),
}

fn script(rng: &mut Rng, events: u64, span_ms: u64, users: u64) -> Vec<Step> {
    // 21:50 UTC, so that windows of every granularity turn within the span.
    let start = 1_763_934_600_000;
    let mut steps = Vec::new();
    for _ in 0..events {
        steps.push(Step::Event(Fact::random(rng, start, span_ms, users)));
        if rng.below(4) == 0 {
            let session = SessionFactOf::random(rng, start, span_ms);
            if rng.below(3) == 0 {
                steps.push(Step::Session(session.clone(), -1));
            }
            steps.push(Step::Session(session, 1));
        }
    }
    rng.shuffle(&mut steps);
    steps
}

fn apply(step: &Step, layer: &mut Layer, tallies: &mut Tallies) {
    match step {
        Step::Event(fact) => layer.count(tallies, &fact.event(), fact.user()),
        Step::Session(one, sign) => {
            let start = EventTime::from_ms(one.start);
            layer.count_session(tallies, start, &one.dims(), &one.measure, *sign);
        }
    }
}

fn run(seed: u64, events: u64, span_ms: u64, users: u64) {
    let mut rng = Rng(seed);
    let plan = plan();
    let steps = script(&mut rng, events, span_ms, users);
    let mut model = Model::new(&plan);
    let mut tallies = Tallies::new();
    let disk = SimDisk::new(seed);
    let mut sources: Vec<Box<dyn CellSource>> = Vec::new();
    let mut layer = Layer::new(Arc::clone(&plan), 0);
    let mut unread = vec![0; plan.metrics.len()];
    let mut end_entry = |layer: &mut Layer, tallies: &mut Tallies| {
        layer.end_entry(tallies);
        for (all, events) in unread.iter_mut().zip(layer.take_unread()) {
            *all += events;
        }
    };
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Event(fact) => model.count(fact),
            Step::Session(session, sign) => model.count_session(session, *sign),
        }
        apply(step, &mut layer, &mut tallies);
        if rng.below(37) == 0 {
            end_entry(&mut layer, &mut tallies);
        }
        if rng.below(events / 3) == 0 {
            end_entry(&mut layer, &mut tallies);
            let path = format!("layer-{at}");
            let sealed = std::mem::replace(&mut layer, Layer::new(Arc::clone(&plan), at as u64));
            if rng.below(2) == 0 {
                write_layer(&disk, &path, &sealed).unwrap();
                sources.push(Box::new(LayerFile::open(&disk, &path).unwrap()));
            } else {
                sources.push(Box::new(sealed));
            }
        }
    }
    end_entry(&mut layer, &mut tallies);
    sources.push(Box::new(layer));
    let sources: Vec<&dyn CellSource> = sources.iter().map(|source| &**source).collect();
    model.check(&sources);
    let is_none = |step: &&Step| matches!(step, Step::Event(fact) if fact.no_price.is_some());
    let is_bought =
        |step: &&Step| matches!(step, Step::Event(fact) if fact.event_type == "purchase");
    for (metric, events) in plan.metrics.iter().zip(unread) {
        let none = steps.iter().filter(is_none);
        let expected = match metric.name.as_str() {
            "revenue" => none.filter(is_bought).count(),
            "cheapest" | "dearest" | "typical" => none.count(),
            _ => 0,
        };
        assert_eq!(events, expected as u64, "{}", metric.name);
    }
}

/// Readers are let in between the records of an entry.
#[test]
fn what_is_counted_shows_only_at_the_entrys_end() {
    let plan = plan();
    let steps = script(&mut Rng(11), 600, 7_200_000, 90);
    let shown = |layer: &Layer| {
        let sets = (0..plan.sets.len()).flat_map(|set| Granularity::ALL.map(|one| (set, one)));
        let cells =
            sets.map(|(set, granularity)| super::model::read(&plan, set, granularity, &[layer]));
        let minutes = [SetKind::Events, SetKind::Sessions].map(|kind| layer.span(kind));
        (format!("{:?}", cells.collect::<Vec<_>>()), layer.cells(), layer.is_empty(), minutes)
    };
    let mut tallies = Tallies::new();
    let mut layer = Layer::new(Arc::clone(&plan), 0);
    // The second half brings texts, users and windows that the first has not.
    for half in [&steps[..20], &steps[20..]] {
        let before = shown(&layer);
        for step in half {
            apply(step, &mut layer, &mut tallies);
        }
        assert!(shown(&layer) == before);
        layer.end_entry(&mut tallies);
        assert!(shown(&layer) != before);
    }
}

#[test]
fn every_cell_of_every_set_and_granularity_is_the_models() {
    for seed in 0..6 {
        run(seed, 700, 40 * 60_000, 60);
    }
}

#[test]
fn cells_over_many_days_and_before_1970_are_the_models() {
    run(77, 400, 5 * 86_400_000, 30);
    let mut rng = Rng(5);
    let plan = plan();
    let (mut model, mut tallies) = (Model::new(&plan), Tallies::new());
    let mut layer = Layer::new(Arc::clone(&plan), 0);
    for _ in 0..200 {
        let fact = Fact::random(&mut rng, -90_000_000, 180_000_000, 9);
        model.count(&fact);
        layer.count(&mut tallies, &fact.event(), fact.user());
    }
    layer.end_entry(&mut tallies);
    model.check(&[&layer]);
}

#[test]
fn cells_past_512_users_are_estimated_and_equal_in_any_order() {
    run(9, 6_000, 3 * 60_000, 3_000);
}

#[test]
fn equal_layers_have_equal_bytes_whatever_the_order_and_the_entries() {
    let mut rng = Rng(42);
    let plan = plan();
    let mut steps = script(&mut rng, 1_500, 20 * 60_000, 900);
    let mut bytes = Vec::new();
    for round in 0..4 {
        let (mut layer, mut tallies) = (Layer::new(Arc::clone(&plan), round), Tallies::new());
        for step in &steps {
            apply(step, &mut layer, &mut tallies);
            if rng.below(50 * (round + 1)) == 0 {
                layer.end_entry(&mut tallies);
            }
        }
        layer.end_entry(&mut tallies);
        bytes.push(layer_bytes(&layer).unwrap());
        rng.shuffle(&mut steps);
    }
    assert!(bytes.windows(2).all(|pair| pair[0] == pair[1]));
    // And a layer that differs by one event does not.
    let (mut layer, mut tallies) = (Layer::new(plan, 0), Tallies::new());
    steps.iter().skip(1).for_each(|step| apply(step, &mut layer, &mut tallies));
    layer.end_entry(&mut tallies);
    assert_ne!(layer_bytes(&layer).unwrap(), bytes[0]);
}

#[test]
fn sets_of_many_day_cells_fall_back_to_minutes_and_stay_exact() {
    let plan = plan();
    let (mut model, mut tallies) = (Model::new(&plan), Tallies::new());
    let mut layer = Layer::new(Arc::clone(&plan), 0);
    let mut rng = Rng(3);
    for n in 0..1_300_u64 {
        let mut fact = Fact::random(&mut rng, 1_763_934_600_000, 60 * 60_000, 50);
        fact.texts.insert("cohort", format!("cohort-{n}"));
        model.count(&fact);
        layer.count(&mut tallies, &fact.event(), fact.user());
        if n % 100 == 0 {
            layer.end_entry(&mut tallies);
        }
    }
    layer.end_entry(&mut tallies);
    let cohort = plan.set_for(SetKind::Events, &[plan.dimension("cohort").unwrap()]).unwrap();
    assert_eq!(layer.places[cohort.index()][1], None, "the coarse cells were dropped");
    model.check(&[&layer]);
}

fn by_country(plan: &Arc<Plan>, granularity: Granularity, from: i64, to: i64) -> ScanRequest {
    let country = plan.dimension("country").unwrap();
    let set = plan.set_for(SetKind::Events, &[country]).unwrap();
    let range = TimeRange { start: EventTime::from_ms(from), end: EventTime::from_ms(to) };
    ScanRequest::new(Arc::clone(plan), set, granularity, range)
}

#[test]
fn a_scan_keeps_to_its_range_filter_and_slots() {
    let plan = plan();
    let mut tallies = Tallies::new();
    let mut layer = Layer::new(Arc::clone(&plan), 0);
    let mut rng = Rng(8);
    for _ in 0..500 {
        let fact = Fact::random(&mut rng, 0, 30 * 60_000, 50);
        layer.count(&mut tallies, &fact.event(), fact.user());
    }
    layer.end_entry(&mut tallies);
    let disk = SimDisk::new(1);
    write_layer(&disk, "layer", &layer).unwrap();
    let file = LayerFile::open(&disk, "layer").unwrap();
    let all = scan(&by_country(&plan, Granularity::Minute, 0, 1_800_000), &[&layer]);
    for source in [&layer as &dyn CellSource, &file] {
        let mut request = by_country(&plan, Granularity::Minute, 300_001, 600_000);
        request.filter = vec![Some(DimFilter::any_of([
            OwnedDimValue::Text("DE".into()),
            OwnedDimValue::Text("nowhere".into()),
            OwnedDimValue::Null,
        ]))];
        let some = scan(&request, &[source]);
        let mut want = all.clone();
        want.retain(|(window, dims), _| {
            (300_000..600_000).contains(window)
                && [OwnedDimValue::Null, OwnedDimValue::Text("DE".into())].contains(&dims[0])
        });
        assert_eq!(some, want);
        let prefix = DimValues::new([OwnedDimValue::Null], ["D".into()]);
        let others = [
            DimFilter::new(Some(prefix.clone()), DimValues::default()),
            DimFilter::new(None, prefix),
        ];
        let of_prefix = |dims: &[OwnedDimValue]| match &dims[0] {
            OwnedDimValue::Null => true,
            OwnedDimValue::Text(text) => text.starts_with('D'),
            OwnedDimValue::Other => false,
        };
        for (filter, wanted) in others.into_iter().zip([true, false]) {
            let mut request = request.clone();
            request.filter = vec![Some(filter)];
            let mut want = all.clone();
            want.retain(|(window, dims), _| {
                (300_000..600_000).contains(window) && of_prefix(dims) == wanted
            });
            assert!(!want.is_empty());
            assert_eq!(scan(&request, &[source]), want);
        }
        request.want = plan.metric("events").unwrap().slots();
        let narrow = scan(&request, &[source]);
        assert_eq!(narrow.len(), some.len());
        for (key, cell) in narrow {
            assert_eq!(cell.counts[0], some[&key].counts[0]);
            assert!(cell.distincts.iter().all(|one| one.is_empty()));
            assert!(cell.histograms.iter().all(|one| one.is_empty()));
        }
    }
}

#[test]
fn a_value_past_64_bits_counts_whatever_the_scale() {
    let declarations = r#"{"numbers":"alone","metric":[
        {"name":"sum","aggregate":"sum","field":"properties.x"},
        {"name":"avg","aggregate":"avg","field":"properties.x"},
        {"name":"min","aggregate":"min","field":"properties.x"},
        {"name":"max","aggregate":"max","field":"properties.x"},
        {"name":"p50","aggregate":"quantile","field":"properties.x","quantile":0.5}]}"#;
    let plan = Arc::new(Plan::compile(&serde_json::from_str(declarations).unwrap()).unwrap());
    let shown = |values: &[&str]| {
        let (mut layer, mut tallies) = (Layer::new(Arc::clone(&plan), 1), Tallies::new());
        for value in values {
            let properties = format!("{{\"x\":{value}}}");
            let event = Event { properties: Some(&properties), ..Event::default() };
            layer.count(&mut tallies, &event, None);
        }
        layer.end_entry(&mut tallies);
        let disk = SimDisk::new(1);
        write_layer(&disk, "layer", &layer).unwrap();
        let file = LayerFile::open(&disk, "layer").unwrap();
        let total = plan.sets.iter().position(|set| set.dims.is_empty()).unwrap();
        let cells = [&layer as &dyn CellSource, &file].map(|source| {
            super::model::read(&plan, total, Granularity::Day, &[source]).into_values().next()
        });
        assert_eq!(cells[0], cells[1]);
        let cell = cells[0].clone().unwrap();
        let context = MetricContext { window: EventTime::from_ms(0), elapsed_ms: 60_000 };
        let value = |name: &str| plan.metric(name).unwrap().value(&cell, &context);
        let version = disk.read("layer").unwrap()[8];
        (["sum", "avg", "min", "max"].map(value), value("p50").as_f64(), version)
    };
    let float = MetricValue::Float;
    let decimal = |value: i128| {
        MetricValue::Decimal(Decimal { value: value.into(), scale: 6, digits_min: 1 })
    };
    // Half a cell's values are past 64 bits at six digits: a minimum or a bucket is of the
    // second version, as is a sum only past 128.
    let (numbers, p50, version) = shown(&["1e13", "1", "2"]);
    let total = 10_000_000_000_003_i128;
    let max = decimal(10_i128.pow(19));
    assert_eq!(numbers, [decimal(total * 1_000_000), float(total as f64 / 3.0), float(1.0), max]);
    assert_eq!((p50.map(f64::round), version), (Some(2.0), 2));
    let (numbers, p50, _) = shown(&["9223372036854", "9223372036855", "-12345678901234567890123"]);
    assert_eq!(
        numbers[0],
        decimal((18_446_744_073_709 - 12_345_678_901_234_567_890_123) * 1_000_000)
    );
    assert_eq!(numbers[2], decimal(-12_345_678_901_234_567_890_123 * 1_000_000));
    assert!((p50.unwrap() / 9_223_372_036_854.0 - 1.0).abs() < 0.01);
    // A sum past 128 bits is told to its last digit.
    let (numbers, ..) = shown(&[&["1e32"; 1_000][..], &["0.000001"]].concat());
    let MetricValue::Decimal(sum) = &numbers[0] else { panic!("{numbers:?}") };
    assert_eq!(sum.to_string(), format!("1{}.000001", "0".repeat(35)));
    assert_eq!(numbers[3], decimal(10_i128.pow(38)));
    let values: Vec<&str> = [["1e32"; 5], ["-1e32"; 5]].concat();
    assert_eq!(shown(&values).0[0], float(0.0));
    let (numbers, _, version) = shown(&["1", "2.5"]);
    assert_eq!((numbers[0].clone(), version), (float(3.5), 1));
}
