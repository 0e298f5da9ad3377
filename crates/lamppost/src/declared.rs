//! What the pack declares for `sensing`: read, checked, and made so. Each kind of declaration is a folder of the pack.

use anyhow::Context as _;
use kernel::Caller;
use sensing::{
    alarms::Alarms,
    connect::{self, Connect},
    dashboards::{self, Dashboards},
    derived::{self, Derived},
    ingest,
    moving::{self, Fences},
    notify::guard::Allowed,
    retention::{self, Retention},
    rules::{self, Rules},
};

use crate::{outlines, pack::Pack};

/// Whether all of it makes sense. Nothing is stored or opened for it.
///
/// # Errors
/// Every mistake of the first kind that has any, with the declaration that it is in.
pub fn check(pack: &Pack) -> anyhow::Result<()> {
    check_rules(pack)?;
    check_fences(pack)?;
    check_ingest(pack)?;
    check_derived(pack)?;
    check_retention(pack)?;
    check_dashboards(pack)
}

/// What the pack says of the doors that are pushed to.
///
/// # Errors
/// The file whose form is wrong.
pub fn declared_ingest(pack: &Pack) -> anyhow::Result<ingest::declaration::IngestFile> {
    let mut all = ingest::declaration::IngestFile::default();
    for file in &pack.ingest {
        let form: ingest::declaration::IngestFile =
            file.table.clone().try_into().with_context(|| file.source.name.clone())?;
        all.lorawan.extend(form.lorawan);
        all.line.extend(form.line);
    }
    Ok(all)
}

/// Whether the doors that the pack declares make sense, and are of its departments.
///
/// # Errors
/// Every mistake, with the declaration that it is in.
fn check_ingest(pack: &Pack) -> anyhow::Result<()> {
    let declared = declared_ingest(pack)?;
    let tenants =
        declared.lorawan.iter().map(|d| (&d.key, &d.tenant)).chain(declared.line.iter().map(|d| (&d.key, &d.tenant)));
    let strange = tenants.filter(|(_, tenant)| !pack.tenants.contains(tenant));
    let mut lines: Vec<String> =
        strange.map(|(key, tenant)| format!("ingest: '{key}': there is no tenant '{tenant}'")).collect();
    if let Err(problem) = ingest::declaration::check_all(declared) {
        lines.extend(problem.errors.iter().map(|e| format!("ingest: {}: {}", e.field, e.detail)));
    }
    anyhow::ensure!(lines.is_empty(), "{} mistakes:\n{}", lines.len(), lines.join("\n"));
    Ok(())
}

fn declared_rules(pack: &Pack) -> anyhow::Result<rules::model::RuleFile> {
    let mut all = rules::model::RuleFile::default();
    for file in &pack.rules {
        let form: rules::model::RuleFile = file.table.clone().try_into().with_context(|| file.source.name.clone())?;
        if let Some(rule) = form.rule.iter().find(|r| r.public_alert.is_some() && pack.sealed.contains(&r.tenant)) {
            let (file, rule, tenant) = (&file.source.name, &rule.key, &rule.tenant);
            anyhow::bail!(
                "{file}: '{rule}' would warn the public of '{tenant}', which is sealed: take public_alert out"
            );
        }
        all.rule.extend(form.rule);
        all.recipient.extend(form.recipient);
        all.silencing.extend(form.silencing);
        all.inhibit.extend(form.inhibit);
    }
    Ok(all)
}

/// Where each entry of each table stands: its file, and its key in quotes or its number there.
fn places(pack: &Pack) -> std::collections::BTreeMap<&'static str, Vec<(String, String)>> {
    let mut places = std::collections::BTreeMap::<_, Vec<_>>::new();
    for file in &pack.rules {
        for table in ["rule", "recipient", "silencing", "inhibit"] {
            let entries = file.table.get(table).and_then(toml::Value::as_array).into_iter().flatten();
            places.entry(table).or_default().extend(entries.enumerate().map(|(at, entry)| {
                let key = entry.get("key").and_then(toml::Value::as_str);
                (file.source.name.clone(), key.map_or_else(|| format!("no. {}", at + 1), |key| format!("'{key}'")))
            }));
        }
    }
    places
}

/// Whether the pack's rules make sense, expressions and warnings with them. Nothing is stored or opened for it.
///
/// # Errors
/// Every mistake, with the rule that it is in.
fn check_rules(pack: &Pack) -> anyhow::Result<()> {
    let declared = declared_rules(pack)?;
    // A receiver on this machine may be named: see `City::open`.
    let errors = rules::check_file(&declared, &Allowed::new(["127.0.0.1".to_owned()]));
    if errors.is_empty() {
        return Ok(());
    }
    let places = places(pack);
    let line = |e: &kernel::FieldError| {
        let mut parts = e.field.trim_start_matches('/').splitn(3, '/');
        let (table, at, field) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let found = at.parse::<usize>().ok().and_then(|at| places.get(table)?.get(at));
        let place = found.map_or_else(|| format!("rules: [[{table}]]"), |(file, key)| format!("{file}: {table} {key}"));
        format!("{place}, {field}: {}", e.detail)
    };
    let lines: Vec<String> = errors.iter().map(line).collect();
    anyhow::bail!("{} mistakes:\n{}", lines.len(), lines.join("\n"))
}

/// The fences of the pack, and those that officers have drawn.
pub async fn open_fences(pack: &Pack, alarms: &Alarms) -> anyhow::Result<Fences> {
    let (file, names, alarms) = (districts_file(pack), pack.city.district.clone(), alarms.clone());
    let open = move || anyhow::Ok(Fences::open(alarms, outlines::districts(file.as_deref(), &names)?)?);
    let fences = tokio::task::spawn_blocking(open).await??;
    apply_fences(pack, &fences).await?;
    Ok(fences)
}

fn districts_file(pack: &Pack) -> Option<std::path::PathBuf> {
    pack.city.map.districts.as_ref().map(|f| pack.folder.root.join(f.get_ref()))
}

fn declared_fences(pack: &Pack) -> anyhow::Result<Vec<moving::fence::FenceDeclaration>> {
    let mut declared = Vec::new();
    for file in &pack.fences {
        let form: moving::fences::FenceFile =
            file.table.clone().try_into().with_context(|| file.source.name.clone())?;
        let strange = form.fence.iter().find(|f| !pack.tenants.contains(&f.tenant));
        if let Some(fence) = strange {
            anyhow::bail!("{}: '{}': there is no tenant '{}'", file.source.name, fence.key, fence.tenant);
        }
        if let Some(fence) = form.fence.iter().find(|f| f.public && pack.sealed.contains(&f.tenant)) {
            anyhow::bail!("{}: '{}' would be public, and '{}' is sealed", file.source.name, fence.key, fence.tenant);
        }
        declared.extend(form.fence);
    }
    Ok(declared)
}

/// Whether the pack's fences make sense, and the rules that name them.
///
/// # Errors
/// Every mistake, with the declaration that it is in.
fn check_fences(pack: &Pack) -> anyhow::Result<()> {
    let districts = outlines::districts(districts_file(pack).as_deref(), &pack.city.district)?;
    let declared = declared_fences(pack)?;
    let keys: Vec<String> = declared.iter().map(|f| f.key.clone()).collect();
    let line = |e: &kernel::FieldError| {
        let (at, field) = e.field.trim_start_matches('/').split_once('/').unwrap_or_default();
        let key = at.parse::<usize>().ok().and_then(|at| keys.get(at)).map_or("", String::as_str);
        format!("fences: '{key}', {field}: {}", e.detail)
    };
    let mut lines = Vec::new();
    let fences = moving::fences::check_all(declared, &districts).unwrap_or_else(|errors| {
        lines.extend(errors.iter().map(line));
        Vec::new()
    });
    // What is wrong with a rule by itself is told by `check_rules`.
    if lines.is_empty() {
        for declared in declared_rules(pack)?.rule {
            let key = declared.key.clone();
            let Ok(rule) = rules::model::Rule::new(declared) else { continue };
            let missing = moving::fences::missing(&rule, &fences);
            lines.extend(
                missing.iter().map(|e| format!("rule '{key}', {}: {}", e.field.trim_start_matches('/'), e.detail)),
            );
        }
    }
    anyhow::ensure!(lines.is_empty(), "{} mistakes:\n{}", lines.len(), lines.join("\n"));
    Ok(())
}

/// Makes the fences those of the pack.
pub async fn apply_fences(pack: &Pack, fences: &Fences) -> anyhow::Result<()> {
    let applied = fences.apply(&Caller::system("pack"), declared_fences(pack)?).await.context("the pack's fences")?;
    if applied.written + applied.removed > 0 {
        tracing::info!(written = applied.written, removed = applied.removed, "the pack's fences were applied");
    }
    Ok(())
}

/// Makes rules and recipients those of the pack.
pub async fn apply_rules(pack: &Pack, rules: &Rules) -> anyhow::Result<()> {
    let rules::model::RuleFile { rule: declared, recipient: recipients, silencing, inhibit } = declared_rules(pack)?;
    let caller = Caller::system("pack");
    let applied = rules.apply(&caller, declared, recipients).await.context("the pack's rules")?;
    rules.apply_duty(&caller, silencing, inhibit).await.context("what the pack keeps quiet")?;
    if applied.written + applied.removed > 0 {
        tracing::info!(written = applied.written, removed = applied.removed, "the pack's rules were applied");
    }
    Ok(())
}

fn declared_derived(pack: &Pack) -> anyhow::Result<Vec<derived::model::Declaration>> {
    let mut declared = Vec::new();
    for file in &pack.derived {
        let form: derived::model::DerivedFile =
            file.table.clone().try_into().with_context(|| file.source.name.clone())?;
        declared.extend(form.derived);
    }
    Ok(declared)
}

/// Whether what the pack derives makes sense, formulas and tables with it.
///
/// # Errors
/// Every mistake, with the declaration that it is in.
fn check_derived(pack: &Pack) -> anyhow::Result<()> {
    let Err(problem) = derived::model::check_all(declared_derived(pack)?) else { return Ok(()) };
    let lines: Vec<String> = problem.errors.iter().map(|e| format!("derived: {}: {}", e.field, e.detail)).collect();
    anyhow::bail!("{} mistakes:\n{}", lines.len(), lines.join("\n"))
}

/// Makes what is derived that of the pack.
pub async fn apply_derived(pack: &Pack, derived: &Derived) -> anyhow::Result<()> {
    let applied = derived.apply(&Caller::system("pack"), declared_derived(pack)?).await;
    let applied = applied.context("what the pack derives")?;
    if applied.written + applied.removed > 0 {
        tracing::info!(written = applied.written, removed = applied.removed, "what the pack derives was applied");
    }
    Ok(())
}

/// What the pack says of how long Observations are kept.
///
/// # Errors
/// The file whose form is wrong.
fn declared_retention(pack: &Pack) -> anyhow::Result<Vec<retention::model::Declaration>> {
    let mut all = Vec::new();
    for file in &pack.retention {
        let form: retention::model::RetentionFile =
            file.table.clone().try_into().with_context(|| file.source.name.clone())?;
        all.extend(form.retention);
    }
    Ok(all)
}

/// Whether what the pack says of retention makes sense, and is of its departments and systems.
///
/// # Errors
/// Every mistake, with the declaration that it is in.
fn check_retention(pack: &Pack) -> anyhow::Result<()> {
    let declared = declared_retention(pack)?;
    let named = |n: &str| n.parse().ok().and_then(|n: usize| declared.get(n)).map_or("", |d| d.key.as_str());
    let mut lines: Vec<String> = retention::model::check_all(&declared)
        .into_iter()
        .map(|e| {
            let mut parts = e.field.trim_start_matches("/retention/").splitn(2, '/');
            let (n, field) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            format!("retention: '{}', {field}: {}", named(n), e.detail)
        })
        .collect();
    for declaration in &declared {
        if !pack.tenants.contains(&declaration.tenant) {
            lines
                .push(format!("retention: '{}', tenant: there is no tenant '{}'", declaration.key, declaration.tenant));
        }
        let strange = declaration.systems.iter().filter(|s| !pack.city.system.iter().any(|k| k.key.get_ref() == *s));
        lines.extend(strange.map(|s| format!("retention: '{}', systems: there is no system '{s}'", declaration.key)));
    }
    anyhow::ensure!(lines.is_empty(), "{} mistakes:\n{}", lines.len(), lines.join("\n"));
    Ok(())
}

/// Makes what is kept that of the pack. What would delete more waits for an officer.
pub async fn apply_retention(pack: &Pack, retention: &Retention) -> anyhow::Result<()> {
    check_retention(pack)?;
    let applied = retention.apply(&Caller::system("pack"), declared_retention(pack)?).await;
    let applied = applied.context("what the pack keeps")?;
    if applied.written + applied.removed > 0 {
        tracing::info!(written = applied.written, removed = applied.removed, "what the pack keeps was applied");
    }
    Ok(())
}

fn declared_dashboards(pack: &Pack) -> anyhow::Result<dashboards::model::DashboardFile> {
    let mut all = dashboards::model::DashboardFile::default();
    for file in &pack.dashboards {
        let form: dashboards::model::DashboardFile =
            file.table.clone().try_into().with_context(|| file.source.name.clone())?;
        all.dashboard.extend(form.dashboard);
        all.scale.extend(form.scale);
    }
    Ok(all)
}

/// Whether the pack's dashboards make sense, and are of its departments, roles and systems.
///
/// # Errors
/// Every mistake, with the dashboard that it is in.
fn check_dashboards(pack: &Pack) -> anyhow::Result<()> {
    let declared = declared_dashboards(pack)?;
    let mut lines = Vec::new();
    let systems: Vec<&String> = pack.city.system.iter().map(|s| s.key.get_ref()).collect();
    for d in &declared.dashboard {
        let key = &d.key;
        let tenants = std::iter::once(&d.tenant).chain(d.tiles.iter().filter_map(|t| t.tenant.as_ref()));
        let strange = tenants.filter(|tenant| !pack.tenants.contains(tenant));
        lines.extend(strange.map(|tenant| format!("dashboards: '{key}': there is no tenant '{tenant}'")));
        let roles = d.roles.iter().filter(|role| !pack.city.role.iter().any(|r| r.key.get_ref() == *role));
        lines.extend(roles.map(|role| format!("dashboards: '{key}', roles: there is no role '{role}'")));
        let asked = d.tiles.iter().enumerate().filter_map(|(nth, t)| Some((nth, t.select.system.as_ref()?)));
        let asked = asked.filter(|(_, system)| !systems.contains(system));
        lines.extend(asked.map(|(nth, system)| {
            format!("dashboards: '{key}', tile/{nth}/select/system: there is no system '{system}'")
        }));
    }
    let errors = dashboards::model::check_file(&declared, &|tenant| pack.sealed.contains(tenant));
    lines.extend(errors.iter().map(|e| {
        let nth = e.field.split('/').nth(2).and_then(|n| n.parse::<usize>().ok());
        let key = nth.filter(|_| e.field.starts_with("/dashboard")).and_then(|n| declared.dashboard.get(n));
        let key = key.map_or_else(String::new, |d| format!("'{}', ", d.key));
        format!("dashboards: {key}{}: {}", e.field.trim_start_matches('/'), e.detail)
    }));
    anyhow::ensure!(lines.is_empty(), "{} mistakes:\n{}", lines.len(), lines.join("\n"));
    Ok(())
}

/// Makes the declared dashboards those of the pack.
pub async fn apply_dashboards(pack: &Pack, dashboards: &Dashboards) -> anyhow::Result<()> {
    let applied = dashboards.apply(&Caller::system("pack"), declared_dashboards(pack)?).await;
    let applied = applied.context("the pack's dashboards")?;
    if applied.written + applied.removed > 0 {
        tracing::info!(written = applied.written, removed = applied.removed, "the pack's dashboards were applied");
    }
    Ok(())
}

/// Makes connectors those of the pack.
pub async fn apply_connectors(pack: &Pack, connect: &Connect) -> anyhow::Result<()> {
    let mut declared = Vec::new();
    for file in &pack.connectors {
        let form: connect::ConnectorFile = file.table.clone().try_into().with_context(|| file.source.name.clone())?;
        declared.extend(form.connector);
    }
    connect.apply(&Caller::system("pack"), declared).await.context("the pack's connectors")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packs_doors_are_checked_with_it() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packs/hong-kong");
        let mut pack = Pack::load(&root).unwrap_or_else(|m| panic!("{m:?}"));
        check_ingest(&pack).expect("the pack's own doors");
        let file =
            pack.ingest.iter_mut().find(|f| f.table.to_string().contains("toilet-modules")).expect("lorawan.toml");
        let text = toml::to_string(&file.table).expect("TOML").replace("fehd", "nobody").replace("24e124", "24e1");
        file.table = toml::from_str(&text).expect("TOML");
        let error = check_ingest(&pack).expect_err("two mistakes").to_string();
        assert!(error.contains("there is no tenant 'nobody'") && error.contains("a DevEUI of 16"), "{error}");
    }

    #[test]
    fn a_packs_dashboards_are_checked_with_it() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packs/hong-kong");
        for (from, to, wanted) in [
            ("key = \"toilets\"", "key = \"Toilets\"", "key: use 1 to 80"),
            ("system = \"toilet\"", "system = \"toilte\"", "there is no system 'toilte'"),
            ("tenant = \"fehd\"", "tenant = \"fhed\"", "there is no tenant 'fhed'"),
            ("tenant = \"fehd\"", "tenant = \"csd\"", "'csd' is sealed"),
            ("kind = \"heat\"", "kind = \"heet\"", "unknown variant `heet`"),
        ] {
            let mut pack = Pack::load(&root).unwrap_or_else(|m| panic!("{m:?}"));
            check_dashboards(&pack).expect("the pack's own dashboards");
            let mut changed = 0;
            for file in &mut pack.dashboards {
                let text = toml::to_string(&file.table).expect("TOML");
                let other = text.replace(from, to);
                changed += usize::from(other != text);
                file.table = toml::from_str(&other).expect("TOML");
            }
            assert!(changed > 0, "{from} is in the pack");
            let error = format!("{:#}", check_dashboards(&pack).expect_err(to));
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn a_packs_rules_are_checked_with_it() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packs/hong-kong");
        let mut pack = Pack::load(&root).unwrap_or_else(|m| panic!("{m:?}"));
        check_rules(&pack).expect("the pack's own rules");
        check_derived(&pack).expect("what the pack derives");
        check_fences(&pack).expect("the pack's fences");
        check_retention(&pack).expect("what the pack keeps");
        let file = pack.rules.iter_mut().find(|f| f.table.to_string().contains("flood-rising")).expect("flood.toml");
        let text = toml::to_string(&file.table).expect("TOML").replace("rate * 600.0", "rat * 600.0");
        file.table = toml::from_str(&text).expect("TOML");
        let error = check_rules(&pack).expect_err("a misspelt name").to_string();
        let wanted = "rule 'flood-rising', when/expression: rule 'flood-rising', column 1: 'rat' is not known here";
        assert!(error.contains(wanted) && error.contains("flood.toml: "), "{error}");
    }

    /// What is on duty beside the rules: each mistake with its file, its table and the field.
    #[test]
    fn what_a_pack_says_of_duty_is_checked_with_it() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packs/hong-kong");
        for (from, to, wanted) in [
            ("never = [\"Extreme\"]", "never = [\"Extreem\"]", "Extreem"),
            ("longest = 604800", "longest = 1", "silencing no. 1, longest: 60 to"),
            (
                "while = [\"flood-high-water\"]",
                "while = [\"flood-hihg-water\"]",
                "inhibit no. 1, while: no rule has the key",
            ),
            ("from = \"08:00\"", "from = \"8:00\"", "'8:00' is no time of day"),
            ("after = 900", "after = 0", "rule 'flood-high-water', escalate/0/after: 1 to"),
            (
                "notify = [\"dsd-duty-engineer\"]",
                "notify = [\"dsd-nobody\"]",
                "escalate/0/notify/0: no recipient has the key 'dsd-nobody'",
            ),
        ] {
            let mut pack = Pack::load(&root).unwrap_or_else(|m| panic!("{m:?}"));
            let mut changed = 0;
            for file in &mut pack.rules {
                let text = toml::to_string(&file.table).expect("TOML");
                // Written out again, a table may stand as one line or as several.
                let other = text.replace(from, to);
                changed += usize::from(other != text);
                file.table = toml::from_str(&other).expect("TOML");
            }
            assert!(changed > 0, "{from} is in the pack");
            let error = format!("{:#}", check_rules(&pack).expect_err(to));
            assert!(error.contains(wanted) && error.contains(".toml"), "{error}");
        }
    }
}
