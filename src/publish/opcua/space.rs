//! The nodes of the cameras: an instance of `VisionSystemType` each, made from the types' own declarations.
//!
//! ```text
//! Objects/cam1                                     VisionSystemType
//!   SystemState  Alarms
//!   VisionStateMachine                             CurrentState, LastTransition, Halt, Reset, SelectModeAutomatic
//!     AutomaticModeStateMachine                    CurrentState, LastTransition, StartSingleJob, StartContinuous, Stop, Abort
//!   RecipeManagement                               ActiveRecipe, PrepareRecipe, UnprepareRecipe, GetRecipeListFiltered
//!   ResultManagement                               GetResultById, GetResultComponentsById, GetResultListFiltered
//!     Results/Newest                               ResultType; Verdict, Grade, Reason, Findings beside it
//! ```
//!
//! Invariants:
//! - The id of a node is its path, as `cam1.VisionStateMachine.CurrentState`: it is the same after every start.
//! - What a type declares mandatory is there; of the optional, what [`OPTIONAL`] names.

use super::nodeset::{Class, HAS_COMPONENT, HAS_PROPERTY, Id, Nodeset, Row};
use opcua::nodes::{EventNotifier, Method, NodeType, Object, ReferenceDirection, Variable};
use opcua::server::address_space::AddressSpace;
use opcua::types::{DataTypeId, NodeId, ObjectId, QualifiedName, ReferenceTypeId, VariableTypeId, Variant};

/// Optional declarations that this server makes.
const OPTIONAL: &[&str] = &[
    "RecipeManagement",
    "ResultManagement",
    "AutomaticModeStateMachine",
    "SelectModeAutomatic",
    "SystemState",
    "Results",
    // Of a result.
    "HasTransferableDataOnFile",
    "IsSimulated",
    "MeasId",
    "PartId",
    "ExternalRecipeId",
    "ProductId",
    "ProcessingTimes",
    "ResultContent",
];

/// Paths below a camera.
pub(super) const MACHINE: &str = "VisionStateMachine";
pub(super) const AUTOMATIC: &str = "VisionStateMachine.AutomaticModeStateMachine";
pub(super) const NEWEST: &str = "ResultManagement.Results.Newest";
pub(super) const ACTIVE_RECIPE: &str = "RecipeManagement.ActiveRecipe";

/// The namespaces of this server's nodes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Namespaces {
    /// The standard's.
    pub vision: u16,
    /// That of the instances.
    pub own: u16,
}

impl Namespaces {
    /// The node of a path; an empty one is the camera itself.
    pub(super) fn node(self, camera: &str, path: &str) -> NodeId {
        let dot = if path.is_empty() { "" } else { "." };
        NodeId::new(self.own, format!("{camera}{dot}{path}"))
    }
}

/// What makes the instances.
pub(super) struct Maker<'a> {
    pub space: &'a mut AddressSpace,
    pub nodeset: &'a Nodeset,
    pub names: Namespaces,
}

impl Maker<'_> {
    /// Makes all nodes of a camera.
    pub(super) fn camera(&mut self, camera: &str) {
        let root = self.names.node(camera, "");
        let name = QualifiedName::new(self.names.own, camera);
        let node = Object::new(&root, name, camera, EventNotifier::SUBSCRIBE_TO_EVENTS);
        let type_id = self.nodeset.type_id("VisionSystemType");
        self.insert(node, &ObjectId::ObjectsFolder.into(), ReferenceTypeId::Organizes, &type_id);
        // Who subscribes to the server's events hears those of its cameras.
        self.space.insert_reference(&ObjectId::Server.into(), &root, ReferenceTypeId::HasNotifier);
        self.children_of("VisionSystemType", camera, "");
        for path in [MACHINE, AUTOMATIC] {
            self.machine(camera, path);
        }
        self.results(camera);
        let active = (self.names.own, "ActiveRecipe", self.nodeset.type_id("RecipeIdInternalDataType"));
        self.own_variable(camera, "RecipeManagement", active, -1);
        let text = NodeId::from(DataTypeId::String);
        self.own_variable(camera, "", (self.names.own, "Alarms", text), 1);
    }

    /// The current state and the last transition of a machine, with their ids and numbers.
    fn machine(&mut self, camera: &str, path: &str) {
        let text = || NodeId::from(DataTypeId::LocalizedText);
        let (id, number) = (NodeId::from(DataTypeId::NodeId), NodeId::from(DataTypeId::UInt32));
        for (name, kind) in [
            ("CurrentState", VariableTypeId::FiniteStateVariableType),
            ("LastTransition", VariableTypeId::FiniteTransitionVariableType),
        ] {
            let own = format!("{path}.{name}");
            self.variable(camera, path, (0, name, text()), -1, HAS_COMPONENT, kind);
            self.variable(
                camera,
                &own,
                (0, "Id", id.clone()),
                -1,
                HAS_PROPERTY,
                VariableTypeId::PropertyType,
            );
            let property = VariableTypeId::PropertyType;
            self.variable(camera, &own, (0, "Number", number.clone()), -1, HAS_PROPERTY, property);
        }
    }

    /// The newest result: a variable of the standard's type with its fields, and beside them what people look for.
    fn results(&mut self, camera: &str) {
        let result = self.nodeset.type_id("ResultDataType");
        let node = self.names.node(camera, NEWEST);
        let name = QualifiedName::new(self.names.own, "Newest");
        let variable =
            Variable::new_data_value(&node, name, "Newest", result, Some(-1), None, Variant::Empty);
        let folder = self.names.node(camera, "ResultManagement.Results");
        let type_id = self.nodeset.type_id("ResultType");
        self.insert(variable, &folder, ReferenceTypeId::HasComponent, &type_id);
        self.children_of("ResultType", camera, NEWEST);
        let text = NodeId::from(DataTypeId::String);
        for name in ["Verdict", "Grade", "Reason"] {
            self.own_variable(camera, NEWEST, (self.names.own, name, text.clone()), -1);
        }
        self.own_variable(camera, NEWEST, (self.names.own, "Findings", text), 1);
        let number = NodeId::from(DataTypeId::UInt32);
        self.own_variable(camera, NEWEST, (self.names.own, "FindingsCount", number), -1);
    }

    /// Instances of what a type declares.
    fn children_of(&mut self, type_name: &str, camera: &str, path: &str) {
        let nodeset = self.nodeset;
        let Some(of) = nodeset.find(&[type_name]) else { return };
        for row in nodeset.children(of.id) {
            self.child(row, camera, path);
        }
    }

    fn child(&mut self, row: &Row, camera: &str, path: &str) {
        if !(row.rule == "m" || (row.rule == "o" && OPTIONAL.contains(&row.name))) {
            return;
        }
        let dot = if path.is_empty() { "" } else { "." };
        let own = format!("{path}{dot}{}", row.name);
        let (id, parent) = (self.names.node(camera, &own), self.names.node(camera, path));
        let name = row.browse_name(self.names.vision);
        let type_id = row.type_definition.map(|id| id.node(self.names.vision)).unwrap_or_default();
        let reference = reference_of(row.reference);
        match row.class {
            Class::Method => {
                let node = Method::new(&id, name, row.name, true, true);
                self.insert(node, &parent, reference, &NodeId::null());
                for arguments in self.nodeset.children(row.id) {
                    self.child(arguments, camera, &own);
                }
            }
            Class::Variable => {
                let Some(node) = self.nodeset.variable(row, &id, name) else { return };
                self.insert(node, &parent, reference, &type_id);
            }
            Class::Object => {
                let node = Object::new(&id, name, row.name, EventNotifier::empty());
                self.insert(node, &parent, reference, &type_id);
                let type_name = row.type_definition.filter(|id: &Id| !id.0);
                let nodeset = self.nodeset;
                if let Some(of) = type_name.and_then(|id| nodeset.row(id)) {
                    self.children_of(of.name, camera, &own);
                }
            }
            Class::ObjectType | Class::VariableType | Class::DataType => {}
        }
    }

    /// A variable that the standard does not have.
    fn own_variable(&mut self, camera: &str, path: &str, what: (u16, &str, NodeId), rank: i32) {
        let kind = VariableTypeId::BaseDataVariableType;
        self.variable(camera, path, what, rank, HAS_COMPONENT, kind);
    }

    fn variable(
        &mut self,
        camera: &str,
        path: &str,
        (namespace, name, data_type): (u16, &str, NodeId),
        rank: i32,
        reference: u32,
        kind: VariableTypeId,
    ) {
        let dot = if path.is_empty() { "" } else { "." };
        let id = self.names.node(camera, &format!("{path}{dot}{name}"));
        let lengths = (rank == 1).then_some(0);
        let browse = QualifiedName::new(namespace, name);
        let node =
            Variable::new_data_value(&id, browse, name, data_type, Some(rank), lengths, Variant::Empty);
        let parent = self.names.node(camera, path);
        self.insert(node, &parent, reference_of(reference), &kind.into());
    }

    fn insert(
        &mut self,
        node: impl Into<NodeType>,
        parent: &NodeId,
        reference: ReferenceTypeId,
        type_id: &NodeId,
    ) {
        let reference = NodeId::from(reference);
        let definition = NodeId::from(ReferenceTypeId::HasTypeDefinition);
        let mut references = vec![(parent, &reference, ReferenceDirection::Inverse)];
        if !type_id.is_null() {
            references.push((type_id, &definition, ReferenceDirection::Forward));
        }
        self.space.insert(node, Some(&references));
    }
}

const fn reference_of(number: u32) -> ReferenceTypeId {
    match number {
        HAS_PROPERTY => ReferenceTypeId::HasProperty,
        _ => ReferenceTypeId::HasComponent,
    }
}
