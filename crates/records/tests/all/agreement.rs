//! Random commands have the same outcome on both engines.

use proptest::{prelude::*, test_runner::TestRunner};
use records::{Error, Records, Tx, params};

use crate::support::{Engine, Place, demo};

#[derive(Clone, Debug)]
enum Step {
    Insert(u8, i64),
    Upsert(u8, i64),
    Add(u8, i64),
    Delete(u8),
    Note(Option<u8>, String, f64),
    Sum,
    /// These as a part of their own.
    Attempt(Vec<Step>),
    Refuse,
    Panic,
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0_u8..4;
    let leaf = prop_oneof![
        4 => (id.clone(), -2_i64..20).prop_map(|(id, n)| Step::Insert(id, n)),
        2 => (id.clone(), -2_i64..20).prop_map(|(id, n)| Step::Upsert(id, n)),
        4 => (id.clone(), -9_i64..20).prop_map(|(id, n)| Step::Add(id, n)),
        2 => id.clone().prop_map(Step::Delete),
        3 => (proptest::option::of(id), "[a-zé雨'\\\\%_\"$;-]{0,6}", -1e9..1e9)
            .prop_map(|(id, note, weight)| Step::Note(id, note, weight)),
        2 => Just(Step::Sum),
        1 => Just(Step::Refuse),
        1 => Just(Step::Panic),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| proptest::collection::vec(inner, 0..3).prop_map(Step::Attempt))
}

/// What a command answers, in words that do not depend on the engine.
fn outcome(result: Result<Vec<i64>, Error>) -> String {
    match result {
        Ok(numbers) => format!("{numbers:?}"),
        Err(error) => format!("{error:?}").split('(').next().unwrap().to_owned(),
    }
}

fn run(tx: &mut Tx<'_>, steps: &[Step], seen: &mut Vec<i64>) -> Result<(), Error> {
    for step in steps {
        let changed = match step {
            Step::Insert(id, n) => {
                tx.execute("INSERT INTO demo_counter (id, n) VALUES ($1, $2)", params![id.to_string(), n])?
            }
            Step::Upsert(id, n) => {
                let sql = "INSERT INTO demo_counter (id, n) VALUES ($1, $2)
                           ON CONFLICT (id) DO UPDATE SET n = demo_counter.n + excluded.n RETURNING n";
                tx.query_one(sql, params![id.to_string(), n], |row| row.get::<i64>(0))? as u64
            }
            Step::Add(id, n) => {
                tx.execute("UPDATE demo_counter SET n = n + $2 WHERE id = $1", params![id.to_string(), n])?
            }
            Step::Delete(id) => tx.execute("DELETE FROM demo_counter WHERE id = $1", params![id.to_string()])?,
            Step::Note(id, note, weight) => {
                let sql = "INSERT INTO demo_note (counter, note, weight, raw) VALUES ($1, $2, $3, $4)";
                tx.execute(sql, params![id.map(|id| id.to_string()), note, weight, note.as_bytes()])?
            }
            Step::Sum => {
                let sql = "SELECT COALESCE(CAST(SUM(n) AS BIGINT), 0) FROM demo_counter WHERE id LIKE '%' AND n > $1";
                tx.query_one(sql, params![0], |row| row.get::<i64>(0))? as u64
            }
            Step::Attempt(steps) => {
                let mut inner = Vec::new();
                let result = tx.attempt(|tx| run(tx, steps, &mut inner));
                if result.is_ok() { inner.len() as u64 } else { 1_000 }
            }
            Step::Refuse => return Err(Error::NoRow),
            // Without the hook that prints each of them.
            Step::Panic => std::panic::resume_unwind(Box::new("as asked")),
        };
        seen.push(changed as i64);
    }
    Ok(())
}

fn contents(records: &Records) -> Vec<String> {
    let rows = records.read_blocking(|read| {
        let mut rows = read.query("SELECT id, n FROM demo_counter ORDER BY id", &[], |row| {
            Ok(format!("{:?} {:?}", row.value(0)?, row.value(1)?))
        })?;
        let sql = "SELECT counter, note, weight, raw FROM demo_note ORDER BY note, weight, counter";
        rows.extend(read.query(sql, &[], |row| {
            Ok(format!("{:?} {:?} {:?} {:?}", row.value(0)?, row.value(1)?, row.value(2)?, row.value(3)?))
        })?);
        Ok(rows)
    });
    rows.unwrap_or_else(|error: Error| panic!("{error}"))
}

#[test]
fn both_engines_agree_on_any_commands() {
    let places = [Place::new(Engine::Sqlite), Place::new(Engine::Postgres)];
    let both: Vec<Records> = places.iter().map(demo).collect();
    let commands = proptest::collection::vec(proptest::collection::vec(step(), 1..5), 1..12);
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() });
    let result = runner.run(&commands, |commands| {
        for records in &both {
            let cleared = records.write_blocking(|tx| {
                tx.execute("DELETE FROM demo_note", &[])?;
                tx.execute("DELETE FROM demo_counter", &[])
            });
            cleared.unwrap_or_else(|error: Error| panic!("{error}"));
        }
        for steps in commands {
            let outcomes = both.iter().map(|records| {
                let steps = steps.clone();
                outcome(records.write_blocking(move |tx| {
                    let mut seen = Vec::new();
                    run(tx, &steps, &mut seen).map(|()| seen)
                }))
            });
            let outcomes: Vec<String> = outcomes.collect();
            prop_assert_eq!(&outcomes[0], &outcomes[1], "after {:?}", steps);
        }
        prop_assert_eq!(contents(&both[0]), contents(&both[1]));
        Ok(())
    });
    result.unwrap();
}
