//! Values of the standard's structures, and an inspection as a result of the standard.
//!
//! ```text
//! Inspection --fields--> ResultId, ResultState, PartId, JobId, …, ResultContent
//!                          |--> one ResultDataType      (GetResultById, the newest result)
//!                          |--> its fields one by one   (GetResultComponentsById, variables, ResultReady)
//! what a client sends --id_of--> the id in it
//! ```

use super::nodeset::Structures;
use crate::domain::finding::Finding;
use crate::domain::inspection::Inspection;
use opcua::types::custom::DynamicStructure;
use opcua::types::{
    Array, ByteString, DateTime, ExtensionObject, LocalizedText, UAString, Variant, VariantScalarTypeId,
};
use std::time::{SystemTime, UNIX_EPOCH};

/// Ticks of 100 ns from 1601, where OPC UA begins, to 1970.
const EPOCH_TICKS: i64 = 116_444_736_000_000_000;

/// `ResultStateDataType` of the standard.
const COMPLETED: i32 = 1;
const FAILED: i32 = 4;

/// The fields of a result in the order of `ResultDataType`; an empty value is left out.
pub(super) type Fields = Vec<(&'static str, Variant)>;

/// A time of day.
pub(super) fn time(at: SystemTime) -> DateTime {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ticks = i64::try_from(since.as_nanos() / 100).unwrap_or(i64::MAX - EPOCH_TICKS);
    DateTime::from(EPOCH_TICKS + ticks)
}

/// A list of texts.
pub(super) fn texts(list: impl IntoIterator<Item = String>) -> Variant {
    let values: Vec<_> = list.into_iter().map(|text| Variant::String(text.into())).collect();
    list_of(VariantScalarTypeId::String, values)
}

/// A list of values of one type.
pub(super) fn list_of(kind: VariantScalarTypeId, values: Vec<Variant>) -> Variant {
    Array::new(kind, values).map_or(Variant::Empty, |array| Variant::Array(Box::new(array)))
}

impl Structures {
    /// A structure of this type; fields that are not given are left out, which only optional ones may be.
    pub(super) fn make(&self, name: &str, fields: &[(&str, Variant)]) -> Variant {
        let Some(info) = self.id(name).and_then(|id| self.tree.get_struct_type(id)) else {
            return Variant::Empty;
        };
        let value = |field: &str| {
            let found = fields.iter().find(|(name, _)| *name == field);
            found.map_or(Variant::Empty, |(_, value)| value.clone())
        };
        let values = info.fields.iter().map(|field| value(&field.name)).collect();
        match DynamicStructure::new_struct(info.clone(), self.tree.clone(), values) {
            Ok(made) => Variant::from(ExtensionObject::new(made)),
            Err(error) => {
                tracing::error!(%error, name, "a structure cannot be made");
                Variant::Empty
            }
        }
    }

    /// An id: a structure whose field `Id` is a text.
    pub(super) fn id_value(&self, name: &str, id: &str) -> Variant {
        self.make(name, &[("Id", Variant::String(id.into()))])
    }

    /// A recipe by its name and version, as this station knows it.
    pub(super) fn recipe(&self, name: &str, version: &str) -> Variant {
        let version = if version.is_empty() { Variant::Empty } else { Variant::String(version.into()) };
        self.make("RecipeIdInternalDataType", &[("Id", Variant::String(name.into())), ("Version", version)])
    }

    /// What a result of the standard says of the inspection with this number in the ledger.
    pub(super) fn fields(&self, seq: u64, inspection: &Inspection) -> Fields {
        let optional = |kind: &str, id: Option<&str>| id.map_or(Variant::Empty, |id| self.id_value(kind, id));
        let trigger = &inspection.trigger;
        let tiles = inspection.tiles;
        let state = if tiles.inspected == tiles.planned { COMPLETED } else { FAILED };
        let external = self.id_value("RecipeIdExternalDataType", &inspection.pipeline);
        vec![
            ("ResultId", self.id_value("ResultIdDataType", &inspection.id)),
            ("HasTransferableDataOnFile", false.into()),
            ("IsPartial", false.into()),
            ("IsSimulated", inspection.replayed.into()),
            ("ResultState", state.into()),
            ("MeasId", self.id_value("MeasIdDataType", &meas_of(seq, inspection))),
            ("PartId", optional("PartIdDataType", trigger.part_id.as_deref())),
            ("ExternalRecipeId", external),
            ("InternalRecipeId", self.recipe(&inspection.pipeline, &inspection.pipeline_version)),
            ("ProductId", optional("ProductIdDataType", trigger.lot.as_deref())),
            ("ExternalConfigurationId", Variant::Empty),
            ("InternalConfigurationId", self.configuration(inspection)),
            ("JobId", self.id_value("JobIdDataType", job_of(inspection))),
            ("CreationTime", time(inspection.finished_at).into()),
            ("ProcessingTimes", self.times(inspection)),
            ("ResultContent", content(inspection)),
        ]
    }

    /// The configuration that judged: the model, by the hash of its file.
    fn configuration(&self, inspection: &Inspection) -> Variant {
        let model = &inspection.model;
        let hash = unhex(&model.text_sha256);
        let (hash, algorithm) = match hash {
            Some(hash) => (Variant::from(ByteString::from(hash)), Variant::String("SHA-256".into())),
            None => (Variant::Empty, Variant::Empty),
        };
        let id = Variant::String(model.name.as_str().into());
        self.make("ConfigurationIdDataType", &[("Id", id), ("Hash", hash), ("HashAlgorithm", algorithm)])
    }

    fn times(&self, inspection: &Inspection) -> Variant {
        let fields = [
            ("StartTime", time(inspection.captured_at).into()),
            ("EndTime", time(inspection.finished_at).into()),
            ("ProcessingDuration", inspection.latency.total_ms.into()),
        ];
        self.make("ProcessingTimesDataType", &fields)
    }
}

/// The job of an inspection: the correlation id of its trigger; without one, the inspection is its own job.
pub(super) fn job_of(inspection: &Inspection) -> &str {
    inspection.trigger.correlation_id.as_deref().unwrap_or(&inspection.id)
}

/// What the measurement is called: as the client of its job called it, else by the number of its record. That number goes
/// on over restarts, and no other part has it.
pub(super) fn meas_of(seq: u64, inspection: &Inspection) -> String {
    inspection.trigger.meas_id.clone().unwrap_or_else(|| format!("record {seq}"))
}

/// Verdict, grade, reason, and the findings as a JSON list.
fn content(inspection: &Inspection) -> Variant {
    let parts =
        [verdict(inspection), inspection.grade.as_str().into(), reason(inspection), findings(inspection)];
    let boxed = parts.map(|text| Variant::Variant(Box::new(Variant::String(text.into()))));
    list_of(VariantScalarTypeId::Variant, boxed.into())
}

/// `pass`, `fail` or `review`.
pub(super) fn verdict(inspection: &Inspection) -> String {
    inspection.verdict.as_str().to_owned()
}

/// Why it is not a pass; empty for one.
pub(super) fn reason(inspection: &Inspection) -> String {
    inspection.verdict.reason().map(ToString::to_string).unwrap_or_default()
}

/// The findings, as a list in JSON.
fn findings(inspection: &Inspection) -> String {
    serde_json::Value::Array(inspection.findings.iter().map(finding).collect()).to_string()
}

/// The findings, each as one text for people.
pub(super) fn finding_texts(inspection: &Inspection) -> Variant {
    texts(inspection.findings.iter().map(|f| finding(f).to_string()))
}

fn finding(f: &Finding) -> serde_json::Value {
    serde_json::json!({
        "label": f.label,
        "severity": f.severity.as_str(),
        "grade": f.grade.as_str(),
        "longest_mm": f.longest_mm,
        "area_mm2": f.area_mm2,
        "confidence": f.confidence,
    })
}

/// The id in what a client has sent: a structure with a field `Id`, or a plain text. `None` where there is none.
pub(super) fn id_of(value: Option<&Variant>) -> Option<String> {
    let text = |text: &UAString| Some(text.as_ref().to_owned()).filter(|text| !text.is_empty());
    match value? {
        Variant::String(plain) => text(plain),
        Variant::ExtensionObject(object) => {
            match object.inner_as::<DynamicStructure>()?.get_field_by_name("Id")? {
                Variant::String(id) => text(id),
                _ => None,
            }
        }
        Variant::Variant(inner) => id_of(Some(inner)),
        _ => None,
    }
}

/// A text in no language.
pub(super) fn plain(text: &str) -> LocalizedText {
    LocalizedText::new("", text)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2));
    let bytes = digits.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect::<Option<Vec<u8>>>();
    bytes.filter(|bytes| !bytes.is_empty())
}
