//! The chunk format by itself: what is written comes back, and what is damaged never does.

use std::sync::Arc;

use nilometer_event::{Granularity, ReceiveTime, UserHash};
use nilometer_log::disk::Disk;
use nilometer_log::disk::sim::SimDisk;
use nilometer_stream::aggregate::Aggregates;
use nilometer_stream::cells::OwnedDimValue;

use super::*;
use crate::manifest::{CHUNKS, ChunkMeta};

const KEY: ChunkKey =
    ChunkKey { granularity: Granularity::Minute, start: EventTime::from_ms(0), schema: 7 };

fn schema() -> SetSchema {
    SetSchema {
        sessions: false,
        dims: vec![
            SetDim { definition: 1, name: "country".to_owned() },
            SetDim { definition: 2, name: "device_type".to_owned() },
        ],
        distinct: true,
        slots: SlotDefinitions {
            counts: vec![11, 12],
            sums: vec![21],
            mins: vec![31],
            maxs: vec![41],
            distincts: vec![51],
            histograms: vec![61],
            tops: vec![71],
        },
    }
}

/// Cell `n`: each has other values, and some have more users than an exact set holds.
fn cell(n: usize) -> (EventTime, [OwnedDimValue; 2], Aggregates) {
    let mut own = Aggregates::new(schema().slots.shape());
    let value = i64::try_from(n).unwrap();
    own.counts = vec![value, -value];
    let wide = i128::from(value);
    own.sums = vec![(wide << 70).into()];
    if n.is_multiple_of(11) {
        own.sums[0] += i128::MAX.into();
        own.sums[0] += i128::MAX.into();
    }
    let far = if n.is_multiple_of(7) { 80 } else { 0 };
    own.mins = vec![(!n.is_multiple_of(3)).then_some(-wide << far)];
    own.maxs = vec![(!n.is_multiple_of(3)).then_some(wide << far)];
    let users = if n.is_multiple_of(100) { 600 } else { n % 7 };
    for user in 0..users {
        own.distincts[0].insert_hash(UserHash::new((user as u64) << 40 | n as u64));
    }
    own.histograms[0].record(value, 3);
    own.tops[0].add(Some(&format!("top{}", n % 5)), value);
    let window = EventTime::from_ms(value / 40 * 60_000);
    let country = match n % 40 {
        0 => OwnedDimValue::Null,
        1 => OwnedDimValue::Other,
        other => OwnedDimValue::Text(format!("{other:03}").into()),
    };
    (window, [country, OwnedDimValue::Text("tv".into())], own)
}

fn write(disk: &SimDisk, cells: usize) -> ChunkMeta {
    disk.create_dir_all(CHUNKS).unwrap();
    let mut writer =
        ChunkWriter::begin(disk, "one".to_owned(), KEY, Packer::new().unwrap()).unwrap();
    writer.begin_set(SetSchema { dims: Vec::new(), ..schema() }).unwrap();
    writer.begin_set(schema()).unwrap();
    for n in 0..cells {
        let (window, dims, aggregates) = cell(n);
        writer.cell(window, &dims, &aggregates).unwrap();
    }
    writer.finish(1, ReceiveTime::from_ms(5)).unwrap().unwrap()
}

/// Every cell that can be read; what cannot is left out.
fn read(disk: &SimDisk, meta: &ChunkMeta) -> Result<Vec<Aggregates>, ChunkDamaged> {
    let footer = load_footer(disk, meta)?;
    let mut found = Vec::new();
    let mut n = 0;
    for block in &footer.blocks {
        let set = &footer.sets[block.set as usize];
        let part = |section| load_part(disk, meta, set, block, section);
        let Part::Keys(keys) = part(Section::Keys)? else { panic!("keys") };
        let Part::Numbers(numbers) = part(Section::Numbers)? else { panic!("numbers") };
        let Part::Estimates(estimates) = part(Section::Estimates)? else { panic!("estimates") };
        let Part::Blobs(distincts) = part(Section::Distincts)? else { panic!("distincts") };
        let Part::Blobs(others) = part(Section::Others)? else { panic!("others") };
        for (window, cells) in &keys.windows {
            for place in cells.clone() {
                let (expected_window, dims, expected) = cell(n);
                assert_eq!(*window, expected_window);
                for (column, value) in keys.dims.iter().zip(&dims) {
                    assert_eq!(column.value(place), value);
                }
                let mut own = Aggregates::new(set.slots.shape());
                own.counts = numbers.counts.iter().map(|slot| slot[place]).collect();
                own.sums = numbers.sums.iter().map(|slot| slot.get(place)).collect();
                own.mins = numbers.mins.iter().map(|slot| slot.get(place)).collect();
                own.maxs = numbers.maxs.iter().map(|slot| slot.get(place)).collect();
                distincts.merge_distinct(0, place, &mut own.distincts[0])?;
                let histogram = Shape { histograms: 1, ..Shape::default() };
                own.histograms = others.single(0, place, histogram)?.histograms;
                let top = Shape { tops: 1, ..Shape::default() };
                own.tops = others.single(1, place, top)?.tops;
                let estimate = estimates.0[0][place];
                assert_eq!(estimate.exact, own.distincts[0].is_exact());
                assert!((estimate.value - expected.distincts[0].estimate()).abs() < 1e-9);
                found.push(own);
                n += 1;
            }
        }
    }
    Ok(found)
}

#[test]
fn every_cell_comes_back_over_many_blocks() {
    let disk = SimDisk::new(1);
    let cells = BLOCK_CELLS_MAX + 500;
    let meta = write(&disk, cells);
    assert_eq!(meta.cells, cells as u64);
    assert_eq!(meta.bytes, disk.len_of(&meta.path()).unwrap());
    let footer = load_footer(&disk, &meta).unwrap();
    assert!(footer.blocks.len() > 1, "blocks are cut");
    let expected: Vec<Aggregates> = (0..cells).map(|n| cell(n).2).collect();
    assert_eq!(read(&disk, &meta).unwrap(), expected);
    assert_eq!(meta.first, cell(0).0);
    assert_eq!(meta.last, cell(cells - 1).0);
}

#[test]
fn equal_cells_give_equal_bytes() {
    let (one, two) = (SimDisk::new(1), SimDisk::new(2));
    let meta = write(&one, 300);
    assert_eq!(write(&two, 300), meta);
    assert_eq!(one.read(&meta.path()).unwrap(), two.read(&meta.path()).unwrap());
}

#[test]
fn no_flipped_byte_and_no_cut_goes_unnoticed() {
    let disk = SimDisk::new(3);
    let meta = write(&disk, 60);
    let bytes = disk.read(&meta.path()).unwrap();
    let expected: Vec<Aggregates> = (0..60).map(|n| cell(n).2).collect();
    // The magic of the head is for people.
    for place in MAGIC.len()..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1 << (place % 8);
        disk.create(&meta.path()).unwrap().write_all(&damaged).unwrap();
        assert!(read(&disk, &meta).is_err(), "byte {place}");
    }
    for len in 0..bytes.len() {
        disk.create(&meta.path()).unwrap().write_all(&bytes[..len]).unwrap();
        assert!(read(&disk, &meta).is_err(), "cut to {len}");
    }
    disk.create(&meta.path()).unwrap().write_all(&bytes).unwrap();
    assert_eq!(read(&disk, &meta).unwrap(), expected);
}

#[test]
fn a_chunk_without_cells_is_none() {
    let disk = SimDisk::new(4);
    disk.create_dir_all(CHUNKS).unwrap();
    let mut writer =
        ChunkWriter::begin(&disk, "one".to_owned(), KEY, Packer::new().unwrap()).unwrap();
    writer.begin_set(schema()).unwrap();
    assert!(writer.finish(1, ReceiveTime::from_ms(5)).unwrap().is_none());
}

#[test]
fn a_reader_of_estimates_and_numbers_needs_no_sketch() {
    let disk = Arc::new(SimDisk::new(5));
    let meta = write(&disk, 60);
    let footer = load_footer(&*disk, &meta).unwrap();
    let block = &footer.blocks[0];
    let sketches = block.sections[Section::Distincts as usize];
    disk.flip_bit(&meta.path(), sketches.offset + 3);
    let part = |section| load_part(&*disk, &meta, &footer.sets[1], block, section);
    assert!(part(Section::Keys).is_ok());
    assert!(part(Section::Numbers).is_ok());
    assert!(part(Section::Estimates).is_ok());
    assert!(matches!(part(Section::Distincts), Err(ChunkDamaged::Checksum(_))));
}

/// The version of a chunk of these cells.
fn version_of(cells: &[Aggregates]) -> u8 {
    let disk = SimDisk::new(6);
    disk.create_dir_all(CHUNKS).unwrap();
    let mut writer =
        ChunkWriter::begin(&disk, "one".to_owned(), KEY, Packer::new().unwrap()).unwrap();
    writer.begin_set(schema()).unwrap();
    for aggregates in cells {
        let (window, dims, _) = cell(2);
        writer.cell(window, &dims, aggregates).unwrap();
    }
    let meta = writer.finish(1, ReceiveTime::from_ms(5)).unwrap().unwrap();
    let bytes = disk.read(&meta.path()).unwrap();
    bytes[bytes.len() - MAGIC.len() - 4]
}

#[test]
fn what_fits_64_bits_lies_as_in_the_first_version() {
    /// Frozen: the first version's numbers.
    #[derive(serde::Serialize)]
    struct First {
        counts: Vec<Vec<i64>>,
        sums: Vec<Vec<i128>>,
        mins: Vec<Vec<Option<i64>>>,
        maxs: Vec<Vec<Option<i64>>>,
    }
    let bounds = [None, Some(0), Some(-1), Some(300), Some(i64::MIN), Some(i64::MAX)];
    let first = First {
        counts: vec![vec![1, -1, i64::MAX, i64::MIN, 0, 7]],
        sums: vec![vec![0, -1, i128::MAX, i128::MIN, 1 << 64, 9]],
        mins: vec![bounds.to_vec()],
        maxs: vec![bounds.to_vec()],
    };
    let bytes = postcard::to_allocvec(&first).unwrap();
    let numbers = Numbers::decode(&bytes).unwrap();
    assert_eq!(numbers.counts, first.counts);
    assert_eq!(numbers.sums[0].low(), first.sums[0]);
    assert!(numbers.sums[0].carries().is_empty());
    let found: Vec<_> = numbers.mins[0].iter().collect();
    assert_eq!(found, bounds.map(|bound| bound.map(i128::from)));
    assert_eq!(numbers.encode().unwrap(), bytes);

    let narrow = cell(2).2;
    let mut bound = cell(2).2;
    bound.mins[0] = Some(i128::from(i64::MIN) - 1);
    let mut sum = cell(2).2;
    sum.sums = vec![i128::MAX.into()];
    assert_eq!(version_of(&[narrow.clone(), sum.clone()]), 1);
    sum.sums[0] += 1.into();
    assert_eq!(version_of(&[narrow.clone(), sum]), 2);
    assert_eq!(version_of(&[bound, narrow]), 2);
}
