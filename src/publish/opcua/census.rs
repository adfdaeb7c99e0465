//! Subscriptions that outlive their sessions, counted: a client that opens sessions and leaves subscriptions behind must
//! not fill the memory.
//!
//! ```text
//! first subscription of a session --> its id is noted --> asked before each login: how many are alive altogether?
//! ```
//!
//! The server frees a subscription when its lifetime has passed without a client. Until then it is memory, and nothing
//! but this limits how many there are: the limit of a session begins anew with each session.

use opcua::server::SubscriptionCache;
use opcua::server::node_manager::{
    RequestContext, TypeTreeForUser, TypeTreeForUserStatic, TypeTreeReadContext,
};
use std::sync::{Arc, Mutex, PoisonError};

/// Ids of the sessions that have had a subscription.
#[derive(Default)]
pub(super) struct Census(Mutex<Vec<u32>>);

impl Census {
    /// Subscriptions that are alive, of all sessions, those that are gone among them.
    pub(super) fn alive(&self, subscriptions: &SubscriptionCache) -> usize {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut alive = 0;
        let before = sessions.clone();
        sessions.retain(|session| {
            let Some(own) = subscriptions.get_session_subscriptions(*session) else { return false };
            alive += own.lock().subscription_ids().len();
            true
        });
        // A session that was noted meanwhile stays.
        let gone = |session: &u32| before.contains(session) && !sessions.contains(session);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|session| !gone(session));
        alive
    }
}

/// The hook by which the server says that a session has its first subscription: it asks for the types that the
/// session's events are filtered by, which are everybody's.
pub(super) struct Hook(pub Arc<Census>);

impl TypeTreeForUser for Hook {
    fn get_type_tree_for_user<'a>(&'a self, ctx: &'a RequestContext) -> Box<dyn TypeTreeReadContext + 'a> {
        Box::new(ctx.type_tree.read())
    }

    fn get_type_tree_static(&self, ctx: &RequestContext) -> Arc<dyn TypeTreeForUserStatic> {
        let mut sessions = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !sessions.contains(&ctx.session_id) {
            sessions.push(ctx.session_id);
        }
        ctx.type_tree.clone()
    }
}
