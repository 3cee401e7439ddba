//! A layer's file: damage is named, another plan's cells are projected.

use std::sync::Arc;

use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_log::Disk as _;
use nilometer_log::disk::sim::SimDisk;

use super::model::{Fact, Rng, metric, plan, plan_with, read};
use crate::aggregate::SlotMask;
use crate::cells::{
    CellSource, Coverage, Layer, LayerFile, LayerFileError, ScanRequest, Tallies, layer_bytes,
    write_layer,
};
use crate::declare::{CubeDecl, Declarations, Plan, SetKind};

const START: i64 = 1_763_934_600_000;

fn layer(plan: &Arc<Plan>, seed: u64) -> Layer {
    let (mut layer, mut tallies) = (Layer::new(Arc::clone(plan), 1), Tallies::new());
    let mut rng = Rng(seed);
    for _ in 0..300 {
        let fact = Fact::random(&mut rng, START, 600_000, 40);
        layer.count(&mut tallies, &fact.event(), fact.user());
    }
    layer.end_entry(&mut tallies);
    layer
}

#[test]
fn a_flipped_bit_anywhere_never_gives_another_number() {
    let plan = plan();
    let layer = layer(&plan, 1);
    let clean = SimDisk::new(0);
    write_layer(&clean, "layer", &layer).unwrap();
    let bytes = clean.read("layer").unwrap();
    let mut named = 0;
    let mut rng = Rng(4);
    for _ in 0..60 {
        let at = usize::try_from(rng.below(bytes.len() as u64)).unwrap();
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << rng.below(8);
        let disk = SimDisk::new(0);
        disk.create("layer").unwrap().write_all(&damaged).unwrap();
        match LayerFile::open(&disk, "layer") {
            Err(LayerFileError::Io { .. }) => panic!("the disk works"),
            Err(_) => named += 1,
            Ok(file) => match file.verify() {
                Ok(()) => panic!("byte {at} was flipped unseen"),
                Err(damaged) => {
                    assert_eq!(damaged.file, "layer");
                    assert!(damaged.windows.start < damaged.windows.end);
                    assert!(damaged.to_string().contains("corrupt"));
                    named += 1;
                }
            },
        }
    }
    assert_eq!(named, 60);
}

#[test]
fn a_file_cut_anywhere_is_damaged() {
    let bytes = layer_bytes(&layer(&plan(), 2)).unwrap();
    for kept in [0, 5, 10, 37, bytes.len() / 2, bytes.len() - 1] {
        let disk = SimDisk::new(0);
        disk.create("layer").unwrap().write_all(&bytes[..kept]).unwrap();
        let error = LayerFile::open(&disk, "layer").unwrap_err();
        assert!(matches!(error, LayerFileError::Damaged { .. }), "{kept} bytes: {error}");
    }
}

#[test]
fn a_damaged_block_damages_its_windows_alone() {
    let plan = plan();
    let (mut layer, mut tallies) = (Layer::new(Arc::clone(&plan), 1), Tallies::new());
    let mut rng = Rng(6);
    for _ in 0..6_000 {
        let mut fact = Fact::random(&mut rng, START, 24 * 3_600_000, 40);
        fact.texts.insert("content_id", format!("c-{}", rng.below(5_000)));
        layer.count(&mut tallies, &fact.event(), fact.user());
    }
    layer.end_entry(&mut tallies);
    let disk = SimDisk::new(0);
    write_layer(&disk, "layer", &layer).unwrap();
    disk.flip_bit("layer", 40);
    let file = LayerFile::open(&disk, "layer").unwrap();
    let damaged = file.verify().unwrap_err();
    let set = usize::from(0_u8);
    let id = plan.set_for(plan.sets[set].kind, &plan.sets[set].dims).unwrap();
    let ask = |start: EventTime, end: EventTime| {
        let range = TimeRange { start, end };
        let request = ScanRequest::new(Arc::clone(&plan), id, Granularity::Minute, range);
        file.scan(&request, &mut |_| {})
    };
    assert!(ask(damaged.windows.start, damaged.windows.end).is_err());
    let day = EventTime::from_ms(START + 24 * 3_600_000);
    assert!(damaged.windows.end < day);
    assert_eq!(ask(damaged.windows.end, day), Ok(()));
}

#[test]
fn another_plans_cells_are_projected_and_what_they_lack_is_filling() {
    let old = plan();
    let old_layer = layer(&old, 3);
    let disk = SimDisk::new(0);
    write_layer(&disk, "layer", &old_layer).unwrap();
    let file = LayerFile::open(&disk, "layer").unwrap();
    assert_eq!(file.plan(), old.id);
    // The new plan has one more dimension before the others, one more metric, one more cube.
    let mut declarations = Declarations::default();
    declarations.dimensions.push(crate::declare::DimensionDecl {
        name: "plan".into(),
        source: "properties.plan".into(),
        description: String::new(),
    });
    declarations.metrics.push(metric(
        "clicks",
        "count",
        r#""filter":"event_type:content_clicked,CLICK""#,
    ));
    declarations.metrics.push(metric("news", "count", r#""filter":"content_category:news""#));
    declarations
        .cubes
        .push(CubeDecl { dimensions: vec!["plan".into(), "country".into()], distinct: true });
    let new = plan_with(declarations);
    assert_ne!(new.id, old.id);
    for source in [&old_layer as &dyn CellSource, &file] {
        for (index, set) in old.sets.iter().enumerate() {
            let names: Vec<_> =
                set.dims.iter().map(|dim| old.dimensions[dim.index()].name.clone()).collect();
            let dims: Vec<_> = names.iter().map(|name| new.dimension(name).unwrap()).collect();
            let there = new.set_for(set.kind, &dims).unwrap();
            let projected = read(&new, there.index(), Granularity::FiveMinutes, &[source]);
            let own = read(&old, index, Granularity::FiveMinutes, &[source]);
            assert_eq!(projected.len(), own.len(), "{names:?}");
            let total = |cells: &std::collections::BTreeMap<_, crate::aggregate::Aggregates>| {
                cells.values().map(|cell| cell.counts.first().copied().unwrap_or(0)).sum::<i64>()
            };
            assert_eq!(total(&projected), total(&own), "{names:?}");
        }
        let range = TimeRange {
            start: EventTime::from_ms(START),
            end: EventTime::from_ms(START + 600_000),
        };
        let total = new.set_for(SetKind::Events, &[]).unwrap();
        let mut request = ScanRequest::new(Arc::clone(&new), total, Granularity::Hour, range);
        request.want = new.metric("events").unwrap().slots();
        assert_eq!(source.coverage(&request), Coverage::default());
        request.want = new.metric("clicks").unwrap().slots();
        assert_eq!(source.coverage(&request), Coverage::default(), "click_through_rate has it");
        request.want = new.metric("news").unwrap().slots();
        let coverage = source.coverage(&request);
        assert_eq!(coverage.missing, request.want);
        assert!(!coverage.filling.is_empty());
        let by_plan = new.set_for(SetKind::Events, &[new.dimension("plan").unwrap()]).unwrap();
        let mut request = ScanRequest::new(Arc::clone(&new), by_plan, Granularity::Hour, range);
        request.want = SlotMask { counts: 1, ..SlotMask::NONE };
        assert_eq!(source.coverage(&request).missing, request.want);
        let mut visited = 0;
        source.scan(&request, &mut |_| visited += 1).unwrap();
        assert_eq!(visited, 0);
    }
}

#[test]
fn a_sealed_layer_keeps_no_scratch_and_the_next_one_counts_as_a_new_one_does() {
    let plan = plan();
    let mut sealed = layer(&plan, 5);
    let (kept, scratch) = (sealed.memory_bytes() - sealed.scratch_bytes(), sealed.scratch_bytes());
    let none = Layer::new(Arc::clone(&plan), 1).scratch_bytes();
    assert!(none < scratch && scratch <= 2 * kept, "{none}, {scratch} of {kept}");
    let bytes = layer_bytes(&sealed).unwrap();
    let mut next = sealed.successor(Arc::clone(&plan), 2);
    assert_eq!(sealed.scratch_bytes(), none);
    assert_eq!(layer_bytes(&sealed).unwrap(), bytes);
    assert_eq!((next.scratch_bytes(), next.cells()), (scratch, 0));
    let mut tallies = Tallies::new();
    let mut rng = Rng(5);
    for _ in 0..300 {
        let fact = Fact::random(&mut rng, START, 600_000, 40);
        next.count(&mut tallies, &fact.event(), fact.user());
    }
    next.end_entry(&mut tallies);
    assert_eq!(layer_bytes(&next).unwrap(), bytes);

    // Scratch of a large entry, and hardly anything kept: the next layer begins without.
    let mut empty = next.successor(Arc::clone(&plan), 3);
    let last = empty.successor(Arc::clone(&plan), 4);
    assert_eq!((empty.scratch_bytes(), last.scratch_bytes()), (none, none));
}
