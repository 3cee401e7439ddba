//! Writing a layer: cells sorted, codes renumbered, sections compressed.

use std::io;

use nilometer_log::{Disk, write_atomically};

use super::{
    BLOCK_CELLS_MAX, BLOCK_SKETCH_BYTES, BlockIndex, MAGIC, Section, VERSION, VERSION_NARROW,
    ZSTD_LEVEL, crc32c,
};
use crate::aggregate::{Distinct, TopCounts, put_bound, put_signed, put_sum, put_varint};
use crate::cells::dictionary::{Dictionary, NULL, OTHER, shown};
use crate::cells::layer::Layer;
use crate::cells::schema::{DIMS_MAX, Schema};
use crate::cells::source::DimValue;
use crate::cells::table::Table;
use crate::declare::SetKind;

/// A file is about this part of its layer's memory, or less.
const MEMORY_PER_BYTE: usize = 8;

/// Writes a layer's file, whole or not at all; durable when it returns.
///
/// # Errors
///
/// What the disk says; the file is then not there, and the same call may be repeated.
pub fn write_layer(disk: &dyn Disk, path: &str, layer: &Layer) -> io::Result<u64> {
    let bytes = layer_bytes(layer)?;
    write_atomically(disk, path, &bytes)?;
    Ok(bytes.len() as u64)
}

/// The bytes of a layer's file: equal for layers that counted the same, in whatever order.
///
/// # Errors
///
/// Where the compressor fails, which is for want of memory only, or a section passes 4 GB.
pub fn layer_bytes(layer: &Layer) -> io::Result<Vec<u8>> {
    // Pages that stay untouched cost nothing; growing by doubling copied every file twice over.
    let mut out = Vec::with_capacity(layer.memory_bytes() / MEMORY_PER_BYTE);
    out.extend_from_slice(MAGIC);
    let is_wide = layer.tables.iter().any(|table| table.rows.is_wide());
    let version = if is_wide { VERSION } else { VERSION_NARROW };
    out.extend_from_slice(&version.to_le_bytes());
    let mut packer = Packer::new()?;
    let codes: Vec<Renumbered> =
        (0..layer.dictionaries.len()).map(|dim| Renumbered::of(layer, dim)).collect();
    let mut index = Vec::new();
    for table in &layer.tables {
        write_table(layer, table, &codes, (&mut packer, &mut out), &mut index)?;
    }
    let mut footer = Vec::new();
    put_schema(&layer.schema, &mut footer);
    for kind in [SetKind::Events, SetKind::Sessions] {
        put_minutes(layer, kind, &mut footer);
    }
    put_varint(&mut footer, codes.len() as u64);
    for (dim, renumbered) in codes.iter().enumerate() {
        let definition = layer.plan().dimensions[dim].definition;
        footer.extend_from_slice(&definition.to_le_bytes());
        put_varint(&mut footer, renumbered.texts.len() as u64);
        for text in &renumbered.texts {
            put_text(&mut footer, text);
        }
    }
    put_index(&index, &mut footer);
    let section = packer.put_section(&footer, &mut out)?;
    out.extend_from_slice(&section.offset.to_le_bytes());
    out.extend_from_slice(&section.stored.to_le_bytes());
    out.extend_from_slice(&section.raw.to_le_bytes());
    out.extend_from_slice(&section.crc.to_le_bytes());
    out.extend_from_slice(MAGIC);
    Ok(out)
}

/// A dimension's codes in the order of their texts, used ones only.
struct Renumbered<'a> {
    texts: Vec<&'a str>,
    /// From the layer's code to the file's.
    codes: Vec<u32>,
}

impl<'a> Renumbered<'a> {
    fn of(layer: &'a Layer, dim: usize) -> Self {
        let dictionary = &layer.dictionaries[dim];
        let mut used = vec![false; dictionary.codes()];
        for table in &layer.tables {
            let dims = &layer.plan().sets[table.set].dims;
            let Some(place) = dims.iter().position(|own| own.index() == dim) else { continue };
            for (cell, key) in table.keys.iter().enumerate() {
                let code = shown(key.dims[place]) as usize;
                if !used[code] && !table.is_blank(cell) {
                    used[code] = true;
                }
            }
        }
        Self::new(dictionary, &used)
    }

    fn new(dictionary: &'a Dictionary, used: &[bool]) -> Self {
        let mut texts: Vec<(&str, usize)> = used
            .iter()
            .enumerate()
            .filter(|(_, used)| **used)
            .filter_map(|(code, _)| match dictionary.value(narrow(code)) {
                DimValue::Text(text) => Some((text, code)),
                DimValue::Null | DimValue::Other => None,
            })
            .collect();
        texts.sort_unstable();
        let mut codes = vec![NULL; used.len()];
        codes[OTHER as usize] = OTHER;
        for (rank, (_, code)) in texts.iter().enumerate() {
            codes[*code] = narrow(rank + 2);
        }
        Self { texts: texts.into_iter().map(|(text, _)| text).collect(), codes }
    }
}

/// A code, as dictionaries count them.
fn narrow(code: usize) -> u32 {
    u32::try_from(code).expect("C4: values of a layer are below 2^32")
}

fn write_table(
    layer: &Layer,
    table: &Table,
    codes: &[Renumbered<'_>],
    (packer, out): (&mut Packer, &mut Vec<u8>),
    index: &mut Vec<BlockIndex>,
) -> io::Result<()> {
    let dims = &layer.plan().sets[table.set].dims;
    let mut cells: Vec<(i64, [u32; DIMS_MAX], usize)> = (0..table.len())
        .filter(|&cell| !table.is_blank(cell))
        .map(|cell| {
            let key = &table.keys[cell];
            let mut own = [0; DIMS_MAX];
            for (place, dim) in dims.iter().enumerate() {
                own[place] = codes[dim.index()].codes[shown(key.dims[place]) as usize];
            }
            (key.window, own, cell)
        })
        .collect();
    // Two that look alike are told apart by what they are, not by which came first.
    cells.sort_unstable_by_key(|&(window, own, cell)| (window, own, table.keys[cell].is_rest()));
    let mut rest = cells.as_slice();
    let (mut numbers, mut sketches) = (Vec::new(), Vec::new());
    while !rest.is_empty() {
        sketches.clear();
        let mut taken = 0;
        while taken < rest.len().min(BLOCK_CELLS_MAX) && sketches.len() < BLOCK_SKETCH_BYTES {
            put_sketches(layer, table, rest[taken].2, &mut sketches);
            taken += 1;
        }
        let (block, after) = rest.split_at(taken);
        numbers.clear();
        put_numbers(table, dims.len(), block, &mut numbers);
        index.push(BlockIndex {
            set: table.set,
            granularity: table.granularity as u8,
            cells: block.len(),
            first_window: block[0].0,
            last_window: block[block.len() - 1].0,
            numbers: packer.put_section(&numbers, out)?,
            sketches: packer.put_section(&sketches, out)?,
        });
        rest = after;
    }
    Ok(())
}

/// Column by column, so that the compressor sees like beside like.
fn put_numbers(
    table: &Table,
    dims: usize,
    block: &[(i64, [u32; DIMS_MAX], usize)],
    out: &mut Vec<u8>,
) {
    let mut before = 0;
    for (window, ..) in block {
        put_signed(out, window.wrapping_sub(before));
        before = *window;
    }
    for place in 0..dims {
        for (_, codes, _) in block {
            put_varint(out, u64::from(codes[place]));
        }
    }
    let (shape, rows) = (table.shape(), &table.rows);
    for slot in 0..shape.counts {
        for (.., cell) in block {
            put_signed(out, rows.counts[cell * shape.counts + slot]);
        }
    }
    for slot in 0..shape.sums {
        for (.., cell) in block {
            put_sum(out, rows.sums.get(cell * shape.sums + slot));
        }
    }
    for slot in 0..shape.mins {
        for (.., cell) in block {
            put_bound(out, rows.mins[cell * shape.mins + slot]);
        }
    }
    for slot in 0..shape.maxs {
        for (.., cell) in block {
            put_bound(out, rows.maxs[cell * shape.maxs + slot]);
        }
    }
}

fn put_sketches(layer: &Layer, table: &Table, cell: usize, out: &mut Vec<u8>) {
    let (shape, rows) = (table.shape(), &table.rows);
    for slot in 0..shape.distincts {
        let mut distinct = Distinct::new();
        if let Some(users) = table.users(cell, slot) {
            users.merge_into(&layer.ordinals, &mut distinct);
        }
        distinct.encode(out);
    }
    for slot in 0..shape.histograms {
        rows.histograms[cell * shape.histograms + slot].encode(out);
    }
    for slot in 0..shape.tops {
        let values = &layer.events.top_values[slot];
        let mut top = TopCounts::new();
        for (code, count) in rows.tops[cell * shape.tops + slot].iter() {
            match values.value(code) {
                DimValue::Text(text) => top.add(Some(text), count),
                DimValue::Null | DimValue::Other => top.add(None, count),
            }
        }
        top.encode(out);
    }
}

/// Compresses the sections of one file: a context costs more to set up than a small section to
/// compress.
struct Packer {
    context: zstd::bulk::Compressor<'static>,
    stored: Vec<u8>,
}

impl Packer {
    fn new() -> io::Result<Self> {
        Ok(Self { context: zstd::bulk::Compressor::new(ZSTD_LEVEL)?, stored: Vec::new() })
    }

    fn put_section(&mut self, raw: &[u8], out: &mut Vec<u8>) -> io::Result<Section> {
        let Self { context, stored } = self;
        stored.clear();
        stored.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        context.compress_to_buffer(raw, stored)?;
        let narrow = |len: usize| {
            u32::try_from(len).map_err(|_| io::Error::other("a section of cells is over 4 GB"))
        };
        let section = Section {
            offset: out.len() as u64,
            stored: narrow(stored.len())?,
            raw: narrow(raw.len())?,
            crc: crc32c(stored),
        };
        out.extend_from_slice(stored);
        Ok(section)
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_schema(schema: &Schema, out: &mut Vec<u8>) {
    out.extend_from_slice(&schema.plan.get().to_le_bytes());
    put_varint(out, schema.sets.len() as u64);
    for set in &schema.sets {
        out.push(u8::from(set.kind == SetKind::Sessions));
        out.push(u8::from(set.distinct));
        put_varint(out, set.dims.len() as u64);
        for dim in &set.dims {
            out.extend_from_slice(&dim.definition.to_le_bytes());
            put_text(out, &dim.name);
        }
    }
    for list in schema.slots.iter().flatten() {
        put_varint(out, list.len() as u64);
        for definition in list {
            out.extend_from_slice(&definition.to_le_bytes());
        }
    }
}

fn put_minutes(layer: &Layer, kind: SetKind, out: &mut Vec<u8>) {
    let minutes = layer.minutes(kind);
    put_varint(out, minutes.len() as u64);
    let mut before = 0;
    for minute in minutes {
        put_signed(out, minute.ms().wrapping_sub(before));
        before = minute.ms();
    }
}

fn put_index(index: &[BlockIndex], out: &mut Vec<u8>) {
    put_varint(out, index.len() as u64);
    for block in index {
        put_varint(out, block.set as u64);
        out.push(block.granularity);
        put_varint(out, block.cells as u64);
        put_signed(out, block.first_window);
        put_signed(out, block.last_window);
        block.numbers.put(out);
        block.sketches.put(out);
    }
}
