//! Events of the standard: a type, a message, and fields by name.

use super::space::Namespaces;
use opcua::nodes::{BaseEventType, Event};
use opcua::types::{
    AttributeId, ByteString, DateTime, LocalizedText, NodeId, NumericRange, ObjectId, ObjectTypeId,
    QualifiedName, Variant,
};

/// How urgent an event is, 1 to 1000.
pub(super) mod severity {
    pub(in crate::publish::opcua) const INFORMATION: u16 = 100;
    pub(in crate::publish::opcua) const WARNING: u16 = 500;
    pub(in crate::publish::opcua) const ERROR: u16 = 800;
}

/// One event. Fields of namespace 0 are told from the standard's by their flag.
pub(super) struct Happened {
    base: BaseEventType,
    vision: u16,
    fields: Vec<(bool, &'static str, Variant)>,
    /// Of a condition: its id.
    condition: Option<NodeId>,
}

impl Happened {
    /// An event of this type at a camera.
    pub(super) fn new(
        names: Namespaces,
        type_id: NodeId,
        camera: &str,
        message: &str,
        severity: u16,
    ) -> Self {
        let id = ByteString::from(ulid::Ulid::generate().to_bytes().to_vec());
        let base = BaseEventType::new(type_id, id, LocalizedText::new("en", message), DateTime::now())
            .set_source_node(names.node(camera, ""))
            .set_source_name(camera.into())
            .set_severity(severity);
        Self { base, vision: names.vision, fields: vec![], condition: None }
    }

    /// An event of the server itself, of a type of OPC UA.
    pub(super) fn of_server(kind: ObjectTypeId, message: &str) -> Self {
        let id = ByteString::from(ulid::Ulid::generate().to_bytes().to_vec());
        let base = BaseEventType::new(kind, id, LocalizedText::new("en", message), DateTime::now())
            .set_source_node(ObjectId::Server.into())
            .set_source_name("Server".into())
            .set_severity(severity::INFORMATION);
        Self { base, vision: 0, fields: vec![], condition: None }
    }

    /// An event about the condition with this id, which is as it is since `at`.
    pub(super) fn of_condition(mut self, id: NodeId, at: DateTime) -> Self {
        self.condition = Some(id);
        self.base.time = at;
        self
    }

    /// With fields of the standard; empty ones are left out.
    pub(super) fn with(mut self, fields: impl IntoIterator<Item = (&'static str, Variant)>) -> Self {
        self.fields.extend(fields.into_iter().map(|(name, value)| (false, name, value)));
        self
    }

    /// With fields of OPC UA itself; `ActiveState/Id` is the field `Id` below `ActiveState`.
    pub(super) fn with_core(mut self, fields: impl IntoIterator<Item = (&'static str, Variant)>) -> Self {
        self.fields.extend(fields.into_iter().map(|(name, value)| (true, name, value)));
        self
    }

    fn own(&self, path: &[QualifiedName]) -> Option<Variant> {
        let (first, rest) = path.split_first()?;
        let is_core = first.namespace_index == 0;
        if !is_core && first.namespace_index != self.vision {
            return None;
        }
        let mut name = first.name.as_ref().to_owned();
        for below in rest {
            name = format!("{name}/{}", below.name.as_ref());
        }
        let found = self.fields.iter().find(|(core, known, _)| *core == is_core && *known == name);
        found.map(|(_, _, value)| value.clone())
    }
}

impl opcua::server::EventField for Happened {
    fn get_value(
        &self,
        attribute_id: AttributeId,
        index_range: &NumericRange,
        path: &[QualifiedName],
    ) -> Variant {
        if attribute_id == AttributeId::NodeId && path.is_empty() {
            return self.condition.clone().map_or(Variant::Empty, Variant::from);
        }
        if attribute_id != AttributeId::Value {
            return Variant::Empty;
        }
        self.own(path).unwrap_or_else(|| self.base.get_value(attribute_id, index_range, path))
    }
}

impl Event for Happened {
    fn get_field(
        &self,
        _type_definition_id: &NodeId,
        attribute_id: AttributeId,
        index_range: &NumericRange,
        browse_path: &[QualifiedName],
    ) -> Variant {
        use opcua::server::EventField as _;
        self.get_value(attribute_id, index_range, browse_path)
    }

    fn time(&self) -> &DateTime {
        self.base.time()
    }

    fn event_type_id(&self) -> &NodeId {
        self.base.event_type_id()
    }
}
