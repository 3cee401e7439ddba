//! Batches against the format's other implementation, in both directions.

use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, Record as Theirs,
    RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use nilometer_event::ReceiveTime;
use proptest::prelude::*;

use super::*;
use crate::RecordsBuilder;

type Pushed = (i64, Option<Vec<u8>>, Vec<u8>);

fn pushed() -> impl Strategy<Value = Vec<Pushed>> {
    let record = (0i64..4_000_000_000_000, any::<Option<Vec<u8>>>(), any::<Vec<u8>>());
    prop::collection::vec(record, 1..40)
}

fn codec() -> impl Strategy<Value = (Codec, Compression)> {
    prop_oneof![
        Just((Codec::None, Compression::None)),
        Just((Codec::Lz4, Compression::Lz4)),
        Just((Codec::Zstd, Compression::Zstd)),
    ]
}

fn ours(pushed: &[Pushed], base: u64, codec: Codec) -> Vec<u8> {
    let mut builder = RecordsBuilder::new();
    for (timestamp, key, value) in pushed {
        builder.push(ReceiveTime::from_ms(*timestamp), key.as_deref(), value);
    }
    let mut out = Vec::new();
    encode(&builder.build(), base, codec, &mut out).unwrap();
    out
}

fn read_back(batch: &[u8]) -> (Header, Decoded) {
    let header = Header::parse(batch.first_chunk().unwrap()).unwrap();
    assert!(header.verify(batch));
    (header, header.decode(batch).unwrap())
}

proptest! {
    #[test]
    fn the_oracle_reads_what_we_write(
        pushed in pushed(), base in 0u64..1 << 40, (codec, _) in codec(),
    ) {
        let batch = ours(&pushed, base, codec);
        let mut bytes = Bytes::from(batch);
        let info = RecordBatchDecoder::decode_batch_info(&mut bytes.clone()).unwrap();
        prop_assert_eq!(info[0].min_offset.cast_unsigned(), base);
        prop_assert_eq!(info[0].min_timestamp, pushed[0].0);
        prop_assert_eq!(info[0].producer_id, NO_PRODUCER_ID);
        let set = RecordBatchDecoder::decode(&mut bytes).unwrap();
        prop_assert_eq!(set.records.len(), pushed.len());
        for (index, (theirs, mine)) in set.records.iter().zip(&pushed).enumerate() {
            prop_assert_eq!(theirs.offset.cast_unsigned(), base + index as u64);
            prop_assert_eq!(theirs.timestamp, mine.0);
            prop_assert_eq!(theirs.key.as_deref(), mine.1.as_deref());
            prop_assert_eq!(theirs.value.as_deref(), Some(mine.2.as_slice()));
        }
    }

    #[test]
    fn we_read_what_the_oracle_writes(
        pushed in pushed(), base in 0i64..1 << 30, (_, compression) in codec(),
    ) {
        let theirs: Vec<Theirs> = pushed
            .iter()
            .enumerate()
            .map(|(index, (timestamp, key, value))| {
                let index = i32::try_from(index).unwrap();
                Theirs {
                    transactional: false,
                    control: false,
                    delete_horizon: false,
                    partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
                    producer_id: NO_PRODUCER_ID,
                    producer_epoch: NO_PRODUCER_EPOCH,
                    timestamp_type: TimestampType::Creation,
                    offset: base + i64::from(index),
                    sequence: index,
                    timestamp: *timestamp,
                    key: key.clone().map(Bytes::from),
                    value: Some(Bytes::from(value.clone())),
                    headers: Default::default(),
                }
            })
            .collect();
        let mut out = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression };
        RecordBatchEncoder::encode(&mut out, &theirs, &options).unwrap();
        let mut batch = out.to_vec();
        place(&mut batch, base.cast_unsigned());
        let (header, decoded) = read_back(&batch);
        prop_assert_eq!(header.max_timestamp, pushed.iter().map(|r| r.0).max().unwrap());
        let read: Vec<Pushed> = decoded
            .iter()
            .map(|r| (r.timestamp.ms(), r.key.map(<[u8]>::to_vec), r.value.to_vec()))
            .collect();
        prop_assert_eq!(read, pushed);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_seen(
        pushed in pushed(), (codec, _) in codec(), bit: prop::sample::Index,
    ) {
        let mut batch = ours(&pushed, 4_711, codec);
        let bit = bit.index(batch.len() * 8);
        batch[bit / 8] ^= 1 << (bit % 8);
        let seen = Header::parse(batch.first_chunk().unwrap())
            .is_none_or(|header| !header.verify(&batch));
        prop_assert!(seen, "bit {}", bit);
    }

    #[test]
    fn a_flipped_bit_anywhere_leaves_the_count_known(
        pushed in pushed(), (codec, _) in codec(), bit: prop::sample::Index,
    ) {
        let mut batch = ours(&pushed, 4_711, codec);
        let bit = bit.index(batch.len() * 8);
        batch[bit / 8] ^= 1 << (bit % 8);
        let count = u32::try_from(pushed.len()).unwrap();
        prop_assert_eq!(count_despite_damage(&batch), Some(count), "bit {}", bit);
    }

    #[test]
    fn our_maximum_timestamp_is_the_newest_records(pushed in pushed()) {
        let (header, _) = read_back(&ours(&pushed, 0, Codec::Lz4));
        prop_assert_eq!(header.max_timestamp, pushed.iter().map(|r| r.0).max().unwrap());
        prop_assert_eq!(header.first_timestamp, pushed[0].0);
    }
}
