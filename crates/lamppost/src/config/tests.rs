use super::*;

fn read(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<(Config, Values), Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lamppost.toml");
    std::fs::write(&path, file).unwrap();
    let sources = Sources {
        file: Some(path.clone()),
        environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        flags: flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned(), format!("--set {k}"))).collect(),
    };
    let shorten = |m: Mistake| m.to_string().replace(&path.display().to_string(), "FILE");
    Config::read(&sources).map_err(|mistakes| mistakes.into_iter().map(shorten).collect())
}

#[test]
fn later_layers_win_and_keep_their_origin() {
    let file = "[http]\nlisten = \"127.0.0.1:1\"\ntimeout = \"1s\"\nconcurrency = 7\n";
    let environment = [("LAMPPOST_HTTP_LISTEN", "127.0.0.1:2"), ("LAMPPOST_HTTP_TIMEOUT", "2s"), ("PATH", "/bin")];
    let (config, values) = read(file, &environment, &[("http.listen", "127.0.0.1:3")]).unwrap();
    assert_eq!(config.http.listen.port(), 3);
    assert_eq!(config.http.timeout, Duration::from_secs(2));
    assert_eq!(config.http.concurrency, 7);
    assert_eq!(values.origin("http.listen"), Some(&Origin::Flag("--set http.listen".into())));
    assert_eq!(values.origin("http.timeout"), Some(&Origin::Environment("LAMPPOST_HTTP_TIMEOUT".into())));
    assert!(matches!(values.origin("http.concurrency"), Some(Origin::File { line: 4, .. })));
    assert_eq!(values.origin("http.body_limit"), Some(&Origin::Default));
}

#[test]
fn every_mistake_is_named_with_its_place_and_a_suggestion() {
    let file = "dat = \"x\"\n[http]\nlissten = \"127.0.0.1:1\"\ntimeout = \"soon\"\nbody_limit = [1]\n";
    let mistakes = read(file, &[("LAMPPOST_MQTT_LISTN", "x")], &[("lake.sael", "1s")]).unwrap_err();
    insta::assert_snapshot!(mistakes.join("\n"), @r"
    FILE:1: there is no setting dat; did you mean data?
    FILE:3: there is no setting http.lissten; did you mean http.listen?
    FILE:4: http.timeout: 'soon' is not valid: duration (`500ms`, `30s`, `5m`, `12h`, `7d`) is expected
    FILE:5: http.body_limit: a single value is expected
    $LAMPPOST_MQTT_LISTN: there is no setting LAMPPOST_MQTT_LISTN; did you mean LAMPPOST_MQTT_LISTEN?
    --set lake.sael: there is no setting lake.sael; did you mean lake.seal?
    ");
}

#[test]
fn settings_that_need_each_other_are_checked() {
    let file = "[records]\nengine = \"postgres\"\n[mqtt]\ntls_listen = \"127.0.0.1:8883\"\n";
    let mistakes = read(file, &[], &[]).unwrap_err();
    insta::assert_snapshot!(mistakes.join("\n"), @r"
    mqtt.tls_listen (FILE:4): mqtt.tls_certificate must be set too
    mqtt.tls_listen (FILE:4): mqtt.tls_key must be set too
    records.engine (FILE:2): records.url must be set too
    ");
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("url");
    std::fs::write(&path, "postgres://city:hunter2@db/city\n").unwrap();
    let by_file = path.display().to_string();
    let (config, values) =
        read("[records]\nengine = \"postgres\"\n", &[("LAMPPOST_RECORDS_URL_FILE", &by_file)], &[]).unwrap();
    let RecordsEngine::Postgres { url } = &config.records else { panic!("{:?}", config.records) };
    assert_eq!(url.expose(), "postgres://city:hunter2@db/city");
    assert!(!values.show().contains("hunter2"));
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(values.show().contains("# url is set and not shown  # $LAMPPOST_RECORDS_URL_FILE"));
}

#[test]
fn what_is_shown_can_be_read_back() {
    let (_, values) = read("", &[], &[]).unwrap();
    let shown = values.show();
    let (again, _) = read(&shown, &[], &[]).unwrap();
    assert_eq!(format!("{again:?}"), format!("{:?}", Config::defaults()));
}

#[test]
fn the_document_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, document()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == document(), "run `UPDATE_DOCS=1 cargo test -p lamppost the_document_is_current`");
}

#[test]
fn secrets_of_webhooks_are_named_and_never_repeated() {
    let good = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let two = format!("control-room={good},\nduty={good}");
    let (config, values) = read("", &[("LAMPPOST_WEBHOOK_SECRETS", &two)], &[]).unwrap();
    assert_eq!(config.webhook_secrets.keys().collect::<Vec<_>>(), ["control-room", "duty"]);
    assert!(!values.show().contains("whsec_") && !format!("{config:?}").contains("MfKQ"));
    let bad = format!("a={good} {good} b=whsec_short a={good}");
    let mistakes = read("", &[("LAMPPOST_WEBHOOK_SECRETS", &bad)], &[]).unwrap_err();
    insta::assert_snapshot!(mistakes.join("\n"), @r"
    webhook.secrets ($LAMPPOST_WEBHOOK_SECRETS): number 2: name=whsec_… is expected
    webhook.secrets ($LAMPPOST_WEBHOOK_SECRETS): number 3: a secret is 'whsec_' and 24 to 64 bytes in base64
    webhook.secrets ($LAMPPOST_WEBHOOK_SECRETS): number 4: the name is used twice
    ");
}
