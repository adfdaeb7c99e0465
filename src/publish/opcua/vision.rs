//! The node manager of the cameras: the library asks it for values and hands it the calls.

use super::Line;
use super::calls::{Called, Method};
use super::nodeset::{MACHINE_VISION, Nodeset};
use super::shown::{Core, Eye};
use super::space::{Maker, Namespaces};
use async_trait::async_trait;
use opcua::server::address_space::AddressSpace;
use opcua::server::diagnostics::NamespaceMetadata;
use opcua::server::node_manager::memory::InMemoryNodeManagerImpl;
use opcua::server::node_manager::{MethodCall, RequestContext, ServerContext};
use opcua::sync::RwLock;
use opcua::types::custom::DynamicTypeLoader;
use opcua::types::{NodeId, StatusCode};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// The namespace of the instances.
const OWN: &str = "urn:inspectd:cameras";

/// The cameras as nodes.
pub(super) struct Vision {
    pub core: Arc<Core>,
    /// Each method of each camera: index of the camera, and which it is.
    methods: HashMap<NodeId, (usize, Method)>,
    namespaces: Vec<NamespaceMetadata>,
}

impl Vision {
    /// What fills an address space with the types and these cameras.
    pub(super) fn builder(
        cameras: Vec<(String, bool)>,
        line: Line,
    ) -> impl FnOnce(ServerContext, &mut AddressSpace) -> Self {
        move |context, space| {
            let (names, namespaces) = namespaces(&context, space);
            let nodeset = Nodeset::new(names.vision);
            nodeset.load(space);
            let structures = nodeset.structures();
            context.info.add_type_loader(Arc::new(DynamicTypeLoader::new(Arc::clone(&structures.tree))));
            let mut methods = HashMap::new();
            for (index, (camera, _)) in cameras.iter().enumerate() {
                Maker { space: &mut *space, nodeset: &nodeset, names }.camera(camera);
                let each = Method::ALL.into_iter();
                methods.extend(each.map(|(method, path)| (names.node(camera, path), (index, method))));
            }
            let core = Core {
                names,
                nodeset,
                structures,
                line,
                eyes: cameras.into_iter().map(|(id, commanded)| Eye::new(id, commanded)).collect(),
                subscriptions: Arc::clone(&context.subscriptions),
                space: OnceLock::new(),
            };
            Self { core: Arc::new(core), methods, namespaces }
        }
    }
}

/// Makes both namespaces known to the server and to the address space.
fn namespaces(context: &ServerContext, space: &mut AddressSpace) -> (Namespaces, Vec<NamespaceMetadata>) {
    let mut tree = context.type_tree.write();
    let mut add = |uri: &str| {
        let index = tree.namespaces_mut().add_namespace(uri);
        space.add_namespace(uri, index);
        let metadata = NamespaceMetadata {
            namespace_uri: uri.to_owned(),
            namespace_index: index,
            ..NamespaceMetadata::default()
        };
        (index, metadata)
    };
    let ((vision, first), (own, second)) = (add(MACHINE_VISION), add(OWN));
    (Namespaces { vision, own }, vec![first, second])
}

#[allow(clippy::mut_mut, reason = "the signatures are the library's")]
#[async_trait]
impl InMemoryNodeManagerImpl for Vision {
    async fn init(&self, _address_space: &mut AddressSpace, _context: ServerContext) {}

    fn name(&self) -> &'static str {
        "vision"
    }

    fn namespaces(&self) -> Vec<NamespaceMetadata> {
        self.namespaces.clone()
    }

    async fn call(
        &self,
        context: &RequestContext,
        _address_space: &RwLock<AddressSpace>,
        methods_to_call: &mut [&mut &mut MethodCall],
    ) -> Result<(), StatusCode> {
        for call in methods_to_call {
            let Some((eye, method)) = self.methods.get(call.method_id()).copied() else { continue };
            let called = Called {
                core: Arc::clone(&self.core),
                eye,
                method,
                arguments: call.arguments().to_vec(),
                user: context.token.0.clone(),
            };
            match called.answer().await {
                Ok(outputs) => {
                    call.set_outputs(outputs);
                    call.set_status(StatusCode::Good);
                }
                Err(status) => call.set_status(status),
            }
        }
        Ok(())
    }
}
