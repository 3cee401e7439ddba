//! The hot codec against apache-avro, and against any bytes.

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::option::of;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Owned {
    longs: [i64; 3],
    correction: i32,
    derived: bool,
    sender: [Option<String>; 2],
    values_max: Option<u32>,
    texts: [String; 2],
    optional: Vec<Option<String>>,
    duration: Option<f64>,
    completed: Option<bool>,
}

impl Owned {
    fn event(&self) -> Event<'_> {
        let text = |index: usize| self.optional[index].as_deref();
        Event {
            received_at: ReceiveTime::from_ms(self.longs[0]),
            timestamp: EventTime::from_ms(self.longs[1]),
            time_correction: TimeCorrection::from_number(self.correction).unwrap(),
            id_derived: self.derived,
            key: self.sender[0].as_deref(),
            source: self.sender[1].as_deref(),
            values_max: self.values_max,
            sent_timestamp: EventTime::from_ms(self.longs[2]),
            event_id: &self.texts[0],
            event_type: &self.texts[1],
            user_id: text(0),
            anonymous_id: text(1),
            service_name: text(2),
            session_id: text(3),
            country: text(4),
            device_type: text(5),
            app_version: text(6),
            content_id: text(7),
            content_category: text(8),
            subscription_tier: text(9),
            cohort: text(10),
            channel: text(11),
            session_duration_sec: self.duration,
            completed: self.completed,
            properties: text(12),
        }
    }

    /// By which schema it is written.
    fn schema(&self) -> (Schema, u32) {
        let is_keyed = self.sender.iter().any(Option::is_some) || self.values_max.is_some();
        let (text, id) = if is_keyed {
            (KEYED_EVENT_SCHEMA, KEYED_SCHEMA_ID)
        } else {
            (USER_EVENT_SCHEMA, SCHEMA_ID)
        };
        (Schema::parse_str(text).unwrap(), id)
    }

    /// The same as apache-avro's own tree, built by field name.
    fn value(&self, schema: &Schema) -> Value {
        let optional = |inner: Option<Value>| match inner {
            None => Value::Union(0, Box::new(Value::Null)),
            Some(inner) => Value::Union(1, Box::new(inner)),
        };
        let Schema::Record(record) = schema else { panic!("the schema is a record") };
        let mut texts = self.optional.iter();
        let fields = record.fields.iter().map(|field| {
            let value = match field.name.as_str() {
                "received_at" => Value::TimestampMillis(self.longs[0]),
                "timestamp" => Value::TimestampMillis(self.longs[1]),
                "time_correction" => Value::Int(self.correction),
                "id_derived" => Value::Boolean(self.derived),
                "key" => optional(self.sender[0].clone().map(Value::String)),
                "source" => optional(self.sender[1].clone().map(Value::String)),
                "values_max" => {
                    optional(self.values_max.map(|max| Value::Int(i32::try_from(max).unwrap())))
                }
                "sent_timestamp" => Value::TimestampMillis(self.longs[2]),
                "event_id" => Value::String(self.texts[0].clone()),
                "event_type" => Value::String(self.texts[1].clone()),
                "session_duration_sec" => optional(self.duration.map(Value::Double)),
                "completed" => optional(self.completed.map(Value::Boolean)),
                _ => optional(texts.next().unwrap().clone().map(Value::String)),
            };
            (field.name.clone(), value)
        });
        Value::Record(fields.collect())
    }
}

fn owned() -> impl Strategy<Value = Owned> {
    (
        any::<[i64; 3]>(),
        0..3i32,
        any::<bool>(),
        (any::<[Option<String>; 2]>(), of(0..=i32::MAX.unsigned_abs())),
        any::<[String; 2]>(),
        proptest::collection::vec(of(any::<String>()), 13),
        of(any::<f64>().prop_filter("finite", |value| value.is_finite())),
        of(any::<bool>()),
    )
        .prop_map(|(longs, correction, derived, by, texts, optional, duration, completed)| {
            Owned {
                longs,
                correction,
                derived,
                sender: by.0,
                values_max: by.1,
                texts,
                optional,
                duration,
                completed,
            }
        })
}

proptest! {
    #[test]
    fn the_codec_agrees_with_apache_avro(owned in owned()) {
        let (schema, id) = owned.schema();
        let mut ours = Vec::new();
        encode(&owned.event(), &mut ours);
        prop_assert_eq!(&ours[1..FRAME_BYTES], &id.to_be_bytes()[..]);
        let value = owned.value(&schema);
        let writer = GenericDatumWriter::builder(&schema).build().unwrap();
        let theirs = writer.write_value_to_vec(value.clone()).unwrap();
        prop_assert_eq!(&ours[FRAME_BYTES..], &theirs[..]);
        let reader = GenericDatumReader::builder(&schema).build().unwrap();
        prop_assert_eq!(reader.read_value(&mut &ours[FRAME_BYTES..]).unwrap(), value);
        prop_assert_eq!(decode(&ours).unwrap(), owned.event());
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        schema in prop::sample::select(&[1, 4][..]),
    ) {
        if bytes.len() >= FRAME_BYTES {
            bytes[..FRAME_BYTES].copy_from_slice(&[0, 0, 0, 0, schema]);
        }
        if let Ok(event) = decode(&bytes) {
            let mut again = Vec::new();
            encode(&event, &mut again);
            prop_assert_eq!(decode(&again).unwrap().event_id, event.event_id);
        }
    }

    #[test]
    fn a_record_cut_anywhere_is_refused(owned in owned(), cut in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        encode(&owned.event(), &mut bytes);
        let cut = cut.index(bytes.len());
        prop_assert!(decode(&bytes[..cut]).is_err());
    }

    #[test]
    fn what_the_client_said_does_not_depend_on_the_stamps(
        owned in owned(),
        received in any::<i64>(),
        sender in any::<[Option<String>; 2]>(),
    ) {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        encode(&owned.event(), &mut first);
        let [key, source] = [0, 1].map(|at| sender[at].as_deref());
        let received_at = ReceiveTime::from_ms(received);
        let retried = Event { received_at, key, source, values_max: None, ..owned.event() };
        encode(&retried, &mut second);
        prop_assert_eq!(decode_with_sent(&first).unwrap().1, decode_with_sent(&second).unwrap().1);
    }

    #[test]
    fn a_number_of_any_length_comes_back_whatever_follows(
        number in any::<i64>(),
        bits in 0_u32..64,
        rest in proptest::collection::vec(any::<u8>(), 0..12),
    ) {
        let number = number >> bits;
        let mut bytes = Vec::new();
        put_long(&mut bytes, number);
        bytes.extend_from_slice(&rest);
        let mut reader = Reader { bytes: &bytes, at: 0 };
        prop_assert_eq!(reader.long(), Ok(number));
        prop_assert_eq!(reader.rest(), &rest[..]);
    }

    #[test]
    fn one_byte_that_is_no_utf8_is_refused_in_whichever_text(
        owned in owned(),
        at in any::<prop::sample::Index>(),
    ) {
        // Long enough that no number before them has the same bytes.
        let event_type = owned.texts[1].clone() + " and what all types have";
        let sender = [Some("k".repeat(70)), Some("the source of the key".to_owned())];
        let owned = Owned { sender, texts: ["i".repeat(70), event_type], ..owned };
        let mut bytes = Vec::new();
        encode(&owned.event(), &mut bytes);
        let texts = owned.sender.iter().flatten().chain(&owned.texts);
        let text = texts.collect::<Vec<_>>()[at.index(4)];
        let start = bytes.windows(text.len()).position(|found| found == text.as_bytes()).unwrap();
        bytes[start + text.len() - 1] = 0xff;
        prop_assert_eq!(decode(&bytes), Err(DecodeError::Utf8));
    }
}
