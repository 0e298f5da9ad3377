//! `/api/ops/backups`: a backup of the city that is being served, started over HTTP by those who run it.
//!
//! It is written below `backup.folder` on the server and nowhere else, under a name of plain characters.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::get,
};
use kernel::{Action, Caller, Clock, Policy, Problem, Resource};
use parking_lot::Mutex;
use sensing::{Audience, Route};
use serde_json::{Value, json};

use crate::{config::Config, stores::Stores};

pub const MANAGE: Action = Action("ops:manage");

pub const ROUTES: &[Route] = &[
    Route {
        method: "PUT",
        path: "/api/ops/backups/{name}",
        action: MANAGE,
        audience: Audience::Role("admin"),
        audit: true,
        summary: "Begin a backup into the server's folder for backups",
    },
    Route {
        method: "GET",
        path: "/api/ops/backups/{name}",
        action: MANAGE,
        audience: Audience::Role("admin"),
        audit: false,
        summary: "How a backup is doing",
    },
];

/// Backups that are remembered by how they went.
const REMEMBERED: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Went {
    Running,
    Done,
    Failed,
}

pub struct Backups {
    pub stores: Stores,
    pub config: Config,
    pub pack: String,
    pub policy: Arc<dyn Policy>,
    pub clock: Arc<dyn Clock>,
    went: Mutex<BTreeMap<String, Went>>,
}

impl Backups {
    pub fn new(stores: Stores, config: Config, pack: String, policy: Arc<dyn Policy>, clock: Arc<dyn Clock>) -> Self {
        Self { stores, config, pack, policy, clock, went: Mutex::default() }
    }

    fn demand(&self, caller: &Caller) -> Result<(), Problem> {
        if caller.is_anonymous() {
            return Err(Problem::unauthenticated());
        }
        let resource = Resource { kind: "Backup", id: "", tenant: None, public: false };
        if self.policy.allows(caller, MANAGE, &resource) { Ok(()) } else { Err(Problem::not_found("The backup")) }
    }

    fn path(&self, name: &str) -> Result<PathBuf, Problem> {
        let plain = (1..=80).contains(&name.len())
            && !name.starts_with(['.', '-'])
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !plain {
            return Err(Problem::field("name", "1 to 80 of letters, digits, '-', '_' and '.' are expected"));
        }
        let folder = self.config.backup_folder.as_ref();
        Ok(folder.ok_or_else(|| Problem::not_implemented("The server has no backup.folder."))?.join(name))
    }
}

pub fn router(backups: Arc<Backups>) -> Router {
    Router::new().route("/api/ops/backups/{name}", get(state).put(begin)).with_state(backups)
}

async fn begin(
    State(backups): State<Arc<Backups>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    backups.demand(&caller)?;
    let to = backups.path(&name)?;
    {
        let mut went = backups.went.lock();
        if went.values().any(|w| *w == Went::Running) {
            return Err(Problem::conflict("Another backup is being made."));
        }
        if went.contains_key(&name) || to.exists() {
            return Err(Problem::conflict("There is a backup of this name already."));
        }
        while went.len() >= REMEMBERED {
            went.pop_first();
        }
        went.insert(name.clone(), Went::Running);
    }
    let audited = name.clone();
    let row = backups.stores.records.write(move |tx| tx.audit(&caller, MANAGE.0, "Backup", &audited, None, json!({})));
    if let Err(error) = row.await {
        let error: records::Error = error;
        tracing::warn!(%error, "a backup could not be noted");
        backups.went.lock().remove(&name);
        return Err(Problem::unavailable("The database is not available. No backup was begun.", 5));
    }
    let (work, noted) = (backups.clone(), name.clone());
    tokio::spawn(async move {
        let made = super::write(&work.stores, &work.config, &work.pack, work.clock.as_ref(), &to).await;
        let went = match &made {
            Ok(manifest) => {
                tracing::info!(name = noted, files = manifest.files.len(), "a backup was made");
                Went::Done
            }
            Err(error) => {
                tracing::error!(name = noted, error = format!("{error:#}"), "a backup failed");
                Went::Failed
            }
        };
        work.went.lock().insert(noted, went);
    });
    Ok((StatusCode::ACCEPTED, Json(json!({"name": name, "state": "running"}))))
}

async fn state(
    State(backups): State<Arc<Backups>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    backups.demand(&caller)?;
    let to = backups.path(&name)?;
    let known = backups.went.lock().get(&name).cloned();
    let state = match known {
        Some(Went::Running) => "running",
        Some(Went::Failed) => "failed",
        Some(Went::Done) => "done",
        // Made before this start.
        None if to.join("manifest.json").exists() => "done",
        None => return Err(Problem::not_found("The backup")),
    };
    Ok(Json(json!({"name": name, "state": state})))
}
