//! Alarms as conditions: an event when one is raised and when it is over, and all that stand for who asks for them.
//!
//! ```text
//! alarms of the line --changed--> an event each, at the camera --> who has subscribed
//! ConditionRefresh (`refresh`) --> RefreshStart, each that stands, RefreshEnd --> the one subscription
//! ```
//!
//! A condition has an id, the same as long as there is this camera and this kind of alarm, and no node: the standard has
//! the nodes of instances optional. Nobody acknowledges it; it ends with its cause.
//!
//! Invariant: a refresh says what stands at one moment, and what changes after that moment comes after it.

use super::events::{Happened, severity};
use super::shown::{Core, Eye, Inner};
use super::values::{self, plain};
use crate::domain::alarm::{About, Alarm, kind_of};
use opcua::nodes::DefaultTypeTree;
use opcua::sync::RwLock;
use opcua::types::{AttributeId, DataValue, DateTime, NodeId, ObjectId, ObjectTypeId, StatusCode, Variant};

impl Core {
    /// Publishes which alarms about a camera, or about the whole station, are new or over.
    pub(super) fn hear_alarms(&self, eye: &Eye, inner: &mut Inner, all: &[Alarm]) {
        let concerns = |alarm: &&Alarm| match kind_of(&alarm.code) {
            Some((kind, name)) if kind.about == About::Camera => name == eye.id,
            _ => true,
        };
        let now: Vec<Alarm> = all.iter().filter(concerns).cloned().collect();
        if now == inner.alarms {
            return;
        }
        let raised = now.iter().filter(|alarm| !inner.alarms.iter().any(|old| old.code == alarm.code));
        let over = inner.alarms.iter().filter(|old| !now.iter().any(|alarm| alarm.code == old.code));
        for (alarm, is_raised) in raised.map(|alarm| (alarm, true)).chain(over.map(|alarm| (alarm, false))) {
            self.publish(eye, &self.condition(eye, alarm, is_raised));
        }
        let words = now.iter().map(|alarm| format!("{}: {}", alarm.code, alarm.message));
        self.write(eye, vec![("Alarms".to_owned(), DataValue::new_now(values::texts(words)))]);
        inner.alarms = now;
    }

    fn condition(&self, eye: &Eye, alarm: &Alarm, is_raised: bool) -> Happened {
        let words = if is_raised { alarm.message.clone() } else { format!("{} is over", alarm.code) };
        let state = if is_raised { "Active" } else { "Inactive" };
        let urgency = if is_raised { severity::WARNING } else { severity::INFORMATION };
        let at = if is_raised { values::time(alarm.since) } else { DateTime::now() };
        let text = |text: &str| Variant::String(text.into());
        self.happened(eye, "VisionErrorConditionType", &words, urgency)
            .of_condition(self.names.node(&eye.id, &format!("Alarms.{}", alarm.code)), at)
            .with([
                ("ErrorString", text(&alarm.message)),
                ("CausePath", text(&alarm.code)),
                ("StopReaction", false.into()),
                ("BlockReaction", false.into()),
            ])
            .with_core([
                ("ConditionName", text(&alarm.code)),
                ("ConditionClassId", NodeId::from(ObjectTypeId::SystemConditionClassType).into()),
                ("ConditionClassName", plain("SystemConditionClassType").into()),
                ("BranchId", NodeId::null().into()),
                ("Quality", StatusCode::Good.into()),
                ("LastSeverity", urgency.into()),
                ("Comment", plain("").into()),
                ("ClientUserId", text("")),
                ("AckedState", plain("Acknowledged").into()),
                ("AckedState/Id", true.into()),
                ("Retain", is_raised.into()),
                ("EnabledState", plain("Enabled").into()),
                ("EnabledState/Id", true.into()),
                ("ActiveState", plain(state).into()),
                ("ActiveState/Id", is_raised.into()),
            ])
    }

    /// Gives a subscription of a session, or one of its items, every condition that stands.
    ///
    /// # Errors
    /// `BadSubscriptionIdInvalid`, `BadMonitoredItemIdInvalid`: it is not there, or not of events.
    pub(super) fn refresh(
        &self,
        session: u32,
        subscription: u32,
        item: Option<u32>,
        types: &RwLock<DefaultTypeTree>,
    ) -> Result<(), StatusCode> {
        // Under the lock of every camera no condition changes meanwhile.
        let eyes: Vec<_> = self.eyes.iter().map(|eye| (eye, eye.lock())).collect();
        let own = self.subscriptions.get_session_subscriptions(session);
        let own = own.ok_or(StatusCode::BadSubscriptionIdInvalid)?;
        let mut own = own.lock();
        let subscription = own.get_mut(subscription).ok_or(StatusCode::BadSubscriptionIdInvalid)?;
        let items = subscription.items().map(|one| (one.id(), one.item_to_monitor()));
        let of_events = items.filter(|(_, node)| node.attribute_id == AttributeId::EventNotifier);
        let items = of_events.map(|(id, node)| (id, node.node_id.clone()));
        let items: Vec<_> = items.filter(|(id, _)| item.is_none_or(|wanted| wanted == *id)).collect();
        if item.is_some() && items.is_empty() {
            return Err(StatusCode::BadMonitoredItemIdInvalid);
        }
        let types = types.read();
        let (start, end) = (
            Happened::of_server(ObjectTypeId::RefreshStartEventType, "the conditions that stand follow"),
            Happened::of_server(ObjectTypeId::RefreshEndEventType, "these were the conditions that stand"),
        );
        for (id, node) in items {
            let heard = |eye: &Eye| node == ObjectId::Server || node == self.names.node(&eye.id, "");
            subscription.notify_event(&id, &start, &*types);
            for (eye, inner) in eyes.iter().filter(|(eye, _)| heard(eye)) {
                for alarm in &inner.alarms {
                    subscription.notify_event(&id, &self.condition(eye, alarm, true), &*types);
                }
            }
            subscription.notify_event(&id, &end, &*types);
        }
        Ok(())
    }
}
