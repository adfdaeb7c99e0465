//! The types of OPC 40100-1, from the table `machine_vision.txt`: as nodes of an address space, and as shapes for the
//! structures that clients and this server send.
//!
//! ```text
//! machine_vision.txt --parse--> Row --> nodes with the standard's ids, names, references and arguments
//!                                |----> DataTypeTree: how each structure is written and read
//!                                '----> what `space` makes instances of
//! ```
//!
//! Invariants:
//! - Every id, name and number comes from the table; a word that it lacks is found by the tests, not by a client.
//! - Types come before what uses them, so that one pass over the table makes everything.

use opcua::nodes::{
    DataType, ImportedItem, ImportedReference, Method, NodeType, Object, ObjectType, Variable, VariableType,
};
use opcua::server::address_space::AddressSpace;
use opcua::types::custom::{DataTypeTree, EncodingIds, GenericTypeInfo, ParentIds, TypeInfo};
use opcua::types::{
    Argument, Array, DataTypeDefinition, EnumDefinition, EnumField, ExtensionObject, NodeId, QualifiedName,
    StructureDefinition, StructureField, StructureType, Variant, VariantScalarTypeId,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The namespace of the standard.
pub(super) const MACHINE_VISION: &str = "http://opcfoundation.org/UA/MachineVision";

const TABLE: &str = include_str!("machine_vision.txt");
/// Ids of namespace 0 that the table uses, and what they are in values: subtypes of built-in types.
const BUILT_IN: &[(u32, u32)] = &[(290, 11), (294, 13)];

pub(super) const HAS_COMPONENT: u32 = 47;
pub(super) const HAS_PROPERTY: u32 = 46;
pub(super) const HAS_TYPE_DEFINITION: u32 = 40;
const HAS_MODELLING_RULE: u32 = 37;
const HAS_SUBTYPE: u32 = 45;
const HAS_ENCODING: u32 = 38;
const MANDATORY: u32 = 78;
const OPTIONAL: u32 = 80;
const ARGUMENT: u32 = 296;

/// An id of the table: `true` is namespace 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(pub bool, pub u32);

impl Id {
    fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("0:") {
            Some(number) => Some(Self(true, number.parse().ok()?)),
            None => Some(Self(false, text.parse().ok()?)),
        }
    }

    /// As a node id; `namespace` is the index of the standard's.
    pub(super) fn node(self, namespace: u16) -> NodeId {
        NodeId::new(if self.0 { 0 } else { namespace }, self.1)
    }
}

/// The class of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    ObjectType,
    VariableType,
    DataType,
    Object,
    Variable,
    Method,
}

/// A field or an argument: its name, type, rank, and whether it may be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub name: &'static str,
    pub data_type: Id,
    pub is_list: bool,
    pub is_optional: bool,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub class: Class,
    is_abstract: bool,
    pub id: Id,
    pub name: &'static str,
    /// The browse name is of namespace 0.
    core_name: bool,
    pub parent: Id,
    pub reference: u32,
    pub type_definition: Option<Id>,
    pub rule: &'static str,
    /// Of variables: type, and whether it is a list of it.
    pub data_type: Option<(Id, bool)>,
    /// What stands behind the type: a number, arguments, or a definition.
    value: &'static str,
    references: Vec<(u32, Id)>,
}

impl Row {
    fn parse(line: &'static str) -> Option<Self> {
        let mut columns = line.split('\t');
        let mut next = || columns.next().unwrap_or_default();
        let (class, id, name, parent, reference) = (next(), next(), next(), next(), next());
        let (type_definition, rule, extra, references) = (next(), next(), next(), next());
        let is_abstract = class.ends_with('a');
        let class = match class.trim_end_matches('a') {
            "OT" => Class::ObjectType,
            "VT" => Class::VariableType,
            "DT" => Class::DataType,
            "O" => Class::Object,
            "V" => Class::Variable,
            "M" => Class::Method,
            _ => return None,
        };
        let is_value = matches!(class, Class::Variable | Class::VariableType);
        let (data_type, value) = match extra.split_once(' ') {
            Some((data_type, value)) if is_value => (data_type, value),
            _ if is_value => (extra, ""),
            _ => ("", extra),
        };
        let data_type = data_type.strip_suffix("[1]").map_or((data_type, false), |bare| (bare, true));
        let further = references.split(',').filter_map(|one| {
            let (reference, target) = one.split_once('>')?;
            Some((reference.parse().ok()?, Id::parse(target)?))
        });
        Some(Self {
            class,
            is_abstract,
            id: Id::parse(id)?,
            name: name.strip_prefix("0:").unwrap_or(name),
            core_name: name.starts_with("0:"),
            parent: Id::parse(parent)?,
            reference: reference.parse().ok()?,
            type_definition: Id::parse(type_definition),
            rule,
            data_type: Id::parse(data_type.0).map(|id| (id, data_type.1)),
            value,
            references: further.collect(),
        })
    }

    /// The browse name.
    pub(super) fn browse_name(&self, namespace: u16) -> QualifiedName {
        QualifiedName::new(if self.core_name { 0 } else { namespace }, self.name)
    }

    /// The number of a state or transition.
    fn number(&self) -> Option<u32> {
        self.value.parse().ok()
    }

    /// Arguments of a method, fields of a structure.
    pub(super) fn fields(&self) -> Vec<Field> {
        let list = self.value.strip_prefix("struct ").unwrap_or(self.value);
        let field = |text: &'static str| {
            let (name, data_type) = text.split_once(':')?;
            let (data_type, is_optional) =
                data_type.strip_suffix('?').map_or((data_type, false), |bare| (bare, true));
            let (data_type, is_list) =
                data_type.strip_suffix("[1]").map_or((data_type, false), |bare| (bare, true));
            Some(Field { name, data_type: Id::parse(data_type)?, is_list, is_optional })
        };
        list.split(',').filter_map(field).collect()
    }
}

/// The whole table.
pub(super) struct Nodeset {
    pub rows: Vec<Row>,
    /// The index of the standard's namespace.
    pub namespace: u16,
}

impl Nodeset {
    pub(super) fn new(namespace: u16) -> Self {
        let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
        Self { rows: lines.filter_map(Row::parse).collect(), namespace }
    }

    /// The row of an id.
    pub(super) fn row(&self, id: Id) -> Option<&Row> {
        self.rows.iter().find(|row| row.id == id)
    }

    /// The id of a type or of what stands directly below it, by names: `VisionStateMachineType`, `Halt`.
    pub(super) fn find(&self, names: &[&str]) -> Option<&Row> {
        let mut found: Option<&Row> = None;
        for name in names {
            let below = found.map(|row| row.id);
            let is_top = |row: &&Row| row.reference == HAS_SUBTYPE;
            let mut rows = self.rows.iter();
            found = Some(match below {
                None => rows.find(|row| row.name == *name && is_top(row))?,
                Some(parent) => rows.find(|row| row.name == *name && row.parent == parent)?,
            });
        }
        found
    }

    /// The node id of a type.
    pub(super) fn type_id(&self, name: &str) -> NodeId {
        self.find(&[name]).map_or_else(NodeId::null, |row| row.id.node(self.namespace))
    }

    /// A state or transition by its browse name: its node id and its number.
    pub(super) fn numbered(&self, name: &str) -> (NodeId, u32) {
        let of_machine = |row: &&Row| row.class == Class::Object && row.name == name;
        let Some(row) = self.rows.iter().find(of_machine) else { return (NodeId::null(), 0) };
        let number = self.rows.iter().find(|child| child.parent == row.id).and_then(Row::number);
        (row.id.node(self.namespace), number.unwrap_or_default())
    }

    /// What stands directly below a node.
    pub(super) fn children(&self, id: Id) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.parent == id && row.reference != HAS_SUBTYPE)
    }

    /// Fields of a structure with those that it inherits.
    fn all_fields(&self, row: &Row) -> Vec<Field> {
        let mut fields = self.row(row.parent).map_or_else(Vec::new, |parent| self.all_fields(parent));
        fields.extend(row.fields());
        fields
    }

    /// Puts every type into the address space.
    pub(super) fn load(&self, space: &mut AddressSpace) {
        for row in &self.rows {
            let Some(node) = self.node(row) else { continue };
            let backward = |target: NodeId, kind: u32| ImportedReference {
                target_id: target,
                type_id: NodeId::new(0, kind),
                is_forward: false,
            };
            let forward = |target: NodeId, kind: u32| ImportedReference {
                target_id: target,
                type_id: NodeId::new(0, kind),
                is_forward: true,
            };
            let mut references = vec![backward(row.parent.node(self.namespace), row.reference)];
            references
                .extend(row.type_definition.map(|id| forward(id.node(self.namespace), HAS_TYPE_DEFINITION)));
            let rule = match row.rule {
                "m" => Some(MANDATORY),
                "o" => Some(OPTIONAL),
                _ => None,
            };
            references.extend(rule.map(|rule| forward(NodeId::new(0, rule), HAS_MODELLING_RULE)));
            let further = row.references.iter();
            references.extend(further.map(|(kind, id)| forward(id.node(self.namespace), *kind)));
            space.import_node(ImportedItem { node, references });
        }
    }

    fn node(&self, row: &Row) -> Option<NodeType> {
        let id = row.id.node(self.namespace);
        let name = row.browse_name(self.namespace);
        Some(match row.class {
            Class::ObjectType => ObjectType::new(&id, name, row.name, row.is_abstract).into(),
            Class::VariableType => {
                let (data_type, _) = row.data_type?;
                let data_type = data_type.node(self.namespace);
                VariableType::new(&id, name, row.name, data_type, row.is_abstract, -1).into()
            }
            Class::DataType => {
                let mut node = DataType::new(&id, name, row.name, row.is_abstract);
                node.set_data_type_definition(self.definition(row));
                node.into()
            }
            Class::Object => {
                Object::new(&id, name, row.name, opcua::server::address_space::EventNotifier::empty()).into()
            }
            Class::Method => Method::new(&id, name, row.name, true, true).into(),
            Class::Variable => self.variable(row, &id, name)?.into(),
        })
    }

    /// A variable as its row says, with the row's value; one without is empty.
    pub(super) fn variable(&self, row: &Row, id: &NodeId, name: QualifiedName) -> Option<Variable> {
        let (data_type, is_list) = row.data_type?;
        let rank = if is_list { 1 } else { -1 };
        let value = match (data_type, row.number()) {
            (Id(true, ARGUMENT), _) => self.arguments(row),
            (_, Some(number)) => Variant::from(number),
            _ => Variant::Empty,
        };
        let data_type = data_type.node(self.namespace);
        let lengths = if is_list { Some(0) } else { None };
        Some(Variable::new_data_value(id, name, row.name, data_type, Some(rank), lengths, value))
    }

    fn arguments(&self, row: &Row) -> Variant {
        let argument = |field: Field| {
            Variant::from(ExtensionObject::from_message(Argument {
                name: field.name.into(),
                data_type: field.data_type.node(self.namespace),
                value_rank: if field.is_list { 1 } else { -1 },
                ..Argument::default()
            }))
        };
        let arguments: Vec<_> = row.fields().into_iter().map(argument).collect();
        Array::new(VariantScalarTypeId::ExtensionObject, arguments)
            .map_or(Variant::Empty, |array| Variant::Array(Box::new(array)))
    }

    fn definition(&self, row: &Row) -> Option<DataTypeDefinition> {
        if let Some(words) = row.value.strip_prefix("enum ") {
            let field = |word: &str| {
                let (name, value) = word.split_once(':')?;
                Some(EnumField {
                    name: name.into(),
                    display_name: name.into(),
                    value: value.parse().ok()?,
                    ..EnumField::default()
                })
            };
            let fields = words.split(',').filter_map(field).collect();
            return Some(EnumDefinition { fields: Some(fields) }.into());
        }
        if !row.value.starts_with("struct") {
            return None;
        }
        let fields = self.all_fields(row);
        let has_optional = fields.iter().any(|field| field.is_optional);
        let field = |field: Field| StructureField {
            name: field.name.into(),
            data_type: field.data_type.node(self.namespace),
            value_rank: if field.is_list { 1 } else { -1 },
            is_optional: field.is_optional,
            ..StructureField::default()
        };
        Some(
            StructureDefinition {
                default_encoding_id: self.encoding(row.id),
                base_data_type: row.parent.node(self.namespace),
                structure_type: if has_optional {
                    StructureType::StructureWithOptionalFields
                } else {
                    StructureType::Structure
                },
                fields: Some(fields.into_iter().map(field).collect()),
            }
            .into(),
        )
    }

    /// The node of a structure's binary encoding.
    fn encoding(&self, id: Id) -> NodeId {
        let found = self.rows.iter().find(|row| row.parent == id && row.reference == HAS_ENCODING);
        found.map_or_else(NodeId::null, |row| row.id.node(self.namespace))
    }

    /// How the structures are written and read, and which is which by name.
    pub(super) fn structures(&self) -> Structures {
        let mut parents = ParentIds::new();
        for (child, parent) in BUILT_IN {
            parents.add_type(NodeId::new(0, *child), NodeId::new(0, *parent));
        }
        let types = || self.rows.iter().filter(|row| row.class == Class::DataType);
        for row in types() {
            parents.add_type(row.id.node(self.namespace), row.parent.node(self.namespace));
        }
        let mut tree = DataTypeTree::new(parents);
        let mut by_name = BTreeMap::new();
        for row in types() {
            let id = row.id.node(self.namespace);
            by_name.insert(row.name, id.clone());
            let Some(definition) = self.definition(row) else {
                tree.add_type(id, GenericTypeInfo::new(row.is_abstract));
                continue;
            };
            // Other encodings than the binary one do not exist here; a null id would be taken for one.
            let encodings =
                EncodingIds { binary_id: self.encoding(row.id), json_id: id.clone(), xml_id: id.clone() };
            let made = TypeInfo::from_type_definition(
                definition,
                row.name.to_owned(),
                Some(encodings),
                row.is_abstract,
                &id,
                tree.parent_ids(),
            );
            match made {
                Ok(info) => tree.add_type(id, info),
                Err(error) => tracing::error!(error, name = row.name, "a type cannot be used"),
            }
        }
        Structures { tree: Arc::new(tree), by_name }
    }
}

/// The structures of the standard.
#[derive(Clone)]
pub(super) struct Structures {
    pub tree: Arc<DataTypeTree>,
    by_name: BTreeMap<&'static str, NodeId>,
}

impl Structures {
    /// A structure's type by its name.
    pub(super) fn id(&self, name: &str) -> Option<&NodeId> {
        self.by_name.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_a_row_and_every_parent_is_there() {
        let nodeset = Nodeset::new(2);
        let lines = TABLE.lines().filter(|line| !line.starts_with('#')).count();
        assert!(lines > 250 && nodeset.rows.len() == lines);
        for row in &nodeset.rows {
            assert!(row.parent.0 || nodeset.row(row.parent).is_some(), "{}: no parent", row.name);
            for target in row.type_definition.iter().chain(row.references.iter().map(|(_, id)| id)) {
                assert!(target.0 || nodeset.row(*target).is_some(), "{} points to nothing", row.name);
            }
        }
    }

    #[test]
    fn states_and_transitions_have_the_numbers_of_the_standard() {
        let nodeset = Nodeset::new(2);
        for (name, id, number) in [
            ("Preoperational", 5028, 1),
            ("Halted", 5029, 2),
            ("Error", 5030, 3),
            ("Operational", 5031, 4),
            ("Initialized", 5056, 5),
            ("Ready", 5057, 6),
            ("SingleExecution", 5058, 7),
            ("ContinuousExecution", 5059, 8),
            ("ReadyToSingleExecution", 5064, 671),
        ] {
            assert_eq!(nodeset.numbered(name), (NodeId::new(2, id as u32), number), "{name}");
        }
    }

    #[test]
    fn the_arguments_of_a_job_are_those_of_the_standard() {
        let nodeset = Nodeset::new(2);
        let names = |method: &str, which: &str| {
            let row = nodeset.find(&["VisionAutomaticModeStateMachineType", method, which]).unwrap();
            row.fields().iter().map(|field| field.name).collect::<Vec<_>>()
        };
        let inputs = ["MeasId", "PartId", "RecipeId", "ProductId", "Parameters"];
        assert_eq!(names("StartSingleJob", "InputArguments"), inputs);
        assert_eq!(names("StartSingleJob", "OutputArguments"), ["JobId", "Error"]);
    }

    #[test]
    fn a_structure_has_what_it_inherits() {
        let structures = Nodeset::new(2).structures();
        let id = structures.id("RecipeIdInternalDataType").unwrap();
        let recipe = structures.tree.get_struct_type(id).unwrap();
        let names: Vec<_> = recipe.fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["Id", "Version", "Hash", "HashAlgorithm", "Description"]);
        assert_eq!(recipe.structure_type, StructureType::StructureWithOptionalFields);
        let result = structures.tree.get_struct_type(structures.id("ResultDataType").unwrap()).unwrap();
        assert_eq!(result.fields.len(), 16);
        assert_eq!(result.encoding_ids.binary_id, NodeId::new(2, 5018_u32));
    }
}
