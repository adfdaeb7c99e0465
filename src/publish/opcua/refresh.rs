//! `ConditionRefresh`: a client that comes, or comes back, is given the alarms that stand.
//!
//! ```text
//! Call i=3875, i=12912 --> Refresh, which owns these two nodes before the library does --> Core::refresh
//! Read of them         --> the library's own node manager
//! ```
//!
//! The library has both methods as nodes and refuses their calls. Node managers are asked in their order, and the first
//! that owns a node answers: so this one stands before the library's. The filter of an item applies to the two events
//! around a refresh as well, since the library lets nothing past a filter.

use super::vision::Vision;
use async_trait::async_trait;
use opcua::nodes::DefaultTypeTree;
use opcua::server::diagnostics::NamespaceMetadata;
use opcua::server::node_manager::memory::{CoreNodeManager, InMemoryNodeManager};
use opcua::server::node_manager::{
    BrowseNode, BrowsePathItem, MethodCall, NodeManager, NodeManagersRef, ReadNode, RequestContext,
    ServerContext,
};
use opcua::types::{MethodId, NodeClass, NodeId, ObjectTypeId, StatusCode, TimestampsToReturn, Variant};

/// Owns the two methods, and nothing else.
pub(super) struct Refresh {
    managers: NodeManagersRef,
    refresh: NodeId,
    refresh_one: NodeId,
}

impl Refresh {
    #[allow(clippy::needless_pass_by_value, reason = "the signature is the library's")]
    pub(super) fn new(context: ServerContext) -> Self {
        Self {
            managers: context.node_managers.clone(),
            refresh: MethodId::ConditionType_ConditionRefresh.into(),
            refresh_one: MethodId::ConditionType_ConditionRefresh2.into(),
        }
    }

    fn answer(&self, context: &RequestContext, call: &MethodCall) -> Result<(), StatusCode> {
        let (subscription, item) = match call.arguments() {
            [Variant::UInt32(subscription)] if *call.method_id() == self.refresh => (*subscription, None),
            [Variant::UInt32(subscription), Variant::UInt32(item)]
                if *call.method_id() == self.refresh_one =>
            {
                (*subscription, Some(*item))
            }
            _ => return Err(StatusCode::BadInvalidArgument),
        };
        let vision = self.managers.get_of_type::<InMemoryNodeManager<Vision>>();
        let vision = vision.ok_or(StatusCode::BadInternalError)?;
        vision.inner().core.refresh(context.session_id, subscription, item, &context.type_tree)
    }
}

#[async_trait]
impl NodeManager for Refresh {
    fn owns_node(&self, id: &NodeId) -> bool {
        *id == self.refresh || *id == self.refresh_one
    }

    fn name(&self) -> &'static str {
        "refresh"
    }

    fn namespaces_for_user(&self, _context: &RequestContext) -> Vec<NamespaceMetadata> {
        vec![]
    }

    async fn init(&self, type_tree: &mut DefaultTypeTree, _context: ServerContext) {
        // A condition's id is selected as the node id of the condition itself, by an empty path. The library refuses a
        // path that its types do not have, and would then leave the field out instead of leaving it empty.
        let condition = NodeId::from(ObjectTypeId::ConditionType);
        type_tree.add_type_property(&condition, &condition, &[], NodeClass::Object);
    }

    async fn read(
        &self,
        context: &RequestContext,
        max_age: f64,
        timestamps_to_return: TimestampsToReturn,
        nodes_to_read: &mut [&mut ReadNode],
    ) -> Result<(), StatusCode> {
        let core = self.managers.get_of_type::<CoreNodeManager>().ok_or(StatusCode::BadInternalError)?;
        core.read(context, max_age, timestamps_to_return, nodes_to_read).await
    }

    // The library asks every node manager about every node: what this one leaves, the next answers.
    async fn browse(&self, _: &RequestContext, _: &mut [BrowseNode]) -> Result<(), StatusCode> {
        Ok(())
    }

    async fn translate_browse_paths_to_node_ids(
        &self,
        _: &RequestContext,
        _: &mut [&mut BrowsePathItem],
    ) -> Result<(), StatusCode> {
        Ok(())
    }

    async fn call(
        &self,
        context: &RequestContext,
        methods_to_call: &mut [&mut MethodCall],
    ) -> Result<(), StatusCode> {
        for call in methods_to_call {
            let status = self.answer(context, call).err().unwrap_or(StatusCode::Good);
            call.set_status(status);
        }
        Ok(())
    }
}
