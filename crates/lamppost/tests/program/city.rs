//! A city of its own for each test: fresh folders, free ports, the real pack.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, sync::Arc};

use kernel::{Caller, Role, SystemClock, Tenant};
use lamppost::{
    compose::{self, Running},
    config::{Config, LakeEngine, RecordsEngine},
};
use reqwest::{Method, RequestBuilder, redirect::Policy};

/// `lamppost` as a library, started as `main` starts it. (Not in `testkit`: the program depends on every room and rooms' tests on `testkit`.)
pub struct TestCity {
    pub running: Option<Running>,
    pub config: Config,
    pub client: reqwest::Client,
    pub folder: tempfile::TempDir,
    _outside: Option<Outside>,
}

/// Stores of other people for one city; gone with it. PostgreSQL's databases end with the process, a city's connections with the city:
/// one that was dropped without a word keeps its writers, and sixty of them are more than the server lets in.
pub struct Outside {
    database: testkit::postgres::Database,
    _nats: testkit::nats::Server,
    _s3: testkit::s3::Server,
}

/// New, empty stores for `config`, when this run of the tests is the one outside.
pub async fn new_stores(config: &mut Config) -> Option<Outside> {
    if !testkit::outside() {
        return None;
    }
    let started = tokio::task::spawn_blocking(|| {
        (testkit::postgres::database(), testkit::nats::Server::start(), testkit::s3::Server::start("city"))
    });
    let (database, nats, s3) = started.await.unwrap();
    config.records = RecordsEngine::Postgres { url: database.url().to_owned().into() };
    config.stream.nats = Some(nats.url().into());
    config.lake = LakeEngine::S3 {
        bucket: "city".to_owned(),
        prefix: Some("lake".to_owned()),
        endpoint: Some(s3.endpoint()),
        region: "us-east-1".to_owned(),
        access_key: "test".to_owned(),
        secret_key: "test".to_owned().into(),
    };
    Some(Outside { database, _nats: nats, _s3: s3 })
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.database.cut();
    }
}

pub const PACK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packs/hong-kong");

impl TestCity {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::defaults();
        config.data = folder.path().join("data");
        config.pack = Path::new(PACK).to_owned();
        config.http.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.mqtt = None;
        let outside = new_stores(&mut config).await;
        change(&mut config);
        let running = compose::start(config.clone(), Arc::new(SystemClock)).await.unwrap();
        let client = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
        Self { running: Some(running), config, client, folder, _outside: outside }
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.running().http)
    }
    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.client.request(Method::from_bytes(method.as_bytes()).unwrap(), self.url(path))
    }
    pub fn get(&self, path: &str) -> RequestBuilder {
        self.request("GET", path)
    }

    /// An API key of a department.
    pub async fn key(&self, tenant: &str, role: &str) -> String {
        let roles = BTreeSet::from([Role::Owned(role.to_owned())]);
        let tenant = Tenant::parse(tenant).unwrap();
        self.running().operators.make_key(&Caller::system("test"), &tenant, "test", roles, None).await.unwrap()
    }

    /// Stops in order and starts again on the same folders.
    pub async fn restart(&mut self) {
        self.running.take().unwrap().stop().await;
        self.running = Some(compose::start(self.config.clone(), Arc::new(SystemClock)).await.unwrap());
    }
}
