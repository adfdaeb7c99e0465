//! The bytes of a Sparkplug B payload: the messages of `sparkplug_b.proto` (proto2), by hand.
//!
//! ```text
//! Payload --1 timestamp, 2 metrics, 3 seq--> Metric --1 name, 2 alias, 3 timestamp, 4 datatype, 10.. value-->
//!                                               '--9 properties: keys and values of one length
//! ```
//!
//! Fields and tags are those of the official file. Data sets, templates and extensions are left out: this station sends
//! none, and a reader of protobuf skips what it does not know.

use prost::{Message, Oneof};

/// Data types by their numbers in the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    /// Signed; on the wire in 32 bits.
    Int32 = 3,
    /// Signed; on the wire as the unsigned number of the same 64 bits.
    Int64 = 4,
    /// Unsigned.
    UInt64 = 8,
    /// 64 bits.
    Double = 10,
    /// True or false.
    Boolean = 11,
    /// UTF-8.
    String = 12,
    /// Milliseconds since 1970, UTC.
    DateTime = 13,
}

impl DataType {
    /// Its word in the specification.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Int32 => "Int32",
            Self::Int64 => "Int64",
            Self::UInt64 => "UInt64",
            Self::Double => "Double",
            Self::Boolean => "Boolean",
            Self::String => "String",
            Self::DateTime => "DateTime",
        }
    }
}

/// One message.
#[derive(Clone, PartialEq, Message)]
pub struct Payload {
    /// When it was sent, in milliseconds since 1970, UTC (tck-id-payloads-timestamp-in-UTC).
    #[prost(uint64, optional, tag = "1")]
    pub timestamp: Option<u64>,
    /// What it says.
    #[prost(message, repeated, tag = "2")]
    pub metrics: Vec<Metric>,
    /// 0 to 255; absent from NDEATH and commands.
    #[prost(uint64, optional, tag = "3")]
    pub seq: Option<u64>,
    /// Names a schema of `body`.
    #[prost(string, optional, tag = "4")]
    pub uuid: Option<String>,
    /// Bytes that are none of the above.
    #[prost(bytes = "vec", optional, tag = "5")]
    pub body: Option<Vec<u8>>,
}

/// One value of one metric.
#[derive(Clone, PartialEq, Message)]
pub struct Metric {
    /// In births and in what has no alias.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// Stands for the name after the birth.
    #[prost(uint64, optional, tag = "2")]
    pub alias: Option<u64>,
    /// When the value was taken, in milliseconds since 1970, UTC.
    #[prost(uint64, optional, tag = "3")]
    pub timestamp: Option<u64>,
    /// A [`DataType`]; in births.
    #[prost(uint32, optional, tag = "4")]
    pub datatype: Option<u32>,
    /// It was stored before, and changes no newest value.
    #[prost(bool, optional, tag = "5")]
    pub is_historical: Option<bool>,
    /// The host need not keep it.
    #[prost(bool, optional, tag = "6")]
    pub is_transient: Option<bool>,
    /// There is no value.
    #[prost(bool, optional, tag = "7")]
    pub is_null: Option<bool>,
    /// Unit and range.
    #[prost(message, optional, tag = "9")]
    pub properties: Option<PropertySet>,
    /// The value, in the field of its type.
    #[prost(oneof = "Wire", tags = "10, 11, 12, 13, 14, 15, 16")]
    pub value: Option<Wire>,
}

/// A value in the field of its type.
#[derive(Clone, PartialEq, Oneof)]
pub enum Wire {
    /// Integers of up to 32 bits.
    #[prost(uint32, tag = "10")]
    Int(u32),
    /// Integers of 64 bits, and times.
    #[prost(uint64, tag = "11")]
    Long(u64),
    /// 32 bits.
    #[prost(float, tag = "12")]
    Float(f32),
    /// 64 bits.
    #[prost(double, tag = "13")]
    Double(f64),
    /// True or false.
    #[prost(bool, tag = "14")]
    Boolean(bool),
    /// UTF-8.
    #[prost(string, tag = "15")]
    String(String),
    /// Bytes and files.
    #[prost(bytes = "vec", tag = "16")]
    Bytes(Vec<u8>),
}

/// Named properties of a metric. Keys and values are of one number (tck-id-payloads-propertyset-keys-array-size,
/// tck-id-payloads-propertyset-values-array-size): [`PropertySet::with`] adds both.
#[derive(Clone, PartialEq, Message)]
pub struct PropertySet {
    /// Their names.
    #[prost(string, repeated, tag = "1")]
    pub keys: Vec<String>,
    /// Their values, in the same order.
    #[prost(message, repeated, tag = "2")]
    pub values: Vec<PropertyValue>,
}

impl PropertySet {
    /// With one more property.
    #[must_use]
    pub fn with(mut self, key: &str, value: PropertyValue) -> Self {
        self.keys.push(key.to_owned());
        self.values.push(value);
        self
    }
}

/// The value of a property.
#[derive(Clone, PartialEq, Message)]
pub struct PropertyValue {
    /// A [`DataType`] (tck-id-payloads-metric-propertyvalue-type-type, tck-id-payloads-metric-propertyvalue-type-value,
    /// tck-id-payloads-metric-propertyvalue-type-req).
    #[prost(uint32, optional, tag = "1")]
    pub r#type: Option<u32>,
    /// There is no value.
    #[prost(bool, optional, tag = "2")]
    pub is_null: Option<bool>,
    /// The value, in the field of its type.
    #[prost(oneof = "PropertyWire", tags = "3, 4, 5, 6, 7, 8")]
    pub value: Option<PropertyWire>,
}

/// A property's value in the field of its type.
#[derive(Clone, PartialEq, Oneof)]
pub enum PropertyWire {
    /// Integers of up to 32 bits.
    #[prost(uint32, tag = "3")]
    Int(u32),
    /// Integers of 64 bits, and times.
    #[prost(uint64, tag = "4")]
    Long(u64),
    /// 32 bits.
    #[prost(float, tag = "5")]
    Float(f32),
    /// 64 bits.
    #[prost(double, tag = "6")]
    Double(f64),
    /// True or false.
    #[prost(bool, tag = "7")]
    Boolean(bool),
    /// UTF-8.
    #[prost(string, tag = "8")]
    String(String),
}

impl PropertyValue {
    /// A text.
    pub fn text(text: &str) -> Self {
        Self::of(DataType::String, PropertyWire::String(text.to_owned()))
    }

    /// A number.
    pub fn number(number: f64) -> Self {
        Self::of(DataType::Double, PropertyWire::Double(number))
    }

    fn of(r#type: DataType, value: PropertyWire) -> Self {
        Self { r#type: Some(r#type as u32), is_null: None, value: Some(value) }
    }
}

/// The bytes of a payload.
pub fn encode(payload: &Payload) -> Vec<u8> {
    payload.encode_to_vec()
}

/// The payload in some bytes.
///
/// # Errors
/// They are no payload; the reason is in words.
pub fn decode(bytes: &[u8]) -> Result<Payload, String> {
    Payload::decode(bytes).map_err(|error| format!("no Sparkplug B payload: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by hand from the official file: tag << 3 | wire type, then the value.
    #[test]
    fn the_bytes_are_those_of_the_official_file() {
        let metric = Metric {
            name: Some("bdSeq".into()),
            alias: Some(1),
            timestamp: Some(2),
            datatype: Some(DataType::Int64 as u32),
            is_historical: Some(true),
            value: Some(Wire::Long(3)),
            ..Metric::default()
        };
        let payload =
            Payload { timestamp: Some(1), metrics: vec![metric], seq: Some(0), ..Payload::default() };
        let metric = [10, 5, b'b', b'd', b'S', b'e', b'q', 16, 1, 24, 2, 32, 4, 40, 1, 88, 3];
        let expected = [&[8, 1, 18, metric.len() as u8][..], &metric[..], &[24, 0]].concat();
        assert_eq!(encode(&payload), expected);
        assert_eq!(decode(&expected), Ok(payload));
    }

    #[test]
    fn what_is_not_known_is_skipped_and_what_is_no_payload_is_said() {
        // A metric with a template (18), and a field of an extension (100).
        let bytes = [18, 4, 0x92, 1, 1, 0, 0xa0, 6, 7, 24, 9];
        let read = decode(&bytes).unwrap();
        assert_eq!((read.seq, read.metrics.len(), &read.metrics[0].value), (Some(9), 1, &None));
        assert!(decode(b"{\"online\":true}").unwrap_err().contains("no Sparkplug B payload"));
    }

    #[test]
    fn properties_have_a_value_for_each_key() {
        let set = PropertySet::default()
            .with("engUnit", PropertyValue::text("ms"))
            .with("engLow", PropertyValue::number(0.0));
        assert_eq!((set.keys.len(), set.values.len()), (2, 2));
        assert_eq!(set.values[0].r#type, Some(12));
        assert_eq!(set.values[1].value, Some(PropertyWire::Double(0.0)));
    }
}
