use proptest::prelude::*;

use super::*;

fn text(en: &str) -> Text {
    Text::new(en, "甲", "甲")
}
fn tenant(slug: &str) -> Tenant {
    Tenant::parse(slug).expect("slug")
}

fn dashboard(tiles: Vec<Tile>) -> Declaration {
    Declaration {
        key: "toilets".to_owned(),
        tenant: tenant("fehd"),
        title: text("Toilets"),
        about: None,
        audience: Audience::Public,
        roles: BTreeSet::new(),
        refresh: 15,
        tiles,
    }
}

fn value() -> Tile {
    let select = Selection { system: Some("toilet".to_owned()), ..Selection::default() };
    Tile { select, ..Tile::new(Kind::Value, text("Ammonia")) }
}

fn fields(d: &Declaration) -> Vec<String> {
    check(d, &|t| t.as_str() == "csd").into_iter().map(|e| e.field).collect()
}

#[test]
fn each_mistake_names_its_field() {
    assert!(fields(&dashboard(vec![value()])).is_empty());
    let tile = |change: &dyn Fn(&mut Tile)| {
        let mut tile = value();
        change(&mut tile);
        fields(&dashboard(vec![value(), tile]))
    };
    type Break<'a> = (&'a str, &'a dyn Fn(&mut Tile));
    let cases: [Break<'_>; 12] = [
        ("/tile/1/select", &|t| t.select = Selection { district: Some("Sha Tin".into()), ..Selection::default() }),
        ("/tile/1/width", &|t| t.width = 5),
        ("/tile/1/title/zh-hant", &|t| t.title.zh_hant = None),
        ("/tile/1/weeks", &|t| t.weeks = Some(2)),
        ("/tile/1/column", &|t| t.kind = Kind::Status),
        ("/tile/1/text", &|t| t.text = Some(text("x"))),
        ("/tile/1/most", &|t| t.most = Some(3)),
        ("/tile/1/levels/1/at", &|t| {
            t.levels = vec![
                Level { at: Some(2.0), is: None, state: Standing::Good, word: None },
                Level { at: Some(2.0), is: None, state: Standing::Alarm, word: None },
            ];
        }),
        ("/tile/1/levels/0/state", &|t| {
            t.levels = vec![Level { at: None, is: None, state: Standing::Offline, word: None }];
        }),
        ("/tile/1/levels/0/at", &|t| {
            t.levels = vec![Level { at: Some(f64::NAN), is: None, state: Standing::Good, word: None }];
        }),
        ("/tile/1/select/system", &|t| t.select.system = Some("x\u{7}".into())),
        ("/tile/1/compare", &|t| t.compare = false),
    ];
    for (field, change) in cases {
        assert_eq!(tile(change), [field]);
    }
    let column = Column { observed_property: "a".into(), title: None, levels: Vec::new(), of: None, left: true };
    let list = Tile { columns: vec![column.clone(), column], ..Tile { kind: Kind::Status, ..value() } };
    assert_eq!(
        fields(&dashboard(vec![list])),
        ["/tile/0/column/0/left", "/tile/0/column/1/observed_property", "/tile/0/column/1/left"]
    );
    assert_eq!(fields(&Declaration { key: "A".into(), ..dashboard(Vec::new()) }), ["/key"]);
    assert_eq!(fields(&Declaration { key: "dsd.x".into(), ..dashboard(Vec::new()) }), ["/key"], "another's");
    assert!(fields(&Declaration { key: "fehd.x".into(), ..dashboard(Vec::new()) }).is_empty());
    assert_eq!(fields(&Declaration { refresh: 1, ..dashboard(Vec::new()) }), ["/refresh"]);
    assert_eq!(fields(&Declaration { roles: ["x".to_owned()].into(), ..dashboard(Vec::new()) }), ["/roles"]);
    assert_eq!(fields(&Declaration { tenant: tenant("csd"), ..dashboard(Vec::new()) }), ["/audience"]);
    assert_eq!(fields(&dashboard(vec![value(); MAX_TILES + 1])), ["/tile"]);
}

#[test]
fn a_file_has_no_key_twice_and_no_officers_key() {
    let one = dashboard(vec![value()]);
    let scale = Scale { observed_property: "ammonia".into(), levels: Vec::new() };
    let made = Declaration { key: "fehd.x".into(), tiles: Vec::new(), ..one.clone() };
    let file = DashboardFile { dashboard: vec![one.clone(), one, made], scale: vec![scale.clone(), scale] };
    let errors = check_file(&file, &|_| false);
    let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "/dashboard/1/key",
            "/dashboard/2/key",
            "/dashboard/2/tile",
            "/scale/0/levels",
            "/scale/1/levels",
            "/scale/1/observed_property"
        ]
    );
}

#[test]
fn an_unknown_field_is_refused() {
    let toml = "[[dashboard]]\nkey = 'a'\ntenant = 'fehd'\ntitle = 'A'\nrefesh = 3\n";
    let error = toml::from_str::<DashboardFile>(toml).expect_err("misspelt").to_string();
    assert!(error.contains("refesh"), "{error}");
}

#[test]
fn a_result_is_at_the_last_level_that_it_has_reached() {
    let levels = parse_levels("2.5 warning, 3.5 alarm").expect("levels");
    let state = |n: f64| judge(&levels, &ResultValue::Number(n)).map(|l| l.state);
    assert_eq!(
        [-1e9, 2.4, 2.5, 3.5].map(state),
        [Standing::Good, Standing::Good, Standing::Warning, Standing::Alarm].map(Some)
    );
    let open = vec![Level { at: Some(1.0), is: None, state: Standing::Alarm, word: None }];
    assert_eq!(judge_number(&open, 0.0), None, "below the first that says where it begins nothing is said");
    let words = parse_levels("fault alarm, open good").expect("levels");
    let raw = |t: &str| ResultValue::Json(serde_json::value::RawValue::from_string(t.to_owned()).expect("json").into());
    assert_eq!(judge(&words, &raw("\"fault\"")).map(|l| l.state), Some(Standing::Alarm));
    for other in ["\"other\"", "3", "{}", "null"] {
        assert_eq!(judge(&words, &raw(other)), None);
    }
}

#[test]
fn nothing_has_no_sum() {
    for combine in Combine::ALL {
        assert_eq!(combine.of([]), None);
        assert_eq!(combine.of([f64::NAN]), None);
    }
    let of = |c: Combine| c.of([1.0, 2.0, 6.0]);
    assert_eq!(Combine::ALL.map(of), [3.0, 1.0, 6.0, 9.0, 9.0].map(Some));
}

proptest! {
    /// Whatever is typed is either understood or named; what is understood reads back as it was.
    #[test]
    fn levels_read_back(text in "\\PC{0,80}") {
        if let Ok(levels) = parse_levels(&text) {
            prop_assert!(levels.len() <= MAX_LEVELS + 1);
            let again = parse_levels(&show_levels(&levels)).expect("what is shown is understood");
            prop_assert_eq!(show_levels(&again), show_levels(&levels));
        }
    }
    #[test]
    fn typed_numbers_are_levels(numbers in proptest::collection::btree_set(-1_000i32..1_000, 1..6), which in 0usize..4) {
        let state = Standing::LEVELS[which].name();
        let typed: Vec<String> = numbers.iter().map(|n| format!("{n} {state}")).collect();
        let levels = parse_levels(&typed.join(" , ")).expect("levels");
        prop_assert_eq!(show_levels(&levels), typed.join(", "));
        let mut wrong = Wrong(Vec::new());
        wrong.levels(&levels, "");
        prop_assert!(wrong.0.is_empty(), "{:?}", wrong.0);
    }
}
