//! The list of addresses that the room answers. Tests (anonymous, wrong role, wrong tenant, audit row) and `/api/openapi.json` are generated from it, so
//! a handler that is not listed does not exist: `router()` and `ROUTES` of a module stand side by side.

use kernel::Action;

/// Who may reach a route at all. What they then see or change is decided by the policy for each tenant's data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// Everybody; the answer holds only what is published.
    Public,
    /// Anybody with a session or an API key.
    SignedIn,
    /// Somebody with this role in some tenant.
    Role(&'static str),
    /// A device with its own key.
    DeviceKey,
}

/// One address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// `GET`, `POST`, …
    pub method: &'static str,
    /// As axum writes it: `/v1.1/{*path}`.
    pub path: &'static str,
    pub action: Action,
    pub audience: Audience,
    /// Whether a successful call leaves an audit row.
    pub audit: bool,
    /// One sentence for the API's description.
    pub summary: &'static str,
}

/// The room's actions, as policies name them.
pub mod action {
    use kernel::Action;

    /// Read entities and Observations.
    pub const READ: Action = Action("sensing:read");
    /// Create and change entities.
    pub const WRITE: Action = Action("sensing:write");
    /// Add Observations to a Datastream.
    pub const OBSERVE: Action = Action("sensing:observe");
    /// Delete entities and Observations.
    pub const DELETE: Action = Action("sensing:delete");
    pub const ALARM_READ: Action = Action("alarm:read");
    pub const ALARM_ACKNOWLEDGE: Action = Action("alarm:acknowledge");
    pub const ALARM_CLOSE: Action = Action("alarm:close");
    /// Keep notifications about a tenant's alarms back for a while.
    pub const ALARM_SILENCE: Action = Action("alarm:silence");
    pub const RULE_READ: Action = Action("rule:read");
    pub const RULE_MANAGE: Action = Action("rule:manage");
    pub const DEVICE_READ: Action = Action("device:read");
    pub const DEVICE_MANAGE: Action = Action("device:manage");
    pub const CONNECTOR_READ: Action = Action("connector:read");
    pub const CONNECTOR_MANAGE: Action = Action("connector:manage");
    /// Ask for a Task, cancel it, renew and release its hold.
    pub const TASK_PROPOSE: Action = Action("task:propose");
    /// Have one's own Task sent without a second person, where the TaskingCapability does not demand one.
    pub const TASK_ALONE: Action = Action("task:alone");
    /// Approve or reject somebody else's Task.
    pub const TASK_APPROVE: Action = Action("task:approve");
    /// See what has become of a Task, and who did what.
    pub const TASK_READ: Action = Action("task:read");
    /// Say for an actuator that it has done a Task, or cannot.
    pub const TASK_ACKNOWLEDGE: Action = Action("task:acknowledge");
    /// Throw the kill switch of a tenant or of the city.
    pub const TASK_STOP: Action = Action("task:stop");
    pub const OPS_READ: Action = Action("ops:read");
    /// Make and change dashboards of a tenant; with `device:manage` also the walls that show them.
    pub const DASHBOARD_MANAGE: Action = Action("dashboard:manage");
}
